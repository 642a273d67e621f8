//! From the wire's messages to core types, once, and from core types to what a command carries.
//!
//! An observation never fails as a whole: a device that makes no sense is left out and told as a [`Fault`] of the
//! node that names the field (`devices[3].evidence.mark.member_id`). An absent optional field stays "not observed":
//! [`Observed::Failed`] where a fault of the device says that it could not be read, else [`Observed::Unsupported`].
//! No conclusion is drawn here.

use std::collections::BTreeSet;

use smart_storage_core::{
    drive::{
        DriveFacts, DriveId, DriveType, Evidence, Fault, FaultKind, HealthFacts, Holder, HolderKind,
        IoErrors, Mark, MemberId, NvmeFacts, Observed, Transport, Usage, Work, Zoned,
    },
    node::{MemberReport, MemberState, SystemInfo},
};
use smart_storage_proto::agent::v1 as pb;
use uuid::Uuid;

/// Most devices, members or names in one message, and drives or members of one node: far above any machine, and what a
/// StorageNode's status can hold (etcd takes objects of 1.5 MiB).
pub const MOST: usize = 1024;
/// Most bytes of one device or member: far above any real one, and 32 MiB for a node that lies as much as it can.
const MOST_BYTES: usize = 32 << 10;

/// The probe that faults found here are filed under.
pub const PROBE: &str = "wire";

/// Everything a node told at once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// Its epoch.
    pub epoch: u64,
    /// Every drive.
    pub drives: Vec<DriveFacts>,
    /// Every member.
    pub members: Vec<MemberReport>,
    /// Faults of the node, also those found while reading the message.
    pub faults: Vec<Fault>,
}

/// What changed on a node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    /// The epoch it belongs to.
    pub epoch: u64,
    /// Its place in the epoch, from 1.
    pub seq: u64,
    /// Drives that are new or different.
    pub changed: Vec<DriveFacts>,
    /// Kernel names of drives that are gone.
    pub removed: Vec<String>,
    /// Members that are new or different.
    pub members_changed: Vec<MemberReport>,
    /// Members of which nothing is left.
    pub members_removed: Vec<MemberId>,
    /// The node's faults as they are now, where they changed.
    pub faults: Option<Vec<Fault>>,
}

/// A field that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct WireError {
    /// Its path in the message.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

fn wrong(field: impl Into<String>, reason: impl Into<String>) -> WireError {
    WireError {
        field: field.into(),
        reason: reason.into(),
    }
}

impl WireError {
    fn inside(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }

    fn fault(self) -> Fault {
        Fault {
            probe: PROBE.to_owned(),
            kind: FaultKind::Failed,
            detail: self.to_string(),
            device: String::new(),
        }
    }
}

/// Reads a snapshot; what cannot be read is among its faults.
#[must_use]
pub fn snapshot(message: pb::Snapshot) -> Snapshot {
    let mut faults: Vec<Fault> = message.faults.into_iter().map(fault).collect();
    let drives = once(
        "devices",
        each("devices", message.devices, &mut faults, drive),
        &mut faults,
    );
    let members = each("members", message.members, &mut faults, member);
    faults.truncate(MOST);
    Snapshot {
        epoch: message.epoch,
        drives,
        members,
        faults,
    }
}

/// Each drive once, the first that was told.
fn once(field: &str, drives: Vec<DriveFacts>, faults: &mut Vec<Fault>) -> Vec<DriveFacts> {
    let mut names = BTreeSet::new();
    let (drives, twice): (Vec<_>, Vec<_>) = drives.into_iter().partition(|d| names.insert(d.name.clone()));
    faults.extend(
        twice
            .iter()
            .map(|d| wrong(field, format!("{:?} is told twice", d.name)).fault()),
    );
    drives
}

/// What is said of a node that has more drives than are remembered.
#[must_use]
pub fn too_many() -> Fault {
    wrong(
        "devices",
        format!("at most {MOST} drives of a node are remembered, and it tells of more"),
    )
    .fault()
}

fn bounded(message: &impl prost::Message) -> Result<(), WireError> {
    let bytes = message.encoded_len();
    if bytes > MOST_BYTES {
        return Err(wrong(
            "size",
            format!("{bytes} bytes, at most {MOST_BYTES} are read"),
        ));
    }
    Ok(())
}

