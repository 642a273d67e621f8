//! What a new leader knows of the drives before any agent has spoken: the evidence in the objects, and nothing that is
//! not written there.

use std::{collections::BTreeMap, sync::Arc};

use smart_storage_core::{
    drive::{DriveId, NodeName},
    identity::KnownDrive,
};

use crate::crd::{PoolMember, StorageNode};

/// Every drive that a PoolMember or a StorageNode speaks of; what a node's status says goes first.
pub(super) fn drives(members: &[Arc<PoolMember>], nodes: &[Arc<StorageNode>]) -> Vec<KnownDrive> {
    let mut known = BTreeMap::new();
    for member in members {
        let drive = of_member(member);
        known.insert(drive.id.clone(), drive);
    }
    for node in nodes {
        let name = NodeName::from(node.spec.node_name.as_str());
        let shown = node.status.iter().flat_map(|status| &status.drives);
        for drive in shown.filter(|drive| !drive.evidence.is_empty()) {
            let id = DriveId::from(drive.id.as_str());
            let remembered = KnownDrive::from_map(id.clone(), name.clone(), &drive.remembered());
            known.insert(id, remembered);
        }
    }
    known.into_values().collect()
}

/// Its evidence was written before its mark was; the mark is what it is known by where all else is a slot's.
fn of_member(member: &PoolMember) -> KnownDrive {
    let spec = &member.spec;
    let mut evidence = spec.evidence.clone();
    evidence
        .entry("mark".to_owned())
        .or_insert_with(|| spec.member_id.clone());
    let (id, node) = (spec.drive_id.as_str(), spec.node_name.as_str());
    KnownDrive::from_map(DriveId::from(id), NodeName::from(node), &evidence)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use smart_storage_core::{
        drive::{DriveFacts, Evidence, Mark, Observed},
        identity::{SeenDrive, Verdict, resolve},
    };

    use super::*;

    #[test]
    fn a_member_on_a_slots_disk_is_known_by_its_mark_where_its_nodes_status_is_lost() {
        let member_id = "0b7c1b2e-0000-4000-8000-000000000001";
        let member: PoolMember = serde_json::from_value(json!({
            "apiVersion": "storage.billyronks.io/v1", "kind": "PoolMember", "metadata": {"name": "pm-old"},
            "spec": {
                "pool": "p", "driveId": "old", "memberId": member_id, "nodeName": "a", "driveBytes": 50,
                "evidence": {"serial": "drive-scsi1", "vendor": "QEMU", "model": "QEMU HARDDISK", "size": "50"},
                "slots": 1, "slotBytes": 1, "diskTag": "p",
            },
        }))
        .unwrap();
        let known = drives(&[Arc::new(member)], &[]);
        let facts = DriveFacts {
            name: "sdb".into(),
            size_bytes: Observed::Known(50),
            evidence: Evidence {
                serial: Some("drive-scsi7".to_owned()),
                mark: Some(Mark {
                    member_id: member_id.into(),
                    ..Mark::default()
                }),
                ..Evidence::default()
            },
            ..DriveFacts::default()
        };
        let node = NodeName::from("a");
        let seen = [SeenDrive {
            node: &node,
            facts: &facts,
        }];
        let found = resolve(&known, &seen);
        assert!(
            matches!(&found[0].verdict, Verdict::Drive { id } if id.as_str() == "old"),
            "{:?}",
            found[0].verdict
        );
    }
}
