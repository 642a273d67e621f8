use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use super::*;
use crate::hardware::{FaultKind, ioctl};
use crate::inventory::Inventory;
use crate::watcher::{Watcher, WatcherConfig};

/// A loop device over a sparse file of its own, detached at the end whatever happens.
struct Loop {
    name: String,
}

impl Loop {
    fn attach(folder: &Path, file: &str, size: u64) -> Self {
        let path = folder.join(file);
        if !path.exists() {
            File::create(&path).unwrap().set_len(size).unwrap();
        }
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let device = String::from_utf8(output.stdout).unwrap();
        Self {
            name: device.trim().strip_prefix("/dev/").unwrap().to_owned(),
        }
    }

    fn dev(&self) -> String {
        format!("/dev/{}", self.name)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(self.dev()).output();
        let _ = Command::new("losetup").args(["--detach", &self.dev()]).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// A GPT with one Linux partition "one" of 32 MiB; the kernel is not told.
fn write_gpt(path: &str) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(gpt::disk::LogicalBlockSize::Lb512)
        .create_from_device(file, None)
        .unwrap();
    table
        .add_partition("one", 32 << 20, gpt::partition_types::LINUX_FS, 0, Some(2048))
        .unwrap();
    table.write().unwrap().sync_all().unwrap();
}

fn machine(folder: &Path) -> Linux {
    Linux::new(LinuxConfig {
        include_loop: Some(folder.to_owned()),
        ..LinuxConfig::default()
    })
}

fn probe(linux: &Linux, name: &str) -> Device {
    linux
        .probe(name, &linux.surroundings(), Depth::default(), Instant::now())
        .unwrap()
}

fn words(device: &Device) -> Vec<String> {
    device
        .usage
        .holders
        .iter()
        .map(|holder| holder.description.clone())
        .collect()
}

#[test]
fn a_machine_without_sys_is_a_fault_and_not_an_empty_list() {
    let empty = tempfile::tempdir().unwrap();
    let linux = Linux::new(LinuxConfig {
        host_root: empty.path().to_owned(),
        ..LinuxConfig::default()
    });
    assert_eq!(linux.list().unwrap_err().kind, FaultKind::Failed);
    assert_eq!(
        linux.probe("sda", &linux.surroundings(), Depth::default(), Instant::now()),
        None
    );
}

/// A disk `sda` of 1 MiB in a `/sys` below this folder; its own folder.
fn sda(root: &Path) -> PathBuf {
    let sys = root.join("sys");
    let own = sys.join("devices/pci0/ata1/host0/target0:0:0/0:0:0:0/block/sda");
    std::fs::create_dir_all(own.join("queue")).unwrap();
    std::fs::create_dir_all(own.join("holders")).unwrap();
    for folder in ["block", "class/block"] {
        std::fs::create_dir_all(sys.join(folder)).unwrap();
        std::os::unix::fs::symlink(&own, sys.join(folder).join("sda")).unwrap();
    }
    std::fs::write(own.join("dev"), "8:0").unwrap();
    std::fs::write(own.join("size"), "2048").unwrap();
    own
}

#[test]
fn a_device_that_cannot_be_opened_is_shown_with_its_faults_and_is_not_blank() {
    let root = tempfile::tempdir().unwrap();
    sda(root.path());
    let config = LinuxConfig {
        host_root: root.path().to_owned(),
        ..LinuxConfig::default()
    };
    let device = probe(&Linux::new(config), "sda");
    assert_eq!((device.size_bytes, device.usage.blank), (Some(1 << 20), None));
    let faults: Vec<_> = device.faults.iter().map(|fault| fault.probe).collect();
    assert_eq!(faults, [Probe::Sysfs, Probe::Signatures], "{:?}", device.faults);
}

#[test]
fn of_a_drive_that_was_exchanged_during_the_probe_nothing_is_told_that_would_mix_two() {
    let root = tempfile::tempdir().unwrap();
    let own = sda(root.path());
    let sequence = own.join("diskseq");
    std::fs::write(&sequence, "7").unwrap();
    std::fs::create_dir(own.join("device")).unwrap();
    std::fs::write(own.join("device/wwid"), "naa.5000c500a1b2c3d4").unwrap();
    let linux = Linux::new(LinuxConfig {
        host_root: root.path().to_owned(),
        ..LinuxConfig::default()
    });
    let before = probe(&linux, "sda");
    assert_ne!(before.evidence, Evidence::default());
    // The counters are read between the identity and the contents: whoever reads them waits here for the exchange.
    let counters = own.join("stat");
    run("mkfifo", &[counters.to_str().unwrap()]);
    let exchange = std::thread::spawn(move || {
        let mut waiting = OpenOptions::new().write(true).open(&counters).unwrap();
        std::fs::write(&sequence, "8").unwrap();
        std::io::Write::write_all(&mut waiting, b"0 0 0 0 0 0 0 0 0 0 0").unwrap();
    });
    let device = probe(&linux, "sda");
    exchange.join().unwrap();
    assert_eq!(device.evidence, Evidence::default());
    assert_eq!(device.usage, Usage::default());
    let fault = device.faults.last().unwrap();
    assert_eq!(fault.detail, "the medium was exchanged during the probe");
}

#[test]
#[ignore = "needs root and the machine's own disk"]
fn the_disk_of_the_root_file_system_says_so_and_is_never_blank() {
    let linux = Linux::new(LinuxConfig::default());
    let around = linux.surroundings();
    let root = around
        .mounts
        .iter()
        .find(|mount| mount.mount_point == "/")
        .unwrap();
    let names = linux.drives_of_mount(root);
    assert!(!names.is_empty());
    for name in names {
        let device = probe(&linux, &name);
        assert!(
            words(&device).contains(&format!("{} mounted on /", root.fstype)),
            "{device:#?}"
        );
        assert_eq!(device.usage.blank, Some(false));
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn real_file_systems_are_recognised_and_zeros_are_blank() {
    let folder = tempfile::tempdir().unwrap();
    let check = |file: &str, make: &dyn Fn(&str), blank: Option<bool>, expected: &[&str]| {
        let device = Loop::attach(folder.path(), file, 400 << 20);
        make(&device.dev());
        let found = probe(&machine(folder.path()), &device.name);
        assert_eq!(words(&found), expected);
        assert_eq!(found.usage.blank, blank, "{found:#?}");
        found
    };
    let blank = check("blank", &|_| {}, Some(true), &[]);
    assert_eq!(blank.usage.exclusive_open_ok, Some(true));
    assert!(blank.evidence.backing_file_inode.is_some());
    assert_eq!(
        blank
            .faults
            .iter()
            .filter(|fault| fault.kind == FaultKind::Failed)
            .count(),
        0
    );
    let ext4 = |dev: &str| run("mkfs.ext4", &["-q", "-F", "-L", "data", dev]);
    let found = check("ext4", &ext4, Some(false), &["ext4 file system \"data\""]);
    assert_eq!(found.evidence.filesystem_uuids.len(), 1);
    check(
        "ext2",
        &|dev| run("mkfs.ext2", &["-q", "-F", dev]),
        Some(false),
        &["ext2 file system"],
    );
    check(
        "ext3",
        &|dev| run("mkfs.ext3", &["-q", "-F", dev]),
        Some(false),
        &["ext3 file system"],
    );
    check(
        "xfs",
        &|dev| run("mkfs.xfs", &["-q", "-f", dev]),
        Some(false),
        &["XFS file system"],
    );
    check("swap", &|dev| run("mkswap", &[dev]), Some(false), &["swap area"]);
    let headless = |dev: &str| {
        run("mkfs.xfs", &["-q", "-f", dev]);
        run(
            "dd",
            &[
                "if=/dev/zero",
                &format!("of={dev}"),
                "bs=1M",
                "count=20",
                "conv=fsync",
                "status=none",
            ],
        );
    };
    let found = check(
        "headless",
        &headless,
        Some(false),
        &["XFS file system (a copy of its superblock at byte 104857600)"],
    );
    assert_eq!(found.usage.exclusive_open_ok, None);
    let random = |dev: &str| {
        run(
            "dd",
            &[
                "if=/dev/urandom",
                &format!("of={dev}"),
                "bs=4k",
                "count=1",
                "seek=100",
                "conv=fsync",
                "status=none",
            ],
        );
    };
    let found = check("random", &random, Some(false), &["unknown data at byte 409600"]);
    assert_eq!(found.usage.holders[0].kind, HolderKind::UnknownData);
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_device_that_somebody_holds_exclusively_is_not_blank() {
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::attach(folder.path(), "held", 64 << 20);
    let held = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(device.dev())
        .unwrap();
    let linux = machine(folder.path());
    let found = probe(&linux, &device.name);
    assert_eq!(
        (found.usage.blank, found.usage.exclusive_open_ok),
        (Some(false), Some(false))
    );
    assert_eq!(found.usage.holders[0].kind, HolderKind::Exclusive);
    drop(held);
    // Nothing was written meanwhile, and nothing announced it.
    let again = probe(&linux, &device.name);
    assert_eq!(
        (again.usage.blank, again.usage.exclusive_open_ok),
        (Some(true), Some(true))
    );
    assert_eq!(again.usage.holders, []);
    let held = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(device.dev())
        .unwrap();
    assert_eq!(probe(&linux, &device.name).usage.blank, Some(false));
    drop(held);

    // To look is no event: probes would follow probes for ever.
    let monitor = crate::hardware::uevent::Monitor::listen().unwrap();
    for _ in 0..20 {
        assert_eq!(probe(&linux, &device.name).usage.blank, Some(true));
    }
    std::thread::sleep(Duration::from_millis(200));
    let (events, _) = monitor.drain();
    assert!(events.iter().all(|event| event.disk != device.name), "{events:?}");
}

/// A child that is killed at the end.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn what_is_mounted_only_in_another_mount_namespace_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::attach(folder.path(), "elsewhere", 64 << 20);
    run("mkfs.ext4", &["-q", "-F", &device.dev()]);
    let mount_point = folder.path().join("mnt");
    std::fs::create_dir(&mount_point).unwrap();
    let script = format!(
        "mount {} {} && echo ready && exec sleep 60",
        device.dev(),
        mount_point.display()
    );
    let mut child = Child(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.0.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    assert_eq!(line, "ready\n");
    let found = probe(&machine(folder.path()), &device.name);
    let expected = format!(
        "ext4 mounted on {} in another mount namespace",
        mount_point.display()
    );
    assert!(words(&found).contains(&expected), "{found:#?}");
}

#[test]
#[ignore = "needs root and loop devices"]
fn swap_in_use_and_bind_mounts_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let linux = machine(folder.path());
    let swap = Loop::attach(folder.path(), "swap", 64 << 20);
    run("mkswap", &[&swap.dev()]);
    run("swapon", &[&swap.dev()]);
    let found = probe(&linux, &swap.name);
    run("swapoff", &[&swap.dev()]);
    assert_eq!(words(&found), ["swap area", "swap in use"]);
    let device = Loop::attach(folder.path(), "bind", 64 << 20);
    run("mkfs.ext4", &["-q", "-F", &device.dev()]);
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    for path in [&first, &second] {
        std::fs::create_dir(path).unwrap();
    }
    let (first, second) = (first.display().to_string(), second.display().to_string());
    run("mount", &[&device.dev(), &first]);
    run("mount", &["--bind", &format!("{first}/lost+found"), &second]);
    run("umount", &[&first]);
    let found = probe(&linux, &device.name);
    run("umount", &[&second]);
    assert!(
        words(&found).contains(&format!("ext4 mounted on {second} (its /lost+found)")),
        "{found:#?}"
    );
}

#[test]
#[ignore = "needs root and loop devices"]
fn partitions_are_found_with_and_without_the_kernels_help_and_writes_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::attach(folder.path(), "parts", 256 << 20);
    let linux = machine(folder.path());
    assert_eq!(probe(&linux, &device.name).usage.blank, Some(true));
    write_gpt(&device.dev());
    let found = probe(&linux, &device.name);
    assert_eq!(
        words(&found),
        [
            "GPT partition table with 1 partition",
            "partition 1 \"one\" of 32 MiB"
        ]
    );
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device.dev())
        .unwrap();
    ioctl::add_partition(file.as_fd(), 1, 1 << 20, 32 << 20).unwrap();
    drop(file);
    let part = format!("/dev/{}p1", device.name);
    run("mkfs.ext4", &["-q", "-F", &part]);
    let found = probe(&linux, &device.name);
    assert!(
        words(&found).contains(&"ext4 file system".to_owned()),
        "{found:#?}"
    );
    assert_eq!(
        linux.drives_below(&format!("{}p1", device.name)),
        std::slice::from_ref(&device.name)
    );
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device.dev())
        .unwrap();
    ioctl::delete_partition(file.as_fd(), 1).unwrap();
}

