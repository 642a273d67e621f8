//! UnifiedStorageClaim: placed, reserved and bound to a volume, or told why each candidate refused it.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use smart_storage_core::{
    bytes::{format_bytes, parse_quantity},
    decide::{
        Decision,
        claim::{BoundClaim, ClaimObservation, decide},
        volume::VolumePhase,
    },
    placement::{Placed, Refusal},
    volume::cost,
};

use super::{
    Change, Context, Error, Planner, Stores, allocator::Granted, convert, every, live, owned_meta, publish,
};
use crate::crd::{
    LABEL_POOL, UnifiedStorageClaim, UnifiedStorageClaimStatus, UnifiedVolume, UnifiedVolumeSpec,
    claim::ClaimPhase,
    class::BackendType,
    label_value,
    volume::{ClaimRef, VolumePlacement},
};

/// Which claims have to be looked at again; those that wait are woken in their turn.
pub(super) fn concerns(change: Option<&Change>, stores: &Stores) -> Vec<ObjectRef<UnifiedStorageClaim>> {
    match change {
        None => every(&stores.claims),
        Some(Change::Volume {
            name,
            namespace,
            claim,
            ..
        }) => {
            let mut concerned = vec![ObjectRef::new(claim).within(namespace)];
            // Who names the volume of another claim may have it once that is gone.
            let goes = stores.volumes.get(&ObjectRef::new(name)).is_none();
            if goes {
                let claims = stores.claims.state();
                let names_it = claims
                    .iter()
                    .filter(|claim| claim.spec.volume_name.as_deref() == Some(name.as_str()));
                concerned.extend(names_it.map(|claim| ObjectRef::from_obj(claim.as_ref())));
            }
            concerned
        }
        Some(_) => Vec::new(),
    }
}

