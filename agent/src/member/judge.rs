//! What to do with a finished member, decided from what was seen of it. Pure.

use std::time::Duration;

use super::mount::{Identity, Mounted};
use super::partition::Place;
use super::store::MemberSpec;
use super::{FileSystem, MemberState};
use uuid::Uuid;

/// A member's mount point as it is now, and below it the file system, as far as it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountSight {
    pub mounted: Mounted,
    /// The kernel still has the device.
    pub device_exists: bool,
    /// The superblock of the mounted device.
    pub superblock: Result<Option<(FileSystem, Uuid)>, String>,
    pub identity: Result<Option<Identity>, String>,
    pub data_folder: Result<bool, String>,
    pub data_id: Result<Option<String>, String>,
}

/// Where the drive is, looked for only while it is not mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DriveSight {
    Here(Place),
    /// More than one drive carries the mark.
    Several(Vec<String>),
    /// It is there and cannot be reached.
    Unreachable(String),
    Absent,
    /// Not every drive was probed yet: an absence says nothing.
    NotKnownYet,
}

/// Everything a judgement rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    Mounted(MountSight),
    Bare(DriveSight),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All is as it should be: the process is to run.
    Serve,
    /// Stop what runs, then mount it.
    Mount(Place),
    /// Stop what runs, touch nothing, and say this.
    Halt {
        state: MemberState,
        reason: &'static str,
        message: String,
    },
    /// Stop what runs, take the mount away, and wait for the drive.
    Gone,
}

fn failed(reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict::Halt {
        state: MemberState::Failed,
        reason,
        message: message.into(),
    }
}

/// What to do with a finished member of which this was seen.
pub(super) fn judge(spec: &MemberSpec, sight: &Sight) -> Verdict {
    match sight {
        Sight::Mounted(mount) => judge_mount(spec, mount),
        Sight::Bare(drive) => judge_drive(drive),
    }
}

fn judge_drive(drive: &DriveSight) -> Verdict {
    match drive {
        DriveSight::Here(place) if place.mark.released => Verdict::Halt {
            state: MemberState::Released,
            reason: "Released",
            message: format!("{} is marked as released; its data is still there", place.disk),
        },
        DriveSight::Here(place) => Verdict::Mount(place.clone()),
        DriveSight::Several(disks) => failed(
            "DuplicateMark",
            format!(
                "the mark is on {} at once; detach the copies",
                disks.join(" and ")
            ),
        ),
        DriveSight::Unreachable(why) => failed("DriveUnreadable", why.clone()),
        DriveSight::Absent => Verdict::Gone,
        DriveSight::NotKnownYet => Verdict::Halt {
            state: MemberState::Stopped,
            reason: "Looking",
            message: "the drives of this node are being probed".to_owned(),
        },
    }
}

fn judge_mount(spec: &MemberSpec, sight: &MountSight) -> Verdict {
    if !sight.device_exists {
        return Verdict::Gone;
    }
    let dead = |error: &str| {
        failed(
            "FileSystemDead",
            format!(
                "the file system does not answer: {error}; unmount it and, once the drive is sound, mount it again"
            ),
        )
    };
    let journal = &spec.journal;
    match &sight.superblock {
        Err(error) => return dead(error),
        Ok(Some((_, uuid))) if *uuid == journal.filesystem_uuid => {}
        Ok(other) => {
            let other = other.map_or("something else".to_owned(), |(_, uuid)| {
                format!("file system {uuid}")
            });
            let ours = journal.filesystem_uuid;
            return failed(
                "WrongFileSystem",
                format!("{other} is mounted where {ours} belongs; unmount it"),
            );
        }
    }
    match &sight.identity {
        Err(error) => return dead(error),
        Ok(Some(identity)) if *identity == Identity::of(&spec.order) => {}
        Ok(other) => {
            let other = other.as_ref().map_or("nobody".to_owned(), |other| {
                format!(
                    "member {} of pool {} in cluster {}",
                    other.member_id, other.pool, other.cluster_id
                )
            });
            return failed(
                "WrongIdentity",
                format!("member.json says that it belongs to {other}"),
            );
        }
    }
    if sight.mounted.read_only {
        return failed(
            "FileSystemReadOnly",
            "it is mounted read-only; check the drive, then mount it again",
        );
    }
    match &sight.data_folder {
        Err(error) => return dead(error),
        Ok(true) => {}
        Ok(false) => {
            return failed(
                "NoDataFolder",
                "the folder data is not on the member's file system",
            );
        }
    }
    match (&sight.data_id, &journal.data_id) {
        (Err(error), _) => dead(error),
        (Ok(found), Some(known)) if found.as_ref() != Some(known) => failed(
            "WrongData",
            format!(
                "data/vol_dir.uuid is {}, known was {known}",
                found.as_deref().unwrap_or("missing")
            ),
        ),
        _ => Verdict::Serve,
    }
}

