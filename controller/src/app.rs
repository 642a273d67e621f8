//! Builds everything once and runs it: ports first, then the store, the authority, the watches, the hub, the
//! reconcilers and the listeners. Ends on SIGTERM or SIGINT; what was acknowledged is on disk before.

mod remembered;
mod rooms;

use std::{
    fs, io,
    net::{SocketAddr, TcpListener as StdListener},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::Router;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, runtime::reflector::Store};
use smart_storage_core::{drive::NodeName, registry::Registry};
use smart_storage_proto::agent::v1::ProbeNow;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::broadcast,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission,
    agents::{
        AgentsHub, Command, HubSettings, enrol::Enrolment, serve_enrolment, serve_streams, session::SILENCE,
        tokens,
    },
    api::{auth::Bearer, grpc::grpc_router, rest::rest_router},
    config::Config,
    crd::{self, UnifiedStorageClaim},
    embedded::{Embedded, auth::require_token},
    leader, listen,
    metrics::Metrics,
    pki::{Pki, rotation},
    reconcile::{self, Backends, Change, Context, Planner, Process, Rotation},
    service::{AgentAway, Agents, ClaimFinder, Health as ServiceHealth, Parts, Service, lookup::goes_by},
    telemetry::{self, AgentMetrics, Health, TokenRefusals, health_router, metrics_router},
};

use self::rooms::Rooms;

const CHANGES: usize = 4096;
/// Connections that wait for being accepted.
const BACKLOG: i32 = 1024;
/// A claim is judged within milliseconds; a busy machine may take longer, and the answer does not wait for that.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const PROBED_WITHIN: Duration = Duration::from_secs(60);

/// Why the controller does not run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A port cannot be had.
    #[error("{flag}: cannot listen on {address}: {source}; free the port or move it with the flag")]
    Port {
        /// The flag that sets it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Something under the data folder cannot be used.
    #[error("--data-dir: {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else, with what was attempted.
    #[error("{0}")]
    Other(String),
}

