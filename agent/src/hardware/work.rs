//! What a drive did between two looks at it: the kernel's own counts (`/sys/block/X/stat`), of which only differences
//! mean something.
//!
//! It reads nothing and judges nothing: whether a drive is slow is said where its peers are known.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Less time says little about a drive.
const SHORTEST: Duration = Duration::from_secs(10);

/// What a drive did in one stretch of time, as the kernel counted it. Only stretches in which it did something, or
/// should have, are told, and for as long as it has not been idle since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Work {
    /// How long it was.
    pub window_ms: u64,
    /// Reads and writes that ended in it.
    pub ios: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long they took together, each from when it was asked for until it ended.
    pub waited_ms: u64,
    /// How long at least one was under way.
    pub busy_ms: u64,
    /// How many were under way at its end.
    pub in_flight: u64,
}

impl Work {
    /// What one I/O took, how many ended in a second of work, and how many bytes. None where nothing ended.
    fn paces(&self) -> Option<[u64; 3]> {
        let busy = self.busy_ms.max(1);
        (self.ios > 0).then(|| {
            [
                self.waited_ms.saturating_mul(1000) / self.ios,
                self.ios.saturating_mul(1000) / busy,
                self.bytes.saturating_mul(1000) / busy,
            ]
        })
    }

    /// Less is not compared with anything.
    const fn says_enough(&self) -> bool {
        self.ios >= 100 && self.busy_ms >= 2000
    }

    /// Whether it is worth telling to who knows `before`: the drive works at another pace, or this is said from ten
    /// times as much, or as little.
    pub(crate) fn differs_from(&self, before: &Self) -> bool {
        // More than so many tenths of the lesser; nothing and next to nothing are not apart.
        let apart = |was: u64, is: u64, tenths: u64| {
            let (least, most) = (was.min(is).saturating_add(1), was.max(is).saturating_add(1));
            most.saturating_mul(10) > least.saturating_mul(tenths)
        };
        match (before.paces(), self.paces()) {
            (Some(was), Some(is)) if before.says_enough() || self.says_enough() => {
                before.says_enough() != self.says_enough()
                    || apart(before.ios, self.ios, 100)
                    || was.into_iter().zip(is).any(|(was, is)| apart(was, is, 15))
            }
            (Some(_), Some(_)) => false,
            (None, None) => apart(before.busy_ms, self.busy_ms, 100),
            _ => true,
        }
    }
}

/// Counts since the drive appeared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    ios: u64,
    sectors: u64,
    waited_ms: u64,
    busy_ms: u64,
    in_flight: u64,
    /// Discards and flushes: they are under way as well, and are no reads or writes.
    others: u64,
    written: [u64; 4],
}

impl Counts {
    /// Reads the text of a file `stat`; none where it is too short.
    pub(super) fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<u64> = stat
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        let field = |index: usize| fields.get(index).copied();
        let both = |read: usize, written: usize| field(read)?.checked_add(field(written)?);
        Some(Self {
            ios: both(0, 4)?,
            sectors: both(2, 6)?,
            waited_ms: both(3, 7)?,
            in_flight: field(8)?,
            busy_ms: field(9)?,
            others: field(11)
                .unwrap_or_default()
                .saturating_add(field(15).unwrap_or_default()),
            written: [4, 6, 11, 13].map(|index| field(index).unwrap_or_default()),
        })
    }

    /// Writes and discards, and their sectors: what moves whenever something was written to the device.
    pub(super) const fn written(&self) -> [u64; 4] {
        self.written
    }

    /// Of several paths together. They work side by side: what one was busy is no less than what both were.
    pub(super) fn with(self, other: Self) -> Self {
        let mut written = self.written;
        for (own, other) in written.iter_mut().zip(other.written) {
            *own = own.saturating_add(other);
        }
        Self {
            written,
            others: self.others.saturating_add(other.others),
            ios: self.ios.saturating_add(other.ios),
            sectors: self.sectors.saturating_add(other.sectors),
            waited_ms: self.waited_ms.saturating_add(other.waited_ms),
            busy_ms: self.busy_ms.saturating_add(other.busy_ms),
            in_flight: self.in_flight.saturating_add(other.in_flight),
        }
    }

    /// Nothing was counted ever.
    pub(super) fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// What happened since; none where these are other counts than those, as they are less.
    fn since(&self, before: &Self, time: Duration) -> Option<Work> {
        let window_ms = u64::try_from(time.as_millis()).ok()?;
        let ios = self.ios.checked_sub(before.ios)?;
        let nothing_ended = ios == 0 && self.others == before.others;
        let busy_ms = self.busy_ms.checked_sub(before.busy_ms)?;
        Some(Work {
            window_ms,
            ios,
            bytes: self.sectors.checked_sub(before.sectors)?.checked_mul(512)?,
            waited_ms: self.waited_ms.checked_sub(before.waited_ms)?,
            // Before Linux 5.17 it is counted when something ends.
            busy_ms: if nothing_ended && before.in_flight > 0 && self.in_flight > 0 {
                window_ms
            } else {
                busy_ms
            },
            in_flight: if ios > 0 || nothing_ended {
                self.in_flight
            } else {
                0
            },
        })
    }
}

/// The stretch that is being counted, and the last one that had something to tell.
#[derive(Debug, Clone)]
pub(super) struct Window {
    since: Instant,
    counts: Counts,
    told: Option<Work>,
    idle: u8,
}

