//! What is counted about the controller; every family begins with `smart_storage_`.
//!
//! Counters and histograms are kept as things happen; gauges over objects are counted when somebody scrapes.

use std::collections::BTreeMap;

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use smart_storage_core::node::NodePhase;

use crate::{api::observe::RequestDone, crd::condition, reconcile::Stores};

type Labels<const N: usize> = Vec<(&'static str, String)>;

fn labels<const N: usize>(pairs: [(&'static str, String); N]) -> Labels<N> {
    pairs.to_vec()
}

/// The controller's families.
#[derive(Clone, Debug)]
pub struct Metrics {
    nodes: Family<Labels<1>, Gauge>,
    drives: Family<Labels<3>, Gauge>,
    claims: Family<Labels<1>, Gauge>,
    placements: Family<Labels<1>, Counter>,
    pool_promised: Family<Labels<1>, Gauge>,
    pool_free: Family<Labels<1>, Gauge>,
    pool_retained: Family<Labels<1>, Gauge>,
    pool_orphans: Family<Labels<1>, Gauge>,
    members: Family<Labels<3>, Gauge>,
    reconciles: Family<Labels<2>, Counter>,
    reconcile_seconds: Family<Labels<1>, Histogram>,
    backend: Family<Labels<3>, Counter>,
    backend_seconds: Family<Labels<2>, Histogram>,
    requests: Family<Labels<4>, Counter>,
    request_seconds: Family<Labels<2>, Histogram>,
    leader: Gauge,
    store_writable: Gauge,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

impl Metrics {
    /// The families, told to `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            nodes: Family::default(),
            drives: Family::default(),
            claims: Family::default(),
            placements: Family::default(),
            pool_promised: Family::default(),
            pool_free: Family::default(),
            pool_retained: Family::default(),
            pool_orphans: Family::default(),
            members: Family::default(),
            reconciles: Family::default(),
            reconcile_seconds: Family::new_with_constructor(seconds),
            backend: Family::default(),
            backend_seconds: Family::new_with_constructor(seconds),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            leader: Gauge::default(),
            store_writable: Gauge::default(),
        };
        let m = &metrics;
        registry.register("nodes", "Nodes by phase", m.nodes.clone());
        registry.register("drives", "Drives by tier, health and use", m.drives.clone());
        registry.register("claims", "Claims by phase", m.claims.clone());
        registry.register(
            "placements",
            "Claims that were placed or refused, by outcome",
            m.placements.clone(),
        );
        registry.register_with_unit(
            "pool_promised",
            "Promised bytes by pool",
            Unit::Bytes,
            m.pool_promised.clone(),
        );
        registry.register_with_unit(
            "pool_free",
            "Bytes that can be promised by pool",
            Unit::Bytes,
            m.pool_free.clone(),
        );
        registry.register_with_unit(
            "pool_retained",
            "Bytes by pool that data takes which belongs to no volume",
            Unit::Bytes,
            m.pool_retained.clone(),
        );
        registry.register(
            "pool_orphans",
            "Things on the pool's backend that belong to no volume",
            m.pool_orphans.clone(),
        );
        registry.register(
            "members",
            "Members by pool, phase and state of their drive (its health, or slow where it lags behind its peers)",
            m.members.clone(),
        );
        registry.register(
            "reconciles",
            "Reconciles by kind and outcome",
            m.reconciles.clone(),
        );
        let duration = m.reconcile_seconds.clone();
        registry.register_with_unit(
            "reconcile_duration",
            "Time of a reconcile by kind",
            Unit::Seconds,
            duration,
        );
        registry.register(
            "backend_requests",
            "Calls to backends by operation and outcome",
            m.backend.clone(),
        );
        let duration = m.backend_seconds.clone();
        registry.register_with_unit(
            "backend_request_duration",
            "Time of a call to a backend",
            Unit::Seconds,
            duration,
        );
        registry.register("api_requests", "Requests to REST and gRPC", m.requests.clone());
        let duration = m.request_seconds.clone();
        registry.register_with_unit(
            "api_request_duration",
            "Time to the head of an answer",
            Unit::Seconds,
            duration,
        );
        registry.register("leader", "1 while this process leads", m.leader.clone());
        registry.register(
            "store_writable",
            "1 while the last write of the embedded store reached the disk",
            m.store_writable.clone(),
        );
        metrics
    }

    /// This process leads.
    pub fn leads(&self) {
        self.leader.set(1);
    }

    /// Whether the last write of the store reached the disk.
    pub fn store(&self, writable: bool) {
        self.store_writable.set(i64::from(writable));
    }

    /// A reconcile is done.
    pub fn reconciled(&self, kind: &str, outcome: &str, seconds: f64) {
        self.reconciles
            .get_or_create(&labels([
                ("kind", kind.to_owned()),
                ("outcome", outcome.to_owned()),
            ]))
            .inc();
        self.reconcile_seconds
            .get_or_create(&labels([("kind", kind.to_owned())]))
            .observe(seconds);
    }

    /// A call to a backend is done.
    pub fn called(&self, backend: &str, operation: &str, outcome: &str, seconds: f64) {
        let (backend, operation) = (
            ("backend", backend.to_owned()),
            ("operation", operation.to_owned()),
        );
        self.backend
            .get_or_create(&labels([
                backend.clone(),
                operation.clone(),
                ("outcome", outcome.to_owned()),
            ]))
            .inc();
        self.backend_seconds
            .get_or_create(&labels([backend, operation]))
            .observe(seconds);
    }

    /// A claim was placed, or refused for this reason.
    pub fn placed(&self, outcome: &str) {
        self.placements
            .get_or_create(&labels([("outcome", outcome.to_owned())]))
            .inc();
    }

    /// A request to REST or gRPC is done.
    pub fn requested(&self, done: &RequestDone<'_>) {
        let pairs = [
            ("api", done.protocol.to_owned()),
            ("method", done.method.to_owned()),
            ("route", done.route.to_owned()),
            ("status", done.status.to_string()),
        ];
        self.requests.get_or_create(&labels(pairs)).inc();
        let pairs = [
            ("api", done.protocol.to_owned()),
            ("route", done.route.to_owned()),
        ];
        self.request_seconds
            .get_or_create(&labels(pairs))
            .observe(done.elapsed.as_secs_f64());
    }

    /// Counts objects, before a scrape is answered.
    pub fn count(&self, stores: &Stores) {
        let mut phases: BTreeMap<String, i64> = BTreeMap::new();
        for node in stores.nodes.state() {
            let phase = node
                .status
                .as_ref()
                .map(|status| status.phase)
                .unwrap_or_default();
            *phases.entry(format!("{phase:?}")).or_default() += 1;
        }
        // What the registry holds knows of no patience: Offline is what a StorageNode says.
        for phase in NodePhase::ALL {
            let count = phases.get(phase.as_str()).copied().unwrap_or(0);
            self.nodes
                .get_or_create(&labels([("phase", phase.to_string())]))
                .set(count);
        }
        let mut drives: BTreeMap<(String, String, String), i64> = BTreeMap::new();
        for node in stores.nodes.state() {
            for drive in node.status.iter().flat_map(|status| &status.drives) {
                let tier = drive
                    .classification
                    .tier
                    .map_or_else(|| "none".to_owned(), |tier| format!("{tier:?}"));
                let key = (tier, drive.health.clone(), format!("{:?}", drive.usage.state));
                *drives.entry(key).or_default() += 1;
            }
        }
        self.drives.clear();
        for ((tier, health, usage), count) in drives {
            self.drives
                .get_or_create(&labels([("tier", tier), ("health", health), ("use", usage)]))
                .set(count);
        }
        let mut claims: BTreeMap<String, i64> = BTreeMap::new();
        for claim in stores.claims.state() {
            let phase = claim
                .status
                .as_ref()
                .map(|status| status.phase)
                .unwrap_or_default();
            *claims.entry(format!("{phase:?}")).or_default() += 1;
        }
        self.claims.clear();
        for (phase, count) in claims {
            self.claims.get_or_create(&labels([("phase", phase)])).set(count);
        }
        for family in [
            &self.pool_promised,
            &self.pool_free,
            &self.pool_retained,
            &self.pool_orphans,
        ] {
            family.clear();
        }
        for pool in stores.pools.state() {
            let status = pool.status.clone().unwrap_or_default();
            let name = labels([("pool", pool.metadata.name.clone().unwrap_or_default())]);
            let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
            self.pool_promised
                .get_or_create(&name)
                .set(gauge(status.promised_bytes));
            self.pool_free
                .get_or_create(&name)
                .set(gauge(status.available_capacity_bytes));
            self.pool_retained
                .get_or_create(&name)
                .set(gauge(status.retained_bytes));
            let orphans = status.orphans.as_ref().map_or(0, |orphans| orphans.count);
            self.pool_orphans.get_or_create(&name).set(i64::from(orphans));
        }
        self.see_members(stores);
    }

    fn see_members(&self, stores: &Stores) {
        let mut members: BTreeMap<[String; 3], i64> = BTreeMap::new();
        for member in stores.members.state() {
            let status = member.status.clone().unwrap_or_default();
            let said = |kind| condition::get(&status.conditions, kind);
            let drive = match (said("DriveHealthy"), said("Slow")) {
                (Some(health), _) if health.status == "False" => health.reason.clone(),
                (_, Some(slow)) if slow.is_true() => "Slow".to_owned(),
                (Some(health), _) => health.reason.clone(),
                (None, _) => "Unknown".to_owned(),
            };
            let key = [member.spec.pool.clone(), format!("{:?}", status.phase), drive];
            *members.entry(key).or_default() += 1;
        }
        self.members.clear();
        for ([pool, phase, drive], count) in members {
            self.members
                .get_or_create(&labels([("pool", pool), ("phase", phase), ("drive", drive)]))
                .set(count);
        }
    }
}
