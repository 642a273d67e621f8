//! What a large node's object weighs.

use smart_storage_core::{
    classify::{DriveClaim, JudgeInput, judge},
    drive::{
        DriveFacts, DriveType, Evidence, HealthFacts, Holder, HolderKind, Mark, NvmeFacts, Observed, Usage,
    },
    identity::{RecordedEvidence, Verdict},
};

use super::*;

/// What API servers take without a murmur, and what an administrator can still read.
const LARGEST: usize = 64 << 10;
/// managedFields of three managers; lists are atomic, so they are few.
const MANAGED_FIELDS: usize = 2 << 10;

/// The drive in slot `n` of a storage server with 60 of them: two carry the system, one is worn, one failing, one has
/// a foreign file system, and the others serve a pool.
fn nvme(n: u32) -> (DriveRecord, Option<DriveClaim>) {
    let eui = format!("36483030575123{n:02x}00253845000000{n:02x}");
    let mut facts = DriveFacts {
        name: format!("nvme{n}n1"),
        dev_path: format!("/dev/nvme{n}n1"),
        size_bytes: Observed::Known(15_360_950_534_144),
        kind: DriveType::Nvme,
        transport: Transport::Pcie,
        zoned: Zoned::None,
        vendor: Observed::Known("0x144d".to_owned()),
        model: Observed::Known("SAMSUNG MZWLO15THBLA-00A07".to_owned()),
        firmware: Observed::Known("OPPA4B5Q".to_owned()),
        evidence: Evidence {
            nguid: Some(eui.clone()),
            eui64: Some(format!("00253845000000{n:02x}")),
            wwn: Some(format!("eui.{eui}")),
            serial: Some(format!("S7UANE0W5000{n:02}")),
            nvme_namespace: Some(1),
            bus_path: Some(format!("pci-0000:{n:02x}:00.0-nvme-1")),
            ..Evidence::default()
        },
        usage: Usage {
            blank: Observed::Known(false),
            holders: Vec::new(),
            exclusive_open_ok: Observed::Known(n > 1),
        },
        health: HealthFacts {
            self_assessment_passed: Observed::Known(n != 3),
            percentage_used: Observed::Known(if n == 2 { 97 } else { 3 }),
            available_spare_percent: Observed::Known(100),
            media_errors: Observed::Known(0),
            ..HealthFacts::default()
        },
        nvme: Some(NvmeFacts {
            controller: format!("nvme{n}"),
            namespace_id: Some(1),
            namespace_count: Some(1),
            total_capacity_bytes: Some(15_360_950_534_144),
            ..NvmeFacts::default()
        }),
        ..DriveFacts::default()
    };
    let holder = |kind, description: &str| Holder {
        kind,
        description: description.to_owned(),
        device: format!("nvme{n}n1p2"),
    };
    let uuid = |tail: u32| format!("8f0d2c1e-5b7a-4c36-9a41-0000000{tail:03}{n:02}");
    let claim = (n > 4).then(|| DriveClaim {
        pool: "archive-of-the-imaging-department".into(),
        member: uuid(1).as_str().into(),
    });
    match n {
        0 | 1 => {
            facts.usage.holders = vec![
                holder(HolderKind::Mount, "vfat mounted on /boot/efi"),
                holder(HolderKind::Device, "member of MD array md127 (raid1)"),
                holder(
                    HolderKind::Mount,
                    "xfs mounted on /var/lib/containers/storage/overlay",
                ),
            ];
            facts.evidence.partition_table_uuid = Some(uuid(2));
            facts.evidence.filesystem_uuids = vec![uuid(3), uuid(4), uuid(5)];
        }
        4 => {
            facts.usage.holders = vec![holder(HolderKind::Signature, "ext4 file system")];
            facts.evidence.filesystem_uuids = vec![uuid(3)];
        }
        2 | 3 => facts.usage.blank = Observed::Known(true),
        _ => {
            facts.evidence.mark = Some(Mark {
                member_id: uuid(1).as_str().into(),
                label: "smart-storage archive-of-the-imaging".to_owned(),
                partition: 1,
                released: false,
            });
            facts.evidence.partition_table_uuid = Some(uuid(2));
            facts.evidence.filesystem_uuids = vec![uuid(3)];
            facts.usage.holders = vec![holder(
                HolderKind::Mount,
                "xfs mounted on /var/lib/smart-storage-agent/mounts/8f0d2c1e-5b7a-4c36-9a41-000000000001",
            )];
        }
    }
    let record = DriveRecord {
        identity: Verdict::Drive {
            id: format!("nvme-eui.{eui}").as_str().into(),
        },
        facts,
    };
    (record, claim)
}

