//! What the kernel and the programs beside the agent say: text of `/sys` and `/proc`, udevd's database, NVMe's
//! structures, JSON of `nvme` and `smartctl`, the description of a simulated machine.

use std::{fs, path::PathBuf, sync::OnceLock};

use smart_storage_agent::hardware::{Health, fuzzing as doors};

use super::{none, text};
use crate::{Format, Target, outcome};

const HEALTH_WORDS: &[&str] = &[
    "critical_warning",
    "temperature",
    "avail_spare",
    "spare_thresh",
    "percent_used",
    "power_on_hours",
    "media_errors",
    "value",
    "smart_status",
    "passed",
    "ata_smart_attributes",
    "table",
    "id",
    "raw",
    "scsi_grown_defect_list",
    "scsi_error_counter_log",
    "total_uncorrected_errors",
    "nvme_smart_health_information_log",
    "power_on_time",
    "hours",
    "smartctl",
    "messages",
    "string",
    "Device is in STANDBY mode",
    "smart_support",
    "available",
    "endurance_used",
];

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "sysfs",
        format: Format::Text,
        run: sysfs,
        seeds: none,
        words: &[
            "nguid",
            "eui",
            "uuid",
            "wwid",
            "serial",
            "device/serial",
            "device/wwid",
            "device/vpd_pg80",
            "device/vpd_pgb1",
            "size",
            "dev",
            "diskseq",
            "queue/zoned",
            "queue/rotational",
            "hidden",
            "ro",
            "stat",
            "partition",
            "\n",
            "=",
            "0000000000000000",
            "unknown",
            "naa.",
            "eui.",
            "t10.",
            "\u{0}",
            "18446744073709551615",
            "259:0",
            "host-managed",
        ],
        short: 250,
    },
    Target {
        name: "uevent",
        format: Format::Text,
        run: uevent,
        seeds: none,
        words: &["/", "//", "!", "..", "sda1", "/devices/virtual/block/loop1", "\n"],
        short: 6000,
    },
    Target {
        name: "udev",
        format: Format::Text,
        run: udev,
        seeds: none,
        words: &["E:", "=", "\n", "ID_SERIAL_SHORT", "S:", "\u{0}"],
        short: 5000,
    },
    Target {
        name: "mountinfo",
        format: Format::Text,
        run: mountinfo,
        seeds: none,
        words: &[
            " - ", "\\040", "\\", "\\777", ":", "/dev/", "master:1", "btrfs", "0:0", "\n", "\u{fffd}",
        ],
        short: 5000,
    },
    Target {
        name: "swaps",
        format: Format::Text,
        run: swaps,
        seeds: none,
        words: &["\\040(deleted)", "partition", "file", "\t", "\n", "/dev/"],
        short: 5000,
    },
    Target {
        name: "kernel-log",
        format: Format::Text,
        run: kernel_log,
        seeds: none,
        words: &[
            ";",
            "critical medium error",
            "I/O error",
            ", dev ",
            ", sector ",
            " op 0x0:(READ)",
            "nvme0c1n1",
            "99999999999999999999",
        ],
        short: 5000,
    },
    Target {
        name: "nvme-identify",
        format: Format::Bytes,
        run: nvme_identify,
        seeds: identify_seeds,
        words: &["                    ", "\u{0}\u{0}\u{0}\u{0}"],
        short: 1500,
    },
    Target {
        name: "nvme-smart",
        format: Format::Bytes,
        run: nvme_smart,
        seeds: smart_seeds,
        words: &["\u{0}\u{0}\u{0}\u{0}"],
        short: 4000,
    },
    Target {
        name: "nvme-cli",
        format: Format::Json,
        run: nvme_cli,
        seeds: none,
        words: HEALTH_WORDS,
        short: 2500,
    },
    Target {
        name: "smartctl",
        format: Format::Json,
        run: smartctl,
        seeds: none,
        words: HEALTH_WORDS,
        short: 1500,
    },
    Target {
        name: "simulation",
        format: Format::Json,
        run: simulation,
        seeds: none,
        words: &[
            "devices",
            "node_faults",
            "name",
            "size_bytes",
            "kind",
            "transport",
            "evidence",
            "usage",
            "blank",
            "holders",
            "faults",
            "probe",
            "nvme-cli",
            "health",
        ],
        short: 1200,
    },
];

