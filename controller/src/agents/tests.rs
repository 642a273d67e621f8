//! Both ends together, over real TLS on loopback: the agent's own session against this hub.

use std::{
    collections::BTreeMap,
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
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use super::*;
use crate::{
    listen::{self, Mode},
    pki::Pki,
};

struct Controller {
    dir: tempfile::TempDir,
    pki: Pki,
    hub: Arc<AgentsHub>,
    agents: SocketAddr,
    enrolment: SocketAddr,
    shutdown: CancellationToken,
}

struct Only(&'static str);

#[tonic::async_trait]
impl Admission for Only {
    async fn admit(&self, node: &NodeName) -> Result<(), String> {
        if node.as_str().starts_with(self.0) {
            Ok(())
        } else {
            Err(format!("no StorageNode names {node}"))
        }
    }
}

async fn controller() -> Controller {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &[], SystemTime::now()).unwrap();
    let settings = HubSettings {
        cluster_id: "0a1b2c3d".to_owned(),
        discover_interval: Duration::from_secs(77),
    };
    let hub = AgentsHub::new(
        Arc::new(Registry::new()),
        settings,
        Arc::new(Only("node")),
        AgentMetrics::default(),
    );
    hub.lead(3, []);
    let shutdown = CancellationToken::new();
    let streams = serve_streams(Arc::clone(&hub), Arc::clone(pki.authority()));
    let enrolment = enrol::Enrolment::new(
        dir.path().to_owned(),
        Arc::clone(pki.authority()),
        Arc::clone(&hub),
    );
    let agents = listening(streams, Mode::Tls(pki.agents()), &shutdown).await;
    let enrolment = listening(serve_enrolment(enrolment), Mode::Tls(pki.enrolment()), &shutdown).await;
    Controller {
        dir,
        pki,
        hub,
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
        until(words, || self.session.health.readiness().1.contains(words)).await;
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

fn drives(controller: &Controller, node: &str) -> Vec<String> {
    let record = controller.hub.registry().get(node);
    let drives = record.iter().flat_map(|record| &record.drives);
    drives.map(|drive| drive.facts.name.clone()).collect()
}

#[tokio::test]
async fn a_node_enrols_tells_its_picture_and_then_what_changes() {
    let controller = controller().await;
    let agent = controller.agent("node-1");
    let mut changes = controller.hub.changes();
    agent.start();
    controller.synced("node-1").await;
    assert_eq!(drives(&controller, "node-1"), ["sda"]);
    assert!(controller.hub.connected(&"node-1".into()));
    assert_eq!(changes.recv().await.unwrap().as_str(), "node-1");
    let record = controller.hub.registry().get("node-1").unwrap();
    assert!(matches!(record.drives[0].identity, Verdict::Drive { .. }));
    assert_eq!(record.boot_id, "boot-1");
    assert_eq!(controller.hub.known_drives(&"node-1".into()).len(), 1);

    agent
        .pictures
        .send_modify(|picture| *picture = with(picture, "sdb"));
    until("the delta arrived", || {
        drives(&controller, "node-1") == ["sda", "sdb"]
    })
    .await;
    let id = MemberId::parse("0190d5c4-7c3e-7a50-8a51-6c2f1f1d0a11").unwrap();
    agent
        .reports
        .send_replace(Arc::new(BTreeMap::from([(id, member::MemberReport::default())])));
    until("the member arrived", || {
        controller.hub.registry().get("node-1").unwrap().members.len() == 1
    })
    .await;
    assert_eq!(
        controller.hub.registry().get("node-1").unwrap().session.sequence,
        2
    );
    assert_eq!(agent.session.metrics.resyncs.get(), 0);
}

#[tokio::test]
async fn what_an_order_changed_is_known_before_its_answer() {
    let controller = controller().await;
    let agent = controller.agent("node-1");
    agent.start();
    controller.synced("node-1").await;
    let node = "node-1".into();
    let probe = Command::ProbeNow(pb::ProbeNow {});
    let result = controller
        .hub
        .ask(&node, probe, Duration::from_secs(10))
        .await
        .unwrap();
    assert!(result.ok, "{result:?}");
    assert_eq!(drives(&controller, "node-1"), ["probed", "sda"]);

    let order = Command::EnsureMember(pb::EnsureMember {
        member_id: "0190d5c4-7c3e-7a50-8a51-6c2f1f1d0a11".to_owned(),
        drive: Some(pb::ExpectedDrive {
            device: "sda".to_owned(),
            size_bytes: 1,
            ..Default::default()
        }),
        weed: Some(pb::WeedVolume {
            masters: vec!["127.0.0.1:1.2".to_owned()],
            ..Default::default()
        }),
        ..Default::default()
    });
    let result = controller
        .hub
        .ask(&node, order, Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!(
        (result.ok, result.reason.as_str(), result.retryable),
        (false, "NotBlank", false)
    );
    let broken = Command::ReleaseMember(pb::ReleaseMember {
        member_id: "x".to_owned(),
    });
    let result = controller
        .hub
        .ask(&node, broken, Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!(result.reason, "Malformed");
}

#[tokio::test]
async fn an_order_with_the_epoch_of_an_older_leader_is_refused() {
    let controller = controller().await;
    let agent = controller.agent("node-1");
    agent.start();
    controller.synced("node-1").await;
    controller.hub.lease_epoch.store(2, Ordering::Release);
    let probe = Command::ProbeNow(pb::ProbeNow {});
    let result = controller
        .hub
        .ask(&"node-1".into(), probe, Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!((result.ok, result.reason.as_str()), (false, "StaleEpoch"));
}

#[tokio::test]
async fn a_certificate_is_renewed_at_half_of_its_life_and_the_stream_goes_on() {
    let controller = controller().await;
    let mut agent = controller.agent("node-1");
    agent.session.clock = || SystemTime::now() + Duration::from_secs(13 * 3600);
    agent.start();
    controller.synced("node-1").await;
    let before = controller
        .hub
        .registry()
        .get("node-1")
        .unwrap()
        .session
        .connected_at_ms;
    until("renewed", || agent.certificates("renewal") == 1).await;
    agent
        .pictures
        .send_modify(|picture| *picture = with(picture, "sdb"));
    until("the stream goes on", || drives(&controller, "node-1").len() == 2).await;
    let session = controller.hub.registry().get("node-1").unwrap().session.clone();
    assert_eq!((session.connected_at_ms, session.connected), (before, true));
    assert_eq!(agent.certificates("enrolment"), 1);
}

#[tokio::test]
async fn a_node_whose_agent_is_gone_is_disconnected_and_comes_back_with_its_certificate() {
    let controller = controller().await;
    let agent = controller.agent("node-1");
    let task = agent.start();
    controller.synced("node-1").await;
    agent.stop.cancel();
    task.await.unwrap();
    until("disconnected", || !controller.hub.connected(&"node-1".into())).await;
    let record = controller.hub.registry().get("node-1").unwrap();
    assert!(!record.session.connected && record.session.lost_at_ms > 0);
    assert_eq!(record.drives.len(), 1, "what was known stays known");
    let probe = Command::ProbeNow(pb::ProbeNow {});
    assert!(matches!(
        controller.hub.send(&"node-1".into(), probe),
        Err(SendError::Away(_))
    ));

    tokio::spawn(agent_session::run(
        agent.session.clone(),
        CancellationToken::new(),
    ));
    controller.synced("node-1").await;
    assert_eq!(agent.certificates("enrolment"), 1);
}

#[tokio::test]
async fn a_live_name_is_never_taken_over() {
    let controller = controller().await;
    let first = controller.agent("node-1");
    first.start();
    controller.synced("node-1").await;
    // With the node's token, even a fresh one.
    let second = controller.agent("node-1");
    second.start();
    second.not_ready_for("has a live stream").await;
    assert!(!agent_enrol::is_enrolled(second.dir.path()));
    // With the node's own certificate.
    let mut third = controller.agent("node-1");
    third.session.data_dir = first.dir.path().to_owned();
    third.session.enrolment.token_file = None;
    third.start();
    third.not_ready_for("has a live stream already").await;
    first
        .pictures
        .send_modify(|picture| *picture = with(picture, "sdb"));
    until("the first goes on", || drives(&controller, "node-1").len() == 2).await;
}

#[tokio::test]
async fn a_node_speaks_for_itself_only() {
    let controller = controller().await;
    let mut agent = controller.agent("node-1");
    agent.session.hello.node_name = "node-2".to_owned();
    agent.start();
    agent.not_ready_for("the certificate is for node node-1").await;
    assert!(controller.hub.registry().is_empty());
}

#[tokio::test]
async fn a_node_that_is_not_admitted_hears_why() {
    let controller = controller().await;
    let agent = controller.agent("stranger");
    agent.start();
    agent.not_ready_for("no StorageNode names stranger").await;
    assert!(controller.hub.registry().is_empty());
}

#[tokio::test]
async fn a_node_that_is_expelled_hears_why_and_is_not_connected() {
    let controller = controller().await;
    let agent = controller.agent("node-1");
    agent.start();
    controller.synced("node-1").await;
    controller
        .hub
        .expel(&"node-1".into(), "its StorageNode was deleted");
    until("it came back", || {
        let outcome = |outcome| {
            agent
                .session
                .metrics
                .streams
                .get_or_create(&[("outcome", outcome)])
                .get()
        };
        outcome("refused") == 1 && outcome("welcomed") == 2
    })
    .await;
}

#[tokio::test]
async fn another_protocol_version_is_refused_by_name() {
    let controller = controller().await;
    let mut agent = controller.agent("node-1");
    agent.session.hello.protocol_version = 9;
    agent.start();
    agent.not_ready_for("install matching versions").await;
}

#[tokio::test]
async fn a_controller_that_does_not_lead_takes_no_streams() {
    let controller = controller().await;
    controller.hub.lease_epoch.store(0, Ordering::Release);
    let agent = controller.agent("node-1");
    agent.start();
    agent.not_ready_for("does not lead").await;
    controller.hub.lead(4, []);
    controller.synced("node-1").await;
}

#[tokio::test]
async fn a_certificate_of_another_ca_opens_nothing() {
    let controller = controller().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Pki::open(elsewhere.path(), &[], SystemTime::now()).unwrap();
    let identity = identity_of(&other, &controller.pki, SystemTime::now());
    assert_no_stream(&controller, &identity).await;
}

#[tokio::test]
async fn an_expired_certificate_opens_nothing() {
    let controller = controller().await;
    let weekend = SystemTime::now() - Duration::from_secs(60 * 3600);
    let identity = identity_of(&controller.pki, &controller.pki, weekend);
    assert!(!identity.is_valid(SystemTime::now()));
    assert_no_stream(&controller, &identity).await;
}

#[tokio::test]
async fn no_certificate_opens_nothing() {
    let controller = controller().await;
    let ca = [controller.pki.authority().certificate().clone()];
    let config = smart_storage_proto::tls::client(&ca, None, &[b"h2"]).unwrap();
    assert_refused(&controller, config).await;
}

/// A certificate for node-1 of `signer`, of an agent that trusts `trusted`.
fn identity_of(signer: &Pki, trusted: &Pki, now: SystemTime) -> NodeIdentity {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let leaf = signer
        .authority()
        .sign_node("node-1", request.der(), now)
        .unwrap();
    NodeIdentity {
        identity: smart_storage_proto::tls::Identity {
            chain: vec![leaf],
            key: key.into(),
        },
        ca: vec![trusted.authority().certificate().clone()],
        not_before: now,
        not_after: now + crate::pki::NODE_LIFE,
    }
}

async fn assert_no_stream(controller: &Controller, identity: &NodeIdentity) {
    assert_refused(controller, Arc::unwrap_or_clone(identity.client().unwrap())).await;
}

async fn assert_refused(controller: &Controller, config: rustls::ClientConfig) {
    use smart_storage_proto::agent::v1::agent_service_client::AgentServiceClient;
    // In TLS 1.3 the client learns of the refusal only when it reads.
    let refused: Box<dyn std::error::Error> =
        match connect::connect(&controller.agents.to_string(), Arc::new(config)).await {
            Err(error) => Box::new(error),
            Ok(channel) => {
                let answer = AgentServiceClient::new(channel)
                    .sync(tokio_stream::pending())
                    .await;
                Box::new(answer.unwrap_err())
            }
        };
    assert!(
        agent_enrol::is_certificate_problem(refused.as_ref()),
        "{refused:?}"
    );
    assert!(controller.hub.registry().is_empty());
}

#[tokio::test]
async fn a_machine_that_was_off_for_a_weekend_enrols_again_with_its_token() {
    let controller = controller().await;
    let agent = controller.agent("node-1");
    let weekend = SystemTime::now() - Duration::from_secs(60 * 3600);
    let expired = identity_of(&controller.pki, &controller.pki, weekend);
    expired.store(agent.dir.path()).unwrap();
    agent.start();
    controller.synced("node-1").await;
    assert_eq!(agent.certificates("enrolment"), 1);
}

#[tokio::test]
async fn an_agent_of_another_installation_enrols_anew_where_it_was_given_a_token() {
    let controller = controller().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Pki::open(elsewhere.path(), &[], SystemTime::now()).unwrap();
    let agent = controller.agent("node-1");
    identity_of(&other, &other, SystemTime::now())
        .store(agent.dir.path())
        .unwrap();
    agent.start();
    controller.synced("node-1").await;
    assert_eq!(agent.certificates("enrolment"), 1);
}

#[tokio::test]
async fn a_token_is_never_shown_to_a_server_of_another_ca() {
    let controller = controller().await;
    let agent = controller.agent("node-1");
    let file = agent.session.enrolment.token_file.clone().unwrap();
    let token = std::fs::read_to_string(&file).unwrap();
    let (rest, _) = token.rsplit_once('.').unwrap();
    std::fs::write(&file, format!("{rest}.{}", "0".repeat(64))).unwrap();
    agent.start();
    agent.not_ready_for("UnknownIssuer").await;
    // The CA's own file serves in place of the hash.
    let mut informed = controller.agent("node-1");
    std::fs::write(&file, token).unwrap();
    let ca = informed.dir.path().join("ca.crt");
    std::fs::write(&ca, controller.pki.authority().pem()).unwrap();
    informed.session.enrolment.ca_file = Some(ca);
    informed.start();
    controller.synced("node-1").await;
}

#[tokio::test]
async fn who_tries_too_often_has_to_wait() {
    let controller = controller().await;
    let mut agent = controller.agent("node-1");
    std::fs::remove_file(controller.dir.path().join("join-tokens/node-1")).unwrap();
    let mut refusals = Vec::new();
    for _ in 0..30 {
        refusals.push(agent.session.enrolment.enrol().await.unwrap_err().to_string());
    }
    assert!(refusals[0].contains("not known here"), "{refusals:?}");
    assert!(refusals[29].contains("too many enrolments"), "{refusals:?}");
    agent.session.enrolment.token_file = None;
    assert!(matches!(
        agent.session.enrolment.enrol().await,
        Err(agent_enrol::EnrolError::NoToken)
    ));
}