/// When to start an ended process again: doubling waits with jitter, forgotten after a good while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Retry {
    failures: u32,
}

impl Retry {
    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(30);

    /// The wait after one more failure; `jitter` is between 0 and 1 and shortens it by up to a half.
    pub fn failed(&mut self, jitter: f64) -> Duration {
        let wait = Self::FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        wait.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// It ran well for long enough.
    pub fn forget(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::mark::FoundMark;
    use crate::member::store::{Phase, tests::spec};

    const MEMBER: &str = "3f0c2b9e-6a52-4b8e-9d57-0a3f5c1e7d21";

    fn sound() -> (MemberSpec, MountSight) {
        let mut spec = spec(MEMBER, Phase::Finished);
        spec.journal.data_id = Some("d1".into());
        let mounted = Mounted {
            mount_id: 7,
            number: (259, 1),
            read_only: false,
            options: String::new(),
        };
        let sight = MountSight {
            mounted,
            device_exists: true,
            superblock: Ok(Some((FileSystem::Xfs, spec.journal.filesystem_uuid))),
            identity: Ok(Some(Identity::of(&spec.order))),
            data_folder: Ok(true),
            data_id: Ok(Some("d1".into())),
        };
        (spec, sight)
    }

    fn reason(change: impl FnOnce(&mut MountSight)) -> &'static str {
        let (spec, mut sight) = sound();
        change(&mut sight);
        match judge(&spec, &Sight::Mounted(sight)) {
            Verdict::Halt { reason, .. } => reason,
            Verdict::Gone => "Gone",
            Verdict::Serve => "Serve",
            Verdict::Mount(_) => "Mount",
        }
    }

    #[test]
    fn a_member_is_served_only_while_everything_is_its_own() {
        assert_eq!(reason(|_| {}), "Serve");
        assert_eq!(reason(|sight| sight.device_exists = false), "Gone");
        assert_eq!(reason(|sight| sight.superblock = Ok(None)), "WrongFileSystem");
        assert_eq!(
            reason(|sight| sight.superblock = Ok(Some((FileSystem::Xfs, Uuid::nil())))),
            "WrongFileSystem"
        );
        assert_eq!(
            reason(|sight| sight.identity = Err("EIO".into())),
            "FileSystemDead"
        );
        assert_eq!(reason(|sight| sight.identity = Ok(None)), "WrongIdentity");
        assert_eq!(
            reason(|sight| sight.mounted.read_only = true),
            "FileSystemReadOnly"
        );
        assert_eq!(reason(|sight| sight.data_folder = Ok(false)), "NoDataFolder");
        assert_eq!(
            reason(|sight| sight.data_folder = Err("EIO".into())),
            "FileSystemDead"
        );
        assert_eq!(reason(|sight| sight.data_id = Ok(None)), "WrongData");
        assert_eq!(reason(|sight| sight.data_id = Ok(Some("d2".into()))), "WrongData");
    }

    #[test]
    fn before_its_first_start_any_data_id_will_do() {
        let (mut spec, mut sight) = sound();
        spec.journal.data_id = None;
        for id in [None, Some("new".to_owned())] {
            sight.data_id = Ok(id);
            assert_eq!(judge(&spec, &Sight::Mounted(sight.clone())), Verdict::Serve);
        }
    }

    #[test]
    fn a_bare_mount_point_is_mounted_again_only_from_the_one_marked_drive() {
        let (spec, _) = sound();
        let place = Place {
            disk: "loop0".into(),
            node: "/dev/loop0p1".into(),
            number: (259, 1),
            mark: FoundMark {
                member: spec.order.member_id,
                released: false,
                start: 1 << 20,
                length: 1 << 30,
            },
        };
        let bare = |drive| judge(&spec, &Sight::Bare(drive));
        assert_eq!(
            bare(DriveSight::Here(place.clone())),
            Verdict::Mount(place.clone())
        );
        assert_eq!(bare(DriveSight::Absent), Verdict::Gone);
        let state = |verdict| match verdict {
            Verdict::Halt { state, reason, .. } => (state, reason),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            state(bare(DriveSight::NotKnownYet)),
            (MemberState::Stopped, "Looking")
        );
        let several = DriveSight::Several(vec!["sda".into(), "sdb".into()]);
        assert_eq!(state(bare(several)), (MemberState::Failed, "DuplicateMark"));
        let released = Place {
            mark: FoundMark {
                released: true,
                ..place.mark.clone()
            },
            ..place
        };
        assert_eq!(
            state(bare(DriveSight::Here(released))),
            (MemberState::Released, "Released")
        );
    }

    #[test]
    fn waits_grow_to_half_a_minute_and_start_over() {
        let mut retry = Retry::default();
        let waits: Vec<u128> = (0..9).map(|_| retry.failed(0.0).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        assert_eq!(retry.failed(1.0).as_millis(), 15000);
        retry.forget();
        assert_eq!(retry.failed(0.0).as_millis(), 250);
    }
}
