//! The stream to the controller: what is told, what is taken, and how it comes back after everything that can end.
//!
//! [`Told`] is pure: it knows what the controller has been told in this epoch and makes the next message of it; equal
//! pictures make none. [`Lease`] refuses orders of a leader that is not leading any more. [`run`] is the driver: it
//! connects, enrols where the certificate is missing or refused, renews it at half of its life while the stream goes
//! on, and never ends but by its token. It never looks at a drive itself, and never decides about one.

pub mod connect;
mod stream;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use smart_storage_proto::agent::v1 as pb;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::connect::Backoff;
use crate::{
    enrol::{self, EnrolError, Enrolment, NodeIdentity},
    inventory::{self, Inventory},
    member::{self, MemberId, MemberReports},
    telemetry::{Health, Metrics},
    wire,
};

/// The name of the stream's check in `/readyz`.
pub const CHECK: &str = "stream";

/// What the controller has been told in this epoch.
#[derive(Debug)]
pub struct Told {
    epoch: u64,
    seq: u64,
    inventory: Arc<Inventory>,
    members: MemberReports,
}

impl Told {
    /// Nothing yet; snapshots have epochs greater than `after`.
    #[must_use]
    pub fn new(after: u64) -> Self {
        Self {
            epoch: after,
            seq: 0,
            inventory: Arc::default(),
            members: MemberReports::default(),
        }
    }

    /// Everything, under the next epoch.
    pub fn snapshot(&mut self, inventory: &Arc<Inventory>, members: &MemberReports) -> pb::Snapshot {
        self.epoch += 1;
        self.seq = 0;
        self.inventory = Arc::clone(inventory);
        self.members = Arc::clone(members);
        pb::Snapshot {
            epoch: self.epoch,
            devices: inventory
                .devices
                .values()
                .map(|device| wire::device(device))
                .collect(),
            members: wire::members(members),
            faults: inventory.faults.iter().map(wire::fault).collect(),
        }
    }

    /// What changed since the last message; none where nothing did.
    pub fn delta(&mut self, inventory: &Arc<Inventory>, members: &MemberReports) -> Option<pb::Delta> {
        let drives = inventory::diff(&self.inventory, inventory);
        let changed = members
            .iter()
            .filter(|(id, report)| self.members.get(*id) != Some(*report));
        let members_changed: Vec<_> = changed.map(|(id, report)| wire::member(*id, report)).collect();
        let gone = self.members.keys().filter(|id| !members.contains_key(id));
        let members_removed: Vec<_> = gone.map(ToString::to_string).collect();
        if drives.is_empty() && members_changed.is_empty() && members_removed.is_empty() {
            return None;
        }
        self.seq += 1;
        self.inventory = Arc::clone(inventory);
        self.members = Arc::clone(members);
        Some(pb::Delta {
            epoch: self.epoch,
            seq: self.seq,
            members_changed,
            members_removed,
            ..wire::delta(&drives)
        })
    }

    /// Where this side stands.
    #[must_use]
    pub fn heartbeat(&self) -> pb::Heartbeat {
        pb::Heartbeat {
            epoch: self.epoch,
            seq: self.seq,
        }
    }
}

/// The greatest lease epoch that was seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lease {
    seen: u64,
}

impl Lease {
    /// Whether a leader of this epoch is obeyed; a greater one is remembered.
    pub fn accept(&mut self, epoch: u64) -> bool {
        let accepted = epoch >= self.seen;
        self.seen = self.seen.max(epoch);
        accepted
    }
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Stable, CamelCase.
    pub reason: String,
    /// What was refused, why, and what would help.
    pub message: String,
    /// False: the same order cannot succeed until somebody changes something.
    pub retryable: bool,
}

impl From<member::MemberError> for Refused {
    fn from(error: member::MemberError) -> Self {
        Self {
            reason: error.reason.to_owned(),
            message: error.message,
            retryable: error.retryable,
        }
    }
}