/// Reads a delta. A device that cannot be read makes the delta's faults known, and the device itself counts as gone:
/// its old facts hold no more.
#[must_use]
pub fn delta(message: pb::Delta) -> Delta {
    let names: Vec<String> = message.changed.iter().map(|d| d.name.clone()).collect();
    let mut found = Vec::new();
    let changed = once(
        "changed",
        each("changed", message.changed, &mut found, drive),
        &mut found,
    );
    let mut removed = message.removed;
    removed.extend(
        names
            .into_iter()
            .filter(|name| !changed.iter().any(|d| d.name == *name)),
    );
    let members_changed = each("members_changed", message.members_changed, &mut found, member);
    let members_removed = each("members_removed", message.members_removed, &mut found, |id| {
        member_id(&id, "id")
    });
    let faults = if message.node_faults_changed || !found.is_empty() {
        let mut all: Vec<Fault> = message.faults.into_iter().map(fault).collect();
        all.append(&mut found);
        all.truncate(MOST);
        Some(all)
    } else {
        None
    };
    Delta {
        epoch: message.epoch,
        seq: message.seq,
        changed,
        removed,
        members_changed,
        members_removed,
        faults,
    }
}

fn each<M, T>(
    field: &str,
    messages: Vec<M>,
    faults: &mut Vec<Fault>,
    read: impl Fn(M) -> Result<T, WireError>,
) -> Vec<T> {
    let told = messages.len();
    if told > MOST {
        faults.push(wrong(field, format!("{told} entries, at most {MOST} are read")).fault());
    }
    let mut good = Vec::with_capacity(told.min(MOST));
    for (index, message) in messages.into_iter().take(MOST).enumerate() {
        match read(message) {
            Ok(value) => good.push(value),
            Err(error) => faults.push(error.inside(&format!("{field}[{index}]")).fault()),
        }
    }
    good
}

/// Reads one device.
///
/// # Errors
/// [`WireError`] naming the field.
pub fn drive(message: pb::Device) -> Result<DriveFacts, WireError> {
    bounded(&message)?;
    if message.name.is_empty() || message.name.len() > 64 || message.name.contains(['/', '\0']) {
        return Err(wrong("name", format!("{:?} is no kernel name", message.name)));
    }
    let faults: Vec<Fault> = message.faults.into_iter().map(fault).collect();
    let sysfs = Missing::because(&faults, &["sysfs"]);
    let evidence = message
        .evidence
        .map(evidence)
        .transpose()
        .map_err(|e| e.inside("evidence"))?;
    Ok(DriveFacts {
        disk_sequence: sysfs.observed(message.disk_sequence),
        size_bytes: sysfs.observed(message.size_bytes),
        logical_block_bytes: sysfs.observed(message.logical_block_bytes),
        physical_block_bytes: sysfs.observed(message.physical_block_bytes),
        rotational: sysfs.observed(message.rotational),
        read_only: sysfs.observed(message.read_only),
        removable: sysfs.observed(message.removable),
        zoned: zoned(pb::Zoned::try_from(message.zoned).unwrap_or_default()),
        transport: transport(pb::Transport::try_from(message.transport).unwrap_or_default()),
        kind: kind(pb::Kind::try_from(message.kind).unwrap_or_default()),
        vendor: sysfs.observed(message.vendor),
        model: sysfs.observed(message.model),
        firmware: sysfs.observed(message.firmware),
        evidence: evidence.unwrap_or_default(),
        usage: usage(message.usage.unwrap_or_default(), &faults),
        health: health(message.health.unwrap_or_default(), &faults),
        nvme: message.nvme.map(nvme),
        paths: message.paths,
        work: message.work.map(work),
        io_errors: message.io_errors.map(io_errors),
        name: message.name,
        dev_path: message.dev_path,
        major: message.major,
        minor: message.minor,
        faults,
    })
}

/// Why the facts of some probes are missing, where they are.
struct Missing(Option<String>);

