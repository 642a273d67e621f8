//! Certificates and CAs change under two hundred streams, and none of them is dropped.

use smart_storage_benches::fleet::{self, SimulatedNode};

use super::*;
use crate::pki::rotation::{self, RotateError};

const STREAMS: usize = 200;

struct Fleet {
    controller: Controller,
    nodes: Vec<SimulatedNode>,
    _dir: tempfile::TempDir,
}

fn name(number: usize) -> String {
    format!("node-{number:03}")
}

impl Fleet {
    async fn start() -> Self {
        Self::start_under(controller().await, SystemTime::now()).await
    }

    /// Every node has a certificate that was made then.
    async fn start_under(controller: Controller, made: SystemTime) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = fleet::Controller {
            streams: controller.agents.to_string(),
            enrolment: controller.enrolment.to_string(),
        };
        let mut nodes = Vec::new();
        for number in 0..STREAMS {
            let folder = dir.path().join(name(number));
            std::fs::create_dir(&folder).unwrap();
            let identity = controller.identity(&name(number), made);
            identity.store(&folder).unwrap();
            let node = SimulatedNode::new(&name(number), number, 2, &at, &folder, None);
            node.start();
            nodes.push(node);
        }
        let fleet = Self {
            controller,
            nodes,
            _dir: dir,
        };
        fleet
            .all("connected", |fleet, number, _| {
                let record = fleet.controller.hub.registry().get(&name(number));
                record.is_some_and(|record| record.session.synced)
            })
            .await;
        fleet
    }

    async fn all(&self, what: &str, holds: impl Fn(&Self, usize, &SimulatedNode) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let nodes = self.nodes.iter().enumerate();
            let missing = nodes.filter(|(number, node)| !holds(self, *number, node)).count();
            if missing == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {missing} nodes are not");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every stream is the first that its node had, and what is told over it arrives.
    async fn is_as_it_was(&self) {
        for node in &self.nodes {
            assert_eq!((node.streams("welcomed"), node.streams("ended")), (1, 0));
            assert!(node.is_connected());
            node.touch("nvme0n1");
        }
        self.all("its delta is applied", |fleet, number, node| {
            let record = fleet.controller.hub.registry().get(&name(number)).unwrap();
            record.session.sequence == node.messages("delta")
        })
        .await;
    }

    async fn renewed(&self, times: u64) {
        self.all("renewed", |_, _, node| node.certificates("renewal") == times)
            .await;
    }
}

fn stored(node: &SimulatedNode) -> NodeIdentity {
    NodeIdentity::load(&node.session.data_dir).unwrap().unwrap()
}

/// Until when the certificate behind a node's stream is good.
fn good_until(controller: &Controller, node: &str) -> i64 {
    let streams = controller.hub.streams.lock();
    streams
        .get(&NodeName::from(node))
        .map_or(0, |live| live.good_until)
}

#[tokio::test]
async fn two_hundred_certificates_are_renewed_under_their_streams() {
    let past_half = SystemTime::now() - Duration::from_secs(13 * 3600);
    let fleet = Fleet::start_under(controller().await, past_half).await;
    fleet.renewed(1).await;
    fleet.is_as_it_was().await;
    // The next connection shows the new one.
    let node = &fleet.nodes[7];
    let shown = crate::pki::not_after(&stored(node).identity.chain[0]).unwrap();
    fleet
        .controller
        .hub
        .expel(&name(7).as_str().into(), "for the test");
    until("it came back", || node.streams("welcomed") == 2).await;
    assert_eq!(good_until(&fleet.controller, &name(7)), shown);
    let ended: u64 = fleet.nodes.iter().map(|node| node.streams("ended")).sum();
    assert_eq!(ended, 1, "nobody but the one that was sent away");
}

