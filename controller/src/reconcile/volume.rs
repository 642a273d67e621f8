//! UnifiedVolume: made so on its backend, published, and removed from it when its claim is gone and the policy says so.
//!
//! The claim's absence is confirmed by a live read. Deleting a Retain volume forgets it and leaves its data.

mod removal;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Preconditions},
    runtime::{controller::Action, reflector::ObjectRef},
};
use smart_storage_core::{
    bytes::format_quantity,
    decide::volume::{BackendTrouble, VolumeObservation, decide},
};

use super::{
    Change, Context, Error, Stores, backends, convert, credentials, every, finalizer, is_not_found, live,
    publish,
};
use crate::{
    backend::{Backend, BackendError, Credentials, Handle, Owner, VolumeSpec},
    crd::{
        UnifiedPool, UnifiedStorageClaim, UnifiedVolume, UnifiedVolumeStatus,
        claim::{Access, FilerAccess, S3Access, SecretRef},
        class::ReclaimPolicy,
        condition,
        volume::VolumePhase,
    },
};

/// The rule and the quota are looked at again now and then: others write the backend's rules too.
const ASSERT_AGAIN: Duration = Duration::from_secs(600);

/// Which volumes have to be looked at again.
pub(super) fn concerns(change: Option<&Change>, stores: &Stores) -> Vec<ObjectRef<UnifiedVolume>> {
    match change {
        None => every(&stores.volumes),
        Some(Change::Claim { uid, volume }) => {
            // Only that it goes concerns a volume: its growth is written into the volume itself.
            let lives = |claim: &Arc<UnifiedStorageClaim>| claim.uid().as_deref() == Some(uid.as_str());
            if stores.claims.state().iter().any(lives) {
                return Vec::new();
            }
            let minted = format!("uv-{uid}");
            vec![ObjectRef::new(volume.as_deref().unwrap_or(&minted))]
        }
        Some(Change::Pool(name)) => disagreeing(name, stores),
        // What waits for a member goes on when it is back, or given up.
        Some(Change::Member { pool, .. }) => {
            let volumes = stores.volumes.state();
            let going = volumes.iter().filter(|volume| {
                volume.spec.placement.pool == *pool && volume.metadata.deletion_timestamp.is_some()
            });
            going.map(|volume| ObjectRef::from_obj(volume.as_ref())).collect()
        }
        Some(Change::Rotated(name)) => vec![ObjectRef::new(name)],
        Some(_) => Vec::new(),
    }
}

/// Since when the volume's pool is well, where it is.
fn well_since(volume: &UnifiedVolume, context: &Context) -> Option<jiff::Timestamp> {
    let pool = pool_of(volume, context)?;
    let ready = condition::get(&pool.status.as_ref()?.conditions, "Ready")?;
    ready.is_true().then_some(ready.last_transition_time)
}

/// The volumes of a pool that say something else of it than it says itself.
fn disagreeing(pool: &str, stores: &Stores) -> Vec<ObjectRef<UnifiedVolume>> {
    let pools = stores.pools.state();
    let ready = pools
        .iter()
        .find(|object| object.name_any() == pool)
        .and_then(|object| condition::get(&object.status.as_ref()?.conditions, "Ready").cloned());
    let says_otherwise = |volume: &UnifiedVolume| {
        let mine = volume
            .status
            .as_ref()
            .and_then(|status| condition::get(&status.conditions, "Ready"));
        match (&ready, mine) {
            (Some(ready), Some(mine)) if ready.is_true() => !mine.is_true(),
            (Some(ready), Some(mine)) => {
                let words = format!("pool {pool}: {}", ready.message);
                mine.is_true() || mine.reason != ready.reason || !mine.message.starts_with(&words)
            }
            _ => true,
        }
    };
    let volumes = stores.volumes.state();
    let mine = volumes
        .iter()
        .filter(|volume| volume.spec.placement.pool == pool && says_otherwise(volume));
    mine.map(|volume| ObjectRef::from_obj(volume.as_ref())).collect()
}