fn shown(n: u32) -> Drive {
    let (record, claim) = nvme(n);
    let judgement = judge(&JudgeInput {
        facts: &record.facts,
        identity: &record.identity,
        overrides: None,
        excluded: n == 2,
        claim: claim.as_ref(),
        node_connected: true,
        node_labels: Some(&BTreeMap::from([("rack".to_owned(), "r17-unit-21".to_owned())])),
    });
    present(&record, judgement, RecordedEvidence::of(&record.facts).to_map())
}

#[test]
fn a_node_with_sixty_drives_stays_under_64_kib() {
    let mut status = StorageNodeStatus {
        phase: NodePhase::Degraded,
        drives: (0..60).map(shown).collect(),
        system_info: Some(NodeSystemInfo {
            hostname: "storage-17.rack-21.dc-frankfurt-2.example.net".to_owned(),
            kernel_release: "6.12.48+deb13-amd64".to_owned(),
            architecture: "x86_64".to_owned(),
            os_name: "Debian GNU/Linux 13 (trixie)".to_owned(),
            cpus: 192,
            memory_bytes: 1 << 40,
            agent_version: "0.1.0".to_owned(),
        }),
        ..StorageNodeStatus::default()
    };
    count(&mut status);
    assert_eq!((status.drive_count, status.nvme_count), (60, 60));
    let status = serde_json::to_value(&status).unwrap();
    let node = serde_json::json!({
        "apiVersion": "storage.billyronks.io/v1", "kind": "StorageNode",
        "metadata": {
            "name": "storage-17.rack-21.dc-frankfurt-2.example.net",
            "uid": "8f0d2c1e-5b7a-4c36-9a41-000000000000", "resourceVersion": "123456789", "generation": 3,
            "creationTimestamp": "2026-11-23T09:00:00Z",
        },
        "spec": {"nodeName": "storage-17.rack-21.dc-frankfurt-2.example.net", "faultDomain": "rack-21"},
        "status": status,
    });
    let bytes = serde_json::to_vec(&node).unwrap().len() + MANAGED_FIELDS;
    let drive = serde_json::to_string_pretty(&shown(30)).unwrap();
    assert!(bytes < LARGEST, "{bytes} bytes; one drive of them: {drive}");
    println!("{bytes} bytes with 60 drives");
}

#[test]
fn what_is_remembered_of_a_drive_comes_back_whole() {
    for n in 0..60 {
        let (record, _) = nvme(n);
        let evidence = RecordedEvidence::of(&record.facts).to_map();
        let drive = shown(n);
        assert!(drive.evidence.len() < evidence.len(), "nothing is said twice");
        let written = serde_json::to_value(&drive).unwrap();
        let read: Drive = serde_json::from_value(written).unwrap();
        assert_eq!(read.remembered(), evidence);
        assert_eq!(absent(&read, false).remembered(), evidence);
    }
    // Evidence that contradicts the fields is kept as it is, and so is the lack of it.
    let other = |kind: &str, value: &str| {
        let mut drive = shown(30);
        let mut evidence = drive.remembered();
        evidence.insert(kind.to_owned(), value.to_owned());
        drive.remember(evidence.clone());
        assert_eq!(drive.remembered(), evidence);
    };
    other("serial", "another");
    other("size", "1");
    other("wwn", "eui.0123");
    let mut drive = shown(30);
    let evidence = BTreeMap::from([("mark".to_owned(), "m".to_owned())]);
    drive.remember(evidence.clone());
    assert_eq!(drive.remembered(), evidence);
    drive.remember(BTreeMap::new());
    assert_eq!(drive.remembered(), BTreeMap::new());
}

#[test]
fn labels_are_made_where_they_are_shown() {
    let (record, claim) = nvme(30);
    let spec: crate::crd::StorageNodeSpec = serde_json::from_value(serde_json::json!({
        "nodeName": "n", "labels": {"rack": "r17"}, "driveOverrides": {shown(30).id: {"labels": {"wear": "low"}}},
    }))
    .unwrap();
    let judged = judge(&JudgeInput {
        facts: &record.facts,
        identity: &record.identity,
        overrides: None,
        excluded: false,
        claim: claim.as_ref(),
        node_connected: true,
        node_labels: Some(&spec.labels),
    });
    let mut expected = judged.labels;
    expected.insert("wear".to_owned(), "low".to_owned());
    assert_eq!(shown(30).labels(&spec), expected);
}

#[test]
fn a_drive_that_is_there_says_so_by_saying_nothing() {
    let drive = shown(30);
    let written = serde_json::to_value(&drive).unwrap();
    assert_eq!(written.get("present"), None);
    assert_eq!(serde_json::from_value::<Drive>(written).unwrap(), drive);
    let away = absent(&drive, false);
    let written = serde_json::to_value(&away).unwrap();
    assert_eq!(written["present"], false);
    assert_eq!(serde_json::from_value::<Drive>(written).unwrap(), away);
}
