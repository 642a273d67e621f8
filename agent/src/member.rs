//! Members: drives that serve a pool. The only code of the agent that writes to a drive.
//!
//! What it does: finds the drive that the controller means, proves through one exclusively opened descriptor
//! that it is that drive and that nothing is on it, writes the mark, makes a file system, mounts it on an
//! immutable mount point, runs one storage process on it and watches both; releases it again when told.
//!
//! What it never does: it never decides which drive to take, never takes one by its kernel name, never writes
//! to a drive that it has not just seen to be blank and whole, never makes a file system where a finished one
//! is, never starts the storage process on a folder that is not the member's own file system, and never writes
//! anything while nothing changes. Doubt means no: a refusal with its reason.
//!
//! Channels: orders come in through [`Members::ensure`] and [`Members::release`] and go to one task for each
//! member; what is seen goes out through [`Members::reports`], which stays silent while nothing changes.

mod content;
mod direct;
mod expected;
pub mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod held;
#[cfg(test)]
mod journey;
mod judge;
mod look;
mod mark;
mod mount;
mod openers;
mod partition;
#[cfg(test)]
mod pause;
mod prepare;
mod process;
mod prove;
mod release;
mod shutdown;
mod store;
mod supervise;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::hardware::{Evidence, Hardware};
use crate::inventory::Inventory;
use store::{Loaded, MemberSpec, Store};
use supervise::{Answer, Context, Order, Supervisor};

pub use shutdown::{StopAllError, stop_all};

/// A member's identity: the partition GUID of its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberId(Uuid);

impl MemberId {
    /// Reads a UUID in any of its usual spellings; `None` for anything else and for the nil UUID.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().filter(|id| !id.is_nil()).map(Self)
    }

    /// The UUID itself.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.hyphenated())
    }
}

/// The file system of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSystem {
    /// The default, where `mkfs.xfs` is there.
    #[default]
    Xfs,
    /// On request, and where there is no `mkfs.xfs`.
    Ext4,
}

impl FileSystem {
    /// The kernel's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Ext4 => "ext4",
        }
    }
}

/// The drive as the controller knows it: what has to be found again before anything is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedDrive {
    /// Kernel name at the controller's last picture: a hint for messages, never a choice.
    pub device: String,
    /// Size of the whole drive, bytes.
    pub size_bytes: u64,
    /// The kernel's disk sequence number, where it has one.
    pub disk_sequence: Option<u64>,
    /// Must agree, piece by piece, with what is seen now.
    pub evidence: Evidence,
    /// The controller's id of the drive; for logs and messages.
    pub drive_id: String,
}

/// How the storage process of a member is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeedVolume {
    /// `host:http.grpc` of each master.
    pub masters: Vec<String>,
    /// Disk type tag of the pool.
    pub disk_tag: String,
    /// Number of volume slots.
    pub max_volumes: u32,
    /// Empty: SeaweedFS's own default.
    pub data_center: String,
    /// Empty: SeaweedFS's own default.
    pub rack: String,
    /// Free space to leave on the file system, bytes.
    pub min_free_bytes: u64,
}

/// One order: make this member exist, be mounted and serve. May be repeated with the same meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnsureMember {
    /// Who it is.
    pub member_id: MemberId,
    /// Name of the pool.
    pub pool: String,
    /// The cluster that the member belongs to.
    pub cluster_id: String,
    /// May the drive be written to, if it is proven blank? False: it is only looked for by its mark.
    pub may_prepare: bool,
    /// The drive that is meant.
    pub drive: ExpectedDrive,
    /// The file system to make.
    pub file_system: FileSystem,
    /// The process to run on it.
    pub weed: WeedVolume,
}

/// Why a member could not be ensured or released.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct MemberError {
    /// Stable, CamelCase: `NotBlank`, `DriveChanged`, `InUse`, `DriveMissing`, `TooSmall`, `ReadOnly`, ...
    pub reason: &'static str,
    /// What was refused, why, and what would help.
    pub message: String,
    /// False: the same order cannot succeed until somebody changes something.
    pub retryable: bool,
}

