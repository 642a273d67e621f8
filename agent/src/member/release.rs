//! Letting a drive go: stop, unmount, and say on the drive itself that nobody serves it any more. The data stays.
//!
//! Recorded first, so that a crash at any moment is followed by the rest; done again it changes nothing.

use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;

use super::mark::{self, MarkError, MarkImage};
use super::partition;
use super::store::Phase;
use super::supervise::{Context, Supervisor};
use super::{MemberError, MemberId, MemberReport, MemberState, expected, fault, mount, prepare};
use crate::inventory::Inventory;

/// How long the whole of it may take on a drive that answers.
const LIMIT: Duration = Duration::from_secs(60);

/// How long others (a probe, a shell in the folder) may still hold the drive.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found to release.
enum Outcome {
    /// The drive says that it is released; its kernel name.
    Marked(String),
    /// There is no drive with that mark, and it never had one.
    NeverMarked,
}

/// Releases the member; `Ok` when nothing of it is left to be released on this node.
pub(super) async fn release(member: &mut Supervisor) -> Result<(), MemberError> {
    let marked_before = record(member)?;
    member.say(MemberState::Stopped, "Releasing", "it is being released");
    member.stop_process().await;
    if member.is_running() {
        return Err(MemberError::transient(
            "ProcessStuck",
            "the storage process cannot be stopped; check the drive",
        ));
    }
    let context = Arc::clone(&member.context);
    let (id, inventory) = (member.id, member.inventory.borrow().clone());
    let outcome = member
        .worker
        .run(LIMIT, move || let_go(&context, &inventory, id, marked_before))
        .await
        .and_then(|result| result)?;
    let pool = member.spec.take().map(|spec| spec.order.pool).unwrap_or_default();
    match outcome {
        Outcome::Marked(device) => member.context.report(
            id,
            MemberReport {
                state: MemberState::Released,
                reason: "Released".to_owned(),
                message: "its data is still on the drive; wipe the drive to use it again".to_owned(),
                device,
                pool,
                ..MemberReport::default()
            },
        ),
        Outcome::NeverMarked => {
            member.context.reports.send_if_modified(|reports| {
                reports.contains_key(&id) && Arc::make_mut(reports).remove(&id).is_some()
            });
        }
    }
    Ok(())
}

/// Records the intent; answers whether the drive may carry a complete mark.
fn record(member: &mut Supervisor) -> Result<bool, MemberError> {
    let Some(spec) = &mut member.spec else {
        return Ok(false);
    };
    let marked = spec.journal.phase != Phase::Marking;
    if marked && spec.journal.phase != Phase::Releasing {
        spec.journal.phase = Phase::Releasing;
        prepare::save(&member.context, spec)?;
        fault::point("member-releasing-recorded");
    }
    Ok(marked)
}

fn let_go(
    context: &Context,
    inventory: &Inventory,
    id: MemberId,
    marked_before: bool,
) -> Result<Outcome, MemberError> {
    let path = context.config.mount_point(id);
    let mounted = mount::mounted_at(&path).map_err(|error| failed("reading the mount table", &error))?;
    // Asked while it is mounted: the picture may be older than the mark.
    let below = mounted
        .as_ref()
        .and_then(|mounted| partition::disk_of(&context.config, mounted.number));
    let gone = mounted
        .as_ref()
        .is_some_and(|mounted| !partition::exists(&context.config, mounted.number));
    mount::unmount(&path, gone, PATIENCE).map_err(|error| {
        MemberError::transient(
            "InUse",
            format!(
                "{} cannot be unmounted: {error}; close what uses it",
                path.display()
            ),
        )
    })?;
    fault::point("member-unmounted");
    let disk = find(context, inventory, id, below);
    let outcome = match disk {
        Some(disk) => {
            mark_released(context, &disk, id)?;
            partition::forget(&context.config, &disk);
            partition::announce(&context.config, &disk);
            Outcome::Marked(disk)
        }
        None if marked_before => {
            return Err(MemberError::transient(
                "DriveMissing",
                format!("the drive of member {id} is not on this node; attach it, or abandon the member"),
            ));
        }
        None => Outcome::NeverMarked,
    };
    mount::remove_mount_point(&path).map_err(|error| failed("removing the mount point", &error))?;
    fault::point("member-mount-point-removed");
    context
        .store
        .remove(id)
        .map_err(|error| MemberError::transient("StoreFailed", error.to_string()))?;
    fault::point("member-spec-removed");
    Ok(outcome)
}

fn failed(what: &str, error: &std::io::Error) -> MemberError {
    MemberError::transient("ReleaseFailed", format!("{what}: {error}"))
}

fn find(context: &Context, inventory: &Inventory, id: MemberId, below: Option<String>) -> Option<String> {
    let known = context
        .store
        .read(id)
        .ok()
        .flatten()
        .map(|spec| spec.order.drive.device);
    let marked = expected::marked(inventory, id)
        .into_iter()
        .map(|device| device.name.clone());
    let carries = |disk: &String| {
        let path = context.config.host(&format!("/dev/{disk}"));
        partition::open(&path, false, OFlags::CLOEXEC)
            .ok()
            .and_then(|drive| mark::read(&drive.file, drive.geometry).ok().flatten())
            .is_some_and(|mark| mark.member == id)
    };
    below.into_iter().chain(marked).chain(known).find(carries)
}

/// Changes the partition's type in both copies of the table, through one exclusively opened descriptor.
fn mark_released(context: &Context, disk: &str, id: MemberId) -> Result<(), MemberError> {
    let path = context.config.host(&format!("/dev/{disk}"));
    let drive = partition::open_alone(&path, PATIENCE)
        .map_err(|error| MemberError::transient("InUse", error.to_string()))?;
    let refused = |error: MarkError| {
        MemberError::transient(
            "MarkNotWritten",
            format!("the mark on {disk} cannot be changed: {error}"),
        )
    };
    match mark::read(&drive.file, drive.geometry).map_err(refused)? {
        Some(found) if found.member == id && !found.released => {}
        Some(found) if found.member == id => return Ok(()),
        _ => return Err(refused(MarkError::NotOurs(id))),
    }
    let image = MarkImage::released(&drive.file, drive.geometry, id).map_err(refused)?;
    let write = || -> Result<(), MarkError> {
        image.write_backup(&drive.file)?;
        fault::point("member-release-backup-written");
        image.write_primary(&drive.file)?;
        image.check(&drive.file)
    };
    write().map_err(refused)?;
    fault::point("member-release-written");
    Ok(())
}
