//! The one place where bytes are promised.
//!
//! A promise is two writes: the pool's status takes the raised sum together with a reservation that says for which
//! volume, by a conditional update; then the volume is written. A crash, a lost answer or another leader in between
//! finds the reservation: the same volume asked for again takes it over, a recount counts it, and it goes only when
//! its volume is there or can never come any more. So the sum is never below what volumes hold.
//!
//! Within this process one promise is made at a time; between processes the resourceVersions stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use serde_json::json;
use smart_storage_core::{
    ledger::{Counted, Held, Ledger, Reservation},
    volume::Shortage,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Error, is_already_there, is_not_found};
use crate::crd::{
    ANNOTATION_FENCE, UnifiedPool, UnifiedPoolStatus, UnifiedStorageClaim, UnifiedVolume,
    pool::PoolReservation, volume::ClaimRef,
};

const RECOUNT_EVERY: Duration = Duration::from_secs(300);
/// What changes within this time is counted together.
const TOGETHER: Duration = Duration::from_millis(250);
const TRY_AGAIN: Duration = Duration::from_secs(1);
const CONFLICTS_BORNE: usize = 20;

/// Promises bytes of pools.
pub struct Allocator {
    client: Client,
    pools: Api<UnifiedPool>,
    volumes: Api<UnifiedVolume>,
    /// Under which its reservations are.
    name: String,
    /// Held from the reservation until the volume is written.
    turn: tokio::sync::Mutex<()>,
    /// Pools that have to be counted, because something was written or is gone.
    stale: Mutex<BTreeSet<String>>,
    wake: Notify,
}

/// What became of a request for bytes.
pub enum Granted {
    /// The volume is written; true where it was there already.
    Written {
        /// It as it stands.
        volume: Box<UnifiedVolume>,
        /// Whether it had been there before.
        existed: bool,
    },
    /// The pool has not that many bytes left.
    Short(Shortage),
}

impl Allocator {
    pub(super) fn new(client: Client) -> Self {
        Self {
            pools: Api::all(client.clone()),
            volumes: Api::all(client.clone()),
            client,
            name: uuid::Uuid::new_v4().simple().to_string(),
            turn: tokio::sync::Mutex::new(()),
            stale: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Reserves the volume's bytes and writes it; a volume of that name that is there already costs nothing.
    ///
    /// # Errors
    /// Where the API cannot be reached; then the reservation stands, and the same volume asked for again has it.
    pub async fn create(&self, volume: &UnifiedVolume) -> Result<Granted, Error> {
        let _turn = self.turn.lock().await;
        let name = volume.name_any();
        if let Some(volume) = self.volumes.get_opt(&name).await? {
            return Ok(written(volume, true));
        }
        let placement = &volume.spec.placement;
        let ask = Reservation {
            volume: name.clone(),
            bytes: placement.promised_bytes,
            by: self.name.clone(),
            grows: None,
        };
        let owner = Some(&volume.spec.claim_ref);
        if let Err(shortage) = self.reserve(&placement.pool, &ask, 0, owner).await? {
            return Ok(Granted::Short(shortage));
        }
        crate::fault::point("after-reserve");
        match self.volumes.create(&PostParams::default(), volume).await {
            Ok(volume) => {
                crate::fault::point("volume-written");
                Ok(written(volume, false))
            }
            Err(error) if is_already_there(&error) => match self.volumes.get_opt(&name).await? {
                Some(volume) => Ok(written(volume, true)),
                None => Err(error.into()),
            },
            Err(error) => {
                if was_refused(&error) {
                    self.withdraw(&placement.pool, &name).await;
                }
                Err(error.into())
            }
        }
    }

    /// Reserves the difference, then writes the volume's new size.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub async fn grow(
        &self,
        name: &str,
        capacity_bytes: u64,
        promised_bytes: u64,
    ) -> Result<Result<(), Shortage>, Error> {
        let _turn = self.turn.lock().await;
        let mut volume = self.volumes.get(name).await?;
        if capacity_bytes <= volume.spec.capacity_bytes {
            return Ok(Ok(()));
        }
        let pool = volume.spec.placement.pool.clone();
        let held = volume.spec.placement.promised_bytes;
        let ask = Reservation {
            volume: name.to_owned(),
            bytes: promised_bytes.max(held),
            by: self.name.clone(),
            grows: volume.resource_version(),
        };
        if let Err(shortage) = self.reserve(&pool, &ask, held, None).await? {
            return Ok(Err(shortage));
        }
        crate::fault::point("after-reserve-growth");
        volume.spec.capacity_bytes = capacity_bytes;
        volume.spec.placement.promised_bytes = ask.bytes;
        self.volumes
            .replace(name, &PostParams::default(), &volume)
            .await?;
        crate::fault::point("volume-grown");
        Ok(Ok(()))
    }

    /// Counts a pool's promises anew.
    ///
    /// # Errors
    /// Where the API cannot be reached.
    pub async fn recount(&self, pool: &str) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        self.count(pool).await
    }

