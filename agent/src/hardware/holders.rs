//! Who uses a drive, in words: pure, from what was read on it, what the kernel has above it, and what is mounted.
//!
//! Everything found is told. Nothing here concludes that a drive is free: that is said only by [`super::linux`]
//! where every probe was run and none found anything.

use super::signatures::{Findings, TableKind};
use super::{Holder, HolderKind, Mount, Surroundings};

/// Mounts that are told of one drive; hosts of containers have thousands of them.
const MAX_MOUNTS: usize = 12;

/// A block device that is the drive, one of its partitions, or above them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Kernel name.
    pub(super) name: String,
    /// Device number.
    pub(super) number: Option<(u32, u32)>,
    /// Partition number on the drive.
    pub(super) partition: Option<u32>,
    /// Above the drive: what it is, in words.
    pub(super) upper: Option<String>,
    /// Above the drive: the name under which it is mapped (`vg0-lv0`).
    pub(super) mapped: Option<String>,
}

/// Kernel name of a partition.
pub(super) fn partition_name(disk: &str, number: u32) -> String {
    let separator = if disk.ends_with(|c: char| c.is_ascii_digit()) {
        "p"
    } else {
        ""
    };
    format!("{disk}{separator}{number}")
}

/// Everything that holds the drive `disk`. `tree` is the drive itself, its partitions, and what is above.
pub(super) fn holders(
    disk: &str,
    tree: &[Node],
    findings: Option<&Findings>,
    around: &Surroundings,
) -> Vec<Holder> {
    let mut holders = Vec::new();
    if let Some(findings) = findings {
        on_disk(disk, findings, &mut holders);
    }
    for node in tree {
        if let Some(words) = &node.upper {
            holders.push(holder(
                HolderKind::Device,
                format!("{words} above it"),
                &node.name,
            ));
        }
        let known = |h: &Holder| {
            h.device == node.name && matches!(h.kind, HolderKind::Partition | HolderKind::Member)
        };
        if let Some(number) = node.partition
            && !holders.iter().any(known)
        {
            holders.push(holder(
                HolderKind::Partition,
                format!("partition {number}"),
                &node.name,
            ));
        }
    }
    mounted(tree, around, &mut holders);
    for swap in &around.swaps {
        if let Some(node) = tree.iter().find(|node| is_path_of(&swap.path, node)) {
            holders.push(holder(HolderKind::Swap, "swap in use".to_owned(), &node.name));
        }
    }
    holders
}

fn holder(kind: HolderKind, description: String, device: &str) -> Holder {
    Holder {
        kind,
        description,
        device: device.to_owned(),
    }
}

fn on_disk(disk: &str, findings: &Findings, holders: &mut Vec<Holder>) {
    for signature in &findings.signatures {
        let device = signature
            .partition
            .map_or_else(|| disk.to_owned(), |n| partition_name(disk, n));
        holders.push(holder(
            HolderKind::Signature,
            signature.description.clone(),
            &device,
        ));
    }
    if let Some(table) = &findings.table {
        holders.push(holder(HolderKind::PartitionTable, table.description(), disk));
        for entry in &table.entries {
            let device = partition_name(disk, entry.number);
            let ours = findings
                .mark
                .as_ref()
                .filter(|mark| mark.partition == entry.number);
            let (kind, words) = match ours {
                Some(mark) if mark.released => (
                    HolderKind::Member,
                    format!("released member {} of {}", mark.member_id, mark.label),
                ),
                Some(mark) => (
                    HolderKind::Member,
                    format!("member {} of {}", mark.member_id, mark.label),
                ),
                None => {
                    let name = match (table.kind, entry.name.as_str()) {
                        (TableKind::Gpt, name) if !name.is_empty() => format!(" \"{name}\""),
                        _ => String::new(),
                    };
                    let size = size_in_words(entry.length_bytes);
                    (
                        HolderKind::Partition,
                        format!("partition {}{name} of {size}", entry.number),
                    )
                }
            };
            holders.push(holder(kind, words, &device));
        }
    }
    if let Some(offset) = findings.unknown_data_at {
        let words = format!("unknown data at byte {offset}");
        holders.push(holder(HolderKind::UnknownData, words, disk));
    }
}

fn mounted(tree: &[Node], around: &Surroundings, holders: &mut Vec<Holder>) {
    let mut found: Vec<(bool, &Mount, &Node)> = around
        .mounts
        .iter()
        .filter_map(|mount| {
            let node = tree.iter().find(|node| concerns(mount, node))?;
            // Whole file systems first, bind mounts of folders after them.
            Some((mount.root != "/", mount, node))
        })
        .collect();
    found.sort();
    let more = found.len().saturating_sub(MAX_MOUNTS);
    for (_, mount, node) in found.iter().take(MAX_MOUNTS) {
        let on = node
            .mapped
            .as_deref()
            .map(|name| format!(" on {name}"))
            .unwrap_or_default();
        let part = if mount.root == "/" {
            String::new()
        } else {
            format!(" (its {})", mount.root)
        };
        let elsewhere = mount
            .foreign_pid
            .map(|_| " in another mount namespace".to_owned())
            .unwrap_or_default();
        let words = format!(
            "{}{on} mounted on {}{part}{elsewhere}",
            mount.fstype, mount.mount_point
        );
        holders.push(holder(HolderKind::Mount, words, &node.name));
    }
    if let (Some((.., node)), true) = (found.get(MAX_MOUNTS), more > 0) {
        holders.push(holder(
            HolderKind::Mount,
            format!("and {more} more mounts"),
            &node.name,
        ));
    }
}

impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Node {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.name.cmp(&other.name)
    }
}

/// Whether a mount is one of this device. File systems over many devices (btrfs) have a number of their own, and
/// only their source names a device.
pub(super) fn concerns(mount: &Mount, node: &Node) -> bool {
    let same_number = mount.major != 0 && node.number == Some((mount.major, mount.minor));
    same_number || (mount.major == 0 && is_path_of(&mount.source, node))
}

fn is_path_of(path: &str, node: &Node) -> bool {
    let name = path.strip_prefix("/dev/").unwrap_or_default();
    !name.is_empty()
        && (name.replace('/', "!") == node.name
            || node
                .mapped
                .as_deref()
                .is_some_and(|mapped| name.strip_prefix("mapper/") == Some(mapped)))
}

/// "3.8 TB", "512 MiB": whole binary units where they are even, decimal otherwise.
fn size_in_words(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    let unit = UNITS.into_iter().find(|(unit, _)| bytes >= *unit);
    match unit {
        Some((unit, name)) if bytes.is_multiple_of(unit) => format!("{} {name}", bytes / unit),
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::Swap;
    use crate::hardware::signatures::Signature;

    fn words(holders: &[Holder]) -> Vec<(HolderKind, &str, &str)> {
        holders
            .iter()
            .map(|h| (h.kind, h.description.as_str(), h.device.as_str()))
            .collect()
    }

    fn node(name: &str, minor: u32) -> Node {
        Node {
            name: name.into(),
            number: Some((8, minor)),
            ..Node::default()
        }
    }

    fn mount(minor: u32, at: &str) -> Mount {
        Mount {
            major: 8,
            minor,
            fstype: "ext4".into(),
            source: "/dev/root".into(),
            mount_point: at.into(),
            root: "/".into(),
            foreign_pid: None,
        }
    }

    #[test]
    fn a_root_disk_says_what_is_mounted_where() {
        let findings = Findings {
            signatures: vec![Signature {
                description: "ext4 file system".into(),
                filesystem_uuid: None,
                offset: 1024,
                partition: None,
            }],
            ..Findings::default()
        };
        let around = Surroundings {
            mounts: vec![mount(0, "/")],
            ..Surroundings::default()
        };
        let found = holders("sda", &[node("sda", 0)], Some(&findings), &around);
        assert_eq!(
            words(&found),
            [
                (HolderKind::Signature, "ext4 file system", "sda"),
                (HolderKind::Mount, "ext4 mounted on /", "sda"),
            ]
        );
    }

    #[test]
    fn what_is_above_a_partition_holds_the_drive() {
        let tree = [
            node("sda", 0),
            Node {
                partition: Some(1),
                ..node("sda1", 1)
            },
            Node {
                upper: Some("LVM logical volume vg0-lv0".into()),
                mapped: Some("vg0-lv0".into()),
                number: Some((253, 0)),
                ..node("dm-0", 0)
            },
        ];
        let around = Surroundings {
            mounts: vec![Mount {
                major: 253,
                minor: 0,
                ..mount(0, "/data")
            }],
            swaps: vec![Swap {
                path: "/dev/sda1".into(),
                kind: "partition".into(),
            }],
            ..Surroundings::default()
        };
        assert_eq!(
            words(&holders("sda", &tree, None, &around)),
            [
                (HolderKind::Partition, "partition 1", "sda1"),
                (HolderKind::Device, "LVM logical volume vg0-lv0 above it", "dm-0"),
                (HolderKind::Mount, "ext4 on vg0-lv0 mounted on /data", "dm-0"),
                (HolderKind::Swap, "swap in use", "sda1"),
            ]
        );
    }

    #[test]
    fn a_btrfs_is_found_by_its_source_and_a_foreign_mount_is_said_so() {
        let mut btrfs = mount(45, "/data");
        (btrfs.major, btrfs.fstype, btrfs.source) = (0, "btrfs".into(), "/dev/sda".into());
        btrfs.foreign_pid = Some(77);
        let around = Surroundings {
            mounts: vec![btrfs],
            ..Surroundings::default()
        };
        assert_eq!(
            words(&holders("sda", &[node("sda", 0)], None, &around)),
            [(
                HolderKind::Mount,
                "btrfs mounted on /data in another mount namespace",
                "sda"
            )]
        );
    }

    #[test]
    fn a_thousand_bind_mounts_are_told_in_few_words() {
        let binds = (0..1000).map(|n| Mount {
            root: format!("/pods/{n}"),
            ..mount(0, &format!("/m/{n}"))
        });
        let around = Surroundings {
            mounts: binds.chain([mount(0, "/")]).collect(),
            ..Surroundings::default()
        };
        let found = holders("sda", &[node("sda", 0)], None, &around);
        assert_eq!(found.len(), MAX_MOUNTS + 1);
        assert_eq!(found[0].description, "ext4 mounted on /");
        assert_eq!(found[MAX_MOUNTS].description, "and 989 more mounts");
    }

    #[test]
    fn partitions_are_named_as_the_kernel_names_them() {
        assert_eq!(partition_name("sda", 1), "sda1");
        assert_eq!(partition_name("nvme0n1", 2), "nvme0n1p2");
        assert_eq!(size_in_words(2 << 30), "2 GiB");
        assert_eq!(size_in_words(1_900_000_000), "1.8 GiB");
    }
}
