//! Logs, metrics and health of the agent.
//!
//! Each check of [`Health`] is set by its owner; `/readyz` answers 503 with the reasons while one is wrong.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use axum::{Router, extract::State, response::IntoResponse, routing::get};
use http::{StatusCode, header};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    inventory::Inventory,
    member::{MemberReports, MemberState},
    watcher::Counters,
};

/// Starts logging to standard error.
///
/// # Errors
/// Why `level` is no filter.
pub fn init_logs(level: &str, json: bool) -> Result<(), String> {
    use std::io::IsTerminal as _;
    let filter = EnvFilter::try_new(level).map_err(|error| error.to_string())?;
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init()
    } else {
        registry
            .with(
                fmt::layer()
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_writer(std::io::stderr),
            )
            .try_init()
    };
    started.map_err(|error| error.to_string())
}

/// Named conditions of readiness.
#[derive(Debug, Clone, Default)]
pub struct Health {
    checks: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
}

impl Health {
    /// The check is fine.
    pub fn good(&self, check: &'static str) {
        self.checks.lock().insert(check, None);
    }

    /// The check is wrong, for this reason.
    pub fn bad(&self, check: &'static str, reason: impl Into<String>) {
        self.checks.lock().insert(check, Some(reason.into()));
    }

    /// Status and body of `/readyz`.
    #[must_use]
    pub fn readiness(&self) -> (StatusCode, String) {
        let checks = self.checks.lock();
        let wrong: Vec<_> = checks
            .iter()
            .filter_map(|(check, wrong)| wrong.as_ref().map(|reason| format!("{check}: {reason}\n")))
            .collect();
        if wrong.is_empty() {
            (StatusCode::OK, "ok\n".to_owned())
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, wrong.concat())
        }
    }
}

/// `/healthz` and `/readyz`.
pub fn health_router(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(|State(health): State<Health>| async move { health.readiness() }),
        )
        .with_state(health)
}

type Label = [(&'static str, &'static str); 1];

/// What the agent counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// 1 while the controller has welcomed the stream.
    pub stream_connected: Gauge,
    /// Streams that were tried, by outcome.
    pub streams: Family<Label, Counter>,
    /// Messages sent, by kind.
    pub messages: Family<Label, Counter>,
    /// Snapshots that the controller asked for again.
    pub resyncs: Counter,
    /// Commands by outcome.
    pub commands: Family<Label, Counter>,
    /// Certificates got, by way.
    pub certificates: Family<Label, Counter>,
    /// Faults that hold now, by probe.
    pub probe_faults: Family<Label, Gauge>,
    /// Drives of the picture.
    pub drives: Gauge,
    /// Members by state.
    pub members: Family<Label, Gauge>,
    /// What the watcher did, by what it was.
    pub watched: Family<Label, Counter>,
}

impl Metrics {
    /// All families in one registry, with the prefix `smart_storage_agent_`.
    #[must_use]
    pub fn register() -> (Self, Registry) {
        let metrics = Self::default();
        let mut registry = Registry::with_prefix("smart_storage_agent");
        registry.register(
            "stream_connected",
            "1 while the controller has welcomed the stream",
            metrics.stream_connected.clone(),
        );
        registry.register("streams", "Streams tried, by outcome", metrics.streams.clone());
        registry.register(
            "messages",
            "Messages sent to the controller",
            metrics.messages.clone(),
        );
        registry.register(
            "resyncs",
            "Snapshots that the controller asked for again",
            metrics.resyncs.clone(),
        );
        registry.register(
            "commands",
            "Commands by kind and outcome",
            metrics.commands.clone(),
        );
        registry.register(
            "certificates",
            "Certificates got, by enrolment or renewal",
            metrics.certificates.clone(),
        );
        registry.register(
            "probe_faults",
            "Faults that hold now, by probe",
            metrics.probe_faults.clone(),
        );
        registry.register("drives", "Drives of the node", metrics.drives.clone());
        registry.register(
            "watched",
            "Kernel events, lost events, probes, full rescans and probes that did not come back",
            metrics.watched.clone(),
        );
        registry.register(
            "members",
            "Pool members of the node, by state",
            metrics.members.clone(),
        );
        (metrics, registry)
    }

    /// Sets the gauges that a picture tells.
    pub fn picture(&self, inventory: &Inventory) {
        self.drives
            .set(i64::try_from(inventory.devices.len()).unwrap_or(i64::MAX));
        self.probe_faults.clear();
        let of_devices = inventory.devices.values().flat_map(|device| &device.faults);
        for fault in of_devices.chain(&inventory.faults) {
            self.probe_faults
                .get_or_create(&[("probe", fault.probe.as_str())])
                .inc();
        }
    }

    /// Counts members.
    pub fn reports(&self, reports: &MemberReports) {
        self.members.clear();
        for report in reports.values() {
            let state = match report.state {
                MemberState::Preparing => "preparing",
                MemberState::Stopped => "stopped",
                MemberState::Online => "online",
                MemberState::Failed => "failed",
                MemberState::Missing => "missing",
                MemberState::Released => "released",
                MemberState::Found => "found",
            };
            self.members.get_or_create(&[("state", state)]).inc();
        }
    }

    /// Takes over what the watcher counted.
    pub fn watcher(&self, counters: Counters) {
        let set = |what: &'static str, value: u64| {
            let counter = self.watched.get_or_create(&[("what", what)]);
            counter.inner().store(value, Ordering::Relaxed);
        };
        set("event", counters.events);
        set("lost_event", counters.lost);
        set("probe", counters.probes);
        set("rescan", counters.rescans);
        set("stuck_probe", counters.stuck);
    }
}

type Refresh = dyn Fn() + Send + Sync;

/// `/metrics`. `refresh` is called before each answer, for what is counted elsewhere.
pub fn metrics_router(registry: Registry, refresh: impl Fn() + Send + Sync + 'static) -> Router {
    let state: Arc<(Registry, Box<Refresh>)> = Arc::new((registry, Box::new(refresh)));
    let metrics = get(|State(state): State<Arc<(Registry, Box<Refresh>)>>| async move {
        (state.1)();
        let mut text = String::new();
        match encode(&mut text, &state.0) {
            Ok(()) => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([(header::CONTENT_TYPE, kind)], text).into_response()
            }
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    });
    Router::new().route("/metrics", metrics).with_state(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::{Fault, Probe};

    #[test]
    fn ready_means_that_no_check_is_wrong() {
        let health = Health::default();
        health.bad("stream", "connection refused");
        assert_eq!(
            health.readiness(),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "stream: connection refused\n".to_owned()
            )
        );
        health.good("stream");
        assert_eq!(health.readiness().0, StatusCode::OK);
    }

    #[test]
    fn faults_that_are_gone_are_not_counted_any_more() {
        let (metrics, registry) = Metrics::register();
        let faulty = Inventory {
            faults: vec![Fault::failed(Probe::Uevent, "", "lost")],
            ..Inventory::default()
        };
        let told = |metrics: &Metrics, picture: &Inventory| {
            metrics.picture(picture);
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text.contains(r#"smart_storage_agent_probe_faults{probe="uevent"} 1"#)
        };
        assert!(told(&metrics, &faulty));
        assert!(!told(&metrics, &Inventory::default()));
    }
}
