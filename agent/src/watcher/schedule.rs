//! When to probe what: pure, with time as a parameter.
//!
//! Announcements of one drive that come close together cost one probe. A drive is never probed twice at once, and
//! one that does not answer holds up no other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::hardware::Depth;

/// How long to wait, and how much to do at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Quiet time after an announcement before the drive is probed.
    pub(super) settle: Duration,
    /// Longest wait for quiet.
    pub(super) settle_at_most: Duration,
    /// Longest wait for udevd.
    pub(super) udev_at_most: Duration,
    /// After this a probe counts as stuck.
    pub(super) stuck_after: Duration,
    /// Probes at once; stuck ones do not count.
    pub(super) at_once: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(50),
            settle_at_most: Duration::from_millis(250),
            udev_at_most: Duration::from_millis(600),
            stuck_after: Duration::from_secs(30),
            at_once: 8,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    first: Instant,
    due: Instant,
    announced: bool,
    depth: Depth,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    since: Instant,
    stuck: bool,
}

/// What waits and what runs.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    limits: Limits,
    pending: BTreeMap<String, Pending>,
    running: BTreeMap<String, Running>,
}

impl Schedule {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// The kernel announced something of this drive: probe it when it has been quiet for a moment.
    pub(super) fn announced(&mut self, name: &str, depth: Depth, now: Instant) {
        let limits = self.limits;
        let pending = self.pending.entry(name.to_owned()).or_insert(Pending {
            first: now,
            due: now,
            announced: true,
            depth: Depth::default(),
        });
        pending.depth = deeper(pending.depth, depth);
        if pending.announced {
            pending.due = (now + limits.settle).min(pending.first + limits.settle_at_most);
        }
    }

    /// Somebody wants this drive probed now.
    pub(super) fn asked(&mut self, name: &str, depth: Depth, now: Instant) {
        let pending = self.pending.entry(name.to_owned()).or_insert(Pending {
            first: now,
            due: now,
            announced: false,
            depth,
        });
        pending.depth = deeper(pending.depth, depth);
        pending.due = now;
        pending.announced = false;
    }

    /// Drives whose probe does not come back.
    pub(super) fn stuck(&self) -> impl Iterator<Item = &str> {
        let stuck = self.running.iter().filter(|(_, running)| running.stuck);
        stuck.map(|(name, _)| name.as_str())
    }

    /// The probes to start now; they count as running until [`Self::finished`].
    pub(super) fn start(&mut self, now: Instant, settled: impl Fn(&str) -> bool) -> Vec<(String, Depth)> {
        let mut room = self
            .limits
            .at_once
            .saturating_sub(self.running.values().filter(|r| !r.stuck).count());
        let ready: Vec<String> = self
            .pending
            .iter()
            .filter(|(name, pending)| pending.due <= now && !self.running.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        let mut started = Vec::new();
        for name in ready {
            if room == 0 {
                break;
            }
            let Some(pending) = self.pending.get_mut(&name) else {
                continue;
            };
            let patience_left = now < pending.first + self.limits.udev_at_most;
            if pending.announced && patience_left && !settled(&name) {
                pending.due = now + self.limits.settle;
                continue;
            }
            let depth = pending.depth;
            self.pending.remove(&name);
            self.running.insert(
                name.clone(),
                Running {
                    since: now,
                    stuck: false,
                },
            );
            started.push((name, depth));
            room -= 1;
        }
        started
    }

    /// The drives that are being probed.
    pub(super) fn running(&self) -> impl Iterator<Item = &str> {
        self.running.keys().map(String::as_str)
    }

    /// A probe came back.
    pub(super) fn finished(&mut self, name: &str) {
        self.running.remove(name);
    }

    /// Probes that have become stuck since the last call.
    pub(super) fn newly_stuck(&mut self, now: Instant) -> Vec<String> {
        let limit = self.limits.stuck_after;
        self.running
            .iter_mut()
            .filter(|(_, running)| !running.stuck && now.saturating_duration_since(running.since) >= limit)
            .map(|(name, running)| {
                running.stuck = true;
                name.clone()
            })
            .collect()
    }

    /// Nothing of this drive waits or runs (a stuck probe is not waited for).
    pub(super) fn is_done(&self, name: &str) -> bool {
        match self.running.get(name) {
            Some(running) => running.stuck,
            None => !self.pending.contains_key(name),
        }
    }

    /// When something is to be done next, if nothing else happens.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let room = self.running.values().filter(|r| !r.stuck).count() < self.limits.at_once;
        let due = self
            .pending
            .iter()
            .filter(|(name, _)| room && !self.running.contains_key(*name))
            .map(|(_, pending)| pending.due)
            .min();
        let stuck = self
            .running
            .values()
            .filter(|r| !r.stuck)
            .map(|r| r.since + self.limits.stuck_after)
            .min();
        [due, stuck].into_iter().flatten().min()
    }
}

