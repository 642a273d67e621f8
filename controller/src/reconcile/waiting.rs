//! The claims that wait: which of them are worth another look.
//!
//! A pool's promise changes with every claim that is placed; woken each time, all who wait would look, and write,
//! each time. So they are woken in the order in which they came, and as many as the room is enough for; only where
//! the offer itself changes (classes, pools, members, drives) everybody looks again, as the reasons change too.
//! Nothing is decided here: who is woken asks as if for the first time.

use std::{sync::Arc, time::Duration};

use kube::{ResourceExt as _, runtime::reflector::ObjectRef};
use smart_storage_core::{
    bytes::parse_quantity,
    placement::{
        Class, DriveView, Pool,
        queue::{Wish, served},
    },
    volume::cost,
};
use tokio::{
    sync::{broadcast, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Change, Context, Planner, Stores, claim::volume_name, convert};
use crate::crd::{UnifiedStorageClaim, claim::ClaimPhase, condition};

/// Changes within this time are one look.
const TOGETHER: Duration = Duration::from_millis(50);
/// A look that takes long, in a large fleet, is made seldom: this many times its own time passes in between.
const REST: u32 = 10;

/// Looks whenever something that claims wait for may have changed, and tells who is to look again.
pub(super) async fn follow(
    context: Arc<Context>,
    mut changes: broadcast::Receiver<Change>,
    woken: mpsc::UnboundedSender<ObjectRef<UnifiedStorageClaim>>,
    stop: CancellationToken,
) {
    let planner = Planner::new(context.stores.clone(), Arc::clone(&context.registry));
    let (mut line, mut rest) = (Line::default(), TOGETHER);
    loop {
        let heard = tokio::select! {
            () = stop.cancelled() => return,
            heard = changes.recv() => heard,
        };
        match heard {
            Ok(Change::Volume { .. } | Change::Order(_) | Change::Rotated(_) | Change::Leftovers(_)) => {
                continue;
            }
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
        // What was told meanwhile is in the stores, which are looked at now.
        changes = changes.resubscribe();
        let started = Instant::now();
        for claim in line.look(&context.stores, &planner) {
            // Nobody listens any more: the process ends.
            let _ = woken.send(claim);
        }
        rest = TOGETHER.max(started.elapsed() * REST);
    }
}

/// Who waits, and for what as of the last look.
#[derive(Default)]
struct Line {
    offer: Option<Offer>,
}

/// What there is to be had, without how much of it is left.
#[derive(PartialEq)]
struct Offer {
    classes: Vec<Class>,
    pools: Vec<Pool>,
    drives: Vec<DriveView>,
}

impl Line {
    /// Those who are to look again.
    fn look(&mut self, stores: &Stores, planner: &Planner) -> Vec<ObjectRef<UnifiedStorageClaim>> {
        let mut waiting: Vec<Arc<UnifiedStorageClaim>> = stores.claims.state();
        waiting.retain(|claim| waits(claim));
        if waiting.is_empty() {
            // Who comes next looks by itself.
            self.offer = None;
            return Vec::new();
        }
        waiting.sort_by_cached_key(|claim| {
            let since = claim.creation_timestamp().map(|time| time.0);
            (since, claim.namespace(), claim.name_any())
        });
        let (classes, pools, drives) = (planner.classes(), planner.pools(), planner.drives());
        let offer = Offer {
            pools: pools.iter().map(without_promises).collect(),
            classes: classes.clone(),
            drives: drives.clone(),
        };
        let same = self.offer.as_ref() == Some(&offer);
        self.offer = Some(offer);
        let again = |claim: &Arc<UnifiedStorageClaim>| ObjectRef::from_obj(claim.as_ref());
        if !same {
            return waiting.iter().map(again).collect();
        }
        let (claims, wishes): (Vec<_>, Vec<_>) = waiting
            .iter()
            .filter_map(|claim| Some((claim, wish(claim, stores, &pools)?)))
            .unzip();
        let served = served(&wishes, &classes, &pools, &drives);
        let served = served.into_iter().filter_map(|at| claims.get(at));
        served.map(|claim| again(claim)).collect()
    }
}

/// A claim that nobody has looked at yet is on its way by itself.
fn waits(claim: &UnifiedStorageClaim) -> bool {
    claim.metadata.deletion_timestamp.is_none()
        && claim.status.as_ref().is_some_and(|status| {
            matches!(status.phase, ClaimPhase::Pending | ClaimPhase::Placing)
                || condition::get(&status.conditions, "Expanded").is_some()
        })
}

fn wish(claim: &UnifiedStorageClaim, stores: &Stores, pools: &[Pool]) -> Option<Wish> {
    let name = volume_name(claim).ok()?;
    let bytes = parse_quantity(&claim.spec.capacity).ok()?;
    let volumes = stores.volumes.state();
    let Some(volume) = volumes.iter().find(|volume| volume.name_any() == name) else {
        return convert::request(&claim.spec, bytes, &name).map(Wish::Place);
    };
    let placement = &volume.spec.placement;
    let pool = pools.iter().find(|pool| pool.name.as_str() == placement.pool)?;
    let wanted = cost(bytes, placement.copies, pool.slot_bytes).bytes;
    Some(Wish::Growth {
        pool: pool.name.clone(),
        bytes: wanted.saturating_sub(placement.promised_bytes),
    })
}

fn without_promises(pool: &Pool) -> Pool {
    Pool {
        promised_bytes: 0,
        reserved: Default::default(),
        ..pool.clone()
    }
}