/// The certificate that the agents' port shows now.
async fn shown_by(controller: &Controller) -> Vec<u8> {
    let identity = controller.identity("node-probe", SystemTime::now());
    let stream = tokio::net::TcpStream::connect(controller.agents).await.unwrap();
    let stream = tokio_rustls::TlsConnector::from(identity.client().unwrap())
        .connect("127.0.0.1".try_into().unwrap(), stream)
        .await
        .unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn the_servers_certificate_is_another_one_and_no_stream_is_dropped() {
    let near_its_end = SystemTime::now() - crate::pki::SERVER_LIFE * 3 / 4;
    let controller = controller_of(near_its_end, session::SILENCE, listen::Limits::default()).await;
    let fleet = Fleet::start_under(controller, SystemTime::now()).await;
    let before = shown_by(&fleet.controller).await;
    assert!(fleet.controller.pki.renew_server(SystemTime::now()).unwrap());
    assert_ne!(shown_by(&fleet.controller).await, before);
    fleet.is_as_it_was().await;
}

#[tokio::test]
async fn the_ca_is_rotated_under_two_hundred_streams() {
    let fleet = Fleet::start().await;
    let controller = &fleet.controller;
    let (dir, pki) = (controller.dir.path(), &controller.pki);
    tokio::spawn(Arc::clone(pki).keep_fresh(controller.shutdown.clone()));
    let old = pki.authority();
    // One that is away: it was enrolled, and knows the old CA only. And a token that pins the old one.
    let away = controller.agent("node-away");
    let task = away.start();
    controller.synced("node-away").await;
    away.stop.cancel();
    task.await.unwrap();
    let old_token = tokens::create(dir, "node-late", SystemTime::now()).unwrap();

    // Another process does it, and this one notices.
    let rotated = rotation::rotate(dir, SystemTime::now()).unwrap();
    assert_eq!(rotated.other, old.hash());
    assert!(matches!(
        rotation::rotate(dir, SystemTime::now()),
        Err(RotateError::UnderWay { .. })
    ));
    fleet.renewed(1).await;
    for node in &fleet.nodes {
        let identity = stored(node);
        assert_eq!(identity.ca.len(), 2);
        assert!(identity.fits(&pki.authority().hashes()));
    }
    fleet.is_as_it_was().await;

    // The one that is away would be locked out.
    let refusal = || rotation::finish(dir, false, SystemTime::now()).unwrap_err();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match refusal() {
            RotateError::StillHeld(names) if names == ["node-away"] => break,
            other => assert!(Instant::now() < deadline, "{other}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        refusal().to_string().contains("Start their agents"),
        "{}",
        refusal()
    );
    // It comes with its old certificate, trusting the old CA only, and leaves neither.
    let back = Agent {
        stop: CancellationToken::new(),
        session: away.session.clone(),
        pictures: away.pictures.clone(),
        reports: away.reports.clone(),
        dir: tempfile::tempdir().unwrap(),
    };
    back.start();
    controller.synced("node-away").await;
    assert_eq!(back.certificates("enrolment"), 1, "the first one");
    // The token from before still lets its node in.
    let late = controller.agent("node-late");
    std::fs::write(late.session.enrolment.token_file.as_ref().unwrap(), &old_token).unwrap();
    std::fs::write(
        dir.join("join-tokens/node-late"),
        crate::pki::sha256_hex(old_token.split('.').nth(1).unwrap().as_bytes()),
    )
    .unwrap();
    late.start();
    controller.synced("node-late").await;

    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = rotation::finish(dir, false, SystemTime::now()) {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fleet.renewed(2).await;
    fleet.is_as_it_was().await;
    for node in &fleet.nodes {
        assert!(stored(node).fits(&pki.authority().hashes()));
    }
    let hashes = pki.authority().hashes();
    assert_eq!(hashes.len(), 1);
    assert_eq!(rotated.signs, pki.authority().hash());
    assert!(matches!(refusal(), RotateError::NotBegun));

    // What is of the old CA opens nothing any more, and says what would help.
    let mut stale = controller.agent("node-stale");
    let token = tokens::id(dir, "node-stale").unwrap().unwrap();
    signed_by(&old, "node-stale", &token)
        .store(stale.dir.path())
        .unwrap();
    stale.session.enrolment.token_file = None;
    stale.start();
    stale
        .not_ready_for("its CA rotated while this node was away")
        .await;
    // A new token is the way in.
    let fresh = controller.agent("node-fresh");
    fresh.start();
    controller.synced("node-fresh").await;
    assert_eq!(stored_ca(&fresh), hashes);
}

fn signed_by(authority: &crate::pki::Authority, node: &str, token: &str) -> NodeIdentity {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let now = SystemTime::now();
    let leaf = authority.sign_node(node, token, request.der(), now).unwrap();
    NodeIdentity {
        identity: tls::Identity {
            chain: vec![leaf],
            key: key.into(),
        },
        ca: authority.trusted().to_vec(),
        not_before: now,
        not_after: now + crate::pki::NODE_LIFE,
    }
}

fn stored_ca(agent: &Agent) -> Vec<Vec<u8>> {
    let identity = NodeIdentity::load(agent.dir.path()).unwrap().unwrap();
    let digest = |ca: &rustls_pki_types::CertificateDer<'_>| {
        ring::digest::digest(&ring::digest::SHA256, ca).as_ref().to_vec()
    };
    identity.ca.iter().map(digest).collect()
}
