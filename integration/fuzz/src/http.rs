//! Requests as text, and a controller's public side to give them to: the embedded Kubernetes API over a store of its
//! own, and REST and gRPC over it, all in this process.
//!
//! An input is requests with a line `%%` between them. A request is `METHOD PATH`, header lines, an empty line, the
//! body.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, HttpBody as _},
};
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use smart_storage_controller::{
    api::{Bearer, grpc_router, rest_router},
    crd::{self, UnifiedStorageClaim, UnifiedStorageClaimSpec, UnifiedVolume},
    embedded::Embedded,
    service::{
        AgentAway, Agents, ClaimFinder, CredentialRotation, DryRun, DryRunPlacement, Health, NewCredentials,
        Parts, RotateError, Service,
        view::{claim_id, id_by_uid},
    },
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// What stands between two requests.
pub const BETWEEN: &[u8] = b"\n%%\n";
/// The token that is let in.
pub const TOKEN: &str = "t0ken";
/// A stream is looked at for so long.
const PATIENCE: Duration = Duration::from_millis(30);
/// A request that may wait for something (reads of a revision to come, calls over gRPC) is left after this.
const WAITING: Duration = Duration::from_millis(300);
/// Any other is answered in far less; on a machine that is busy elsewhere not always.
const BUSY: Duration = Duration::from_secs(50);

/// The requests of an input.
#[must_use]
pub fn split(input: &[u8]) -> Vec<Vec<u8>> {
    let mut requests = vec![Vec::new()];
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        if line == b"%%\n" || line == b"%%" {
            if let Some(last) = requests.last_mut().filter(|last| last.ends_with(b"\n")) {
                last.pop();
            }
            requests.push(Vec::new());
        } else if let Some(last) = requests.last_mut() {
            last.extend_from_slice(line);
        }
    }
    requests
}

/// Head and body of a request.
#[must_use]
pub fn head_and_body(request: &[u8]) -> (&[u8], &[u8]) {
    match request.windows(2).position(|two| two == b"\n\n") {
        Some(at) => (
            request.get(..at).unwrap_or_default(),
            request.get(at + 2..).unwrap_or_default(),
        ),
        None => (request, &[]),
    }
}

/// One request, as far as HTTP itself can carry it.
#[must_use]
pub fn parse(request: &[u8]) -> Option<Request<Body>> {
    let (head, body) = head_and_body(request);
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let (method, path) = lines.next()?.split_once(' ')?;
    let mut built = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).ok()?)
        .uri(path.trim());
    for line in lines {
        let (name, value) = line.split_once(':')?;
        built = built.header(name.trim(), value.trim());
    }
    built.body(Body::from(body.to_vec())).ok()
}

/// What was answered; where it takes longer, as far as it came.
#[derive(Debug)]
pub struct Answered {
    /// Status; 0 where none came in time.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body as it came.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: HeaderMap,
    /// The body ended.
    pub whole: bool,
}

impl Answered {
    /// The body as JSON; null where it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A header's text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

/// API, plural, and whether its objects are in namespaces.
const COLLECTIONS: &[(&str, &str, bool)] = &[
    ("/apis/storage.billyronks.io/v1", "unifiedstorageclaims", true),
    ("/apis/storage.billyronks.io/v1", "unifiedstorageclasses", false),
    ("/apis/storage.billyronks.io/v1", "unifiedpools", false),
    ("/apis/storage.billyronks.io/v1", "unifiedvolumes", false),
    ("/apis/storage.billyronks.io/v1", "poolmembers", false),
    ("/apis/storage.billyronks.io/v1", "storagenodes", false),
    ("/apis/coordination.k8s.io/v1", "leases", true),
    ("/api/v1", "configmaps", true),
    ("/api/v1", "secrets", true),
    ("/api/v1", "events", true),
    ("/api/v1", "namespaces", false),
];

struct Neighbours;

impl DryRun for Neighbours {
    fn dry_run<'a>(
        &'a self,
        claim: &'a UnifiedStorageClaimSpec,
        _: &'a str,
    ) -> BoxFuture<'a, Result<DryRunPlacement, Vec<String>>> {
        let class = claim.class_name.clone().unwrap_or_default();
        let placement = DryRunPlacement {
            class,
            backend: "seaweedfs".to_owned(),
            pool: "p".to_owned(),
        };
        async move { Ok(placement) }.boxed()
    }
}