/// What came of a claim.
enum Outcome {
    Refused(Vec<Refusal>),
    Impossible(&'static str, String),
    Gone(String),
    Bound {
        volume: Box<UnifiedVolume>,
        growth_refused: Option<GrowthRefused>,
    },
}

/// Why a volume stays as large as it is: a stable word, and all of it.
type GrowthRefused = (&'static str, String);

/// A claim that waits looks again now and then, so that the numbers in its reasons do not grow old.
const LOOKED_AT_AGAIN: Duration = Duration::from_secs(300);

/// Gets a claim its volume, and publishes how that stands.
pub(super) async fn reconcile(
    claim: Arc<UnifiedStorageClaim>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let api = Api::<UnifiedStorageClaim>::namespaced(
        context.client.clone(),
        &claim.namespace().unwrap_or_default(),
    );
    let Some(claim) = live(&api, claim.as_ref())
        .await?
        .filter(|claim| claim.metadata.deletion_timestamp.is_none())
    else {
        return Ok(Action::await_change());
    };
    let outcome = settle(&claim, &context).await?;
    let old = claim.status.clone().unwrap_or_default();
    let status = status(&claim, &old, &outcome, &context);
    publish(&api, &claim, claim.status.as_ref(), &status).await?;
    if old.phase != status.phase && status.phase != ClaimPhase::Provisioning {
        let ready = crate::crd::condition::get(&status.conditions, "Ready");
        let (reason, note) = ready.map_or(("Changed", String::new()), |c| {
            (c.reason.as_str(), c.message.clone())
        });
        let ok = !matches!(
            status.phase,
            ClaimPhase::Pending | ClaimPhase::Failed | ClaimPhase::Lost
        );
        context.event(&claim, ok, reason, note).await;
    }
    Ok(match outcome {
        Outcome::Refused(_) => Action::requeue(LOOKED_AT_AGAIN),
        _ => Action::await_change(),
    })
}

/// The volume's name: the one that the claim says, else one made of its uid.
pub(super) fn volume_name(claim: &UnifiedStorageClaim) -> Result<String, Error> {
    match claim.spec.volume_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => Ok(name.to_owned()),
        None => Ok(format!("uv-{}", claim.uid().ok_or(Error::Incomplete("uid"))?)),
    }
}

async fn settle(claim: &UnifiedStorageClaim, context: &Context) -> Result<Outcome, Error> {
    let name = volume_name(claim)?;
    let uid = claim.uid().ok_or(Error::Incomplete("uid"))?;
    let volumes = Api::<UnifiedVolume>::all(context.client.clone());
    let wanted = match parse_quantity(&claim.spec.capacity) {
        Ok(bytes) if bytes > 0 => bytes,
        Ok(_) => {
            return Ok(Outcome::Impossible(
                "CapacityWrong",
                "spec.capacity: must be more than 0".to_owned(),
            ));
        }
        Err(error) => {
            return Ok(Outcome::Impossible(
                "CapacityWrong",
                format!("spec.capacity: {error}"),
            ));
        }
    };
    let bound_to = claim
        .status
        .as_ref()
        .and_then(|status| status.volume_name.as_deref());
    if let Some(other) = bound_to.filter(|bound_to| *bound_to != name) {
        let words = format!("spec.volumeName: the claim has volume {other} and never gets a second one");
        return Ok(Outcome::Impossible("VolumeNameWrong", words));
    }
    if let Some(volume) = volumes.get_opt(&name).await? {
        return bound(claim, &uid, volume, wanted, context).await;
    }
    if bound_to.is_some() {
        return Ok(Outcome::Gone(name));
    }
    if !is_volume_name(&name) {
        let words = format!(
            "spec.volumeName: {name:?} is no name of a volume: uv- and at most 60 of a-z, 0-9 and dash"
        );
        return Ok(Outcome::Impossible("VolumeNameWrong", words));
    }
    let planner = Planner::new(context.stores.clone(), Arc::clone(&context.registry));
    let placed = match planner.place(&claim.spec, &name) {
        Ok(placed) => placed,
        Err(refusals) => {
            context.metrics.placed("refused");
            return Ok(Outcome::Refused(refusals));
        }
    };
    let volume = new_volume(claim, &name, &uid, wanted, &placed, context);
    match context.allocator.create(&volume).await? {
        Granted::Short(shortage) => Ok(Outcome::Refused(vec![Refusal {
            candidate: format!("pool {}", placed.pool),
            reasons: vec![shortage.to_string()],
        }])),
        Granted::Written {
            volume,
            existed: false,
        } => {
            let note = format!(
                "volume {name} on pool {}: {}",
                placed.pool,
                placed.reasons.join("; ")
            );
            context.metrics.placed("placed");
            context.event(claim, true, "Placed", note).await;
            Ok(Outcome::Bound {
                volume,
                growth_refused: None,
            })
        }
        Granted::Written {
            volume,
            existed: true,
        } => bound(claim, &uid, *volume, wanted, context).await,
    }
}

/// What backends take: our prefix keeps users' own directories out of reach.
fn is_volume_name(name: &str) -> bool {
    name.strip_prefix("uv-").is_some_and(|rest| {
        (1..=60).contains(&rest.len())
            && rest
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !rest.ends_with('-')
    })
}

async fn bound(
    claim: &UnifiedStorageClaim,
    uid: &str,
    volume: UnifiedVolume,
    wanted: u64,
    context: &Context,
) -> Result<Outcome, Error> {
    let owner = &volume.spec.claim_ref;
    if owner.uid != uid {
        // Whose it is, is nobody's business in another namespace.
        let whose = if Some(&owner.namespace) == claim.metadata.namespace.as_ref() {
            format!("claim {}", owner.name)
        } else {
            "another claim".to_owned()
        };
        let words = format!(
            "spec.volumeName: volume {} belongs to {whose}; a volume is never shared",
            volume.name_any(),
        );
        return Ok(Outcome::Impossible("VolumeTaken", words));
    }
    let has = volume.spec.capacity_bytes;
    if wanted < has {
        let words = format!(
            "{} were asked for, it has {}: volumes never shrink",
            format_bytes(wanted),
            format_bytes(has)
        );
        return Ok(Outcome::Bound {
            volume: Box::new(volume),
            growth_refused: Some(("VolumesNeverShrink", words)),
        });
    }
    if wanted == has || volume.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::Bound {
            volume: Box::new(volume),
            growth_refused: None,
        });
    }
    let growth_refused = grow(claim, &volume, wanted, context).await?;
    let volumes = Api::<UnifiedVolume>::all(context.client.clone());
    let volume = volumes.get(&volume.name_any()).await?;
    Ok(Outcome::Bound {
        volume: Box::new(volume),
        growth_refused,
    })
}

/// Reserves the difference and writes it down; or why not.
async fn grow(
    claim: &UnifiedStorageClaim,
    volume: &UnifiedVolume,
    wanted: u64,
    context: &Context,
) -> Result<Option<GrowthRefused>, Error> {
    let classes = context.stores.classes.state();
    let class = classes
        .iter()
        .find(|class| class.name_any() == volume.spec.class_name);
    if class.is_some_and(|class| !class.spec.capacity.allow_expansion) {
        let words = format!("class {} does not allow expansion", volume.spec.class_name);
        return Ok(Some(("ExpansionNotAllowed", words)));
    }
    let pools = context.stores.pools.state();
    let pool = pools
        .iter()
        .find(|pool| pool.name_any() == volume.spec.placement.pool);
    let slot = pool
        .and_then(|pool| pool.status.as_ref())
        .map_or(1, |status| status.slot_bytes.max(1));
    let promised = cost(wanted, volume.spec.placement.copies, slot).bytes;
    let granted = match context.allocator.grow(&volume.name_any(), wanted, promised).await {
        Err(going @ Error::PoolGoes(_)) => {
            let words = format!("{going}: no volume on it grows; it goes once none is left on it");
            return Ok(Some(("PoolDeleting", words)));
        }
        granted => granted?,
    };
    Ok(match granted {
        Ok(()) => {
            let note = format!("to {}", format_bytes(wanted));
            context.event(claim, true, "Expanding", note).await;
            None
        }
        Err(shortage) => Some((
            "NoSpace",
            format!("pool {}: {shortage}", volume.spec.placement.pool),
        )),
    })
}

