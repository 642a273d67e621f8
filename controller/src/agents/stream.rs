//! The thin driver of a stream: messages into [`super::session::Session`], its steps into the registry, commands
//! out. It holds no choices of its own.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use smart_storage_core::{
    decide,
    drive::{DriveFacts, Fault, NodeName},
    node::{MemberReport, NodeRecord, SessionInfo},
};
use smart_storage_proto::{
    PROTOCOL_VERSION,
    agent::v1::{
        self as pb, agent_message::Message, agent_service_server::AgentService,
        controller_message::Message as Answer,
    },
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::{
    AgentsHub, Live, MESSAGE, NodeSettings, Pending, QUEUE, enrol, identity, in_background,
    pace::{self, Pace},
    session::{Hello, Refusal, Session, Step},
    tokens, unix_ms, wire,
};
use crate::{
    listen::Peer,
    pki::{self, Pki},
};

/// The agents' service.
pub(super) struct Streams {
    hub: Arc<AgentsHub>,
    pki: Arc<Pki>,
}

impl Streams {
    pub(super) fn new(hub: Arc<AgentsHub>, pki: Arc<Pki>) -> Self {
        Self { hub, pki }
    }

    /// Whether a certificate may be followed by another one: its join token is still the node's, and the node is
    /// still wanted.
    async fn may_renew(&self, node: &NodeName, leaf: &CertificateDer<'_>) -> Result<String, Status> {
        let good = tokens::id(self.pki.data_dir(), node.as_str())
            .map_err(|error| Status::internal(format!("join tokens cannot be read: {error}")))?;
        let again = format!("smart-storage-controller join-token {node}");
        let token = match (good, identity::token_of_certificate(leaf)) {
            (Some(good), Some(shown)) if good == shown => good,
            (Some(_), _) => {
                return Err(Status::permission_denied(format!(
                    "the join token of node {node} was made anew after this certificate was given: put the new one \
                     into the agent's --join-token-file, or make another with {again}"
                )));
            }
            (None, _) => {
                return Err(Status::permission_denied(format!(
                    "the join token of node {node} was revoked: make a new one with {again}"
                )));
            }
        };
        self.hub
            .admission
            .keep(node)
            .await
            .map_err(Status::permission_denied)?;
        Ok(token)
    }
}

fn peer_of<T>(request: &Request<T>) -> Result<(NodeName, CertificateDer<'static>), Status> {
    let peer = request
        .extensions()
        .get::<Peer>()
        .ok_or_else(|| Status::internal("the port does not say who its peers are"))?;
    let refused = |error: identity::IdentityError| Status::unauthenticated(error.to_string());
    let node = identity::node_of(peer).map_err(refused)?;
    let leaf = identity::leaf_of(peer).map_err(refused)?;
    Ok((NodeName::new(node), leaf.clone()))
}

#[tonic::async_trait]
impl AgentService for Streams {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<pb::ControllerMessage, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let (node, leaf) = peer_of(&request)?;
        if self.hub.lease_epoch.load(Ordering::Acquire) == 0 {
            return Err(Status::unavailable(
                "this controller does not lead; try the next one",
            ));
        }
        let (outgoing, answers) = mpsc::channel(QUEUE);
        let (expel, expelled) = oneshot::channel();
        let good_until = pki::not_after(&leaf).unwrap_or(0);
        let claim = Claim::take(&self.hub, &node, outgoing.clone(), expel, good_until).ok_or_else(|| {
            self.hub.count_refused("second");
            if let Some(count) = self.hub.worth(&node, "second") {
                info!(count, node = %node, reason = "second", "stream refused");
            }
            Status::already_exists(format!(
                "node {node} has a live stream already: stop the other agent that runs with this identity, or wait \
                 until its stream is dead ({} s)",
                self.hub.settings.silence.as_secs()
            ))
        })?;
        match self.hub.admission.admit(&node).await {
            Ok(settings) => claim.settle(settings),
            Err(reason) => {
                self.hub.count_refused("admission");
                if let Some(count) = self.hub.worth(&node, "admission") {
                    info!(count, node = %node, reason = %reason, "node not admitted");
                }
                return Err(Status::permission_denied(reason));
            }
        }
        let shown = Arc::clone(&self.pki);
        let name = node.clone();
        in_background(move || shown.holds(name.as_str(), &leaf));
        let now = Instant::now();
        let (pace, rest) = {
            let mut paces = self.hub.paces.lock();
            let pace = paces.entry(node.clone()).or_insert_with(|| Pace::new(now));
            // Who comes again and again pays for it, whatever is said then.
            let rest = pace.spend(pace::STREAM, now);
            (*pace, rest)
        };
        let driver = Driver {
            session: Session::new(node, self.hub.settings.silence, now),
            claim,
            outgoing,
            expelled,
            trust: self.pki.trust(),
            pki: Arc::clone(&self.pki),
            pace,
            resting: (!rest.is_zero()).then(|| now + rest),
        };
        tokio::spawn(driver.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::EnrolResponse>, Status> {
        let (node, leaf) = peer_of(&request)?;
        let csr = request.into_inner().csr;
        let renewed = match self.may_renew(&node, &leaf).await {
            Ok(token) => enrol::certificate(&self.pki, node.as_str(), &token, &csr, SystemTime::now()),
            Err(status) => Err(status),
        };
        match renewed {
            Ok(answer) => {
                self.hub.count_certificate("renewed");
                let given = answer
                    .certificate_chain
                    .first()
                    .cloned()
                    .map(CertificateDer::from);
                if let Some(not_after) = given.as_ref().and_then(pki::not_after) {
                    self.hub.good_until(&node, not_after);
                }
                info!(node = %node, "certificate renewed");
                Ok(Response::new(answer))
            }
            Err(status) => {
                self.hub.count_certificate("renewal_refused");
                info!(node = %node, reason = %status.message(), "certificate not renewed");
                Err(status)
            }
        }
    }
}

/// A node's name, held by one stream; given back when dropped.
struct Claim {
    hub: Arc<AgentsHub>,
    node: NodeName,
    number: u64,
    pending: Pending,
    welcomed: bool,
}

impl Claim {
    fn take(
        hub: &Arc<AgentsHub>,
        node: &NodeName,
        outgoing: mpsc::Sender<Result<pb::ControllerMessage, Status>>,
        expel: oneshot::Sender<String>,
        good_until: i64,
    ) -> Option<Self> {
        let mut streams = hub.streams.lock();
        if streams.contains_key(node) {
            return None;
        }
        let number = hub.next.fetch_add(1, Ordering::Relaxed);
        let pending: Pending = Arc::new(Mutex::new(HashMap::new()));
        let live = Live {
            number,
            outgoing,
            pending: Arc::clone(&pending),
            expel: Some(expel),
            welcomed: false,
            settings: NodeSettings::default(),
            good_until,
        };
        streams.insert(node.clone(), live);
        hub.metrics.streams.inc();
        drop(streams);
        Some(Self {
            hub: Arc::clone(hub),
            node: node.clone(),
            number,
            pending,
            welcomed: false,
        })
    }

    fn settle(&self, settings: NodeSettings) {
        if let Some(live) = self.hub.streams.lock().get_mut(&self.node) {
            live.settings = settings;
        }
    }

    /// What the node's administrator says now.
    fn settings(&self) -> NodeSettings {
        let streams = self.hub.streams.lock();
        streams
            .get(&self.node)
            .map_or_else(NodeSettings::default, |live| live.settings)
    }

    /// From now on the hub talks to the agent; what the administrator says until then is answered.
    fn welcome(&mut self) -> NodeSettings {
        self.welcomed = true;
        if let Some(live) = self.hub.streams.lock().get_mut(&self.node) {
            live.welcomed = true;
        }
        self.settings()
    }

    /// When the certificate behind the stream runs out.
    fn good_until(&self) -> i64 {
        let streams = self.hub.streams.lock();
        streams.get(&self.node).map_or(0, |live| live.good_until)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Disconnected on record before the name is free: a new stream's record is never overwritten by the old.
        if self.welcomed {
            let now = unix_ms(SystemTime::now());
            self.hub.publish(&self.node, |record, _| {
                record.session.connected = false;
                record.session.synced = false;
                record.session.lost_at_ms = now;
            });
        }
        let mut streams = self.hub.streams.lock();
        if let Some(live) = streams.get(&self.node).filter(|live| live.number == self.number) {
            // Expelled; while the name is held, no new stream's record is forgotten.
            if live.expel.is_none() {
                self.hub.forget(&self.node);
            }
            streams.remove(&self.node);
        }
        drop(streams);
        self.pending.lock().clear();
        self.hub.metrics.streams.dec();
        self.hub.changed(&self.node);
        judge_absence_later(&self.hub, &self.node);
    }
}

/// A node whose agent stays away is `Offline` after its grace; nothing else would look at it then.
fn judge_absence_later(hub: &Arc<AgentsHub>, node: &NodeName) {
    let (hub, node) = (Arc::downgrade(hub), node.clone());
    // At the end of the process there is no runtime any more, and nobody to tell.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            tokio::time::sleep(Duration::from_millis(decide::node::GRACE_MS + 100)).await;
            if let Some(hub) = hub.upgrade()
                && hub.registry.get(node.as_str()).is_some()
            {
                hub.publish(&node, |_, _| {});
            }
        });
    }
}

