//! A drive that is kept open from its mark until its file system is mounted.
//!
//! `mkfs` and `mount` open the partition by its path themselves, so the exclusive descriptor has to be closed before.
//! While any descriptor is open the kernel gives the drive's number to nothing else: a loop device cannot be laid
//! over another file, a drive that was pulled keeps its number until it is let go. So what is checked here still holds
//! when the path is opened. Nothing is written here.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::OFlags;
use uuid::Uuid;

use super::partition::{self, OpenDrive, PartitionError, Place, WriteCounters};
use super::prove::ProvenDrive;
use super::{FileSystem, MemberConfig, MemberError, mark, mount};
use crate::hardware::ioctl;
use crate::hardware::signatures::examine;

/// An open drive that carries a member's mark.
#[derive(Debug)]
pub(super) struct Held {
    name: String,
    drive: OpenDrive,
    sequence: Option<u64>,
    /// What the kernel had counted when our mark was the last thing written; none after a crash, when an interrupted
    /// `mkfs` may have written more.
    written: Option<WriteCounters>,
}

impl Held {
    /// Keeps a drive that was just marked; its exclusive descriptor is still open.
    pub fn marked(config: &MemberConfig, proven: &ProvenDrive) -> Result<Self, MemberError> {
        let held = Self::open(config, &proven.name)?;
        if held.drive.number != proven.drive.number {
            return Err(changed(&held.name, "the name leads to another device now"));
        }
        let written = partition::write_counters(config, held.drive.number)
            .map_err(|error| unreadable(&held.name, &error))?;
        Ok(Self {
            written: Some(written),
            ..held
        })
    }

    /// Keeps the drive on which the member was found.
    pub fn found(config: &MemberConfig, place: &Place) -> Result<Self, MemberError> {
        let held = Self::open(config, &place.disk)?;
        held.is(config, place)?;
        Ok(held)
    }

    fn open(config: &MemberConfig, name: &str) -> Result<Self, MemberError> {
        let drive = partition::open(&config.host(&format!("/dev/{name}")), false, OFlags::CLOEXEC).map_err(
            |error| match error {
                PartitionError::Open(_, error) => unreadable(name, &error),
                other => changed(name, &other.to_string()),
            },
        )?;
        Ok(Self {
            name: name.to_owned(),
            sequence: ioctl::disk_sequence(drive.file.as_fd()).ok(),
            drive,
            written: None,
        })
    }

    /// It still carries the member's mark, and the partition is its own.
    pub fn is(&self, config: &MemberConfig, place: &Place) -> Result<(), MemberError> {
        let Self { name, drive, .. } = self;
        if ioctl::disk_sequence(drive.file.as_fd()).ok() != self.sequence {
            return Err(changed(name, "it was exchanged or attached again"));
        }
        if ioctl::size_bytes(drive.file.as_fd()).ok() != Some(drive.geometry.size) {
            return Err(changed(name, "its size is another"));
        }
        match mark::read(&drive.file, drive.geometry) {
            Ok(Some(mark)) if mark == place.mark => {}
            Ok(_) => return Err(changed(name, "the member's mark is not on it any more")),
            Err(error) => return Err(unreadable(name, &error)),
        }
        match partition::known(config, drive.number) {
            Ok(Some(partition))
                if partition.number == place.number
                    && (partition.start, partition.length) == (place.mark.start, place.mark.length) =>
            {
                Ok(())
            }
            Ok(_) => Err(changed(name, "the kernel shows another partition on it")),
            Err(error) => Err(unreadable(name, &error)),
        }
    }

    /// After the mark nobody wrote to the drive, and nothing is in the partition. Known only where this very run
    /// wrote the mark.
    pub fn is_untouched(&self, config: &MemberConfig, place: &Place) -> Result<(), MemberError> {
        let Some(written) = &self.written else {
            return Ok(());
        };
        let failed = |error: io::Error| unreadable(&self.name, &error);
        let partition = File::open(&place.node).map_err(failed)?;
        // What others wrote and the kernel still holds back is counted when it reaches the drive.
        partition.sync_all().map_err(failed)?;
        self.drive.file.sync_all().map_err(failed)?;
        let found = examine(&partition, place.mark.length);
        if found.blank() != Some(true) {
            return Err(MemberError::refused(
                "NotBlank",
                format!(
                    "somebody wrote to {} after it was marked: {}; no file system was made; wipe it by hand if it \
                     may be taken",
                    self.name,
                    found.summary()
                ),
            ));
        }
        if partition::write_counters(config, self.drive.number).map_err(failed)? != *written {
            return Err(changed(&self.name, "somebody wrote to it after it was marked"));
        }
        Ok(())
    }
}

/// Mounts a finished member: the drive is held, and its file system is the one that was made for the member, before
/// the kernel is let near it (mounting alone replays a journal, and that is a write).
pub(super) fn mount_again(
    config: &MemberConfig,
    place: &Place,
    path: &Path,
    file_system: FileSystem,
    uuid: Uuid,
) -> io::Result<()> {
    let held = Held::found(config, place).map_err(io::Error::other)?;
    match mount::superblock(&place.node)? {
        Some((_, found)) if found == uuid => {}
        _ => return Err(io::Error::other(format!("file system {uuid} is not on it"))),
    }
    mount::mount(place, path, file_system)?;
    drop(held);
    Ok(())
}

fn changed(name: &str, what: &str) -> MemberError {
    MemberError::transient(
        "DriveChanged",
        format!("{name} changed while it was prepared: {what}; no file system was made"),
    )
}

fn unreadable(name: &str, error: &dyn std::fmt::Display) -> MemberError {
    MemberError::transient(
        "DriveUnreadable",
        format!("{name} does not answer: {error}; no file system was made"),
    )
}
