//! The storage systems behind the pools: one adapter for each set of endpoints, made once and shared, because its
//! lock on the rules is. Whether one serves is asked once for all its pools, and of an ill one with back-off.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use smart_storage_core::{decide::volume::BackendTrouble, retry};

use super::{context::Pause, leftovers::Found};
use crate::{
    backend::{
        Backend, BackendError, Severity,
        seaweedfs::{DEFAULT_DISKS, Endpoints, Leftover, SeaweedFs, Security},
    },
    config::SeaweedDefaults,
    crd::{UnifiedPool, class::BackendType},
};

/// Key of `spec.backend.config`: the security.toml, on the controller's machine.
const SECURITY_FILE: &str = "securityFile";
const HEALTH_STAYS: Duration = Duration::from_secs(10);
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A backend that is back is noticed soon.
const ASKED_AGAIN_AT_LAST: Duration = Duration::from_secs(5);
/// What helps, whatever part does not answer.
const HELP: &str = "see that it runs and can be reached there; what waits goes on by itself once it answers";

/// The adapters.
pub struct Backends {
    defaults: SeaweedDefaults,
    made: Mutex<HashMap<SeaweedDefaults, SeaweedFs>>,
    seen: Mutex<HashMap<SeaweedDefaults, Arc<tokio::sync::Mutex<Verdict>>>>,
    leftovers: Mutex<HashMap<SeaweedDefaults, (Timestamp, Found)>>,
    /// How often what was seen of leftovers became old at once.
    looks: AtomicU64,
}

/// What a pool's backend said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is wrong, part by part; empty where it serves.
    pub faults: Vec<String>,
    /// Bytes of one slot, where the backend told.
    pub slot_bytes: Option<u64>,
    /// It is not asked again before this time has passed.
    pub counts_for: Duration,
}

impl Health {
    /// What is wrong and what helps, where something is.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        (!self.faults.is_empty()).then(|| format!("{}; {HELP}", self.faults.join("; ")))
    }
}

/// The last answer of a backend, and for how long it counts.
#[derive(Default)]
struct Verdict {
    seen: Option<(Pause, Health)>,
    /// How often in a row it was ill.
    failures: u32,
}

impl Verdict {
    fn at(&self, now: Timestamp) -> Option<Health> {
        let (pause, health) = self.seen.as_ref()?;
        let counts_for = pause.left(now)?;
        Some(Health {
            counts_for,
            ..health.clone()
        })
    }

    fn learn(&mut self, mut health: Health, name: &str, now: Timestamp) -> Health {
        health.counts_for = if health.faults.is_empty() {
            self.failures = 0;
            HEALTH_STAYS
        } else {
            self.failures = self.failures.saturating_add(1);
            retry::pause(name, self.failures, ASKED_AGAIN_AFTER, ASKED_AGAIN_AT_LAST)
        };
        self.seen = Some((Pause::new(now, health.counts_for), health.clone()));
        health
    }
}

impl Backends {
    /// Adapters whose endpoints a pool may leave out.
    #[must_use]
    pub fn new(defaults: SeaweedDefaults) -> Self {
        Self {
            defaults,
            made: Mutex::new(HashMap::new()),
            seen: Mutex::new(HashMap::new()),
            leftovers: Mutex::new(HashMap::new()),
            looks: AtomicU64::new(0),
        }
    }

    /// The endpoints of a pool.
    #[must_use]
    pub fn endpoints(&self, pool: &UnifiedPool) -> SeaweedDefaults {
        let config = &pool.spec.backend.config;
        let or = |key: &str, default: &String| {
            config
                .get(key)
                .filter(|v| !v.is_empty())
                .unwrap_or(default)
                .clone()
        };
        SeaweedDefaults {
            master: or("master", &self.defaults.master),
            filer: or("filer", &self.defaults.filer),
            s3: or("s3", &self.defaults.s3),
            security: config
                .get(SECURITY_FILE)
                .filter(|file| !file.is_empty())
                .map(PathBuf::from)
                .or_else(|| self.defaults.security.clone()),
        }
    }

    /// As [`Self::of_pool`], for a pool that is to take drives and volumes. What lies on another one can still be removed.
    ///
    /// # Errors
    /// As there, and where its name cannot be a tag of drives.
    pub fn of_serving_pool(&self, pool: &UnifiedPool) -> Result<SeaweedFs, (&'static str, String)> {
        if pool.metadata.name.as_deref() == Some(DEFAULT_DISKS) {
            let words = format!(
                "metadata.name: SeaweedFS calls every disk without a tag {DEFAULT_DISKS:?}, and a pool's drives are tagged \
                 with its name; give the pool another name"
            );
            return Err(("BackendConfigWrong", words));
        }
        self.of_pool(pool)
    }