/// Stretches without work after which the last one that had some is old.
const OLD: u8 = 2;

impl Window {
    /// Begins to count.
    pub(super) fn open(counts: Counts, now: Instant) -> Self {
        Self {
            since: now,
            counts,
            told: None,
            idle: 0,
        }
    }

    /// Ends the stretch where it was long enough, and begins the next. Answers the last that had something to tell.
    pub(super) fn look(&mut self, counts: Counts, now: Instant) -> Option<Work> {
        let time = now.saturating_duration_since(self.since);
        if time < SHORTEST {
            return self.told;
        }
        match counts.since(&self.counts, time) {
            Some(work) if work.ios > 0 || work.in_flight > 0 => {
                self.told = Some(work);
                self.idle = 0;
            }
            Some(_) if self.idle + 1 < OLD => self.idle += 1,
            Some(_) | None => self.told = None,
        }
        self.since = now;
        self.counts = counts;
        self.told
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(ios: u64, waited_ms: u64, in_flight: u64) -> Counts {
        Counts {
            ios,
            sectors: ios * 8,
            waited_ms,
            busy_ms: waited_ms,
            in_flight,
            others: 0,
            written: [0; 4],
        }
    }

    #[test]
    fn a_stat_file_is_read_as_the_kernel_documents_it() {
        let stat = "   1 2 30 400 5 6 70 800 9 1000 1100 11 12 13 14 3 4\n";
        let read = Counts::parse(stat).unwrap();
        let expected = Counts {
            ios: 6,
            sectors: 100,
            waited_ms: 1200,
            busy_ms: 1000,
            in_flight: 9,
            others: 11 + 3,
            written: [5, 70, 11, 13],
        };
        assert_eq!(read, expected);
        assert_eq!(Counts::parse("1 2 3"), None);
    }

    #[test]
    fn what_is_told_is_what_happened_in_between_and_an_idle_drive_says_nothing_new() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut window = Window::open(counts(100, 100, 0), start);
        assert_eq!(window.look(counts(200, 300, 0), at(9)), None, "too soon");
        let told = window.look(counts(300, 500, 0), at(20)).unwrap();
        assert_eq!(
            (told.window_ms, told.ios, told.bytes, told.waited_ms),
            (20_000, 200, 200 * 4096, 400)
        );
        assert_eq!(
            window.look(counts(300, 500, 0), at(320)),
            Some(told),
            "it was idle"
        );
        assert_eq!(window.look(counts(300, 500, 0), at(620)), None, "for too long");
        assert_eq!(
            window.look(counts(1, 1, 0), at(920)),
            None,
            "another drive's counts"
        );
    }

    #[test]
    fn what_hangs_is_told_by_kernels_that_count_it_and_by_those_that_do_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut window = Window::open(counts(300, 500, 0), start);
        let asked = window.look(counts(300, 500, 3), at(300)).unwrap();
        assert_eq!(
            (asked.ios, asked.busy_ms, asked.in_flight),
            (0, 0, 3),
            "it may just have been asked"
        );
        let hangs = window.look(counts(300, 500, 3), at(600)).unwrap();
        assert_eq!((hangs.ios, hangs.busy_ms, hangs.in_flight), (0, 300_000, 3));
        assert!(hangs.differs_from(&asked));
        let trimmed = Counts {
            others: 9,
            ..counts(300, 500, 3)
        };
        let trims = window.look(trimmed, at(900));
        assert_eq!(trims, Some(hangs), "discards end, and are no work of this sort");
    }

    #[test]
    fn the_same_pace_is_not_told_again_and_too_little_work_has_none() {
        let steady = Work {
            window_ms: 300_000,
            ios: 10_000,
            bytes: 40_960_000,
            waited_ms: 9_000,
            busy_ms: 8_000,
            in_flight: 0,
        };
        let more = Work {
            ios: 30_000,
            bytes: 120_000_000,
            waited_ms: 31_000,
            busy_ms: 20_000,
            ..steady
        };
        assert!(!more.differs_from(&steady));
        let slower = Work {
            waited_ms: 90_000,
            busy_ms: 80_000,
            ..steady
        };
        assert!(slower.differs_from(&steady) && steady.differs_from(&slower));
        let stuck = Work {
            ios: 0,
            bytes: 0,
            in_flight: 1,
            ..steady
        };
        assert!(stuck.differs_from(&steady) && steady.differs_from(&stuck) && !stuck.differs_from(&stuck));
        let (little, less) = (
            Work {
                ios: 90,
                busy_ms: 700,
                ..steady
            },
            Work {
                ios: 3,
                busy_ms: 1,
                ..steady
            },
        );
        assert!(!less.differs_from(&little), "neither is compared with anything");
        assert!(little.differs_from(&steady) && steady.differs_from(&little));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_nothing_overflows(stat in "[0-9 \n-]{0,200}", numbers in prop::collection::vec(any::<u64>(), 17)) {
            let _ = Counts::parse(&stat);
            let text: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            let (start, read) = (Instant::now(), Counts::parse(&text.join(" ")).unwrap_or_default());
            let mut window = Window::open(read, start);
            let _ = window.look(counts(1, 1, 1), start + Duration::from_secs(11));
            if let Some(work) = window.look(read.with(read), start + Duration::from_secs(22)) {
                let _ = work.differs_from(&work);
            }
        }
    }
}
