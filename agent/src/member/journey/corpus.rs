//! Drives that are in use: each made by the tool that people make it with, or, where there is none or it is not
//! installed, by bytes written by hand after the documented layout; `blkid` is asked whether those bytes are what
//! they are meant to be. Loop devices over files of the test only.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::bed::run;
use crate::member::process::find_program;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Size of the drives: enough for every file system.
pub const SIZE: u64 = 600 * MIB;

/// One drive that is in use.
pub struct Case {
    pub what: &'static str,
    pub size: u64,
    pub make: Box<dyn Fn(&Site) -> Undo>,
    /// Words in which the picture and the refusal have to say it.
    pub says: &'static str,
    /// The refusal's reason.
    pub reason: &'static str,
    /// What the picture says of its blankness.
    pub blank: Option<bool>,
    /// What `blkid -p` has to call it (type or partition table); empty where it cannot know.
    pub witness: &'static str,
}

impl Case {
    fn signature(
        what: &'static str,
        says: &'static str,
        witness: &'static str,
        make: impl Fn(&Site) + 'static,
    ) -> Self {
        Self {
            what,
            size: SIZE,
            make: Box::new(move |site| {
                make(site);
                Undo::default()
            }),
            says,
            reason: "NotBlank",
            blank: Some(false),
            witness,
        }
    }

    fn used(what: &'static str, says: &'static str, make: impl Fn(&Site) -> Undo + 'static) -> Self {
        Self {
            what,
            size: SIZE,
            make: Box::new(make),
            says,
            reason: "InUse",
            blank: Some(false),
            witness: "",
        }
    }
}

/// What has to be taken back before the drive can be detached; in reverse order, also when a test fails.
#[derive(Default)]
pub struct Undo(Vec<Box<dyn FnOnce() + Send>>);

impl Undo {
    pub fn then(mut self, step: impl FnOnce() + Send + 'static) -> Self {
        self.0.push(Box::new(step));
        self
    }

    pub fn command(self, program: &'static str, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        self.then(move || {
            let _ = Command::new(program).args(arguments).output();
        })
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        while let Some(step) = self.0.pop() {
            step();
        }
    }
}

/// A drive to be filled.
pub struct Site {
    pub name: String,
    pub size: u64,
    /// For mount points and other files.
    pub folder: PathBuf,
}

impl Site {
    pub fn dev(&self) -> String {
        format!("/dev/{}", self.name)
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        let file = fs::OpenOptions::new().write(true).open(self.dev()).unwrap();
        file.write_all_at(bytes, at).unwrap();
        file.sync_all().unwrap();
    }

    fn zero(&self, at: u64, length: u64) {
        self.write(at, &vec![0; length as usize]);
    }

    /// Runs a tool; false where it is not installed. Said where nothing captures it, and a failure where `REQUIRE`
    /// names `tools`.
    fn tool(&self, program: &str, arguments: &[&str]) -> bool {
        self.tool_with_input(program, arguments, "")
    }

