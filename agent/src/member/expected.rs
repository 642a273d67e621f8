//! Which drive does the controller mean? Pure: the drives as they are seen, against the drive as it is known.
//!
//! Never by name, and never by the best match: every piece of evidence that the controller has must be there and
//! equal, at least one of them must say who the drive is, and exactly one drive may answer to it.

use std::sync::Arc;

use super::{ExpectedDrive, MemberError, MemberId};
use crate::hardware::{Device, Evidence};
use crate::inventory::Inventory;

/// Drives that carry this member's mark; one that is here by several paths counts once, by the first of its names.
pub(super) fn marked(inventory: &Inventory, id: MemberId) -> Vec<Arc<Device>> {
    let is_it = |device: &&Arc<Device>| {
        device
            .evidence
            .mark
            .as_ref()
            .and_then(|mark| MemberId::parse(&mark.member_id))
            == Some(id)
    };
    let mut devices: Vec<_> = inventory.devices.values().filter(is_it).cloned().collect();
    // sda, sdb, sdaa.
    devices.sort_by(|one, other| (one.name.len(), &one.name).cmp(&(other.name.len(), &other.name)));
    let mut drives: Vec<Arc<Device>> = Vec::new();
    for device in devices {
        if !drives.iter().any(|drive| drive.paths.contains(&device.name)) {
            drives.push(device);
        }
    }
    drives
}

/// The one drive that answers to everything that is known of it.
pub(super) fn choose(inventory: &Inventory, drive: &ExpectedDrive) -> Result<Arc<Device>, MemberError> {
    let mut agreeing = inventory
        .devices
        .values()
        .filter(|device| disagreement(device, drive).is_none());
    match (agreeing.next(), agreeing.next()) {
        (Some(device), None) => Ok(Arc::clone(device)),
        (Some(one), Some(other)) => Err(MemberError::refused(
            "Ambiguous",
            format!(
                "drive {} answers to both {} and {}: neither is taken; detach one of them",
                drive.drive_id, one.name, other.name
            ),
        )),
        (None, _) => Err(absent(inventory, drive)),
    }
}

fn absent(inventory: &Inventory, drive: &ExpectedDrive) -> MemberError {
    let there = inventory.devices.get(&drive.device);
    match there.and_then(|device| disagreement(device, drive)) {
        Some(what) => MemberError::transient(
            "DriveChanged",
            format!(
                "{} is not drive {} any more: {what}; nothing was written",
                drive.device, drive.drive_id
            ),
        ),
        None => MemberError::transient(
            "DriveMissing",
            format!(
                "drive {} (last seen as {}) is not on this node; attach it",
                drive.drive_id, drive.device
            ),
        ),
    }
}

/// The first thing in which a device differs from the drive that is meant; `None`: it is that drive.
pub(super) fn disagreement(device: &Device, drive: &ExpectedDrive) -> Option<String> {
    if device.size_bytes != Some(drive.size_bytes) {
        let seen = device
            .size_bytes
            .map_or("unknown".to_owned(), |size| format!("{size} bytes"));
        return Some(format!(
            "its size is {seen}, planned were {} bytes",
            drive.size_bytes
        ));
    }
    if drive.disk_sequence.is_some() && device.disk_sequence != drive.disk_sequence {
        return Some("its disk sequence number is another: it was exchanged or attached again".to_owned());
    }
    differing_evidence(&device.evidence, &drive.evidence)
}