impl Missing {
    fn because(faults: &[Fault], probes: &[&str]) -> Self {
        let failed =
            |fault: &&Fault| fault.kind == FaultKind::Failed && probes.contains(&fault.probe.as_str());
        Self(faults.iter().find(failed).map(|fault| fault.detail.clone()))
    }

    fn observed<T>(&self, told: Option<T>) -> Observed<T> {
        match (told, &self.0) {
            (Some(value), _) => Observed::Known(value),
            (None, Some(detail)) => Observed::Failed(detail.clone()),
            (None, None) => Observed::Unsupported,
        }
    }
}

fn evidence(message: pb::Evidence) -> Result<Evidence, WireError> {
    let mark = message.mark.map(mark).transpose().map_err(|e| e.inside("mark"))?;
    Ok(Evidence {
        nguid: message.nguid,
        eui64: message.eui64,
        nvme_uuid: message.nvme_uuid,
        wwn: message.wwn,
        serial: message.serial,
        mark,
        partition_table_uuid: message.partition_table_uuid,
        filesystem_uuids: message.filesystem_uuids,
        bus_path: message.bus_path,
        backing_file: message.backing_file,
        backing_file_inode: message.backing_file_inode,
        nvme_namespace: message.nvme_namespace,
    })
}

fn mark(message: pb::Mark) -> Result<Mark, WireError> {
    Ok(Mark {
        member_id: member_id(&message.member_id, "member_id")?,
        label: message.label,
        partition: message.partition,
        released: message.released,
    })
}

fn member_id(text: &str, field: &str) -> Result<MemberId, WireError> {
    match Uuid::parse_str(text) {
        Ok(id) if !id.is_nil() => Ok(MemberId::new(id.hyphenated().to_string())),
        _ => Err(wrong(field, format!("{text:?} is no UUID"))),
    }
}

fn usage(message: pb::Usage, faults: &[Fault]) -> Usage {
    let missing = Missing::because(faults, &["signatures", "mounts", "swaps", "holders", "sysfs"]);
    Usage {
        blank: missing.observed(message.blank),
        exclusive_open_ok: missing.observed(message.exclusive_open_ok),
        holders: message.holders.into_iter().map(holder).collect(),
    }
}

fn holder(message: pb::Holder) -> Holder {
    use pb::holder::Kind;
    let kind = match message.kind() {
        Kind::Unspecified => HolderKind::Unknown,
        Kind::Signature => HolderKind::Signature,
        Kind::PartitionTable => HolderKind::PartitionTable,
        Kind::Partition => HolderKind::Partition,
        Kind::Mount => HolderKind::Mount,
        Kind::Swap => HolderKind::Swap,
        Kind::Device => HolderKind::Device,
        Kind::Exclusive => HolderKind::Exclusive,
        Kind::UnknownData => HolderKind::UnknownData,
        Kind::Member => HolderKind::Member,
    };
    Holder {
        kind,
        description: message.description,
        device: message.device,
    }
}

fn health(message: pb::Health, faults: &[Fault]) -> HealthFacts {
    let missing = Missing::because(faults, &["nvme", "nvme-cli", "smartctl"]);
    HealthFacts {
        self_assessment_passed: missing.observed(message.self_assessment_passed),
        critical_warning: missing.observed(message.critical_warning),
        percentage_used: missing.observed(message.percentage_used),
        available_spare_percent: missing.observed(message.available_spare_percent),
        available_spare_threshold_percent: missing.observed(message.available_spare_threshold_percent),
        media_errors: missing.observed(message.media_errors),
        reallocated_sectors: missing.observed(message.reallocated_sectors),
        pending_sectors: missing.observed(message.pending_sectors),
        uncorrectable_errors: missing.observed(message.uncorrectable_errors),
        temperature_celsius: missing.observed(message.temperature_celsius),
        power_on_hours: missing.observed(message.power_on_hours),
        source: message.source,
    }
}

const fn work(message: pb::Work) -> Work {
    Work {
        window_ms: message.window_milliseconds,
        ios: message.ios,
        bytes: message.bytes,
        waited_ms: message.waited_milliseconds,
        busy_ms: message.busy_milliseconds,
        in_flight: message.in_flight,
    }
}