impl MemberError {
    /// A refusal that stays until somebody changes something.
    pub(crate) fn refused(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retryable: false,
        }
    }

    /// A failure that may be over at the next attempt.
    pub(crate) fn transient(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retryable: true,
        }
    }
}

/// What a member is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberState {
    /// The drive is being taken: marked, or about to be, and not finished.
    Preparing,
    /// Prepared, not served now.
    #[default]
    Stopped,
    /// Mounted, and the storage process answers.
    Online,
    /// Something is wrong; reason and message say what.
    Failed,
    /// Known here, and its drive is not there.
    Missing,
    /// Its data is still on the drive, and nobody serves it.
    Released,
    /// Found by its mark, and nobody has told this agent to serve it.
    Found,
}

/// One member as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberReport {
    /// What it is doing.
    pub state: MemberState,
    /// CamelCase, stable; empty when all is well.
    pub reason: String,
    /// What is wrong, why, and what would help.
    pub message: String,
    /// Kernel name of the drive it is on now; empty when it is on none.
    pub device: String,
    /// UUID of its file system; empty before there is one.
    pub filesystem_uuid: String,
    /// Where it is (to be) mounted.
    pub mount_point: String,
    /// Size of the file system, bytes; 0 while it is not mounted.
    pub capacity_bytes: u64,
    /// Used bytes, quantised to 1 % of the capacity, so that an idle node is silent.
    pub used_bytes: u64,
    /// `host:port` of the storage process (HTTP); empty while none runs.
    pub endpoint: String,
    /// Name of the pool.
    pub pool: String,
}

/// All members of the node, by id.
pub type MemberReports = Arc<BTreeMap<MemberId, MemberReport>>;

/// Where the members of a node live.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// The agent's folder: `members/` (what was asked), `mounts/`, `log/` under it.
    pub data_dir: PathBuf,
    /// Where the host's `/dev`, `/sys` and `/proc` are; `/` on a bare machine.
    pub host_root: PathBuf,
    /// The storage program: a path, or a name to look for in `PATH`.
    pub weed_program: PathBuf,
    /// Folder of its `security.toml`; none: where it looks by itself.
    pub weed_security: Option<PathBuf>,
    /// Time between two looks at a running member.
    pub check_interval: Duration,
    /// The drives of the picture are not this machine's: nothing is served, and every order is refused.
    pub simulated: bool,
}

impl MemberConfig {
    /// The usual arrangement under `data_dir` on a bare machine.
    pub fn new(data_dir: impl Into<PathBuf>, weed_program: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            host_root: PathBuf::from("/"),
            weed_program: weed_program.into(),
            weed_security: None,
            check_interval: Duration::from_secs(5),
            simulated: false,
        }
    }

    /// A path of the host, as this process reaches it.
    pub(crate) fn host(&self, path: &str) -> PathBuf {
        self.host_root.join(path.trim_start_matches('/'))
    }

    /// The member's mount point.
    pub(crate) fn mount_point(&self, id: MemberId) -> PathBuf {
        self.data_dir.join("mounts").join(id.to_string())
    }
}

/// How long an order is waited for; it goes on after that, and the next one meets it.
const ORDER_LIMIT: Duration = Duration::from_secs(90);

/// Orders that may wait for one member.
const ORDERS_WAITING: usize = 8;

/// The members of this node. Clones are handles to the same ones.
///
/// Dropping the last handle ends the tasks and leaves the storage processes running: they outlive the agent, and
/// the next [`Members::start`] finds them again.
#[derive(Clone)]
pub struct Members {
    shared: Arc<Shared>,
}

struct Shared {
    context: Arc<Context>,
    inventory: watch::Receiver<Arc<Inventory>>,
    tasks: Mutex<BTreeMap<MemberId, mpsc::Sender<Order>>>,
    tracker: TaskTracker,
}