/// Makes a volume be as it is written, or be gone.
pub(super) async fn reconcile(volume: Arc<UnifiedVolume>, context: Arc<Context>) -> Result<Action, Error> {
    let api = Api::<UnifiedVolume>::all(context.client.clone());
    if volume.metadata.deletion_timestamp.is_some() {
        return removal::remove(&api, &volume, &context).await;
    }
    finalizer::add(&api, volume.as_ref()).await?;
    let claim_gone = claim_is_gone(&volume, &context).await?;
    if claim_gone && volume.spec.reclaim_policy == ReclaimPolicy::Delete {
        let precondition = Preconditions {
            uid: volume.uid(),
            resource_version: None,
        };
        let parameters = DeleteParams {
            preconditions: Some(precondition),
            ..DeleteParams::default()
        };
        return match api.delete(&volume.name_any(), &parameters).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => {
                crate::fault::point("volume-deletion-asked");
                Ok(Action::await_change())
            }
        };
    }
    let key = format!("backend/{}", volume.name_any());
    let generation = volume.metadata.generation;
    let waits = context.waits(&key, generation, well_since(&volume, &context));
    if let (false, Some((trouble, after))) = (claim_gone, waits) {
        let made = Made {
            trouble: Some(trouble),
            ..Made::default()
        };
        publish_volume(&api, &volume, claim_gone, &made, &context).await?;
        return Ok(Action::requeue(after));
    }
    let made = if claim_gone {
        Made::default()
    } else {
        provision(&volume, &context).await?
    };
    // Before it is told: what is refused there, and so looked at again at once, was tried all the same.
    let after = match &made.trouble {
        Some(trouble) => {
            tracing::debug!(volume = %volume.name_any(), reason = %trouble.reason, message = %trouble.message, "backend trouble");
            context.troubled(&key, trouble, generation)
        }
        None => {
            context.succeeded(&key);
            ASSERT_AGAIN
        }
    };
    publish_volume(&api, &volume, claim_gone, &made, &context).await?;
    Ok(Action::requeue(after))
}

async fn claim_is_gone(volume: &UnifiedVolume, context: &Context) -> Result<bool, Error> {
    let owner = &volume.spec.claim_ref;
    let known = context
        .stores
        .claims
        .state()
        .into_iter()
        .any(|claim| claim.uid().as_deref() == Some(owner.uid.as_str()));
    if known {
        return Ok(false);
    }
    let api = Api::<UnifiedStorageClaim>::namespaced(context.client.clone(), &owner.namespace);
    let live = api.get_opt(&owner.name).await?;
    Ok(live.and_then(|claim| claim.uid()).as_deref() != Some(owner.uid.as_str()))
}

/// What the backend was brought to.
#[derive(Default)]
struct Made {
    handle: Option<Handle>,
    keys: Option<Credentials>,
    access: Option<crate::backend::Access>,
    trouble: Option<BackendTrouble>,
}

impl Made {
    fn failed(error: &BackendError) -> Self {
        Self {
            trouble: Some(backends::trouble(error)),
            ..Self::default()
        }
    }

    fn unable(reason: &str, message: impl Into<String>) -> Self {
        let trouble = BackendTrouble {
            reason: reason.to_owned(),
            message: message.into(),
            transient: true,
        };
        Self {
            trouble: Some(trouble),
            ..Self::default()
        }
    }
}

async fn provision(volume: &UnifiedVolume, context: &Context) -> Result<Made, Error> {
    let pool = match pool_of(volume, context) {
        Some(pool) => pool,
        None => {
            return Ok(Made::unable(
                "PoolGone",
                format!("its pool {} does not exist", volume.spec.placement.pool),
            ));
        }
    };
    let backend = match context.backends.of_pool(&pool) {
        Ok(adapter) => backends::backend(adapter),
        Err((reason, words)) => return Ok(Made::unable(reason, words)),
    };
    let name = volume.name_any();
    let now = || SystemTime::from(context.now());
    let started = context.now();
    let made = make(&backend, volume, &pool, context).await;
    context.metrics.called(
        "seaweedfs",
        "ensure_volume",
        if made.is_ok() { "ok" } else { "error" },
        seconds(started, context),
    );
    // Keys are for what is this claim's: what lies there under its name may be another's, which was kept.
    let provisioned = volume
        .status
        .as_ref()
        .is_some_and(|status| status.handle.is_some());
    if let (Err(error), false) = (&made, provisioned) {
        return Ok(Made::failed(error));
    }
    let keys = credentials::ensure(&context.client, volume, &backend, now()).await?;
    crate::fault::point("after-secret-created");
    let result = match made {
        Ok(handle) => backend.ensure_identity(&name, &keys).await.map(|()| handle),
        Err(error) => Err(error),
    };
    if result.is_ok() {
        crate::fault::point("after-backend-identity");
    }
    match result {
        // Rotated meanwhile: the Secret is written first, so the keys that it holds now are the last ones.
        Ok(_) if credentials::ensure(&context.client, volume, &backend, now()).await? != keys => {
            Err(Error::Conflict)
        }
        Ok(handle) => Ok(Made {
            handle: Some(handle),
            access: Some(backend.access(&name)),
            keys: Some(keys),
            trouble: None,
        }),
        Err(error) => Ok(Made::failed(&error)),
    }
}

