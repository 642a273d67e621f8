//! The thin driver of a stream: messages into [`super::session::Session`], its steps into the registry, commands
//! out. It holds no choices of its own.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use smart_storage_core::{
    decide,
    drive::{DriveFacts, NodeName},
    node::{MemberReport, NodeRecord, SessionInfo},
};
use smart_storage_proto::{
    PROTOCOL_VERSION,
    agent::v1::{
        self as pb, agent_message::Message, agent_service_server::AgentService,
        controller_message::Message as Answer,
    },
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::{
    AgentsHub, Live, Pending, QUEUE, enrol, identity,
    session::{Hello, Refusal, Session, Step},
    unix_ms, wire,
};
use crate::{listen::Peer, pki::Authority};

/// The agents' service.
pub(super) struct Streams {
    hub: Arc<AgentsHub>,
    authority: Arc<Authority>,
}

impl Streams {
    pub(super) fn new(hub: Arc<AgentsHub>, authority: Arc<Authority>) -> Self {
        Self { hub, authority }
    }
}

fn node_of<T>(request: &Request<T>) -> Result<NodeName, Status> {
    let peer = request
        .extensions()
        .get::<Peer>()
        .ok_or_else(|| Status::internal("the port does not say who its peers are"))?;
    let node = identity::node_of(peer).map_err(|error| Status::unauthenticated(error.to_string()))?;
    Ok(NodeName::new(node))
}

#[tonic::async_trait]
impl AgentService for Streams {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<pb::ControllerMessage, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let node = node_of(&request)?;
        if self.hub.lease_epoch.load(Ordering::Acquire) == 0 {
            return Err(Status::unavailable(
                "this controller does not lead; try the next one",
            ));
        }
        let (outgoing, answers) = mpsc::channel(QUEUE);
        let (expel, expelled) = oneshot::channel();
        let claim = Claim::take(&self.hub, &node, outgoing.clone(), expel).ok_or_else(|| {
            self.hub
                .metrics
                .refused
                .get_or_create(&[("reason", "second")])
                .inc();
            Status::already_exists(format!("node {node} has a live stream already"))
        })?;
        if let Err(reason) = self.hub.admission.admit(&node).await {
            self.hub
                .metrics
                .refused
                .get_or_create(&[("reason", "admission")])
                .inc();
            info!(node = %node, reason = %reason, "node not admitted");
            return Err(Status::permission_denied(reason));
        }
        let driver = Driver {
            session: Session::new(node, Instant::now()),
            claim,
            outgoing,
            expelled,
        };
        tokio::spawn(driver.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::EnrolResponse>, Status> {
        let node = node_of(&request)?;
        let csr = request.into_inner().csr;
        let answer = enrol::certificate(&self.authority, node.as_str(), &csr, SystemTime::now())?;
        info!(node = %node, "certificate renewed");
        Ok(Response::new(answer))
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

    fn welcome(&mut self) {
        self.welcomed = true;
        if let Some(live) = self.hub.streams.lock().get_mut(&self.node) {
            live.welcomed = true;
        }
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
        if streams
            .get(&self.node)
            .is_some_and(|live| live.number == self.number)
        {
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
    #[error("the agent does not read")]
    Stuck,
    #[error("{0}")]
    Expelled(String),
    #[error("this controller stops, or does not lead any more")]
    Closing,
}

impl Driver {
    async fn run(mut self, mut incoming: Streaming<pb::AgentMessage>) {
        let end = loop {
            let closing = self.claim.hub.closing.clone();
            let deadline = tokio::time::Instant::from_std(self.session.deadline());
            let message = tokio::select! {
                () = closing.cancelled() => break End::Closing,
                Ok(reason) = &mut self.expelled => break End::Expelled(reason),
                () = tokio::time::sleep_until(deadline) => {
                    if let Err(refusal) = self.session.tick(Instant::now()) {
                        break End::Refused(refusal);
                    }
                    continue;
                }
                message = incoming.message() => message,
            };
            match message {
                Ok(Some(message)) => {
                    if let Err(end) = self.take(message) {
                        break end;
                    }
                }
                Ok(None) => break End::Closed,
                Err(status) => break End::Lost(status.message().to_owned()),
            }
        };
        self.end(&end);
    }

    fn end(&self, end: &End) {
        let metrics = &self.claim.hub.metrics;
        let status = match end {
            End::Closed | End::Lost(_) => None,
            End::Refused(Refusal::Silent) => Some(("silent", Status::deadline_exceeded(end.to_string()))),
            End::Refused(_) => Some(("protocol", Status::failed_precondition(end.to_string()))),
            End::Stuck => Some(("stuck", Status::resource_exhausted(end.to_string()))),
            End::Expelled(_) => Some(("expelled", Status::permission_denied(end.to_string()))),
            End::Closing => Some(("closing", Status::unavailable(end.to_string()))),
        };
        info!(node = %self.claim.node, reason = %end, "stream ended");
        if let Some((reason, status)) = status {
            metrics.refused.get_or_create(&[("reason", reason)]).inc();
            // A full queue means that nobody reads it.
            let _ = self.outgoing.try_send(Err(status));
        }
    }

    fn take(&mut self, message: pb::AgentMessage) -> Result<(), End> {
        let metrics = &self.claim.hub.metrics;
        metrics.messages.get_or_create(&[("kind", kind(&message))]).inc();
        match self.session.on(message, Instant::now())? {
            None => Ok(()),
            Some(Step::Welcome(hello)) => self.welcome(hello),
            Some(Step::Resync(reason)) => {
                metrics.resyncs.inc();
                warn!(node = %self.claim.node, reason = %reason, "resync");
                self.send(Answer::Resync(pb::Resync { reason }))
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
        }
    }

    fn welcome(&mut self, hello: Hello) -> Result<(), End> {
        let hub = Arc::clone(&self.claim.hub);
        info!(node = %self.claim.node, version = %hello.agent_version, "agent connected");
        self.send(Answer::Welcome(pb::Welcome {
            protocol_version: PROTOCOL_VERSION,
            lease_epoch: hub.lease_epoch.load(Ordering::Acquire),
            discover_interval_seconds: u32::try_from(hub.settings.discover_interval.as_secs()).unwrap_or(0),
            cluster_id: hub.settings.cluster_id.clone(),
        }))?;
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
        self.claim.welcome();
        hub.changed(&self.claim.node);
        Ok(())
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

    fn count_faults(&self, of_node: &[smart_storage_core::drive::Fault], drives: &[DriveFacts]) {
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
}
