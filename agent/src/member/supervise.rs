//! One task for each member: takes its orders, looks at it, and keeps it as it should be.
//!
//! A dying drive can hang whoever touches it: everything that touches one runs on a thread of its own with a
//! deadline, at most one at a time for each member, and this task goes on without it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::judge::{DriveSight, MountSight, Retry, Sight, Verdict, judge};
use super::partition::{self, PartitionError};
use super::process::{self, ProcessError, Running};
use super::store::{MemberSpec, Phase, Store};
use super::{
    EnsureMember, MemberConfig, MemberError, MemberId, MemberReport, MemberReports, MemberState, expected,
    fault, mount, prepare, release,
};
use crate::hardware::Hardware;
use crate::inventory::Inventory;

/// A look at a healthy member takes milliseconds.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// Preparing a large drive takes a while; a hung one takes for ever.
const PREPARE_LIMIT: Duration = Duration::from_secs(300);

/// Between two questions to a process that is starting.
const STARTING_INTERVAL: Duration = Duration::from_millis(200);

/// Questions without an answer after which a process that answered before is said to be ill.
const UNANSWERED_ILL: u32 = 3;

/// And after which it is stopped and started again. A start may take that many longer ones.
const UNANSWERED_HUNG: u32 = 12;
const UNANSWERED_AT_START: u32 = 300;

/// A process that ran that long ran well.
const RAN_WELL: Duration = Duration::from_secs(60);

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

/// Runs what may hang, one at a time.
#[derive(Default)]
pub(super) struct Worker {
    stuck: Option<JoinHandle<()>>,
}

impl Worker {
    /// Runs `work` on a thread of its own; an error where it takes longer than `limit`, or where the last one has
    /// still not come back.
    pub async fn run<T: Send + 'static>(
        &mut self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, MemberError> {
        let hangs = || {
            MemberError::transient(
                "DriveHangs",
                "the drive does not answer; check it and its cabling",
            )
        };
        if self.stuck.as_ref().is_some_and(|stuck| !stuck.is_finished()) {
            return Err(hangs());
        }
        let (done, result) = oneshot::channel();
        let handle = tokio::task::spawn_blocking(move || {
            // Nobody waits any more where the limit has passed.
            let _ = done.send(work());
        });
        match tokio::time::timeout(limit, result).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(MemberError::transient(
                "Internal",
                "a worker ended without a result",
            )),
            Err(_) => {
                self.stuck = Some(handle);
                Err(hangs())
            }
        }
    }
}

