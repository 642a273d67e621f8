//! Logs, metrics and health: how the process says how it is.
//!
//! [`Health`] is a list of named checks that their owners set; `/readyz` answers 503 with the reasons while one is
//! wrong. Metrics are prometheus-client's; every family has the prefix `smart_storage_`.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::time::Instant;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{listen::Room, tally::Tally};

/// Scrapes, or questions about health, under way at once.
const ASKING: usize = 32;

/// A registry whose families begin with `smart_storage_`.
#[must_use]
pub fn registry() -> Registry {
    Registry::with_prefix("smart_storage")
}

/// Starts logging to standard error. A second call in one process changes nothing.
///
/// # Errors
/// Why `level` is no filter (`info`, `smart_storage_controller=debug,info`).
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
    // Already started: a test or an embedding program was first.
    let _ = started;
    Ok(())
}

/// Named conditions of readiness.
#[derive(Debug, Clone, Default)]
pub struct Health {
    checks: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
}

impl Health {
    /// No check yet: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The check is fine.
    pub fn good(&self, check: &'static str) {
        self.checks.lock().insert(check, None);
    }

    /// The check is wrong, for this reason.
    pub fn bad(&self, check: &'static str, reason: impl Into<String>) {
        self.checks.lock().insert(check, Some(reason.into()));
    }

    /// `check: reason` of everything that is wrong; empty means ready.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let checks = self.checks.lock();
        checks
            .iter()
            .filter_map(|(check, wrong)| wrong.as_ref().map(|reason| format!("{check}: {reason}")))
            .collect()
    }

    /// Status and body of `/readyz`.
    #[must_use]
    pub fn readiness(&self) -> (StatusCode, String) {
        let reasons = self.reasons();
        if reasons.is_empty() {
            (StatusCode::OK, "ok\n".to_owned())
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
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
        .layer(middleware::from_fn_with_state(Room::new(ASKING), crowded))
}

/// Everybody may ask here, so that only so many may at once.
async fn crowded(State(room): State<Room>, request: Request, next: Next) -> Response {
    let Some(place) = room.enter() else {
        let again = [(header::RETRY_AFTER, "1")];
        return (
            StatusCode::TOO_MANY_REQUESTS,
            again,
            "too many requests at once\n",
        )
            .into_response();
    };
    place.until_the_end_of(next.run(request).await)
}

type Scraped = Arc<(Registry, Box<dyn Fn() + Send + Sync>)>;

/// `/metrics`. `refresh` is called before each answer, to set gauges that are counted rather than kept.
pub fn metrics_router(registry: Registry, refresh: impl Fn() + Send + Sync + 'static) -> Router {
    let state: Scraped = Arc::new((registry, Box::new(refresh)));
    let metrics = get(|State(state): State<Scraped>| async move {
        (state.1)();
        let mut text = String::new();
        match encode(&mut text, &state.0) {
            Ok(()) => (
                [(
                    header::CONTENT_TYPE,
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                )],
                text,
            )
                .into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    });
    Router::new()
        .route("/metrics", metrics)
        .with_state(state)
        .layer(middleware::from_fn_with_state(Room::new(ASKING), crowded))
}

/// Tokens that were refused: each is counted, and a line in the log says so once an interval.
#[derive(Debug, Clone, Default)]
pub struct TokenRefusals {
    refused: Family<[(&'static str, &'static str); 2], Counter>,
    said: Arc<Tally>,
}

impl TokenRefusals {
    /// The same, told to `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let refusals = Self::default();
        registry.register(
            "token_refusals",
            "Requests without a token or with a wrong one, by API and reason",
            refusals.refused.clone(),
        );
        refusals
    }

    /// One more.
    pub fn note(&self, api: &'static str, reason: &'static str, peer: Option<SocketAddr>) {
        self.refused
            .get_or_create(&[("api", api), ("reason", reason)])
            .inc();
        if let Some(count) = self.said.note(Instant::now()) {
            let peer = peer.map(tracing::field::display);
            tracing::warn!(count, api, reason, peer, "tokens refused");
        }
    }
}

/// What is counted about agents.
#[derive(Debug, Clone, Default)]
pub struct AgentMetrics {
    /// Streams that are open now.
    pub streams: Gauge,
    /// Messages from agents by kind.
    pub messages: Family<[(&'static str, &'static str); 1], Counter>,
    /// Snapshots asked for because something was missing.
    pub resyncs: Counter,
    /// Streams ended by us, by reason.
    pub refused: Family<[(&'static str, &'static str); 1], Counter>,
    /// Probe faults that agents tell of now, by probe; counted at each snapshot and delta.
    pub faults: Family<[(&'static str, &'static str); 1], Counter>,
}

impl AgentMetrics {
    /// The same, told to `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("agent_streams", "Open streams of agents", metrics.streams.clone());
        registry.register("agent_messages", "Messages from agents", metrics.messages.clone());
        registry.register(
            "agent_resyncs",
            "Snapshots asked for after a gap",
            metrics.resyncs.clone(),
        );
        registry.register(
            "agent_streams_refused",
            "Streams ended by the controller",
            metrics.refused.clone(),
        );
        registry.register(
            "probe_faults",
            "Probe faults in messages from agents",
            metrics.faults.clone(),
        );
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_no_check_is_wrong() {
        let health = Health::new();
        health.bad("store", "not open yet");
        assert_eq!(
            health.readiness(),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "store: not open yet\n".to_owned()
            )
        );
        health.good("store");
        assert_eq!(health.readiness().0, StatusCode::OK);
    }

    #[test]
    fn metrics_have_the_prefix() {
        let mut registry = registry();
        let metrics = AgentMetrics::register(&mut registry);
        metrics.messages.get_or_create(&[("kind", "delta")]).inc();
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(
            text.contains(r#"smart_storage_agent_messages_total{kind="delta"} 1"#),
            "{text}"
        );
    }
}