/// Who carries out what the controller orders.
#[tonic::async_trait]
pub trait Actions: Send + Sync + 'static {
    /// Probes everything now; done when the watched inventory shows it.
    async fn probe_now(&self) -> Result<(), Refused>;
    /// Makes a member exist, be mounted and serve.
    async fn ensure(&self, order: member::EnsureMember) -> Result<(), Refused>;
    /// Stops a member and marks its drive released.
    async fn release(&self, member: MemberId) -> Result<(), Refused>;
    /// The controller's interval between full rescans.
    fn discover_interval(&self, interval: Duration);
}

/// What a session is made of.
#[derive(Clone)]
pub struct Session {
    /// `host:port` of each controller, tried in turn.
    pub controllers: Vec<String>,
    /// How a certificate is got.
    pub enrolment: Enrolment,
    /// Where the identity is kept.
    pub data_dir: PathBuf,
    /// What Hello says.
    pub hello: pb::Hello,
    /// The node's drives.
    pub inventory: watch::Receiver<Arc<Inventory>>,
    /// The node's members.
    pub members: watch::Receiver<MemberReports>,
    /// Who carries out orders.
    pub actions: Arc<dyn Actions>,
    /// Readiness.
    pub health: Health,
    /// Counters.
    pub metrics: Metrics,
    /// The wall clock, by which certificates are judged.
    pub clock: fn() -> SystemTime,
}