    /// The adapter of a pool.
    ///
    /// # Errors
    /// Reason and message, where this version does not drive the pool's backend or its endpoints are wrong.
    pub fn of_pool(&self, pool: &UnifiedPool) -> Result<SeaweedFs, (&'static str, String)> {
        match pool.spec.backend.type_ {
            BackendType::Seaweedfs if pool.spec.pool_type == crate::crd::class::StorageType::File => {}
            other => {
                let (kind, name) = (pool.spec.pool_type.as_str(), other.as_str());
                let words = format!(
                    "{kind} pools on {name} do not work yet in this version; file pools on seaweedfs do"
                );
                return Err(("BackendNotSupported", words));
            }
        }
        let endpoints = self.endpoints(pool);
        let mut made = self.made.lock();
        if let Some(adapter) = made.get(&endpoints) {
            return Ok(adapter.clone());
        }
        let wrong = |error: crate::backend::seaweedfs::ConnectError| {
            ("BackendConfigWrong", format!("spec.backend.config: {error}"))
        };
        let parsed = Endpoints::parse(&endpoints.master, &endpoints.filer, &endpoints.s3).map_err(wrong)?;
        let security = match &endpoints.security {
            Some(file) => Security::load(file).map_err(|error| wrong(error.into()))?,
            None => Security::default(),
        };
        let adapter = SeaweedFs::connect(parsed, security).map_err(wrong)?;
        made.insert(endpoints, adapter.clone());
        Ok(adapter)
    }

    /// What the pool's backend says of itself: asked again after ten seconds, of an ill one after 1, 2, 4, 5, 5 ...
    /// and some jitter. All its pools wait for one question.
    pub async fn health(
        &self,
        pool: &UnifiedPool,
        adapter: &SeaweedFs,
        clock: impl Fn() -> Timestamp,
    ) -> Health {
        let endpoints = self.endpoints(pool);
        let verdict = Arc::clone(self.seen.lock().entry(endpoints.clone()).or_default());
        let mut verdict = verdict.lock().await;
        if let Some(health) = verdict.at(clock()) {
            return health;
        }
        let mut faults = adapter.health().await.faults(adapter.endpoints());
        // Who is ill is not asked more: that would only keep the verdict waiting.
        let asked = if faults.is_empty() {
            Some(adapter.topology().await)
        } else {
            None
        };
        let slot_bytes = match asked {
            None => None,
            Some(Ok(topology)) => Some(topology.slot_bytes).filter(|bytes| *bytes > 0),
            Some(Err(error)) => {
                faults.push(error.to_string());
                None
            }
        };
        let health = Health {
            faults,
            slot_bytes,
            counts_for: Duration::ZERO,
        };
        // A question may take long: its answer counts from its end.
        verdict.learn(health, &endpoints.filer, clock())
    }

    /// What belonged to no volume there when it was last looked for, unless that is `too_old`.
    pub(super) fn leftovers_seen(
        &self,
        endpoints: &SeaweedDefaults,
        now: Timestamp,
        too_old: Duration,
    ) -> Option<Found> {
        let leftovers = self.leftovers.lock();
        let (at, found) = leftovers.get(endpoints)?;
        (now.duration_since(*at).unsigned_abs() < too_old).then(|| Found::clone(found))
    }

    /// Which look for leftovers this is: once the number is another one, what was found is too old to count by.
    pub(super) fn look(&self) -> u64 {
        self.looks.load(Ordering::SeqCst)
    }

    /// Keeps what the look of that number found, for the other pools there.
    pub(super) fn saw_leftovers(
        &self,
        endpoints: SeaweedDefaults,
        now: Timestamp,
        look: u64,
        found: Vec<Leftover>,
    ) -> Found {
        let found = Found::new(found);
        let mut leftovers = self.leftovers.lock();
        if look == self.look() {
            leftovers.insert(endpoints, (now, Found::clone(&found)));
        }
        found
    }

    /// Has what belongs to no volume looked for again; what is found by a look that has begun counts no more.
    pub(super) fn look_again(&self) {
        let mut leftovers = self.leftovers.lock();
        self.looks.fetch_add(1, Ordering::SeqCst);
        leftovers.clear();
    }
}

