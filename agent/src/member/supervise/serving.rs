//! Keeping one storage process running on a member whose file system is as it should be.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Context, LOOK_LIMIT, Supervisor};
use crate::member::process::{self, ProcessError, Running};
use crate::member::store::MemberSpec;
use crate::member::{MemberError, MemberState, fault};

/// Questions without an answer after which a process that answered before is said to be ill.
const UNANSWERED_ILL: u32 = 3;

/// And after which it is stopped and started again. A start may take that many longer ones.
const UNANSWERED_HUNG: u32 = 12;
const UNANSWERED_AT_START: u32 = 300;

/// A process that ran that long ran well.
const RAN_WELL: Duration = Duration::from_secs(60);

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
    pub(super) async fn know_process(&mut self) -> Result<(), MemberError> {
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
    pub(in crate::member) async fn stop_process(&mut self) {
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