    /// Counts bytes as retained: they stay on the pool and are no volume's any more. What the backend shows corrects
    /// it later.
    ///
    /// # Errors
    /// Where the API cannot be reached.
    pub async fn retain(&self, pool: &str, bytes: u64) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        for _ in 0..CONFLICTS_BORNE {
            let Some(mut object) = self.pools.get_opt(pool).await? else {
                return Ok(());
            };
            let ledger = ledger_of(&object.status.clone().unwrap_or_default());
            let status = object.status.get_or_insert_default();
            status.retained_bytes = status.retained_bytes.saturating_add(bytes);
            super::pool::set_promised(status, ledger.promised);
            match self
                .pools
                .replace_status(pool, &PostParams::default(), &object)
                .await
                .map_err(Error::from)
            {
                Ok(_) => return Ok(()),
                Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict)
    }

    /// Has a pool's promises counted as soon as may be, and again until that succeeds: a volume of it was written,
    /// or is gone.
    pub fn recount_soon(&self, pool: &str) {
        self.stale.lock().insert(pool.to_owned());
        self.wake.notify_one();
    }

    /// Volumes on a pool by a live read, none of them half-way: what is not counted now cannot come any more once the
    /// pool is being deleted.
    ///
    /// # Errors
    /// Where the API cannot be reached.
    pub async fn volumes_on(&self, pool: &str) -> Result<usize, Error> {
        let _turn = self.turn.lock().await;
        let volumes = self.volumes.list(&ListParams::default()).await?;
        Ok(volumes
            .iter()
            .filter(|volume| volume.spec.placement.pool == pool)
            .count())
    }

    async fn reserve(
        &self,
        pool: &str,
        ask: &Reservation,
        held: u64,
        owner: Option<&ClaimRef>,
    ) -> Result<Result<(), Shortage>, Error> {
        let reserved = self
            .change(pool, owner, |capacity, ledger| {
                ledger.reserve(capacity, ask.clone(), held)
            })
            .await;
        // A reservation that is there, or may be there, has to be looked after whatever comes next.
        if !matches!(reserved, Ok(Err(_))) {
            self.recount_soon(pool);
        }
        reserved
    }

    /// The write of a new volume was refused: nothing of it can come. Where this fails, the reservation waits for
    /// its volume to be asked for again.
    async fn withdraw(&self, pool: &str, volume: &str) {
        let withdrawn = self
            .change(pool, None, |_, ledger| Ok(ledger.withdraw(volume, &self.name)))
            .await;
        if let Err(error) = withdrawn {
            tracing::warn!(%error, pool, volume, "reservation not withdrawn");
        }
    }

    async fn count(&self, pool: &str) -> Result<(), Error> {
        for _ in 0..CONFLICTS_BORNE {
            // The pool is read first: a promise that is written after this read makes the update fail.
            let Some(object) = self.pools.get_opt(pool).await? else {
                return Ok(());
            };
            let volumes = self.volumes.list(&ListParams::default()).await?.items;
            let held: Vec<Held<'_>> = volumes.iter().map(|volume| held(volume, pool)).collect();
            let status = object.status.clone().unwrap_or_default();
            let unwanted = self.unwanted(&status, &held).await?;
            let counted =
                ledger_of(&status).recount(&held, |reservation| unwanted.contains(&reservation.volume));
            let ledger = match counted {
                Counted::Ledger(ledger) => ledger,
                Counted::Fence(names) => {
                    for name in names {
                        self.fence(&name).await?;
                    }
                    continue;
                }
            };
            let frees = ledger.promised < ledger_of(&status).promised;
            match self.write(object, ledger, None).await {
                Err(Error::Conflict) => {}
                Err(Error::Kube(error)) if is_not_found(&error) => return Ok(()),
                result => {
                    if frees {
                        crate::fault::point("promise-recounted");
                    }
                    return result;
                }
            }
        }
        Err(Error::Conflict)
    }