fn other(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> AppError {
    move |error| AppError::Other(format!("{what}: {error}"))
}

/// Every port of a configuration, bound before anything is written.
pub struct Ports {
    bound: Vec<(&'static str, StdListener)>,
}

impl Ports {
    /// Binds them all.
    ///
    /// # Errors
    /// The first that cannot be had, by its flag.
    pub fn bind(config: &Config) -> Result<Self, AppError> {
        let mut bound = Vec::new();
        for (flag, address) in config.ports() {
            let fail = |source| AppError::Port {
                flag,
                address,
                source,
            };
            let listener = StdListener::bind(address).map_err(fail)?;
            listener.set_nonblocking(true).map_err(fail)?;
            // The standard library's 128 overflow in a crowd, and who is lost so waits a second for its next try.
            rustix::net::listen(&listener, BACKLOG).map_err(|error| fail(error.into()))?;
            bound.push((flag, listener));
        }
        Ok(Self { bound })
    }

    fn take(&mut self, flag: &str) -> Result<TcpListener, AppError> {
        let position = self.bound.iter().position(|(name, _)| *name == flag);
        let listener = position.map(|position| self.bound.swap_remove(position).1);
        let listener = listener.ok_or_else(|| AppError::Other(format!("{flag} was not bound")))?;
        TcpListener::from_std(listener).map_err(|error| other("listening")(&error))
    }
}

/// Prints a join token for a node.
///
/// # Errors
/// Where the controller has not made its CA there yet, or the name cannot be a node's.
pub fn join_token(data_dir: &Path, node: &str) -> Result<String, AppError> {
    tokens::create(data_dir, node, SystemTime::now()).map_err(|error| AppError::Other(error.to_string()))
}

/// Puts a new CA in place of the present one, or ends the trust in the one before; answers what is to be done next.
///
/// # Errors
/// Where a rotation is under way, or none is, or nodes would be locked out, or a file cannot be used.
pub fn rotate_ca(data_dir: &Path, finish: bool, force: bool) -> Result<String, AppError> {
    let ca = data_dir.join("pki/ca.crt");
    if !ca.exists() {
        return Err(AppError::Other(format!(
            "--data-dir: there is no {}: no controller has run there",
            ca.display()
        )));
    }
    let now = SystemTime::now();
    let done = if finish {
        rotation::finish(data_dir, force, now).map(|done| {
            format!(
                "{} signs, and nothing else is trusted; {} is gone.\nKubeconfigs with the old certificate in them want \
                 the new one: {}",
                done.signs,
                done.other,
                ca.display()
            )
        })
    } else {
        rotation::rotate(data_dir, now).map(|done| {
            format!(
                "{} signs now, {} is still trusted.\nA running controller takes it over within seconds, and its agents \
                 get new certificates over their open streams.\n{} has both certificates, for curl --cacert and \
                 kubeconfigs.\nAfterwards: smart-storage-controller rotate-ca --finish --data-dir {}",
                done.signs,
                done.other,
                ca.display(),
                data_dir.display()
            )
        })
    };
    done.map_err(|error| AppError::Other(error.to_string()))
}

/// Runs the controller until it is told to stop.
///
/// # Errors
/// Where it cannot start.
pub async fn run(config: Config) -> Result<(), AppError> {
    let mut ports = Ports::bind(&config)?;
    let stop = CancellationToken::new();
    make_dir(&config.data_dir)?;
    let pki = Pki::open(&config.data_dir, &[], SystemTime::now()).map_err(|e| other("the PKI")(&e))?;
    let pki = Arc::new(pki);
    let token = secret_file(&config.data_dir.join("admin.token"), new_token)?;
    crate::fault::point("admin-token-written");
    let cluster_id = secret_file(&config.data_dir.join("cluster-id"), || {
        uuid::Uuid::new_v4().to_string()
    })?;
    crate::fault::point("cluster-id-written");
    let store = config.data_dir.join("store.redb");
    let embedded = Embedded::open(&store, crd::all())
        .await
        .map_err(|e| other("the embedded API")(&e))?;
    let client = embedded.client();
    let epoch = leader::take(
        &client,
        &format!("standalone-{}", std::process::id()),
        Timestamp::now(),
    )
    .await
    .map_err(|e| other("the leader's Lease")(&e))?;
    crate::fault::point("lead-taken");
    let house = House::build(&config, client, cluster_id, epoch, &stop).await?;
    let health = Health::new();
    let service = house.service(&embedded, &health, &stop);
    let bearer = Bearer::new(&token)
        .map_err(|e| other("the token")(&e))?
        .counting(house.refusals.clone());
    let observe: crate::api::observe::Metrics = {
        let metrics = house.metrics.clone();
        Arc::new(move |done| metrics.requested(done))
    };
    let grpc = grpc_router(Arc::clone(&service), bearer.clone(), Arc::clone(&observe))
        .map_err(|e| other("gRPC")(&e))?;
    let kube_api = require_token(embedded.router(), bearer.clone());
    let enrolment = Enrolment::new(Arc::clone(&pki), Arc::clone(&house.context.hub));
    let streams = serve_streams(Arc::clone(&house.context.hub), Arc::clone(&pki));
    let loopback = listen::Mode::TlsOrLoopbackPlain;
    let rooms = Rooms::within(rooms::descriptors());
    let mut tasks = JoinSet::new();
    let mut open = |flag: &'static str, router: Router, mode: listen::Mode| -> Result<(), AppError> {
        let listener = ports.take(flag)?;
        let port = flag_word(flag);
        tasks.spawn(listen::serve_watched(
            listener,
            router,
            mode,
            rooms.of(flag),
            house.connections.of(port),
            stop.clone(),
        ));
        Ok(())
    };
    open(
        "--api-addr",
        rest_router(service, bearer, observe),
        loopback(pki.public()),
    )?;
    open("--grpc-addr", grpc, loopback(pki.public()))?;
    open("--agent-addr", streams, listen::Mode::Tls(pki.agents()))?;
    open(
        "--enrol-addr",
        serve_enrolment(enrolment),
        listen::Mode::Tls(pki.enrolment()),
    )?;
    open("--kube-api-addr", kube_api, listen::Mode::Tls(pki.public()))?;
    open(
        "--health-addr",
        health_router(watched(&health, &embedded)),
        listen::Mode::Plain,
    )?;
    open(
        "--metrics-addr",
        house.metrics_router(embedded.clone()),
        listen::Mode::Plain,
    )?;
    tasks.spawn(Arc::clone(&pki).keep_fresh(stop.clone()));
    tasks.spawn(watch_store(health.clone(), embedded.clone(), stop.clone()));
    tasks.spawn(house.run(stop.clone()));
    tracing::info!(api = %config.api_addr, kube_api = %config.kube_api_addr, agents = %config.agent_addr, epoch, "controller runs");
    let ended = tokio::select! {
        signal = wait_for_signal() => signal.map_err(|e| other("signals")(&e)),
        // None of them ends by itself: a process without its reconcilers or a listener only looks alive.
        task = tasks.join_next() => Err(AppError::Other(format!("a part of the controller ended: {task:?}"))),
    };
    tracing::info!("controller stops");
    house.context.hub.close();
    stop.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(5), async {
        while tasks.join_next().await.is_some() {}
    })
    .await;
    embedded.close().await;
    ended
}

