//! The node's picture, pure: probes are folded into an [`Inventory`], and two of them differ by a [`Delta`].
//!
//! Equal pictures make no delta: what drifts by nature (temperature, hours, pace of work) is held still here until it has moved
//! far enough to matter. Nothing here reads a clock or a device.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::hardware::{Device, Fault, Health, Transport};

/// Degrees Celsius that a drive's temperature must move before it is told again.
const TEMPERATURE_STEP: u32 = 5;
/// Hours that a drive's age must grow before it is told again.
const HOURS_STEP: u64 = 24;

/// Everything the agent knows about the node's drives at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// False until every drive was probed once: until then an absence says nothing.
    pub complete: bool,
    /// Drives by kernel name.
    pub devices: BTreeMap<String, Arc<Device>>,
    /// Faults that belong to no one device, sorted.
    pub faults: Vec<Fault>,
}

/// What one round of probing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A drive as it is now.
    Seen(Box<Device>),
    /// There is no drive of that kernel name any more.
    Gone(String),
}

/// What changed from one picture to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Drives that are new or different.
    pub changed: Vec<Arc<Device>>,
    /// Kernel names of drives that are gone.
    pub removed: Vec<String>,
    /// The node's faults as they are now, where they are different.
    pub faults_changed: Option<Vec<Fault>>,
}

impl Delta {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty() && self.faults_changed.is_none()
    }
}

/// The next picture: the old one with these findings in it.
pub fn fold(old: &Inventory, findings: impl IntoIterator<Item = Finding>) -> Inventory {
    let mut next = old.clone();
    for finding in findings {
        match finding {
            Finding::Gone(name) => {
                next.devices.remove(&name);
            }
            Finding::Seen(mut device) => {
                tidy(&mut device);
                if let Some(before) = next.devices.get(&device.name) {
                    hold_still(before.health.as_ref(), device.health.as_mut());
                    if let (Some(was), Some(is)) = (before.work, device.work)
                        && !is.differs_from(&was)
                    {
                        device.work = Some(was);
                    }
                }
                next.devices.insert(device.name.clone(), Arc::new(*device));
            }
        }
    }
    link_paths(&mut next.devices);
    next
}

/// The same picture with the node's own faults replaced.
pub fn with_faults(mut inventory: Inventory, mut faults: Vec<Fault>) -> Inventory {
    faults.sort();
    faults.dedup();
    inventory.faults = faults;
    inventory
}

/// What must be told to somebody who knows `old`, so that he knows `new`.
pub fn diff(old: &Inventory, new: &Inventory) -> Delta {
    let differs = |device: &&Arc<Device>| {
        old.devices
            .get(&device.name)
            .is_none_or(|before| !Arc::ptr_eq(before, device) && before != *device)
    };
    Delta {
        changed: new.devices.values().filter(differs).cloned().collect(),
        removed: old
            .devices
            .keys()
            .filter(|name| !new.devices.contains_key(*name))
            .cloned()
            .collect(),
        faults_changed: (old.faults != new.faults).then(|| new.faults.clone()),
    }
}

/// Orders what has no order of its own, so that equal facts are equal pictures.
fn tidy(device: &mut Device) {
    device.faults.sort();
    device.faults.dedup();
    device.usage.holders.sort();
    device.usage.holders.dedup();
    device.evidence.filesystem_uuids.sort();
    device.evidence.filesystem_uuids.dedup();
    device.paths.sort();
    device.paths.dedup();
}

fn hold_still(before: Option<&Health>, now: Option<&mut Health>) {
    let (Some(before), Some(now)) = (before, now) else {
        return;
    };
    if let (Some(was), Some(is)) = (before.temperature_celsius, now.temperature_celsius)
        && was.abs_diff(is) < TEMPERATURE_STEP
    {
        now.temperature_celsius = Some(was);
    }
    if let (Some(was), Some(is)) = (before.power_on_hours, now.power_on_hours)
        && is >= was
        && is - was < HOURS_STEP
    {
        now.power_on_hours = Some(was);
    }
}

/// Two SCSI devices with the same WWN, serial and size are two ports of one drive: each names the other. (NVMe paths
/// are hidden by the kernel, and their probe names them.)
fn link_paths(devices: &mut BTreeMap<String, Arc<Device>>) {
    let mut ports: BTreeMap<(String, String, u64), Vec<String>> = BTreeMap::new();
    for device in devices.values() {
        if let Some(key) = port_key(device) {
            ports.entry(key).or_default().push(device.name.clone());
        }
    }
    for device in devices.values_mut() {
        let Some(key) = port_key(device) else { continue };
        let siblings: Vec<String> = ports
            .get(&key)
            .into_iter()
            .flatten()
            .filter(|name| **name != device.name)
            .cloned()
            .collect();
        if device.paths != siblings {
            Arc::make_mut(device).paths = siblings;
        }
    }
}

/// Whether two devices are, or may be, ports of one drive: a WWN or an id of a namespace, and the size, are the same. In
/// doubt they are.
pub fn are_ports_of_one(one: &Device, other: &Device) -> bool {
    let ids = |device: &Device| {
        let of = &device.evidence;
        [&of.wwn, &of.nguid, &of.eui64, &of.nvme_uuid].map(Clone::clone)
    };
    let same_id = ids(one)
        .into_iter()
        .zip(ids(other))
        .any(|(one, other)| one.is_some() && one == other);
    one.name != other.name && one.size_bytes == other.size_bytes && same_id
}

