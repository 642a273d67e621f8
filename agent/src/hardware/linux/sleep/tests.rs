use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::hardware::host::{Host, Inode, Live, Look, MountTable, Unread};
use crate::hardware::ioctl::NvmeRead;
use crate::hardware::linux::{Linux, LinuxConfig};
use crate::hardware::program::Output;
use crate::hardware::{Depth, Device, Hardware, Probe, signatures};

const STANDBY: &str = r#"{"smartctl":{"messages":[{"string":"Device is in STANDBY mode, exit(2)"}]}}"#;
const AWAKE: &str = r#"{"smart_status":{"passed":true},"temperature":{"current":31}}"#;
const FOREVER: Duration = Duration::from_secs(3600);

/// A machine in a folder with the SATA disk `sda`: whatever opens its node is noted.
#[derive(Debug)]
struct Watched {
    live: Live,
    node: PathBuf,
    opened: Mutex<Vec<&'static str>>,
    smartctl: Mutex<(i32, &'static str)>,
}

impl Host for Watched {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        self.live.read(path)
    }
    fn names(&self, folder: &str, prefix: &str) -> io::Result<Vec<String>> {
        self.live.names(folder, prefix)
    }
    fn resolve(&self, path: &str) -> io::Result<String> {
        self.live.resolve(path)
    }
    fn inode(&self, path: &str) -> Option<Inode> {
        self.live.inode(path)
    }
    fn lies_under(&self, _: &str, _: &Path) -> bool {
        false
    }
    fn look(&self, device: &Device) -> Result<Look, Unread> {
        self.opened.lock().push("read");
        let size_bytes = device.size_bytes.unwrap_or_default();
        let file = File::open(&self.node).unwrap();
        Ok(Look {
            size_bytes,
            loop_status: None,
            findings: signatures::examine(&file, size_bytes),
        })
    }
    fn hold(&self, _: &Device) -> io::Result<()> {
        self.opened.lock().push("hold");
        Ok(())
    }
    fn nvme(&self, _: &str, _: [NvmeRead; 2]) -> io::Result<[io::Result<Vec<u8>>; 2]> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn run(&self, _: &str, arguments: &[&str]) -> io::Result<Output> {
        let asked = if arguments.contains(&"-a") {
            "health"
        } else {
            "power"
        };
        self.opened.lock().push(asked);
        assert_eq!(arguments[2..6], ["-n", "standby", "-d", "sat"]);
        let (status, stdout) = *self.smartctl.lock();
        Ok(Output {
            status: Some(status),
            stdout: stdout.into(),
        })
    }
    fn mount_tables(&self, _: &mut dyn FnMut(MountTable)) {}
    fn watched(&self) -> Vec<PathBuf> {
        Vec::new()
    }
    fn is_live(&self) -> bool {
        false
    }
}

struct Bed {
    _root: tempfile::TempDir,
    own: PathBuf,
    host: Arc<Watched>,
    linux: Linux,
}

impl Bed {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let sys = root.path().join("sys");
        let own = sys.join("devices/pci0/ata1/host0/target0:0:0/0:0:0:0/block/sda");
        for folder in ["queue", "holders", "device/power"] {
            fs::create_dir_all(own.join(folder)).unwrap();
        }
        for folder in ["block", "class/block"] {
            fs::create_dir_all(sys.join(folder)).unwrap();
            std::os::unix::fs::symlink(&own, sys.join(folder).join("sda")).unwrap();
        }
        fs::create_dir(root.path().join("proc")).unwrap();
        fs::write(
            root.path().join("proc/swaps"),
            "Filename Type Size Used Priority\n",
        )
        .unwrap();
        let node = root.path().join("medium");
        File::create(&node).unwrap().set_len(1 << 20).unwrap();
        for (attribute, text) in [
            ("dev", "8:0"),
            ("size", "2048"),
            ("diskseq", "7"),
            ("stat", "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0"),
            ("queue/logical_block_size", "512"),
            ("queue/rotational", "1"),
        ] {
            fs::write(own.join(attribute), text).unwrap();
        }
        let host = Arc::new(Watched {
            live: Live::new(root.path()),
            node,
            opened: Mutex::default(),
            smartctl: Mutex::new((0, AWAKE)),
        });
        let config = LinuxConfig {
            health_interval: FOREVER,
            ..LinuxConfig::default()
        };
        let linux = Linux::over(Arc::clone(&host) as _, config);
        let bed = Self {
            _root: root,
            own,
            host,
            linux,
        };
        bed.kernel_says("active");
        bed
    }

    fn kernel_says(&self, status: &str) {
        fs::write(self.own.join("device/power/runtime_status"), status).unwrap();
    }

    fn drive_says(&self, status: i32, json: &'static str) {
        *self.host.smartctl.lock() = (status, json);
    }

    fn probe(&self, depth: Depth) -> (Device, Vec<&'static str>) {
        let now = Instant::now();
        let found = self
            .linux
            .probe("sda", &self.linux.surroundings(), depth, now)
            .unwrap();
        (found, std::mem::take(&mut *self.host.opened.lock()))
    }

    fn due(&self, after: Duration) -> bool {
        self.linux.health_due("sda", Instant::now() + after)
    }
}

const LOOK: Depth = Depth {
    reread: false,
    health: false,
    wake: false,
};
const DEEP: Depth = Depth {
    reread: true,
    health: true,
    wake: false,
};

fn faults(device: &Device) -> Vec<(Probe, &str)> {
    let faults = device.faults.iter();
    faults.map(|fault| (fault.probe, fault.detail.as_str())).collect()
}

