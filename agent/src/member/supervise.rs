//! One task for each member: takes its orders, looks at it, and keeps it as it should be.
//!
//! It never waits for a drive itself: everything that touches one goes through its [`Worker`]. So does reading the
//! process table, where a process of anybody may hang.

mod serving;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::judge::{DriveSight, Retry, Sight, Verdict, judge};
use super::look::see;
use super::process::Running;
use super::store::{MemberSpec, Phase, Store};
use super::worker::Worker;
use super::{
    EnsureMember, MemberConfig, MemberError, MemberId, MemberReport, MemberReports, MemberState, held, mount,
    partition, prepare, release,
};
use crate::hardware::Hardware;
use crate::inventory::Inventory;

/// A look at a healthy member takes milliseconds.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// Preparing a large drive takes a while; a hung one takes for ever.
const PREPARE_LIMIT: Duration = Duration::from_secs(300);

/// Between two questions to a process that has just been started.
const STARTING_INTERVAL: Duration = Duration::from_millis(200);

/// What all members of a node share.
pub(super) struct Context {
    pub config: MemberConfig,
    pub hardware: Arc<dyn Hardware>,
    pub store: Store,
    pub reports: watch::Sender<MemberReports>,
}

impl Context {
    /// Says how a member is; silent when that is how it was.
    pub fn report(&self, id: MemberId, report: MemberReport) {
        self.reports.send_if_modified(|reports| {
            if reports.get(&id) == Some(&report) {
                return false;
            }
            tracing::info!(member = %id, state = ?report.state, reason = report.reason, device = report.device, "member");
            Arc::make_mut(reports).insert(id, report);
            true
        });
    }
}

/// The answer to an order.
pub(super) type Answer = oneshot::Sender<Result<(), MemberError>>;

/// What a member's task may be told.
pub(super) enum Order {
    Ensure(Box<EnsureMember>, Answer),
    Release(Answer),
}

/// The task of one member.
pub(super) struct Supervisor {
    pub context: Arc<Context>,
    pub id: MemberId,
    pub spec: Option<MemberSpec>,
    pub inventory: watch::Receiver<Arc<Inventory>>,
    pub worker: Worker,
    /// Reads the process table.
    table: Worker,
    process: Option<Running>,
    /// Kernel name of the drive it was on last.
    disk: Option<String>,
    retry: Retry,
    not_before: Option<Instant>,
    /// When the process started.
    started: Instant,
    answered: bool,
    /// Its last good answer; before the first one, when it became known here.
    well_at: Instant,
    /// Questions since.
    unanswered: u32,
    /// How the process ended the last time, until it is well again.
    ended: Option<String>,
}

impl Supervisor {
    pub fn new(
        context: Arc<Context>,
        id: MemberId,
        spec: Option<MemberSpec>,
        inventory: watch::Receiver<Arc<Inventory>>,
    ) -> Self {
        Self {
            context,
            id,
            spec,
            inventory,
            worker: Worker::default(),
            table: Worker::default(),
            process: None,
            disk: None,
            retry: Retry::default(),
            not_before: None,
            started: Instant::now(),
            answered: false,
            well_at: Instant::now(),
            unanswered: 0,
            ended: None,
        }
    }

