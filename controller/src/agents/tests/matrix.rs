//! Everything that can come to the agents' port and should not: refused or tamed alone, said once, counted; and a
//! witness, another node of the fleet, notices nothing of it.

use smart_storage_benches::fleet;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tonic::Code;

use super::{
    heard::Heard,
    rogue::{Rogue, Wire, Witness, delta, hello, snapshot, tls_stream, write_and_drain},
    *,
};

const HOUR: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(400);

struct Bed {
    controller: Controller,
    witness: Witness,
    heard: Heard,
}

impl Bed {
    async fn new() -> Self {
        Self::with(session::SILENCE, listen::Limits::default()).await
    }

    async fn with(silence: Duration, limits: listen::Limits) -> Self {
        let heard = Heard::listen();
        let controller = controller_with(silence, limits).await;
        let witness = Witness::start(&controller).await;
        Self {
            controller,
            witness,
            heard,
        }
    }

    /// An agent with the real session that has this identity and no token to get another one.
    fn agent_with(&self, identity: &NodeIdentity, clock: fn() -> SystemTime) -> Agent {
        let mut agent = self.controller.agent("node-1");
        agent.session.enrolment.token_file = None;
        agent.session.clock = clock;
        identity.store(agent.dir.path()).unwrap();
        agent
    }

    /// The connection is refused for `reason`: said once however often the agent comes, counted each time, told to the
    /// agent with `help`.
    async fn refuses_connections(&self, agent: Agent, reason: &'static str, help: &str) {
        agent.start();
        until("it tried several times", || {
            self.controller.refusals.count(reason) >= 3
        })
        .await;
        let words = agent.session.health.readiness().1;
        assert!(words.contains(help), "{words}");
        assert_eq!(
            self.heard.count(&["connections refused", reason]),
            1,
            "{}",
            self.heard.all()
        );
        assert_eq!(self.controller.hub.registry().len(), 1, "the witness's");
        self.witness.noticed_nothing(&self.controller).await;
    }

    /// The stream was ended for `reason`, said and counted once.
    async fn refused_once(&self, reason: &'static str) {
        until(reason, || self.controller.refused(reason) == 1).await;
        let said = self.heard.count(&["stream refused", reason]);
        assert_eq!(said, 1, "{}", self.heard.all());
        self.witness.noticed_nothing(&self.controller).await;
    }
}

#[tokio::test]
async fn without_a_certificate_nobody_comes_in() {
    let bed = Bed::new().await;
    let ca = bed.controller.pki.authority().trusted().to_vec();
    let config = Arc::new(tls::client(&ca, None, &[tls::ALPN_H2]).unwrap());
    for _ in 0..3 {
        // In TLS 1.3 the client learns of the refusal only when it reads.
        if let Ok(channel) = connect::connect(&bed.controller.agents.to_string(), Arc::clone(&config)).await {
            let mut client = pb::agent_service_client::AgentServiceClient::new(channel);
            let refused = client.sync(tokio_stream::pending()).await.unwrap_err();
            let help = agent_session::words::of_certificates(&refused).unwrap();
            assert!(help.contains("enrol first"), "{help}");
        }
    }
    until("counted", || bed.controller.refusals.count("no_certificate") == 3).await;
    assert_eq!(bed.heard.count(&["connections refused", "no_certificate"]), 1);
    bed.witness.noticed_nothing(&bed.controller).await;
}

#[tokio::test]
async fn a_certificate_of_a_foreign_ca_is_refused() {
    let bed = Bed::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Pki::open(elsewhere.path(), &[], SystemTime::now()).unwrap();
    let identity = identity_of(&other, &bed.controller.pki, "node-1", SystemTime::now());
    let agent = bed.agent_with(&identity, SystemTime::now);
    bed.refuses_connections(agent, "unknown_ca", "needs a new join token")
        .await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let bed = Bed::new().await;
    let identity = bed.controller.identity("node-1", SystemTime::now() - 60 * HOUR);
    // The agent's own clock is behind: it would not show it otherwise.
    let agent = bed.agent_with(&identity, || SystemTime::now() - 59 * HOUR);
    bed.refuses_connections(agent, "expired", "is the clock of this machine right?")
        .await;
}

