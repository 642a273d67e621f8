//! From an order to a finished member: prove, mark, partition, file system, identity; each step recorded before
//! it is done, and each safe to do again after a crash at any moment.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::content::{Content, foreign, look_into, mount_failed};
use super::held::Held;
use super::mark::{self, MarkImage};
use super::mount::{self, Identity};
use super::partition::{self, PartitionError, Place};
use super::process::find_program;
use super::prove::Proof;
use super::store::{Journal, MemberSpec, Phase, StoreError};
use super::supervise::Context;
use super::{EnsureMember, FileSystem, MemberError, expected, fault};
use crate::hardware::Depth;
use crate::hardware::signatures::examine;
use crate::inventory::Inventory;

/// How long an unmount waits for others.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the member exist on its drive: what is there already is kept, what is missing is done.
pub(super) fn prepare(
    context: &Context,
    inventory: &Inventory,
    known: Option<MemberSpec>,
    order: &EnsureMember,
) -> Result<MemberSpec, MemberError> {
    if let Some(known) = &known {
        is_same_member(&known.order, order)?;
    }
    match known {
        Some(spec) if spec.journal.phase == Phase::Releasing => Err(MemberError::refused(
            "Releasing",
            format!("member {} is being released; let it go first", order.member_id),
        )),
        Some(spec) if spec.journal.phase == Phase::Finished => update(context, spec, order),
        Some(spec) if spec.journal.phase == Phase::Formatting => {
            let spec = update(context, spec, order)?;
            let place = find_marked(context, inventory, order)?.ok_or_else(|| missing(order))?;
            if !order.may_prepare {
                return adopt(context, order, Some(spec.journal), &place);
            }
            let held = Held::found(&context.config, &place)?;
            is_planned(context, order, &place)?;
            format(context, spec, &place, &held)
        }
        Some(spec) => take(context, inventory, Some(spec), order),
        None => match find_marked(context, inventory, order)? {
            Some(place) => adopt(context, order, None, &place),
            None => take(context, inventory, None, order),
        },
    }
}

fn is_same_member(known: &EnsureMember, order: &EnsureMember) -> Result<(), MemberError> {
    if known.pool == order.pool && known.cluster_id == order.cluster_id {
        return Ok(());
    }
    Err(MemberError::refused(
        "MemberMismatch",
        format!(
            "member {} belongs to pool {} of cluster {} here, not to {} of {}; release it first",
            order.member_id, known.pool, known.cluster_id, order.pool, order.cluster_id
        ),
    ))
}

/// Takes over what may change in a member that exists: how its process runs.
fn update(context: &Context, spec: MemberSpec, order: &EnsureMember) -> Result<MemberSpec, MemberError> {
    if spec.order == *order {
        return Ok(spec);
    }
    let spec = MemberSpec {
        order: order.clone(),
        journal: spec.journal,
    };
    save(context, &spec)?;
    Ok(spec)
}

/// The drive that carries the member's mark, if any does.
fn find_marked(
    context: &Context,
    inventory: &Inventory,
    order: &EnsureMember,
) -> Result<Option<Place>, MemberError> {
    let id = order.member_id;
    if !inventory.complete {
        // A copy of the drive may not have been seen yet.
        return Err(MemberError::transient(
            "Looking",
            format!("the drives of this node are being probed; member {id} has to wait; nothing was written"),
        ));
    }
    let mut disks: Vec<String> = expected::marked(inventory, id)
        .iter()
        .map(|device| device.name.clone())
        .collect();
    // The picture may be older than a mark that was written a moment ago.
    if disks.is_empty() && inventory.devices.contains_key(&order.drive.device) {
        disks.push(order.drive.device.clone());
    }
    match disks.as_slice() {
        [] => Ok(None),
        [disk] => match partition::locate(&context.config, disk, id) {
            Ok(place) if place.mark.released => Err(MemberError::refused(
                "Released",
                format!(
                    "member {id} on {disk} was released; its data is still there; wipe it to use it again"
                ),
            )),
            Ok(place) => Ok(Some(place)),
            Err(PartitionError::NotOurs(..) | PartitionError::Mark(..)) => Ok(None),
            Err(error) => Err(MemberError::transient("DriveUnreadable", error.to_string())),
        },
        several => Err(MemberError::refused(
            "DuplicateMark",
            format!(
                "member {id} is on {} at once: none of them is served; detach the copies",
                several.join(" and ")
            ),
        )),
    }
}

