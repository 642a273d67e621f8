//! What the benches measure on: fleets of realistic drives, made without dice, so that every run measures the
//! same thing, and the [`fleet`] of simulated agents. It measures nothing by itself.

pub mod fleet;

use std::sync::Arc;

use smart_storage_core::{
    drive::{
        DriveFacts, DriveType, Evidence, HealthFacts, Holder, HolderKind, NodeName, NvmeFacts, Observed,
        Transport, Usage, Zoned,
    },
    identity::Verdict,
    node::{DriveRecord, NodePhase, NodeRecord, SessionInfo, SystemInfo},
};

/// Name of the n-th node.
#[must_use]
pub fn node_name(node: usize) -> NodeName {
    NodeName::new(format!("worker-{node:05}.example.internal"))
}

/// The n-th node with so many drives, every field filled as on a real machine.
#[must_use]
pub fn node(node: usize, drives: usize) -> NodeRecord {
    NodeRecord {
        phase: NodePhase::Ready,
        boot_id: format!("7f1c2a30-0000-4000-8000-{node:012x}"),
        agent_version: "0.1.0".to_owned(),
        capabilities: vec!["weed".to_owned(), "mkfs.xfs".to_owned()],
        system: SystemInfo {
            hostname: node_name(node).to_string(),
            kernel_release: "6.12.0-amd64".to_owned(),
            architecture: "x86_64".to_owned(),
            os_name: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            cpus: 64,
            memory_bytes: 512 << 30,
            machine_id: None,
        },
        session: SessionInfo {
            connected: true,
            synced: true,
            epoch: 1,
            ..SessionInfo::default()
        },
        drives: (0..drives)
            .map(|drive_index| Arc::new(drive(node, drive_index)))
            .collect(),
        ..NodeRecord::empty(node_name(node))
    }
}

/// One NVMe drive as an agent reports it: identified, healthy, with a file system on it.
#[must_use]
pub fn drive(node: usize, index: usize) -> DriveRecord {
    let eui = format!("0025385{node:05x}{index:04x}");
    DriveRecord {
        identity: Verdict::Drive {
            id: format!("nvme-eui.{eui}").into(),
        },
        facts: DriveFacts {
            name: format!("nvme{index}n1"),
            dev_path: format!("/dev/nvme{index}n1"),
            major: 259,
            minor: u32::try_from(index).unwrap_or(0),
            disk_sequence: Observed::Known(index as u64),
            size_bytes: Observed::Known(3_840_755_982_336),
            logical_block_bytes: Observed::Known(512),
            physical_block_bytes: Observed::Known(4096),
            rotational: Observed::Known(false),
            read_only: Observed::Known(false),
            removable: Observed::Known(false),
            zoned: Zoned::None,
            transport: Transport::Pcie,
            kind: DriveType::Nvme,
            vendor: Observed::Known("0x144d".to_owned()),
            model: Observed::Known("SAMSUNG MZQL23T8HCLS-00A07".to_owned()),
            firmware: Observed::Known("GDC5602Q".to_owned()),
            evidence: Evidence {
                eui64: Some(eui.clone()),
                nguid: Some(format!("36344830{node:08x}{index:08x}00000001")),
                wwn: Some(format!("eui.{eui}")),
                serial: Some(format!("S64HNE0T{node:05}{index:02}")),
                partition_table_uuid: Some(format!("aa1c2a30-0000-4000-8000-{node:08x}{index:04x}")),
                filesystem_uuids: vec![format!("bb1c2a30-0000-4000-8000-{node:08x}{index:04x}")],
                bus_path: Some(format!(
                    "/sys/devices/pci0000:{index:02x}/0000:{index:02x}:00.0/nvme/nvme{index}"
                )),
                nvme_namespace: Some(1),
                ..Evidence::default()
            },
            usage: Usage {
                blank: Observed::Known(false),
                holders: vec![Holder {
                    kind: HolderKind::Mount,
                    description: format!("xfs mounted on /srv/storage/{index}"),
                    device: format!("nvme{index}n1p1"),
                }],
                exclusive_open_ok: Observed::Unsupported,
            },
            health: HealthFacts {
                self_assessment_passed: Observed::Known(true),
                critical_warning: Observed::Known(0),
                percentage_used: Observed::Known(3),
                available_spare_percent: Observed::Known(100),
                available_spare_threshold_percent: Observed::Known(10),
                media_errors: Observed::Known(0),
                temperature_celsius: Observed::Known(41),
                power_on_hours: Observed::Known(12_345),
                source: "nvme ioctl".to_owned(),
                ..HealthFacts::default()
            },
            nvme: Some(NvmeFacts {
                controller: format!("nvme{index}"),
                subsystem_nqn: Some(format!(
                    "nqn.1994-11.com.samsung:nvme:PM9A3:2.5-inch:S64HNE0T{node:05}{index:02}"
                )),
                namespace_id: Some(1),
                namespace_count: Some(1),
                total_capacity_bytes: Some(3_840_755_982_336),
                pci_address: Some(format!("0000:{index:02x}:00.0")),
            }),
            faults: Vec::new(),
            paths: Vec::new(),
            work: None,
            io_errors: None,
        },
    }
}
