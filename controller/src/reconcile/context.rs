//! What the reconcilers share: the rooms they may use, the time, and what passed between members and their agents.
//!
//! It remembers only what may be forgotten: after a restart everything here is learned anew.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use smart_storage_core::{drive::NodeName, registry::Registry};

use super::{Allocator, Backends, Clock, Stores};
use crate::{agents::AgentsHub, metrics::Metrics};

/// Everything that a reconciler may use.
pub struct Context {
    /// The API.
    pub client: Client,
    /// The objects as last seen.
    pub stores: Stores,
    /// What the agents say.
    pub registry: Arc<Registry>,
    /// The way to the agents.
    pub hub: Arc<AgentsHub>,
    /// The storage systems.
    pub backends: Arc<Backends>,
    /// The one place where bytes are promised.
    pub allocator: Arc<Allocator>,
    /// This installation.
    pub cluster_id: String,
    /// The time.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
    recorder: Recorder,
    started: Timestamp,
    failures: Mutex<HashMap<String, u32>>,
    members: Mutex<HashMap<String, Told>>,
}

/// What passed between a member and the agent that has it.
#[derive(Clone, Debug, Default)]
struct Told {
    /// The node and its stream that took the last order.
    by: Option<(NodeName, u64)>,
    refusal: Option<Refusal>,
    released: bool,
}

/// Why an agent did not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) message: String,
}

impl Context {
    /// A context over objects that [`watch`] keeps current.
    #[must_use]
    pub fn new(
        client: Client,
        stores: Stores,
        hub: Arc<AgentsHub>,
        backends: Arc<Backends>,
        cluster_id: String,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        let reporter = Reporter {
            controller: "smart-storage-controller".to_owned(),
            instance: None,
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            allocator: Arc::new(Allocator::new(client.clone())),
            client,
            stores,
            registry: Arc::clone(hub.registry()),
            hub,
            backends,
            cluster_id,
            started: clock(),
            clock,
            metrics,
            failures: Mutex::new(HashMap::new()),
            members: Mutex::new(HashMap::new()),
        }
    }

    /// Whether this process has run for less than `age`: agents may not have come back yet.
    pub(super) fn is_young(&self, age: Duration) -> bool {
        self.now().duration_since(self.started).unsigned_abs() < age
    }

    fn members(&self) -> MutexGuard<'_, HashMap<String, Told>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn was_told(&self, member: &str, node: &NodeName, session: u64) -> bool {
        self.members()
            .get(member)
            .is_some_and(|told| told.by.as_ref() == Some(&(node.clone(), session)))
    }

    pub(super) fn told(&self, member: &str, node: &NodeName, session: u64) {
        let told = Told {
            by: Some((node.clone(), session)),
            refusal: None,
            released: false,
        };
        self.members().insert(member.to_owned(), told);
    }

    pub(super) fn refused(&self, member: &str, refusal: Refusal) {
        let mut members = self.members();
        let told = members.entry(member.to_owned()).or_default();
        told.by = None;
        told.refusal = Some(refusal);
    }

    pub(super) fn refusal(&self, member: &str) -> Option<Refusal> {
        self.members().get(member)?.refusal.clone()
    }

    pub(super) fn released(&self, member: &str) {
        self.members().entry(member.to_owned()).or_default().released = true;
    }

    pub(super) fn is_released(&self, member: &str) -> bool {
        self.members().get(member).is_some_and(|told| told.released)
    }

    pub(super) fn forget_member(&self, member: &str) {
        self.members().remove(member);
    }

    pub(super) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Tells the users of an object what happened to it. Losing an event loses nothing else.
    pub(super) async fn event<K>(&self, object: &K, ok: bool, reason: &str, note: String)
    where
        K: Resource<DynamicType = ()>,
    {
        let event = Event {
            type_: if ok { EventType::Normal } else { EventType::Warning },
            reason: reason.to_owned(),
            note: Some(note.chars().take(1000).collect()),
            action: reason.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
            tracing::debug!(%error, reason, "event not published");
        }
    }

    /// Seconds until the next try of something that failed: 1, 2, 4 ... 60, with a fifth of jitter by its name.
    pub(super) fn back_off(&self, key: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.to_owned()).or_insert(0);
        *count = count.saturating_add(1);
        let base = 500_u64.saturating_mul(1 << (*count).min(7)).min(60_000);
        let jitter = key.bytes().fold(u64::from(*count), |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(byte))
        }) % 20;
        Duration::from_millis(base + base * jitter / 100)
    }

    pub(super) fn succeeded(&self, key: &str) {
        self.failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }
}
