//! The whole journey on real drives: loop devices over files of this test's own, a real storage program.
//!
//! Run as root: `SMART_STORAGE_TEST_WEED=<path of weed> cargo test -p smart-storage-agent --lib journey -- --ignored
//! --test-threads=1`.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    EnsureMember, ExpectedDrive, FileSystem, MemberConfig, MemberError, MemberId, MemberReport, MemberState,
    Members, WeedVolume, process, stop_all,
};
use crate::hardware::linux::{Linux, LinuxConfig};
use crate::hardware::{Device, Hardware};
use crate::inventory::Inventory;
use crate::watcher::{Watcher, WatcherConfig, WatcherHandle};

const GIB: u64 = 1 << 30;

/// One machine with an agent's members on it; puts everything away when it is dropped.
struct Bed {
    folder: TempDir,
    loops: Vec<String>,
    master: Option<Child>,
    master_address: String,
    inventory: watch::Receiver<Arc<Inventory>>,
    watcher: WatcherHandle,
    hardware: Arc<dyn Hardware>,
    members: Option<Members>,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("member-journey-")
            .tempdir()
            .unwrap();
        fs::create_dir(folder.path().join("img")).unwrap();
        let hardware: Arc<dyn Hardware> = Arc::new(Linux::new(LinuxConfig {
            include_loop: Some(folder.path().join("img")),
            ..LinuxConfig::default()
        }));
        let config = WatcherConfig {
            discover_interval: Duration::from_secs(300),
        };
        let (inventory, watcher) = Watcher::spawn(Arc::clone(&hardware), config).unwrap();
        let mut bed = Self {
            folder,
            loops: Vec::new(),
            master: None,
            master_address: "127.0.0.1:1.2".into(),
            inventory,
            watcher,
            hardware,
            members: None,
        };
        bed.start_agent();
        bed
    }

    fn weed() -> PathBuf {
        std::env::var_os("SMART_STORAGE_TEST_WEED").map_or_else(|| "weed".into(), PathBuf::from)
    }

    fn config(&self) -> MemberConfig {
        MemberConfig {
            check_interval: Duration::from_millis(500),
            ..MemberConfig::new(self.folder.path().join("data"), Self::weed())
        }
    }

    fn start_agent(&mut self) {
        let members =
            Members::start(self.config(), Arc::clone(&self.hardware), self.inventory.clone()).unwrap();
        self.members = Some(members);
    }

    fn members(&self) -> &Members {
        self.members.as_ref().unwrap()
    }

    /// A sparse drive of this size; its kernel name.
    fn attach(&mut self, size: u64) -> String {
        let path = self
            .folder
            .path()
            .join("img")
            .join(format!("{}.img", self.loops.len()));
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        self.attach_file(&path)
    }

    fn attach_file(&mut self, path: &Path) -> String {
        let name = run("losetup", &["--find", "--show", path.to_str().unwrap()]);
        let name = name.trim().trim_start_matches("/dev/").to_owned();
        self.loops.push(name.clone());
        name
    }

    async fn start_master(&mut self) {
        let folder = self.folder.path().join("master");
        fs::create_dir_all(&folder).unwrap();
        let id = MemberId::parse(&Uuid::new_v4().to_string()).unwrap();
        let (http, grpc) = process::choose_ports(id).unwrap();
        let master = Command::new(Self::weed())
            .args([
                "-logtostderr=true",
                "master",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-peers=none",
            ])
            .args([
                "-telemetry=false",
                "-volumeSizeLimitMB=32",
                "-defaultReplication=000",
            ])
            .args([
                format!("-port={http}"),
                format!("-port.grpc={grpc}"),
                format!("-mdir={}", folder.display()),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.master = Some(master);
        self.master_address = format!("127.0.0.1:{http}.{grpc}");
        until("the master answers", || async {
            process::health_of(http, "/cluster/healthz").await.ok() == Some(200)
        })
        .await;
    }

    async fn seen(&self, name: &str) -> Device {
        self.watcher.probe_now().await.unwrap();
        let picture = self.inventory.borrow().clone();
        Device::clone(
            picture
                .devices
                .get(name)
                .unwrap_or_else(|| panic!("{name} is not in the picture")),
        )
    }

    async fn order(&self, name: &str) -> EnsureMember {
        let device = self.seen(name).await;
        EnsureMember {
            member_id: MemberId::parse(&Uuid::new_v4().to_string()).unwrap(),
            pool: "demo".into(),
            cluster_id: "0a1b2c3d-0000-4000-8000-000000000000".into(),
            may_prepare: true,
            drive: ExpectedDrive {
                device: name.into(),
                size_bytes: device.size_bytes.unwrap(),
                disk_sequence: device.disk_sequence,
                evidence: device.evidence,
                drive_id: format!("drive-{name}"),
            },
            file_system: FileSystem::Xfs,
            weed: WeedVolume {
                masters: vec![self.master_address.clone()],
                disk_tag: "demo".into(),
                max_volumes: 30,
                data_center: "dc1".into(),
                rack: "r1".into(),
                min_free_bytes: 64 << 20,
            },
        }
    }

    async fn reaches(&self, id: MemberId, wanted: impl Fn(&MemberReport) -> bool) -> MemberReport {
        let mut reports = self.members().reports();
        let found = async {
            loop {
                if let Some(report) = reports
                    .borrow_and_update()
                    .get(&id)
                    .filter(|report| wanted(report))
                {
                    return report.clone();
                }
                reports.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(Duration::from_secs(90), found).await {
            Ok(report) => report,
            Err(_) => panic!(
                "it never came to that: {:?}",
                self.members().reports().borrow().get(&id)
            ),
        }
    }

    async fn online(&self, id: MemberId) -> MemberReport {
        self.reaches(id, |report| report.state == MemberState::Online)
            .await
    }

    fn process_of(&self, id: MemberId) -> Vec<u32> {
        process::find(&self.real_config(), id)
            .unwrap()
            .iter()
            .map(|running| running.pid)
            .collect()
    }

    fn real_config(&self) -> MemberConfig {
        let config = self.config();
        MemberConfig {
            data_dir: config.data_dir.canonicalize().unwrap(),
            ..config
        }
    }

    fn mount_point(&self, id: MemberId) -> PathBuf {
        self.real_config().mount_point(id)
    }

    async fn put_away(mut self) {
        self.members = None;
        // The tasks end with their last handle; what they were doing must not meet what follows.
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop_all(&self.config()).await.unwrap();
        assert!(!self.folder.path().join("data/mounts").exists());
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !table.contains(self.folder.path().to_str().unwrap()),
            "a mount is left:\n{table}"
        );
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.members.take().is_some() {
            // A failed test: its tasks end now, then nothing of it may stay behind.
            std::thread::sleep(Duration::from_millis(500));
            let config = self.config();
            let runtime = || tokio::runtime::Runtime::new().unwrap();
            let stopped = std::thread::spawn(move || runtime().block_on(stop_all(&config)));
            eprintln!("put away after a failure: {:?}", stopped.join());
        }
        if let Some(master) = &mut self.master {
            let _ = master.kill();
            let _ = master.wait();
        }
        for name in &self.loops {
            let _ = Command::new("blockdev")
                .args(["--setrw", &format!("/dev/{name}")])
                .status();
            let _ = Command::new("partx")
                .args(["-d", &format!("/dev/{name}")])
                .stderr(Stdio::null())
                .status();
            let _ = Command::new("losetup")
                .args(["-d", &format!("/dev/{name}")])
                .status();
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn kill(pid: u32, signal: &str) {
    run("kill", &[&format!("-{signal}"), &pid.to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, loop devices and weed"]
async fn a_blank_drive_becomes_a_member_and_stays_one_through_kills_restarts_and_a_dead_file_system() {
    let mut bed = Bed::new();
    bed.start_master().await;
    let name = bed.attach(2 * GIB);
    let order = bed.order(&name).await;
    let id = order.member_id;
    let began = Instant::now();
    bed.members().ensure(order.clone()).await.unwrap();
    let first = bed.online(id).await;
    eprintln!("online after {:?}: {first:?}", began.elapsed());
    assert_eq!(
        (first.device.as_str(), first.pool.as_str()),
        (name.as_str(), "demo")
    );
    assert!(first.capacity_bytes > GIB);

    // The same order again changes nothing.
    let reports = bed.members().reports();
    bed.members().ensure(order.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!reports.has_changed().unwrap());
    let device = bed.seen(&name).await;
    assert_eq!(
        device.evidence.mark.as_ref().map(|mark| mark.member_id.clone()),
        Some(id.to_string())
    );
    let mount_point = bed.mount_point(id);
    fs::write(mount_point.join("data/kept"), b"bytes").unwrap();
    fs::File::open(mount_point.join("data/kept"))
        .unwrap()
        .sync_all()
        .unwrap();

    // The storage process is killed: another one, the same address.
    let [pid] = bed.process_of(id)[..] else {
        panic!("one process")
    };
    kill(pid, "KILL");
    bed.reaches(id, |report| report.state != MemberState::Online)
        .await;
    assert_eq!(bed.online(id).await.endpoint, first.endpoint);
    let [second] = bed.process_of(id)[..] else {
        panic!("one process")
    };
    assert_ne!(second, pid);

    // The agent goes and comes back: the same process.
    bed.members = None;
    tokio::time::sleep(Duration::from_millis(300)).await;
    bed.start_agent();
    bed.online(id).await;
    assert_eq!(bed.process_of(id), [second]);

    // The file system dies: said, stopped, and left as it is; mounted again by hand, all is well.
    let began = Instant::now();
    run(
        "xfs_io",
        &["-x", "-c", "shutdown -f", mount_point.to_str().unwrap()],
    );
    let dead = bed
        .reaches(id, |report| report.state == MemberState::Failed)
        .await;
    eprintln!(
        "dead file system noticed after {:?}: {}",
        began.elapsed(),
        dead.message
    );
    assert_eq!(dead.reason, "FileSystemDead");
    until("the process is stopped", || async {
        bed.process_of(id).is_empty()
    })
    .await;
    run("umount", &[mount_point.to_str().unwrap()]);
    let _ = Command::new("mount")
        .args([&format!("/dev/{name}p1"), mount_point.to_str().unwrap()])
        .status();
    let again = bed.online(id).await;
    assert_eq!(
        (&again.filesystem_uuid, &again.endpoint),
        (&first.filesystem_uuid, &first.endpoint)
    );
    assert_eq!(fs::read(mount_point.join("data/kept")).unwrap(), b"bytes");

    // Unmounted under the process: stopped, mounted, started again; nothing was written to the bare folder.
    run("umount", &["-l", mount_point.to_str().unwrap()]);
    assert!(
        fs::write(mount_point.join("stray"), b"x").is_err(),
        "the bare mount point is immutable"
    );
    bed.reaches(id, |report| report.state != MemberState::Online)
        .await;
    bed.online(id).await;
    assert_eq!(fs::read(mount_point.join("data/kept")).unwrap(), b"bytes");

    // Everything is put away and brought back by the mark alone.
    bed.members = None;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop_all(&bed.config()).await.unwrap();
    assert!(bed.process_of(id).is_empty());
    assert!(!mount_point.exists());
    bed.start_agent();
    let back = bed.online(id).await;
    assert_eq!(back.filesystem_uuid, first.filesystem_uuid);
    assert_eq!(fs::read(mount_point.join("data/kept")).unwrap(), b"bytes");

    // Released: nothing of it is left but the data and the mark that says so.
    bed.members().release(id).await.unwrap();
    bed.members().release(id).await.unwrap();
    assert!(!mount_point.exists() && bed.process_of(id).is_empty());
    let mark = bed.seen(&name).await.evidence.mark.unwrap();
    assert_eq!((mark.member_id, mark.released), (id.to_string(), true));
    bed.reaches(id, |report| report.state == MemberState::Released)
        .await;
    let error = bed
        .members()
        .ensure(EnsureMember {
            member_id: id,
            ..bed.order(&name).await
        })
        .await
        .unwrap_err();
    assert_eq!(error.reason, "Released");
    bed.put_away().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, loop devices and weed"]
async fn ext4_members_die_and_come_back_alike() {
    let mut bed = Bed::new();
    bed.start_master().await;
    let name = bed.attach(GIB);
    let order = EnsureMember {
        file_system: FileSystem::Ext4,
        ..bed.order(&name).await
    };
    let id = order.member_id;
    bed.members().ensure(order).await.unwrap();
    let first = bed.online(id).await;
    let mount_point = bed.mount_point(id);
    run(
        "xfs_io",
        &["-x", "-c", "shutdown -f", mount_point.to_str().unwrap()],
    );
    bed.reaches(id, |report| report.reason == "FileSystemDead").await;
    until("the process is stopped", || async {
        bed.process_of(id).is_empty()
    })
    .await;
    run("umount", &[mount_point.to_str().unwrap()]);
    assert_eq!(bed.online(id).await.filesystem_uuid, first.filesystem_uuid);
    bed.members().release(id).await.unwrap();
    bed.put_away().await;
}

fn bytes_of(bed: &Bed, index: usize) -> Vec<u8> {
    fs::read(bed.folder.path().join("img").join(format!("{index}.img"))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_drive_that_is_in_use_is_refused_and_its_bytes_stay() {
    type Fill = fn(&str, &Path);
    let cases: [(&str, u64, &str, Fill); 8] = [
        ("ext4", GIB, "NotBlank", |drive, _| {
            drop(run("mkfs.ext4", &["-q", drive]))
        }),
        ("XFS", GIB, "NotBlank", |drive, _| {
            drop(run("mkfs.xfs", &["-q", drive]))
        }),
        ("swap", GIB, "NotBlank", |drive, _| drop(run("mkswap", &[drive]))),
        ("one byte", GIB, "NotBlank", |drive, _| {
            let file = fs::OpenOptions::new().write(true).open(drive).unwrap();
            file.write_all_at(&[1], GIB - 5000).unwrap();
            file.sync_all().unwrap();
        }),
        ("LVM", GIB, "NotBlank", |drive, _| {
            let file = fs::OpenOptions::new().write(true).open(drive).unwrap();
            file.write_all_at(b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001", 512)
                .unwrap();
            file.sync_all().unwrap();
        }),
        ("mounted", GIB, "InUse", |drive, folder| {
            run("mkfs.ext4", &["-q", drive]);
            fs::create_dir_all(folder).unwrap();
            run("mount", &["-o", "ro,noload", drive, folder.to_str().unwrap()]);
        }),
        ("too small", 100 << 20, "TooSmall", |_, _| {}),
        ("read-only", GIB, "ReadOnly", |drive, _| {
            drop(run("blockdev", &["--setro", drive]))
        }),
    ];
    let mut bed = Bed::new();
    for (index, (what, size, reason, fill)) in cases.into_iter().enumerate() {
        let name = bed.attach(size);
        let mount = bed.folder.path().join("foreign");
        fill(&format!("/dev/{name}"), &mount);
        let before = bytes_of(&bed, index);
        let error = bed.members().ensure(bed.order(&name).await).await.unwrap_err();
        assert_eq!(error.reason, reason, "{what}: {}", error.message);
        eprintln!("{what}: {}", error.message);
        assert!(bytes_of(&bed, index) == before, "{what}: bytes changed");
        if what == "mounted" {
            run("umount", &[mount.to_str().unwrap()]);
        }
        let last = bed.loops.pop().unwrap();
        // The flag belongs to the loop device and would outlive its detaching.
        run("blockdev", &["--setrw", &format!("/dev/{last}")]);
        run("losetup", &["-d", &format!("/dev/{last}")]);
        bed.loops.push(last);
        fs::File::options()
            .write(true)
            .open(bed.folder.path().join(format!("img/{index}.img")))
            .unwrap()
            .set_len(0)
            .unwrap();
    }
    assert!(bed.members().reports().borrow().is_empty());
    bed.loops.clear();
    bed.put_away().await;
}

async fn refused_after(change: impl FnOnce(&mut Bed, &str)) -> MemberError {
    let mut bed = Bed::new();
    let name = bed.attach(GIB);
    let order = bed.order(&name).await;
    change(&mut bed, &name);
    let error = bed.members().ensure(order).await.unwrap_err();
    let index = bed.loops.iter().position(|known| *known == name).unwrap();
    let first_bytes = fs::read(bed.folder.path().join(format!("img/{index}.img"))).unwrap();
    assert!(
        !first_bytes
            .windows(8)
            .step_by(512)
            .any(|window| window == b"EFI PART"),
        "a mark was written"
    );
    bed.put_away().await;
    error
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_drive_that_changed_between_plan_and_write_is_refused() {
    let check = |error: MemberError, reasons: &[&str]| {
        eprintln!("{}: {}", error.reason, error.message);
        assert!(reasons.contains(&error.reason), "{error:?}");
    };
    check(
        refused_after(|bed, name| {
            let other = bed.folder.path().join("img/other.img");
            fs::File::create(&other).unwrap().set_len(GIB).unwrap();
            run("losetup", &["-d", &format!("/dev/{name}")]);
            run("losetup", &[&format!("/dev/{name}"), other.to_str().unwrap()]);
        })
        .await,
        &["DriveChanged"],
    );
    check(
        refused_after(|_, name| {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(format!("/dev/{name}"))
                .unwrap();
            file.write_all_at(b"just now", 4096).unwrap();
        })
        .await,
        &["NotBlank"],
    );
    check(
        refused_after(|bed, name| {
            fs::OpenOptions::new()
                .write(true)
                .open(bed.folder.path().join("img/0.img"))
                .unwrap()
                .set_len(GIB / 2)
                .unwrap();
            run("losetup", &["-c", &format!("/dev/{name}")]);
        })
        .await,
        &["DriveChanged"],
    );
    check(
        refused_after(|_, name| drop(run("losetup", &["-d", &format!("/dev/{name}")]))).await,
        &["DriveMissing", "DriveChanged"],
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_drive_that_somebody_holds_exclusively_is_refused() {
    use std::os::unix::fs::OpenOptionsExt;
    let mut held = None;
    let error = refused_after(|_, name| {
        let exclusive = i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap();
        let drive = fs::OpenOptions::new()
            .read(true)
            .custom_flags(exclusive)
            .open(format!("/dev/{name}"));
        held = Some(drive.unwrap());
    })
    .await;
    assert_eq!(error.reason, "InUse", "{}", error.message);
}
