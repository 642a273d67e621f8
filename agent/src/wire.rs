//! The agent's structs as messages, and a command's message as an order. Facts are carried, never judged.

use std::collections::BTreeMap;

use smart_storage_proto::agent::v1 as pb;

use crate::{
    hardware::{self, Device},
    inventory,
    member::{self, MemberId},
};

/// A field of a command that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct WireError {
    /// Its path in the message.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

fn wrong(field: &'static str, reason: impl Into<String>) -> WireError {
    WireError {
        field,
        reason: reason.into(),
    }
}

/// A drive.
#[must_use]
pub fn device(device: &Device) -> pb::Device {
    pb::Device {
        name: device.name.clone(),
        dev_path: device.dev_path.clone(),
        major: device.major,
        minor: device.minor,
        disk_sequence: device.disk_sequence,
        size_bytes: device.size_bytes,
        logical_block_bytes: device.logical_block_bytes,
        physical_block_bytes: device.physical_block_bytes,
        rotational: device.rotational,
        read_only: device.read_only,
        removable: device.removable,
        zoned: zoned(device.zoned).into(),
        transport: transport(device.transport).into(),
        kind: kind(device.kind).into(),
        vendor: device.vendor.clone(),
        model: device.model.clone(),
        firmware: device.firmware.clone(),
        evidence: Some(evidence(&device.evidence)),
        usage: Some(usage(&device.usage)),
        health: device.health.as_ref().map(health),
        nvme: device.nvme.as_ref().map(nvme),
        faults: device.faults.iter().map(fault).collect(),
        paths: device.paths.clone(),
        work: device.work.as_ref().map(work),
        io_errors: device.io_errors.as_ref().map(io_errors),
    }
}

const fn work(work: &hardware::Work) -> pb::Work {
    pb::Work {
        window_milliseconds: work.window_ms,
        ios: work.ios,
        bytes: work.bytes,
        waited_milliseconds: work.waited_ms,
        busy_milliseconds: work.busy_ms,
        in_flight: work.in_flight,
    }
}

fn io_errors(errors: &hardware::IoErrors) -> pb::IoErrors {
    pb::IoErrors {
        bad_places: errors.bad_places,
        failures: errors.failures,
        last: errors.last.clone(),
    }
}

const fn zoned(zoned: hardware::Zoned) -> pb::Zoned {
    match zoned {
        hardware::Zoned::Unspecified => pb::Zoned::Unspecified,
        hardware::Zoned::None => pb::Zoned::None,
        hardware::Zoned::HostAware => pb::Zoned::HostAware,
        hardware::Zoned::HostManaged => pb::Zoned::HostManaged,
    }
}

const fn transport(transport: hardware::Transport) -> pb::Transport {
    match transport {
        hardware::Transport::Unspecified => pb::Transport::Unspecified,
        hardware::Transport::Pcie => pb::Transport::Pcie,
        hardware::Transport::Sas => pb::Transport::Sas,
        hardware::Transport::Sata => pb::Transport::Sata,
        hardware::Transport::Virtio => pb::Transport::Virtio,
        hardware::Transport::Usb => pb::Transport::Usb,
        hardware::Transport::Loop => pb::Transport::Loop,
        hardware::Transport::Nvdimm => pb::Transport::Nvdimm,
        hardware::Transport::Fc => pb::Transport::Fc,
        hardware::Transport::Iscsi => pb::Transport::Iscsi,
        hardware::Transport::NvmeFabrics => pb::Transport::NvmeFabrics,
        hardware::Transport::Scsi => pb::Transport::Scsi,
    }
}

const fn kind(kind: hardware::Kind) -> pb::Kind {
    match kind {
        hardware::Kind::Unspecified => pb::Kind::Unspecified,
        hardware::Kind::Nvme => pb::Kind::Nvme,
        hardware::Kind::Ssd => pb::Kind::Ssd,
        hardware::Kind::Hdd => pb::Kind::Hdd,
        hardware::Kind::Pmem => pb::Kind::Pmem,
    }
}

