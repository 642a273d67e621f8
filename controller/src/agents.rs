//! The agents: their enrolment, their streams, and the hub through which the rest of the controller meets them.
//!
//! Channels: streams write what they hear into the [`Registry`] and say the node's name on [`AgentsHub::changes`];
//! commands go through [`AgentsHub::send`], bounded for each stream, and are answered once. A name has one live
//! stream at most; a second one is refused and never takes over. Nothing here decides about drives.
//!
//! [`serve_streams`] belongs on the agents' port (mTLS), [`serve_enrolment`] on the enrolment port.

pub mod enrol;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod identity;
pub mod limit;
pub mod pace;
pub mod roster;
pub mod session;
mod stream;
pub mod tokens;
pub mod wire;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::Router;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use smart_storage_core::{
    drive::{DriveFacts, DriveId, NodeName},
    identity::KnownDrive,
    node::NodeRecord,
    registry::Registry,
};
use smart_storage_proto::agent::v1::{
    self as pb, agent_service_server::AgentServiceServer, enrolment_service_server::EnrolmentServiceServer,
};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Status, service::Routes};
use tracing::warn;

use self::{pace::Pace, roster::Roster};
use crate::{
    api::grpc::guard,
    pki::{Pki, PkiError},
    tally::Tally,
    telemetry::AgentMetrics,
};

pub use pb::{CommandResult, EnsureMember, ExpectedDrive, ReleaseMember, WeedVolume};

/// What an agent can be told. Each may be repeated with the same meaning.
pub type Command = pb::command::Command;

/// Messages that wait for one agent; more means that it does not read.
const QUEUE: usize = 64;
/// Commands of one stream that wait for their result.
const PENDING: usize = 1024;
/// Node names that wait for one listener of [`AgentsHub::changes`].
const CHANGES: usize = 4096;

/// What an administrator says of one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeSettings {
    /// Time between its full rescans; none: that of all nodes.
    pub discover_interval: Option<Duration>,
}

/// Whether a node may be taken in. Asked at the begin of each stream, after its certificate was verified.
#[tonic::async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Takes the node in, or says why not; the agent logs the reason.
    ///
    /// # Errors
    /// The reason in words.
    async fn admit(&self, node: &NodeName) -> Result<NodeSettings, String>;

    /// Whether a node that was taken in is still wanted; asked before its certificate is renewed. Takes nobody in.
    ///
    /// # Errors
    /// The reason in words.
    async fn keep(&self, node: &NodeName) -> Result<(), String>;
}

/// Admits every node that has a certificate.
#[derive(Debug, Clone, Copy, Default)]
pub struct AdmitAll;

#[tonic::async_trait]
impl Admission for AdmitAll {
    async fn admit(&self, _node: &NodeName) -> Result<NodeSettings, String> {
        Ok(NodeSettings::default())
    }

    async fn keep(&self, _node: &NodeName) -> Result<(), String> {
        Ok(())
    }
}

/// What agents are told at Welcome.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// The cluster's id.
    pub cluster_id: String,
    /// Time between full rescans that agents are told to make.
    pub discover_interval: Duration,
    /// Without any message for so long a stream is dead; [`session::SILENCE`].
    pub silence: Duration,
}

/// Why a command was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The node has no live stream.
    #[error("the agent of node {0} is not connected")]
    Away(NodeName),
    /// Too many commands wait for this agent.
    #[error("the agent of node {0} does not take more commands now")]
    Busy(NodeName),
    /// The stream ended, or the time was up, before the answer came.
    #[error("the agent of node {0} did not answer")]
    Unanswered(NodeName),
}

/// The one place where the controller meets its agents.
pub struct AgentsHub {
    registry: Arc<Registry>,
    roster: Roster,
    settings: HubSettings,
    admission: Arc<dyn Admission>,
    metrics: AgentMetrics,
    lease_epoch: AtomicU64,
    next: AtomicU64,
    streams: Mutex<HashMap<NodeName, Live>>,
    /// How much each node has told; it outlives a stream, so that nobody tells more by connecting again.
    paces: Mutex<HashMap<NodeName, Pace>>,
    /// What was logged of each node lately, across its streams.
    said: Mutex<HashMap<NodeName, BTreeMap<&'static str, Tally>>>,
    changes: broadcast::Sender<NodeName>,
    closing: CancellationToken,
}

type Pending = Arc<Mutex<HashMap<String, oneshot::Sender<pb::CommandResult>>>>;

struct Live {
    number: u64,
    outgoing: mpsc::Sender<Result<pb::ControllerMessage, Status>>,
    pending: Pending,
    expel: Option<oneshot::Sender<String>>,
    welcomed: bool,
    settings: NodeSettings,
    /// Until when its certificate is good, seconds of Unix time; a renewal moves it.
    good_until: i64,
}

