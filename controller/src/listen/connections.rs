//! The open connections of one port: which of them do something, which only stand there, and which have to go when
//! there is no room for a new one.
//!
//! Decides only; the task of a connection carries it out. Time comes in as a parameter.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One of that many connections goes when there is no room, at least one: looking for them costs a pass over all.
const BATCH: usize = 16;

/// How long a connection may be silent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Until its first request has come in.
    pub(super) first: Duration,
    /// Without a request.
    pub(super) idle: Duration,
    /// With an answer that its client does not take.
    pub(super) untaken: Duration,
}

/// All connections of a port.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Arc<Activity>>,
}

impl Connections {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            table: Mutex::default(),
        }
    }

    /// Takes a connection in. Where there is no room, idle ones go for it; where all are at work, it is not taken.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr, now: Instant) -> Option<Open> {
        let mut table = self.table.lock();
        if table.open.len() >= self.most && table.relieve(self.most) == 0 {
            return None;
        }
        let number = table.next;
        table.next += 1;
        let activity = Arc::new(Activity::new(peer, now));
        table.open.insert(number, Arc::clone(&activity));
        Some(Open {
            number,
            activity,
            all: Arc::clone(self),
        })
    }

    /// Ends idle connections because the process is out of something; answers how many.
    pub(super) fn relieve(&self) -> usize {
        self.table.lock().relieve(self.most)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.table.lock().open.len()
    }
}

impl Table {
    fn relieve(&mut self, most: usize) -> usize {
        let idle: Vec<_> = self
            .open
            .iter()
            .filter_map(|(number, activity)| Some((activity.peer, activity.idle_since()?, *number)))
            .collect();
        let victims = victims(idle, (most / BATCH).max(1));
        for number in &victims {
            if let Some(activity) = self.open.remove(number) {
                activity.evicted.cancel();
            }
        }
        victims.len()
    }
}

/// Which idle connections go: of the peer that has the most of them, its oldest first. So whoever opens many pays
/// with their own.
fn victims(mut idle: Vec<(IpAddr, Instant, u64)>, wanted: usize) -> Vec<u64> {
    idle.sort_unstable_by_key(|(peer, since, number)| (*peer, std::cmp::Reverse((*since, *number))));
    let mut rank = 0;
    let mut before = None;
    // The number of younger ones of the same peer says how much each is one too many.
    let mut ranked: Vec<_> = idle
        .into_iter()
        .map(|(peer, since, number)| {
            rank = if before == Some(peer) { rank + 1 } else { 0 };
            before = Some(peer);
            (std::cmp::Reverse(rank), since, number)
        })
        .collect();
    ranked.sort_unstable();
    ranked
        .into_iter()
        .take(wanted)
        .map(|(_, _, number)| number)
        .collect()
}

/// A connection that was taken in; dropped, it makes room.
#[derive(Debug)]
pub(super) struct Open {
    number: u64,
    pub(super) activity: Arc<Activity>,
    all: Arc<Connections>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.table.lock().open.remove(&self.number);
    }
}

/// What one connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    peer: IpAddr,
    /// Cancelled when it has to go for others.
    pub(super) evicted: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    /// Requests under way; since when the client has not taken the answer, where that is what is waited for.
    requests: HashMap<u64, Option<Instant>>,
    asked: bool,
    quiet_since: Instant,
}

impl Activity {
    fn new(peer: IpAddr, now: Instant) -> Self {
        Self {
            peer,
            evicted: CancellationToken::new(),
            state: Mutex::new(State {
                next: 0,
                requests: HashMap::new(),
                asked: false,
                quiet_since: now,
            }),
        }
    }

    /// A request came in.
    pub(super) fn begin(self: &Arc<Self>) -> Request {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.asked = true;
        state.requests.insert(number, None);
        Request {
            number,
            activity: Arc::clone(self),
        }
    }

    fn idle_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        state.requests.is_empty().then_some(state.quiet_since)
    }

    /// When the connection is to be ended if nothing happens until then; `None` while the server is at work.
    pub(super) fn deadline(&self, patience: Patience) -> Option<Instant> {
        let state = self.state.lock();
        if state.requests.is_empty() {
            let wait = if state.asked {
                patience.idle
            } else {
                patience.first
            };
            return Some(state.quiet_since + wait);
        }
        let oldest = state.requests.values().flatten().min();
        oldest.map(|since| *since + patience.untaken)
    }
}

/// A request under way, until its answer has been handed over or given up.
#[derive(Debug)]
pub(super) struct Request {
    number: u64,
    activity: Arc<Activity>,
}

impl Request {
    /// A part of the answer is there; the client has to take it now.
    pub(super) fn offered(&self, now: Instant) {
        self.set(Some(now));
    }

    /// The client took what there was; the server goes on.
    pub(super) fn taken(&self) {
        self.set(None);
    }

    fn set(&self, waits: Option<Instant>) {
        self.activity.state.lock().requests.insert(self.number, waits);
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut state = self.activity.state.lock();
        state.requests.remove(&self.number);
        state.quiet_since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        first: Duration::from_secs(30),
        idle: Duration::from_secs(120),
        untaken: Duration::from_secs(60),
    };

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn who_opens_the_most_loses_the_oldest_of_them() {
        let all = Arc::new(Connections::new(32));
        let begin = Instant::now();
        let witness = all.admit(ip(1), begin).unwrap();
        let mut many = Vec::new();
        for millis in 1..=1000 {
            many.push(all.admit(ip(2), begin + Duration::from_millis(millis)).unwrap());
            assert!(all.len() <= 32);
        }
        assert!(
            !witness.activity.evicted.is_cancelled(),
            "the only one of its peer stays"
        );
        let alive: Vec<_> = many
            .iter()
            .map(|open| !open.activity.evicted.is_cancelled())
            .collect();
        assert!(alive.iter().filter(|a| **a).count() >= 28);
        assert!(alive.is_sorted(), "the oldest went first");
    }

    #[test]
    fn a_connection_at_work_is_never_ended_for_another() {
        let all = Arc::new(Connections::new(4));
        let open: Vec<_> = (0..4)
            .map(|_| all.admit(ip(1), Instant::now()).unwrap())
            .collect();
        let mut requests: Vec<_> = open.iter().map(|open| open.activity.begin()).collect();
        assert!(all.admit(ip(2), Instant::now()).is_none());
        assert!(open.iter().all(|open| !open.activity.evicted.is_cancelled()));
        requests.pop();
        assert!(all.admit(ip(2), Instant::now()).is_some());
        assert!(open[3].activity.evicted.is_cancelled());
        drop(open);
        assert!(all.len() <= 1);
    }

    #[test]
    fn silence_has_an_end_and_work_has_none() {
        let all = Arc::new(Connections::new(4));
        let begin = Instant::now();
        let open = all.admit(ip(1), begin).unwrap();
        let deadline = || open.activity.deadline(PATIENCE);
        assert_eq!(deadline(), Some(begin + PATIENCE.first));
        let request = open.activity.begin();
        assert_eq!(deadline(), None, "the server works");
        let second = open.activity.begin();
        request.offered(begin + Duration::from_secs(1));
        second.offered(begin + Duration::from_secs(2));
        assert_eq!(
            deadline(),
            Some(begin + Duration::from_secs(1) + PATIENCE.untaken),
            "the client is slow"
        );
        request.taken();
        assert_eq!(
            deadline(),
            Some(begin + Duration::from_secs(2) + PATIENCE.untaken)
        );
        drop((request, second));
        let silent = deadline().unwrap() - PATIENCE.idle;
        assert!((begin..=Instant::now()).contains(&silent));
    }
}
