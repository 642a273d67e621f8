//! The proof that has to stand before the first write: this very drive, and nothing on it.
//!
//! Everything is asked of one descriptor that was opened exclusively, or of the kernel about the device number
//! behind that descriptor; the path is only how the descriptor was come by. Nothing is written here, and whatever
//! cannot be proven is a refusal.
//!
//! The drive is read past the page cache, and as closely as [`Reading::PROOF`] says. That takes time, and an exclusive
//! open keeps out mounts, swap and RAID, but not a program that opens plainly: so the kernel's count of writes is taken
//! before the reading and compared in the last moment before the first write ([`Proof::still_stands`]): whatever was
//! written meanwhile, and wherever, is noticed. A drive that has other ports on this node is used by none of them. What
//! remains is the moment between the last look and the first write, and writes that reach the medium past this node.
//!
//! [`Reading::PROOF`]: crate::hardware::signatures::Reading::PROOF

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::direct::Direct;
use super::expected::disagreement;
use super::mark::{Geometry, MarkError, MarkImage};
use super::partition::{self, OpenDrive, PartitionError, WriteCounters};
use super::{EnsureMember, FileSystem, MemberConfig, MemberError, fault, openers};
use crate::hardware::signatures::{Findings, examine, examine_closely};
use crate::hardware::{
    Depth, Device, Fault, FaultKind, Hardware, Holder, HolderKind, Probe, Surroundings, Zoned, ioctl,
};

/// Room that `mkfs.xfs` insists on (300 MiB), and the mark and some data.
const SMALLEST_XFS: u64 = 512 << 20;
const SMALLEST_EXT4: u64 = 64 << 20;

/// A probe of ours, or udevd, holds a drive no longer.
const A_LOOK: Duration = Duration::from_millis(300);

/// A drive, held exclusively, on which nothing is, or nothing but (part of) the mark that is to be written.
#[derive(Debug)]
pub(super) struct ProvenDrive {
    pub drive: OpenDrive,
    pub name: String,
    pub image: MarkImage,
    /// What the kernel had counted before the drive was read.
    written: WriteCounters,
}

/// What has to be proven, and with what.
pub(super) struct Proof<'a> {
    pub config: &'a MemberConfig,
    pub hardware: &'a dyn Hardware,
    pub order: &'a EnsureMember,
    /// The journal says that this mark was being written: what is left of it does not speak against the drive.
    pub resuming: bool,
}

/// How much of a drive is read, and who holds it meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Before it is opened.
    First,
    /// While we hold it exclusively ourselves.
    Held,
}

