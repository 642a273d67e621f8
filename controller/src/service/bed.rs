//! The test bed: the service over a real embedded API in a folder of its own, with the neighbours played by hand.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{view::Storage, *};
use crate::{crd, embedded::Embedded};

pub(crate) struct Bed {
    pub(crate) client: Client,
    pub(crate) service: Arc<Service>,
    pub(crate) neighbours: Arc<Neighbours>,
    embedded: Embedded,
    _folder: tempfile::TempDir,
}

pub(crate) type RotateFails = fn(String) -> RotateError;

/// Placement, backend and agents as the test wants them.
#[derive(Default)]
pub(crate) struct Neighbours {
    pub(crate) refusals: Mutex<Vec<String>>,
    pub(crate) away: Mutex<Option<String>>,
    pub(crate) unready: Mutex<Vec<String>>,
    pub(crate) rotate_fails: Mutex<Option<RotateFails>>,
}

impl DryRun for Neighbours {
    fn dry_run<'a>(
        &'a self,
        claim: &'a UnifiedStorageClaimSpec,
        _: &'a str,
    ) -> BoxFuture<'a, Result<DryRunPlacement, Vec<String>>> {
        let refusals = self.refusals.lock().unwrap().clone();
        let class = claim.class_name.clone().unwrap_or_default();
        let placement = DryRunPlacement {
            class,
            backend: "seaweedfs".to_owned(),
            pool: "p".to_owned(),
        };
        async move {
            if refusals.is_empty() {
                Ok(placement)
            } else {
                Err(refusals)
            }
        }
        .boxed()
    }
}

impl CredentialRotation for Neighbours {
    fn rotate<'a>(&'a self, volume: &'a UnifiedVolume) -> BoxFuture<'a, Result<NewCredentials, RotateError>> {
        let fails = *self.rotate_fails.lock().unwrap();
        let bucket = volume.name_any();
        async move {
            match fails {
                Some(error) => Err(error("the filer does not answer".to_owned())),
                None => Ok(NewCredentials {
                    access_key: "AK".to_owned(),
                    secret_key: "SK".to_owned(),
                    endpoint: "http://127.0.0.1:1".to_owned(),
                    bucket,
                    filer_token: Some("FT".to_owned()),
                }),
            }
        }
        .boxed()
    }
}

impl Agents for Neighbours {
    fn probe_now<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), AgentAway>> {
        let away = self.away.lock().unwrap().clone();
        assert!(node != "panics", "a fault of ours");
        async move { away.map_or(Ok(()), |reason| Err(AgentAway { reason })) }.boxed()
    }
}

/// Reads them all: beds are small.
struct Reader(Client);

impl ClaimFinder for Reader {
    fn claim_of<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Option<(String, String)>> {
        async move {
            let all = Api::<UnifiedStorageClaim>::all(self.0.clone());
            let claims = all.list(&Default::default()).await.unwrap().items;
            let claim = claims.iter().find(|claim| lookup::goes_by(claim, id))?;
            Some((claim.namespace().unwrap(), claim.name_any()))
        }
        .boxed()
    }
}

impl Bed {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let embedded = Embedded::open(&folder.path().join("store.redb"), crd::all())
            .await
            .unwrap();
        let neighbours = Arc::new(Neighbours::default());
        let unready = Arc::clone(&neighbours);
        let service = Service::new(Parts {
            client: embedded.client(),
            dry_run: neighbours.clone(),
            credentials: neighbours.clone(),
            agents: neighbours.clone(),
            finder: Arc::new(Reader(embedded.client())),
            clock: Arc::new(Timestamp::now),
            health: Arc::new(move || {
                let reasons = unready.unready.lock().unwrap().clone();
                Health {
                    ready: reasons.is_empty(),
                    reasons,
                }
            }),
            first_look: std::time::Duration::ZERO,
            shutdown: CancellationToken::new(),
        });
        Self {
            client: embedded.client(),
            service: Arc::new(service),
            neighbours,
            embedded,
            _folder: folder,
        }
    }

    pub(crate) fn request(name: &str) -> Value {
        json!({"name": name, "storage_type": "file", "capacity_bytes": 1_073_741_824})
    }

    pub(crate) fn parsed(body: Value) -> CreateStorage {
        CreateDraft::from_json(body).parse().unwrap()
    }

    pub(crate) async fn create(&self, name: &str) -> Storage {
        let request = Self::parsed(Self::request(name));
        self.service.create_storage(&request, None).await.unwrap().storage
    }

    pub(crate) async fn made<K>(&self, api: Api<K>, object: Value) -> K
    where
        K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    {
        let object: K = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap()
    }

    pub(crate) async fn status<K>(&self, api: Api<K>, name: &str, status: Value)
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let patch = json!({"status": status});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap();
    }

    pub(crate) fn claims(&self) -> Api<UnifiedStorageClaim> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// The volume of a claim, as the reconciler would make it.
    pub(crate) async fn volume(
        &self,
        claim: &UnifiedStorageClaim,
        name: &str,
        policy: &str,
    ) -> UnifiedVolume {
        let object = json!({
            "apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedVolume", "metadata": {"name": name},
            "spec": {
                "storageType": "file", "reclaimPolicy": policy, "capacityBytes": 1,
                "claimRef": {"namespace": "default", "name": claim.name_any(), "uid": claim.uid().unwrap()},
                "placement": {"backend": "seaweedfs", "pool": "p", "copies": 1, "promisedBytes": 1,
                              "reasons": ["the only pool of this type"]},
            },
        });
        self.made(self.service.volumes(), object).await
    }

    /// A node with one drive.
    pub(crate) async fn node(&self, object: &str, node: &str) {
        let body = json!({
            "apiVersion": "storage.billyronks.io/v1", "kind": "StorageNode", "metadata": {"name": object},
            "spec": {"nodeName": node},
        });
        self.made(self.service.nodes(), body).await;
        let status = json!({"phase": "Ready", "driveCount": 1, "totalCapacityBytes": 2_147_483_648_u64, "drives": [{
            "id": format!("loop-{node}"), "device": "loop0", "driveType": "unknown", "capacityBytes": 2_147_483_648_u64,
            "health": "Unknown", "use": {"state": "Free"}, "claimable": true,
            "classification": {"score": 10, "capacityTier": "small", "suitableFor": ["file"], "reasons": ["a loop device"]},
        }]});
        self.status(self.service.nodes(), object, status).await;
    }

    pub(crate) async fn close(self) {
        self.service.shutdown().cancel();
        self.embedded.close().await;
    }
}

/// Waits for a condition, at most ten seconds.
pub(crate) async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), found)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"))
}