/// A few plain words of what an agent tells to be shown as it is.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn io_errors(message: pb::IoErrors) -> IoErrors {
    IoErrors {
        bad_places: message.bad_places,
        failures: message.failures,
        last: plain(&message.last),
    }
}

fn nvme(message: pb::NvmeFacts) -> NvmeFacts {
    NvmeFacts {
        controller: message.controller,
        subsystem_nqn: message.subsystem_nqn,
        namespace_id: message.namespace_id,
        namespace_count: message.namespace_count,
        total_capacity_bytes: message.total_capacity_bytes,
        pci_address: message.pci_address,
    }
}

fn fault(message: pb::Fault) -> Fault {
    let kind = match message.kind() {
        pb::fault::Kind::Unsupported => FaultKind::Unsupported,
        pb::fault::Kind::Failed | pb::fault::Kind::Unspecified => FaultKind::Failed,
    };
    Fault {
        probe: message.probe,
        kind,
        detail: message.detail,
        device: message.device,
    }
}

const fn zoned(zoned: pb::Zoned) -> Zoned {
    match zoned {
        pb::Zoned::Unspecified => Zoned::Unknown,
        pb::Zoned::None => Zoned::None,
        pb::Zoned::HostAware => Zoned::HostAware,
        pb::Zoned::HostManaged => Zoned::HostManaged,
    }
}

const fn transport(transport: pb::Transport) -> Transport {
    match transport {
        pb::Transport::Unspecified => Transport::Unknown,
        pb::Transport::Pcie => Transport::Pcie,
        pb::Transport::Sas => Transport::Sas,
        pb::Transport::Sata => Transport::Sata,
        pb::Transport::Virtio => Transport::Virtio,
        pb::Transport::Usb => Transport::Usb,
        pb::Transport::Loop => Transport::Loop,
        pb::Transport::Nvdimm => Transport::Nvdimm,
        pb::Transport::Fc => Transport::Fc,
        pb::Transport::Iscsi => Transport::Iscsi,
        pb::Transport::NvmeFabrics => Transport::NvmeFabrics,
        pb::Transport::Scsi => Transport::Scsi,
    }
}

const fn kind(kind: pb::Kind) -> DriveType {
    match kind {
        pb::Kind::Unspecified => DriveType::Unknown,
        pb::Kind::Nvme => DriveType::Nvme,
        pb::Kind::Ssd => DriveType::Ssd,
        pb::Kind::Hdd => DriveType::Hdd,
        pb::Kind::Pmem => DriveType::Pmem,
    }
}

fn member(message: pb::MemberReport) -> Result<MemberReport, WireError> {
    use pb::member_report::State;
    bounded(&message)?;
    let state = match message.state() {
        State::Unspecified => return Err(wrong("state", format!("{} is no state", message.state))),
        State::Preparing => MemberState::Preparing,
        State::Stopped => MemberState::Stopped,
        State::Online => MemberState::Online,
        State::Failed => MemberState::Failed,
        State::Missing => MemberState::Missing,
        State::Released => MemberState::Released,
        State::Found => MemberState::Found,
    };
    Ok(MemberReport {
        member_id: member_id(&message.member_id, "member_id")?,
        state,
        reason: message.reason,
        message: message.message,
        device: message.device,
        filesystem_uuid: message.filesystem_uuid,
        mount_point: message.mount_point,
        capacity_bytes: message.capacity_bytes,
        used_bytes: message.used_bytes,
        endpoint: message.endpoint,
        pool: message.pool,
    })
}

/// The machine as Hello tells it.
#[must_use]
pub fn system(message: pb::SystemInfo) -> SystemInfo {
    SystemInfo {
        hostname: message.hostname,
        kernel_release: message.kernel_release,
        architecture: message.architecture,
        os_name: message.os_name,
        cpus: message.cpus,
        memory_bytes: message.memory_bytes,
        machine_id: message.machine_id,
    }
}

/// The drive as a command names it: what the agent must find again before it writes. `None` where its size is not
/// known: such a drive is never prepared.
#[must_use]
pub fn expected_drive(id: &DriveId, facts: &DriveFacts) -> Option<pb::ExpectedDrive> {
    Some(pb::ExpectedDrive {
        device: facts.name.clone(),
        size_bytes: *facts.size_bytes.known()?,
        disk_sequence: facts.disk_sequence.known().copied(),
        evidence: Some(evidence_message(&facts.evidence)),
        drive_id: id.to_string(),
    })
}