impl AgentsHub {
    /// A hub that takes no streams until [`AgentsHub::lead`].
    #[must_use]
    pub fn new(
        registry: Arc<Registry>,
        settings: HubSettings,
        admission: Arc<dyn Admission>,
        metrics: AgentMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            registry,
            roster: Roster::default(),
            settings,
            admission,
            metrics,
            lease_epoch: AtomicU64::new(0),
            next: AtomicU64::new(1),
            streams: Mutex::new(HashMap::new()),
            paces: Mutex::new(HashMap::new()),
            said: Mutex::new(HashMap::new()),
            changes: broadcast::channel(CHANGES).0,
            closing: CancellationToken::new(),
        })
    }

    /// From now on this process leads with `lease_epoch` (greater than 0, and than that of any leader before);
    /// streams are taken. `known` is every drive on record (StorageNodes' status, PoolMembers): without it a drive
    /// that was seen before would be given a new id.
    pub fn lead(&self, lease_epoch: u64, known: impl IntoIterator<Item = KnownDrive>) {
        self.roster.remember(known);
        self.lease_epoch.store(lease_epoch, Ordering::Release);
    }

    /// No more streams are taken, and those that are open end. For the end of the process.
    pub fn close(&self) {
        self.lease_epoch.store(0, Ordering::Release);
        self.closing.cancel();
    }

    /// The nodes as their agents last told.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// What is to be kept of the drives that were last seen on `node`, ordered by id: the durable memory of their
    /// ids, for StorageNode.status.
    #[must_use]
    pub fn known_drives(&self, node: &NodeName) -> Vec<KnownDrive> {
        self.roster.of_node(node)
    }

    /// What is remembered of one drive.
    #[must_use]
    pub fn known_drive(&self, drive: &DriveId) -> Option<KnownDrive> {
        self.roster.get(drive)
    }

    /// Forgets drives: should they be seen again, they are new.
    pub fn forget_drives<'a>(&self, drives: impl IntoIterator<Item = &'a DriveId>) {
        self.roster.forget(drives);
    }

    /// Ends a node's stream, tells its agent why and forgets the node; it comes back, and is admitted or not. Nothing
    /// happens where the node has none.
    pub fn expel(&self, node: &NodeName, reason: &str) {
        let mut streams = self.streams.lock();
        if let Some(expel) = streams.get_mut(node).and_then(|live| live.expel.take()) {
            // A stream that is just ending does not hear it any more.
            let _ = expel.send(reason.to_owned());
        }
    }

    /// Tells a node's agent what an administrator changed, where its stream is open and it was told otherwise.
    pub fn settle(&self, node: &NodeName, settings: NodeSettings) {
        let mut streams = self.streams.lock();
        let Some(live) = streams.get_mut(node).filter(|live| live.settings != settings) else {
            return;
        };
        live.settings = settings;
        if live.welcomed {
            let message = pb::controller_message::Message::Settings(pb::Settings {
                discover_interval_seconds: self.interval_seconds(settings),
            });
            // A full queue means that the agent does not read: it is told at its next Welcome.
            let _ = live.outgoing.try_send(Ok(pb::ControllerMessage {
                message: Some(message),
            }));
        }
    }

    /// The nodes that have a stream now.
    #[must_use]
    pub fn with_stream(&self) -> Vec<NodeName> {
        self.streams.lock().keys().cloned().collect()
    }

    fn interval_seconds(&self, settings: NodeSettings) -> u32 {
        let interval = settings
            .discover_interval
            .unwrap_or(self.settings.discover_interval);
        u32::try_from(interval.as_secs()).unwrap_or(u32::MAX)
    }

    /// The node has a certificate that is good until then: its stream may go on for as long.
    fn good_until(&self, node: &NodeName, unix_seconds: i64) {
        if let Some(live) = self.streams.lock().get_mut(node) {
            live.good_until = live.good_until.max(unix_seconds);
        }
    }

    fn count_refused(&self, reason: &'static str) {
        self.metrics.refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// `what` happened to the node again. Where that is worth a line: how often since the last one. However often a
    /// node comes and goes, it does not flood the log.
    fn worth(&self, node: &NodeName, what: &'static str) -> Option<u64> {
        let mut said = self.said.lock();
        let of_node = said.entry(node.clone()).or_default();
        of_node.entry(what).or_default().note(tokio::time::Instant::now())
    }

    fn count_certificate(&self, outcome: &'static str) {
        self.metrics
            .certificates
            .get_or_create(&[("outcome", outcome)])
            .inc();
    }

    /// Forgets a node that nobody wants any more, unless its agent is connected: one that was expelled is forgotten as
    /// its stream ends.
    pub fn forget_node(&self, node: &NodeName) {
        if !self.connected(node) {
            self.forget(node);
        }
    }

    fn forget(&self, node: &NodeName) {
        self.paces.lock().remove(node);
        self.said.lock().remove(node);
        let now = unix_ms(SystemTime::now());
        for changed in self.roster.forget_node(&self.registry, node, now) {
            self.changed(&changed);
        }
    }

    /// Names of nodes of which something changed, from now on. Who lags behind looks at all nodes.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<NodeName> {
        self.changes.subscribe()
    }

    /// Whether the node has a live stream.
    #[must_use]
    pub fn connected(&self, node: &NodeName) -> bool {
        self.streams.lock().get(node).is_some_and(|live| live.welcomed)
    }

    /// Sends a command; its result comes through the receiver, which fails where the stream ends before.
    ///
    /// # Errors
    /// [`SendError`] where the node is away, or takes no more.
    pub fn send(
        &self,
        node: &NodeName,
        command: Command,
    ) -> Result<oneshot::Receiver<CommandResult>, SendError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let (answer, answered) = oneshot::channel();
        let streams = self.streams.lock();
        let live = streams
            .get(node)
            .filter(|live| live.welcomed)
            .ok_or_else(|| SendError::Away(node.clone()))?;
        {
            let mut pending = live.pending.lock();
            // Who asked may have stopped waiting.
            pending.retain(|_, waiting| !waiting.is_closed());
            if pending.len() >= PENDING {
                return Err(SendError::Busy(node.clone()));
            }
            pending.insert(id.clone(), answer);
        }
        let message = pb::controller_message::Message::Command(pb::Command {
            id: id.clone(),
            lease_epoch: self.lease_epoch.load(Ordering::Acquire),
            command: Some(command),
        });
        let sent = live.outgoing.try_send(Ok(pb::ControllerMessage {
            message: Some(message),
        }));
        match sent {
            Ok(()) => Ok(answered),
            Err(error) => {
                live.pending.lock().remove(&id);
                Err(match error {
                    mpsc::error::TrySendError::Full(_) => SendError::Busy(node.clone()),
                    mpsc::error::TrySendError::Closed(_) => SendError::Away(node.clone()),
                })
            }
        }
    }

    /// [`AgentsHub::send`], then waits for the result for at most `patience`.
    ///
    /// # Errors
    /// [`SendError`], also where no answer came.
    pub async fn ask(
        &self,
        node: &NodeName,
        command: Command,
        patience: Duration,
    ) -> Result<CommandResult, SendError> {
        let answered = self.send(node, command)?;
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) | Err(_) => Err(SendError::Unanswered(node.clone())),
        }
    }

    fn publish(&self, node: &NodeName, update: impl FnOnce(&mut NodeRecord, &mut Vec<DriveFacts>)) {
        for changed in self
            .roster
            .publish(&self.registry, node, unix_ms(SystemTime::now()), update)
        {
            self.changed(&changed);
        }
    }

    fn changed(&self, node: &NodeName) {
        // Nobody listens: nobody has to know.
        let _ = self.changes.send(node.clone());
    }
}

