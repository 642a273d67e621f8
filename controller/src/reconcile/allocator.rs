//! The one place where bytes are promised.
//!
//! A reservation raises `status.promisedBytes` of the pool by a conditional update before the volume is written; the
//! lock of this process is held over both, and the resourceVersion keeps a second leader out. A crash in between
//! leaves the promise too high, never too low: the recount (sum over the volumes) heals it, at the start and now and
//! then.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, PostParams},
};
use smart_storage_core::volume::{Cost, Shortage, recount, reserve};
use tokio_util::sync::CancellationToken;

use super::{Error, is_already_there, is_not_found};
use crate::crd::{UnifiedPool, UnifiedVolume};

const RECOUNT_EVERY: Duration = Duration::from_secs(300);
const CONFLICTS_BORNE: usize = 20;

/// Promises bytes of pools.
pub struct Allocator {
    pools: Api<UnifiedPool>,
    volumes: Api<UnifiedVolume>,
    /// Held from the reservation until the volume is written.
    turn: tokio::sync::Mutex<()>,
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
            volumes: Api::all(client),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// Reserves the volume's bytes and writes it; a volume of that name that is there already costs nothing.
    ///
    /// # Errors
    /// Where the API cannot be reached; then at most the promise is too high until the next recount.
    pub async fn create(&self, volume: &UnifiedVolume) -> Result<Granted, Error> {
        let _turn = self.turn.lock().await;
        if let Some(volume) = self.volumes.get_opt(&volume.name_any()).await? {
            return Ok(Granted::Written {
                volume: Box::new(volume),
                existed: true,
            });
        }
        let placement = &volume.spec.placement;
        if let Err(shortage) = self
            .change(&placement.pool, |capacity, promised| {
                reserve(
                    capacity,
                    promised,
                    Cost {
                        bytes: placement.promised_bytes,
                        slots: 0,
                    },
                )
            })
            .await?
        {
            return Ok(Granted::Short(shortage));
        }
        crate::fault::point("after-reserve");
        match self.volumes.create(&PostParams::default(), volume).await {
            Ok(volume) => Ok(Granted::Written {
                volume: Box::new(volume),
                existed: false,
            }),
            Err(error) => {
                // Whether it was written after all is not known where the answer was lost: counting tells.
                self.count(&placement.pool).await?;
                if is_already_there(&error)
                    && let Some(volume) = self.volumes.get_opt(&volume.name_any()).await?
                {
                    return Ok(Granted::Written {
                        volume: Box::new(volume),
                        existed: true,
                    });
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
        let more = promised_bytes.saturating_sub(volume.spec.placement.promised_bytes);
        if capacity_bytes <= volume.spec.capacity_bytes {
            return Ok(Ok(()));
        }
        let pool = volume.spec.placement.pool.clone();
        let reserved = self
            .change(&pool, |capacity, promised| {
                reserve(
                    capacity,
                    promised,
                    Cost {
                        bytes: more,
                        slots: 0,
                    },
                )
            })
            .await?;
        if let Err(shortage) = reserved {
            return Ok(Err(shortage));
        }
        crate::fault::point("after-reserve-growth");
        volume.spec.capacity_bytes = capacity_bytes;
        volume.spec.placement.promised_bytes = volume.spec.placement.promised_bytes.saturating_add(more);
        if let Err(error) = self.volumes.replace(name, &PostParams::default(), &volume).await {
            self.count(&pool).await?;
            return Err(error.into());
        }
        Ok(Ok(()))
    }

    /// Counts a pool's promises anew, after a volume is gone.
    ///
    /// # Errors
    /// Where the API cannot be reached.
    pub async fn recount(&self, pool: &str) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        self.count(pool).await
    }

    async fn count(&self, pool: &str) -> Result<(), Error> {
        for _ in 0..CONFLICTS_BORNE {
            // The pool is read first: a promise that is written after this read makes the update fail.
            let Some(object) = self.pools.get_opt(pool).await? else {
                return Ok(());
            };
            let volumes = self.volumes.list(&ListParams::default()).await?;
            let costs = volumes
                .iter()
                .filter(|volume| volume.spec.placement.pool == pool)
                .map(|volume| Cost {
                    bytes: volume.spec.placement.promised_bytes,
                    slots: 0,
                });
            match self.write(object, recount(costs, [])).await {
                Err(Error::Conflict) => {}
                result => return result,
            }
        }
        Err(Error::Conflict)
    }

    async fn change(
        &self,
        pool: &str,
        decide: impl Fn(u64, u64) -> Result<u64, Shortage>,
    ) -> Result<Result<(), Shortage>, Error> {
        for _ in 0..CONFLICTS_BORNE {
            let object = self.pools.get(pool).await?;
            let status = object.status.clone().unwrap_or_default();
            let promised = match decide(status.total_capacity_bytes, status.promised_bytes) {
                Ok(promised) => promised,
                Err(shortage) => return Ok(Err(shortage)),
            };
            match self.write(object, promised).await {
                Err(Error::Conflict) => {}
                result => return result.map(Ok),
            }
        }
        Err(Error::Conflict)
    }

    async fn write(&self, mut pool: UnifiedPool, promised: u64) -> Result<(), Error> {
        let name = pool.name_any();
        let mut status = pool.status.clone().unwrap_or_default();
        super::pool::set_promised(&mut status, promised);
        if pool.status.as_ref() == Some(&status) {
            return Ok(());
        }
        pool.status = Some(status);
        match self
            .pools
            .replace_status(&name, &PostParams::default(), &pool)
            .await
        {
            Err(error) if is_not_found(&error) => Ok(()),
            result => result.map(|_| ()).map_err(Error::from),
        }
    }

    /// Counts every pool at the start and every five minutes; an equal count writes nothing.
    pub(super) async fn recount_now_and_then(self: Arc<Self>, stop: CancellationToken) {
        loop {
            match self.pools.list(&ListParams::default()).await {
                Ok(pools) => {
                    for pool in pools {
                        if let Err(error) = self.recount(&pool.name_any()).await {
                            tracing::warn!(%error, pool = %pool.name_any(), "promises not recounted");
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "pools not listed for the recount"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RECOUNT_EVERY) => {}
            }
        }
    }
}
