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
            Ok(volume) => {
                crate::fault::point("volume-written");
                Ok(Granted::Written {
                    volume: Box::new(volume),
                    existed: false,
                })
            }
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
        crate::fault::point("volume-grown");
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
                Err(Error::Kube(error)) if is_not_found(&error) => return Ok(()),
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
            // The choice was made over an older picture: a pool that goes must not get another volume.
            if object.metadata.deletion_timestamp.is_some() {
                return Err(Error::Backend(format!("pool {pool} is being deleted")));
            }
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
        self.pools
            .replace_status(&name, &PostParams::default(), &pool)
            .await?;
        Ok(())
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

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use kube::api::{DeleteParams, Patch, PatchParams};
    use serde_json::json;

    use super::*;
    use crate::{crd, embedded::Embedded};

    struct Bed {
        allocator: Arc<Allocator>,
        embedded: Embedded,
        _folder: tempfile::TempDir,
    }

    impl Bed {
        async fn new(capacity: u64) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let embedded = Embedded::open(&folder.path().join("store.redb"), crd::all())
                .await
                .unwrap();
            let allocator = Arc::new(Allocator::new(embedded.client()));
            let pool: UnifiedPool = serde_json::from_value(json!({
                "apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedPool",
                "metadata": {"name": "p", "finalizers": [crd::FINALIZER]},
                "spec": {"poolType": "file", "backend": {"type": "seaweedfs"}},
            }))
            .unwrap();
            allocator
                .pools
                .create(&PostParams::default(), &pool)
                .await
                .unwrap();
            let status = json!({"status": {"phase": "Ready", "totalCapacityBytes": capacity}});
            allocator
                .pools
                .patch_status("p", &PatchParams::default(), &Patch::Merge(&status))
                .await
                .unwrap();
            Self {
                allocator,
                embedded,
                _folder: folder,
            }
        }

        async fn promised(&self) -> u64 {
            let pool = self.allocator.pools.get("p").await.unwrap();
            pool.status.unwrap_or_default().promised_bytes
        }

        async fn held(&self) -> u64 {
            let volumes = self.allocator.volumes.list(&ListParams::default()).await.unwrap();
            volumes.iter().map(|v| v.spec.placement.promised_bytes).sum()
        }
    }

    fn volume(name: &str, bytes: u64) -> UnifiedVolume {
        serde_json::from_value(json!({
            "apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedVolume", "metadata": {"name": name},
            "spec": {
                "storageType": "file", "reclaimPolicy": "Delete", "capacityBytes": 1,
                "claimRef": {"namespace": "default", "name": name, "uid": name},
                "placement": {"backend": "seaweedfs", "pool": "p", "copies": 1, "promisedBytes": bytes,
                              "reasons": ["a test"]},
            },
        }))
        .unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_hundred_at_once_get_no_more_than_there_is() {
        let bed = Bed::new(300).await;
        // A second allocator is a second leader: only the resourceVersion stands between them.
        let other = Arc::new(Allocator::new(bed.embedded.client()));
        let asked = (0..200).map(|n| {
            let allocator = if n % 2 == 0 { &bed.allocator } else { &other };
            let allocator = Arc::clone(allocator);
            async move { allocator.create(&volume(&format!("uv-{n}"), 10)).await.unwrap() }
        });
        let granted = join_all(asked).await;
        let written = granted
            .iter()
            .filter(|granted| matches!(granted, Granted::Written { existed: false, .. }))
            .count();
        assert_eq!(written, 30);
        assert_eq!((bed.promised().await, bed.held().await), (300, 300));
        bed.allocator.recount("p").await.unwrap();
        assert_eq!(bed.promised().await, 300);
    }

    #[tokio::test]
    async fn a_crash_between_reserve_and_create_is_healed_by_the_recount() {
        let bed = Bed::new(100).await;
        bed.allocator.create(&volume("uv-a", 40)).await.unwrap();
        let reserved = bed
            .allocator
            .change("p", |capacity, promised| {
                reserve(capacity, promised, Cost { bytes: 60, slots: 0 })
            })
            .await
            .unwrap();
        assert!(reserved.is_ok());
        assert!(matches!(
            bed.allocator.create(&volume("uv-b", 10)).await.unwrap(),
            Granted::Short(_)
        ));
        bed.allocator.recount("p").await.unwrap();
        assert_eq!(bed.promised().await, 40);
        assert!(matches!(
            bed.allocator.create(&volume("uv-b", 60)).await.unwrap(),
            Granted::Written { existed: false, .. }
        ));
    }

    #[tokio::test]
    async fn the_same_volume_again_costs_nothing() {
        let bed = Bed::new(100).await;
        for existed in [false, true, true] {
            let granted = bed.allocator.create(&volume("uv-a", 40)).await.unwrap();
            assert!(matches!(granted, Granted::Written { existed: was, .. } if was == existed));
            assert_eq!(bed.promised().await, 40);
        }
    }

    #[tokio::test]
    async fn a_pool_that_is_being_deleted_promises_nothing_more() {
        let bed = Bed::new(100).await;
        bed.allocator.create(&volume("uv-a", 40)).await.unwrap();
        bed.allocator
            .pools
            .delete("p", &DeleteParams::default())
            .await
            .unwrap();
        assert!(bed.allocator.create(&volume("uv-b", 10)).await.is_err());
        assert!(bed.allocator.grow("uv-a", 2, 50).await.is_err());
        assert_eq!((bed.promised().await, bed.held().await), (40, 40));
        assert_eq!(bed.allocator.volumes_on("p").await.unwrap(), 1);
    }
}
