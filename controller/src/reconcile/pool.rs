//! UnifiedPool: selects drives, claims them by creating PoolMembers, and sums up what its members are.
//!
//! A drive is claimed by the creation of an object whose name is the drive's: whoever comes second is refused by the
//! API server. Deleting a pool waits for its volumes and then releases its members; data stays.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
    runtime::{controller::Action, reflector::ObjectRef},
};
use smart_storage_core::{
    bytes::format_bytes,
    decide::pool::{PoolMemberView, PoolObservation, decide, sums},
    drive::{DriveId, NodeName},
    identity::RecordedEvidence,
    node::DriveRecord,
    pool::{Candidate, ExistingMember, PoolPlan, SlotSizing, plan},
};
use uuid::Uuid;

use super::{
    Change, Context, Error, Stores,
    backends::Health,
    convert, every, finalizer, is_already_there, is_not_found,
    leftovers::{self, Finding},
    owned_meta, publish,
};
use crate::crd::{
    LABEL_NODE, LABEL_POOL, PoolMember, PoolMemberSpec, UnifiedPool, UnifiedPoolStatus, condition,
    label_value,
    pool::{OnDelete, RefusedDrive},
};

const BACKEND_LOOKED_AT_EVERY: Duration = Duration::from_secs(15);
const REFUSED_SHOWN: usize = 32;

/// Which pools have to be looked at again.
pub(super) fn concerns(change: Option<&Change>, stores: &Stores) -> Vec<ObjectRef<UnifiedPool>> {
    match change {
        None | Some(Change::Agent(_) | Change::Node(_)) => every(&stores.pools),
        // A drive that one pool lets go may be wanted by another.
        Some(Change::Member { .. }) => every(&stores.pools),
        Some(Change::Leftovers(name)) => vec![ObjectRef::new(name)],
        Some(Change::Volume { pool, .. }) => {
            let waiting = stores.pools.state();
            let deleted = waiting
                .iter()
                .find(|p| p.name_any() == *pool && p.metadata.deletion_timestamp.is_some());
            deleted
                .map(|pool| ObjectRef::from_obj(pool.as_ref()))
                .into_iter()
                .collect()
        }
        Some(_) => Vec::new(),
    }
}

/// Bytes that may be promised in all: what the members that serve hold, less what lies there and is no volume's.
pub(super) const fn promisable(status: &UnifiedPoolStatus) -> u64 {
    status.total_capacity_bytes.saturating_sub(status.retained_bytes)
}

/// Puts promised bytes into a status, with what follows from them.
pub(super) fn set_promised(status: &mut UnifiedPoolStatus, promised: u64) {
    let total = promisable(status);
    status.promised_bytes = promised;
    status.available_capacity_bytes = total.saturating_sub(promised);
    status.utilization_percent = u32::from(smart_storage_core::bytes::percent(promised, total));
}

/// Claims what the pool misses, and publishes what it is.
pub(super) async fn reconcile(pool: Arc<UnifiedPool>, context: Arc<Context>) -> Result<Action, Error> {
    let pools = Api::<UnifiedPool>::all(context.client.clone());
    let name = pool.name_any();
    let members: Vec<Arc<PoolMember>> = context
        .stores
        .members
        .state()
        .into_iter()
        .filter(|member| member.spec.pool == name)
        .collect();
    let deleting = pool.metadata.deletion_timestamp.is_some();
    if deleting {
        if release(&pool, &members, &context).await? {
            return finalizer::remove(&pools, pool.as_ref())
                .await
                .map(|()| Action::await_change());
        }
        let seen = Seen {
            plan: PoolPlan::default(),
            error: None,
            slot_bytes: 0,
            leftovers: None,
            again: BACKEND_LOOKED_AT_EVERY,
        };
        return finish(&pools, &name, &members, &seen, &context).await;
    }
    finalizer::add(&pools, pool.as_ref()).await?;
    let mut seen = observe(&pool, &members, &context).await;
    if seen.error.is_none() && seen.slot_bytes > 0 {
        claim(&pool, &members, &mut seen, &context).await?;
    }
    finish(&pools, &name, &members, &seen, &context).await
}

/// What came of looking at a pool.
struct Seen {
    plan: PoolPlan,
    error: Option<(String, String)>,
    slot_bytes: u64,
    /// None where it was not seen.
    leftovers: Option<Finding>,
    /// When to look again.
    again: Duration,
}

