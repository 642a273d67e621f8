//! PoolMember: tells the agent that has the drive to make the member serve, and publishes what the agent says.
//!
//! The command is repeated once for each stream, whenever it is another one than before, and whenever the agent does
//! not know the member; it may write to the drive only as long as the member was never seen prepared. Nobody waits for
//! its answer: what the agent says meanwhile is published. Letting go waits for the agent's word that the drive is
//! released, or for the annotation that gives a lost one up.

mod drive;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use kube::{
    Api, ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use smart_storage_core::{
    decide::{
        Decision,
        member::{MemberObservation, MemberPhase, decide},
    },
    drive::{DriveId, MemberId, NodeName},
    node::{MemberReport, MemberState, NodeRecord},
    registry::Registry,
};
use smart_storage_proto::agent::v1 as pb;

use super::{
    Change, Context, Error, Refusal, Stores, context::Due, convert, every, finalizer, live, publish,
};
use crate::{
    agents::{Command, SendError, wire::expected_drive},
    crd::{ANNOTATION_ABANDON, PoolMember, PoolMemberStatus, UnifiedPool, condition},
};

const ANSWER_WITHIN: Duration = Duration::from_secs(120);
const TRY_AGAIN: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::from_millis(50);
const LOOKED_AT_AGAIN: Duration = Duration::from_secs(300);
const TRY_SELDOM: Duration = Duration::from_secs(60);
const MIN_FREE_BYTES: u64 = 64 << 20;

/// Which members have to be looked at again.
pub(super) fn concerns(change: Option<&Change>, stores: &Stores) -> Vec<ObjectRef<PoolMember>> {
    match change {
        None => every(&stores.members),
        Some(Change::Agent(node)) => {
            let members = stores.members.state();
            let concerned = members.iter().filter(|member| {
                let status = member.status.as_ref();
                // One that does not serve may have turned up on any node.
                let serves =
                    status.is_some_and(|status| status.phase == crate::crd::member::MemberPhase::Online);
                let is_there = status.is_some_and(|status| status.node == *node);
                !serves || is_there || member.spec.node_name == *node
            });
            concerned
                .map(|member| ObjectRef::from_obj(member.as_ref()))
                .collect()
        }
        Some(Change::Order(name)) => vec![ObjectRef::new(name)],
        // Its endpoints are part of what agents are told.
        Some(Change::Wishes(pool)) => {
            let members = stores.members.state();
            let mine = members.iter().filter(|member| member.spec.pool == *pool);
            mine.map(|member| ObjectRef::from_obj(member.as_ref())).collect()
        }
        Some(_) => Vec::new(),
    }
}

/// Makes a member serve, or lets it go.
pub(super) async fn reconcile(member: Arc<PoolMember>, context: Arc<Context>) -> Result<Action, Error> {
    let api = Api::<PoolMember>::all(context.client.clone());
    let releasing = member.metadata.deletion_timestamp.is_some();
    let place = locate(&member, &context.registry);
    if releasing && (abandoned(&member) || was_released(&member, &place)) {
        context.forget_member(&member.spec.member_id);
        return finalizer::remove(&api, member.as_ref())
            .await
            .map(|()| Action::await_change());
    }
    let action = if releasing {
        release(&member, &place, &context)
    } else {
        finalizer::add(&api, member.as_ref()).await?;
        ensure(&member, &place, &context).await
    };
    publish_member(&api, &member, &context).await?;
    if releasing && context.is_released(&member.spec.member_id) {
        // Its own status wakes nobody: what is left is to let the object go.
        return Ok(Action::requeue(AT_ONCE));
    }
    if action == Action::await_change() {
        // Its peers' pace is not its own change.
        return Ok(Action::requeue(LOOKED_AT_AGAIN));
    }
    Ok(action)
}

/// Where a member is now.
struct Place {
    node: NodeName,
    record: Option<Arc<NodeRecord>>,
    report: Option<MemberReport>,
}

/// The node that sees the member's drive, before the one where it was last. What is left of a node that is away goes
/// behind the word of one that is here: that record shows the drive for as long as nobody deletes it.
fn locate(member: &PoolMember, registry: &Registry) -> Place {
    let id = MemberId::from(member.spec.member_id.as_str());
    let drive = DriveId::from(member.spec.drive_id.as_str());
    let status_node = member.status.as_ref().map_or("", |status| status.node.as_str());
    let last = if status_node.is_empty() {
        member.spec.node_name.as_str()
    } else {
        status_node
    };
    let mut best = None;
    registry.for_each(|record| {
        let reported = record
            .member(&id)
            .is_some_and(|report| !matches!(report.state, MemberState::Missing));
        let marked = record
            .drives
            .iter()
            .any(|d| d.facts.evidence.mark.as_ref().is_some_and(|m| m.member_id == id));
        let shown = record.drives.iter().any(|d| d.identity.certain() == Some(&drive));
        let is_last = record.name.as_str() == last;
        let rank = match (marked || reported, shown, is_last) {
            (true, ..) => 3,
            (_, true, _) => 2,
            (.., true) => 1,
            _ => 0,
        };
        let clue = (rank, is_synced(record), marked, is_last);
        if rank > 0 && best.as_ref().is_none_or(|(before, _)| clue > *before) {
            best = Some((clue, Arc::clone(record)));
        }
    });
    let record = best.map(|(_, record)| record);
    Place {
        node: record
            .as_ref()
            .map_or_else(|| NodeName::from(last), |record| record.name.clone()),
        report: record.as_ref().and_then(|record| record.member(&id).cloned()),
        record,
    }
}

fn abandoned(member: &PoolMember) -> bool {
    member
        .annotations()
        .get(ANNOTATION_ABANDON)
        .is_some_and(|name| *name == member.name_any())
}

fn was_released(member: &PoolMember, place: &Place) -> bool {
    member
        .status
        .as_ref()
        .is_some_and(|status| status.phase == crate::crd::member::MemberPhase::Released)
        || place
            .report
            .as_ref()
            .is_some_and(|report| report.state == MemberState::Released)
}

async fn ensure(member: &PoolMember, place: &Place, context: &Arc<Context>) -> Action {
    let name = member.name_any();
    if !is_here(place) {
        return Action::requeue(TRY_AGAIN);
    }
    let serves = place.report.as_ref().is_some_and(|report| {
        matches!(
            report.state,
            MemberState::Online | MemberState::Failed | MemberState::Preparing
        )
    });
    // Whether the drive may be written to is never judged by an older picture.
    let api = Api::<PoolMember>::all(context.client.clone());
    let live = match api.get_opt(&name).await {
        Ok(live) => {
            live.filter(|live| live.uid() == member.uid() && live.metadata.deletion_timestamp.is_none())
        }
        Err(error) => {
            tracing::warn!(%error, member = %name, "member not read before its order");
            return Action::requeue(TRY_AGAIN);
        }
    };
    let Some(live) = live else {
        return Action::await_change();
    };
    match ensure_command(&live, place, context) {
        Ok(command) => order(member, place, Command::EnsureMember(command), serves, context),
        Err(refusal) => {
            context.refused(&member.spec.member_id, refusal, TRY_AGAIN);
            Action::requeue(TRY_AGAIN)
        }
    }
}

/// Whether the agent of the member's node can be told something.
fn is_here(place: &Place) -> bool {
    place.record.as_ref().is_some_and(|record| is_synced(record))
}

/// Whether what the record says is said now.
const fn is_synced(record: &NodeRecord) -> bool {
    record.session.connected && record.session.synced
}

/// Gives an order where it is due, and comes back when its answer is there. `done`: what it wants is so.
fn order(member: &PoolMember, place: &Place, command: Command, done: bool, context: &Arc<Context>) -> Action {
    let session = place
        .record
        .as_ref()
        .map_or(0, |record| record.session.connected_at_ms);
    let mut hasher = DefaultHasher::new();
    (format!("{command:?}"), place.node.as_str(), session).hash(&mut hasher);
    match context.due(&member.spec.member_id, hasher.finish(), done) {
        Due::Taken => return Action::await_change(),
        Due::Asked => return Action::requeue(ANSWER_WITHIN),
        Due::Later(wait) => return Action::requeue(wait),
        Due::Now => {}
    }
    let (id, name) = (member.spec.member_id.clone(), member.name_any());
    let (node, context) = (place.node.clone(), Arc::clone(context));
    tokio::spawn(async move {
        let releases = matches!(command, Command::ReleaseMember(_));
        let answer = context.hub.ask(&node, command, ANSWER_WITHIN).await;
        match answer {
            Ok(result) if result.ok && releases => {
                crate::fault::point("member-released");
                context.released(&id);
            }
            Ok(result) if result.ok => {
                crate::fault::point("member-told");
                context.taken(&id, TRY_AGAIN);
            }
            Ok(result) => {
                tracing::warn!(member = %name, %node, reason = %result.reason, message = %result.message, "member refused");
                let again = if result.retryable || releases {
                    TRY_AGAIN
                } else {
                    TRY_SELDOM
                };
                let refusal = Refusal {
                    reason: result.reason,
                    message: result.message,
                };
                context.refused(&id, refusal, again);
            }
            Err(error) => context.refused(&id, unheard(&error, &name, releases), TRY_AGAIN),
        }
        context.tell(Change::Order(name));
    });
    Action::requeue(ANSWER_WITHIN)
}

/// An agent that is slow is another thing than one that is away.
fn unheard(error: &SendError, member: &str, releases: bool) -> Refusal {
    let (reason, mut message) = match error {
        SendError::Away(_) => ("AgentAway", error.to_string()),
        SendError::Busy(_) => ("AgentBusy", error.to_string()),
        SendError::Unanswered(_) => (
            "AgentSlow",
            format!("{error} within {} s; it is asked again", ANSWER_WITHIN.as_secs()),
        ),
    };
    if releases {
        message.push_str(&format!(
            "; if the node is gone for ever, annotate this member with {ANNOTATION_ABANDON}={member}"
        ));
    }
    Refusal {
        reason: reason.to_owned(),
        message,
    }
}

fn ensure_command(
    member: &PoolMember,
    place: &Place,
    context: &Context,
) -> Result<pb::EnsureMember, Refusal> {
    let pool: Option<Arc<UnifiedPool>> = context
        .stores
        .pools
        .state()
        .into_iter()
        .find(|pool| pool.name_any() == member.spec.pool);
    let pool = pool.ok_or_else(|| Refusal {
        reason: "PoolGone".to_owned(),
        message: format!(
            "pool {} does not exist: delete this member to release its drive",
            member.spec.pool
        ),
    })?;
    let drive = DriveId::from(member.spec.drive_id.as_str());
    let seen = place.record.as_ref().and_then(|record| {
        record
            .drives
            .iter()
            .find(|d| d.identity.certain() == Some(&drive) && !d.identity.is_path())
            .cloned()
    });
    let prepared = member.status.as_ref().is_some_and(|status| status.prepared);
    Ok(pb::EnsureMember {
        member_id: member.spec.member_id.clone(),
        pool: member.spec.pool.clone(),
        cluster_id: context.cluster_id.clone(),
        may_prepare: !prepared,
        drive: seen.and_then(|seen| expected_drive(&drive, &seen.facts)),
        file_system: pb::ensure_member::FileSystem::Xfs.into(),
        weed: Some(pb::WeedVolume {
            masters: vec![context.backends.endpoints(&pool).master],
            disk_tag: member.spec.disk_tag.clone(),
            max_volumes: member.spec.slots,
            data_center: "smart-storage".to_owned(),
            rack: place.node.to_string(),
            min_free_bytes: MIN_FREE_BYTES,
        }),
    })
}

fn release(member: &PoolMember, place: &Place, context: &Arc<Context>) -> Action {
    let command = Command::ReleaseMember(pb::ReleaseMember {
        member_id: member.spec.member_id.clone(),
    });
    order(member, place, command, false, context)
}

async fn publish_member(api: &Api<PoolMember>, member: &PoolMember, context: &Context) -> Result<(), Error> {
    // The agent may have spoken while it was asked.
    let place = locate(member, &context.registry);
    let name = member.name_any();
    // The status goes on from the one as it is now: what was once seen prepared stays so.
    let Some(live) = live(api, member).await? else {
        return Ok(());
    };
    let old = live.status.clone().unwrap_or_default();
    let refusal = context.refusal(&member.spec.member_id);
    let mut decision = decide(&MemberObservation {
        before: convert::word(old.phase).unwrap_or(MemberPhase::Pending),
        report: place.report.as_ref(),
        session: place.record.as_ref().map(|record| &record.session),
        releasing: live.metadata.deletion_timestamp.is_some(),
        refusal: refusal
            .as_ref()
            .map(|refusal| (refusal.reason.as_str(), refusal.message.as_str())),
        now_ms: convert::millis(context.now()),
    });
    if context.is_released(&member.spec.member_id) {
        decision.phase = MemberPhase::Released;
    }
    decision
        .conditions
        .extend(drive::conditions(member, &old.conditions, &place, context));
    let young = place.record.is_none() && context.is_young(Duration::from_secs(15));
    if young {
        return Ok(());
    }
    let report = place.report.as_ref();
    let text = |of: fn(&MemberReport) -> &String, old: &String| {
        report
            .map(of)
            .filter(|text| !text.is_empty())
            .unwrap_or(old)
            .clone()
    };
    let status = PoolMemberStatus {
        phase: convert::word(decision.phase).unwrap_or_default(),
        node: place.node.to_string(),
        device: report.map_or_else(|| old.device.clone(), |report| report.device.clone()),
        prepared: old.prepared
            || report.is_some_and(|report| !report.filesystem_uuid.is_empty() && is_prepared(report)),
        filesystem_uuid: text(|report| &report.filesystem_uuid, &old.filesystem_uuid),
        mount_point: text(|report| &report.mount_point, &old.mount_point),
        endpoint: text(|report| &report.endpoint, &old.endpoint),
        capacity_bytes: report
            .map(|report| report.capacity_bytes)
            .filter(|b| *b > 0)
            .unwrap_or(old.capacity_bytes),
        used_bytes: report
            .filter(|report| report.capacity_bytes > 0)
            .map_or(old.used_bytes, |report| report.used_bytes),
        missing_since: missing_since(member, &place, &decision, context),
        conditions: convert::conditions(
            &old.conditions,
            &decision.conditions,
            member.metadata.generation,
            context.now(),
        ),
    };
    publish(api, &live, live.status.as_ref(), &status).await?;
    drive::tell(member, &old.conditions, &decision.conditions, context).await;
    if old.phase != status.phase {
        let ready = condition::get(&status.conditions, "Ready");
        let ok = ready.is_some_and(condition::Condition::is_true);
        let (reason, note) = ready.map_or(("Changed", String::new()), |c| {
            (c.reason.as_str(), c.message.clone())
        });
        tracing::info!(member = %name, phase = ?status.phase, reason, "member changed");
        context.event(member, ok, reason, note).await;
    }
    Ok(())
}

/// Where a drive is not there, its storage process stores nothing on it; where only its agent is away, it may. The time
/// on record is not believed: nobody looked while no controller ran, and the drive may have been back and written to. So
/// after a restart a later time is told, and what was made before that waits for the drive, although it may have been
/// made after the loss.
fn missing_since(
    member: &PoolMember,
    place: &Place,
    decision: &Decision<MemberPhase>,
    context: &Context,
) -> Option<jiff::Timestamp> {
    let gone = decision.phase == MemberPhase::Missing
        && decision
            .condition("Ready")
            .is_some_and(|ready| ready.reason == "DriveMissing");
    let record = place.record.as_ref().filter(|_| gone);
    let stream = record.map(|record| (record.name.clone(), record.session.connected_at_ms));
    context.missing_since(&member.spec.member_id, stream)
}

/// A report of a member whose file system was finished: from then on it is never prepared again.
const fn is_prepared(report: &MemberReport) -> bool {
    !matches!(report.state, MemberState::Preparing | MemberState::Unknown)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use jiff::Timestamp;
    use serde_json::json;
    use smart_storage_core::{
        drive::{DriveFacts, Evidence, Mark},
        identity::Verdict,
        node::{DriveRecord, SessionInfo},
    };

    use super::*;
    use crate::reconcile::bed::Bed;

    const ID: &str = "8f0d2c1e-5b7a-4c36-9a41-000000000000";

    fn member(last: &str) -> PoolMember {
        serde_json::from_value(json!({
            "apiVersion": "storage.billyronks.io/v1", "kind": "PoolMember", "metadata": {"name": "pm-d"},
            "spec": {"pool": "p", "driveId": "d", "memberId": ID, "nodeName": "first", "driveBytes": 1, "slots": 1,
                     "slotBytes": 1, "diskTag": "p"},
            "status": {"phase": "Online", "node": last},
        }))
        .unwrap()
    }

    fn node(name: &str, connected: bool, marked: bool, report: Option<MemberState>) -> NodeRecord {
        let mut record = NodeRecord::empty(name.into());
        record.session = SessionInfo {
            connected,
            synced: connected,
            connected_at_ms: 1,
            ..SessionInfo::default()
        };
        let mark = Mark {
            member_id: ID.into(),
            ..Mark::default()
        };
        let conflict = Verdict::Conflict {
            shown_as: "conflict-1".into(),
            reason: "another node has it too".into(),
        };
        record.drives = Vec::from_iter(marked.then(|| {
            Arc::new(DriveRecord {
                identity: conflict,
                facts: DriveFacts {
                    name: "sda".to_owned(),
                    evidence: Evidence {
                        mark: Some(mark),
                        ..Evidence::default()
                    },
                    ..DriveFacts::default()
                },
            })
        }));
        record.members = Vec::from_iter(report.map(|state| MemberReport {
            member_id: ID.into(),
            state,
            reason: String::new(),
            message: String::new(),
            device: "sda".to_owned(),
            filesystem_uuid: String::new(),
            mount_point: String::new(),
            capacity_bytes: 1,
            used_bytes: 0,
            endpoint: String::new(),
            pool: "p".to_owned(),
        }));
        record
    }

    fn found(last: &str, records: &[&NodeRecord]) -> String {
        let registry = Registry::new();
        for record in records {
            registry.apply(NodeRecord::clone(record));
        }
        locate(&member(last), &registry).node.to_string()
    }

    #[test]
    fn a_member_is_on_the_node_that_sees_it_now_and_not_on_one_that_is_away_and_saw_it() {
        let online = Some(MemberState::Online);
        // Whatever the order of their names, and of the registry's shards.
        for (old, new) in [("a", "b"), ("b", "a"), ("first", "z"), ("z", "first")] {
            let away = node(old, false, true, online);
            let here = node(new, true, true, None);
            assert_eq!(found(old, &[&away, &here]), new, "marked on both");
            let here = node(new, true, false, online);
            assert_eq!(found(old, &[&away, &here]), new, "its agent serves it");
            // That it is not here is no word of where it is: on the other one it may still be served.
            for here in [
                node(new, true, false, None),
                node(new, true, false, Some(MemberState::Missing)),
            ] {
                assert_eq!(found(new, &[&away, &here]), old, "it was last seen there");
            }
            let both = [node(old, false, true, None), node(new, false, true, None)];
            assert_eq!(found(old, &[&both[0], &both[1]]), old, "both are away");
            let both = [node(old, true, false, online), node(new, true, true, None)];
            assert_eq!(found(old, &[&both[0], &both[1]]), new, "the mark is on the drive");
        }
        assert_eq!(found("last", &[&node("other", true, false, None)]), "last");
    }

    /// A process that starts at a second, and moves its clock on.
    async fn process(second: i64) -> (Bed, Arc<AtomicI64>) {
        let now = Arc::new(AtomicI64::new(second));
        let mut bed = Bed::new(1).await;
        let clock = Arc::clone(&now);
        let context = Arc::get_mut(&mut bed.context).unwrap();
        context.clock = Arc::new(move || Timestamp::from_second(clock.load(Ordering::Relaxed)).unwrap());
        (bed, now)
    }

    fn missing(bed: &Bed, record: &NodeRecord) -> Option<i64> {
        let mut member = member("n");
        let status = member.status.as_mut().unwrap();
        // What another process saw.
        status.missing_since = Some(Timestamp::from_second(100).unwrap());
        status.phase = crate::crd::member::MemberPhase::Missing;
        bed.context.registry.apply(record.clone());
        let place = locate(&member, &bed.context.registry);
        let decision = decide(&MemberObservation {
            before: MemberPhase::Missing,
            report: place.report.as_ref(),
            session: place.record.as_ref().map(|record| &record.session),
            releasing: false,
            refusal: None,
            now_ms: convert::millis(bed.context.now()),
        });
        missing_since(&member, &place, &decision, &bed.context).map(Timestamp::as_second)
    }

    #[tokio::test]
    async fn a_drive_is_missing_since_this_process_heard_so_and_not_since_what_is_on_record() {
        let gone = node("n", true, false, Some(MemberState::Missing));
        let (bed, now) = process(500).await;
        assert_eq!(missing(&bed, &gone), Some(500), "nobody looked from 100 to 500");
        now.store(600, Ordering::Relaxed);
        assert_eq!(missing(&bed, &gone), Some(500), "without a break");
        // Back, or not known: there is a break.
        assert_eq!(
            missing(&bed, &node("n", true, true, Some(MemberState::Online))),
            None
        );
        assert_eq!(missing(&bed, &gone), Some(600));
        now.store(700, Ordering::Relaxed);
        assert_eq!(
            missing(&bed, &node("n", false, false, Some(MemberState::Missing))),
            None
        );
        assert_eq!(missing(&bed, &gone), Some(700));
        // Another stream, and nobody was asked in between.
        now.store(800, Ordering::Relaxed);
        let mut again = gone.clone();
        again.session.connected_at_ms = 2;
        assert_eq!(missing(&bed, &again), Some(800));
        bed.context.forget_member(ID);
        now.store(900, Ordering::Relaxed);
        assert_eq!(missing(&bed, &again), Some(900));
    }
}
