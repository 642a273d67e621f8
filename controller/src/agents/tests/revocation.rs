//! Who may go on: a node that is not wanted any more, or whose token was replaced, gets no new certificate, and what it
//! has ends by itself.

use super::{rogue::Rogue, *};

const DAY: Duration = crate::pki::NODE_LIFE;

async fn renews(controller: &Controller, identity: &NodeIdentity) -> Result<NodeIdentity, String> {
    let channel = connect::connect(&controller.agents.to_string(), identity.client().unwrap())
        .await
        .unwrap();
    agent_enrol::renew(channel, "node-1")
        .await
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_certificate_goes_on_through_renewals_as_long_as_its_token_stands() {
    let controller = controller().await;
    let first = controller.identity("node-1", SystemTime::now());
    let second = renews(&controller, &first).await.unwrap();
    let third = renews(&controller, &second).await.unwrap();
    assert_eq!(controller.certificates("renewed"), 2);

    tokens::create(controller.dir.path(), "node-1", SystemTime::now()).unwrap();
    let words = renews(&controller, &third).await.unwrap_err();
    assert!(
        words.contains("made anew after this certificate was given"),
        "{words}"
    );
    std::fs::remove_file(controller.dir.path().join("join-tokens/node-1")).unwrap();
    let words = renews(&controller, &third).await.unwrap_err();
    assert!(words.contains("was revoked: make a new one with"), "{words}");
    assert_eq!(controller.certificates("renewal_refused"), 2);
}

#[tokio::test]
async fn a_node_that_is_not_wanted_any_more_gets_no_new_certificate() {
    let controller = controller().await;
    let identity = controller.identity("node-1", SystemTime::now());
    controller.book.struck.lock().insert("node-1".into());
    let words = renews(&controller, &identity).await.unwrap_err();
    assert!(words.contains("the StorageNode of node-1 was deleted"), "{words}");
}

#[tokio::test]
async fn a_stream_outlives_its_certificate_by_no_heartbeat_and_the_token_is_the_way_back() {
    let controller = controller().await;
    let agent = controller.agent("node-1");
    // Good for three more seconds, and of a token that is made anew meanwhile.
    let ends = SystemTime::now() + Duration::from_secs(3);
    controller
        .identity("node-1", ends - DAY)
        .store(agent.dir.path())
        .unwrap();
    let mut told = agent.session.clone();
    told.enrolment.token_file = Some(controller.token("node-1", agent.dir.path()));
    tokio::spawn(agent_session::run(told, agent.stop.clone()));
    controller.synced("node-1").await;
    agent
        .not_ready_for("made anew after this certificate was given")
        .await;
    until("the stream is ended", || controller.refused("expired") == 1).await;
    until("enrolled with the new token", || {
        agent.certificates("enrolment") == 1
    })
    .await;
    until("connected again", || controller.hub.connected(&"node-1".into())).await;
}

#[tokio::test]
async fn a_renewal_lets_the_stream_go_on_past_the_first_certificates_end() {
    let controller = controller().await;
    let ends = SystemTime::now() + Duration::from_secs(2);
    let identity = controller.identity("node-1", ends - DAY);
    let mut rogue = Rogue::open_at(controller.agents, &identity).await;
    rogue.say(super::rogue::hello("node-1")).await;
    rogue.answers.message().await.unwrap().unwrap();
    renews(&controller, &identity).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    rogue.say(super::rogue::snapshot(1, Vec::new())).await;
    rogue
        .say(pb::agent_message::Message::Heartbeat(pb::Heartbeat {
            epoch: 1,
            seq: 0,
        }))
        .await;
    rogue.say(super::rogue::delta(1, 1, "sda")).await;
    until("what it tells counts", || {
        drives(&controller, "node-1") == ["sda"]
    })
    .await;
}

#[tokio::test]
async fn a_nodes_own_rescan_interval_is_told_at_once_and_when_it_changes() {
    let controller = controller().await;
    let own = |seconds| NodeSettings {
        discover_interval: Some(Duration::from_secs(seconds)),
    };
    *controller.book.settings.lock() = own(30);
    let mut agent = controller.agent("node-1");
    let interval = Arc::new(Probing {
        pictures: agent.pictures.clone(),
        interval: AtomicUsize::new(0),
    });
    agent.session.actions = Arc::<Probing>::clone(&interval);
    agent.start();
    controller.synced("node-1").await;
    let told = |seconds| interval.interval.load(Ordering::Relaxed) == seconds;
    assert!(told(30));
    controller.hub.settle(&"node-1".into(), own(12));
    until("the change", || told(12)).await;
    controller.hub.settle(&"node-1".into(), NodeSettings::default());
    until("that of all nodes", || told(77)).await;
}
