//! Requests as text, and a controller's public side to give them to: the embedded Kubernetes API over a store of its
//! own, and REST and gRPC over it, all in this process.
//!
//! An input is requests with a line `%%` between them. A request is `METHOD PATH`, header lines, an empty line, the
//! body.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use smart_storage_controller::{
    api::{Bearer, grpc_router, rest_router},
    crd::{self, UnifiedStorageClaimSpec, UnifiedVolume},
    embedded::Embedded,
    service::{
        AgentAway, Agents, ClaimFinder, CredentialRotation, DryRun, DryRunPlacement, Health, NewCredentials, Parts, RotateError, Service,
    },
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// What stands between two requests.
pub const BETWEEN: &[u8] = b"\n%%\n";
/// The token that is let in.
pub const TOKEN: &str = "t0ken";
/// Streams, and requests that wait for something, are looked at for so long.
const PATIENCE: Duration = Duration::from_millis(30);

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

impl ClaimFinder for Neighbours {
    fn claim_of<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Option<(String, String)>> {
        async { None }.boxed()
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

/// A controller's public side over a store of its own, with one object of each kind.
pub struct Bed {
    runtime: Runtime,
    embedded: Embedded,
    shutdown: CancellationToken,
    kube: Router,
    rest: Router,
    grpc: Router,
    _folder: tempfile::TempDir,
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
            object("UnifiedStorageClass", "gold", json!({"storageType": "file", "tier": "hot", "reclaimPolicy": "Delete"})),
        ),
        (
            "/apis/storage.billyronks.io/v1/storagenodes",
            object("StorageNode", "n1", json!({"nodeName": "n1"})),
        ),
        (
            "/apis/storage.billyronks.io/v1/unifiedpools",
            object("UnifiedPool", "p1", json!({"poolType": "file", "backend": {"type": "seaweedfs"}, "driveSelector": {}})),
        ),
        (
            "/apis/storage.billyronks.io/v1/namespaces/default/unifiedstorageclaims",
            object("UnifiedStorageClaim", "c1", json!({"storageType": "file", "capacity": "1Gi"})),
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
                agents: neighbours.clone(),
                finder: neighbours,
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
        let bed = Self {
            kube: embedded.router(),
            rest: rest_router(Arc::clone(&service), bearer(), Arc::new(|_| {})),
            grpc: grpc_router(service, bearer(), Arc::new(|_| {})).expect("descriptors"),
            runtime,
            embedded,
            shutdown,
            _folder: folder,
        };
        for (path, object) in objects() {
            let request = Request::post(path).header("content-type", "application/json");
            let request = request.body(Body::from(object.to_string())).expect("a request");
            let answer = bed.ask(Door::Kube, request);
            assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        }
        bed
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
        self.runtime.block_on(async move {
            let mut answered = Answered {
                status: 0,
                headers: HeaderMap::new(),
                body: Vec::new(),
                trailers: HeaderMap::new(),
                whole: false,
            };
            let Ok(Ok(response)) = tokio::time::timeout(PATIENCE * 10, router.oneshot(request)).await else {
                return answered;
            };
            let (head, mut body) = response.into_parts();
            answered.status = head.status.as_u16();
            answered.headers = head.headers;
            while let Ok(frame) = tokio::time::timeout(PATIENCE, body.frame()).await {
                match frame {
                    None => {
                        answered.whole = true;
                        break;
                    }
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => answered.body.extend_from_slice(&data),
                        Err(frame) => answered.trailers.extend(frame.into_trailers().unwrap_or_default()),
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
        self.ask(Door::Kube, Request::get(path).body(Body::empty()).expect("a request"))
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

/// Does something with the bed of this thread; a fresh one comes where something was written in between.
pub fn with_bed<T>(what: impl FnOnce(&Bed) -> T) -> T {
    use std::cell::RefCell;
    thread_local! {
        static BED: RefCell<Option<(Bed, String)>> = const { RefCell::new(None) };
    }
    // Taken out while it is used: after a panic there is none, and the next input begins afresh.
    let (bed, version) = BED.take().unwrap_or_else(|| {
        let bed = Bed::new();
        let version = bed.revision();
        (bed, version)
    });
    let answer = what(&bed);
    if bed.revision() == version {
        BED.set(Some((bed, version)));
    }
    answer
}