    fn tool_with_input(&self, program: &str, arguments: &[&str], input: &str) -> bool {
        let Some(path) = find_program(Path::new(program)) else {
            let required = std::env::var("REQUIRE").unwrap_or_default();
            assert!(
                !required.split(',').any(|name| name == "tools"),
                "REQUIRE names tools, and there is no {program}"
            );
            let _ = writeln!(
                std::io::stdout(),
                "no {program} here: its bytes are written by hand"
            );
            return false;
        };
        let dev = self.dev();
        let arguments = arguments.iter().map(|text| text.replace("DEV", &dev));
        let mut child = Command::new(path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A tool that asks nothing may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{program}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        true
    }

    /// A folder to mount on.
    fn mount_point(&self, name: &str) -> String {
        let path = self.folder.join(name);
        fs::create_dir_all(&path).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// Everything that is recognised by what is written on it.
pub fn signatures() -> Vec<Case> {
    let mut cases = tables();
    cases.extend(file_systems());
    cases.extend(volume_managers());
    cases.extend(behind_zeros());
    cases
}

fn gpt(site: &Site) {
    if site.tool_with_input(
        "sfdisk",
        &["-q", "--no-reread", "--no-tell-kernel", "DEV"],
        "label: gpt\nstart=2048, size=40960, name=one\n",
    ) {
        return;
    }
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(site.dev())
        .unwrap();
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(gpt::disk::LogicalBlockSize::Lb512)
        .create_from_device(file, None)
        .unwrap();
    table
        .add_partition("one", 20 << 20, gpt::partition_types::LINUX_FS, 0, Some(2048))
        .unwrap();
    table.write().unwrap().sync_all().unwrap();
}

fn mbr(site: &Site) {
    if site.tool_with_input(
        "sfdisk",
        &["-q", "--no-reread", "--no-tell-kernel", "DEV"],
        "label: dos\nstart=2048, size=40960, type=83\n",
    ) {
        return;
    }
    let mut sector = [0_u8; 512];
    sector[440..444].copy_from_slice(&[1, 2, 3, 4]);
    sector[450] = 0x83;
    sector[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    sector[458..462].copy_from_slice(&40960_u32.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    site.write(0, &sector);
}

fn tables() -> Vec<Case> {
    vec![
        Case::signature("GPT", "GPT partition table with 1 partition", "gpt", gpt),
        Case::signature("MBR", "MBR partition table with 1 partition", "dos", mbr),
        Case::signature(
            "GPT at the end only",
            "GPT partition table with 1 partition (only the backup at the end is left)",
            "",
            |site| {
                gpt(site);
                site.zero(0, MIB);
            },
        ),
        Case::signature(
            "GPT at the beginning only",
            "(backup missing or damaged)",
            "gpt",
            |site| {
                gpt(site);
                site.zero(site.size - MIB, MIB);
            },
        ),
        Case::signature(
            "MBR of an empty disk",
            "MBR partition table without partitions",
            "",
            |site| {
                site.write(510, &[0x55, 0xaa]);
            },
        ),
    ]
}

fn ext(kind: &'static str) -> impl Fn(&Site) {
    move |site| drop(run(&format!("mkfs.{kind}"), &["-q", "-F", &site.dev()]))
}

fn xfs(site: &Site) {
    run("mkfs.xfs", &["-q", "-f", &site.dev()]);
}

fn btrfs(site: &Site) {
    if !site.tool("mkfs.btrfs", &["-q", "-f", "DEV"]) {
        // btrfs: struct btrfs_super_block, magic at 0x40; copies at 64 KiB, 64 MiB (kernel, fs/btrfs/disk-io.h).
        for at in [64 * KIB, 64 * MIB] {
            site.write(at + 0x40, b"_BHRfS_M");
        }
    }
}

fn ntfs(site: &Site) {
    if !site.tool("mkntfs", &["-q", "-F", "-Q", "DEV"]) {
        // The OEM id of the boot sector, and of its copy in the last sector (ntfs-3g, layout.h).
        site.write(3, b"NTFS    ");
        site.write(site.size - 512 + 3, b"NTFS    ");
    }
}

fn fat32(site: &Site) {
    if !site.tool("mkfs.vfat", &["-F", "32", "DEV"]) {
        site.write(82, b"FAT32   ");
        site.write(6 * 512 + 82, b"FAT32   ");
    }
}

fn exfat(site: &Site) {
    if !site.tool("mkfs.exfat", &["DEV"]) {
        site.write(3, b"EXFAT   ");
        site.write(12 * 512 + 3, b"EXFAT   ");
    }
}

fn file_systems() -> Vec<Case> {
    vec![
        Case::signature("ext2", "ext2 file system", "ext2", ext("ext2")),
        Case::signature("ext3", "ext3 file system", "ext3", ext("ext3")),
        Case::signature("ext4", "ext4 file system", "ext4", ext("ext4")),
        Case::signature("XFS", "XFS file system", "xfs", xfs),
        Case::signature("btrfs", "btrfs file system", "btrfs", btrfs),
        Case::signature("F2FS", "F2FS file system", "f2fs", |site| {
            if !site.tool("mkfs.f2fs", &["-q", "-f", "DEV"]) {
                // kernel, include/linux/f2fs_fs.h
                site.write(KIB, &0xf2f5_2010_u32.to_le_bytes());
            }
        }),
        Case::signature("FAT16", "FAT file system", "vfat", |site| {
            if !site.tool("mkfs.vfat", &["-F", "16", "DEV"]) {
                site.write(54, b"FAT16   ");
            }
        }),
        Case::signature("FAT32", "FAT file system", "vfat", fat32),
        Case::signature("exFAT", "exFAT file system", "exfat", exfat),
        Case::signature("NTFS", "NTFS file system", "ntfs", ntfs),
        Case::signature("ISO 9660", "ISO 9660 file system", "iso9660", |site| {
            let content = site.folder.join("disc");
            fs::create_dir_all(&content).unwrap();
            if !site.tool("genisoimage", &["-quiet", "-o", "DEV", content.to_str().unwrap()]) {
                // ECMA-119 8.4: the primary volume descriptor is sector 16.
                site.write(32 * KIB, b"\x01CD001\x01");
            }
        }),
        Case::signature("swap", "swap area", "swap", |site| {
            run("mkswap", &[&site.dev()]);
        }),
    ]
}

fn luks(site: &Site, version: &str) -> bool {
    site.tool_with_input(
        "cryptsetup",
        &[
            "luksFormat",
            "-q",
            "--type",
            version,
            "--pbkdf",
            "pbkdf2",
            "--pbkdf-force-iterations",
            "1000",
            "DEV",
            "-",
        ],
        "secret",
    )
}

/// kernel, include/uapi/linux/raid/md_p.h: `struct mdp_superblock_1`, with the checksum of drivers/md/md.c.
fn md1(site: &Site, offset: u64) {
    let mut sb = [0_u8; 258];
    let mut put = |at: usize, bytes: &[u8]| sb[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(16, &[0x11; 16]);
    put(32, b"host:data");
    put(72, &1_u32.to_le_bytes());
    put(80, &(site.size / 512 - 4096).to_le_bytes());
    put(92, &2_u32.to_le_bytes());
    put(128, &2048_u64.to_le_bytes());
    put(136, &(site.size / 512 - 4096).to_le_bytes());
    put(144, &(offset / 512).to_le_bytes());
    put(168, &[0x22; 16]);
    put(200, &7_u64.to_le_bytes());
    put(220, &1_u32.to_le_bytes());
    let words = sb
        .chunks_exact(4)
        .map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap())));
    let sum: u64 = words.sum::<u64>() + u64::from(u16::from_le_bytes([sb[256], sb[257]]));
    let folded = (sum & 0xffff_ffff) as u32 + (sum >> 32) as u32;
    sb[216..220].copy_from_slice(&folded.to_le_bytes());
    site.write(offset, &sb);
}

/// The same header: `struct mdp_superblock_s`, 64 KiB before the last whole 64 KiB's end.
fn md0(site: &Site) {
    let mut sb = [0_u8; 4096];
    let mut put = |word: usize, value: u32| {
        sb[word * 4..word * 4 + 4].copy_from_slice(&value.to_le_bytes());
    };
    put(0, 0xa92b_4efc);
    put(2, 90);
    put(5, 0x1111_1111);
    put(7, 1);
    put(8, 500_000);
    put(9, 2);
    put(10, 2);
    site.write(site.size / (64 * KIB) * (64 * KIB) - 64 * KIB, &sb);
}

/// zfs, include/sys/vdev_impl.h and uberblock_impl.h: four labels of 256 KiB, the second half of each a ring of
/// uberblocks.
fn zfs(site: &Site) {
    let mut slot = [0_u8; 1024];
    slot[..8].copy_from_slice(&0x00ba_b10c_u64.to_le_bytes());
    slot[8..16].copy_from_slice(&5000_u64.to_le_bytes());
    slot[16..24].copy_from_slice(&4_u64.to_le_bytes());
    let end = site.size / (256 * KIB) * (256 * KIB);
    for label in [0, 256 * KIB, end - 512 * KIB, end - 256 * KIB] {
        for n in 0..8 {
            site.write(label + 128 * KIB + n * KIB, &slot);
        }
    }
}

fn volume_managers() -> Vec<Case> {
    let mut cases = vec![
        Case::signature("LVM", "LVM physical volume", "LVM2_member", |site| {
            if !site.tool("pvcreate", &["-q", "-y", "DEV"]) {
                // lvm2, lib/format_text/layout.h and lib/label/label.h
                site.write(512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001");
            }
        }),
        Case::signature("LUKS 1", "LUKS1 encrypted volume", "crypto_LUKS", |site| {
            if !luks(site, "luks1") {
                site.write(0, b"LUKS\xba\xbe\0\x01");
            }
        }),
        Case::signature("LUKS 2", "LUKS2 encrypted volume", "crypto_LUKS", |site| {
            if !luks(site, "luks2") {
                site.write(0, b"LUKS\xba\xbe\0\x02");
            }
        }),
        Case::signature("ZFS", "ZFS pool member", "zfs_member", zfs),
        Case::signature("Ceph BlueStore", "Ceph BlueStore", "ceph_bluestore", |site| {
            // ceph, src/os/bluestore/bluestore_types.h and BlueStore::_write_bdev_label
            site.write(
                0,
                b"bluestore block device\n2b5a8e3c-7c1d-4f6e-9a0b-3d4c5e6f7a8b\n",
            );
        }),
        Case::signature("SPDK blobstore", "SPDK blobstore (a Mayastor pool)", "", |site| {
            // spdk, lib/blob/blobstore.h: struct spdk_bs_super_block
            site.write(0, b"SPDKBLOB\x03\0\0\0\0\x10\0\0\x01\0\0\0");
        }),
    ];
    for (what, role) in [("bcache backing device", "-B"), ("bcache cache", "-C")] {
        cases.push(Case::signature(what, "bcache device", "bcache", move |site| {
            if !site.tool("make-bcache", &[role, "DEV"]) {
                // kernel, drivers/md/bcache/bcache_ondisk.h: struct cache_sb_disk at 4 KiB
                site.write(
                    4120,
                    b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
                );
            }
        }));
    }
    for (what, version) in [("DRBD 8", "v08"), ("DRBD 9", "v09")] {
        cases.push(Case::signature(what, "DRBD device", "drbd", move |site| {
            let arguments = ["--force", "0", version, "DEV", "internal", "create-md", "1"];
            let used = if version == "v09" { 7 } else { 6 };
            if !site.tool("drbdmeta", &arguments[..used]) {
                // drbd-utils, user/shared/drbdmeta.c: struct md_on_disk_08
                site.write(site.size - 4096 + 60, &0x8374_026b_u32.to_be_bytes());
            }
        }));
    }
    cases.push(Case::signature(
        "MD 0.90",
        "MD RAID member (version 0.90)",
        "linux_raid_member",
        md0,
    ));
    type Place = fn(u64) -> u64;
    let places: [(&'static str, Place); 3] = [
        ("MD 1.0", |size| (size / 512 - 16) / 8 * 8 * 512),
        ("MD 1.1", |_| 0),
        ("MD 1.2", |_| 4096),
    ];
    for (what, place) in places {
        cases.push(Case::signature(
            what,
            "MD RAID member of host:data",
            "linux_raid_member",
            move |site| md1(site, place(site.size)),
        ));
    }
    cases
}

/// Somebody zeroed the beginning, and the rest is still somebody's data.
fn behind_zeros() -> Vec<Case> {
    vec![
        Case::signature(
            "ext4 behind zeros",
            "ext4 file system (a copy of its superblock at byte 134217728)",
            "",
            |site| {
                ext("ext4")(site);
                site.zero(0, 4 * MIB);
            },
        ),
        Case::signature(
            "XFS behind zeros",
            "XFS file system (a copy of its superblock",
            "",
            |site| {
                xfs(site);
                site.zero(0, 4 * MIB);
            },
        ),
        Case::signature("btrfs behind zeros", "btrfs file system", "", |site| {
            btrfs(site);
            site.zero(0, 4 * MIB);
        }),
        Case::signature("NTFS behind zeros", "NTFS file system", "", |site| {
            ntfs(site);
            site.zero(0, 4 * MIB);
        }),
        Case::signature("FAT32 behind a zero", "FAT file system", "", |site| {
            fat32(site);
            site.zero(0, 512);
        }),
        Case::signature("exFAT behind a zero", "exFAT file system", "", |site| {
            exfat(site);
            site.zero(0, 512);
        }),
        Case::signature(
            "LUKS 2 behind zeros",
            "LUKS2 encrypted volume (its second header)",
            "",
            |site| {
                if !luks(site, "luks2") {
                    site.write(16 * KIB, b"SKUL\xba\xbe\0\x02");
                }
                site.zero(0, 4 * KIB);
            },
        ),
        Case::signature("ZFS behind zeros", "ZFS pool member", "", |site| {
            zfs(site);
            site.zero(0, 4 * MIB);
        }),
    ]
}

/// Bytes that nobody knows, one at a time.
pub fn unknown_bytes() -> Vec<Case> {
    let byte = |what, at: fn(u64) -> u64, says: &'static str| {
        Case::signature(what, says, "", move |site| site.write(at(site.size), &[0x5a]))
    };
    let mut cases = vec![
        byte("the first byte", |_| 0, "unknown data at byte 0"),
        byte(
            "a byte in the first MiB",
            |_| 777_777,
            "unknown data at byte 777777",
        ),
        byte("the last byte", |size| size - 1, "unknown data at byte 629145599"),
        byte(
            "a byte in the last MiB",
            |size| size - 1_000_000,
            "unknown data at byte 628145600",
        ),
    ];
    // Where the picture looks, and where only the proof does. A sample is 4 KiB of more than 2 MiB, so 4 MiB of data
    // are always seen and one byte nearly never is.
    cases.push(Case::signature(
        "4 MiB of noise in the middle",
        "unknown data at byte",
        "",
        |site| site.write(300 * MIB + 123, &[0xa5; 4 << 20]),
    ));
    cases.push(Case {
        blank: Some(true),
        ..byte(
            "a byte in the middle that only the proof reads",
            unsampled,
            "unknown data at byte",
        )
    });
    cases
}

/// A byte that a glance at a drive of this size does not read.
pub fn unsampled(size: u64) -> u64 {
    struct Seen(std::cell::RefCell<Vec<(u64, u64)>>);
    impl crate::hardware::signatures::Source for Seen {
        fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
            self.0.borrow_mut().push((offset, offset + buffer.len() as u64));
            buffer.fill(0);
            Ok(())
        }
    }
    let seen = Seen(Default::default());
    let _ = crate::hardware::signatures::examine(&seen, size);
    let read = seen.0.into_inner();
    (size / 2..size)
        .step_by(4096)
        .find(|at| read.iter().all(|(from, to)| at < from || at >= to))
        .unwrap()
}

/// Everything that uses a drive now.
pub fn uses() -> Vec<Case> {
    let mut cases = vec![
        Case::used("mounted", "ext4 mounted on ", |site| {
            ext("ext4")(site);
            let at = site.mount_point("mounted");
            run("mount", &["-o", "ro", &site.dev(), &at]);
            Undo::default().command("umount", &[&at])
        }),
        Case::used("bind-mounted only", "(its /lost+found)", |site| {
            ext("ext4")(site);
            let (whole, part) = (site.mount_point("whole"), site.mount_point("part"));
            run("mount", &["-o", "ro", &site.dev(), &whole]);
            run("mount", &["--bind", &format!("{whole}/lost+found"), &part]);
            run("umount", &[&whole]);
            Undo::default().command("umount", &[&part])
        }),
        Case::used(
            "mounted in another namespace",
            "in another mount namespace",
            |site| {
                ext("ext4")(site);
                let at = site.mount_point("elsewhere");
                let script = format!("mount -o ro {} {at} && echo ready && exec sleep 600", site.dev());
                let private = ["--mount", "--propagation", "private", "sh", "-c", &script];
                holder(Command::new("unshare").args(private))
            },
        ),
        Case::used("swap on", "swap in use", |site| {
            run("mkswap", &[&site.dev()]);
            run("swapon", &["-p", "0", &site.dev()]);
            Undo::default().command("swapoff", &[&site.dev()])
        }),
        Case::used("held exclusively", "held exclusively", |site| {
            let exclusive = i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap();
            let file = fs::OpenOptions::new()
                .read(true)
                .custom_flags(exclusive)
                .open(site.dev())
                .unwrap();
            Undo::default().then(move || drop(file))
        }),
        Case {
            // A glance does not look into every process; the proof does.
            blank: Some(true),
            ..Case::used("open in another program", "is open in sh (process ", |site| {
                let script = format!("exec 3<{} && echo ready && read x", site.dev());
                holder(Command::new("sh").args(["-c", &script]))
            })
        },
        Case::used("below another loop device", "loop device loop", |site| {
            let upper = run("losetup", &["--find", "--show", &site.dev()]);
            Undo::default().command("losetup", &["--detach", upper.trim()])
        }),
        Case {
            reason: "ReadOnly",
            blank: Some(true),
            ..Case::used("read-only", "refuses to write", |site| {
                let image = super::bed::image_of(&site.name);
                // The drive is attached once more, as its owner would.
                run("losetup", &["--detach", &site.dev()]);
                run("losetup", &["-r", &site.dev(), image.to_str().unwrap()]);
                let dev = site.dev();
                Undo::default().then(move || drop(Command::new("blockdev").args(["--setrw", &dev]).output()))
            })
        },
        Case {
            size: 100 * MIB,
            reason: "TooSmall",
            blank: Some(true),
            ..Case::used("too small", "at least 512 MiB", |_| Undo::default())
        },
    ];
    for (what, label, files) in FOREIGN {
        cases.push(Case::used(what, "xfs mounted on ", move |site| {
            foreign(site, label, files)
        }));
        let says = if label.is_empty() {
            "XFS file system"
        } else {
            "XFS file system \"DIRECTPV\""
        };
        cases.push(Case::signature(what, says, "xfs", move |site| {
            drop(foreign(site, label, files));
        }));
    }
    cases
}

/// What other storage systems keep on drives of their own.
const FOREIGN: [(&str, &str, &[&str]); 5] = [
    (
        "SeaweedFS",
        "",
        &["data/1.dat", "data/1.idx", "data/vol_dir.uuid"],
    ),
    (
        "RustFS",
        "",
        &[".rustfs.sys/format.json", "bucket/object/xl.meta"],
    ),
    ("MinIO", "", &[".minio.sys/format.json", "bucket/object/xl.meta"]),
    (
        "Longhorn",
        "",
        &["longhorn-disk.cfg", "replicas/pvc-1/volume.meta"],
    ),
    ("DirectPV", "DIRECTPV", &[".directpv/meta.info"]),
];

fn foreign(site: &Site, label: &str, files: &[&str]) -> Undo {
    run("mkfs.xfs", &["-q", "-f", "-L", label, &site.dev()]);
    let at = site.mount_point("foreign");
    run("mount", &[&site.dev(), &at]);
    let undo = Undo::default().command("umount", &[&at]);
    for file in files {
        let path = Path::new(&at).join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"somebody's data").unwrap();
    }
    // From here on its bytes stand still.
    run("mount", &["-o", "remount,ro", &at]);
    undo
}

/// Starts a process that says "ready", and ends it at the end.
pub fn holder(command: &mut Command) -> Undo {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    Undo::default().then(move || {
        let _ = child.kill();
        let _ = child.wait();
    })
}