async fn until(
    pictures: &mut tokio::sync::watch::Receiver<Arc<Inventory>>,
    condition: impl FnMut(&Arc<Inventory>) -> bool,
) -> Duration {
    let start = Instant::now();
    let found = tokio::time::timeout(Duration::from_secs(20), pictures.wait_for(condition)).await;
    drop(found.expect("in time").unwrap());
    start.elapsed()
}

#[tokio::test]
#[ignore = "needs root and loop devices"]
async fn plugging_mounting_swapping_and_pulling_are_seen_without_being_asked() {
    let folder = tempfile::tempdir().unwrap();
    let hardware = Arc::new(machine(folder.path()));
    let config = WatcherConfig {
        discover_interval: Duration::from_secs(3600),
    };
    let (mut pictures, handle) = Watcher::spawn(hardware, config).unwrap();
    until(&mut pictures, |picture| picture.complete).await;
    let device = Loop::attach(folder.path(), "hot", 300 << 20);
    let name = device.name.clone();
    let plug = until(&mut pictures, |p| {
        p.devices.get(&name).is_some_and(|d| d.usage.blank == Some(true))
    })
    .await;
    run("mkfs.ext4", &["-q", "-F", &device.dev()]);
    let mount_point = folder.path().join("mnt");
    std::fs::create_dir(&mount_point).unwrap();
    run("mount", &[&device.dev(), &mount_point.display().to_string()]);
    let expected = format!("ext4 mounted on {}", mount_point.display());
    let is_mounted = |p: &Arc<Inventory>| p.devices.get(&name).is_some_and(|d| words(d).contains(&expected));
    let mounted = until(&mut pictures, is_mounted).await;
    run("umount", &[&mount_point.display().to_string()]);
    let unmounted = until(&mut pictures, |p| !is_mounted(p)).await;
    assert_eq!(words(&pictures.borrow().devices[&name]), ["ext4 file system"]);
    let swap = Loop::attach(folder.path(), "swap", 64 << 20);
    run("mkswap", &["--quiet", &swap.dev()]);
    let says =
        |p: &Arc<Inventory>, what: &[&str]| p.devices.get(&swap.name).is_some_and(|d| words(d) == what);
    until(&mut pictures, |p| says(p, &["swap area"])).await;
    run("swapon", &[&swap.dev()]);
    let swap_on = until(&mut pictures, |p| says(p, &["swap area", "swap in use"])).await;
    run("swapoff", &[&swap.dev()]);
    let swap_off = until(&mut pictures, |p| says(p, &["swap area"])).await;
    drop(device);
    let pulled = until(&mut pictures, |p| !p.devices.contains_key(&name)).await;
    println!(
        "plug {plug:?}, mount {mounted:?}, unmount {unmounted:?}, swapon {swap_on:?}, swapoff {swap_off:?}, \
         pull {pulled:?}, {:?}",
        handle.counters()
    );
}