/// Keeps the stream until `shutdown`.
pub async fn run(session: Session, shutdown: CancellationToken) {
    let mut keeper = Keeper {
        identity: None,
        distrusted: false,
        lease: Lease::default(),
        // Epochs of a restarted agent are greater than those before, too: nothing hangs on it, but logs read better.
        epoch: unix_seconds((session.clock)()),
        next: 0,
        session,
    };
    let mut backoff = Backoff::default();
    keeper.session.health.bad(CHECK, "not connected yet");
    loop {
        let tried = tokio::select! {
            () = shutdown.cancelled() => return,
            tried = keeper.try_once() => tried,
        };
        keeper.session.metrics.stream_connected.set(0);
        let Ended { welcomed, reason } = tried;
        if welcomed {
            backoff.reset();
        }
        let wait = backoff.next(connect::dice());
        warn!(reason = %reason, retry_ms = wait.as_millis(), "no stream to the controller");
        keeper.session.health.bad(CHECK, reason);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// How a try ended.
#[derive(Debug)]
struct Ended {
    welcomed: bool,
    reason: String,
}

impl Ended {
    fn before(reason: impl ToString) -> Self {
        Self {
            welcomed: false,
            reason: reason.to_string(),
        }
    }
}

/// What lives longer than one stream.
struct Keeper {
    session: Session,
    identity: Option<NodeIdentity>,
    /// One side did not accept the other's certificate: the token is the way back, where there is one.
    distrusted: bool,
    lease: Lease,
    epoch: u64,
    next: usize,
}

impl Keeper {
    async fn try_once(&mut self) -> Ended {
        let identity = match self.identity().await {
            Ok(identity) => identity,
            Err(error) => return Ended::before(error),
        };
        let addr = match self
            .session
            .controllers
            .get(self.next % self.session.controllers.len().max(1))
        {
            Some(addr) => addr.clone(),
            None => return Ended::before("no controller address"),
        };
        self.next = self.next.wrapping_add(1);
        let connected = match identity.client() {
            Ok(config) => connect::connect(&addr, config).await,
            Err(error) => return Ended::before(error),
        };
        match connected {
            Ok(channel) => {
                let ended = stream::Stream::new(self, channel, identity).run().await;
                if ended.welcomed {
                    // The same one again, first.
                    self.next = self.next.wrapping_sub(1);
                }
                ended
            }
            Err(error) => {
                self.note_distrust(&error);
                self.count("connect_failed");
                Ended::before(error)
            }
        }
    }

    fn count(&self, outcome: &'static str) {
        self.session
            .metrics
            .streams
            .get_or_create(&[("outcome", outcome)])
            .inc();
    }

    fn note_distrust(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.distrusted = self.distrusted || enrol::is_certificate_problem(error);
    }

    /// The identity to show: the present one while it is good, a new one otherwise.
    async fn identity(&mut self) -> Result<NodeIdentity, EnrolError> {
        let present = match self.identity.take() {
            Some(identity) => Some(identity),
            None => NodeIdentity::load(&self.session.data_dir).unwrap_or_else(|error| {
                warn!(error = %error, "identity cannot be used");
                None
            }),
        };
        let now = (self.session.clock)();
        let good = present.filter(|identity| identity.is_valid(now));
        let has_token = self.session.enrolment.token_file.is_some();
        let identity = match good {
            Some(identity) if !(self.distrusted && has_token) => identity,
            good => match self.enrol().await {
                Ok(identity) => identity,
                // A refused enrolment leaves what there was: the distrust may pass by itself.
                Err(error) => {
                    self.identity = good;
                    self.distrusted = false;
                    return Err(error);
                }
            },
        };
        self.identity = Some(identity.clone());
        Ok(identity)
    }

    async fn enrol(&mut self) -> Result<NodeIdentity, EnrolError> {
        let identity = self.session.enrolment.enrol().await?;
        member::fault::point("identity-received");
        identity.store(&self.session.data_dir)?;
        self.distrusted = false;
        self.session
            .metrics
            .certificates
            .get_or_create(&[("by", "enrolment")])
            .inc();
        info!(node = %self.session.enrolment.node, "enrolled");
        Ok(identity)
    }
}

fn unix_seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::hardware::Device;

    fn picture(names: &[&str]) -> Arc<Inventory> {
        let device = |name: &&str| Device {
            name: (*name).to_owned(),
            ..Device::default()
        };
        Arc::new(Inventory {
            complete: true,
            devices: names
                .iter()
                .map(|n| ((*n).to_owned(), Arc::new(device(n))))
                .collect(),
            faults: Vec::new(),
        })
    }

    fn member(state: member::MemberState) -> MemberReports {
        let id = MemberId::parse("0190d5c4-7c3e-7a50-8a51-6c2f1f1d0a11").unwrap();
        let report = member::MemberReport {
            state,
            ..Default::default()
        };
        Arc::new(BTreeMap::from([(id, report)]))
    }

    #[test]
    fn nothing_changed_means_nothing_said() {
        let mut told = Told::new(0);
        told.snapshot(&picture(&["sda"]), &MemberReports::default());
        assert_eq!(told.delta(&picture(&["sda"]), &MemberReports::default()), None);
        assert_eq!((told.heartbeat().epoch, told.heartbeat().seq), (1, 0));
    }

    #[test]
    fn deltas_are_numbered_without_gap_and_a_snapshot_begins_a_new_epoch() {
        let none = MemberReports::default();
        let mut told = Told::new(41);
        assert_eq!(told.snapshot(&picture(&[]), &none).epoch, 42);
        let first = told.delta(&picture(&["sda", "sdb"]), &none).unwrap();
        assert_eq!((first.epoch, first.seq, first.changed.len()), (42, 1, 2));
        let second = told.delta(&picture(&["sdb"]), &none).unwrap();
        assert_eq!((second.seq, second.removed), (2, vec!["sda".to_owned()]));
        assert_eq!(told.snapshot(&picture(&["sdb"]), &none).epoch, 43);
        assert_eq!((told.heartbeat().epoch, told.heartbeat().seq), (43, 0));
    }

    #[test]
    fn members_come_change_and_go_in_deltas() {
        use member::MemberState;
        let inventory = picture(&[]);
        let mut told = Told::new(0);
        told.snapshot(&inventory, &MemberReports::default());
        let came = told.delta(&inventory, &member(MemberState::Preparing)).unwrap();
        assert_eq!(came.members_changed.len(), 1);
        assert_eq!(told.delta(&inventory, &member(MemberState::Preparing)), None);
        let changed = told.delta(&inventory, &member(MemberState::Online)).unwrap();
        assert_eq!(
            changed.members_changed[0].state(),
            pb::member_report::State::Online
        );
        let gone = told.delta(&inventory, &MemberReports::default()).unwrap();
        assert_eq!(gone.members_removed.len(), 1);
    }

    #[test]
    fn a_leader_of_the_past_is_not_obeyed() {
        let mut lease = Lease::default();
        assert!(lease.accept(3) && lease.accept(3) && lease.accept(5));
        assert!(!lease.accept(4));
        assert!(lease.accept(5));
    }
}