/// A drive that was prepared before, by another data folder or another node; or here, and then finished elsewhere.
/// Only its `member.json` says that it was finished: no file system is ever made here.
fn adopt(
    context: &Context,
    order: &EnsureMember,
    known: Option<Journal>,
    place: &Place,
) -> Result<MemberSpec, MemberError> {
    let helps = if known.is_some() {
        "this order does not allow making one; release the member, then wipe the drive to use it again"
    } else {
        "bring it back to the node that began with it, or release the member and wipe the drive"
    };
    let unfinished = |what: &str, written: &str| {
        MemberError::refused(
            "NotFinished",
            format!(
                "{} carries the mark of member {} and {what}: its preparation was interrupted; {helps}{written}",
                place.disk, order.member_id
            ),
        )
    };
    let held = Held::found(&context.config, place)?;
    let superblock = mount::superblock(&place.node).map_err(|error| {
        MemberError::transient("DriveUnreadable", format!("{}: {error}", place.node.display()))
    })?;
    let Some((file_system, filesystem_uuid)) = superblock else {
        return Err(unfinished("no file system", "; nothing was written"));
    };
    match look_into(context, order, file_system, place, &held)? {
        Content::Ours => {}
        Content::Nothing => return Err(unfinished("an empty file system without member.json", "")),
        Content::Foreign(what) => return Err(foreign(order, place, &what)),
        Content::Broken(error) => {
            return Err(MemberError::transient(
                "MountFailed",
                format!(
                    "the file system of member {} on {} cannot be mounted: {error}; check the drive, then repair it",
                    order.member_id, place.disk
                ),
            ));
        }
    }
    let journal = Journal {
        phase: Phase::Finished,
        disk_guid: known.map_or_else(Uuid::nil, |known| known.disk_guid),
        file_system,
        filesystem_uuid,
        ports: None,
        data_id: None,
    };
    let spec = MemberSpec {
        order: order.clone(),
        journal,
    };
    finish(context, spec, place)
}

/// Takes a drive that was never written to, or goes on where a crash interrupted the writing of the mark.
fn take(
    context: &Context,
    inventory: &Inventory,
    known: Option<MemberSpec>,
    order: &EnsureMember,
) -> Result<MemberSpec, MemberError> {
    if !order.may_prepare && known.is_none() {
        return Err(missing(order));
    }
    let file_system = available(order.file_system)?;
    let device = expected::choose(inventory, &order.drive)?;
    let journal = known
        .as_ref()
        .map_or_else(|| fresh_journal(file_system), |known| known.journal.clone());
    let mut spec = MemberSpec {
        order: order.clone(),
        journal,
    };
    let label = mark::label(&order.cluster_id, &order.pool);
    let proof = Proof {
        config: &context.config,
        hardware: context.hardware.as_ref(),
        order,
        resuming: known.is_some(),
    };
    let proven = proof.prove(&device.name, |geometry| {
        MarkImage::new(geometry, spec.journal.disk_guid, order.member_id, &label)
    })?;
    fault::point("member-proven");
    save(context, &spec)?;
    fault::point("member-spec-written");
    if let Err(error) = proof.still_stands(&proven) {
        // Nothing was written: it is as if the order had never come.
        if known.is_none()
            && let Err(error) = context.store.remove(order.member_id)
        {
            tracing::warn!(member = %order.member_id, %error, "the record of a refused order stays");
        }
        return Err(error);
    }
    write_mark(&proven.drive.file, &proven.image)
        .map_err(|error| MemberError::transient("MarkNotWritten", format!("{}: {error}", proven.name)))?;
    let found = mark::read(&proven.drive.file, proven.drive.geometry)
        .ok()
        .flatten()
        .filter(|found| found.member == order.member_id && !found.released)
        .ok_or_else(|| {
            MemberError::transient("MarkNotWritten", format!("{} shows another mark", proven.name))
        })?;
    let place = partition::attach(&context.config, &proven.name, &proven.drive, found)
        .map_err(|error| MemberError::transient("PartitionMissing", error.to_string()))?;
    let held = Held::marked(&context.config, &proven)?;
    drop(proven);
    fault::point("member-partition-added");
    held.is_untouched(&context.config, &place)?;
    spec.journal.phase = Phase::Formatting;
    save(context, &spec)?;
    fault::point("member-formatting-recorded");
    if let Err(error) = held.is_untouched(&context.config, &place) {
        // The next attempt has to prove once more that nothing but the mark is there.
        spec.journal.phase = Phase::Marking;
        save(context, &spec)?;
        return Err(error);
    }
    format(context, spec, &place, &held)
}