#[tokio::test]
async fn a_certificate_that_is_not_good_yet_is_refused() {
    let bed = Bed::new().await;
    let identity = bed.controller.identity("node-1", SystemTime::now() + 5 * HOUR);
    let agent = bed.agent_with(&identity, || SystemTime::now() + 6 * HOUR);
    bed.refuses_connections(agent, "not_yet_valid", "is the clock of this machine right?")
        .await;
}

#[tokio::test]
async fn the_servers_own_certificate_is_no_nodes() {
    let bed = Bed::new().await;
    let mut identity = bed.controller.identity("node-1", SystemTime::now());
    identity.identity = tls::Identity::clone(&bed.controller.pki.server());
    let agent = bed.agent_with(&identity, SystemTime::now);
    bed.refuses_connections(agent, "wrong_purpose", "not made for a node")
        .await;
}

#[tokio::test]
async fn with_a_good_certificate_nobody_speaks_for_another_node() {
    let bed = Bed::new().await;
    let mut agent = bed.controller.agent("node-1");
    agent.session.hello.node_name = "node-2".to_owned();
    let task = agent.start();
    agent.not_ready_for("the certificate is for node node-1").await;
    agent
        .not_ready_for("start the agent with --node-name node-1")
        .await;
    agent.stop.cancel();
    task.await.unwrap();
    assert!(bed.controller.refused("other_node") >= 1);
    assert!(bed.controller.hub.registry().get("node-2").is_none());
    bed.witness.noticed_nothing(&bed.controller).await;

    // Not even for one that is connected.
    let mut rogue = Rogue::open(&bed.controller, "node-3").await;
    rogue.say(hello("node-witness")).await;
    assert_eq!(rogue.ended().await.0, Code::FailedPrecondition);
    bed.witness.noticed_nothing(&bed.controller).await;
}

#[tokio::test]
async fn a_connected_nodes_certificate_opens_no_second_stream() {
    let bed = Bed::new().await;
    let _first = Rogue::welcomed(&bed.controller, "node-1").await;
    let mut second = bed.controller.agent("node-1");
    bed.controller
        .identity("node-1", SystemTime::now())
        .store(second.dir.path())
        .unwrap();
    second.session.enrolment.token_file = None;
    second.start();
    second.not_ready_for("stop the other agent").await;
    assert!(bed.controller.refused("second") >= 1);
    bed.witness.noticed_nothing(&bed.controller).await;
}

#[tokio::test]
async fn an_older_and_a_newer_protocol_are_refused_with_the_versions() {
    for version in [0, 2, u32::MAX] {
        let bed = Bed::new().await;
        let mut rogue = Rogue::open(&bed.controller, "node-1").await;
        let pb::agent_message::Message::Hello(mut old) = hello("node-1") else {
            unreachable!()
        };
        old.protocol_version = version;
        rogue.say(pb::agent_message::Message::Hello(old)).await;
        let (code, words) = rogue.ended().await;
        assert_eq!(code, Code::FailedPrecondition);
        assert!(
            words.contains(&format!("the agent {version}: install matching versions")),
            "{words}"
        );
        bed.refused_once("version").await;
    }
}