fn deeper(a: Depth, b: Depth) -> Depth {
    Depth {
        reread: a.reread || b.reread,
        health: a.health || b.health,
        wake: a.wake || b.wake,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REREAD: Depth = Depth {
        reread: true,
        health: false,
        wake: false,
    };
    const HEALTH: Depth = Depth {
        reread: false,
        health: true,
        wake: false,
    };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_storm_of_announcements_costs_one_probe_and_cannot_starve_it() {
        let (mut schedule, start) = (Schedule::new(Limits::default()), Instant::now());
        let mut probes = 0;
        for step in 0..1000_u64 {
            let now = start + ms(step / 5);
            schedule.announced("sda", REREAD, now);
            probes += schedule.start(now, |_| true).len();
        }
        assert_eq!(probes, 0, "200 ms of storm");
        schedule.announced("sda", REREAD, start + ms(249));
        assert_eq!(
            schedule.next_at(),
            Some(start + ms(250)),
            "but never longer than the limit"
        );
        assert_eq!(
            schedule.start(start + ms(250), |_| true),
            [("sda".to_owned(), REREAD)]
        );
        assert!(schedule.next_at() > Some(start + ms(250)));
    }

    #[test]
    fn a_drive_is_never_probed_twice_at_once_and_no_announcement_is_forgotten() {
        let (mut schedule, start) = (Schedule::new(Limits::default()), Instant::now());
        schedule.asked("sda", HEALTH, start);
        assert_eq!(schedule.start(start, |_| true), [("sda".to_owned(), HEALTH)]);
        schedule.announced("sda", REREAD, start + ms(10));
        assert!(schedule.start(start + ms(100), |_| true).is_empty());
        assert!(!schedule.is_done("sda"));
        schedule.finished("sda");
        assert!(!schedule.is_done("sda"));
        assert_eq!(
            schedule.start(start + ms(100), |_| true),
            [("sda".to_owned(), REREAD)]
        );
        schedule.finished("sda");
        assert!(schedule.is_done("sda"));
    }

    #[test]
    fn udevd_is_waited_for_but_not_for_ever() {
        let (mut schedule, start) = (Schedule::new(Limits::default()), Instant::now());
        schedule.announced("sda", REREAD, start);
        assert!(schedule.start(start + ms(60), |_| false).is_empty());
        assert!(schedule.start(start + ms(500), |_| false).is_empty());
        assert_eq!(schedule.start(start + ms(650), |_| false).len(), 1);
        schedule.finished("sda");
        schedule.announced("sda", REREAD, start + ms(700));
        assert_eq!(
            schedule.start(start + ms(760), |_| true).len(),
            1,
            "at once when udevd is done"
        );
    }

    #[test]
    fn a_stuck_probe_holds_up_no_other() {
        let limits = Limits {
            at_once: 1,
            ..Limits::default()
        };
        let (mut schedule, start) = (Schedule::new(limits), Instant::now());
        schedule.asked("dead", REREAD, start);
        schedule.asked("well", REREAD, start);
        assert_eq!(schedule.start(start, |_| true)[0].0, "dead");
        assert!(schedule.start(start + ms(1), |_| true).is_empty());
        let later = start + limits.stuck_after;
        assert_eq!(schedule.next_at(), Some(later));
        assert_eq!(schedule.newly_stuck(later), ["dead"]);
        assert!(schedule.newly_stuck(later).is_empty(), "told once");
        assert!(schedule.is_done("dead"));
        assert_eq!(schedule.start(later, |_| true)[0].0, "well");
        schedule.announced("dead", REREAD, later);
        assert!(
            schedule.start(later + ms(100), |_| true).is_empty(),
            "one thread a dead drive, not more"
        );
    }

    #[test]
    fn somebody_who_asks_does_not_wait_for_quiet() {
        let (mut schedule, start) = (Schedule::new(Limits::default()), Instant::now());
        schedule.announced("sda", HEALTH, start);
        schedule.asked("sda", REREAD, start + ms(1));
        let both = Depth {
            reread: true,
            health: true,
            wake: false,
        };
        assert_eq!(
            schedule.start(start + ms(1), |_| false),
            [("sda".to_owned(), both)]
        );
    }
}