impl CredentialRotation for Neighbours {
    fn rotate<'a>(&'a self, _: &'a UnifiedVolume) -> BoxFuture<'a, Result<NewCredentials, RotateError>> {
        let made = NewCredentials {
            access_key: "AK".to_owned(),
            secret_key: "SK".to_owned(),
            endpoint: "http://127.0.0.1:1".to_owned(),
            bucket: "b".to_owned(),
            filer_token: None,
        };
        async move { Ok(made) }.boxed()
    }
}

impl Agents for Neighbours {
    fn probe_now<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), AgentAway>> {
        async move { Ok(()) }.boxed()
    }
}

/// Finds claims by reading all of them.
struct Finder(kube::Client);

impl ClaimFinder for Finder {
    fn claim_of<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Option<(String, String)>> {
        async move {
            let all = kube::Api::<UnifiedStorageClaim>::all(self.0.clone());
            let claims = all.list(&kube::api::ListParams::default()).await.ok()?.items;
            let claim = claims
                .into_iter()
                .find(|claim| claim_id(claim) == id || id_by_uid(claim) == id)?;
            Some((claim.metadata.namespace?, claim.metadata.name?))
        }
        .boxed()
    }
}

/// A controller's public side over a store of its own, with one object of each kind.
pub struct Bed {
    runtime: Runtime,
    embedded: Embedded,
    shutdown: CancellationToken,
    kube: Router,
    rest: Router,
    grpc: Router,
    /// resourceVersion of each object that is there at the beginning, by path and name.
    begun: BTreeMap<String, String>,
}

/// Which door a request goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The embedded Kubernetes API.
    Kube,
    /// REST.
    Rest,
    /// gRPC.
    Grpc,
}

/// The objects that are there at the beginning: where they are made, and as what.
#[must_use]
pub fn objects() -> Vec<(&'static str, Value)> {
    const OURS: &str = "storage.billyronks.io/v1";
    let object = |kind: &str, name: &str, spec: Value| json!({"apiVersion": OURS, "kind": kind, "metadata": {"name": name}, "spec": spec});
    vec![
        (
            "/apis/storage.billyronks.io/v1/unifiedstorageclasses",
            object(
                "UnifiedStorageClass",
                "gold",
                json!({"storageType": "file", "tier": "hot", "reclaimPolicy": "Delete"}),
            ),
        ),
        (
            "/apis/storage.billyronks.io/v1/storagenodes",
            object("StorageNode", "n1", json!({"nodeName": "n1"})),
        ),
        (
            "/apis/storage.billyronks.io/v1/unifiedpools",
            object(
                "UnifiedPool",
                "p1",
                json!({"poolType": "file", "backend": {"type": "seaweedfs"}, "driveSelector": {}}),
            ),
        ),
        (
            "/apis/storage.billyronks.io/v1/namespaces/default/unifiedstorageclaims",
            object(
                "UnifiedStorageClaim",
                "c1",
                json!({"storageType": "file", "capacity": "1Gi"}),
            ),
        ),
        (
            "/api/v1/namespaces/default/configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm", "labels": {"app": "x"}}, "data": {"a": "b"}}),
        ),
    ]
}