/// A drive that carries the mark of an unfinished member, and on which a file system is about to be made, has to be
/// the drive of the plan too: marks can be copied.
fn is_planned(context: &Context, order: &EnsureMember, place: &Place) -> Result<(), MemberError> {
    let around = context.hardware.surroundings();
    let depth = Depth {
        wake: true,
        ..Depth::default()
    };
    let seen = context
        .hardware
        .probe(&place.disk, &around, depth, Instant::now())
        .ok_or_else(|| missing(order))?;
    match expected::differing_evidence(&seen.evidence, &order.drive.evidence) {
        None => Ok(()),
        Some(what) => Err(MemberError::refused(
            "DriveChanged",
            format!(
                "{} carries the mark of member {} and is not drive {}: {what}; no file system was made; detach the copy",
                place.disk, order.member_id, order.drive.drive_id
            ),
        )),
    }
}

fn write_mark(drive: &std::fs::File, image: &MarkImage) -> Result<(), mark::MarkError> {
    image.write_backup(drive)?;
    fault::point("member-mark-backup-written");
    image.write_primary(drive)?;
    fault::point("member-mark-written");
    image.check(drive)?;
    fault::point("member-mark-checked");
    Ok(())
}

fn fresh_journal(file_system: FileSystem) -> Journal {
    Journal {
        phase: Phase::Marking,
        disk_guid: Uuid::new_v4(),
        file_system,
        filesystem_uuid: Uuid::new_v4(),
        ports: None,
        data_id: None,
    }
}

/// Makes the file system and says in it whose it is. Only ever called while the journal says `Formatting`; that may
/// be older than what became of the drive on another node, so a file system that is there is looked into first.
///
/// The drive is held open all the while: `mkfs` and `mount` go by the partition's path, and it leads to this drive as
/// long as the drive is held.
fn format(
    context: &Context,
    spec: MemberSpec,
    place: &Place,
    held: &Held,
) -> Result<MemberSpec, MemberError> {
    let mount_point = context.config.mount_point(spec.order.member_id);
    let failed = |what: &str, error: std::io::Error| mount_failed(&spec.order, place, what, &error);
    mount::unmount(&mount_point, false, PATIENCE).map_err(|error| failed("unmounting", error))?;
    held.is(&context.config, place)?;
    let again = may_format(&spec.journal, place)?;
    if again {
        match look_into(context, &spec.order, spec.journal.file_system, place, held)? {
            Content::Ours => return finish(context, spec, place),
            Content::Foreign(what) => return Err(foreign(&spec.order, place, &what)),
            Content::Nothing => {}
            Content::Broken(error) => {
                tracing::warn!(member = %spec.order.member_id, disk = place.disk, %error, "unfinished file system");
            }
        }
        held.is(&context.config, place)?;
    }
    make_file_system(&spec.journal, place, again)?;
    fault::point("member-formatted");
    held.is(&context.config, place)?;
    mount::mount(place, &mount_point, spec.journal.file_system).map_err(|error| failed("mounting", error))?;
    fault::point("member-mounted");
    mount::write_identity(&mount_point, &Identity::of(&spec.order))
        .map_err(|error| failed("writing the identity", error))?;
    fault::point("member-identity-written");
    finish(context, spec, place)
}

/// Its own file system is mounted: from now on it is a member.
fn finish(context: &Context, mut spec: MemberSpec, place: &Place) -> Result<MemberSpec, MemberError> {
    spec.journal.phase = Phase::Finished;
    if let Err(error) = save(context, &spec) {
        // Nobody looks after a mount that no record speaks of.
        let mount_point = context.config.mount_point(spec.order.member_id);
        if let Err(error) = mount::unmount(&mount_point, false, PATIENCE) {
            tracing::warn!(member = %spec.order.member_id, %error, "the mount of an unrecorded member stays");
        }
        return Err(error);
    }
    fault::point("member-finished");
    partition::announce(&context.config, &place.disk);
    Ok(spec)
}

