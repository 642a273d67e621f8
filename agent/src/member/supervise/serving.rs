//! Keeping one storage process running on a member whose file system is as it should be.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Context, LOOK_LIMIT, Supervisor};
use crate::member::process::{self, ProcessError, Running};
use crate::member::store::MemberSpec;
use crate::member::{MemberError, MemberState, fault};

/// How long after its last good answer a process is said to be ill, and after which it is stopped and started again.
const SILENT_ILL: Duration = Duration::from_secs(15);
const SILENT_HUNG: Duration = Duration::from_secs(60);

/// Questions that it must have left unanswered at the least: this agent may have stood still itself.
const UNANSWERED: u32 = 3;

/// How long a process may take to its first good answer: SeaweedFS loads every index before it answers, which takes
/// minutes where volumes are large and many.
const START_LIMIT: Duration = Duration::from_secs(30 * 60);

/// A start that takes longer is said to, and asked about less often.
pub(super) const START_USUAL: Duration = Duration::from_secs(60);

/// A process that ran that long ran well.
const RAN_WELL: Duration = Duration::from_secs(60);

/// What to make of a process that does not answer that it is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// It has not answered yet, and may still.
    Starting,
    /// Too early to say.
    Short,
    /// It is to be said.
    Ill,
    /// It is to be stopped.
    Hung,
}

/// By time, not by questions: each new picture spends one. Pure.
fn judge_silence(answered: bool, running: Duration, silent: Duration, unanswered: u32) -> Silence {
    // An adopted process may have started long ago.
    let hung = unanswered >= UNANSWERED && silent >= SILENT_HUNG;
    match answered {
        false if hung && running >= START_LIMIT => Silence::Hung,
        false => Silence::Starting,
        true if hung => Silence::Hung,
        true if unanswered >= UNANSWERED && silent >= SILENT_ILL => Silence::Ill,
        true => Silence::Short,
    }
}

/// Changes once a minute at most.
fn starting(running: Duration) -> String {
    let usual = "the storage process is starting";
    match running.as_secs() / 60 {
        _ if running < START_USUAL => usual.to_owned(),
        _ if running >= START_LIMIT => "the storage process has not answered this agent yet".to_owned(),
        minutes => format!(
            "{usual}, for {minutes} min now: large volumes take a while to load; after {} min without an answer it \
             is started again",
            START_LIMIT.as_secs() / 60
        ),
    }
}

impl Supervisor {
    /// The file system is right: keeps one process running on it.
    pub(super) async fn serve(&mut self) {
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
        (self.well_at, self.unanswered) = (Instant::now(), 0);
        self.ended = None;
        if self.started.elapsed() >= RAN_WELL {
            self.retry.forget();
        }
        self.say(MemberState::Online, "", "");
    }

