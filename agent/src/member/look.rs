//! Looking at a finished member: what is mounted, what answers, where its drive is. It reads, and changes nothing
//! (but that the kernel learns of a partition that it does not know).

use super::judge::{DriveSight, MountSight, Sight};
use super::partition::{self, PartitionError};
use super::{MemberConfig, MemberError, MemberId, expected, mount};
use crate::inventory::Inventory;

/// Everything that can be seen of a finished member. Touches the drive: may hang.
pub(super) fn see(
    config: &MemberConfig,
    id: MemberId,
    inventory: &Inventory,
    disk: Option<&str>,
) -> Result<Sight, MemberError> {
    let path = config.mount_point(id);
    let mounted = mount::mounted_at(&path).map_err(|error| {
        MemberError::transient("MountTable", format!("the mount table cannot be read: {error}"))
    })?;
    let Some(mounted) = mounted else {
        return Ok(Sight::Bare(see_drive(config, id, inventory, disk)));
    };
    let text = |error: std::io::Error| error.to_string();
    let node = partition::node_of(config, mounted.number);
    Ok(Sight::Mounted(MountSight {
        device_exists: partition::exists(config, mounted.number),
        superblock: node.and_then(|node| mount::superblock(&node)).map_err(text),
        identity: mount::read_identity(&path).map_err(text),
        data_folder: mount::has_data_folder(&path).map_err(text),
        data_id: mount::read_data_id(&path).map_err(text),
        mounted,
    }))
}

fn see_drive(config: &MemberConfig, id: MemberId, inventory: &Inventory, disk: Option<&str>) -> DriveSight {
    let mut disks: Vec<String> = expected::marked(inventory, id)
        .iter()
        .map(|device| device.name.clone())
        .collect();
    // The picture may be older than the mark; the drive it was on last is asked itself.
    if disks.is_empty() {
        disks.extend(disk.map(str::to_owned));
    }
    match disks.as_slice() {
        // Neither an absence nor a single mark says anything before: a copy may be probed last.
        _ if !inventory.complete => DriveSight::NotKnownYet,
        [] => DriveSight::Absent,
        [disk] => match partition::locate(config, disk, id) {
            Ok(place) => DriveSight::Here(place),
            Err(PartitionError::Open(..) | PartitionError::NotOurs(..)) => DriveSight::Absent,
            Err(error) => DriveSight::Unreachable(error.to_string()),
        },
        _ => DriveSight::Several(disks),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hardware::{Device, Evidence, Mark};

    #[test]
    fn a_marked_drive_is_not_touched_before_every_drive_was_probed() {
        let folder = tempfile::tempdir().unwrap();
        let config = MemberConfig {
            host_root: folder.path().join("host"),
            ..MemberConfig::new(folder.path(), "weed")
        };
        let id = MemberId::parse("3f0c2b9e-6a52-4b8e-9d57-0a3f5c1e7d21").unwrap();
        let marked = |name: &str| {
            let mark = Mark {
                member_id: id.to_string(),
                ..Mark::default()
            };
            let device = Device {
                name: name.into(),
                evidence: Evidence {
                    mark: Some(mark),
                    ..Evidence::default()
                },
                ..Device::default()
            };
            (name.to_owned(), Arc::new(device))
        };
        let drive = |complete, names: &[&str], disk| {
            let picture = Inventory {
                complete,
                devices: names.iter().map(|name| marked(name)).collect(),
                faults: Vec::new(),
            };
            match see(&config, id, &picture, disk).unwrap() {
                Sight::Bare(drive) => drive,
                other => panic!("{other:?}"),
            }
        };
        for (names, disk) in [
            (&[][..], None),
            (&["sda"], None),
            (&["sda", "sdb"], None),
            (&[], Some("sda")),
        ] {
            assert_eq!(drive(false, names, disk), DriveSight::NotKnownYet, "{names:?}");
        }
        // Nothing lies under the name: what is seen is that it was opened.
        assert_eq!(drive(true, &["sda"], None), DriveSight::Absent);
        let both = DriveSight::Several(vec!["sda".into(), "sdb".into()]);
        assert_eq!(drive(true, &["sda", "sdb"], None), both);
    }
}