    /// Runs until nothing of the member is left on the node, or nobody can give orders any more. Then the
    /// processes are left as they are: they outlive this agent.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        self.bring_back().await;
        if self.spec.is_none() {
            // Nothing is known of the member: it begins with an order, and may end with its refusal.
            let Some(order) = orders.recv().await else { return };
            self.obey(order).await;
            // Work that was given up may still come back and record something: nothing is begun beside it.
            self.worker.settled().await;
            self.read_record();
        }
        while self.spec.is_some() {
            let wait = self.wait();
            tokio::select! {
                order = orders.recv() => match order {
                    None => return,
                    Some(order) => self.obey(order).await,
                },
                () = end_of(self.process.as_ref()) => self.note_end(),
                changed = self.inventory.changed() => if changed.is_err() {
                    // Nobody probes drives any more; looks go on by the clock.
                    tokio::time::sleep(wait).await;
                },
                () = tokio::time::sleep(wait) => {}
            }
            self.look().await;
        }
    }

    /// After a start of the agent: finds what an earlier one left running, goes on where it stopped.
    async fn bring_back(&mut self) {
        if self.spec.is_none() {
            return;
        }
        if self.phase() == Some(Phase::Releasing)
            && let Err(error) = release::release(self).await
        {
            tracing::warn!(member = %self.id, reason = error.reason, message = error.message, "release goes on later");
        }
        if self.spec.is_some() {
            self.look().await;
        }
    }

    fn phase(&self) -> Option<Phase> {
        self.spec.as_ref().map(|spec| spec.journal.phase)
    }

    fn wait(&self) -> Duration {
        let now = Instant::now();
        match (&self.process, self.not_before) {
            (Some(_), _) if !self.answered && self.started.elapsed() < serving::START_USUAL => {
                STARTING_INTERVAL
            }
            (None, Some(at)) => at
                .saturating_duration_since(now)
                .min(self.context.config.check_interval),
            _ => self.context.config.check_interval,
        }
    }

    async fn obey(&mut self, order: Order) {
        let (result, answer) = match order {
            Order::Ensure(order, answer) => (self.ensure(*order).await, answer),
            Order::Release(answer) => (release::release(self).await, answer),
        };
        if let Err(error) = &result {
            tracing::warn!(member = %self.id, reason = error.reason, message = error.message, "order refused");
        }
        // Whoever asked may have stopped waiting.
        let _ = answer.send(result);
    }

    async fn ensure(&mut self, order: EnsureMember) -> Result<(), MemberError> {
        if self.phase() == Some(Phase::Finished) && self.spec.as_ref().is_some_and(|spec| spec.order == order)
        {
            return Ok(());
        }
        if self.phase() != Some(Phase::Finished) && self.spec.is_some() {
            self.say(MemberState::Preparing, "Preparing", "the drive is being prepared");
        }
        let (context, known) = (Arc::clone(&self.context), self.spec.clone());
        let inventory = self.inventory.borrow().clone();
        let outcome = self
            .worker
            .run(PREPARE_LIMIT, move || {
                prepare::prepare(&context, &inventory, known, &order)
            })
            .await
            .and_then(|result| result);
        self.read_record();
        self.not_before = None;
        outcome.map(|_| ())
    }

    /// Whatever came of an order: what counts is what was recorded of it.
    fn read_record(&mut self) {
        match self.context.store.read(self.id) {
            Ok(recorded) => self.spec = recorded,
            Err(error) => tracing::error!(member = %self.id, %error, "the member's file cannot be read"),
        }
    }

    /// Looks at the member and does what the judgement says.
    async fn look(&mut self) {
        let Some(spec) = self.spec.clone() else { return };
        if spec.journal.phase != Phase::Finished {
            let message = "it was interrupted, and goes on with the controller's next order";
            let reason = if spec.journal.phase == Phase::Releasing {
                "Releasing"
            } else {
                "Interrupted"
            };
            return self.say(MemberState::Preparing, reason, message);
        }
        if let Err(error) = self.know_process().await {
            return self.say(MemberState::Failed, error.reason, &error.message);
        }
        let context = Arc::clone(&self.context);
        let (id, inventory, disk) = (
            self.id,
            self.inventory.borrow_and_update().clone(),
            self.disk.clone(),
        );
        let sight = self
            .worker
            .run(LOOK_LIMIT, move || {
                see(&context.config, id, &inventory, disk.as_deref())
            })
            .await;
        let verdict = match sight.and_then(|sight| sight) {
            Ok(sight) => {
                self.remember(&sight);
                judge(&spec, &sight)
            }
            Err(error) => Verdict::Halt {
                state: MemberState::Failed,
                reason: error.reason,
                message: error.message,
            },
        };
        match verdict {
            Verdict::Serve => self.serve().await,
            Verdict::Mount(place) => {
                self.stop_process().await;
                let config = self.context.config.clone();
                let (file_system, uuid) = (spec.journal.file_system, spec.journal.filesystem_uuid);
                let mounted = self
                    .worker
                    .run(LOOK_LIMIT, move || {
                        held::mount_again(&config, &place, &config.mount_point(id), file_system, uuid)
                    })
                    .await;
                match mounted {
                    Ok(Ok(())) => self.serve_mounted().await,
                    Ok(Err(error)) => self.say(MemberState::Failed, "MountFailed", &error.to_string()),
                    Err(error) => self.say(MemberState::Failed, error.reason, &error.message),
                }
            }
            Verdict::Halt {
                state,
                reason,
                message,
            } => {
                self.say(state, reason, &message);
                self.stop_process().await;
            }
            Verdict::Gone => {
                self.disk = None;
                let missing = prepare::missing(&spec.order);
                self.say(MemberState::Missing, missing.reason, &missing.message);
                self.stop_process().await;
                let path = self.context.config.mount_point(id);
                let unmounted = self.worker.run(LOOK_LIMIT, move || {
                    mount::unmount(&path, true, Duration::ZERO)?;
                    mount::make_mount_point(&path)
                });
                if let Ok(Err(error)) = unmounted.await {
                    tracing::warn!(member = %id, %error, "the mount of a missing drive stays");
                }
            }
        }
    }

    /// Just mounted: looked at once more before anything is started on it.
    async fn serve_mounted(&mut self) {
        self.say(
            MemberState::Stopped,
            "Mounted",
            "mounted; the storage process is about to start",
        );
        Box::pin(self.look()).await;
    }

    fn remember(&mut self, sight: &Sight) {
        match sight {
            Sight::Mounted(mount) => {
                if let Some(disk) = partition::disk_of(&self.context.config, mount.mounted.number) {
                    self.disk = Some(disk);
                }
                let new = mount.data_id.as_ref().ok().and_then(Clone::clone);
                if let (Some(spec), Some(new), true) = (&mut self.spec, new, self.answered)
                    && spec.journal.data_id.is_none()
                {
                    spec.journal.data_id = Some(new);
                    if let Err(error) = self.context.store.save(spec) {
                        tracing::warn!(member = %self.id, %error, "the data id was not recorded");
                    }
                }
            }
            Sight::Bare(DriveSight::Here(place)) => self.disk = Some(place.disk.clone()),
            Sight::Bare(_) => {}
        }
    }

    /// Says how the member is.
    pub fn say(&self, state: MemberState, reason: &str, message: &str) {
        let Some(spec) = &self.spec else { return };
        let mount_point = self.context.config.mount_point(self.id);
        let online = state == MemberState::Online;
        // Asked only of a file system that has just answered.
        let (capacity, used) = if online {
            mount::space(&mount_point).unwrap_or_default()
        } else {
            (0, 0)
        };
        let ports = spec.journal.ports.filter(|_| self.process.is_some());
        let has_file_system = matches!(spec.journal.phase, Phase::Finished | Phase::Releasing);
        self.context.report(
            self.id,
            MemberReport {
                state,
                reason: reason.to_owned(),
                message: message.to_owned(),
                device: self
                    .disk
                    .clone()
                    .filter(|_| state != MemberState::Missing)
                    .unwrap_or_default(),
                filesystem_uuid: if has_file_system {
                    spec.journal.filesystem_uuid.hyphenated().to_string()
                } else {
                    String::new()
                },
                mount_point: mount_point.display().to_string(),
                capacity_bytes: capacity,
                used_bytes: used,
                endpoint: ports
                    .map(|ports| format!("127.0.0.1:{}", ports.0))
                    .unwrap_or_default(),
                pool: spec.order.pool.clone(),
            },
        );
    }
}

async fn end_of(process: Option<&Running>) {
    match process {
        Some(running) if running.ended().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}
