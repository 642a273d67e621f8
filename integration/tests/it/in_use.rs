//! Drives in use stay out of a pool that would take them all: a good dozen of them beside one blank drive, each refused
//! with its words through REST and kubectl, and not one byte of them changed. (Every kind of use there is goes through
//! the agent alone in its own tests; this is the whole way.)

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ring::digest::{Context, SHA256};
use rustix::fs::{SeekFrom, seek};
use serde_json::Value;
use smart_storage_integration::{
    Cluster, LoopDrive, MIB, Need, Setup, cluster::NODE, drives::run, eventually, needs::INSTANCE, skipped,
};

use crate::reading::{complaints, list, text};

const SIZE: u64 = 600 * MIB;
const BLOCK: u64 = 4096;
const POOL: &str = "greedy";

/// Fills the file before it is attached.
type Fill = fn(&Path) -> Result<()>;
/// Uses the drive once it is attached; what is answered holds it until it is dropped.
type Use = fn(&LoopDrive, &Path) -> Result<Held>;

/// What keeps a drive in use.
#[derive(Default)]
struct Held {
    undo: Vec<Vec<String>>,
    child: Option<Child>,
}

impl Held {
    fn until(mut self, command: &[&str]) -> Self {
        self.undo
            .push(command.iter().map(|word| (*word).to_owned()).collect());
        self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        for command in self.undo.iter().rev() {
            if let [program, arguments @ ..] = command.as_slice() {
                let _ = Command::new(program).args(arguments).output();
            }
        }
    }
}

struct InUse {
    name: &'static str,
    fill: Fill,
    used: Option<Use>,
    /// Has to be said by its use or its refusals.
    says: &'static str,
}

impl InUse {
    /// So many bytes nobody writes to. To swap that is on the kernel itself does, behind the header.
    fn still(&self) -> u64 {
        if self.name == "swap-on" { BLOCK } else { SIZE }
    }
}

fn program(program: &str, arguments: &[&str], file: &Path) -> Result<()> {
    run(Command::new(program).args(arguments).arg(file))?;
    Ok(())
}

fn put(file: &Path, at: u64, bytes: &[u8]) -> Result<()> {
    Ok(fs::OpenOptions::new()
        .write(true)
        .open(file)?
        .write_all_at(bytes, at)?)
}

fn partition_table(file: &Path, label: &str) -> Result<()> {
    let mut child = Command::new("sfdisk")
        .args(["-q", "--no-reread", "--no-tell-kernel"])
        .arg(file)
        .stdin(Stdio::piped())
        .spawn()
        .context("sfdisk")?;
    let text = format!("label: {label}\nstart=2048, size=40960\n");
    std::io::Write::write_all(&mut child.stdin.take().context("no stdin")?, text.as_bytes())?;
    ensure!(child.wait()?.success(), "sfdisk");
    Ok(())
}

fn mount_point(folder: &Path, name: &str) -> Result<String> {
    let path = folder.join("foreign").join(name);
    fs::create_dir_all(&path)?;
    Ok(path.to_string_lossy().into_owned())
}

fn nothing(_: &Path) -> Result<()> {
    Ok(())
}

fn ext4(file: &Path) -> Result<()> {
    program("mkfs.ext4", &["-q", "-F"], file)
}