#[test]
fn a_disk_that_the_kernel_put_to_sleep_is_not_opened_and_stays_what_it_was() {
    let bed = Bed::new();
    let (awake, opened) = bed.probe(DEEP);
    assert_eq!(opened, ["power", "read", "hold", "health"]);
    assert_eq!(awake.usage.blank, Some(true));
    assert_eq!(awake.health.as_ref().unwrap().self_assessment_passed, Some(true));
    for status in ["suspending", "suspended"] {
        bed.kernel_says(status);
        for depth in [LOOK, DEEP] {
            assert_eq!(bed.probe(depth), (awake.clone(), Vec::new()), "{status}");
        }
    }
    assert!(!bed.due(2 * FOREVER));
    bed.kernel_says("active");
    assert!(bed.due(2 * FOREVER));
    let (_, opened) = bed.probe(LOOK);
    assert_eq!(opened, ["power", "read", "hold"], "it was to be read again");
    assert_eq!(bed.probe(LOOK).1, ["hold"], "and was");
}

#[test]
fn of_a_disk_first_seen_asleep_nothing_is_claimed_and_it_is_said_why() {
    let bed = Bed::new();
    bed.kernel_says("suspended");
    let (asleep, opened) = bed.probe(DEEP);
    assert!(opened.is_empty(), "{opened:?}");
    assert_eq!((asleep.usage.blank, &asleep.health), (None, &None));
    let why = faults(&asleep);
    assert_eq!(
        why.iter().map(|(probe, _)| *probe).collect::<Vec<_>>(),
        [Probe::Signatures, Probe::Smartctl]
    );
    assert!(why.iter().all(|(_, detail)| detail.contains("sleeps")), "{why:?}");
    assert_eq!(bed.probe(LOOK).0, asleep, "said once");
    bed.kernel_says("active");
    assert!(bed.due(Duration::ZERO), "asked as soon as it is awake");
    let (awake, _) = bed.probe(DEEP);
    assert_eq!((awake.usage.blank, awake.faults.len()), (Some(true), 0));
    assert!(awake.health.is_some());
}

#[test]
fn what_was_written_before_it_fell_asleep_is_not_known() {
    let bed = Bed::new();
    bed.probe(LOOK);
    fs::write(bed.own.join("stat"), "0 0 0 0 5 0 40 0 0 0 0 0 0 0 0").unwrap();
    bed.kernel_says("suspended");
    let (asleep, opened) = bed.probe(LOOK);
    assert!(opened.is_empty(), "{opened:?}");
    assert_eq!(asleep.usage.blank, None);
    assert!(faults(&asleep)[0].1.starts_with("it was written to since"));
}

#[test]
fn another_disk_under_the_name_inherits_nothing() {
    let bed = Bed::new();
    bed.probe(DEEP);
    fs::write(bed.own.join("diskseq"), "8").unwrap();
    bed.kernel_says("suspended");
    let (other, _) = bed.probe(LOOK);
    assert_eq!((other.usage.blank, other.health), (None, None));
}

#[test]
fn a_disk_that_stands_by_by_itself_is_asked_whether_it_does_and_nothing_more() {
    let bed = Bed::new();
    bed.drive_says(2, STANDBY);
    let (asleep, opened) = bed.probe(DEEP);
    assert_eq!(opened, ["power", "health"]);
    assert_eq!((asleep.usage.blank, &asleep.health), (None, &None));
    assert_eq!(faults(&asleep).len(), 2, "{:?}", asleep.faults);
    bed.drive_says(0, AWAKE);
    let (awake, _) = bed.probe(DEEP);
    assert_eq!((awake.usage.blank, awake.faults.len()), (Some(true), 0));
    bed.drive_says(2, STANDBY);
    let (again, opened) = bed.probe(DEEP);
    assert_eq!((again, opened), (awake, vec!["power", "hold", "health"]));
}

#[test]
fn an_order_that_is_about_to_write_wakes_it() {
    let wake = Depth { wake: true, ..LOOK };
    for (kernel, drive) in [("suspended", (0, AWAKE)), ("active", (2, STANDBY))] {
        let bed = Bed::new();
        bed.kernel_says(kernel);
        bed.drive_says(drive.0, drive.1);
        let (device, opened) = bed.probe(wake);
        assert_eq!(opened, ["read", "hold"], "{kernel}");
        let of_contents = faults(&device)
            .into_iter()
            .find(|(probe, _)| *probe == Probe::Signatures);
        assert_eq!((device.usage.blank, of_contents), (Some(true), None));
    }
}

#[test]
fn a_stopped_scsi_disk_keeps_what_it_said_and_is_shown_not_ready() {
    const STOPPED: &str = r#"{"smartctl":{"exit_status":2},"device":{"type":"scsi","protocol":"SCSI"},
        "user_capacity":{"blocks":16384,"bytes":8388608}}"#;
    let bed = Bed::new();
    let (awake, _) = bed.probe(DEEP);
    bed.drive_says(2, STOPPED);
    for _ in 0..2 {
        let (stopped, _) = bed.probe(DEEP);
        assert_eq!(stopped.health, awake.health);
        let why = faults(&stopped);
        assert_eq!(why.len(), 1, "{why:?}");
        assert!(why[0].1.starts_with("the disk is not ready"), "{why:?}");
    }
    bed.drive_says(0, AWAKE);
    assert_eq!(bed.probe(DEEP).0, awake);
}