struct Driver {
    session: Session,
    claim: Claim,
    outgoing: mpsc::Sender<Result<pb::ControllerMessage, Status>>,
    expelled: oneshot::Receiver<String>,
    pki: Arc<Pki>,
    trust: watch::Receiver<Vec<Vec<u8>>>,
    pace: Pace,
    /// Nothing is read until then.
    resting: Option<Instant>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the agent closed it")]
    Closed,
    #[error("connection: {0}")]
    Lost(String),
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error(
        "a message of more than {MESSAGE} bytes: no machine has so much to tell; install an agent of this version"
    )]
    TooLarge,
    #[error("a message is not of this protocol: install matching versions of agent and controller ({0})")]
    Garbage(String),
    #[error("the agent does not read what it is told: restart it")]
    Stuck,
    #[error("{0}")]
    Expelled(String),
    #[error(
        "the certificate of the stream ran out and was not renewed: the agent enrols with its join token; where that \
         is refused, make a new one with smart-storage-controller join-token {0}"
    )]
    Expired(NodeName),
    #[error("this controller stops, or does not lead any more")]
    Closing,
}

impl End {
    /// What came instead of a message.
    fn of(status: &Status) -> Self {
        match status.code() {
            // tonic's codes for what its decoder refuses; the words are all that tells a broken frame from a reset.
            Code::OutOfRange => Self::TooLarge,
            Code::Internal if is_garbage(status.message()) => Self::Garbage(status.message().to_owned()),
            Code::Unimplemented => Self::Garbage(status.message().to_owned()),
            _ => Self::Lost(status.message().to_owned()),
        }
    }