impl Proof<'_> {
    /// Proves the drive of that kernel name to be the one that is meant, and blank.
    pub fn prove(
        &self,
        name: &str,
        image: impl FnOnce(Geometry) -> Result<MarkImage, MarkError>,
    ) -> Result<ProvenDrive, MemberError> {
        let seen = self.look(name)?;
        fits(&seen, self.order.file_system)?;
        self.is_free(&seen, Look::First)?;
        fault::point("member-looked");
        let drive = self.open_exclusively(name)?;
        self.is_same(&seen, &drive)?;
        let image = image(drive.geometry).map_err(|error| {
            MemberError::refused(
                "Unsuitable",
                format!("{name} cannot carry a mark: {error}; nothing was written"),
            )
        })?;
        let written = self.count_writes(name, &drive)?;
        let proven = ProvenDrive {
            drive,
            name: name.to_owned(),
            image,
            written,
        };
        fault::point("member-opened");
        self.is_whole(name, &proven.drive)?;
        self.is_blank(&proven, Look::First)?;
        fault::point("member-examined");
        // Once more, now that nobody else can take it.
        self.still_stands(&proven)?;
        Ok(proven)
    }

    /// The proof still stands: to be asked directly before the first write.
    pub fn still_stands(&self, proven: &ProvenDrive) -> Result<(), MemberError> {
        let ProvenDrive { drive, name, .. } = proven;
        let seen = self.look(name)?;
        self.is_same(&seen, drive)?;
        fits(&seen, self.order.file_system)?;
        self.is_free(&seen, Look::Held)?;
        self.is_whole(name, drive)?;
        self.is_open_nowhere_else(name, drive)?;
        self.is_blank(proven, Look::Held)?;
        if self.count_writes(name, drive)? != proven.written {
            return Err(changed(name, "somebody wrote to it"));
        }
        Ok(())
    }

    /// The drive as it is at this moment, and that it is the one in the plan.
    fn look(&self, name: &str) -> Result<Device, MemberError> {
        let around = self.hardware.surroundings();
        let depth = Depth {
            reread: true,
            health: false,
            wake: true,
        };
        let seen = self
            .hardware
            .probe(name, &around, depth, Instant::now())
            .ok_or_else(|| {
                MemberError::transient(
                    "DriveMissing",
                    format!("{name} went away; attach the drive again; nothing was written"),
                )
            })?;
        let expected = &self.order.drive;
        if let Some(what) = disagreement(&seen, expected) {
            return Err(MemberError::transient(
                "DriveChanged",
                format!(
                    "{name} is not drive {} any more: {what}; nothing was written",
                    expected.drive_id
                ),
            ));
        }
        let unseen: Vec<_> = around
            .faults
            .iter()
            .chain(&seen.faults)
            .filter(|fault| hides_a_user(fault))
            .collect();
        if let Some(first) = unseen.first() {
            return Err(MemberError::transient(
                "DriveUnreadable",
                format!(
                    "what is on {name} cannot be known: {}; nothing was written",
                    first.detail
                ),
            ));
        }
        is_used_by_no_other_path(self.hardware, &seen, &around)?;
        Ok(seen)
    }

    /// Nothing that the last probe saw on it or above it.
    fn is_free(&self, seen: &Device, look: Look) -> Result<(), MemberError> {
        let in_use = |kind| match kind {
            HolderKind::Mount | HolderKind::Swap | HolderKind::Device => true,
            // That is us.
            HolderKind::Exclusive => look == Look::First,
            _ => false,
        };
        let named = |wanted: &dyn Fn(HolderKind) -> bool| {
            let all = seen.usage.holders.iter().filter(|holder| wanted(holder.kind));
            all.map(|holder| holder.description.clone())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let using = named(&in_use);
        if !using.is_empty() {
            return Err(MemberError::refused(
                "InUse",
                format!("{} is in use: {using}; nothing was written", seen.name),
            ));
        }
        if self.resuming {
            return Ok(());
        }
        let there = named(&|kind| !in_use(kind) && kind != HolderKind::Exclusive);
        if !there.is_empty() {
            return Err(not_blank(&seen.name, &there));
        }
        if look == Look::First && seen.usage.blank != Some(true) {
            return Err(not_blank(&seen.name, "it could not be proven to be blank"));
        }
        Ok(())
    }

    fn open_exclusively(&self, name: &str) -> Result<OpenDrive, MemberError> {
        let path = self.config.host(&format!("/dev/{name}"));
        partition::open_alone(&path, A_LOOK).map_err(|error| match error {
            PartitionError::Open(_, error) => cannot_open(name, &error),
            other => MemberError::refused("Unsuitable", format!("{other}; nothing was written")),
        })
    }

    /// The descriptor is the device that was probed: its number, its sequence number, its size.
    fn is_same(&self, seen: &Device, drive: &OpenDrive) -> Result<(), MemberError> {
        let sequence = ioctl::disk_sequence(drive.file.as_fd()).ok();
        let expected = &self.order.drive;
        let what = if drive.number != (seen.major, seen.minor) {
            "the name leads to another device now"
        } else if seen.disk_sequence.is_some() && sequence != seen.disk_sequence {
            "it was exchanged or attached again"
        } else if drive.geometry.size != expected.size_bytes {
            "its size is another"
        } else {
            return Ok(());
        };
        Err(changed(&seen.name, what))
    }

    /// It is a whole drive, has no partitions (or just the one whose mark is being written), and nothing is on it.
    fn is_whole(&self, name: &str, drive: &OpenDrive) -> Result<(), MemberError> {
        let unknown = |error: io::Error| {
            MemberError::transient(
                "DriveMissing",
                format!("{name} cannot be found under /sys any more: {error}"),
            )
        };
        if partition::is_partition(self.config, drive.number) {
            return Err(MemberError::refused(
                "NotWhole",
                format!("{name} is a partition; nothing was written"),
            ));
        }
        let partitions = partition::children(self.config, drive.number).map_err(unknown)?;
        // Nobody uses that one: it is not held, and what it contains is examined next.
        let most = usize::from(self.resuming);
        if partitions.len() > most {
            return Err(not_blank(name, &format!("partitions {}", partitions.join(", "))));
        }
        let holders = partition::holders(self.config, drive.number).map_err(unknown)?;
        if !holders.is_empty() {
            let message = format!("{name} is below {}; nothing was written", holders.join(", "));
            return Err(MemberError::refused("InUse", message));
        }
        Ok(())
    }

    /// What is on it: the device behind the descriptor that will write, read past the page cache; the first time
    /// closely, then where somebody who just took it would leave his signs.
    fn is_blank(&self, proven: &ProvenDrive, look: Look) -> Result<(), MemberError> {
        let ProvenDrive {
            drive, name, image, ..
        } = proven;
        let size = drive.geometry.size;
        let direct = Direct::of(&drive.file).map_err(|error| unreadable(name, &error))?;
        let found: Findings = match (look, self.resuming) {
            (Look::First, false) => examine_closely(&direct, size),
            (Look::First, true) => examine_closely(&image.hide_from(&direct), size),
            (Look::Held, false) => examine(&direct, size),
            (Look::Held, true) => examine(&image.hide_from(&direct), size),
        };
        match found.blank() {
            Some(true) => Ok(()),
            Some(false) => Err(not_blank(name, &found.summary())),
            None if ioctl::size_bytes(drive.file.as_fd()).ok() != Some(size) => {
                Err(changed(name, "its size is another"))
            }
            None => {
                // Why it cannot be read: it may have changed.
                self.look(name)?;
                let first = found.errors.first().map_or("", String::as_str);
                Err(unreadable(name, &first))
            }
        }
    }

    /// Has the kernel write out what others left with it, and answers what it has counted since.
    fn count_writes(&self, name: &str, drive: &OpenDrive) -> Result<WriteCounters, MemberError> {
        drive.file.sync_all().map_err(|error| unreadable(name, &error))?;
        partition::write_counters(self.config, drive.number).map_err(|error| unreadable(name, &error))
    }

    /// No other program has it open, not even plainly.
    fn is_open_nowhere_else(&self, name: &str, drive: &OpenDrive) -> Result<(), MemberError> {
        let others = openers::others(self.config, drive.number).map_err(|error| unreadable(name, &error))?;
        if others.is_empty() {
            return Ok(());
        }
        Err(MemberError::transient(
            "InUse",
            format!("{name} is open in {}; nothing was written", others.join(", ")),
        ))
    }
}

