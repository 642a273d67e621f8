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
        [] if inventory.complete => DriveSight::Absent,
        [] => DriveSight::NotKnownYet,
        [disk] => match partition::locate(config, disk, id) {
            Ok(place) => DriveSight::Here(place),
            Err(PartitionError::Open(..) | PartitionError::NotOurs(..)) => DriveSight::Absent,
            Err(error) => DriveSight::Unreachable(error.to_string()),
        },
        _ => DriveSight::Several(disks),
    }
}