/// Most bytes of one message: a snapshot of [`wire::MOST`] drives stays below.
const MESSAGE: usize = 4 << 20;

/// The agents' service (Sync and Renew) as a router for the agents' port, which must be mTLS.
pub fn serve_streams(hub: Arc<AgentsHub>, pki: Arc<Pki>) -> Router {
    let service = AgentServiceServer::new(stream::Streams::new(hub, pki)).max_decoding_message_size(MESSAGE);
    Routes::new(service).prepare().into_axum_router()
}

/// The enrolment service as a router for the enrolment port.
pub fn serve_enrolment(enrolment: enrol::Enrolment) -> Router {
    let service = EnrolmentServiceServer::new(enrolment).max_decoding_message_size(64 << 10);
    guard::tamed(Routes::new(service).prepare().into_axum_router())
}

/// Writes down which CA's certificate a node was given. Nothing waits for the disk.
fn note_holder(pki: &Arc<Pki>, node: &str, given: &pb::EnrolResponse) {
    let leaf = given.certificate_chain.first().cloned().map(CertificateDer::from);
    let (pki, node) = (Arc::clone(pki), node.to_owned());
    in_background(move || leaf.map_or(Ok(()), |leaf| pki.holds(&node, &leaf)));
}

fn in_background(write: impl FnOnce() -> Result<(), PkiError> + Send + 'static) {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = write() {
            warn!(error = %error, "which CA a node's certificate is of was not written down");
        }
    });
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|d| u64::try_from(d.as_millis()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
