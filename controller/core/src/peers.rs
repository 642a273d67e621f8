//! Whether a drive is slow: never by a number of its own, which its work explains as well as its state, but by
//! comparison with drives of its kind that do the same sort of work, the members of its pool.
//!
//! A drive with a long queue makes each request wait and still does more in a second of work than its peers; one with
//! large requests does fewer of them and moves more bytes. So slow is only who is behind in all three: what one request
//! takes, how many end in a second of work, and how many bytes they move; and peers are only those whose requests are of
//! about its size. It judges one stretch of time, never acts, and holds its tongue where there is too little work or too
//! few peers. What hangs altogether needs no comparison.

use crate::{bytes::format_bytes, drive::Work};

/// How many times worse than the median of its peers a drive is in everything, that is slow: drives that fail slowly
/// are reported at a tenth of their speed and less, and agents tell a pace anew when it moved by half.
const TIMES: u64 = 8;
/// Fewer peers are no majority.
const PEERS: usize = 3;
/// Less work says nothing: one request that waited for a disk to spin up is not a slow disk.
const ENOUGH_IOS: u64 = 100;
const ENOUGH_BUSY_MS: u64 = 2_000;
/// A drive on which a request takes less than this is in nobody's way, in microseconds.
const NOTICED_US: u64 = 5_000;
/// Requests of peers are no more than so many times larger or smaller in the mean: a few writes of a journal change it
/// by some times, streaming instead of seeking by more.
const SAME_SIZE: u64 = 16;
/// Nothing ended for so long, and something waits. A disk spins up in less, and the kernel gives most commands up then.
const STUCK_MS: u64 = 30_000;

/// How a drive keeps up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pace {
    /// As its peers do, or so fast that it needs none.
    Fine,
    /// Far behind all of them: in words.
    Slow(String),
    /// What was asked of it does not end: in words.
    Stuck(String),
    /// It works, and there is nothing to compare it with: why.
    Alone(String),
    /// Nothing can be said: why.
    Unknown(String),
}

/// What can be compared of drives.
#[derive(Debug, Clone, Copy)]
struct Speed {
    /// Microseconds that one I/O takes, from when it is asked for.
    each_us: u64,
    /// I/Os that end in a second of work.
    ios: u64,
    /// Their bytes.
    bytes: u64,
    /// Bytes of one.
    size: u64,
}

fn speed(work: &Work) -> Option<Speed> {
    let enough = work.ios >= ENOUGH_IOS && work.busy_ms >= ENOUGH_BUSY_MS;
    enough.then(|| Speed {
        each_us: work.waited_ms.saturating_mul(1000) / work.ios,
        ios: work.ios.saturating_mul(1000) / work.busy_ms,
        bytes: work.bytes.saturating_mul(1000) / work.busy_ms,
        size: work.bytes / work.ios,
    })
}

/// Compares what a drive did with what its peers did.
#[must_use]
pub fn compare(own: Option<&Work>, peers: &[Work]) -> Pace {
    let Some(work) = own else {
        return Pace::Unknown("it did nothing lately that could be compared".to_owned());
    };
    if work.ios == 0 && work.in_flight > 0 && work.busy_ms >= STUCK_MS {
        return Pace::Stuck(format!(
            "nothing ended in {} s, while {} I/O{} waited",
            work.busy_ms / 1000,
            work.in_flight,
            if work.in_flight == 1 { "" } else { "s" }
        ));
    }
    let Some(own) = speed(work) else {
        let why = "it did too little lately that could be compared".to_owned();
        return if work.ios > 0 {
            Pace::Alone(why)
        } else {
            Pace::Unknown(why)
        };
    };
    if own.each_us < NOTICED_US {
        return Pace::Fine;
    }
    let alike = |peer: &Speed| {
        let (least, most) = (own.size.min(peer.size), own.size.max(peer.size));
        most <= least.saturating_mul(SAME_SIZE)
    };
    let peers: Vec<Speed> = peers.iter().filter_map(speed).filter(alike).collect();
    if peers.len() < PEERS {
        return Pace::Alone(format!(
            "{} peers of its kind do work like its own, {PEERS} are needed to compare",
            peers.len()
        ));
    }
    let typical = Speed {
        each_us: median(&peers, |peer| peer.each_us),
        ios: median(&peers, |peer| peer.ios),
        bytes: median(&peers, |peer| peer.bytes),
        size: own.size,
    };
    let behind = own.each_us >= typical.each_us.saturating_mul(TIMES)
        && own.ios.saturating_mul(TIMES) <= typical.ios
        && own.bytes.saturating_mul(TIMES) <= typical.bytes;
    if !behind {
        return Pace::Fine;
    }
    Pace::Slow(format!(
        "one I/O takes {}, and {} of {} end in a second of work; the median of its {} peers takes {} and ends {} of {}",
        milliseconds(own.each_us),
        own.ios,
        format_bytes(own.bytes),
        peers.len(),
        milliseconds(typical.each_us),
        typical.ios,
        format_bytes(typical.bytes),
    ))
}