fn new_volume(
    claim: &UnifiedStorageClaim,
    name: &str,
    uid: &str,
    capacity_bytes: u64,
    placed: &Placed,
    context: &Context,
) -> UnifiedVolume {
    let classes = context.stores.classes.state();
    let class = classes.iter().find(|class| class.name_any() == placed.class.name);
    let spec = UnifiedVolumeSpec {
        storage_type: claim.spec.storage_type,
        claim_ref: ClaimRef {
            namespace: claim.namespace().unwrap_or_default(),
            name: claim.name_any(),
            uid: uid.to_owned(),
        },
        class_name: placed.class.name.clone(),
        tier: claim
            .spec
            .tier
            .or_else(|| convert::word(placed.class.tier))
            .unwrap_or_default(),
        redundancy: convert::placed_redundancy(&placed.redundancy),
        parameters: class
            .map(|class| class.spec.parameters.clone())
            .unwrap_or_default(),
        reclaim_policy: claim
            .spec
            .reclaim_policy
            .or_else(|| class.map(|class| class.spec.reclaim_policy))
            .unwrap_or_default(),
        capacity_bytes,
        placement: VolumePlacement {
            backend: convert::word(placed.backend).unwrap_or(BackendType::Seaweedfs),
            pool: placed.pool.to_string(),
            copies: placed.replicas,
            promised_bytes: placed.cost.bytes,
            reasons: placed.reasons.clone(),
        },
    };
    let mut volume = UnifiedVolume::new(name, spec);
    volume.metadata = owned_meta(name, &[(LABEL_POOL, &label_value(placed.pool.as_str()))], true);
    volume
}

fn status(
    claim: &UnifiedStorageClaim,
    old: &UnifiedStorageClaimStatus,
    outcome: &Outcome,
    context: &Context,
) -> UnifiedStorageClaimStatus {
    let (volume, decision) = match outcome {
        Outcome::Refused(refusals) => (None, decide(&ClaimObservation::Refused(refusals))),
        Outcome::Impossible(reason, words) => (None, decide(&ClaimObservation::Impossible(reason, words))),
        Outcome::Gone(name) => (None, decide(&ClaimObservation::VolumeGone(name))),
        Outcome::Bound {
            volume,
            growth_refused,
        } => {
            let seen = volume.status.clone().unwrap_or_default();
            let decided = Decision {
                phase: convert::word(seen.phase).unwrap_or(VolumePhase::Pending),
                conditions: convert::condition_of(&seen.conditions, "Ready")
                    .into_iter()
                    .collect(),
            };
            let bound = BoundClaim {
                volume: &volume.name_any(),
                pool: &volume.spec.placement.pool,
                decision: &decided,
                growth_refused: growth_refused
                    .as_ref()
                    .map(|(reason, words)| (*reason, words.as_str())),
            };
            (Some(volume), decide(&ClaimObservation::Bound(bound)))
        }
    };
    let seen = volume
        .and_then(|volume| volume.status.clone())
        .unwrap_or_default();
    // What was once bound is remembered, so that a volume that vanished is never made anew silently.
    let lost = matches!(outcome, Outcome::Gone(_) | Outcome::Impossible(..));
    UnifiedStorageClaimStatus {
        phase: convert::word(decision.phase).unwrap_or_default(),
        volume_name: volume
            .map(|volume| volume.name_any())
            .or_else(|| old.volume_name.clone().filter(|_| lost)),
        class: volume.map(|volume| volume.spec.class_name.clone()),
        backend: volume.map(|volume| volume.spec.placement.backend),
        pool: volume.map(|volume| volume.spec.placement.pool.clone()),
        capacity_bytes: Some(seen.capacity_bytes).filter(|bytes| *bytes > 0),
        access: seen.access,
        secret_ref: seen.secret_ref,
        conditions: convert::conditions(
            &old.conditions,
            &decision.conditions,
            claim.metadata.generation,
            context.now(),
        ),
    }
}

#[cfg(test)]
mod tests;
