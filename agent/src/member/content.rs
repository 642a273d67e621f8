//! Whose a file system under a member's mark is: mounted, looked into, and left mounted only where it is the member's own.
//!
//! It never makes a file system and never removes a file.

use std::path::Path;

use super::held::Held;
use super::mount::{self, Identity};
use super::partition::Place;
use super::prepare::PATIENCE;
use super::supervise::Context;
use super::{EnsureMember, FileSystem, MemberError};

/// What a file system under the member's mark holds.
#[derive(Debug)]
pub(super) enum Content {
    /// Its `member.json` is this member's.
    Ours,
    /// Nothing but what an interrupted preparation leaves.
    Nothing,
    /// Somebody's: what was found.
    Foreign(String),
    /// It is no whole file system.
    Broken(std::io::Error),
}

/// Mounts a file system, where it is not mounted yet, and looks whose it is. Only the member's own stays mounted.
pub(super) fn look_into(
    context: &Context,
    order: &EnsureMember,
    file_system: FileSystem,
    place: &Place,
    held: &Held,
) -> Result<Content, MemberError> {
    let mount_point = context.config.mount_point(order.member_id);
    let failed = |what: &str, error: std::io::Error| mount_failed(order, place, what, &error);
    held.is(&context.config, place)?;
    let mounted =
        mount::mounted_at(&mount_point).map_err(|error| failed("reading the mount table", error))?;
    // An earlier agent's storage process may still run on it.
    let outcome = if mounted.is_some_and(|mounted| mounted.number == place.number) {
        Ok(())
    } else {
        mount::unmount(&mount_point, false, PATIENCE).map_err(|error| failed("unmounting", error))?;
        held.is(&context.config, place)?;
        mount::mount(place, &mount_point, file_system)
    };
    let found = match outcome {
        Ok(()) => content(&mount_point, &Identity::of(order)).map_err(|error| failed("reading", error)),
        Err(error) if is_broken(file_system, &error) => Ok(Content::Broken(error)),
        Err(error) => Err(failed("mounting", error)),
    };
    if !matches!(found, Ok(Content::Ours)) {
        mount::unmount(&mount_point, false, PATIENCE)
            .and_then(|()| mount::remove_mount_point(&mount_point))
            .map_err(|error| failed("unmounting", error))?;
    }
    found
}

/// Whether a failed mount says that the file system is not whole. Everything else (the drive does not answer, the
/// kernel does not know this file system, it is mounted under another name) says nothing of what is on it.
fn is_broken(file_system: FileSystem, error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::UCLEAN | Errno::BADMSG) => true,
        // XFS says this of a file system that is mounted already, from a copy.
        Some(Errno::INVAL) => file_system == FileSystem::Ext4,
        _ => false,
    }
}

fn content(mount_point: &Path, ours: &Identity) -> std::io::Result<Content> {
    match mount::read_identity(mount_point)? {
        Some(found) if found == *ours => return Ok(Content::Ours),
        Some(found) => {
            return Ok(Content::Foreign(format!(
                "its member.json says that it belongs to member {} of pool {} in cluster {}",
                found.member_id, found.pool, found.cluster_id
            )));
        }
        None => {}
    }
    for entry in std::fs::read_dir(mount_point)? {
        let entry = entry?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        let leftover = match name.to_str() {
            // A folder may hold nothing: what `fsck` found is somebody's too.
            Some(mount::DATA | "lost+found") => {
                kind.is_dir() && std::fs::read_dir(entry.path())?.next().is_none()
            }
            // A member.json that was never named.
            Some("member.new") => kind.is_file(),
            _ => false,
        };
        if !leftover {
            return Ok(Content::Foreign(format!(
                "it holds data ({}) and no member.json that could be read",
                name.to_string_lossy()
            )));
        }
    }
    Ok(Content::Nothing)
}

pub(super) fn foreign(order: &EnsureMember, place: &Place, what: &str) -> MemberError {
    MemberError::refused(
        "WrongIdentity",
        format!(
            "{} carries the mark of member {}, and its file system is not the member's: {what}; no file system was \
             made; save what is on it, then wipe the drive by hand if it may be taken",
            place.disk, order.member_id
        ),
    )
}

pub(super) fn mount_failed(
    order: &EnsureMember,
    place: &Place,
    what: &str,
    error: &std::io::Error,
) -> MemberError {
    MemberError::transient(
        "MountFailed",
        format!("{what} of {} on {}: {error}", order.member_id, place.disk),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn only_what_is_not_whole_is_broken() {
        let broken = |file_system, error: Errno| is_broken(file_system, &Error::from(error));
        for file_system in [FileSystem::Xfs, FileSystem::Ext4] {
            assert!(broken(file_system, Errno::UCLEAN) && broken(file_system, Errno::BADMSG));
            for error in [Errno::IO, Errno::BUSY, Errno::NODEV, Errno::ROFS, Errno::NOMEM] {
                assert!(!broken(file_system, error), "{error}");
            }
            assert!(!is_broken(
                file_system,
                &Error::other("another device was mounted")
            ));
        }
        // A file system that is mounted already, from a copy.
        assert!(!broken(FileSystem::Xfs, Errno::INVAL));
    }
}