fn median(peers: &[Speed], of: fn(&Speed) -> u64) -> u64 {
    let mut numbers: Vec<u64> = peers.iter().map(of).collect();
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

fn milliseconds(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Five minutes of so many reads of 4 KiB, each of so many microseconds, one after the other.
    fn reads(ios: u64, each_us: u64) -> Work {
        Work {
            window_ms: 300_000,
            ios,
            bytes: ios * 4096,
            waited_ms: ios * each_us / 1000,
            busy_ms: ios * each_us / 1000,
            in_flight: 0,
        }
    }

    fn is_slow(work: Work, peers: &[Work]) -> bool {
        matches!(compare(Some(&work), peers), Pace::Slow(_))
    }

    #[test]
    fn a_throttled_drive_is_found_among_its_peers_and_words_say_by_what() {
        let peers = [reads(50_000, 200), reads(40_000, 250), reads(60_000, 180)];
        let Pace::Slow(words) = compare(Some(&reads(500, 100_000)), &peers) else {
            panic!("not found");
        };
        let expected = "one I/O takes 100.0 ms, and 10 of 40.9 kB end in a second of work; the median of its 3 peers \
                        takes 0.2 ms and ends 5000 of 20.4 MB";
        assert_eq!(words, expected);
        assert_eq!(compare(Some(&peers[0]), &peers), Pace::Fine);
    }

    #[test]
    fn much_work_is_not_slowness() {
        let peers = [reads(50_000, 1000), reads(40_000, 1100), reads(60_000, 1200)];
        let deep_queue = Work {
            waited_ms: 50_000 * 64,
            busy_ms: 50_000,
            ..reads(50_000, 1000)
        };
        assert!(
            !is_slow(deep_queue, &peers),
            "64 wait at a time, and as many end as elsewhere"
        );
        let large = Work {
            bytes: 1000 << 20,
            ..reads(1000, 20_000)
        };
        assert!(!is_slow(large, &peers), "each is 1 MiB");
        let now_and_then = Work {
            busy_ms: 4 * 200,
            ..reads(200, 100)
        };
        assert!(
            !is_slow(now_and_then, &peers),
            "the kernel counts work in ticks of its clock"
        );
    }

    #[test]
    fn other_work_is_not_slowness_either() {
        // A disk that seeks for 4 KiB among disks that stream 128 KiB.
        let streams = |ios| Work {
            bytes: ios * 131_072,
            ..reads(ios, 900)
        };
        let peers = [streams(300_000), streams(250_000), streams(200_000)];
        assert!(matches!(
            compare(Some(&reads(30_000, 8_000)), &peers),
            Pace::Alone(_)
        ));
        // One request waited until the disk had spun up.
        let spun_up = Work {
            ios: 1,
            bytes: 4096,
            waited_ms: 8_000,
            busy_ms: 8_000,
            ..Work::default()
        };
        let equals = [reads(50_000, 100), reads(40_000, 100), reads(60_000, 100)];
        assert!(matches!(compare(Some(&spun_up), &equals), Pace::Alone(_)));
    }

    #[test]
    fn nobody_is_judged_without_work_or_peers_or_for_what_nobody_notices() {
        let peers = [reads(50_000, 100), reads(40_000, 100), reads(60_000, 100)];
        let unknown = |own: Option<&Work>, peers: &[Work]| {
            matches!(compare(own, peers), Pace::Unknown(_) | Pace::Alone(_))
        };
        assert!(unknown(None, &peers));
        assert!(unknown(Some(&reads(3, 100_000)), &peers));
        assert!(unknown(Some(&reads(500, 100_000)), &peers[..2]));
        let idle = [peers[0], peers[1], reads(3, 100)];
        assert!(unknown(Some(&reads(500, 100_000)), &idle));
        assert_eq!(
            compare(Some(&reads(5000, 4900)), &[]),
            Pace::Fine,
            "it needs no peers for that"
        );
        assert!(is_slow(reads(5000, 5100), &peers));
    }

    #[test]
    fn what_never_ends_needs_no_comparison() {
        let stuck = Work {
            window_ms: 300_000,
            busy_ms: 299_000,
            in_flight: 2,
            ..Work::default()
        };
        let Pace::Stuck(words) = compare(Some(&stuck), &[]) else {
            panic!("not found");
        };
        assert_eq!(words, "nothing ended in 299 s, while 2 I/Os waited");
        let spins_up = Work {
            busy_ms: 15_000,
            ..stuck
        };
        assert!(matches!(compare(Some(&spins_up), &[]), Pace::Unknown(_)));
    }

    fn any_work() -> impl Strategy<Value = Work> {
        prop::array::uniform6(prop_oneof![0..10_000_u64, any::<u64>()]).prop_map(
            |[window_ms, ios, bytes, waited_ms, busy_ms, in_flight]| Work {
                window_ms,
                ios,
                bytes,
                waited_ms,
                busy_ms,
                in_flight,
            },
        )
    }

    proptest! {
        #[test]
        fn a_drive_among_its_equals_is_never_slow(work in any_work(), peers in 0..6_usize) {
            prop_assert!(!is_slow(work, &vec![work; peers]));
        }

        #[test]
        fn most_drives_are_never_slow(all in prop::collection::vec(any_work(), 0..9)) {
            let slow = (0..all.len()).filter(|own| {
                let mut peers = all.clone();
                let work = peers.remove(*own);
                is_slow(work, &peers)
            });
            prop_assert!(slow.count() * 2 <= all.len());
        }

        #[test]
        fn the_order_of_peers_says_nothing(
            work in any_work(),
            (peers, shuffled) in prop::collection::vec(any_work(), 0..7)
                .prop_flat_map(|peers| (Just(peers.clone()), Just(peers).prop_shuffle())),
        ) {
            prop_assert_eq!(compare(Some(&work), &peers), compare(Some(&work), &shuffled));
        }
    }
}