fn evidence(evidence: &hardware::Evidence) -> pb::Evidence {
    pb::Evidence {
        nguid: evidence.nguid.clone(),
        eui64: evidence.eui64.clone(),
        nvme_uuid: evidence.nvme_uuid.clone(),
        wwn: evidence.wwn.clone(),
        serial: evidence.serial.clone(),
        mark: evidence.mark.as_ref().map(|mark| pb::Mark {
            member_id: mark.member_id.clone(),
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

fn evidence_of(evidence: pb::Evidence) -> hardware::Evidence {
    hardware::Evidence {
        nguid: evidence.nguid,
        eui64: evidence.eui64,
        nvme_uuid: evidence.nvme_uuid,
        wwn: evidence.wwn,
        serial: evidence.serial,
        mark: evidence.mark.map(|mark| hardware::Mark {
            member_id: mark.member_id,
            label: mark.label,
            partition: mark.partition,
            released: mark.released,
        }),
        partition_table_uuid: evidence.partition_table_uuid,
        filesystem_uuids: evidence.filesystem_uuids,
        bus_path: evidence.bus_path,
        backing_file: evidence.backing_file,
        backing_file_inode: evidence.backing_file_inode,
        nvme_namespace: evidence.nvme_namespace,
    }
}

fn usage(usage: &hardware::Usage) -> pb::Usage {
    pb::Usage {
        blank: usage.blank,
        exclusive_open_ok: usage.exclusive_open_ok,
        holders: usage
            .holders
            .iter()
            .map(|holder| pb::Holder {
                kind: holder_kind(holder.kind).into(),
                description: holder.description.clone(),
                device: holder.device.clone(),
            })
            .collect(),
    }
}

const fn holder_kind(kind: hardware::HolderKind) -> pb::holder::Kind {
    use hardware::HolderKind;
    match kind {
        HolderKind::Signature => pb::holder::Kind::Signature,
        HolderKind::PartitionTable => pb::holder::Kind::PartitionTable,
        HolderKind::Partition => pb::holder::Kind::Partition,
        HolderKind::Mount => pb::holder::Kind::Mount,
        HolderKind::Swap => pb::holder::Kind::Swap,
        HolderKind::Device => pb::holder::Kind::Device,
        HolderKind::Exclusive => pb::holder::Kind::Exclusive,
        HolderKind::UnknownData => pb::holder::Kind::UnknownData,
        HolderKind::Member => pb::holder::Kind::Member,
    }
}

fn health(health: &hardware::Health) -> pb::Health {
    pb::Health {
        self_assessment_passed: health.self_assessment_passed,
        critical_warning: health.critical_warning,
        percentage_used: health.percentage_used,
        available_spare_percent: health.available_spare_percent,
        available_spare_threshold_percent: health.available_spare_threshold_percent,
        media_errors: health.media_errors,
        reallocated_sectors: health.reallocated_sectors,
        pending_sectors: health.pending_sectors,
        uncorrectable_errors: health.uncorrectable_errors,
        temperature_celsius: health.temperature_celsius,
        power_on_hours: health.power_on_hours,
        source: health.source.clone(),
    }
}

fn nvme(nvme: &hardware::NvmeFacts) -> pb::NvmeFacts {
    pb::NvmeFacts {
        controller: nvme.controller.clone(),
        subsystem_nqn: nvme.subsystem_nqn.clone(),
        namespace_id: nvme.namespace_id,
        namespace_count: nvme.namespace_count,
        total_capacity_bytes: nvme.total_capacity_bytes,
        pci_address: nvme.pci_address.clone(),
    }
}

/// A fact that is missing.
#[must_use]
pub fn fault(fault: &hardware::Fault) -> pb::Fault {
    let kind = match fault.kind {
        hardware::FaultKind::Unsupported => pb::fault::Kind::Unsupported,
        hardware::FaultKind::Failed => pb::fault::Kind::Failed,
    };
    pb::Fault {
        probe: fault.probe.as_str().to_owned(),
        kind: kind.into(),
        detail: fault.detail.clone(),
        device: fault.device.clone(),
    }
}

/// What is said of a member.
#[must_use]
pub fn member(id: MemberId, report: &member::MemberReport) -> pb::MemberReport {
    use member::MemberState;
    use pb::member_report::State;
    let state = match report.state {
        MemberState::Preparing => State::Preparing,
        MemberState::Stopped => State::Stopped,
        MemberState::Online => State::Online,
        MemberState::Failed => State::Failed,
        MemberState::Missing => State::Missing,
        MemberState::Released => State::Released,
        MemberState::Found => State::Found,
    };
    pb::MemberReport {
        member_id: id.to_string(),
        state: state.into(),
        reason: report.reason.clone(),
        message: report.message.clone(),
        device: report.device.clone(),
        filesystem_uuid: report.filesystem_uuid.clone(),
        mount_point: report.mount_point.clone(),
        capacity_bytes: report.capacity_bytes,
        used_bytes: report.used_bytes,
        endpoint: report.endpoint.clone(),
        pool: report.pool.clone(),
    }
}

/// All members.
#[must_use]
pub fn members(reports: &BTreeMap<MemberId, member::MemberReport>) -> Vec<pb::MemberReport> {
    reports.iter().map(|(id, report)| member(*id, report)).collect()
}

/// Drives and faults of a change; the session adds epoch, sequence and members.
#[must_use]
pub fn delta(delta: &inventory::Delta) -> pb::Delta {
    pb::Delta {
        changed: delta.changed.iter().map(|changed| device(changed)).collect(),
        removed: delta.removed.clone(),
        node_faults_changed: delta.faults_changed.is_some(),
        faults: delta.faults_changed.iter().flatten().map(fault).collect(),
        ..pb::Delta::default()
    }
}

/// Reads a member's id.
///
/// # Errors
/// [`WireError`] where it is no UUID.
pub fn member_id(text: &str) -> Result<MemberId, WireError> {
    MemberId::parse(text).ok_or_else(|| wrong("member_id", format!("{text:?} is no UUID")))
}

/// Reads the order to make a member exist.
///
/// # Errors
/// [`WireError`] naming the field.
pub fn order(message: pb::EnsureMember) -> Result<member::EnsureMember, WireError> {
    use pb::ensure_member::FileSystem;
    let file_system = match message.file_system() {
        FileSystem::Unspecified | FileSystem::Xfs => member::FileSystem::Xfs,
        FileSystem::Ext4 => member::FileSystem::Ext4,
    };
    let drive = message.drive.ok_or_else(|| wrong("drive", "missing"))?;
    if drive.size_bytes == 0 {
        return Err(wrong("drive.size_bytes", "0 is no size"));
    }
    let weed = message.weed.ok_or_else(|| wrong("weed", "missing"))?;
    if weed.masters.is_empty() {
        return Err(wrong("weed.masters", "empty"));
    }
    Ok(member::EnsureMember {
        member_id: member_id(&message.member_id)?,
        pool: message.pool,
        cluster_id: message.cluster_id,
        may_prepare: message.may_prepare,
        drive: member::ExpectedDrive {
            device: drive.device,
            size_bytes: drive.size_bytes,
            disk_sequence: drive.disk_sequence,
            evidence: evidence_of(drive.evidence.unwrap_or_default()),
            drive_id: drive.drive_id,
        },
        file_system,
        weed: member::WeedVolume {
            masters: weed.masters,
            disk_tag: weed.disk_tag,
            max_volumes: weed.max_volumes,
            data_center: weed.data_center,
            rack: weed.rack,
            min_free_bytes: weed.min_free_bytes,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ensure() -> pb::EnsureMember {
        pb::EnsureMember {
            member_id: "0190d5c4-7c3e-7a50-8a51-6c2f1f1d0a11".to_owned(),
            drive: Some(pb::ExpectedDrive {
                size_bytes: 1 << 30,
                evidence: Some(pb::Evidence {
                    serial: Some("S1".to_owned()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            weed: Some(pb::WeedVolume {
                masters: vec!["127.0.0.1:9333.19333".to_owned()],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn an_order_keeps_everything_that_it_says() {
        let order = order(ensure()).unwrap();
        assert_eq!(order.drive.evidence.serial.as_deref(), Some("S1"));
        assert_eq!(order.drive.disk_sequence, None);
        assert!(
            !order.may_prepare,
            "a drive is prepared only where the order says so"
        );
    }

    #[test]
    fn an_order_that_makes_no_sense_names_the_field() {
        let check = |spoil: fn(&mut pb::EnsureMember), field: &str| {
            let mut message = ensure();
            spoil(&mut message);
            assert_eq!(order(message).unwrap_err().field, field);
        };
        check(|m| m.member_id = "x".to_owned(), "member_id");
        check(|m| m.drive = None, "drive");
        check(|m| m.drive.as_mut().unwrap().size_bytes = 0, "drive.size_bytes");
        check(|m| m.weed = None, "weed");
        check(|m| m.weed.as_mut().unwrap().masters.clear(), "weed.masters");
    }

    #[test]
    fn what_was_not_observed_is_absent_on_the_wire() {
        let message = device(&Device::default());
        assert_eq!(message.size_bytes, None);
        assert_eq!(message.usage.unwrap().blank, None);
        assert_eq!(message.health, None);
    }
}