impl Bed {
    /// A fresh one.
    #[must_use]
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let folder = if std::path::Path::new("/dev/shm").is_dir() {
            tempfile::tempdir_in("/dev/shm")
        } else {
            tempfile::tempdir()
        };
        let folder = folder.expect("a folder");
        let store = folder.path().join("store.redb");
        let shutdown = CancellationToken::new();
        let (embedded, service) = runtime.block_on(async {
            let embedded = Embedded::open(&store, crd::all()).await.expect("a store");
            let neighbours = Arc::new(Neighbours);
            let service = Service::new(Parts {
                client: embedded.client(),
                dry_run: neighbours.clone(),
                credentials: neighbours.clone(),
                agents: neighbours,
                finder: Arc::new(Finder(embedded.client())),
                clock: Arc::new(Timestamp::now),
                health: Arc::new(|| Health {
                    ready: true,
                    reasons: Vec::new(),
                }),
                first_look: Duration::ZERO,
                shutdown: shutdown.clone(),
            });
            (embedded, Arc::new(service))
        });
        let bearer = || Bearer::new(TOKEN).expect("random numbers");
        // The store has its file open; nothing of it is left when the process ends, however it ends.
        drop(folder);
        let mut bed = Self {
            kube: embedded.router(),
            rest: rest_router(Arc::clone(&service), bearer(), Arc::new(|_| {})),
            grpc: grpc_router(service, bearer(), Arc::new(|_| {})).expect("descriptors"),
            runtime,
            embedded,
            shutdown,
            begun: BTreeMap::new(),
        };
        for (path, object) in objects() {
            let made = bed.send("POST", path, "application/json", &object.to_string());
            assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
        }
        bed.begun = bed.there();
        bed
    }

    fn send(&self, method: &str, path: &str, media_type: &str, body: &str) -> Answered {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media_type)
            .body(Body::from(body.to_owned()));
        self.ask(Door::Kube, request.expect("a request"))
    }

    /// Every object that can be made, by its path, with its resourceVersion.
    fn there(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for (api, plural, namespaced) in COLLECTIONS {
            let list = self.get(&format!("{api}/{plural}")).json();
            for item in list.get("items").and_then(Value::as_array).into_iter().flatten() {
                let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
                let path = if *namespaced {
                    format!("{api}/namespaces/{namespace}/{plural}/{name}")
                } else {
                    format!("{api}/{plural}/{name}")
                };
                found.insert(path, text("/metadata/resourceVersion").to_owned());
            }
        }
        found
    }

    /// Takes away what came and makes again what changed; false where that did not work.
    fn restore(&mut self) -> bool {
        for (path, version) in self.there() {
            if self.begun.get(&path) != Some(&version) {
                drop(self.send(
                    "PATCH",
                    &path,
                    "application/merge-patch+json",
                    r#"{"metadata":{"finalizers":null}}"#,
                ));
                drop(self.send("DELETE", &path, "application/json", ""));
            }
        }
        for (path, object) in objects() {
            let answer = self.send("POST", path, "application/json", &object.to_string());
            if !matches!(answer.status, 201 | 409) {
                return false;
            }
        }
        let now = self.there();
        let same = now.keys().eq(self.begun.keys());
        self.begun = now;
        same
    }

    /// Sends one request.
    #[must_use]
    pub fn ask(&self, door: Door, request: Request<Body>) -> Answered {
        let router = match door {
            Door::Kube => &self.kube,
            Door::Rest => &self.rest,
            Door::Grpc => &self.grpc,
        };
        let router = router.clone();
        let query = request.uri().query().unwrap_or_default();
        let may_wait = door == Door::Grpc || query.contains("resourceVersion");
        let patience = if may_wait { WAITING } else { BUSY };
        self.runtime.block_on(async move {
            let mut answered = Answered {
                status: 0,
                headers: HeaderMap::new(),
                body: Vec::new(),
                trailers: HeaderMap::new(),
                whole: false,
            };
            let Ok(Ok(response)) = tokio::time::timeout(patience, router.oneshot(request)).await else {
                return answered;
            };
            let (head, mut body) = response.into_parts();
            answered.status = head.status.as_u16();
            answered.headers = head.headers;
            // Only what has no length may have no end.
            let patience = match body.size_hint().exact() {
                Some(_) => BUSY,
                None => PATIENCE,
            };
            while let Ok(frame) = tokio::time::timeout(patience, body.frame()).await {
                match frame {
                    None => {
                        answered.whole = true;
                        break;
                    }
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => answered.body.extend_from_slice(&data),
                        Err(frame) => answered
                            .trailers
                            .extend(frame.into_trailers().unwrap_or_default()),
                    },
                    Some(Err(_)) => break,
                }
            }
            answered
        })
    }

    /// A `GET` of the Kubernetes API.
    #[must_use]
    pub fn get(&self, path: &str) -> Answered {
        self.ask(
            Door::Kube,
            Request::get(path).body(Body::empty()).expect("a request"),
        )
    }

    /// The resourceVersion of everything: it moves with every write.
    #[must_use]
    pub fn revision(&self) -> String {
        let list = self.get("/api/v1/namespaces?limit=1").json();
        let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        version.expect("a list has a version").to_owned()
    }
}

impl Default for Bed {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let embedded = self.embedded.clone();
        self.runtime.block_on(async move { embedded.close().await });
    }
}

/// Does something with the bed; what it changed is undone, and where that cannot be, a fresh one comes.
pub fn with_bed<T>(what: impl FnOnce(&Bed) -> T) -> T {
    // In a static, because a store cannot be closed while a thread's own variables are being dropped.
    static BED: Mutex<Option<Bed>> = Mutex::new(None);
    // Taken out while it is used: after a panic there is none, and the next input begins afresh.
    let kept = BED.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut bed = kept.unwrap_or_default();
    let version = bed.revision();
    let answer = what(&bed);
    if bed.revision() == version || bed.restore() {
        *BED.lock().unwrap_or_else(PoisonError::into_inner) = Some(bed);
    }
    answer
}