async fn observe(pool: &UnifiedPool, members: &[Arc<PoolMember>], context: &Context) -> Seen {
    let adapter = match context.backends.of_serving_pool(pool) {
        Ok(adapter) => adapter,
        Err((reason, words)) => {
            return Seen {
                plan: PoolPlan::default(),
                error: Some((reason.to_owned(), words)),
                slot_bytes: 0,
                leftovers: None,
                again: BACKEND_LOOKED_AT_EVERY,
            };
        }
    };
    let health: Health = context.backends.health(pool, &adapter, || context.now()).await;
    let known = pool.status.as_ref().map_or(0, |status| status.slot_bytes);
    let existing: Vec<ExistingMember> = members
        .iter()
        .map(|member| existing(member, pool, context))
        .collect();
    let mut plan = plan(&convert::pool_spec(&pool.spec), &existing, &candidates(context));
    let slot_bytes = health.slot_bytes.unwrap_or(known);
    refuse_small(&mut plan, slot_bytes, context);
    let error = health
        .trouble()
        .map(|words| ("BackendUnreachable".to_owned(), words));
    let leftovers = match &error {
        None => leftovers::look(pool, &adapter, slot_bytes, context).await,
        Some(_) => None,
    };
    let again = match &error {
        // The back-off of its health is the pool's too.
        Some(_) => health.counts_for,
        None => BACKEND_LOOKED_AT_EVERY,
    };
    Seen {
        plan,
        error,
        slot_bytes,
        leftovers,
        again,
    }
}

/// A drive that holds not even one slot is no use to the pool.
fn refuse_small(plan: &mut PoolPlan, slot_bytes: u64, context: &Context) {
    let sizing = SlotSizing::new(slot_bytes);
    let (fit, small): (Vec<DriveId>, Vec<DriveId>) = plan.claim.drain(..).partition(|id| {
        let size = find_drive(id, context).and_then(|(_, drive)| drive.facts.size_bytes.known().copied());
        slot_bytes == 0 || sizing.slots(size.unwrap_or(0)) > 0
    });
    plan.claim = fit;
    let reason = format!(
        "too small: not one slot of {} fits on it",
        format_bytes(slot_bytes)
    );
    plan.refused
        .extend(small.into_iter().map(|id| (id, vec![reason.clone()])));
}

/// A member as the plan sees it. What is promised counts as used: a pool that is promised away has to grow before it
/// is full.
fn existing(member: &PoolMember, pool: &UnifiedPool, context: &Context) -> ExistingMember {
    let promised = pool.status.as_ref().map_or(0, |status| {
        let share = u128::from(member.spec.drive_bytes) * u128::from(status.promised_bytes);
        u64::try_from(share / u128::from(status.total_capacity_bytes.max(1))).unwrap_or(u64::MAX)
    });
    let status = member.status.clone().unwrap_or_default();
    let node = if status.node.is_empty() {
        member.spec.node_name.clone()
    } else {
        status.node
    };
    let object = context
        .stores
        .nodes
        .state()
        .into_iter()
        .find(|object| object.spec.node_name == node);
    ExistingMember {
        drive: member.spec.drive_id.as_str().into(),
        fault_domain: object.map_or_else(|| node.clone(), |object| convert::fault_domain(&object)),
        node: node.into(),
        size_bytes: member.spec.drive_bytes,
        used_bytes: promised,
    }
}

/// Every drive of every node that a StorageNode names.
fn candidates(context: &Context) -> Vec<Candidate> {
    let claims = convert::claims(&context.stores.members.state());
    let mut candidates = Vec::new();
    for node in context.stores.nodes.state() {
        let Some(record) = context.registry.get(&node.spec.node_name) else {
            continue;
        };
        for (drive, judgement) in convert::judge_node(&node, &record, &claims) {
            if drive.identity.is_path() {
                continue;
            }
            candidates.push(Candidate {
                id: judgement.id.clone(),
                device: drive.facts.name.clone(),
                node: record.name.clone(),
                fault_domain: convert::fault_domain(&node),
                node_labels: node.spec.labels.clone(),
                size_bytes: drive.facts.size_bytes.known().copied().unwrap_or(0),
                zoned: drive.facts.zoned,
                judgement,
            });
        }
    }
    candidates
}