impl Members {
    /// Brings back the members that this node was told to serve, and begins to take orders.
    /// Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// Where the data folder cannot be made or read.
    pub fn start(
        config: MemberConfig,
        hardware: Arc<dyn Hardware>,
        inventory: watch::Receiver<Arc<Inventory>>,
    ) -> Result<Self, MemberError> {
        let failed = |error: &dyn fmt::Display| MemberError::refused("StoreFailed", error.to_string());
        let store = Store::open(&config.data_dir).map_err(|error| failed(&error))?;
        // The kernel's mount table knows real paths only.
        let data_dir = config.data_dir.canonicalize().map_err(|error| failed(&error))?;
        let loaded = if config.simulated {
            // Their drives are not in the picture: nobody is to look for them, nor to stop what serves them.
            Loaded {
                specs: Vec::new(),
                failures: Vec::new(),
            }
        } else {
            store.load().map_err(|error| failed(&error))?
        };
        let context = Arc::new(Context {
            config: MemberConfig { data_dir, ..config },
            hardware,
            store,
            reports: watch::Sender::new(MemberReports::default()),
        });
        for (id, error) in loaded.failures {
            tracing::error!(%error, "a member's file cannot be read");
            if let Some(id) = id {
                let (state, reason) = (MemberState::Failed, "SpecUnreadable".to_owned());
                context.report(
                    id,
                    MemberReport {
                        state,
                        reason,
                        message: error.to_string(),
                        ..MemberReport::default()
                    },
                );
            }
        }
        let shared = Arc::new(Shared {
            context,
            inventory: inventory.clone(),
            tasks: Mutex::default(),
            tracker: TaskTracker::new(),
        });
        for spec in loaded.specs {
            shared.task(spec.order.member_id, Some(spec));
        }
        tokio::spawn(tell_of_unknown_marks(Arc::downgrade(&shared), inventory));
        Ok(Self { shared })
    }

    /// Makes a member exist, be mounted and be about to serve; [`Members::reports`] says when it is online.
    /// The same order again changes nothing, and goes on where the last one failed or was interrupted.
    ///
    /// # Errors
    /// The refusal with its reason; nothing was written to a drive that is refused.
    pub async fn ensure(&self, order: EnsureMember) -> Result<(), MemberError> {
        self.may_obey()?;
        let id = order.member_id;
        self.shared
            .order(id, |answer| Order::Ensure(Box::new(order.clone()), answer))
            .await
    }

    /// Stops a member, unmounts it and marks its drive as released; its data stays. Done before: nothing happens.
    ///
    /// # Errors
    /// Why it is not released yet; what was done of it stays done.
    pub async fn release(&self, id: MemberId) -> Result<(), MemberError> {
        self.may_obey()?;
        self.shared.order(id, Order::Release).await
    }

    /// A simulated drive may have the name, the size and the identity of a real one of this machine.
    fn may_obey(&self) -> Result<(), MemberError> {
        if !self.shared.context.config.simulated {
            return Ok(());
        }
        Err(MemberError::refused(
            "Simulated",
            "this agent shows simulated drives; nothing was written; start it without --simulate, or leave the node \
             out of the pool's nodeSelector",
        ))
    }

    /// Ends the members' tasks and waits for what they are doing; the storage processes run on. Orders given to
    /// other handles meanwhile begin tasks of their own.
    pub async fn close(self) {
        self.shared.tasks.lock().clear();
        self.shared.tracker.close();
        self.shared.tracker.wait().await;
    }

    /// Every member as it is now; a new value only where something changed.
    pub fn reports(&self) -> watch::Receiver<MemberReports> {
        self.shared.context.reports.subscribe()
    }
}

impl Shared {
    /// The member's task, started where there is none.
    fn task(&self, id: MemberId, spec: Option<MemberSpec>) -> mpsc::Sender<Order> {
        let mut tasks = self.tasks.lock();
        if let Some(running) = tasks.get(&id).filter(|running| !running.is_closed()) {
            return running.clone();
        }
        let (sender, receiver) = mpsc::channel(ORDERS_WAITING);
        // A task that ended in the middle of something left its record.
        let spec = spec.or_else(|| self.context.store.read(id).ok().flatten());
        let supervisor = Supervisor::new(Arc::clone(&self.context), id, spec, self.inventory.clone());
        self.tracker.spawn(supervisor.run(receiver));
        tasks.insert(id, sender.clone());
        sender
    }

