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
use smart_storage_core::{decide::volume::BackendTrouble, drive::NodeName, registry::Registry, retry};
use tokio::sync::broadcast;

use super::{Allocator, Backends, Change, Clock, Stores};
use crate::{agents::AgentsHub, crd::condition, metrics::Metrics};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Longer than any pause between two tries.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(900);

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
    /// The news that wake the reconcilers.
    pub changes: broadcast::Sender<Change>,
    recorder: Recorder,
    started: Timestamp,
    failures: Mutex<HashMap<String, Failures>>,
    members: Mutex<HashMap<String, Told>>,
    missing: Mutex<HashMap<String, (Stream, Timestamp)>>,
}

/// One stream of a node's agent: the node, and when it connected, milliseconds since 1970.
pub(super) type Stream = (NodeName, u64);

/// A pause on the wall clock. It is over too where that was set back to before its begin: else it would last for as
/// long as that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    since: Timestamp,
    length: Duration,
}

impl Pause {
    pub(super) const fn new(since: Timestamp, length: Duration) -> Self {
        Self { since, length }
    }

    /// What is left of it; nothing where it is over.
    pub(super) fn left(&self, now: Timestamp) -> Option<Duration> {
        let passed = Duration::try_from(now.duration_since(self.since)).ok()?;
        self.length.checked_sub(passed).filter(|left| !left.is_zero())
    }
}

/// How often something failed in a row, and what came of it last.
#[derive(Clone, Debug)]
struct Failures {
    count: u32,
    last: Timestamp,
    pause: Pause,
    trouble: Option<(BackendTrouble, Option<i64>)>,
}

/// What passed between a member and the agent that has it.
#[derive(Clone, Debug, Default)]
struct Told {
    /// The last order, as one number: what, to which stream of which node.
    order: Option<u64>,
    /// Whether its answer has not come yet.
    asked: bool,
    /// Whether the agent took it.
    taken: bool,
    /// The same order is not given again before it is over.
    pause: Option<Pause>,
    refusal: Option<Refusal>,
    released: bool,
}

/// Whether an order is to be given now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Yes; it counts as given.
    Now,
    /// Its answer has not come yet.
    Asked,
    /// The agent took it.
    Taken,
    /// It failed, or nothing came of it: after this time again.
    Later(Duration),
}

/// Why an agent did not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) message: String,
}

/// What a process is, and what all of it shares.
pub struct Process {
    /// The installation that it belongs to.
    pub cluster_id: String,
    /// The time.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
    /// The news that wake the reconcilers.
    pub changes: broadcast::Sender<Change>,
}