fn port_key(device: &Device) -> Option<(String, String, u64)> {
    matches!(
        device.transport,
        Transport::Sas | Transport::Fc | Transport::Iscsi | Transport::Scsi
    )
    .then(|| {
        // A t10 name is of its vendor's making: of vendor, model and serial mostly, and with some targets the same for
        // every unit ("IET 00010001"). Two such units are two devices, which the controller takes for a conflict.
        let world_wide = |wwn: &String| !wwn.starts_with("t10.");
        Some((
            device.evidence.wwn.clone().filter(world_wide)?,
            device.evidence.serial.clone()?,
            device.size_bytes?,
        ))
    })
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::{Probe, Usage};

    fn device(name: &str) -> Device {
        Device {
            name: name.into(),
            size_bytes: Some(1 << 30),
            ..Device::default()
        }
    }

    fn seen(device: Device) -> Finding {
        Finding::Seen(Box::new(device))
    }

    #[test]
    fn equal_pictures_make_no_delta() {
        let first = fold(&Inventory::default(), [seen(device("sda")), seen(device("sdb"))]);
        let again = fold(&first, [seen(device("sdb")), seen(device("sda"))]);
        assert!(diff(&first, &again).is_empty());
    }

    #[test]
    fn order_of_faults_and_holders_is_no_difference() {
        let (a, b) = (
            Fault::failed(Probe::Nvme, "sda", "a"),
            Fault::failed(Probe::Sysfs, "sda", "b"),
        );
        let with = |faults: Vec<Fault>| Device {
            faults,
            ..device("sda")
        };
        let first = fold(&Inventory::default(), [seen(with(vec![a.clone(), b.clone()]))]);
        let second = fold(&first, [seen(with(vec![b, a.clone(), a]))]);
        assert!(diff(&first, &second).is_empty());
    }

    #[test]
    fn a_delta_names_what_changed_and_what_is_gone() {
        let first = fold(&Inventory::default(), [seen(device("sda")), seen(device("sdb"))]);
        let usage = Usage {
            blank: Some(true),
            ..Usage::default()
        };
        let second = fold(
            &first,
            [
                seen(Device {
                    usage,
                    ..device("sda")
                }),
                Finding::Gone("sdb".into()),
            ],
        );
        let delta = diff(&first, &second);
        assert_eq!(
            delta.changed.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(),
            ["sda"]
        );
        assert_eq!(delta.removed, ["sdb"]);
        assert_eq!(delta.faults_changed, None);
        assert!(diff(&second, &first).changed.len() == 2);
    }

    #[test]
    fn the_nodes_faults_are_told_when_they_come_and_when_they_go() {
        let clean = Inventory::default();
        let faulty = with_faults(clean.clone(), vec![Fault::failed(Probe::Uevent, "", "lost")]);
        assert_eq!(diff(&clean, &faulty).faults_changed.map(|f| f.len()), Some(1));
        assert_eq!(diff(&faulty, &clean).faults_changed, Some(vec![]));
    }

    #[test]
    fn drifting_temperature_and_age_are_silent_until_they_matter() {
        let with = |celsius, hours| Device {
            health: Some(Health {
                temperature_celsius: Some(celsius),
                power_on_hours: Some(hours),
                ..Health::default()
            }),
            ..device("sda")
        };
        let mut picture = fold(&Inventory::default(), [seen(with(30, 100))]);
        for (celsius, hours, told) in [
            (32, 101, false),
            (34, 110, false),
            (35, 111, true),
            (35, 130, true),
        ] {
            let next = fold(&picture, [seen(with(celsius, hours))]);
            assert_eq!(
                !diff(&picture, &next).is_empty(),
                told,
                "{celsius} degrees, {hours} hours"
            );
            picture = next;
        }
    }

    #[test]
    fn two_ports_of_one_sas_drive_name_each_other_and_part_again() {
        let port = |name: &str| {
            let mut port = device(name);
            port.transport = Transport::Sas;
            port.evidence.wwn = Some("naa.5000c500a1b2c3d4".into());
            port.evidence.serial = Some("ZX1".into());
            port
        };
        let both = fold(&Inventory::default(), [seen(port("sda")), seen(port("sdb"))]);
        assert_eq!(both.devices["sda"].paths, ["sdb"]);
        assert_eq!(both.devices["sdb"].paths, ["sda"]);
        let one = fold(&both, [Finding::Gone("sdb".into())]);
        assert!(one.devices["sda"].paths.is_empty());
        let lun = fold(
            &both,
            [seen(Device {
                size_bytes: Some(1),
                ..port("sdb")
            })],
        );
        assert!(
            lun.devices["sda"].paths.is_empty(),
            "another size is another logical unit"
        );
        let vendor_s = |name: &str| {
            let mut unit = port(name);
            unit.evidence.wwn = Some("t10.IET 00010001".into());
            unit
        };
        let two = fold(
            &Inventory::default(),
            [seen(vendor_s("sda")), seen(vendor_s("sdb"))],
        );
        assert!(
            two.devices["sda"].paths.is_empty(),
            "a name of the vendor's making"
        );
    }
}