    /// One word for the metrics, and what the agent is told; none where there is nobody to tell.
    fn refusal(&self) -> Option<(&'static str, Status)> {
        let words = self.to_string();
        Some(match self {
            Self::Closed | Self::Lost(_) => return None,
            Self::Refused(refusal @ Refusal::Silent(_)) => (refusal.word(), Status::deadline_exceeded(words)),
            Self::Refused(refusal) => (refusal.word(), Status::failed_precondition(words)),
            Self::TooLarge => ("too_large", Status::out_of_range(words)),
            Self::Garbage(_) => ("garbage", Status::invalid_argument(words)),
            Self::Stuck => ("stuck", Status::resource_exhausted(words)),
            Self::Expelled(_) => ("expelled", Status::permission_denied(words)),
            Self::Expired(_) => ("expired", Status::unauthenticated(words)),
            Self::Closing => ("closing", Status::unavailable(words)),
        })
    }
}

fn is_garbage(words: &str) -> bool {
    words.contains("decode") || words.contains("protocol error: received message with")
}

/// What the driver of a stream has to do next.
enum Event {
    Message(Result<Option<pb::AgentMessage>, Status>),
    Trust,
    Look,
    End(End),
}

impl Driver {
    async fn run(mut self, mut incoming: Streaming<pb::AgentMessage>) {
        let end = loop {
            let done = match self.next(&mut incoming).await {
                Event::End(end) => Err(end),
                Event::Look => self.look(),
                Event::Trust => self.tell_trust(),
                Event::Message(Ok(Some(message))) => self.take(message),
                Event::Message(Ok(None)) => Err(End::Closed),
                Event::Message(Err(status)) => Err(End::of(&status)),
            };
            if let Err(end) = done {
                break end;
            }
        };
        self.end(&end);
    }

    async fn next(&mut self, incoming: &mut Streaming<pb::AgentMessage>) -> Event {
        let closing = self.claim.hub.closing.clone();
        // While it rests, nothing is read: HTTP/2 holds the rest back at the sender.
        let resting = self.resting;
        let wake = tokio::time::Instant::from_std(resting.unwrap_or_else(|| self.session.deadline()));
        tokio::select! {
            () = closing.cancelled() => Event::End(End::Closing),
            Ok(reason) = &mut self.expelled => Event::End(End::Expelled(reason)),
            Ok(()) = self.trust.changed(), if self.claim.welcomed => Event::Trust,
            // Who went away while nothing was read is not waited for.
            () = self.outgoing.closed() => Event::End(End::Closed),
            () = tokio::time::sleep_until(wake) => Event::Look,
            message = incoming.message(), if resting.is_none() => Event::Message(message),
        }
    }