fn make_file_system(journal: &Journal, place: &Place, again: bool) -> Result<(), MemberError> {
    let uuid = journal.filesystem_uuid.hyphenated().to_string();
    // Nothing is discarded: the drive reads as zeros already, and what the proof did not read of a large one is not
    // wiped with one stroke.
    let (program, mut arguments) = match journal.file_system {
        FileSystem::Xfs => (
            "mkfs.xfs",
            ["-q", "-K", "-m", &format!("uuid={uuid}")]
                .map(str::to_owned)
                .to_vec(),
        ),
        FileSystem::Ext4 => (
            "mkfs.ext4",
            ["-q", "-E", "nodiscard", "-m", "0", "-U", &uuid]
                .map(str::to_owned)
                .to_vec(),
        ),
    };
    if again {
        arguments.push(if program == "mkfs.xfs" { "-f" } else { "-F" }.to_owned());
    }
    let path = find_program(Path::new(program)).ok_or_else(|| no_mkfs(program))?;
    let output = Command::new(path)
        .args(&arguments)
        .arg(&place.node)
        .stdin(std::process::Stdio::null())
        .output();
    let failed = |what: String| {
        MemberError::transient(
            "FormatFailed",
            format!("{program} on {}: {what}", place.node.display()),
        )
    };
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    match mount::superblock(&place.node) {
        Ok(Some(made)) if made == (journal.file_system, journal.filesystem_uuid) => Ok(()),
        Ok(_) => Err(failed(
            "it said that all was well, and its file system is not there".to_owned(),
        )),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Nothing that anybody recognises may be on the partition, except the very file system that the journal
/// announced: then (`true`) it is made once more, where it is nobody's.
fn may_format(journal: &Journal, place: &Place) -> Result<bool, MemberError> {
    let unreadable = |error: std::io::Error| {
        MemberError::transient("DriveUnreadable", format!("{}: {error}", place.node.display()))
    };
    let file = std::fs::File::open(&place.node).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.file_type().is_block_device() {
        return Err(MemberError::refused(
            "Unsuitable",
            format!("{} is no block device", place.node.display()),
        ));
    }
    let ours = mount::superblock(&place.node)
        .map_err(unreadable)?
        .is_some_and(|(_, uuid)| uuid == journal.filesystem_uuid);
    let found = examine(&file, place.mark.length);
    if ours || (found.signatures.is_empty() && found.table.is_none() && found.errors.is_empty()) {
        return Ok(ours);
    }
    Err(MemberError::refused(
        "NotBlank",
        format!(
            "the partition {} of an unfinished member is not blank: {}; no file system was made",
            place.node.display(),
            found.summary()
        ),
    ))
}

/// The file system that was asked for; ext4 where there is no `mkfs.xfs`.
fn available(asked: FileSystem) -> Result<FileSystem, MemberError> {
    let there = |program: &str| find_program(Path::new(program)).is_some();
    match asked {
        FileSystem::Xfs if there("mkfs.xfs") => Ok(FileSystem::Xfs),
        _ if there("mkfs.ext4") => Ok(FileSystem::Ext4),
        FileSystem::Xfs => Err(no_mkfs("mkfs.xfs")),
        FileSystem::Ext4 => Err(no_mkfs("mkfs.ext4")),
    }
}

fn no_mkfs(program: &str) -> MemberError {
    MemberError::refused("NoMkfs", format!("{program} is not on this node; install it"))
}

pub(super) fn missing(order: &EnsureMember) -> MemberError {
    MemberError::transient(
        "DriveMissing",
        format!(
            "no drive on this node carries the mark of member {} (drive {}, last seen as {}); attach it",
            order.member_id, order.drive.drive_id, order.drive.device
        ),
    )
}

/// Records a step; without the record the step is not done.
pub(super) fn save(context: &Context, spec: &MemberSpec) -> Result<(), MemberError> {
    context
        .store
        .save(spec)
        .map_err(|error: StoreError| MemberError::transient("StoreFailed", error.to_string()))
}
