//! Both ends together, over real TLS on loopback: the agent's own session against this hub. Here is the bed; what is
//! asked of it is in the modules.

mod heard;
mod matrix;
mod revocation;
mod road;
mod rogue;
mod rotation;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::atomic::AtomicUsize,
};

use smart_storage_agent::{
    enrol::{self as agent_enrol, NodeIdentity},
    hardware::{Device, Evidence},
    inventory::Inventory,
    member::{self, MemberId, MemberReports},
    session::{self as agent_session, Actions, Refused, Session, connect},
    telemetry::{Health, Metrics},
};
use smart_storage_core::identity::Verdict;
use smart_storage_proto::tls;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use super::*;
use crate::{
    listen::{self, Mode},
    pki::Pki,
};

struct Controller {
    dir: tempfile::TempDir,
    pki: Arc<Pki>,
    hub: Arc<AgentsHub>,
    book: Arc<Book>,
    refusals: listen::Refusals,
    agents: SocketAddr,
    enrolment: SocketAddr,
    shutdown: CancellationToken,
}

/// Names that begin with `node` are wanted, but for those that are struck off.
#[derive(Default)]
struct Book {
    struck: Mutex<BTreeSet<NodeName>>,
    settings: Mutex<NodeSettings>,
}

impl Book {
    fn wants(&self, node: &NodeName) -> Result<(), String> {
        if !node.as_str().starts_with("node") {
            return Err(format!("no StorageNode names {node}"));
        }
        if self.struck.lock().contains(node) {
            return Err(format!("the StorageNode of {node} was deleted"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Admission for Book {
    async fn admit(&self, node: &NodeName) -> Result<NodeSettings, String> {
        self.wants(node).map(|()| *self.settings.lock())
    }

    async fn keep(&self, node: &NodeName) -> Result<(), String> {
        self.wants(node)
    }
}

async fn controller() -> Controller {
    controller_with(session::SILENCE, listen::Limits::default()).await
}

/// A controller whose streams are dead after `silence`, and whose agents' port has these bounds.
async fn controller_with(silence: Duration, limits: listen::Limits) -> Controller {
    controller_of(SystemTime::now(), silence, limits).await
}

/// The same, with a CA and a server certificate that were made then.
async fn controller_of(made: SystemTime, silence: Duration, limits: listen::Limits) -> Controller {
    let dir = tempfile::tempdir().unwrap();
    let pki = Arc::new(Pki::open(dir.path(), &[], made).unwrap());
    let settings = HubSettings {
        cluster_id: "0a1b2c3d".to_owned(),
        discover_interval: Duration::from_secs(77),
        silence,
    };
    let book = Arc::new(Book::default());
    let admission: Arc<dyn Admission> = Arc::<Book>::clone(&book);
    let hub = AgentsHub::new(
        Arc::new(Registry::new()),
        settings,
        admission,
        AgentMetrics::default(),
    );
    hub.lead(3, []);
    let shutdown = CancellationToken::new();
    let refusals = listen::RefusalMetrics::default().of("agent");
    let streams = serve_streams(Arc::clone(&hub), Arc::clone(&pki));
    let enrolment = enrol::Enrolment::new(Arc::clone(&pki), Arc::clone(&hub));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let agents = listener.local_addr().unwrap();
    tokio::spawn(listen::serve_watched(
        listener,
        streams,
        Mode::Tls(pki.agents()),
        limits,
        refusals.clone(),
        shutdown.clone(),
    ));
    let enrolment = listening(serve_enrolment(enrolment), Mode::Tls(pki.enrolment()), &shutdown).await;
    Controller {
        dir,
        pki,
        hub,
        book,
        refusals,
        agents,
        enrolment,
        shutdown,
    }
}

async fn listening(router: Router, mode: Mode, shutdown: &CancellationToken) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(listen::serve(listener, router, mode, shutdown.clone()));
    addr
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.hub.close();
        self.shutdown.cancel();
    }
}

struct Agent {
    dir: tempfile::TempDir,
    session: Session,
    pictures: watch::Sender<Arc<Inventory>>,
    reports: watch::Sender<MemberReports>,
    stop: CancellationToken,
}

/// Probing finds one drive more.
struct Probing {
    pictures: watch::Sender<Arc<Inventory>>,
    interval: AtomicUsize,
}

#[tonic::async_trait]
impl Actions for Probing {
    async fn probe_now(&self) -> Result<(), Refused> {
        self.pictures
            .send_modify(|picture| *picture = with(picture, "probed"));
        Ok(())
    }

    async fn ensure(&self, order: member::EnsureMember) -> Result<(), Refused> {
        Err(Refused {
            reason: "NotBlank".to_owned(),
            message: format!("{} holds data", order.drive.device),
            retryable: false,
        })
    }

    async fn release(&self, _member: MemberId) -> Result<(), Refused> {
        Ok(())
    }

    fn discover_interval(&self, interval: Duration) {
        self.interval
            .store(usize::try_from(interval.as_secs()).unwrap(), Ordering::Relaxed);
    }
}

fn with(picture: &Inventory, name: &str) -> Arc<Inventory> {
    let mut next = picture.clone();
    let device = Device {
        name: name.to_owned(),
        size_bytes: Some(1 << 30),
        vendor: Some("V".to_owned()),
        model: Some("M".to_owned()),
        evidence: Evidence {
            serial: Some(format!("S-{name}")),
            wwn: Some(format!("naa.5000{name}")),
            ..Evidence::default()
        },
        ..Device::default()
    };
    next.complete = true;
    next.devices.insert(name.to_owned(), Arc::new(device));
    Arc::new(next)
}

impl Controller {
    fn token(&self, node: &str, into: &Path) -> std::path::PathBuf {
        let token = tokens::create(self.dir.path(), node, SystemTime::now()).unwrap();
        let file = into.join("token");
        std::fs::write(&file, token).unwrap();
        file
    }

    fn agent(&self, node: &str) -> Agent {
        let dir = tempfile::tempdir().unwrap();
        let (pictures, inventory) = watch::channel(with(&Inventory::default(), "sda"));
        let (reports, members) = watch::channel(Arc::new(BTreeMap::new()));
        let session = Session {
            controllers: vec![self.agents.to_string()],
            enrolment: agent_enrol::Enrolment {
                addr: self.enrolment.to_string(),
                node: node.to_owned(),
                token_file: Some(self.token(node, dir.path())),
                ca_file: None,
            },
            data_dir: dir.path().to_owned(),
            hello: pb::Hello {
                protocol_version: smart_storage_proto::PROTOCOL_VERSION,
                node_name: node.to_owned(),
                boot_id: "boot-1".to_owned(),
                ..Default::default()
            },
            inventory,
            members,
            actions: Arc::new(Probing {
                pictures: pictures.clone(),
                interval: AtomicUsize::new(0),
            }),
            health: Health::default(),
            metrics: Metrics::default(),
            clock: SystemTime::now,
        };
        Agent {
            dir,
            session,
            pictures,
            reports,
            stop: CancellationToken::new(),
        }
    }

    /// A certificate of this CA for `node` that is good from `now`, bound to the node's join token.
    fn identity(&self, node: &str, now: SystemTime) -> NodeIdentity {
        identity_of(&self.pki, &self.pki, node, now)
    }

    fn refused(&self, reason: &'static str) -> u64 {
        let refused = &self.hub.metrics.refused;
        refused.get_or_create(&[("reason", reason)]).get()
    }

    fn ignored(&self, reason: &'static str) -> u64 {
        let ignored = &self.hub.metrics.ignored;
        ignored.get_or_create(&[("reason", reason)]).get()
    }

    fn certificates(&self, outcome: &'static str) -> u64 {
        let certificates = &self.hub.metrics.certificates;
        certificates.get_or_create(&[("outcome", outcome)]).get()
    }

    async fn synced(&self, node: &str) {
        until(&format!("{node} is synced"), || {
            self.hub
                .registry()
                .get(node)
                .is_some_and(|record| record.session.synced)
        })
        .await;
    }
}

impl Agent {
    fn start(&self) -> JoinHandle<()> {
        tokio::spawn(agent_session::run(self.session.clone(), self.stop.clone()))
    }

    async fn not_ready_for(&self, words: &str) {
        let mut heard = BTreeSet::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !heard.iter().any(|said: &String| said.contains(words)) {
            assert!(Instant::now() < deadline, "not in time: {words}; but {heard:?}");
            heard.insert(self.session.health.readiness().1);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn streams(&self, outcome: &'static str) -> u64 {
        let streams = &self.session.metrics.streams;
        streams.get_or_create(&[("outcome", outcome)]).get()
    }

    fn certificates(&self, by: &'static str) -> u64 {
        self.session
            .metrics
            .certificates
            .get_or_create(&[("by", by)])
            .get()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

use std::time::Instant;

/// A certificate for `node` of `signer`, of an agent that trusts `trusted`.
fn identity_of(signer: &Pki, trusted: &Pki, node: &str, now: SystemTime) -> NodeIdentity {
    let token = match tokens::id(signer.data_dir(), node).unwrap() {
        Some(token) => token,
        None => {
            tokens::create(signer.data_dir(), node, now).unwrap();
            tokens::id(signer.data_dir(), node).unwrap().unwrap()
        }
    };
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let leaf = signer
        .authority()
        .sign_node(node, &token, request.der(), now)
        .unwrap();
    NodeIdentity {
        identity: tls::Identity {
            chain: vec![leaf],
            key: key.into(),
        },
        ca: trusted.authority().trusted().to_vec(),
        not_before: now - crate::pki::BACKDATE,
        not_after: now + crate::pki::NODE_LIFE,
    }
}

fn drives(controller: &Controller, node: &str) -> Vec<String> {
    let record = controller.hub.registry().get(node);
    let drives = record.iter().flat_map(|record| &record.drives);
    drives.map(|drive| drive.facts.name.clone()).collect()
}