    async fn not_well(&mut self, answer: &str) {
        self.unanswered = self.unanswered.saturating_add(1);
        let (running, silent) = (self.started.elapsed(), self.well_at.elapsed());
        match judge_silence(self.answered, running, silent, self.unanswered) {
            Silence::Starting => match self.ended.clone().filter(|_| running < START_USUAL) {
                Some(ended) => self.say(MemberState::Failed, "ProcessExited", &ended),
                None => self.say(MemberState::Stopped, "ProcessStarting", &starting(running)),
            },
            Silence::Short => {}
            Silence::Ill => {
                let message = format!("the storage process does not answer that it is well: {answer}");
                self.say(MemberState::Failed, "ProcessNotAnswering", &message);
            }
            Silence::Hung => {
                self.stop_process().await;
                if self.is_running() {
                    let message = format!(
                        "the storage process does not answer ({answer}) and cannot be stopped; check the drive"
                    );
                    return self.say(MemberState::Failed, "ProcessStuck", &message);
                }
                self.delay(format!(
                    "the storage process was stopped: it did not answer ({answer})"
                ));
            }
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
    pub(super) async fn know_process(&mut self) -> Result<(), MemberError> {
        if self.process.is_some() {
            return Ok(());
        }
        let (context, id) = (Arc::clone(&self.context), self.id);
        // Not by the drive's worker: neither may hold up the other.
        let found = self
            .table
            .run(LOOK_LIMIT, move || process::find(&context.config, id))
            .await;
        let unread = |why: &str| {
            let message = format!("the storage process cannot be looked for in the process table: {why}");
            MemberError::transient("ProcessTable", message)
        };
        let mut found = found
            .map_err(|_| {
                unread("a process of this machine does not answer the kernel; look for one that hangs")
            })?
            .map_err(|error| unread(&error.to_string()))?;
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
        self.started = running.started;
        self.process = Some(running);
        self.answered = false;
        (self.well_at, self.unanswered) = (Instant::now(), 0);
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
    pub(in crate::member) async fn stop_process(&mut self) {
        if let Err(error) = self.know_process().await {
            tracing::warn!(member = %self.id, message = error.message, "looking for the storage process");
        }
        let Some(mut running) = self.process.take() else {
            return;
        };
        let answered = std::mem::take(&mut self.answered);
        if let Err(error) = running.stop().await {
            tracing::warn!(member = %self.id, %error, "storage process not stopped");
            // It is not starting, and is to be stopped again.
            self.answered = answered;
            self.process = Some(running);
        }
    }

    /// Whether a process is left that could not be stopped.
    pub(in crate::member) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn note_end(&mut self) {
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
}

/// Chooses ports where there are none that are free, records them, and starts the process.
fn launch(context: &Context, mut spec: MemberSpec) -> Result<(MemberSpec, Running), ProcessError> {
    let ports = match spec.journal.ports.filter(|ports| process::are_free(*ports)) {
        Some(ports) => ports,
        None => {
            let ports = process::choose_ports(spec.order.member_id)?;
            spec.journal.ports = Some(ports);
            let failed = |error: crate::member::store::StoreError| std::io::Error::other(error.to_string());
            context
                .store
                .save(&spec)
                .map_err(|error| ProcessError::Io("recording the ports", failed(error)))?;
            fault::point("member-ports-recorded");
            ports
        }
    };
    let running = process::start(&context.config, &spec, ports)?;
    fault::point("member-process-started");
    Ok((spec, running))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_start_may_take_half_an_hour_however_often_it_is_asked() {
        for running in [1, 61, 180, 30 * 60 - 1] {
            let judged = judge_silence(false, seconds(running), seconds(running), 9_000);
            assert_eq!(judged, Silence::Starting, "{running} s");
        }
        let late = seconds(30 * 60);
        assert_eq!(judge_silence(false, late, late, 300), Silence::Hung);
        // Adopted: it began long ago, and has just been asked for the first time.
        assert_eq!(judge_silence(false, late, seconds(1), 5), Silence::Starting);
        assert_eq!(judge_silence(false, late, seconds(60), 12), Silence::Hung);
    }

    #[test]
    fn a_process_that_answered_hangs_after_a_minute_and_not_after_many_questions() {
        let judged = |silent, unanswered| judge_silence(true, seconds(3_600), seconds(silent), unanswered);
        assert_eq!(judged(2, 500), Silence::Short, "pictures were published");
        assert_eq!(judged(15, 3), Silence::Ill);
        assert_eq!(judged(59, 500), Silence::Ill);
        assert_eq!(judged(60, 9), Silence::Hung);
        // The agent stood still.
        assert_eq!(judged(3_600, 1), Silence::Short);
        assert_eq!(judged(3_600, 3), Silence::Hung);
    }

    #[test]
    fn a_long_start_says_how_long_once_a_minute() {
        assert_eq!(starting(seconds(59)), "the storage process is starting");
        assert!(starting(seconds(60)).contains(" 1 min now"));
        assert_eq!(starting(seconds(120)), starting(seconds(179)));
        assert!(starting(seconds(180)).contains(" 3 min now"));
        assert!(!starting(seconds(86_400)).contains(" min"));
    }
}