    /// Volumes that are reserved, not there, and whose claims are gone: nobody asks for them again.
    async fn unwanted(
        &self,
        status: &UnifiedPoolStatus,
        held: &[Held<'_>],
    ) -> Result<BTreeSet<String>, Error> {
        let mut unwanted = BTreeSet::new();
        for reservation in &status.reservations {
            if reservation.grows.is_some() || held.iter().any(|volume| volume.name == reservation.volume) {
                continue;
            }
            let owner = &reservation.claim;
            let claims = Api::<UnifiedStorageClaim>::namespaced(self.client.clone(), &owner.namespace);
            let uid = claims.get_opt(&owner.name).await?.and_then(|claim| claim.uid());
            if uid.as_deref() != Some(owner.uid.as_str()) {
                unwanted.insert(reservation.volume.clone());
            }
        }
        Ok(unwanted)
    }

    /// Changes a volume so that a growth that builds on it as it is cannot be written any more.
    async fn fence(&self, name: &str) -> Result<(), Error> {
        let Some(volume) = self.volumes.get_opt(name).await? else {
            return Ok(());
        };
        let version = volume.resource_version();
        let patch =
            json!({"metadata": {"resourceVersion": version, "annotations": {ANNOTATION_FENCE: version}}});
        match self
            .volumes
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(Error::from)
        {
            // Changed by somebody else: that does as well.
            Ok(_) | Err(Error::Conflict) => Ok(()),
            Err(Error::Kube(error)) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn change(
        &self,
        pool: &str,
        claim: Option<&ClaimRef>,
        decide: impl Fn(u64, &Ledger) -> Result<Ledger, Shortage>,
    ) -> Result<Result<(), Shortage>, Error> {
        for _ in 0..CONFLICTS_BORNE {
            let object = self.pools.get(pool).await?;
            // The choice was made over an older picture: a pool that goes must not get another volume.
            if object.metadata.deletion_timestamp.is_some() {
                return Err(Error::PoolGoes(pool.to_owned()));
            }
            let status = object.status.clone().unwrap_or_default();
            let ledger = match decide(super::pool::promisable(&status), &ledger_of(&status)) {
                Ok(ledger) => ledger,
                Err(shortage) => return Ok(Err(shortage)),
            };
            match self.write(object, ledger, claim).await {
                Err(Error::Conflict) => {}
                result => return result.map(Ok),
            }
        }
        Err(Error::Conflict)
    }

    /// Writes a ledger where it differs; `claim` is the one that a new reservation is for.
    async fn write(
        &self,
        mut pool: UnifiedPool,
        ledger: Ledger,
        claim: Option<&ClaimRef>,
    ) -> Result<(), Error> {
        let name = pool.name_any();
        let mut status = pool.status.clone().unwrap_or_default();
        let mut owners: BTreeMap<String, ClaimRef> = std::mem::take(&mut status.reservations)
            .into_iter()
            .map(|known| (known.volume, known.claim))
            .collect();
        status.reservations = ledger
            .reservations
            .into_iter()
            .map(|reservation| PoolReservation {
                claim: owners
                    .remove(&reservation.volume)
                    .or_else(|| claim.cloned())
                    .unwrap_or_default(),
                volume: reservation.volume,
                bytes: reservation.bytes,
                by: reservation.by,
                grows: reservation.grows,
            })
            .collect();
        super::pool::set_promised(&mut status, ledger.promised);
        if pool.status.as_ref() == Some(&status) {
            return Ok(());
        }
        pool.status = Some(status);
        self.pools
            .replace_status(&name, &PostParams::default(), &pool)
            .await?;
        Ok(())
    }

    /// Counts every pool at the start and every five minutes, and soon those of which something was written or is
    /// gone; an equal count writes nothing.
    pub(super) async fn keep_counted(self: Arc<Self>, stop: CancellationToken) {
        let mut next = Instant::now();
        loop {
            let pause = tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(next) => {
                    next = self.count_every_pool_soon().await;
                    Duration::ZERO
                }
                () = self.wake.notified() => TOGETHER,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let stale = std::mem::take(&mut *self.stale.lock());
            for pool in stale {
                if let Err(error) = self.recount(&pool).await {
                    tracing::warn!(%error, pool, "promises not recounted, will be tried again");
                    self.stale.lock().insert(pool);
                    next = next.min(Instant::now() + TRY_AGAIN);
                }
            }
        }
    }

    /// Answers when to come back.
    async fn count_every_pool_soon(&self) -> Instant {
        match self.pools.list(&ListParams::default()).await {
            Ok(pools) => {
                let names = pools.iter().map(|pool| pool.name_any());
                self.stale.lock().extend(names);
                Instant::now() + RECOUNT_EVERY
            }
            Err(error) => {
                tracing::warn!(%error, "pools not listed for the recount");
                Instant::now() + TRY_AGAIN
            }
        }
    }
}

fn written(volume: UnifiedVolume, existed: bool) -> Granted {
    Granted::Written {
        volume: Box::new(volume),
        existed,
    }
}

/// The API server answered that it did not do it; anything else may have been done, or may still be.
fn was_refused(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 408)
}

fn held<'a>(volume: &'a UnifiedVolume, pool: &str) -> Held<'a> {
    Held {
        name: volume.metadata.name.as_deref().unwrap_or_default(),
        here: volume.spec.placement.pool == pool,
        bytes: volume.spec.placement.promised_bytes,
        version: volume.metadata.resource_version.as_deref().unwrap_or_default(),
    }
}

/// What a pool's status says of its promises.
pub(super) fn ledger_of(status: &UnifiedPoolStatus) -> Ledger {
    let reservations = status.reservations.iter().map(|known| Reservation {
        volume: known.volume.clone(),
        bytes: known.bytes,
        by: known.by.clone(),
        grows: known.grows.clone(),
    });
    Ledger {
        promised: status.promised_bytes,
        reservations: reservations.collect(),
    }
}

#[cfg(test)]
mod tests;