#[tokio::test]
async fn who_comes_again_and_again_is_heard_slowly_and_said_once() {
    let bed = Bed::new().await;
    let at = bed.controller.agents;
    let identity = bed.controller.identity("node-1", SystemTime::now());
    // It has told all that it may tell at once: 256 units a second are left, and a stream with its Hello costs 33.
    let mut spent = Pace::new(Instant::now());
    while spent.spend(4096, Instant::now()).is_zero() {}
    bed.controller.hub.paces.lock().insert("node-1".into(), spent);
    let storm = tokio::spawn(async move {
        loop {
            let mut rogue = Rogue::open_at(at, &identity).await;
            rogue.say(hello("node-2")).await;
            rogue.ended().await;
        }
    });
    let refused = || bed.controller.refused("other_node");
    until("the storm", || refused() > 0).await;
    let (began, before) = (Instant::now(), refused());
    for _ in 0..10 {
        bed.witness.noticed_nothing(&bed.controller).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let most = 2 + (began.elapsed().as_millis() * 256 / 1000 / 33) as u64;
    assert!(refused() - before <= most, "{} of {most}", refused() - before);
    assert!(!storm.is_finished(), "it only waits");
    let lines = bed.heard.count(&["stream refused", "other_node"]) as u64;
    let most = 2 + began.elapsed().as_secs() / 10;
    assert!(
        refused() > most && lines <= most,
        "{lines} lines for {} streams",
        refused()
    );
    storm.abort();
    bed.witness.noticed_nothing(&bed.controller).await;
}

#[tokio::test]
async fn hello_is_said_once() {
    let bed = Bed::new().await;
    let mut rogue = Rogue::welcomed(&bed.controller, "node-1").await;
    rogue.say(hello("node-1")).await;
    let (code, words) = rogue.ended().await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(words.contains("a second Hello"), "{words}");
    bed.refused_once("hello_twice").await;
}

#[tokio::test]
async fn nothing_counts_before_hello() {
    let bed = Bed::new().await;
    let mut rogue = Rogue::open(&bed.controller, "node-1").await;
    rogue.say(snapshot(1, Vec::new())).await;
    let (code, words) = rogue.ended().await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(words.contains("the first message was no Hello"), "{words}");
    bed.refused_once("no_hello").await;
    assert!(bed.controller.hub.registry().get("node-1").is_none());
}

#[tokio::test]
async fn a_hello_of_a_megabyte_is_refused() {
    let bed = Bed::new().await;
    let mut rogue = Rogue::open(&bed.controller, "node-1").await;
    let boast = pb::Hello {
        protocol_version: smart_storage_proto::PROTOCOL_VERSION,
        node_name: "node-1".to_owned(),
        capabilities: vec!["x".repeat(1 << 20)],
        ..Default::default()
    };
    rogue.say(pb::agent_message::Message::Hello(boast)).await;
    let (code, words) = rogue.ended().await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(words.contains("no agent of ours"), "{words}");
    bed.refused_once("too_large").await;
}

#[tokio::test]
async fn replayed_and_reordered_deltas_change_nothing_and_a_gap_asks_for_everything() {
    let bed = Bed::new().await;
    let rogue = Rogue::welcomed(&bed.controller, "node-1").await;
    rogue.say(snapshot(7, Vec::new())).await;
    rogue.say(delta(7, 1, "sda")).await;
    let known = |names: &[&str]| drives(&bed.controller, "node-1") == names;
    until("the first delta", || known(&["sda"])).await;
    for _ in 0..50 {
        rogue.say(delta(7, 1, "replayed")).await;
    }
    until("all replays", || bed.controller.ignored("replayed") == 50).await;
    assert!(known(&["sda"]));
    assert_eq!(bed.heard.count(&["message not applied", "replayed"]), 1);

    // The third before the second: what is missing is asked for, and nothing in between counts.
    rogue.say(delta(7, 3, "third")).await;
    rogue.say(delta(7, 2, "second")).await;
    until("the late one", || {
        bed.controller.ignored("waiting_for_snapshot") == 1
    })
    .await;
    assert!(known(&["sda"]));
    assert_eq!(bed.controller.hub.metrics.resyncs.get(), 1);
    rogue.say(snapshot(8, Vec::new())).await;
    until("the new snapshot", || known(&[])).await;
    bed.witness.noticed_nothing(&bed.controller).await;
}

#[tokio::test]
async fn nothing_of_an_epoch_that_is_over_is_applied() {
    let bed = Bed::new().await;
    let rogue = Rogue::welcomed(&bed.controller, "node-1").await;
    rogue.say(snapshot(7, Vec::new())).await;
    rogue.say(delta(7, 1, "sda")).await;
    until("the present", || drives(&bed.controller, "node-1") == ["sda"]).await;
    for epoch in [6, 7] {
        rogue.say(snapshot(epoch, Vec::new())).await;
    }
    rogue.say(delta(6, 2, "past")).await;
    until("the past", || bed.controller.ignored("stale_epoch") == 3).await;
    assert_eq!(drives(&bed.controller, "node-1"), ["sda"]);
    assert_eq!(bed.heard.count(&["message not applied", "stale_epoch"]), 1);
    bed.witness.noticed_nothing(&bed.controller).await;
}

#[tokio::test]
async fn a_flood_of_snapshots_is_read_slowly_and_only_its_sender_waits() {
    let bed = Bed::new().await;
    let rogue = Rogue::welcomed(&bed.controller, "node-1").await;
    let taken = || {
        let kind = [("kind", "snapshot")];
        bed.controller.hub.metrics.messages.get_or_create(&kind).get()
    };
    let device = |epoch| pb::Device {
        name: format!("sd{epoch}"),
        ..Default::default()
    };
    let flood = tokio::spawn(async move {
        for epoch in 1..20_000 {
            if !rogue.say(snapshot(epoch, vec![device(epoch); 8])).await {
                break;
            }
        }
    });
    until("it is slowed", || bed.controller.hub.metrics.slowed.get() > 0).await;
    // 4096 units at once, 256 a second: snapshots of 8 drives cost 40 each.
    let (began, before) = (Instant::now(), taken());
    for _ in 0..5 {
        bed.witness.noticed_nothing(&bed.controller).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let most = 2 + (began.elapsed().as_millis() * 256 / 1000 / 40) as u64;
    assert!(taken() - before <= most, "{} of {most}", taken() - before);
    assert!(before <= 110, "{before}");
    assert!(!flood.is_finished(), "the sender waits");
    assert_eq!(bed.heard.count(&["it is read slowly"]), 1);
    // Who comes again has not become quicker by it.
    flood.abort();
    until("it is gone", || !bed.controller.hub.connected(&"node-1".into())).await;
    let again = Rogue::welcomed(&bed.controller, "node-1").await;
    let before = taken();
    let flood = tokio::spawn(async move {
        for epoch in 1..100 {
            again.say(snapshot(epoch, vec![device(epoch); 8])).await;
        }
    });
    let began = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let most = 3 + (began.elapsed().as_millis() * 256 / 1000 / 40) as u64;
    assert!(taken() - before <= most + 8, "{}", taken() - before);
    flood.abort();
    bed.witness.noticed_nothing(&bed.controller).await;
}

#[tokio::test]
async fn of_ten_thousand_drives_a_thousand_are_remembered_and_the_node_says_so() {
    let bed = Bed::new().await;
    let rogue = Rogue::welcomed(&bed.controller, "node-1").await;
    let drive = |n: usize| pb::Device {
        name: format!("sd{n}"),
        evidence: Some(pb::Evidence {
            serial: Some(format!("S{n}")),
            ..Default::default()
        }),
        ..Default::default()
    };
    rogue.say(snapshot(1, (0..10_000).map(drive).collect())).await;
    bed.controller.synced("node-1").await;
    let record = || bed.controller.hub.registry().get("node-1").unwrap();
    assert_eq!(record().drives.len(), wire::MOST);
    let told = |words: &str| record().faults.iter().any(|fault| fault.detail.contains(words));
    assert!(told("10000 entries"), "{:?}", record().faults);
    let counted = || {
        let probe = [("probe", wire::PROBE)];
        bed.controller.hub.metrics.faults.get_or_create(&probe).get()
    };
    assert_eq!(counted(), 1);
    // Nor by deltas.
    rogue.say(delta(1, 1, "one-more")).await;
    until("the delta", || record().session.sequence == 1).await;
    assert_eq!(record().drives.len(), wire::MOST);
    assert!(told("it tells of more"));
    // However often it tells them.
    rogue.say(snapshot(2, (0..10_000).map(drive).collect())).await;
    until("counted again", || counted() == 2).await;
    let said = bed
        .heard
        .count(&["not all of a message was taken", "10000 entries"]);
    assert_eq!(said, 1, "{}", bed.heard.all());
    bed.witness.noticed_nothing(&bed.controller).await;
}

#[tokio::test]
async fn twenty_thousand_drives_with_all_their_facts_are_more_than_a_message_may_hold() {
    let bed = Bed::new().await;
    let mut agent = bed.controller.agent("node-1");
    let (pictures, inventory) = watch::channel(Arc::new(fleet::picture(1, 20_000)));
    agent.session.inventory = inventory;
    let task = agent.start();
    agent.not_ready_for("no machine has so much to tell").await;
    agent.stop.cancel();
    task.await.unwrap();
    drop(pictures);
    assert!(bed.controller.refused("too_large") >= 1);
    assert!(
        bed.controller
            .hub
            .registry()
            .get("node-1")
            .unwrap()
            .drives
            .is_empty()
    );
    bed.witness.noticed_nothing(&bed.controller).await;
}

#[tokio::test]
async fn of_an_oversized_frame_little_is_even_read() {
    let bed = Bed::new().await;
    let wire = Wire::to(bed.controller.agents).await;
    let identity = bed.controller.identity("node-1", SystemTime::now());
    let mut rogue = Rogue::open_at(wire.addr, &identity).await;
    rogue.say(hello("node-1")).await;
    let boast = pb::Device {
        name: "sda".to_owned(),
        model: Some("x".repeat(64 << 20)),
        ..Default::default()
    };
    rogue.say(snapshot(1, vec![boast])).await;
    let (code, words) = rogue.ended().await;
    assert_eq!(code, Code::OutOfRange);
    assert!(words.contains("no machine has so much to tell"), "{words}");
    assert!(wire.sent() < 4 << 20, "{} bytes were taken", wire.sent());
    bed.refused_once("too_large").await;
}

#[tokio::test]
async fn one_device_of_a_megabyte_is_left_out_and_told_as_a_fault() {
    let bed = Bed::new().await;
    let rogue = Rogue::welcomed(&bed.controller, "node-1").await;
    let drive = |name: &str, model: usize| pb::Device {
        name: name.to_owned(),
        model: Some("x".repeat(model)),
        ..Default::default()
    };
    rogue
        .say(snapshot(1, vec![drive("sda", 10), drive("sdb", 1 << 20)]))
        .await;
    bed.controller.synced("node-1").await;
    assert_eq!(drives(&bed.controller, "node-1"), ["sda"]);
    let record = bed.controller.hub.registry().get("node-1").unwrap();
    assert!(
        record.faults[0].detail.contains("bytes, at most"),
        "{:?}",
        record.faults
    );
    bed.witness.noticed_nothing(&bed.controller).await;
}

/// A call of Sync whose body is these bytes.
async fn call_with(controller: &Controller, bytes: Vec<u8>) -> http::HeaderMap {
    use http_body_util::BodyExt as _;
    let stream = hyper_util::rt::TokioIo::new(tls_stream(controller, "node-1").await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("https://127.0.0.1/smartstorage.agent.v1.AgentService/Sync")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(http_body_util::Full::new(bytes::Bytes::from(bytes)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let head = response.headers().clone();
    let body = response.into_body().collect().await.unwrap();
    body.trailers().cloned().unwrap_or(head)
}

#[tokio::test]
async fn garbage_in_a_good_frame_is_refused_with_words() {
    let bed = Bed::new().await;
    let mut frame = vec![0, 0, 0, 0, 64];
    frame.extend([0xff; 64]);
    let end = call_with(&bed.controller, frame).await;
    assert_eq!(end["grpc-status"], "3");
    let words = end["grpc-message"].to_str().unwrap();
    assert!(
        words.contains("install%20matching%20versions") || words.contains("install matching"),
        "{words}"
    );
    bed.refused_once("garbage").await;
}

#[tokio::test]
async fn a_frame_that_claims_four_gigabytes_or_a_compression_is_refused() {
    for (frame, reason) in [
        (vec![0, 0xff, 0xff, 0xff, 0xff], "too_large"),
        (vec![1, 0, 0, 0, 1, 0], "garbage"),
        (vec![7, 0, 0, 0, 1, 0], "garbage"),
    ] {
        let bed = Bed::new().await;
        call_with(&bed.controller, frame).await;
        bed.refused_once(reason).await;
    }
}

#[tokio::test]
async fn garbage_instead_of_http_2_ends_that_connection() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let bed = Bed::new().await;
    let mut after_preface = PREFACE.to_vec();
    after_preface.extend([0xff; 256]);
    let mut huge_frame = PREFACE.to_vec();
    huge_frame.extend([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]);
    let garbage = vec![0xa5; 4096];
    for (n, bytes) in [after_preface, huge_frame, garbage].into_iter().enumerate() {
        write_and_drain(tls_stream(&bed.controller, "node-1").await, &bytes).await;
        until("counted", || {
            bed.controller.refusals.count("http") == n as u64 + 1
        })
        .await;
    }
    assert_eq!(bed.heard.count(&["connections refused", "http"]), 1);
    bed.witness.noticed_nothing(&bed.controller).await;
}

#[tokio::test]
async fn raw_bytes_end_that_connection() {
    let bed = Bed::new().await;
    let mut like_tls = vec![0x16, 3, 1, 2, 0];
    like_tls.extend([0xff; 512]);
    for (n, bytes) in [vec![0; 512], vec![0xff; 100_000], like_tls]
        .into_iter()
        .enumerate()
    {
        let stream = TcpStream::connect(bed.controller.agents).await.unwrap();
        write_and_drain(stream, &bytes).await;
        until("counted", || {
            bed.controller.refusals.count("not_tls") == n as u64 + 1
        })
        .await;
    }
    assert_eq!(bed.heard.count(&["connections refused", "not_tls"]), 1);
    bed.witness.noticed_nothing(&bed.controller).await;
}

#[tokio::test]
async fn a_peer_that_vanishes_without_a_word_is_missed() {
    let limits = listen::Limits {
        keep_alive: SHORT,
        ..listen::Limits::default()
    };
    let bed = Bed::with(session::SILENCE, limits).await;
    let wire = Wire::to(bed.controller.agents).await;
    let mut agent = bed.controller.agent("node-1");
    agent.session.controllers = vec![wire.addr.to_string()];
    agent.start();
    bed.controller.synced("node-1").await;
    wire.cut();
    until("the controller misses it", || {
        !bed.controller.hub.connected(&"node-1".into())
    })
    .await;
    until("counted", || bed.controller.refusals.count("unanswered") == 1).await;
    assert_eq!(bed.heard.count(&["connections refused", "unanswered"]), 1);
    bed.witness.noticed_nothing(&bed.controller).await;
    // Its own keep-alive tells the agent, too, that nobody is there; once there is a way it comes back by itself.
    wire.mend();
    until("the agent came back", || agent.streams("welcomed") == 2).await;
    bed.controller.synced("node-1").await;
    bed.witness.noticed_nothing(&bed.controller).await;
}

#[tokio::test]
async fn a_stream_on_which_nothing_is_said_is_dead_after_the_silence() {
    // Longer than the pause between two heartbeats of the witness.
    let bed = Bed::with(Duration::from_millis(5500), listen::Limits::default()).await;
    let mut mute = Rogue::open(&bed.controller, "node-1").await;
    let mut fading = Rogue::welcomed(&bed.controller, "node-2").await;
    fading.say(snapshot(1, Vec::new())).await;
    for rogue in [&mut mute, &mut fading] {
        let (code, words) = rogue.ended().await;
        assert_eq!(code, Code::DeadlineExceeded);
        assert!(words.contains("the agent hangs or was cut off"), "{words}");
    }
    until("counted", || bed.controller.refused("silent") == 2).await;
    assert_eq!(bed.heard.count(&["stream refused", "silent"]), 2);
    bed.witness.noticed_nothing(&bed.controller).await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_asked_is_ended() {
    let limits = listen::Limits {
        header_read: SHORT,
        ..listen::Limits::default()
    };
    let bed = Bed::with(session::SILENCE, limits).await;
    write_and_drain(tls_stream(&bed.controller, "node-1").await, b"").await;
    until("counted", || bed.controller.refusals.count("idle") == 1).await;
    // HTTP/2 that lives and asks for nothing.
    let stream = hyper_util::rt::TokioIo::new(tls_stream(&bed.controller, "node-1").await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (_sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, http_body_util::Empty<bytes::Bytes>>(executor, stream)
            .await
            .unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), connection).await;
    assert!(ended.is_ok(), "told to go, it goes");
    bed.witness.noticed_nothing(&bed.controller).await;
}

#[tokio::test]
async fn who_never_reads_is_refused_orders_and_then_the_stream() {
    let bed = Bed::new().await;
    let node = "node-1".into();
    let mut rogue = Rogue::welcomed(&bed.controller, "node-1").await;
    rogue.say(snapshot(1, Vec::new())).await;
    bed.controller.synced("node-1").await;
    let order = || {
        Command::EnsureMember(pb::EnsureMember {
            pool: "x".repeat(64 << 10),
            ..Default::default()
        })
    };
    let mut waiting = Vec::new();
    let busy = loop {
        match bed.controller.hub.send(&node, order()) {
            Ok(answer) => waiting.push(answer),
            Err(error) => break error,
        }
        // What the connection takes, it takes now.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(waiting.len() < 1000, "nothing holds the orders back");
    };
    assert_eq!(busy, SendError::Busy(node.clone()));
    bed.witness.noticed_nothing(&bed.controller).await;
    // What the stream itself has to say does not get through either.
    rogue.say(delta(1, 9, "gap")).await;
    bed.refused_once("stuck").await;
    assert!(!bed.controller.hub.connected(&node));
    for answer in waiting {
        assert!(answer.await.is_err(), "nobody waits for ever");
    }
    assert_eq!(
        rogue.ended().await.0,
        Code::Ok,
        "the words did not get through either"
    );
}

#[tokio::test]
async fn a_thousand_connections_without_a_handshake_are_ended_and_keep_nobody_out() {
    let limits = listen::Limits {
        handshake: Duration::from_secs(4),
        ..listen::Limits::default()
    };
    let bed = Bed::with(session::SILENCE, limits).await;
    let mut silent = Vec::new();
    for _ in 0..1000 {
        silent.push(TcpStream::connect(bed.controller.agents).await.unwrap());
    }
    let newcomer = bed.controller.agent("node-1");
    newcomer.start();
    bed.controller.synced("node-1").await;
    bed.witness.noticed_nothing(&bed.controller).await;
    until("all are ended", || {
        bed.controller.refusals.count("handshake_time") == 1000
    })
    .await;
    assert_eq!(bed.heard.count(&["connections refused", "handshake_time"]), 1);
    assert_eq!(newcomer.streams("welcomed"), 1);
    bed.witness.noticed_nothing(&bed.controller).await;
    for mut stream in silent {
        assert!(stream.write_all(b"x").await.is_err() || stream.peek(&mut [0]).await.unwrap_or(0) == 0);
    }
}
