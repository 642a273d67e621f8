//! The road from enrolment to the first order, and back after everything usual.

use super::*;

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
async fn a_connected_node_that_is_forgotten_goes_as_its_stream_ends_and_is_no_conflict_to_others() {
    let controller = controller().await;
    let (first, second) = (controller.agent("node-1"), controller.agent("node-2"));
    for (agent, node) in [(&first, "node-1"), (&second, "node-2")] {
        agent.start();
        controller.synced(node).await;
    }
    let sda = || {
        let record = controller.hub.registry().get("node-2").unwrap();
        record.drives[0].identity.clone()
    };
    assert!(
        matches!(sda(), Verdict::Conflict { .. }),
        "both show it: {:?}",
        sda()
    );

    let gone = NodeName::from("node-1");
    let mut changes = controller.hub.changes();
    controller.book.struck.lock().insert(gone.clone());
    controller.hub.expel(&gone, "its StorageNode was deleted");
    controller.hub.forget_node(&gone);
    assert!(controller.hub.connected(&gone), "its stream ends later");
    first.not_ready_for("the StorageNode of node-1 was deleted").await;
    until("it is forgotten", || {
        controller.hub.registry().get("node-1").is_none()
    })
    .await;
    assert!(sda().certain().is_some(), "{:?}", sda());
    let mut told = BTreeSet::new();
    while let Ok(node) = changes.try_recv() {
        told.insert(node);
    }
    assert_eq!(told, BTreeSet::from([gone, "node-2".into()]));
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
async fn a_machine_that_was_off_for_a_weekend_enrols_again_with_its_token() {
    let controller = controller().await;
    let agent = controller.agent("node-1");
    let weekend = SystemTime::now() - Duration::from_secs(60 * 3600);
    let expired = controller.identity("node-1", weekend);
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
    identity_of(&other, &other, "node-1", SystemTime::now())
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