#[tokio::test]
#[ignore = "needs root and loop devices"]
async fn a_storm_of_announcements_costs_few_probes_and_nothing_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::attach(folder.path(), "storm", 64 << 20);
    let config = WatcherConfig {
        discover_interval: Duration::from_secs(3600),
    };
    let (mut pictures, handle) = Watcher::spawn(Arc::new(machine(folder.path())), config).unwrap();
    let name = device.name.clone();
    until(&mut pictures, |p| p.complete && p.devices.contains_key(&name)).await;
    let before = handle.counters();
    pictures.mark_unchanged();
    let uevent = format!("/sys/block/{name}/uevent");
    let start = Instant::now();
    for _ in 0..1000 {
        std::fs::write(&uevent, "change").unwrap();
    }
    let storm = start.elapsed();
    while handle.counters().events < before.events + 1000 {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{:?}",
            handle.counters()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handle.probe_now().await.unwrap();
    let probes = handle.counters().probes - before.probes;
    println!("{probes} probes for a storm of {storm:?}");
    // At most one for each 250 ms of storm, those of the rescan that was asked for, and a few for the loop devices
    // of neighbours.
    let drives = pictures.borrow().devices.len() as u128;
    assert!(
        u128::from(probes) <= 8 + drives + storm.as_millis() / 100,
        "{probes} probes in {storm:?}"
    );
    assert!(!pictures.has_changed().unwrap());
    assert_eq!(handle.counters().lost, 0);
}

#[test]
#[ignore = "needs root and loop devices"]
fn asking_virtual_devices_for_their_health_runs_no_program_and_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::attach(folder.path(), "health", 64 << 20);
    let linux = machine(folder.path());
    assert!(!linux.health_due(&device.name, Instant::now()));
    let asked = linux.probe(
        &device.name,
        &linux.surroundings(),
        Depth {
            reread: false,
            health: true,
            wake: false,
        },
        Instant::now(),
    );
    let faults = asked.unwrap().faults;
    assert_eq!(faults.len(), 1);
    assert_eq!(
        (faults[0].probe, faults[0].kind),
        (Probe::Smartctl, FaultKind::Unsupported)
    );
}