const IN_USE: &[InUse] = &[
    InUse {
        name: "gpt",
        fill: |file| partition_table(file, "gpt"),
        used: None,
        says: "GPT partition table with 1 partition",
    },
    InUse {
        name: "gpt-tail",
        fill: |file| {
            partition_table(file, "gpt")?;
            put(file, 0, &vec![0; 1 << 20])
        },
        used: None,
        says: "only the backup at the end is left",
    },
    InUse {
        name: "mbr",
        fill: |file| partition_table(file, "dos"),
        used: None,
        says: "MBR partition table with 1 partition",
    },
    InUse {
        name: "ext4",
        fill: ext4,
        used: None,
        says: "ext4 file system",
    },
    InUse {
        name: "xfs-headless",
        fill: |file| {
            program("mkfs.xfs", &["-q", "-f"], file)?;
            put(file, 0, &vec![0; 4 << 20])
        },
        used: None,
        says: "XFS file system (a copy of its superblock",
    },
    InUse {
        name: "swap",
        fill: |file| program("mkswap", &["-q"], file),
        used: None,
        says: "swap area",
    },
    InUse {
        name: "lvm",
        fill: |file| put(file, 512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001"),
        used: None,
        says: "LVM physical volume",
    },
    InUse {
        name: "luks",
        fill: |file| put(file, 0, b"LUKS\xba\xbe\0\x02"),
        used: None,
        says: "LUKS2 encrypted volume",
    },
    InUse {
        name: "mayastor",
        fill: |file| put(file, 0, b"SPDKBLOB"),
        used: None,
        says: "SPDK blobstore (a Mayastor pool)",
    },
    InUse {
        name: "ceph",
        fill: |file| put(file, 0, b"bluestore block device\n"),
        used: None,
        says: "Ceph BlueStore",
    },
    InUse {
        name: "noise",
        fill: |file| put(file, SIZE - 5000, &[1]),
        used: None,
        says: "unknown data at byte 629140600",
    },
    InUse {
        name: "mounted",
        fill: ext4,
        used: Some(|drive, folder| {
            let at = mount_point(folder, "mounted")?;
            run(Command::new("mount").args(["-o", "ro", &format!("/dev/{}", drive.device), &at]))?;
            Ok(Held::default().until(&["umount", &at]))
        }),
        says: "ext4 mounted on ",
    },
    InUse {
        name: "minio",
        fill: |file| program("mkfs.xfs", &["-q", "-f"], file),
        used: Some(|drive, folder| {
            let at = mount_point(folder, "minio")?;
            run(Command::new("mount").args([&format!("/dev/{}", drive.device), &at]))?;
            let held = Held::default().until(&["umount", &at]);
            fs::create_dir(Path::new(&at).join(".minio.sys"))?;
            fs::write(Path::new(&at).join(".minio.sys/format.json"), "{}")?;
            // From here on its bytes stand still.
            run(Command::new("mount").args(["-o", "remount,ro", &at]))?;
            Ok(held)
        }),
        says: "xfs mounted on ",
    },
    InUse {
        name: "elsewhere",
        fill: ext4,
        used: Some(|drive, folder| {
            let at = mount_point(folder, "elsewhere")?;
            let script = format!(
                "mount -o ro /dev/{} '{at}' && echo ready && exec sleep 600",
                drive.device
            );
            let mut child = Command::new("unshare")
                .args(["--mount", "--propagation", "private", "sh", "-c", &script])
                .stdout(Stdio::piped())
                .spawn()?;
            let mut line = String::new();
            BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut line)?;
            let mut held = Held::default();
            held.child = Some(child);
            ensure!(line == "ready\n", "unshare: {line:?}");
            Ok(held)
        }),
        says: "in another mount namespace",
    },
    InUse {
        name: "swap-on",
        fill: |file| program("mkswap", &["-q"], file),
        used: Some(|drive, _| {
            let dev = format!("/dev/{}", drive.device);
            run(Command::new("swapon").args(["-p", "0", &dev]))?;
            Ok(Held::default().until(&["swapoff", &dev]))
        }),
        says: "swap in use",
    },
    InUse {
        name: "below-a-loop",
        fill: nothing,
        used: Some(|drive, _| {
            let dev = format!("/dev/{}", drive.device);
            let upper = run(Command::new("losetup").args(["--find", "--show", &dev]))?;
            Ok(Held::default().until(&["losetup", "--detach", upper.trim()]))
        }),
        says: "loop device loop",
    },
    InUse {
        name: "read-only",
        fill: nothing,
        used: Some(|drive, _| {
            let dev = format!("/dev/{}", drive.device);
            run(Command::new("blockdev").args(["--setro", &dev]))?;
            Ok(Held::default().until(&["blockdev", "--setrw", &dev]))
        }),
        says: "the kernel has it read-only",
    },
];

/// A checksum of the drive's first `bytes`, once the kernel has written out what it held back. Holes of its file are not
/// read: a block of zeros counts as much as one that was never written.
fn checksum(drive: &LoopDrive, bytes: u64) -> Result<Vec<u8>> {
    File::open(format!("/dev/{}", drive.device))?.sync_all()?;
    let file = File::open(&drive.file)?;
    let mut digest = Context::new(&SHA256);
    let mut block = vec![0; BLOCK as usize];
    let mut at = 0;
    while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(data))?;
        for number in data / BLOCK..at.min(bytes).div_ceil(BLOCK) {
            file.read_exact_at(&mut block, number * BLOCK)?;
            if block.iter().any(|byte| *byte != 0) {
                digest.update(&number.to_le_bytes());
                digest.update(&block);
            }
        }
    }
    Ok(digest.finish().as_ref().to_vec())
}

/// Everything that a drive says against itself, as one text.
fn words(drive: &Value) -> String {
    let refusals = list(drive, "/refusals").iter().filter_map(Value::as_str);
    let holder = text(drive, "/use/holder").unwrap_or_default();
    refusals.chain([holder]).collect::<Vec<_>>().join("; ")
}

fn image(folder: &Path, name: &str, fill: Fill) -> Result<PathBuf> {
    let file = folder.join(format!("{name}.img"));
    File::create(&file)?.set_len(SIZE)?;
    fill(&file)?;
    Ok(file)
}

