//! A machine made of a JSON file: for demonstrations, benches and tests without drives.
//!
//! The file is one object: `{"devices": [...], "node_faults": [...]}`. Each device has the fields of [`Device`] under
//! their own names; all but `name` may be left out, and an unknown field is an error that names it. For example:
//!
//! ```json
//! {"devices": [{"name": "nvme0n1", "size_bytes": 3840000000000, "kind": "nvme", "transport": "pcie",
//!               "model": "INTEL SSDPE2KX040T8", "evidence": {"eui64": "0025385c21501234", "serial": "S1"},
//!               "usage": {"blank": true, "exclusive_open_ok": true}}]}
//! ```
//!
//! It is read again at every rescan and whenever a probe is asked for; while it cannot be read, the last good
//! picture stays and a fault says why. It never touches a device, and neither does `member`, which refuses every order
//! then: a drive of the file may look like one of the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde::Deserialize;

use super::{Depth, Device, Fault, Hardware, Mount, Probe, Pulse, Surroundings, bundle};
use crate::inventory::are_ports_of_one;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    node_faults: Vec<Fault>,
}

/// The machine that a file describes.
#[derive(Debug)]
pub struct Sim {
    path: PathBuf,
    picture: Mutex<Picture>,
}

#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) devices: BTreeMap<String, Device>,
    faults: Vec<Fault>,
}

/// Why a description cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The file cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no such description.
    #[error("{path}: {detail}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// Line, column and field.
        detail: String,
    },
}

/// The machine that a file holds: a bundle of what another machine answered, which is read once, or a description.
///
/// # Errors
/// Where it cannot be read or is neither.
pub fn open(path: &Path) -> Result<Arc<dyn Hardware>, SimError> {
    let bytes = read(path)?;
    match bundle::machine(&bytes) {
        Some(Ok(machine)) => Ok(Arc::new(machine)),
        Some(Err(detail)) => Err(SimError::Format {
            path: path.to_owned(),
            detail,
        }),
        None => Ok(Arc::new(Sim::open(path)?)),
    }
}

impl Sim {
    /// Reads the description.
    ///
    /// # Errors
    /// Where it cannot be read or is wrong; later errors are faults.
    pub fn open(path: &Path) -> Result<Self, SimError> {
        let picture = load(path)?;
        Ok(Self {
            path: path.to_owned(),
            picture: Mutex::new(picture),
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, SimError> {
    std::fs::read(path).map_err(|source| SimError::Read {
        path: path.to_owned(),
        source,
    })
}

fn load(path: &Path) -> Result<Picture, SimError> {
    parse(&read(path)?).map_err(|detail| SimError::Format {
        path: path.to_owned(),
        detail,
    })
}

pub(super) fn parse(bytes: &[u8]) -> Result<Picture, String> {
    let description: Description = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let mut devices = BTreeMap::new();
    for (index, mut device) in description.devices.into_iter().enumerate() {
        if device.name.is_empty() {
            return Err(format!("devices[{index}] has no name"));
        }
        if device.dev_path.is_empty() {
            device.dev_path = format!("/dev/{}", device.name);
        }
        let name = device.name.clone();
        if devices.insert(name.clone(), device).is_some() {
            return Err(format!("devices[{index}]: {name} is there twice"));
        }
    }
    Ok(Picture {
        devices,
        faults: description.node_faults,
    })
}

impl Hardware for Sim {
    fn list(&self) -> Result<Vec<String>, Fault> {
        let mut picture = self.picture.lock();
        match load(&self.path) {
            Ok(next) => {
                *picture = next;
                Ok(picture.devices.keys().cloned().collect())
            }
            Err(error) => Err(Fault::failed(Probe::Sysfs, "", error.to_string())),
        }
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            faults: self.picture.lock().faults.clone(),
            ..Surroundings::default()
        }
    }

    fn probe(&self, name: &str, _around: &Surroundings, _depth: Depth, _now: Instant) -> Option<Device> {
        self.picture.lock().devices.get(name).cloned()
    }

    fn health_due(&self, _name: &str, _now: Instant) -> bool {
        false
    }

    fn drives_below(&self, name: &str) -> Vec<String> {
        vec![name.to_owned()]
    }

    fn drives_of_mount(&self, _mount: &Mount) -> Vec<String> {
        Vec::new()
    }

    fn settled(&self, _name: &str) -> bool {
        true
    }

    fn has_events(&self) -> bool {
        false
    }

    fn watched_tables(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn log(&self) -> Result<Option<BorrowedFd<'_>>, Fault> {
        Ok(None)
    }

    fn read_log(&self) -> Result<BTreeSet<String>, Fault> {
        Ok(BTreeSet::new())
    }

    fn pulse(&self, device: &Device, _now: Instant) -> Pulse {
        Pulse {
            work: device.work,
            io_errors: device.io_errors.clone(),
        }
    }

    fn other_ports(&self, device: &Device) -> Result<Vec<String>, Fault> {
        let picture = self.picture.lock();
        let others = picture
            .devices
            .values()
            .filter(|other| are_ports_of_one(device, other));
        Ok(others.map(|other| other.name.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::{Kind, Transport};
    use proptest::prelude::*;

    const ONE: &str = r#"{"devices": [{"name": "nvme0n1", "size_bytes": 1000, "kind": "nvme", "transport": "pcie",
        "evidence": {"eui64": "0025385c21501234"}, "usage": {"blank": true},
        "faults": [{"probe": "nvme-cli", "kind": "unsupported", "detail": "not installed"}]}]}"#;

    #[test]
    fn a_description_is_a_machine_and_may_change_while_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.json");
        std::fs::write(&path, ONE).unwrap();
        let sim = Sim::open(&path).unwrap();
        assert_eq!(sim.list().unwrap(), ["nvme0n1"]);
        let probe = |name| sim.probe(name, &Surroundings::default(), Depth::default(), Instant::now());
        let device = probe("nvme0n1").unwrap();
        assert_eq!((device.kind, device.transport), (Kind::Nvme, Transport::Pcie));
        assert_eq!(device.dev_path, "/dev/nvme0n1");
        std::fs::write(&path, r#"{"devices": [{"name": "sda"}]}"#).unwrap();
        assert_eq!(sim.list().unwrap(), ["sda"]);
        assert_eq!(probe("nvme0n1"), None);
        std::fs::write(&path, "{").unwrap();
        assert!(sim.list().is_err());
        assert!(probe("sda").is_some(), "the last good picture stays");
    }

    #[test]
    fn a_wrong_description_names_what_is_wrong() {
        let detail = |text: &str| parse(text.as_bytes()).map(|_| ()).unwrap_err();
        assert!(detail(r#"{"devices": [{"name": "sda", "sise_bytes": 1}]}"#).contains("sise_bytes"));
        assert!(detail(r#"{"devices": [{}]}"#).contains("devices[0] has no name"));
        assert!(detail(r#"{"devices": [{"name": "a"}, {"name": "a"}]}"#).contains("twice"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~]{0,200}") {
            let _ = parse(text.as_bytes());
        }
    }
}