/// Nothing is above the other ports of a drive on this node: what was mounted through one of them is seen there only.
fn is_used_by_no_other_path(
    hardware: &dyn Hardware,
    seen: &Device,
    around: &Surroundings,
) -> Result<(), MemberError> {
    let name = &seen.name;
    let ports = hardware.other_ports(seen).map_err(|fault| {
        unreadable(
            name,
            &format!("its other paths cannot be known: {}", fault.detail),
        )
    })?;
    let depth = Depth {
        wake: true,
        ..Depth::default()
    };
    for other in &ports {
        let Some(port) = hardware.probe(other, around, depth, Instant::now()) else {
            continue;
        };
        if let Some(fault) = port.faults.iter().find(|fault| hides_a_user(fault)) {
            let words = format!(
                "what is on {other}, its other path, cannot be known: {}",
                fault.detail
            );
            return Err(unreadable(name, &words));
        }
        let uses = |holder: &&Holder| {
            matches!(
                holder.kind,
                HolderKind::Mount | HolderKind::Swap | HolderKind::Device | HolderKind::Exclusive
            )
        };
        if let Some(holder) = port.usage.holders.iter().find(uses) {
            let words = format!(
                "{name} is in use by its other path {other}: {}; nothing was written",
                holder.description
            );
            return Err(MemberError::refused("InUse", words));
        }
    }
    Ok(())
}

/// A fact that is missing is not a good one.
fn hides_a_user(fault: &Fault) -> bool {
    let probes = [
        Probe::Sysfs,
        Probe::Signatures,
        Probe::Mounts,
        Probe::Swaps,
        Probe::Holders,
    ];
    fault.kind == FaultKind::Failed && probes.contains(&fault.probe)
}

fn fits(seen: &Device, file_system: FileSystem) -> Result<(), MemberError> {
    let smallest = match file_system {
        FileSystem::Xfs => SMALLEST_XFS,
        FileSystem::Ext4 => SMALLEST_EXT4,
    };
    let (reason, why) = if seen.read_only == Some(true) {
        ("ReadOnly", "the kernel refuses to write to it".to_owned())
    } else if seen.read_only.is_none() {
        ("ReadOnly", "it is not known to be writable".to_owned())
    } else if seen.zoned == Zoned::HostManaged {
        (
            "Zoned",
            "its zones must be written in sequence, which no file system of ours does".to_owned(),
        )
    } else if seen.size_bytes.is_none_or(|size| size < smallest) {
        (
            "TooSmall",
            format!("{} needs at least {} MiB", file_system.name(), smallest >> 20),
        )
    } else {
        return Ok(());
    };
    Err(MemberError::refused(
        reason,
        format!("{} cannot be taken: {why}; nothing was written", seen.name),
    ))
}