impl Context {
    /// A context over objects that [`watch`] keeps current.
    #[must_use]
    pub fn new(
        client: Client,
        stores: Stores,
        hub: Arc<AgentsHub>,
        backends: Arc<Backends>,
        process: Process,
    ) -> Self {
        let Process {
            cluster_id,
            clock,
            metrics,
            changes,
        } = process;
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
            changes,
            failures: Mutex::new(HashMap::new()),
            members: Mutex::new(HashMap::new()),
            missing: Mutex::new(HashMap::new()),
        }
    }

    /// Whether this process has run for less than `age`: agents may not have come back yet.
    pub(super) fn is_young(&self, age: Duration) -> bool {
        self.now().duration_since(self.started).unsigned_abs() < age
    }

    fn members(&self) -> MutexGuard<'_, HashMap<String, Told>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the agent is to be given this order now. `done` says that what the order wants is so.
    pub(super) fn due(&self, member: &str, order: u64, done: bool) -> Due {
        let now = self.now();
        let mut members = self.members();
        let told = members.entry(member.to_owned()).or_default();
        if told.asked {
            return Due::Asked;
        }
        if told.order == Some(order) {
            if told.taken && done {
                return Due::Taken;
            }
            if let Some(left) = told.pause.and_then(|pause| pause.left(now)) {
                return Due::Later(left);
            }
        }
        *told = Told {
            order: Some(order),
            asked: true,
            refusal: told.refusal.take(),
            ..Told::default()
        };
        Due::Now
    }

    /// The agent took the order; it is repeated after `again` where nothing came of it.
    pub(super) fn taken(&self, member: &str, again: Duration) {
        let pause = Some(Pause::new(self.now(), again));
        let mut members = self.members();
        let told = members.entry(member.to_owned()).or_default();
        *told = Told {
            order: told.order,
            taken: true,
            pause,
            ..Told::default()
        };
    }

    /// The agent did not do it, or could not be told.
    pub(super) fn refused(&self, member: &str, refusal: Refusal, again: Duration) {
        let pause = Some(Pause::new(self.now(), again));
        let mut members = self.members();
        let told = members.entry(member.to_owned()).or_default();
        told.asked = false;
        told.taken = false;
        told.pause = pause;
        told.refusal = Some(refusal);
    }

    pub(super) fn refusal(&self, member: &str) -> Option<Refusal> {
        self.members().get(member)?.refusal.clone()
    }

    pub(super) fn released(&self, member: &str) {
        let mut members = self.members();
        let told = members.entry(member.to_owned()).or_default();
        told.asked = false;
        told.released = true;
    }

    pub(super) fn is_released(&self, member: &str) -> bool {
        self.members().get(member).is_some_and(|told| told.released)
    }

    pub(super) fn forget_member(&self, member: &str) {
        self.members().remove(member);
        self.missing_since(member, None);
    }

    /// Since when, in whole seconds, this process has heard without a break that the member's drive is away, in one
    /// stream of its agent. `stream`: the one that says so now; none where nobody does.
    pub(super) fn missing_since(&self, member: &str, stream: Option<Stream>) -> Option<Timestamp> {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = stream else {
            missing.remove(member);
            return None;
        };
        if let Some((_, since)) = missing.get(member).filter(|(of, _)| *of == stream) {
            return Some(*since);
        }
        let since = condition::whole_seconds(self.now());
        missing.insert(member.to_owned(), (stream, since));
        Some(since)
    }

    /// What this process heard last of it, where it says that the drive is away.
    pub(super) fn is_missing_since(&self, member: &str) -> Option<Timestamp> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.get(member).map(|(_, since)| *since)
    }

    /// Wakes whom it concerns.
    pub(super) fn tell(&self, change: Change) {
        // Nobody listens while the process starts or ends.
        let _ = self.changes.send(change);
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

    /// The pause until the next try of something that failed: 1, 2, 4 ... 60 s, and the jitter of its name.
    pub(super) fn back_off(&self, key: &str) -> Duration {
        self.note(key, None)
    }

    /// The same of a backend's trouble with an object of that generation, which is kept for whoever looks at it before.
    pub(super) fn troubled(&self, key: &str, trouble: &BackendTrouble, generation: Option<i64>) -> Duration {
        self.note(key, Some((trouble.clone(), generation)))
    }

    fn note(&self, key: &str, trouble: Option<(BackendTrouble, Option<i64>)>) -> Duration {
        let now = self.now();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        // What was not tried for so long is gone.
        failures.retain(|_, failed| now.duration_since(failed.last).unsigned_abs() < FORGOTTEN_AFTER);
        let count = failures
            .get(key)
            .map_or(0, |failed| failed.count)
            .saturating_add(1);
        let pause = retry::pause(key, count, FIRST_PAUSE, LONGEST_PAUSE);
        let failed = Failures {
            count,
            last: now,
            pause: Pause::new(now, pause),
            trouble,
        };
        failures.insert(key.to_owned(), failed);
        pause
    }

    /// What the backend said last, and how long it is left alone: whoever is woken before has only that to tell.
    /// Nothing where it is to be tried now: its time has come, something else is asked of the object, or the backend
    /// is well again since (`well_since`, whole seconds).
    pub(super) fn waits(
        &self,
        key: &str,
        generation: Option<i64>,
        well_since: Option<Timestamp>,
    ) -> Option<(BackendTrouble, Duration)> {
        let now = self.now();
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = failures.get(key)?;
        let left = failed.pause.left(now)?;
        let (trouble, of) = failed.trouble.as_ref()?;
        let is_well = well_since.is_some_and(|since| since.as_second() >= failed.last.as_second());
        (*of == generation && !is_well).then(|| (trouble.clone(), left))
    }

    pub(super) fn succeeded(&self, key: &str) {
        self.failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::reconcile::bed::Bed;

    proptest! {
        #[test]
        fn a_pause_lasts_for_its_length_and_not_before_its_begin(
            length in 0..200_000_i64,
            step in prop_oneof![-400_000..400_000_i64, -100_000_000..100_000_000_i64],
        ) {
            let since = Timestamp::from_millisecond(1_700_000_000_000).unwrap();
            let ms = |ms: i64| Duration::from_millis(ms.unsigned_abs());
            let now = since + jiff::SignedDuration::from_millis(step);
            let left = (0..length).contains(&step).then(|| ms(length - step));
            prop_assert_eq!(Pause::new(since, ms(length)).left(now), left);
        }
    }

    #[tokio::test]
    async fn a_clock_that_is_set_back_holds_nothing_up() {
        let mut bed = Bed::new(1).await;
        let second = Arc::new(AtomicI64::new(1_700_000_000));
        let clock = Arc::clone(&second);
        let context = Arc::get_mut(&mut bed.context).unwrap();
        context.clock = Arc::new(move || Timestamp::from_second(clock.load(Ordering::Relaxed)).unwrap());
        let trouble = BackendTrouble {
            reason: "BackendUnavailable".to_owned(),
            message: "away".to_owned(),
            transient: true,
        };
        let refusal = Refusal {
            reason: "NotBlank".to_owned(),
            message: "loop0 holds ext4".to_owned(),
        };
        context.troubled("backend/uv-1", &trouble, None);
        assert!(context.waits("backend/uv-1", None, None).is_some());
        assert_eq!(context.due("m", 7, false), Due::Now);
        context.refused("m", refusal, LONGEST_PAUSE);
        assert_eq!(context.due("m", 7, false), Due::Later(LONGEST_PAUSE));

        second.fetch_sub(7200, Ordering::Relaxed);
        assert_eq!(context.waits("backend/uv-1", None, None), None);
        assert_eq!(context.due("m", 7, false), Due::Now);
    }

    #[tokio::test]
    async fn a_backend_in_trouble_is_left_alone_until_its_time_comes_or_something_else_is_asked() {
        let bed = Bed::new(1).await;
        let (context, key) = (&bed.context, "backend/uv-1");
        let trouble = BackendTrouble {
            reason: "BackendUnavailable".to_owned(),
            message: "away".to_owned(),
            transient: true,
        };
        let (first, ever) = (Some(1), None);
        assert_eq!(
            context.waits(key, first, ever),
            None,
            "nothing is known against it"
        );
        let before = context.now();
        let pause = context.troubled(key, &trouble, first);
        assert!((1.0..1.2).contains(&pause.as_secs_f64()), "{pause:?}");
        let (told, left) = context.waits(key, first, ever).unwrap();
        assert_eq!(told, trouble);
        assert!(left <= pause, "{left:?} of {pause:?}");
        // Well for longer than it was in trouble: the trouble is newer.
        let long_ago = before.checked_sub(jiff::SignedDuration::from_secs(2)).unwrap();
        assert!(context.waits(key, first, Some(long_ago)).is_some());
        assert_eq!(context.waits(key, first, Some(context.now())), None);
        assert_eq!(
            context.waits(key, Some(2), ever),
            None,
            "something else is asked of it"
        );
        assert_eq!(context.waits("backend/uv-2", first, ever), None);
        // Each failure in a row doubles it.
        let pauses: Vec<f64> = (0..3)
            .map(|_| context.troubled(key, &trouble, first).as_secs_f64())
            .collect();
        for (pause, step) in pauses.iter().zip([2.0, 4.0, 8.0]) {
            assert!((step..step * 1.2).contains(pause), "{pause} for {step}");
        }
        context.succeeded(key);
        assert_eq!(context.waits(key, first, ever), None);
        let again = context.troubled(key, &trouble, first).as_secs_f64();
        assert!((1.0..1.2).contains(&again), "{again}");
    }
}