/// All drives as REST and as the StorageNode have them.
async fn pictures(cluster: &Cluster) -> Result<[(&'static str, Vec<Value>); 2]> {
    let rest = cluster.drives().await?;
    let node = cluster.object(&format!("storagenodes/{NODE}")).await?;
    Ok([
        ("GET /v1/nodes", rest),
        ("StorageNode", list(&node, "/status/drives").to_vec()),
    ])
}

/// Every drive in use is there, says why, and is claimed by nobody.
async fn all_are_refused(cluster: &Cluster, drives: &[(&InUse, LoopDrive)]) -> Result<()> {
    for (door, seen) in pictures(cluster).await? {
        for (case, drive) in drives {
            let found = seen
                .iter()
                .find(|seen| text(seen, "/device").is_ok_and(|device| device == drive.device))
                .with_context(|| format!("{door} does not show {}", case.name))?;
            ensure!(
                found.get("claimable") == Some(&Value::Bool(false)),
                "{door}: {} is claimable: {found}",
                case.name
            );
            ensure!(
                words(found).contains(case.says),
                "{door}: {} says {:?}, not {:?}",
                case.name,
                words(found),
                case.says
            );
            ensure!(
                text(found, "/use/state")? != "Claimed",
                "{door}: {} was claimed",
                case.name
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_would_take_every_drive_takes_the_blank_one_only() -> Result<()> {
    if skipped("in_use", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("in_use", Setup::BARE).await?;
    let folder = cluster.state().join("drives");
    let mut held = Vec::new();
    let mut drives = Vec::new();
    for case in IN_USE {
        image(&folder, case.name, case.fill)?;
        let drive = cluster.attach(case.name, SIZE)?;
        if let Some(used) = case.used {
            held.push(used(&drive, cluster.state()).with_context(|| case.name)?);
        }
        drives.push((case, drive));
    }
    let control = cluster.attach("control", SIZE)?;
    // What only the agent's proof finds: one byte where no glance goes (see `signatures/blank.rs`), and a drive on
    // which no file system has room.
    let hidden = {
        image(&folder, "hidden", |file| {
            put(file, 300 * MIB + 5 * 4096 + 7, &[1])
        })?;
        cluster.attach("hidden", SIZE)?
    };
    let small = cluster.attach("small", 400 * MIB)?;
    let mut before = Vec::new();
    for (case, drive) in &drives {
        before.push((case.name, drive, case.still(), checksum(drive, case.still())?));
    }
    for (name, drive) in [("hidden", &hidden), ("small", &small)] {
        before.push((name, drive, SIZE, checksum(drive, SIZE)?));
    }

    eventually(
        Duration::from_secs(20),
        "every drive in use is refused",
        || async { all_are_refused(&cluster, &drives).await.map(Some) },
    )
    .await?;
    let manifest = cluster.state().join("greedy.yaml");
    fs::write(
        &manifest,
        format!(
            "apiVersion: storage.billyronks.io/v1\nkind: UnifiedPool\nmetadata: {{name: {POOL}}}\n\
             spec: {{poolType: file, backend: {{type: seaweedfs}}, driveSelector: {{driveTypes: [unknown], \
             matchLabels: {{storage.billyronks.io/transport: loop}}}}, capacity: {{minDrives: 1, maxDrives: 64}}}}\n"
        ),
    )?;
    let path = manifest.to_string_lossy().into_owned();
    let kubectl = !skipped("in_use: kubectl", &[Need::Kubectl])?;
    if kubectl {
        cluster.kubectl(["apply", "-f", &path])?;
    } else {
        return Ok(());
    }

    eventually(
        Duration::from_secs(60),
        "the blank drive is claimed and serves",
        || async {
            let drive = cluster.drive(&control.device).await?.context("not shown")?;
            ensure!(text(&drive, "/use/state")? == "Claimed", "{drive}");
            ensure!(text(&drive, "/use/pool")? == POOL, "{drive}");
            let members = cluster.object("poolmembers").await?;
            let serving = list(&members, "/items")
                .iter()
                .any(|member| text(member, "/status/phase").is_ok_and(|phase| phase == "Online"));
            ensure!(serving, "{members}");
            Ok(Some(()))
        },
    )
    .await?;
    // The agent refused what the controller could not see, and the member says so.
    for (drive, says) in [
        (&hidden, "unknown data at byte"),
        (&small, "needs at least 512 MiB"),
    ] {
        eventually(Duration::from_secs(30), says, || async {
            let members = cluster.object("poolmembers").await?;
            let said: Vec<_> = list(&members, "/items").iter().map(complaints).collect();
            let refused = said.iter().any(|said| {
                said.contains(says) && said.contains(&drive.device) && said.contains("nothing was written")
            });
            ensure!(refused, "{said:?}");
            Ok(Some(()))
        })
        .await?;
    }
    all_are_refused(&cluster, &drives).await?;
    let node = cluster.kubectl(["get", "sn", NODE, "-o", "json"])?;
    let node: Value = serde_json::from_str(&node)?;
    let members = cluster.kubectl(["get", "pm", "-o", "json"])?;
    for (case, drive) in &drives {
        let shown = list(&node, "/status/drives")
            .iter()
            .find(|seen| text(seen, "/device").is_ok_and(|device| device == drive.device))
            .with_context(|| format!("kubectl does not show {}", case.name))?;
        ensure!(words(shown).contains(case.says), "kubectl: {shown}");
        ensure!(
            !members.contains(text(shown, "/id")?),
            "{} has a PoolMember: {members}",
            case.name
        );
    }
    for (name, drive, still, sum) in before {
        ensure!(checksum(drive, still)? == sum, "{name}: its bytes changed");
    }
    drop(held);
    Ok(())
}