/// A `/sys` with one disk of each sort; an input is lines `attribute=text`, and they are the disks' attributes.
fn tree() -> &'static PathBuf {
    static TREE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let made = TREE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().to_owned();
        let sys = root.join("sys");
        for name in ["sda", "nvme0n1", "loop7"] {
            let own = sys.join(format!("devices/pci0000:00/{name}.d/block/{name}"));
            fs::create_dir_all(&own).expect("a folder");
            let parent = sys.join(format!("devices/pci0000:00/{name}.d"));
            for below in ["queue", "loop", "holders", "slaves"] {
                fs::create_dir_all(own.join(below)).expect("a folder");
            }
            std::os::unix::fs::symlink(&parent, own.join("device")).expect("a link");
            for of in ["block", "class/block"] {
                fs::create_dir_all(sys.join(of)).expect("a folder");
                std::os::unix::fs::symlink(&own, sys.join(of).join(name)).expect("a link");
            }
        }
        (folder, root)
    });
    &made.1
}

/// Attributes of one input; gone with it, also where it fails, so that the next one finds nothing of it.
#[derive(Default)]
struct Written(Vec<PathBuf>);

impl Drop for Written {
    fn drop(&mut self) {
        for file in &self.0 {
            drop(fs::remove_file(file));
        }
    }
}

fn sysfs(data: &[u8]) -> u64 {
    let root = tree();
    let mut written = Written::default();
    let mut answers = Vec::new();
    for name in ["sda", "nvme0n1", "loop7"] {
        let own = root.join(format!("sys/class/block/{name}"));
        let lines = data.split(|byte| *byte == b'\n').take(40);
        for (attr, value) in lines.filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b'=')?;
            Some((line.get(..at)?, line.get(at + 1..)?))
        }) {
            let Ok(attr) = std::str::from_utf8(attr) else {
                continue;
            };
            // Only what the kernel has there: no path that leads elsewhere.
            let known = attr
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'/'));
            if known && !attr.starts_with('/') && !attr.is_empty() && fs::write(own.join(attr), value).is_ok()
            {
                written.0.push(own.join(attr));
            }
        }
        let (device, is_drive, below) = doors::sys(root, name);
        if let Some(device) = device {
            let evidence = &device.evidence;
            for id in [&evidence.nguid, &evidence.eui64].into_iter().flatten() {
                assert!(
                    id.bytes()
                        .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()),
                    "{id:?} is no lower-case hex"
                );
                assert!(id.bytes().any(|b| b != b'0'), "an all-zero id is evidence");
            }
            for told in [&evidence.serial, &evidence.wwn, &evidence.nvme_uuid]
                .into_iter()
                .flatten()
            {
                assert!(
                    doors::meaningful(told).is_some(),
                    "{told:?} says nothing, and is evidence"
                );
            }
            assert_eq!(device.usage.blank, None, "/sys never says that a drive is blank");
            answers.push(outcome((
                is_drive,
                device.size_bytes.is_some(),
                device.zoned as u8,
                device.kind as u8,
                evidence.nguid.is_some(),
                evidence.eui64.is_some(),
                evidence.wwn.is_some(),
                evidence.serial.is_some(),
                below.len(),
            )));
        }
    }
    outcome(answers)
}

fn uevent(data: &[u8]) -> u64 {
    let text = text(data);
    let mut lines = text.lines();
    let (name, path) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let flags = data.len();
    let event = doors::announcement(name, path, (flags & 1 == 1, flags & 2 == 2, flags & 4 == 4));
    assert!(!event.name.contains('/') || event.name == name, "{event:?}");
    assert!(!event.disk.contains('/') || event.disk == name, "{event:?}");
    outcome((
        event.name == event.disk,
        event.controller,
        event.name.is_empty(),
        event.disk.is_empty(),
    ))
}

fn udev(data: &[u8]) -> u64 {
    let found = doors::udev_database(&text(data));
    for key in found.keys() {
        assert!(!key.contains(['\n', '=']), "{key:?}");
    }
    outcome((found.len(), found.contains_key("ID_SERIAL_SHORT")))
}

fn mountinfo(data: &[u8]) -> u64 {
    let text = text(data);
    let mounts = doors::mountinfo(&text);
    assert!(mounts.len() <= text.lines().count(), "more mounts than lines");
    for mount in &mounts {
        assert!(mount.major != 0 || mount.source.starts_with("/dev/"), "{mount:?}");
        assert!(
            !mount.mount_point.contains(' ') || text.contains("\\040"),
            "a blank out of nothing: {mount:?}"
        );
    }
    outcome((
        mounts.len(),
        mounts.first().map(|m| (m.major == 0, m.root.len() > 1)),
    ))
}