/// A backend's error as core takes it.
pub(super) fn trouble(error: &BackendError) -> BackendTrouble {
    BackendTrouble {
        reason: error.reason.to_owned(),
        message: error.message.clone(),
        transient: error.severity == Severity::Transient,
    }
}

/// The adapter as a backend of the reconcilers.
pub(super) fn backend(adapter: SeaweedFs) -> Backend {
    Backend::SeaweedFs(adapter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_before_something_was_left_behind_is_not_kept() {
        let defaults = SeaweedDefaults {
            master: "m".to_owned(),
            filer: "f".to_owned(),
            s3: "s".to_owned(),
            security: None,
        };
        let (backends, now) = (Backends::new(defaults.clone()), Timestamp::UNIX_EPOCH);
        let kept = || {
            backends
                .leftovers_seen(&defaults, now, Duration::from_secs(1))
                .is_some()
        };
        let early = backends.look();
        backends.look_again();
        backends.saw_leftovers(defaults.clone(), now, early, Vec::new());
        assert!(!kept());
        backends.saw_leftovers(defaults.clone(), now, backends.look(), Vec::new());
        assert!(kept());
        backends.look_again();
        assert!(!kept());
    }

    #[tokio::test]
    async fn a_pool_that_seaweedfs_would_take_for_its_default_disks_is_refused() {
        let at = |port| format!("127.0.0.1:{port}");
        let backends = Backends::new(SeaweedDefaults {
            master: at("1.2"),
            filer: at("3.4"),
            s3: format!("http://{}", at("5")),
            security: None,
        });
        let spec =
            serde_json::json!({"poolType": "file", "backend": {"type": "seaweedfs"}, "driveSelector": {}});
        let of_pool = |name| {
            let pool = UnifiedPool::new(name, serde_json::from_value(spec.clone()).unwrap());
            backends.of_serving_pool(&pool).map(|_| ())
        };
        let (reason, words) = of_pool("hdd").unwrap_err();
        assert_eq!(reason, "BackendConfigWrong");
        assert!(
            words.contains("metadata.name") && words.contains("another name"),
            "{words}"
        );
        assert_eq!(of_pool("hdd-1"), Ok(()));
    }

    fn at(second: f64) -> Timestamp {
        Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs_f64(second)
    }

    #[test]
    fn an_ill_backend_is_asked_with_back_off_and_a_well_one_every_ten_seconds() {
        let health = |faults: &[&str]| Health {
            faults: faults.iter().map(ToString::to_string).collect(),
            slot_bytes: None,
            counts_for: Duration::ZERO,
        };
        let mut verdict = Verdict::default();
        assert_eq!(verdict.at(at(0.0)), None, "nothing is known of it");
        let mut now = 0.0;
        for step in [1.0, 2.0, 4.0, 5.0, 5.0, 5.0] {
            let pause = verdict
                .learn(health(&["filer: away"]), "h:1.2", at(now))
                .counts_for
                .as_secs_f64();
            assert!((step..step * 1.2).contains(&pause), "{pause} for {step}");
            let kept = verdict.at(at(now + pause * 0.9)).unwrap();
            assert_eq!(kept.faults, ["filer: away"]);
            assert!(
                kept.counts_for.as_secs_f64() <= pause * 0.11,
                "what is left of it"
            );
            now += pause + 0.001;
            assert_eq!(verdict.at(at(now)), None);
        }
        let said = health(&["filer: away"]).trouble().unwrap();
        assert!(said.starts_with("filer: away; see that it runs"), "{said}");
        assert_eq!(health(&[]).trouble(), None);
        assert_eq!(
            verdict.learn(health(&[]), "h:1.2", at(now)).counts_for,
            HEALTH_STAYS
        );
        assert!(verdict.at(at(now + 9.9)).is_some());
        let again = verdict.learn(health(&["s3"]), "h:1.2", at(now)).counts_for;
        assert!(
            again < Duration::from_millis(1200),
            "who was well is asked soon: {again:?}"
        );
        // A clock that is set back does not keep what was said before.
        assert_eq!(verdict.at(at(now - 7200.0)), None);
        verdict.learn(health(&[]), "h:1.2", at(now));
        assert_eq!(verdict.at(at(now - 0.001)), None);
        assert!(verdict.at(at(now)).is_some());
    }
}