/// The task of one member.
pub(super) struct Supervisor {
    pub context: Arc<Context>,
    pub id: MemberId,
    pub spec: Option<MemberSpec>,
    pub inventory: watch::Receiver<Arc<Inventory>>,
    pub worker: Worker,
    process: Option<Running>,
    /// Kernel name of the drive it was on last.
    disk: Option<String>,
    retry: Retry,
    not_before: Option<Instant>,
    started: Instant,
    answered: bool,
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
            process: None,
            disk: None,
            retry: Retry::default(),
            not_before: None,
            started: Instant::now(),
            answered: false,
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
            (Some(_), _) if !self.answered => STARTING_INTERVAL,
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
        // Whatever came of it: what counts is what was recorded.
        let (store, id) = (self.context.store.clone(), self.id);
        if let Ok(recorded) = self.worker.run(LOOK_LIMIT, move || store.read(id)).await {
            self.spec = recorded.unwrap_or(self.spec.take());
        }
        self.not_before = None;
        outcome.map(|_| ())
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
                let file_system = spec.journal.file_system;
                let mounted = self
                    .worker
                    .run(LOOK_LIMIT, move || {
                        mount::mount(&place, &config.mount_point(id), file_system)
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

    /// The file system is right: keeps one process running on it.
    async fn serve(&mut self) {
        self.keep_current().await;
        if self.process.is_none() {
            let now = Instant::now();
            if self.not_before.is_none_or(|at| at <= now) {
                self.start_process().await;
            }
        }
        let Some(ports) = self.spec.as_ref().and_then(|spec| spec.journal.ports) else {
            return;
        };
        if self.process.is_none() {
            return;
        }
        let log = process::log_path(&self.context.config, self.id);
        if let Err(error) = process::bound_log(&log) {
            tracing::warn!(member = %self.id, %error, "the log was not bounded");
        }
        match process::health(ports.0).await {
            Ok(200) => self.well(),
            other => {
                self.not_well(&other.map_or_else(|error| error.to_string(), |status| status.to_string()))
                    .await
            }
        }
    }

    fn well(&mut self) {
        self.answered = true;
        self.unanswered = 0;
        self.ended = None;
        if self.started.elapsed() >= RAN_WELL {
            self.retry.forget();
        }
        self.say(MemberState::Online, "", "");
    }

    async fn not_well(&mut self, answer: &str) {
        self.unanswered += 1;
        if !self.answered {
            if let Some(ended) = self.ended.clone() {
                self.say(MemberState::Failed, "ProcessExited", &ended);
            } else {
                self.say(
                    MemberState::Stopped,
                    "ProcessStarting",
                    "the storage process is starting",
                );
            }
        } else if self.unanswered >= UNANSWERED_ILL {
            let message = format!("the storage process does not answer that it is well: {answer}");
            self.say(MemberState::Failed, "ProcessNotAnswering", &message);
        }
        let most = if self.answered {
            UNANSWERED_HUNG
        } else {
            UNANSWERED_AT_START
        };
        if self.unanswered >= most {
            self.stop_process().await;
            self.delay(format!(
                "the storage process was stopped: it did not answer ({answer})"
            ));
        }
    }

    /// Stops a process that runs with other arguments than it should.
    async fn keep_current(&mut self) {
        let Some(spec) = &self.spec else { return };
        let wanted = spec
            .journal
            .ports
            .map(|ports| process::arguments(&self.context.config, spec, ports));
        if self
            .process
            .as_ref()
            .is_some_and(|running| Some(&running.arguments) != wanted.as_ref())
        {
            tracing::info!(member = %self.id, "the storage process is restarted with its new arguments");
            self.stop_process().await;
        }
    }

    /// Finds a process that is not known here: one of an earlier agent. A second one is stopped.
    async fn know_process(&mut self) -> Result<(), MemberError> {
        if self.process.is_some() {
            return Ok(());
        }
        let mut found = process::find(&self.context.config, self.id)
            .map_err(|error| MemberError::transient("ProcessTable", error.to_string()))?;
        for surplus in found.iter_mut().skip(1) {
            surplus
                .stop()
                .await
                .map_err(|error| MemberError::transient("ProcessStuck", error.to_string()))?;
        }
        if let Some(running) = found.into_iter().next() {
            tracing::info!(member = %self.id, pid = running.pid, "storage process adopted");
            self.took_over(running);
        }
        Ok(())
    }

    fn took_over(&mut self, running: Running) {
        self.process = Some(running);
        self.started = Instant::now();
        self.answered = false;
        self.unanswered = 0;
        self.not_before = None;
    }

    async fn start_process(&mut self) {
        let (context, spec) = (Arc::clone(&self.context), self.spec.clone());
        let Some(spec) = spec else { return };
        match self.worker.run(LOOK_LIMIT, move || launch(&context, spec)).await {
            Ok(Ok((spec, running))) => {
                tracing::info!(member = %self.id, pid = running.pid, "storage process started");
                self.spec = Some(spec);
                self.took_over(running);
            }
            Ok(Err(error)) => self.delay(error.to_string()),
            Err(error) => self.delay(error.message),
        }
    }

    /// Stops the member's process, also one that is not known here; what cannot be stopped is said.
    pub async fn stop_process(&mut self) {
        if let Err(error) = self.know_process().await {
            tracing::warn!(member = %self.id, message = error.message, "looking for the storage process");
        }
        let Some(mut running) = self.process.take() else {
            return;
        };
        self.answered = false;
        if let Err(error) = running.stop().await {
            tracing::warn!(member = %self.id, %error, "storage process not stopped");
            self.process = Some(running);
        }
    }

    /// Whether a process is left that could not be stopped.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    fn note_end(&mut self) {
        let Some(mut running) = self.process.take() else {
            return;
        };
        let how = running.reap().unwrap_or_else(|| "it ended".to_owned());
        let log = process::log_path(&self.context.config, self.id);
        self.delay(format!(
            "the storage process ended ({how}); it is started again; see {}",
            log.display()
        ));
    }

    /// One more failure: the next start has to wait.
    fn delay(&mut self, why: String) {
        let jitter = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
        self.not_before = Some(Instant::now() + self.retry.failed(jitter));
        self.answered = false;
        self.say(MemberState::Failed, "ProcessExited", &why);
        self.ended = Some(why);
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

/// Chooses ports where there are none that are free, records them, and starts the process.
fn launch(context: &Context, mut spec: MemberSpec) -> Result<(MemberSpec, Running), ProcessError> {
    let ports = match spec.journal.ports.filter(|ports| process::are_free(*ports)) {
        Some(ports) => ports,
        None => {
            let ports = process::choose_ports(spec.order.member_id)?;
            spec.journal.ports = Some(ports);
            let failed = |error: super::store::StoreError| std::io::Error::other(error.to_string());
            context
                .store
                .save(&spec)
                .map_err(|error| ProcessError::Io("recording the ports", failed(error)))?;
            ports
        }
    };
    let running = process::start(&context.config, &spec, ports)?;
    fault::point("member-process-started");
    Ok((spec, running))
}

/// Everything that can be seen of a finished member. Touches the drive: may hang.
fn see(
    config: &MemberConfig,
    id: MemberId,
    inventory: &Inventory,
    disk: Option<&str>,
) -> Result<Sight, MemberError> {
    let path = config.mount_point(id);
    let mounted = mount::mounted_at(&path).map_err(|error| {
        MemberError::transient("MountTable", format!("the mount table cannot be read: {error}"))
    })?;
    let Some(mounted) = mounted else {
        return Ok(Sight::Bare(see_drive(config, id, inventory, disk)));
    };
    let text = |error: std::io::Error| error.to_string();
    let node = partition::node_of(config, mounted.number);
    Ok(Sight::Mounted(MountSight {
        device_exists: partition::exists(config, mounted.number),
        superblock: node.and_then(|node| mount::superblock(&node)).map_err(text),
        identity: mount::read_identity(&path).map_err(text),
        data_folder: mount::has_data_folder(&path).map_err(text),
        data_id: mount::read_data_id(&path).map_err(text),
        mounted,
    }))
}

fn see_drive(config: &MemberConfig, id: MemberId, inventory: &Inventory, disk: Option<&str>) -> DriveSight {
    let mut disks: Vec<String> = expected::marked(inventory, id)
        .iter()
        .map(|device| device.name.clone())
        .collect();
    // The picture may be older than the mark; the drive it was on last is asked itself.
    if disks.is_empty() {
        disks.extend(disk.map(str::to_owned));
    }
    match disks.as_slice() {
        [] if inventory.complete => DriveSight::Absent,
        [] => DriveSight::NotKnownYet,
        [disk] => match partition::locate(config, disk, id) {
            Ok(place) => DriveSight::Here(place),
            Err(PartitionError::Open(..) | PartitionError::NotOurs(..)) => DriveSight::Absent,
            Err(error) => DriveSight::Unreachable(error.to_string()),
        },
        _ => DriveSight::Several(disks),
    }
}