/// Where a drive of that id is now; only where its identity is certain.
pub(super) fn find_drive(id: &DriveId, context: &Context) -> Option<(NodeName, Arc<DriveRecord>)> {
    let mut found = None;
    context.registry.for_each(|record| {
        let drive = record
            .drives
            .iter()
            .find(|drive| drive.identity.certain() == Some(id) && !drive.identity.is_path());
        if let (None, Some(drive)) = (&found, drive) {
            found = Some((record.name.clone(), Arc::clone(drive)));
        }
    });
    found
}

/// Claims the planned drives, one object each.
async fn claim(
    pool: &UnifiedPool,
    members: &[Arc<PoolMember>],
    seen: &mut Seen,
    context: &Context,
) -> Result<(), Error> {
    let api = Api::<PoolMember>::all(context.client.clone());
    let name = pool.name_any();
    if seen.plan.claim.is_empty() {
        return Ok(());
    }
    // A plan over an older picture could take more drives than the pool may have, or take them for a pool that goes.
    let known: BTreeSet<String> = members.iter().map(|member| member.name_any()).collect();
    let live = Api::<UnifiedPool>::all(context.client.clone()).get(&name).await?;
    if live.metadata.deletion_timestamp.is_some() || live_members(&name, &api).await? != known {
        return Err(Error::Conflict);
    }
    for id in std::mem::take(&mut seen.plan.claim) {
        let Some((node, drive)) = find_drive(&id, context) else {
            continue;
        };
        let size = drive.facts.size_bytes.known().copied().unwrap_or(0);
        let spec = PoolMemberSpec {
            pool: name.clone(),
            drive_id: id.to_string(),
            member_id: Uuid::new_v4().to_string(),
            node_name: node.to_string(),
            drive_bytes: size,
            evidence: context.hub.known_drive(&id).map_or_else(
                || RecordedEvidence::of(&drive.facts).to_map(),
                |known| known.to_map(),
            ),
            slots: SlotSizing::new(seen.slot_bytes).slots(size),
            slot_bytes: seen.slot_bytes,
            disk_tag: name.clone(),
        };
        let mut member = PoolMember::new(&id.member_object_name(), spec);
        member.metadata = owned_meta(
            &id.member_object_name(),
            &[
                (LABEL_POOL, &label_value(&name)),
                (LABEL_NODE, &label_value(node.as_str())),
            ],
            true,
        );
        match api.create(&PostParams::default(), &member).await {
            Ok(_) => {
                crate::fault::point("member-made");
                let note = format!("drive {id} ({} on {node}) claimed", drive.facts.name);
                tracing::info!(pool = %name, drive = %id, %node, device = %drive.facts.name, "drive claimed");
                context.event(pool, true, "DriveClaimed", note).await;
            }
            // Somebody else has it: the API server is the lock.
            Err(error) if is_already_there(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Lets the members go once no volume is on the pool; true when none is left.
async fn release(pool: &UnifiedPool, members: &[Arc<PoolMember>], context: &Context) -> Result<bool, Error> {
    let name = pool.name_any();
    // The stores may lag; what lets drives go is asked live.
    if volumes(&name, context) > 0 || context.allocator.volumes_on(&name).await? > 0 {
        return Ok(false);
    }
    if pool.spec.on_delete == OnDelete::DestroyData {
        tracing::info!(pool = %name, "data is not destroyed by this version: drives are released as they are");
    }
    let api = Api::<PoolMember>::all(context.client.clone());
    for member in members
        .iter()
        .filter(|member| member.metadata.deletion_timestamp.is_none())
    {
        match api.delete(&member.name_any(), &DeleteParams::default()).await {
            Err(error) if !is_not_found(&error) => return Err(error.into()),
            _ => crate::fault::point("member-deletion-asked"),
        }
    }
    Ok(members.is_empty() && live_members(&name, &api).await?.is_empty())
}

async fn live_members(pool: &str, api: &Api<PoolMember>) -> Result<BTreeSet<String>, Error> {
    let all = api.list(&ListParams::default()).await?;
    let mine = all.iter().filter(|member| member.spec.pool == pool);
    Ok(mine.map(|member| member.name_any()).collect())
}

fn volumes(pool: &str, context: &Context) -> u64 {
    context
        .stores
        .volumes
        .state()
        .iter()
        .filter(|volume| volume.spec.placement.pool == pool)
        .count() as u64
}

/// Writes the status on top of the promise as it is now: the promise itself is the allocator's.
async fn finish(
    pools: &Api<UnifiedPool>,
    name: &str,
    members: &[Arc<PoolMember>],
    seen: &Seen,
    context: &Context,
) -> Result<Action, Error> {
    let Some(live) = pools.get_opt(name).await? else {
        return Ok(Action::await_change());
    };
    let old = live.status.clone().unwrap_or_default();
    let views: Vec<PoolMemberView> = members.iter().map(|member| view(member)).collect();
    let (orphans, retained_bytes) = match &seen.leftovers {
        Some(found) if found.look == context.backends.look() => (found.orphans.clone(), found.bytes),
        _ => (old.orphans.clone(), old.retained_bytes),
    };
    let orphans_words = orphans.as_ref().map(leftovers::words);
    let decision = decide(&PoolObservation {
        members: &views,
        orphans: orphans_words.as_deref(),
        shortage: seen.plan.shortage.as_deref(),
        volumes: volumes(name, context),
        deleting: live.metadata.deletion_timestamp.is_some(),
        error: seen
            .error
            .as_ref()
            .map(|(reason, message)| (reason.as_str(), message.as_str())),
    });
    let sums = sums(&views);
    let mut status = UnifiedPoolStatus {
        phase: convert::word(decision.phase).unwrap_or_default(),
        drive_count: sums.drives,
        node_count: sums.nodes,
        total_capacity: format_bytes(sums.total_bytes),
        total_capacity_bytes: sums.total_bytes,
        offline_capacity_bytes: sums.offline_bytes,
        // What is promised is the allocator's word.
        reservations: old.reservations.clone(),
        retained_bytes,
        orphans,
        used_capacity_bytes: sums.used_bytes,
        slot_bytes: if seen.slot_bytes > 0 {
            seen.slot_bytes
        } else {
            old.slot_bytes
        },
        refused_drives: refused(&seen.plan, context),
        conditions: convert::conditions(
            &old.conditions,
            &decision.conditions,
            live.metadata.generation,
            context.now(),
        ),
        ..UnifiedPoolStatus::default()
    };
    set_promised(&mut status, old.promised_bytes);
    publish(pools, &live, live.status.as_ref(), &status).await?;
    let judged = condition::get(&old.conditions, "Ready").and_then(|ready| ready.observed_generation);
    let count = |status: &UnifiedPoolStatus| status.orphans.as_ref().map_or(0, |orphans| orphans.count);
    if count(&status) > count(&old)
        && let Some(words) = orphans_words
    {
        context.event(&live, false, "OrphansFound", words).await;
    }
    if judged != live.metadata.generation {
        context.tell(Change::Wishes(name.to_owned()));
    }
    if old.phase != status.phase {
        let ready = condition::get(&status.conditions, "Ready");
        let ok = ready.is_some_and(condition::Condition::is_true);
        let (reason, note) = ready.map_or(("Changed", String::new()), |c| {
            (c.reason.as_str(), c.message.clone())
        });
        context.event(&live, ok, reason, note).await;
    }
    Ok(Action::requeue(seen.again))
}

fn view(member: &PoolMember) -> PoolMemberView {
    let status = member.status.clone().unwrap_or_default();
    let ready = condition::get(&status.conditions, "Ready");
    PoolMemberView {
        drive: member.spec.drive_id.as_str().into(),
        node: if status.node.is_empty() {
            member.spec.node_name.as_str().into()
        } else {
            status.node.as_str().into()
        },
        phase: convert::word(status.phase)
            .unwrap_or(smart_storage_core::decide::member::MemberPhase::Pending),
        reason: ready.map_or_else(|| "Claimed".to_owned(), |ready| ready.reason.clone()),
        message: ready.map_or_else(
            || "its agent is being told".to_owned(),
            |ready| ready.message.clone(),
        ),
        // Nothing is promised on a drive that is not a member's yet.
        capacity_bytes: if status.prepared {
            u64::from(member.spec.slots) * member.spec.slot_bytes
        } else {
            0
        },
        used_bytes: status.used_bytes,
    }
}

fn refused(plan: &PoolPlan, context: &Context) -> Vec<RefusedDrive> {
    let mut where_is = std::collections::BTreeMap::new();
    context.registry.for_each(|record| {
        for drive in &record.drives {
            where_is.insert(drive.identity.id().clone(), record.name.clone());
        }
    });
    plan.refused
        .iter()
        .take(REFUSED_SHOWN)
        .map(|(id, reasons)| RefusedDrive {
            node: where_is.get(id).map(ToString::to_string).unwrap_or_default(),
            drive: id.to_string(),
            reasons: reasons.clone(),
        })
        .collect()
}
