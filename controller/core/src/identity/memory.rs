//! A drive's evidence as a flat map of texts: the form in which StorageNode.status and PoolMember.spec keep it.
//!
//! Where a drive sits (its port) and what its mark calls its pool are left out: they are no memory of who it is, and a
//! status must stay small.

use std::collections::BTreeMap;

use super::{KnownDrive, RecordedEvidence, normal::world_wide_name};
use crate::drive::{DriveId, Evidence, Mark, NodeName};

const ALIASES: &str = "aliases";

impl RecordedEvidence {
    /// The evidence as texts by kind; what was not observed has no key.
    #[must_use]
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let evidence = &self.evidence;
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        let mark = evidence.mark.as_ref();
        let files = &evidence.filesystem_uuids;
        let pairs = [
            ("eui64", evidence.eui64.clone()),
            ("nguid", evidence.nguid.clone()),
            ("nvmeUuid", evidence.nvme_uuid.clone()),
            ("wwn", self.wwn_of_its_own()),
            ("serial", evidence.serial.clone()),
            ("namespace", number(evidence.nvme_namespace.map(u64::from))),
            ("vendor", self.vendor.clone()),
            ("model", self.model.clone()),
            ("size", number(self.size_bytes)),
            ("mark", mark.map(|mark| mark.member_id.to_string())),
            // The first one is where it always is.
            (
                "markPartition",
                mark.filter(|mark| mark.partition != 1)
                    .map(|mark| mark.partition.to_string()),
            ),
            (
                "markReleased",
                mark.filter(|mark| mark.released).map(|_| "true".to_owned()),
            ),
            ("partitionTable", evidence.partition_table_uuid.clone()),
            ("filesystems", (!files.is_empty()).then(|| files.join(" "))),
            ("backingFile", evidence.backing_file.clone()),
            ("backingFileInode", evidence.backing_file_inode.clone()),
        ];
        pairs
            .into_iter()
            .filter_map(|(kind, value)| Some((kind.to_owned(), value?)))
            .collect()
    }

    /// The evidence out of such a map; keys that are not known and values that make no sense are passed over.
    #[must_use]
    pub fn from_map(map: &BTreeMap<String, String>) -> Self {
        let text = |kind: &str| map.get(kind).cloned();
        let small = |kind: &str| map.get(kind).and_then(|value| value.parse::<u32>().ok());
        Self {
            evidence: Evidence {
                nguid: text("nguid"),
                eui64: text("eui64"),
                nvme_uuid: text("nvmeUuid"),
                wwn: text("wwn"),
                serial: text("serial"),
                mark: text("mark").map(|member| Mark {
                    member_id: member.into(),
                    label: String::new(),
                    partition: small("markPartition").unwrap_or(1),
                    released: map.contains_key("markReleased"),
                }),
                partition_table_uuid: text("partitionTable"),
                filesystem_uuids: words(map.get("filesystems")),
                bus_path: None,
                backing_file: text("backingFile"),
                backing_file_inode: text("backingFileInode"),
                nvme_namespace: small("namespace"),
            },
            vendor: text("vendor"),
            model: text("model"),
            size_bytes: map.get("size").and_then(|value| value.parse().ok()),
        }
    }

    /// The WWN, where it says more than the NVMe ids and the serial do.
    fn wwn_of_its_own(&self) -> Option<String> {
        let wwn = self.evidence.wwn.clone()?;
        let (_, value) = world_wide_name(&wwn)?;
        let ids = [
            &self.evidence.eui64,
            &self.evidence.nguid,
            &self.evidence.nvme_uuid,
        ];
        let told = ids
            .into_iter()
            .flatten()
            .any(|id| id.eq_ignore_ascii_case(&value));
        (!told).then_some(wwn)
    }
}

impl KnownDrive {
    /// What is remembered of the drive beside its id and node, as texts by kind.
    #[must_use]
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let mut map = self.evidence.to_map();
        if !self.aliases.is_empty() {
            map.insert(ALIASES.to_owned(), self.aliases.join(" "));
        }
        map
    }

    /// The drive out of such a map.
    #[must_use]
    pub fn from_map(id: DriveId, node: NodeName, map: &BTreeMap<String, String>) -> Self {
        Self {
            id,
            evidence: RecordedEvidence::from_map(map),
            aliases: words(map.get(ALIASES)),
            node,
        }
    }
}

fn words(text: Option<&String>) -> Vec<String> {
    text.iter()
        .flat_map(|text| text.split_whitespace())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_reads_back_except_for_the_port_and_the_marks_words() {
        let known = KnownDrive {
            id: "serial-1".into(),
            evidence: RecordedEvidence {
                evidence: Evidence {
                    nguid: Some("35503741304500160025385300000001".into()),
                    eui64: Some("0025385c21501234".into()),
                    nvme_uuid: Some("c0ffee00-1111-2222-3333-444444444444".into()),
                    wwn: Some("naa.5000c500a1b2c3d4".into()),
                    serial: Some("S 1".into()),
                    mark: Some(Mark {
                        member_id: "m".into(),
                        label: String::new(),
                        partition: 1,
                        released: true,
                    }),
                    partition_table_uuid: Some("pt".into()),
                    filesystem_uuids: vec!["a".into(), "b".into()],
                    bus_path: None,
                    backing_file: Some("/with blank/1.img".into()),
                    backing_file_inode: Some("8:17".into()),
                    nvme_namespace: Some(1),
                },
                vendor: Some("v".into()),
                model: Some("m o".into()),
                size_bytes: Some(1 << 40),
            },
            aliases: vec!["wwn-1".into(), "wwn-2".into()],
            node: "n".into(),
        };
        let read = KnownDrive::from_map(known.id.clone(), known.node.clone(), &known.to_map());
        assert_eq!(read, known);
        let nothing = KnownDrive::from_map("x".into(), "n".into(), &BTreeMap::new());
        assert_eq!(nothing.evidence, RecordedEvidence::default());
        assert!(nothing.to_map().is_empty());
    }

    #[test]
    fn a_world_wide_name_that_only_repeats_takes_no_room() {
        let mut evidence = RecordedEvidence::default();
        evidence.evidence.eui64 = Some("0025385c21501234".into());
        evidence.evidence.wwn = Some("eui.0025385c21501234".into());
        assert!(!evidence.to_map().contains_key("wwn"));
        evidence.evidence.wwn = Some("nvme.8086-50-49-00000001".into());
        assert!(!evidence.to_map().contains_key("wwn"));
        evidence.evidence.wwn = Some("naa.5000c500a1b2c3d4".into());
        assert!(evidence.to_map().contains_key("wwn"));
    }
}