    /// What the clock says.
    fn look(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.resting.take().is_some() {
            self.session.rested(now);
        }
        self.session.tick(now)?;
        self.still_good()
    }

    fn still_good(&self) -> Result<(), End> {
        let now = i64::try_from(unix_ms(SystemTime::now()) / 1000).unwrap_or(i64::MAX);
        if self.claim.welcomed && self.claim.good_until() <= now {
            return Err(End::Expired(self.claim.node.clone()));
        }
        Ok(())
    }

    fn end(&self, end: &End) {
        let hub = &self.claim.hub;
        hub.paces.lock().insert(self.claim.node.clone(), self.pace);
        match end.refusal() {
            None => info!(node = %self.claim.node, reason = %end, "stream ended"),
            Some((word, status)) => {
                hub.count_refused(word);
                if let Some(count) = hub.worth(&self.claim.node, word) {
                    warn!(count, node = %self.claim.node, reason = word, detail = %end, "stream refused");
                }
                // A full queue means that nobody reads it.
                let _ = self.outgoing.try_send(Err(status));
            }
        }
    }

    fn take(&mut self, message: pb::AgentMessage) -> Result<(), End> {
        let now = Instant::now();
        let hub = Arc::clone(&self.claim.hub);
        hub.metrics
            .messages
            .get_or_create(&[("kind", kind(&message))])
            .inc();
        if matches!(message.message, Some(Message::Heartbeat(_))) {
            self.still_good()?;
        }
        let rest = self.pace.spend(pace::cost(&message), now);
        if !rest.is_zero() {
            self.resting = Some(now + rest);
            hub.metrics.slowed.inc();
            if let Some(count) = hub.worth(&self.claim.node, "slowed") {
                warn!(count, node = %self.claim.node, "the agent tells more than a machine can have to tell: it is read slowly");
            }
        }
        match self.session.on(message, now)? {
            None => Ok(()),
            Some(Step::Welcome(hello)) => self.welcome(hello),
            Some(Step::Resync(reason)) => {
                hub.metrics.resyncs.inc();
                if let Some(count) = hub.worth(&self.claim.node, "resync") {
                    warn!(count, node = %self.claim.node, reason = %reason, "resync");
                }
                self.send(Answer::Resync(pb::Resync { reason }))
            }
            Some(Step::Ignored(why)) => {
                hub.metrics.ignored.get_or_create(&[("reason", why.word())]).inc();
                if let Some(count) = hub.worth(&self.claim.node, why.word()) {
                    warn!(count, node = %self.claim.node, reason = why.word(), "message not applied");
                }
                Ok(())
            }
            Some(Step::Snapshot(snapshot)) => {
                self.count_faults(&snapshot.faults, &snapshot.drives);
                self.publish(|record, facts| replace(record, facts, snapshot));
                Ok(())
            }
            Some(Step::Delta(delta)) => {
                self.count_faults(delta.faults.as_deref().unwrap_or_default(), &delta.changed);
                self.publish(|record, facts| amend(record, facts, delta));
                Ok(())
            }
            Some(Step::Result(result)) => {
                if let Some(waiting) = self.claim.pending.lock().remove(&result.id) {
                    // Who asked may have stopped waiting.
                    let _ = waiting.send(result);
                }
                Ok(())
            }
            Some(Step::Stored(stored)) => {
                let (pki, node) = (Arc::clone(&self.pki), self.claim.node.clone());
                in_background(move || pki.holds_of(node.as_str(), &stored.issuer_sha256, stored.not_after));
                Ok(())
            }
        }
    }

    fn welcome(&mut self, hello: Hello) -> Result<(), End> {
        let hub = Arc::clone(&self.claim.hub);
        info!(node = %self.claim.node, version = %hello.agent_version, "agent connected");
        let told = self.claim.settings();
        self.send(Answer::Welcome(pb::Welcome {
            protocol_version: PROTOCOL_VERSION,
            lease_epoch: hub.lease_epoch.load(Ordering::Acquire),
            discover_interval_seconds: hub.interval_seconds(told),
            cluster_id: hub.settings.cluster_id.clone(),
        }))?;
        self.tell_trust()?;
        let now = unix_ms(SystemTime::now());
        self.publish(|record, _| {
            record.boot_id = hello.boot_id;
            record.agent_version = hello.agent_version;
            record.capabilities = hello.capabilities;
            record.system = hello.system;
            record.session = SessionInfo {
                connected: true,
                connected_at_ms: now,
                ..SessionInfo::default()
            };
        });
        let settings = self.claim.welcome();
        if settings != told {
            // Changed in between: the hub says it only to those who are welcome already.
            self.send(Answer::Settings(pb::Settings {
                discover_interval_seconds: hub.interval_seconds(settings),
            }))?;
        }
        hub.changed(&self.claim.node);
        Ok(())
    }