fn changed(name: &str, what: &str) -> MemberError {
    MemberError::transient(
        "DriveChanged",
        format!("{name} changed while it was looked at: {what}; nothing was written"),
    )
}

fn unreadable(name: &str, error: &dyn std::fmt::Display) -> MemberError {
    MemberError::transient(
        "DriveUnreadable",
        format!("{name} does not answer: {error}; nothing was written"),
    )
}

fn not_blank(name: &str, what: &str) -> MemberError {
    let message =
        format!("{name} is not blank: {what}; nothing was written; wipe it by hand if it may be taken");
    MemberError::refused("NotBlank", message)
}

fn cannot_open(name: &str, error: &io::Error) -> MemberError {
    let errno = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    let message = format!("{name} cannot be opened exclusively: {error}; nothing was written");
    match errno {
        Some(rustix::io::Errno::BUSY) => MemberError::refused("InUse", message),
        Some(rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => {
            MemberError::refused("ReadOnly", message)
        }
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::NXIO | rustix::io::Errno::NODEV) => {
            MemberError::transient("DriveMissing", message)
        }
        _ => MemberError::transient("DriveUnreadable", message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Device {
        Device {
            name: "sda".into(),
            size_bytes: Some(2 << 30),
            read_only: Some(false),
            ..Device::default()
        }
    }

    #[test]
    fn a_drive_that_is_used_by_its_other_path_is_refused_and_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine.json");
        let port = |name: &str, serial: &str, holders: &str| {
            format!(
                r#"{{"name": "{name}", "size_bytes": 4096, "transport": "sas",
                    "evidence": {{"wwn": "naa.5000c500a1b2c3d4", "serial": "{serial}"}}, "usage": {{"holders": [{holders}]}}}}"#
            )
        };
        let mount = r#"{"kind": "mount", "description": "xfs mounted on /srv"}"#;
        let signature = r#"{"kind": "signature", "description": "xfs"}"#;
        let asked = |other: &str| {
            let machine = format!(r#"{{"devices": [{}, {other}]}}"#, port("sda", "Z1", ""));
            std::fs::write(&path, machine).unwrap();
            let sim = crate::hardware::sim::open(&path).unwrap();
            let around = sim.surroundings();
            let seen = sim
                .probe("sda", &around, Depth::default(), Instant::now())
                .unwrap();
            is_used_by_no_other_path(sim.as_ref(), &seen, &around)
        };
        let refused = asked(&port("sdb", "Z1", mount)).unwrap_err();
        assert_eq!(refused.reason, "InUse");
        assert!(
            refused
                .message
                .contains("its other path sdb: xfs mounted on /srv"),
            "{}",
            refused.message
        );
        let doubtful = asked(&port("sdb", "Z2", mount)).unwrap_err();
        assert_eq!(doubtful.reason, "InUse", "the same WWN");
        asked(&port("sdb", "Z1", mount).replace("b2c3d4", "b2c3d5")).unwrap();
        // What is written on it is seen through this path as well.
        asked(&port("sdb", "Z1", signature)).unwrap();
        let faulty = port("sdb", "Z1", "").replacen(
            r#""usage""#,
            r#""faults": [{"probe": "holders", "kind": "failed", "detail": "no answer"}], "usage""#,
            1,
        );
        assert_eq!(asked(&faulty).unwrap_err().reason, "DriveUnreadable");
    }

    #[test]
    fn a_drive_that_cannot_serve_is_refused_before_it_is_opened() {
        assert_eq!(fits(&sound(), FileSystem::Xfs), Ok(()));
        let check = |change: fn(&mut Device), reason: &str| {
            let mut device = sound();
            change(&mut device);
            assert_eq!(fits(&device, FileSystem::Xfs).unwrap_err().reason, reason);
        };
        check(|device| device.read_only = Some(true), "ReadOnly");
        check(|device| device.read_only = None, "ReadOnly");
        check(|device| device.zoned = Zoned::HostManaged, "Zoned");
        check(|device| device.size_bytes = Some(300 << 20), "TooSmall");
        check(|device| device.size_bytes = None, "TooSmall");
    }

    #[test]
    fn the_kernels_refusal_to_open_says_why() {
        let reason = |errno: rustix::io::Errno| cannot_open("sda", &errno.into()).reason;
        assert_eq!(reason(rustix::io::Errno::BUSY), "InUse");
        assert_eq!(reason(rustix::io::Errno::ROFS), "ReadOnly");
        assert_eq!(reason(rustix::io::Errno::NOENT), "DriveMissing");
        assert_eq!(reason(rustix::io::Errno::IO), "DriveUnreadable");
    }
}