/// Evidence as a command carries it.
#[must_use]
pub fn evidence_message(evidence: &Evidence) -> pb::Evidence {
    pb::Evidence {
        nguid: evidence.nguid.clone(),
        eui64: evidence.eui64.clone(),
        nvme_uuid: evidence.nvme_uuid.clone(),
        wwn: evidence.wwn.clone(),
        serial: evidence.serial.clone(),
        mark: evidence.mark.as_ref().map(|mark| pb::Mark {
            member_id: mark.member_id.to_string(),
            label: mark.label.clone(),
            partition: mark.partition,
            released: mark.released,
        }),
        partition_table_uuid: evidence.partition_table_uuid.clone(),
        filesystem_uuids: evidence.filesystem_uuids.clone(),
        bus_path: evidence.bus_path.clone(),
        backing_file: evidence.backing_file.clone(),
        backing_file_inode: evidence.backing_file_inode.clone(),
        nvme_namespace: evidence.nvme_namespace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> pb::Device {
        pb::Device {
            name: name.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn what_is_absent_is_not_observed_and_says_why_where_a_fault_does() {
        let silent = drive(device("sda")).unwrap();
        assert_eq!(silent.size_bytes, Observed::Unsupported);
        assert_eq!(silent.usage.blank, Observed::Unsupported);
        let mut failing = device("sda");
        failing.faults = vec![pb::Fault {
            probe: "signatures".to_owned(),
            kind: pb::fault::Kind::Failed.into(),
            detail: "read: EIO".to_owned(),
            device: "sda".to_owned(),
        }];
        let failing = drive(failing).unwrap();
        assert_eq!(failing.usage.blank, Observed::Failed("read: EIO".to_owned()));
        assert_eq!(failing.health.media_errors, Observed::Unsupported);
    }

    #[test]
    fn one_device_that_makes_no_sense_is_a_fault_that_names_the_field_and_the_others_stay() {
        let mut bad = device("sdb");
        bad.evidence = Some(pb::Evidence {
            mark: Some(pb::Mark {
                member_id: "not-a-uuid".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        });
        let read = snapshot(pb::Snapshot {
            epoch: 1,
            devices: vec![device("sda"), bad, device("../x"), device("sda")],
            ..Default::default()
        });
        assert_eq!(
            read.drives.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(),
            ["sda"]
        );
        let details: Vec<_> = read.faults.iter().map(|f| f.detail.as_str()).collect();
        assert!(
            details[0].starts_with("devices[1].evidence.mark.member_id: "),
            "{details:?}"
        );
        assert!(details[1].starts_with("devices[2].name: "), "{details:?}");
        assert!(details[2].contains("told twice"), "{details:?}");
    }

    #[test]
    fn a_changed_device_that_makes_no_sense_keeps_nothing_of_its_old_facts() {
        let mut bad = device("sdb");
        bad.evidence = Some(pb::Evidence {
            mark: Some(pb::Mark::default()),
            ..Default::default()
        });
        let read = delta(pb::Delta {
            epoch: 1,
            seq: 1,
            changed: vec![bad],
            ..Default::default()
        });
        assert_eq!(read.removed, ["sdb"]);
        assert_eq!(read.faults.map(|f| f.len()), Some(1));
    }

    #[test]
    fn evidence_goes_to_the_wire_and_comes_back_the_same() {
        let evidence_in = Evidence {
            wwn: Some("naa.5000".to_owned()),
            serial: Some("S1".to_owned()),
            filesystem_uuids: vec!["a".to_owned()],
            mark: Some(Mark {
                member_id: MemberId::new("0190d5c4-7c3e-7a50-8a51-6c2f1f1d0a11"),
                label: "c/p".to_owned(),
                partition: 1,
                released: true,
            }),
            ..Evidence::default()
        };
        assert_eq!(evidence(evidence_message(&evidence_in)).unwrap(), evidence_in);
    }
}