/// `agent` of `--agent-addr`: what a port is called in metrics.
fn flag_word(flag: &'static str) -> &'static str {
    flag.trim_start_matches("--").trim_end_matches("-addr")
}

/// The parts that belong together, built once.
#[derive(Clone)]
struct House {
    context: Arc<Context>,
    changes: broadcast::Sender<Change>,
    metrics: Metrics,
    refusals: TokenRefusals,
    connections: listen::RefusalMetrics,
    scraped: Arc<std::sync::Mutex<Option<prometheus_client::registry::Registry>>>,
}

impl House {
    async fn build(
        config: &Config,
        client: Client,
        cluster_id: String,
        epoch: u64,
        stop: &CancellationToken,
    ) -> Result<Self, AppError> {
        let (changes, _) = broadcast::channel(CHANGES);
        let stores = reconcile::watch(&client, &changes, stop)
            .await
            .map_err(|e| other("the first lists")(&e))?;
        let mut scraped = telemetry::registry();
        let metrics = Metrics::register(&mut scraped);
        let refusals = TokenRefusals::register(&mut scraped);
        let connections = listen::RefusalMetrics::register(&mut scraped);
        let admission = admission::Nodes::new(client.clone(), stores.nodes.clone(), config.auto_discover);
        let settings = HubSettings {
            cluster_id: cluster_id.clone(),
            discover_interval: config.discover_interval,
            silence: SILENCE,
        };
        let hub = AgentsHub::new(
            Arc::new(Registry::new()),
            settings,
            Arc::new(admission),
            AgentMetrics::register(&mut scraped),
        );
        hub.lead(
            epoch,
            remembered::drives(&stores.members.state(), &stores.nodes.state()),
        );
        metrics.leads();
        let observed = metrics.clone();
        let context = Context::new(
            client,
            stores,
            hub,
            Arc::new(Backends::new(config.seaweedfs.clone())),
            Process {
                cluster_id,
                clock: Arc::new(Timestamp::now),
                metrics: observed,
                changes: changes.clone(),
            },
        );
        Ok(Self {
            context: Arc::new(context),
            changes,
            metrics,
            refusals,
            connections,
            scraped: Arc::new(std::sync::Mutex::new(Some(scraped))),
        })
    }

    fn service(&self, embedded: &Embedded, health: &Health, stop: &CancellationToken) -> Arc<Service> {
        let context = &self.context;
        let health = watched(health, embedded);
        Arc::new(Service::new(Parts {
            client: context.client.clone(),
            dry_run: Arc::new(Planner::new(
                context.stores.clone(),
                Arc::clone(&context.registry),
            )),
            credentials: Arc::new(Rotation::new(
                context.client.clone(),
                context.stores.clone(),
                Arc::clone(&context.backends),
                self.changes.clone(),
            )),
            agents: Arc::new(Probes {
                context: Arc::clone(context),
            }),
            finder: Arc::new(ClaimsInMind {
                claims: context.stores.claims.clone(),
            }),
            clock: Arc::new(Timestamp::now),
            first_look: FIRST_LOOK,
            health: Arc::new(move || {
                let reasons = health.reasons();
                ServiceHealth {
                    ready: reasons.is_empty(),
                    reasons,
                }
            }),
            shutdown: stop.clone(),
        }))
    }

    fn metrics_router(&self, embedded: Embedded) -> Router {
        let scraped = self
            .scraped
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        let (metrics, context) = (self.metrics.clone(), Arc::clone(&self.context));
        metrics_router(scraped.unwrap_or_else(telemetry::registry), move || {
            metrics.count(&context.stores);
            metrics.store(embedded.is_writable());
        })
    }

    fn run(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        let house = self.clone();
        async move {
            let news = tell_agents_news(
                Arc::clone(&house.context.hub),
                house.changes.clone(),
                stop.clone(),
            );
            let gone = heed_nodes(
                Arc::clone(&house.context),
                house.changes.subscribe(),
                stop.clone(),
            );
            tokio::join!(
                reconcile::run(Arc::clone(&house.context), &house.changes, &stop),
                news,
                gone
            );
        }
    }
}

/// Passes what the agents tell on to the reconcilers.
async fn tell_agents_news(hub: Arc<AgentsHub>, changes: broadcast::Sender<Change>, stop: CancellationToken) {
    let mut news = hub.changes();
    loop {
        let heard = tokio::select! {
            () = stop.cancelled() => return,
            heard = news.recv() => heard,
        };
        let names = match heard {
            Ok(name) => vec![name],
            Err(broadcast::error::RecvError::Lagged(_)) => hub.registry().names(),
            Err(broadcast::error::RecvError::Closed) => return,
        };
        for name in names {
            // Nobody listens while the reconcilers start; they look at everything then.
            let _ = changes.send(Change::Agent(name.to_string()));
        }
    }
}

/// Keeps the streams true to the StorageNodes: ends that of a node whose object was deleted or says
/// `autoDiscover: false`, and tells the others what an administrator changed.
async fn heed_nodes(
    context: Arc<Context>,
    mut changes: broadcast::Receiver<Change>,
    stop: CancellationToken,
) {
    loop {
        let heard = tokio::select! {
            () = stop.cancelled() => return,
            heard = changes.recv() => heard,
        };
        let named = match heard {
            Ok(Change::Node(name)) => vec![NodeName::from(name.as_str())],
            // What was missed may have been a removal, also of a node that is away.
            Err(broadcast::error::RecvError::Lagged(_)) => {
                let mut nodes = context.hub.with_stream();
                nodes.extend(context.registry.names());
                nodes
            }
            Ok(_) => Vec::new(),
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if named.is_empty() {
            continue;
        }
        let objects = context.stores.nodes.state();
        for node in named {
            let object = objects
                .iter()
                .find(|object| object.spec.node_name == node.as_str() && object.spec.auto_discover);
            match object {
                Some(object) => context.hub.settle(&node, admission::settings(&object.spec)),
                None => {
                    context
                        .hub
                        .expel(&node, "its StorageNode was deleted, or says autoDiscover: false");
                    context.hub.forget_node(&node);
                }
            }
        }
    }
}

/// The claims as the watch has them.
struct ClaimsInMind {
    claims: Store<UnifiedStorageClaim>,
}

impl ClaimFinder for ClaimsInMind {
    fn claim_of<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Option<(String, String)>> {
        let found = self.claims.find(|claim| goes_by(claim, id));
        let place = found.and_then(|claim| {
            let metadata = &claim.metadata;
            Some((metadata.namespace.clone()?, metadata.name.clone()?))
        });
        Box::pin(std::future::ready(place))
    }
}

/// Probing on demand.
struct Probes {
    context: Arc<Context>,
}

impl Probes {
    async fn probe(&self, name: &str) -> Result<(), AgentAway> {
        let node = NodeName::from(name);
        let away = |reason: String| AgentAway { reason };
        let result = self
            .context
            .hub
            .ask(&node, Command::ProbeNow(ProbeNow {}), PROBED_WITHIN)
            .await
            .map_err(|error| away(error.to_string()))?;
        if !result.ok {
            return Err(away(format!(
                "the agent of node {name} did not probe: {}",
                result.message
            )));
        }
        reconcile::publish_node(&self.context, name)
            .await
            .map_err(|error| away(error.to_string()))
    }
}

impl Agents for Probes {
    fn probe_now<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), AgentAway>> {
        Box::pin(self.probe(node))
    }
}

fn watched(health: &Health, embedded: &Embedded) -> Health {
    judge_store(health, embedded);
    health.clone()
}

fn judge_store(health: &Health, embedded: &Embedded) {
    if embedded.is_writable() {
        health.good("store");
    } else {
        health.bad(
            "store",
            "the last write to the store failed; is the disk of --data-dir full?",
        );
    }
}

/// Keeps readiness true to the store: a write that failed is tried again with a small one.
async fn watch_store(health: Health, embedded: Embedded, stop: CancellationToken) {
    let api = Api::<Namespace>::all(embedded.client());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
        if !embedded.is_writable() {
            let mark = serde_json::json!({"metadata": {"annotations": {"storage.billyronks.io/written": Timestamp::now().to_string()}}});
            let patch = kube::api::Patch::Merge(mark);
            if let Err(error) = api
                .patch("kube-system", &kube::api::PatchParams::default(), &patch)
                .await
            {
                tracing::warn!(%error, "the store cannot be written");
            }
        }
        judge_store(&health, &embedded);
    }
}

async fn wait_for_signal() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<(), AppError> {
    let fail = |source| AppError::File {
        what: "cannot make",
        path: path.to_owned(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(fail)
}

fn new_token() -> String {
    format!(
        "{}{}",
        uuid::Uuid::new_v4().simple(),
        uuid::Uuid::new_v4().simple()
    )
}

/// The trimmed text of a private file, which is made where it is missing.
fn secret_file(path: &Path, make: impl Fn() -> String) -> Result<String, AppError> {
    let fail = |what| {
        move |source| AppError::File {
            what,
            path: path.to_owned(),
            source,
        }
    };
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail("cannot read")(error)),
    }
    let text = make();
    let next = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&next)
        .map_err(fail("cannot write"))?;
    io::Write::write_all(&mut file, format!("{text}\n").as_bytes()).map_err(fail("cannot write"))?;
    file.sync_all().map_err(fail("cannot write"))?;
    crate::fault::point("secret-file-unnamed");
    fs::rename(&next, path).map_err(fail("cannot write"))?;
    let folder = path.parent().unwrap_or(path);
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(fail("cannot write"))?;
    Ok(text)
}