    fn tell_trust(&mut self) -> Result<(), End> {
        let ca_sha256 = self.trust.borrow_and_update().clone();
        self.send(Answer::Trust(pb::Trust { ca_sha256 }))
    }

    fn publish(&self, update: impl FnOnce(&mut NodeRecord, &mut Vec<DriveFacts>)) {
        self.claim.hub.publish(&self.claim.node, update);
    }

    fn send(&self, answer: Answer) -> Result<(), End> {
        let message = pb::ControllerMessage {
            message: Some(answer),
        };
        self.outgoing.try_send(Ok(message)).map_err(|_| End::Stuck)
    }

    fn count_faults(&self, of_node: &[Fault], drives: &[DriveFacts]) {
        if let Some(fault) = of_node.iter().find(|fault| fault.probe == wire::PROBE)
            && let Some(count) = self.claim.hub.worth(&self.claim.node, wire::PROBE)
        {
            let detail: String = fault.detail.chars().take(300).collect();
            warn!(count, node = %self.claim.node, detail = %detail.escape_debug(), "not all of a message was taken");
        }
        let all = of_node
            .iter()
            .chain(drives.iter().flat_map(|drive| &drive.faults));
        for fault in all {
            // Agents choose these texts: only those that we know become labels.
            let probe = PROBES
                .iter()
                .find(|probe| **probe == fault.probe)
                .copied()
                .unwrap_or("other");
            self.claim
                .hub
                .metrics
                .faults
                .get_or_create(&[("probe", probe)])
                .inc();
        }
    }
}

const PROBES: [&str; 11] = [
    "sysfs",
    "udev",
    "nvme",
    "nvme-cli",
    "smartctl",
    "signatures",
    "mounts",
    "swaps",
    "holders",
    "uevent",
    wire::PROBE,
];

const fn kind(message: &pb::AgentMessage) -> &'static str {
    match &message.message {
        Some(Message::Hello(_)) => "hello",
        Some(Message::Snapshot(_)) => "snapshot",
        Some(Message::Delta(_)) => "delta",
        Some(Message::Heartbeat(_)) => "heartbeat",
        Some(Message::CommandResult(_)) => "command_result",
        Some(Message::CertificateStored(_)) => "certificate_stored",
        None => "unknown",
    }
}

pub(super) fn replace(record: &mut NodeRecord, facts: &mut Vec<DriveFacts>, snapshot: wire::Snapshot) {
    record.session.synced = true;
    record.session.epoch = snapshot.epoch;
    record.session.sequence = 0;
    record.faults = snapshot.faults;
    record.members = snapshot.members;
    record
        .members
        .sort_unstable_by(|a, b| a.member_id.cmp(&b.member_id));
    *facts = snapshot.drives;
}

pub(super) fn amend(record: &mut NodeRecord, facts: &mut Vec<DriveFacts>, delta: wire::Delta) {
    record.session.epoch = delta.epoch;
    record.session.sequence = delta.seq;
    if let Some(faults) = delta.faults {
        record.faults = faults;
    }
    let is_told = |member: &MemberReport| {
        delta.members_removed.contains(&member.member_id)
            || delta
                .members_changed
                .iter()
                .any(|told| told.member_id == member.member_id)
    };
    record.members.retain(|member| !is_told(member));
    record.members.extend(delta.members_changed);
    record
        .members
        .sort_unstable_by(|a, b| a.member_id.cmp(&b.member_id));
    facts.retain(|drive| {
        !delta.removed.contains(&drive.name) && !delta.changed.iter().any(|told| told.name == drive.name)
    });
    facts.extend(delta.changed);
    let too_many = wire::too_many();
    record.faults.retain(|fault| *fault != too_many);
    if facts.len() > wire::MOST {
        record.faults.push(too_many);
        facts.truncate(wire::MOST);
    }
    record.members.truncate(wire::MOST);
}