fn seconds(since: jiff::Timestamp, context: &Context) -> f64 {
    context.now().duration_since(since).as_secs_f64()
}

async fn make(
    backend: &Backend,
    volume: &UnifiedVolume,
    pool: &UnifiedPool,
    context: &Context,
) -> Result<Handle, BackendError> {
    let (spec, copies) = (&volume.spec, volume.spec.placement.copies.max(1));
    let handle = backend
        .ensure_volume(&VolumeSpec {
            name: volume.name_any(),
            disk_tag: pool.name_any(),
            quota_bytes: spec.capacity_bytes,
            replication: format!("0{}0", (copies - 1).min(9)),
            growth_count: copies,
            cluster_id: context.cluster_id.clone(),
            owner: Owner {
                namespace: spec.claim_ref.namespace.clone(),
                name: spec.claim_ref.name.clone(),
                uid: spec.claim_ref.uid.clone(),
            },
        })
        .await?;
    crate::fault::point("after-backend-volume");
    Ok(handle)
}

fn pool_of(volume: &UnifiedVolume, context: &Context) -> Option<Arc<UnifiedPool>> {
    context
        .stores
        .pools
        .state()
        .into_iter()
        .find(|pool| pool.name_any() == volume.spec.placement.pool)
}

async fn publish_volume(
    api: &Api<UnifiedVolume>,
    volume: &UnifiedVolume,
    claim_gone: bool,
    made: &Made,
    context: &Context,
) -> Result<(), Error> {
    let Some(live) = live(api, volume).await? else {
        return Ok(());
    };
    let old = live.status.clone().unwrap_or_default();
    let pool = pool_of(volume, context).map(|pool| convert::pool_decision(&pool));
    let was_ready = old.handle.is_some();
    let capacity = made
        .handle
        .as_ref()
        .map_or(old.capacity_bytes, |handle| handle.quota_bytes);
    let decision = decide(&VolumeObservation {
        provisioned: made.handle.is_some() || was_ready,
        capacity_bytes: capacity,
        wanted_bytes: volume.spec.capacity_bytes,
        trouble: made.trouble.as_ref(),
        pool: pool.as_ref(),
        pool_name: &volume.spec.placement.pool,
        claim_gone,
        retain: volume.spec.reclaim_policy == ReclaimPolicy::Retain,
    });
    let secret = SecretRef {
        namespace: volume.spec.claim_ref.namespace.clone(),
        name: volume.name_any(),
    };
    let status = UnifiedVolumeStatus {
        phase: convert::word(decision.phase).unwrap_or_default(),
        capacity: format_quantity(capacity),
        capacity_bytes: capacity,
        handle: made
            .handle
            .as_ref()
            .map(|handle| handle.path.clone())
            .or_else(|| old.handle.clone()),
        access: made
            .access
            .as_ref()
            .map(|seen| access(seen, made, &secret))
            .or_else(|| old.access.clone()),
        secret_ref: made
            .keys
            .is_some()
            .then(|| secret.clone())
            .or_else(|| old.secret_ref.clone()),
        conditions: convert::conditions(
            &old.conditions,
            &decision.conditions,
            volume.metadata.generation,
            context.now(),
        ),
    };
    publish(api, &live, live.status.as_ref(), &status).await?;
    if old.phase != status.phase
        && matches!(
            status.phase,
            VolumePhase::Ready | VolumePhase::Failed | VolumePhase::Released
        )
    {
        let ready = condition::get(&status.conditions, "Ready");
        let (reason, note) = ready.map_or(("Changed", String::new()), |c| {
            (c.reason.as_str(), c.message.clone())
        });
        context
            .event(volume, status.phase != VolumePhase::Failed, reason, note)
            .await;
    }
    Ok(())
}

fn access(seen: &crate::backend::Access, made: &Made, secret: &SecretRef) -> Access {
    Access {
        filer: seen.filer.as_ref().map(|filer| FilerAccess {
            url: filer.url.clone(),
            path: filer.path.clone(),
        }),
        s3: seen.s3.as_ref().map(|s3| S3Access {
            endpoint: s3.endpoint.clone(),
            bucket: s3.bucket.clone(),
            access_key: made
                .keys
                .as_ref()
                .map(|keys| keys.access_key.clone())
                .unwrap_or_default(),
            secret_ref: Some(secret.clone()),
        }),
        mount: seen.mount.clone(),
    }
}
