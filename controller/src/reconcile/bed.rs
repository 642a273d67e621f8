//! The test bed: what reconcilers see, over a real embedded API in a folder of its own, with one pool whose member,
//! node and drive are written down by hand. No agent is there, and no backend.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use smart_storage_core::registry::Registry;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{Backends, Change, Context, Process, serve_claims, watch};
use crate::{
    agents::{AdmitAll, AgentsHub, HubSettings, session::SILENCE},
    config::SeaweedDefaults,
    crd::{self, PoolMember, StorageNode, UnifiedPool, UnifiedStorageClaim, UnifiedVolume},
    embedded::Embedded,
    metrics::Metrics,
    telemetry::{self, AgentMetrics},
};

pub(super) const SLOT: u64 = 32 << 20;

pub(super) struct Bed {
    pub(super) context: Arc<Context>,
    embedded: Embedded,
    changes: broadcast::Sender<Change>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Bed {
    /// A pool `p` of so many slots.
    pub(super) async fn new(slots: u64) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let embedded = Embedded::open(&folder.path().join("store.redb"), crd::all())
            .await
            .unwrap();
        let (changes, stop) = (broadcast::channel(4096).0, CancellationToken::new());
        let client = embedded.client();
        let stores = watch(&client, &changes, &stop).await.unwrap();
        let mut scraped = telemetry::registry();
        let settings = HubSettings {
            cluster_id: "bed".to_owned(),
            discover_interval: Duration::from_secs(300),
            silence: SILENCE,
        };
        let hub = AgentsHub::new(
            Arc::new(Registry::new()),
            settings,
            Arc::new(AdmitAll),
            AgentMetrics::register(&mut scraped),
        );
        let nowhere = SeaweedDefaults {
            master: "127.0.0.1:1.1".to_owned(),
            filer: "127.0.0.1:1.1".to_owned(),
            s3: "http://127.0.0.1:1".to_owned(),
            security: None,
        };
        let context = Context::new(
            client,
            stores,
            hub,
            Arc::new(Backends::new(nowhere)),
            Process {
                cluster_id: "bed".to_owned(),
                clock: Arc::new(jiff::Timestamp::now),
                metrics: Metrics::register(&mut scraped),
                changes: changes.clone(),
            },
        );
        let bed = Self {
            context: Arc::new(context),
            embedded,
            changes,
            stop,
            _folder: folder,
        };
        bed.furnish(slots).await;
        bed
    }

    async fn furnish(&self, slots: u64) {
        self.made(
            "StorageNode",
            json!({"nodeName": "n"}),
            "n",
            json!({"phase": "Ready", "drives": [{
                "id": "loop-d", "device": "loop0", "driveType": "unknown", "capacityBytes": slots * SLOT,
                "health": "Unknown", "use": {"state": "Claimed", "pool": "p"}, "claimable": false,
            }]}),
            &Api::<StorageNode>::all(self.embedded.client()),
        )
        .await;
        self.made(
            "PoolMember",
            json!({"pool": "p", "driveId": "loop-d", "memberId": "8f0d2c1e-5b7a-4c36-9a41-000000000000", "nodeName": "n", "driveBytes": slots * SLOT,
                   "slots": slots, "slotBytes": SLOT, "diskTag": "p"}),
            "pm-loop-d",
            json!({"phase": "Online", "node": "n", "prepared": true}),
            &Api::<PoolMember>::all(self.embedded.client()),
        )
        .await;
        self.made(
            "UnifiedPool",
            json!({"poolType": "file", "backend": {"type": "seaweedfs"}}),
            "p",
            json!({"phase": "Ready", "totalCapacityBytes": slots * SLOT, "slotBytes": SLOT}),
            &self.pools(),
        )
        .await;
        self.until("the stores have the pool", async || {
            let stores = &self.context.stores;
            let has = |slots: Option<u64>| slots == Some(SLOT);
            let pool = stores.pools.state();
            let seen = pool.first().and_then(|pool| pool.status.as_ref());
            let online = stores
                .members
                .state()
                .iter()
                .any(|member| member.status.is_some());
            let drives = stores.nodes.state().iter().any(|node| node.status.is_some());
            has(seen.map(|status| status.slot_bytes)) && online && drives
        })
        .await;
    }

    async fn made<K>(&self, kind: &str, spec: Value, name: &str, status: Value, api: &Api<K>)
    where
        K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    {
        let object = json!({
            "apiVersion": "storage.billyronks.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec,
        });
        let object: K = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
        let status = json!({"status": status});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
    }

    /// Claims are served from now on.
    pub(super) fn start(&self) {
        for task in serve_claims(&self.context, &self.changes, &self.stop) {
            tokio::spawn(task);
        }
    }

    pub(super) fn pools(&self) -> Api<UnifiedPool> {
        Api::all(self.embedded.client())
    }

    pub(super) fn volumes(&self) -> Api<UnifiedVolume> {
        Api::all(self.embedded.client())
    }

    pub(super) fn claims(&self) -> Api<UnifiedStorageClaim> {
        Api::default_namespaced(self.embedded.client())
    }

    /// Asks for one slot.
    pub(super) async fn claim(&self, name: &str, volume: Option<&str>) -> UnifiedStorageClaim {
        let claim: UnifiedStorageClaim = serde_json::from_value(json!({
            "apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedStorageClaim", "metadata": {"name": name},
            "spec": {"storageType": "file", "capacity": "4Mi", "volumeName": volume},
        }))
        .unwrap();
        self.claims()
            .create(&PostParams::default(), &claim)
            .await
            .unwrap()
    }

    pub(super) async fn all_claims(&self) -> Vec<UnifiedStorageClaim> {
        self.claims().list(&ListParams::default()).await.unwrap().items
    }

    /// What the volumes' reconciler does when a claim is gone: the volume goes, and then its bytes are counted.
    pub(super) async fn take_back(&self, claim: &UnifiedStorageClaim) {
        let volume = claim
            .status
            .as_ref()
            .and_then(|status| status.volume_name.clone());
        let volume = volume.unwrap();
        self.claims()
            .delete(&claim.name_any(), &DeleteParams::default())
            .await
            .unwrap();
        let free = json!({"metadata": {"finalizers": []}});
        self.volumes()
            .patch(&volume, &PatchParams::default(), &Patch::Merge(&free))
            .await
            .unwrap();
        self.volumes()
            .delete(&volume, &DeleteParams::default())
            .await
            .unwrap();
        self.context.allocator.recount_soon("p");
    }

    /// How much was written to this API until now.
    pub(super) async fn writes(&self) -> u64 {
        let list = self.claims().list(&ListParams::default()).await.unwrap();
        list.metadata.resource_version.unwrap().parse().unwrap()
    }

    /// Waits for a condition, at most twenty seconds.
    pub(super) async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let wait = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
