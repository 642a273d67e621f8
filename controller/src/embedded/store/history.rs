//! The state in memory: every object's versions within the window, and the log of changes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Key, Object, StoreError};

/// How much history is kept for watches and paging. Whatever is reached first drops the oldest change.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Changes.
    pub changes: usize,
    /// Bytes of JSON in those changes.
    pub bytes: usize,
    /// Age of a change; checked when something is written.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // A real API server compacts after 5 minutes.
        Self {
            changes: 10_000,
            bytes: 64 << 20,
            age: Duration::from_secs(300),
        }
    }
}

/// One object made, changed or removed.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its revision.
    pub revision: u64,
    /// The object before, if there was one.
    pub before: Option<Arc<Object>>,
    /// The object after; for a removal its last state, with the revision of the removal.
    pub object: Arc<Object>,
    /// Whether the object is gone.
    pub removed: bool,
}

/// The objects of a resource at one revision, in the order of namespace and name.
#[derive(Debug)]
pub struct Snapshot {
    /// The revision.
    pub revision: u64,
    /// The objects.
    pub objects: Vec<Arc<Object>>,
}

type Versions = Vec<(u64, Option<Arc<Object>>)>;

pub(super) struct State {
    revision: u64,
    /// Changes up to and including this one are forgotten.
    floor: u64,
    objects: BTreeMap<Key, Versions>,
    log: VecDeque<(Instant, Change)>,
    log_bytes: usize,
    limits: Limits,
}

impl State {
    pub(super) fn new(revision: u64, objects: Vec<Arc<Object>>, limits: Limits) -> Self {
        let objects = objects
            .into_iter()
            .map(|o| (o.key.clone(), vec![(o.revision, Some(o))]))
            .collect();
        Self {
            revision,
            floor: revision,
            objects,
            log: VecDeque::new(),
            log_bytes: 0,
            limits,
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.objects.get(key)?.last()?.1.clone()
    }

    pub(super) fn snapshot(
        &self,
        resource: &str,
        namespace: Option<&str>,
        at: Option<u64>,
    ) -> Result<Snapshot, StoreError> {
        let revision = at.unwrap_or(self.revision);
        self.check_known(revision)?;
        let first = Key {
            resource: resource.into(),
            namespace: namespace.unwrap_or_default().to_owned(),
            name: String::new(),
        };
        let objects = self
            .objects
            .range(first..)
            .take_while(|(key, _)| &*key.resource == resource && namespace.is_none_or(|n| key.namespace == n))
            .filter_map(|(_, versions)| version_at(versions, revision))
            .collect();
        Ok(Snapshot { revision, objects })
    }

    pub(super) fn every(&self, fits: &dyn Fn(&Object) -> bool) -> BTreeMap<Key, Arc<Object>> {
        self.objects
            .iter()
            .filter_map(|(key, versions)| {
                let object = versions.last()?.1.as_ref()?;
                fits(object).then(|| (key.clone(), Arc::clone(object)))
            })
            .collect()
    }

    pub(super) fn changes(&self, resource: &str, after: u64) -> Result<(Vec<Change>, u64), StoreError> {
        self.check_known(after)?;
        let begin = self.log.partition_point(|(_, change)| change.revision <= after);
        let found = self
            .log
            .range(begin..)
            .filter(|(_, change)| &*change.object.key.resource == resource)
            .map(|(_, change)| change.clone())
            .collect();
        Ok((found, self.revision))
    }

    fn check_known(&self, revision: u64) -> Result<(), StoreError> {
        if revision < self.floor {
            return Err(StoreError::Expired {
                asked: revision,
                oldest: self.floor,
            });
        }
        Ok(())
    }

    pub(super) fn publish(&mut self, changes: Vec<Change>, revision: u64) {
        let now = Instant::now();
        for change in changes {
            let after = (!change.removed).then(|| Arc::clone(&change.object));
            self.objects
                .entry(change.object.key.clone())
                .or_default()
                .push((change.revision, after));
            self.log_bytes += change.object.json.len();
            self.log.push_back((now, change));
        }
        self.revision = revision;
        self.forget(now);
    }

    /// Forgets the whole history: only the present is known.
    pub(super) fn forget_all(&mut self) {
        self.floor = self.revision;
        self.log_bytes = 0;
        for (_, change) in std::mem::take(&mut self.log) {
            self.compact(change.object.key.clone());
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some((at, change)) = self.log.front() {
            let keep = self.log.len() <= self.limits.changes
                && self.log_bytes <= self.limits.bytes
                && now.saturating_duration_since(*at) <= self.limits.age;
            if keep {
                return;
            }
            self.floor = change.revision;
            self.log_bytes -= change.object.json.len();
            let key = change.object.key.clone();
            self.log.pop_front();
            self.compact(key);
        }
    }

    fn compact(&mut self, key: Key) {
        if let Some(versions) = self.objects.get_mut(&key) {
            let newer = versions.partition_point(|(revision, _)| *revision <= self.floor);
            versions.drain(..newer.saturating_sub(1));
            if let [(revision, None)] = versions.as_slice()
                && *revision <= self.floor
            {
                self.objects.remove(&key);
            }
        }
    }
}

fn version_at(versions: &Versions, revision: u64) -> Option<Arc<Object>> {
    versions.iter().rev().find(|(at, _)| *at <= revision)?.1.clone()
}
