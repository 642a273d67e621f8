//! What is said of the drive below a member: its health, and how it keeps up with the members of its pool.
//!
//! It tells, and never does anything about it: a slow or failing drive serves on until somebody decides otherwise.

use std::collections::BTreeSet;

use kube::ResourceExt as _;
use smart_storage_core::{
    classify::judge_health,
    decide::{Condition, member},
    drive::{DriveId, MemberId, Work},
    node::DriveRecord,
    peers::compare,
};

use super::{Context, Place, PoolMember, convert};
use crate::crd::condition::Condition as Said;

/// The conditions of a member's drive.
pub(super) fn conditions(
    member: &PoolMember,
    old: &[Said],
    place: &Place,
    context: &Context,
) -> Vec<Condition> {
    let own = Who::of(member);
    let record = place.record.as_deref();
    let drive = record.and_then(|record| record.drives.iter().find(|drive| own.is(drive)));
    let health = drive.map(|drive| judge_health(&drive.facts));
    let pace = drive.map(|drive| {
        let work = drive.facts.work;
        // Who did nothing needs no peers.
        let peers = work.map_or_else(Vec::new, |_| peers(member, drive, context));
        compare(work.as_ref(), &peers)
    });
    let before = |kind| convert::condition_of(old, kind);
    member::of_drive(health.as_ref(), pace.as_ref(), before)
}

/// Tells the member's users what is wrong with its drive since now.
pub(super) async fn tell(member: &PoolMember, old: &[Said], new: &[Condition], context: &Context) {
    for condition in new.iter().filter(|condition| member::is_bad(condition)) {
        let was = convert::condition_of(old, condition.kind);
        let same = |was: &Condition| was.status == condition.status && was.reason == condition.reason;
        if !was.as_ref().is_some_and(same) {
            let (reason, note) = (condition.reason.as_str(), condition.message.clone());
            tracing::warn!(member = %member.name_any(), condition = condition.kind, reason, note, "a member's drive");
            context.event(member, false, reason, note).await;
        }
    }
}

/// By what members know their drives.
#[derive(Default)]
struct Who {
    members: BTreeSet<MemberId>,
    drives: BTreeSet<DriveId>,
}

impl Who {
    fn of(member: &PoolMember) -> Self {
        let mut who = Self::default();
        who.add(member);
        who
    }

    fn add(&mut self, member: &PoolMember) {
        self.members
            .insert(MemberId::from(member.spec.member_id.as_str()));
        self.drives.insert(DriveId::from(member.spec.drive_id.as_str()));
    }

    fn is(&self, drive: &DriveRecord) -> bool {
        let mark = drive.facts.evidence.mark.as_ref();
        mark.is_some_and(|mark| self.members.contains(&mark.member_id))
            || drive
                .identity
                .certain()
                .is_some_and(|id| self.drives.contains(id))
    }
}

/// What the other drives of its kind in its pool did.
fn peers(member: &PoolMember, own: &DriveRecord, context: &Context) -> Vec<Work> {
    let mut others = Who::default();
    for other in context.stores.members.state() {
        if other.spec.pool == member.spec.pool && other.spec.member_id != member.spec.member_id {
            others.add(&other);
        }
    }
    let mut work = Vec::new();
    context.registry.for_each(|record| {
        let mine = record
            .drives
            .iter()
            .filter(|drive| others.is(drive) && drive.facts.kind == own.facts.kind);
        work.extend(mine.filter_map(|drive| drive.facts.work));
    });
    work
}
