//! What is said of the drive below a member: its health, and how it keeps up with the members of its pool.
//!
//! It tells, and never does anything about it: a slow or failing drive serves on until somebody decides otherwise.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;
use smart_storage_core::{
    classify::judge_health,
    decide::{Condition, member},
    drive::{DriveId, Work},
    identity::Verdict,
    node::{DriveRecord, NodeRecord},
    peers::compare,
};

use super::{Context, Place, PoolMember, convert, is_synced};
use crate::crd::condition::Condition as Said;

/// The conditions of a member's drive.
pub(super) fn conditions(
    member: &PoolMember,
    old: &[Said],
    place: &Place,
    context: &Context,
) -> Vec<Condition> {
    let drive = place
        .record
        .as_deref()
        .and_then(|record| own_drive(member, record));
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
            let (reason, note) = (format!("Drive{}", condition.reason), condition.message.clone());
            tracing::warn!(member = %member.name_any(), reason, note, "a member's drive");
            context.event(member, false, &reason, note).await;
        }
    }
}

/// The drive itself, and not a copy with its mark beside it.
fn own_drive<'a>(member: &PoolMember, record: &'a NodeRecord) -> Option<&'a DriveRecord> {
    let id = DriveId::from(member.spec.drive_id.as_str());
    let mut drives = record.drives.iter().map(AsRef::as_ref);
    let marked = |drive: &&DriveRecord| {
        let mark = drive.facts.evidence.mark.as_ref();
        mark.is_some_and(|mark| mark.member_id.as_str() == member.spec.member_id)
    };
    let certain = drives.clone().find(|drive| is(drive, &id));
    certain.or_else(|| drives.find(marked))
}

/// A further path to it is not it.
fn is(drive: &DriveRecord, id: &DriveId) -> bool {
    matches!(&drive.identity, Verdict::Drive { id: known } if known == id)
}

/// What the other drives of its kind in its pool did, each once, as nodes say that are there.
fn peers(member: &PoolMember, own: &DriveRecord, context: &Context) -> Vec<Work> {
    let members = context.stores.members.state();
    let others: BTreeSet<&str> = members
        .iter()
        .filter(|other| other.spec.pool == member.spec.pool && other.spec.drive_id != member.spec.drive_id)
        .map(|other| other.spec.drive_id.as_str())
        .collect();
    let mut work = BTreeMap::new();
    context.registry.for_each(|record| {
        if !is_synced(record) {
            return;
        }
        for drive in record
            .drives
            .iter()
            .filter(|drive| drive.facts.kind == own.facts.kind)
        {
            if let (Verdict::Drive { id }, Some(done)) = (&drive.identity, drive.facts.work)
                && others.contains(id.as_str())
            {
                work.insert(id.clone(), done);
            }
        }
    });
    work.into_values().collect()
}