fn kernel_log(data: &[u8]) -> u64 {
    let text = text(data);
    let found = doors::io_error(&text);
    if let Some((drive, place, words)) = &found {
        assert!(
            !drive.is_empty() && drive.bytes().all(|b| b.is_ascii_alphanumeric()),
            "{drive:?}"
        );
        let medium = words.starts_with("critical medium") || words.starts_with("protection");
        assert_eq!(place.is_some(), medium, "{words:?}");
        assert!(words.len() < 100, "{words:?}");
    }
    outcome(found.map(|(drive, place, _)| (drive.starts_with("nvme"), place.is_some())))
}

fn swaps(data: &[u8]) -> u64 {
    let text = text(data);
    let swaps = doors::swaps(&text);
    assert!(swaps.len() <= text.lines().count(), "more areas than lines");
    outcome((swaps.len(), swaps.first().map(|swap| swap.kind.clone().len())))
}

fn nvme_identify(data: &[u8]) -> u64 {
    let (serial, model, firmware, namespaces, total) = doors::nvme_controller(data);
    for told in [&serial, &model, &firmware].into_iter().flatten() {
        assert!(doors::meaningful(told).is_some(), "{told:?} says nothing");
    }
    assert_ne!(total, Some(0), "a capacity that is not told is not zero");
    outcome((
        serial.is_some(),
        model.is_some(),
        firmware.is_some(),
        namespaces.is_some(),
        total.is_some(),
    ))
}

fn nvme_smart(data: &[u8]) -> u64 {
    let health = doors::nvme_health(data);
    if data.len() < 176 {
        let errors = health.as_ref().and_then(|health| health.media_errors);
        assert_eq!(errors, None, "a counter out of a log that is cut off");
    }
    outcome(health.map(|h| {
        (
            h.critical_warning,
            h.temperature_celsius.is_some(),
            h.media_errors.is_some(),
        )
    }))
}

fn nvme_cli(data: &[u8]) -> u64 {
    let ioctl = Health {
        critical_warning: Some(0),
        media_errors: Some(1),
        percentage_used: Some(2),
        ..Health::default()
    };
    let found = doors::nvme_cli(data, &ioctl);
    outcome(found.map(|(health, differences)| {
        (
            health.critical_warning.is_some(),
            health.power_on_hours.is_some(),
            health.temperature_celsius.is_some(),
            differences.len(),
        )
    }))
}

fn smartctl(data: &[u8]) -> u64 {
    // The exit status is a mask of eight bits; the input's length chooses it.
    let status = i32::try_from(data.len() % 256).unwrap_or(0);
    let found = doors::smartctl(status, data);
    if let Ok(health) = &found {
        assert!(status & 3 == 0, "told although it could not be opened: {status}");
        let silent = Health {
            source: health.source.clone(),
            ..Health::default()
        };
        assert_ne!(*health, silent, "silence is told as health");
        assert!(
            status & 8 == 0 || health.self_assessment_passed == Some(false),
            "the drive says that it fails, and passed"
        );
    }
    outcome(
        found
            .map(|h| {
                (
                    h.self_assessment_passed,
                    h.reallocated_sectors.is_some(),
                    h.uncorrectable_errors.is_some(),
                )
            })
            .map_err(|e| e.len().min(64)),
    )
}

fn simulation(data: &[u8]) -> u64 {
    let found = doors::simulation(data);
    outcome(found.map_err(|error| error.split(' ').next().map(str::to_owned)))
}

fn identify_seeds() -> Vec<Vec<u8>> {
    let mut bytes = vec![0_u8; 4096];
    bytes.splice(4..24, *b"NVSER0001           ");
    bytes.splice(24..64, *b"QEMU NVMe Ctrl                          ");
    bytes.splice(64..72, *b"10.0.2  ");
    bytes.splice(280..288, 3_840_000_000_000_u64.to_le_bytes());
    bytes.splice(516..520, 256_u32.to_le_bytes());
    vec![bytes]
}

fn smart_seeds() -> Vec<Vec<u8>> {
    let mut bytes = vec![0_u8; 512];
    bytes.splice(0..6, [13, 0x43, 1, 90, 10, 120]);
    bytes.splice(128..136, 4242_u64.to_le_bytes());
    bytes.splice(160..176, u128::MAX.to_le_bytes());
    vec![bytes]
}