/// The first piece of evidence that is known and is not there, or is another now.
pub(super) fn differing_evidence(seen: &Evidence, known: &Evidence) -> Option<String> {
    let namespace = |evidence: &Evidence| evidence.nvme_namespace.map(|number| number.to_string());
    let pieces = [
        ("NGUID", known.nguid.clone(), seen.nguid.clone(), true),
        ("EUI-64", known.eui64.clone(), seen.eui64.clone(), true),
        ("NVMe UUID", known.nvme_uuid.clone(), seen.nvme_uuid.clone(), true),
        ("WWN", known.wwn.clone(), seen.wwn.clone(), true),
        ("serial number", known.serial.clone(), seen.serial.clone(), true),
        (
            "backing file",
            known.backing_file.clone(),
            seen.backing_file.clone(),
            true,
        ),
        (
            "backing file's inode",
            known.backing_file_inode.clone(),
            seen.backing_file_inode.clone(),
            true,
        ),
        ("namespace number", namespace(known), namespace(seen), false),
    ];
    for (what, known, seen, _) in &pieces {
        if known.is_some() && known != seen {
            let text = |piece: &Option<String>| piece.clone().unwrap_or_else(|| "not there".to_owned());
            return Some(format!(
                "its {what} is {}, planned was {}",
                text(seen),
                text(known)
            ));
        }
    }
    let identified = pieces
        .iter()
        .any(|(_, known, _, identifies)| *identifies && known.is_some());
    (!identified).then(|| "nothing that says who it is was planned with it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::{Mark, Transport};
    use crate::inventory::{Finding, fold};

    fn device(name: &str, serial: &str) -> Device {
        Device {
            name: name.into(),
            size_bytes: Some(2 << 30),
            disk_sequence: Some(7),
            evidence: Evidence {
                serial: Some(serial.into()),
                ..Evidence::default()
            },
            ..Device::default()
        }
    }

    fn inventory(devices: impl IntoIterator<Item = Device>) -> Inventory {
        Inventory {
            complete: true,
            devices: devices
                .into_iter()
                .map(|device| (device.name.clone(), Arc::new(device)))
                .collect(),
            faults: Vec::new(),
        }
    }

    fn expected(serial: &str) -> ExpectedDrive {
        ExpectedDrive {
            device: "sda".into(),
            size_bytes: 2 << 30,
            disk_sequence: Some(7),
            evidence: Evidence {
                serial: Some(serial.into()),
                ..Evidence::default()
            },
            drive_id: "sas-1".into(),
        }
    }

    #[test]
    fn the_drive_is_found_under_another_name_and_never_by_its_name() {
        let found = choose(
            &inventory([device("sda", "B"), device("sdb", "A")]),
            &expected("A"),
        )
        .unwrap();
        assert_eq!(found.name, "sdb");
        let error = choose(&inventory([device("sda", "B")]), &expected("A")).unwrap_err();
        assert_eq!(error.reason, "DriveChanged");
        assert!(
            error.message.contains("serial number is B, planned was A"),
            "{}",
            error.message
        );
    }

    #[test]
    fn two_drives_with_the_same_evidence_are_both_refused() {
        let error = choose(
            &inventory([device("sda", "A"), device("sdb", "A")]),
            &expected("A"),
        )
        .unwrap_err();
        assert_eq!((error.reason, error.retryable), ("Ambiguous", false));
    }

    #[test]
    fn a_drive_that_is_not_there_is_missing() {
        let error = choose(&inventory([device("sdb", "B")]), &expected("A")).unwrap_err();
        assert_eq!(error.reason, "DriveMissing");
    }

    #[test]
    fn any_piece_that_differs_or_is_gone_speaks_against_the_drive() {
        let drive = expected("A");
        assert_eq!(disagreement(&device("sda", "A"), &drive), None);
        let cases: [fn(&mut Device); 5] = [
            |device| device.size_bytes = None,
            |device| device.size_bytes = Some(1 << 30),
            |device| device.disk_sequence = Some(8),
            |device| device.evidence.serial = None,
            |device| device.evidence = Evidence::default(),
        ];
        for case in cases {
            let mut changed = device("sda", "A");
            case(&mut changed);
            assert!(disagreement(&changed, &drive).is_some());
        }
    }

    #[test]
    fn a_drive_of_which_nothing_is_known_is_never_agreed_to() {
        let mut nameless = expected("A");
        nameless.evidence = Evidence {
            nvme_namespace: Some(1),
            ..Evidence::default()
        };
        let mut seen = device("sda", "A");
        seen.evidence.nvme_namespace = Some(1);
        assert!(disagreement(&seen, &nameless).is_some());
    }

    #[test]
    fn a_mark_is_found_wherever_the_drive_is() {
        let id = MemberId::parse("3f0c2b9e-6a52-4b8e-9d57-0a3f5c1e7d21").unwrap();
        let mut there = device("sdq", "Z");
        there.evidence.mark = Some(Mark {
            member_id: id.to_string().to_uppercase(),
            ..Mark::default()
        });
        let found = marked(&inventory([device("sda", "A"), there]), id);
        assert_eq!(
            found
                .iter()
                .map(|device| device.name.as_str())
                .collect::<Vec<_>>(),
            ["sdq"]
        );
    }

    #[test]
    fn a_drive_with_two_ports_is_found_once_and_a_copy_beside_it_is_another() {
        let id = MemberId::parse("3f0c2b9e-6a52-4b8e-9d57-0a3f5c1e7d21").unwrap();
        let marked_device = |name: &str, serial: &str| {
            let mut device = device(name, serial);
            device.transport = Transport::Sas;
            device.evidence.wwn = Some("naa.5000c500a1b2c3d4".into());
            device.evidence.mark = Some(Mark {
                member_id: id.to_string(),
                ..Mark::default()
            });
            device
        };
        let names = |devices: &[Device]| {
            let seen = devices
                .iter()
                .cloned()
                .map(|device| Finding::Seen(Box::new(device)));
            let picture = fold(&Inventory::default(), seen);
            let found = marked(&picture, id);
            found.iter().map(|device| device.name.clone()).collect::<Vec<_>>()
        };
        let ports = [marked_device("sdaa", "A"), marked_device("sdb", "A")];
        assert_eq!(names(&ports), ["sdb"]);
        let [one, other] = ports;
        assert_eq!(names(&[one, other, marked_device("sdc", "C")]), ["sdb", "sdc"]);
    }
}