    fn is_served(&self, id: MemberId) -> bool {
        self.tasks.lock().get(&id).is_some_and(|task| !task.is_closed())
    }

    async fn order(&self, id: MemberId, make: impl Fn(Answer) -> Order) -> Result<(), MemberError> {
        let busy =
            || MemberError::transient("Busy", format!("member {id} is still busy with an earlier order"));
        let attempt = async {
            loop {
                let (answer, result) = oneshot::channel();
                // A task that ends in this moment drops the order: the next one takes it.
                if self.task(id, None).send(make(answer)).await.is_ok()
                    && let Ok(result) = result.await
                {
                    return result;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(ORDER_LIMIT, attempt)
            .await
            .unwrap_or_else(|_| Err(busy()))
    }
}

/// Reports members that are on this node's drives and that nobody has told this agent to serve.
async fn tell_of_unknown_marks(shared: Weak<Shared>, mut inventory: watch::Receiver<Arc<Inventory>>) {
    loop {
        let picture = inventory.borrow_and_update().clone();
        match shared.upgrade() {
            None => return,
            Some(shared) => shared.context.reports.send_if_modified(|reports| {
                let next = with_unknown_marks(reports, &picture, |id| shared.is_served(id));
                let changed = next != **reports;
                if changed {
                    *reports = Arc::new(next);
                }
                changed
            }),
        };
        if inventory.changed().await.is_err() {
            return;
        }
    }
}

/// The reports with those of unserved members as the picture shows them. Pure.
fn with_unknown_marks(
    reports: &BTreeMap<MemberId, MemberReport>,
    picture: &Inventory,
    is_served: impl Fn(MemberId) -> bool,
) -> BTreeMap<MemberId, MemberReport> {
    let mut found = BTreeMap::new();
    for device in picture.devices.values() {
        let Some(mark) = &device.evidence.mark else {
            continue;
        };
        let Some(id) = MemberId::parse(&mark.member_id).filter(|id| !is_served(*id)) else {
            continue;
        };
        // The picture may be older than the release.
        let released = mark.released
            || reports
                .get(&id)
                .is_some_and(|known| known.state == MemberState::Released);
        let (state, reason, message) = if released {
            (
                MemberState::Released,
                "Released",
                "its data is still on the drive; wipe the drive to use it again",
            )
        } else {
            (
                MemberState::Found,
                "NotOrdered",
                "found by its mark; nobody has told this agent to serve it",
            )
        };
        found.insert(
            id,
            MemberReport {
                state,
                reason: reason.to_owned(),
                message: message.to_owned(),
                device: device.name.clone(),
                pool: mark
                    .label
                    .split_once('/')
                    .map(|(_, pool)| pool.to_owned())
                    .unwrap_or_default(),
                ..MemberReport::default()
            },
        );
    }
    let kept = |id: &MemberId, report: &MemberReport| {
        is_served(*id) || !picture.complete || report.reason == "SpecUnreadable"
    };
    let mut next: BTreeMap<_, _> = reports
        .iter()
        .filter(|(id, report)| kept(id, report))
        .map(|(id, report)| (*id, report.clone()))
        .collect();
    for (id, report) in found {
        if next.get(&id).is_none_or(|known| known.reason != "SpecUnreadable") {
            next.insert(id, report);
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::{Device, Mark};

    const ONE: &str = "3f0c2b9e-6a52-4b8e-9d57-0a3f5c1e7d21";

    fn picture(mark: Option<Mark>) -> Inventory {
        let evidence = Evidence {
            mark,
            ..Evidence::default()
        };
        let device = Device {
            name: "sda".into(),
            evidence,
            ..Device::default()
        };
        Inventory {
            complete: true,
            devices: [("sda".into(), Arc::new(device))].into(),
            faults: Vec::new(),
        }
    }

    fn mark(released: bool) -> Option<Mark> {
        Some(Mark {
            member_id: ONE.into(),
            label: "0a1b2c3d/fast".into(),
            partition: 1,
            released,
        })
    }

    #[test]
    fn an_id_is_a_uuid_and_not_the_empty_one() {
        assert_eq!(MemberId::parse(&ONE.to_uppercase()).unwrap().to_string(), ONE);
        assert_eq!(MemberId::parse("00000000-0000-0000-0000-000000000000"), None);
        assert_eq!(MemberId::parse("loop0"), None);
    }

    #[tokio::test]
    async fn an_agent_of_simulated_drives_obeys_no_order_and_brings_nothing_back() {
        let folder = tempfile::tempdir().unwrap();
        let description = folder.path().join("drives.json");
        // As replayed from another machine: this one has such a drive, too.
        let drive = r#"{"devices": [{"name": "loop9", "size_bytes": 2147483648, "major": 7, "minor": 9,
            "disk_sequence": 7, "evidence": {"serial": "S1"}, "usage": {"blank": true, "exclusive_open_ok": true}}]}"#;
        std::fs::write(&description, drive).unwrap();
        let sim = crate::hardware::sim::Sim::open(&description).unwrap();
        let config = MemberConfig {
            simulated: true,
            ..MemberConfig::new(folder.path().join("data"), "weed")
        };
        let served = store::tests::spec("018f3a44-0000-4000-8000-000000000001", store::Phase::Finished);
        let store = Store::open(&config.data_dir).unwrap();
        store.save(&served).unwrap();
        let (_pictures, inventory) = watch::channel(Arc::new(picture(None)));
        let members = Members::start(config, Arc::new(sim), inventory).unwrap();
        let order = store::tests::spec(ONE, store::Phase::Finished).order;
        for refused in [
            members.ensure(order.clone()).await,
            members.release(order.member_id).await,
            members.release(served.order.member_id).await,
        ] {
            let error = refused.unwrap_err();
            assert_eq!((error.reason, error.retryable), ("Simulated", false));
            assert!(error.message.contains("start it without --simulate"), "{error}");
        }
        assert!(members.shared.tasks.lock().is_empty());
        assert!(members.reports().borrow().is_empty());
        let kept = store.load().unwrap().specs;
        assert_eq!(kept, [served], "for the agent of the real drives");
    }

    #[test]
    fn an_unserved_mark_is_reported_and_forgotten_with_its_drive() {
        let id = MemberId::parse(ONE).unwrap();
        let found = with_unknown_marks(&BTreeMap::new(), &picture(mark(false)), |_| false);
        let report = &found[&id];
        assert_eq!(
            (report.state, report.device.as_str(), report.pool.as_str()),
            (MemberState::Found, "sda", "fast")
        );
        assert!(with_unknown_marks(&found, &picture(None), |_| false).is_empty());
        assert!(with_unknown_marks(&BTreeMap::new(), &picture(mark(false)), |_| true).is_empty());
        let released = with_unknown_marks(&found, &picture(mark(true)), |_| false);
        assert_eq!(released[&id].state, MemberState::Released);
    }

    #[test]
    fn a_picture_older_than_the_release_does_not_undo_it() {
        let id = MemberId::parse(ONE).unwrap();
        let released = MemberReport {
            state: MemberState::Released,
            ..MemberReport::default()
        };
        let next = with_unknown_marks(&[(id, released)].into(), &picture(mark(false)), |_| false);
        assert_eq!(next[&id].state, MemberState::Released);
    }

    #[test]
    fn what_a_served_member_says_is_left_alone() {
        let id = MemberId::parse(ONE).unwrap();
        let online: BTreeMap<_, _> = [(
            id,
            MemberReport {
                state: MemberState::Online,
                ..MemberReport::default()
            },
        )]
        .into();
        assert_eq!(with_unknown_marks(&online, &picture(None), |_| true), online);
    }
}
