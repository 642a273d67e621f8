//! How often somebody may try to enrol: one bucket for each peer, and one for all together.
//!
//! Pure: the clock is a parameter. The memory is bounded, whoever sends.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::listen::network;

/// Tries of one peer at once, and time until it has one more.
const PEER: Rate = Rate {
    burst: 20,
    every: Duration::from_secs(1),
};
/// The same for all peers together.
const ALL: Rate = Rate {
    burst: 200,
    every: Duration::from_millis(20),
};
/// Peers remembered; past it the ones with a full bucket are forgotten, which changes nothing for them.
const PEERS: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    every: Duration,
}

/// The moment at which the bucket is full again says everything about it.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Instant,
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.max(now) + rate.every;
        let most = now + rate.every * rate.burst;
        if full_at > most {
            return Err(full_at - most);
        }
        self.full_at = full_at;
        Ok(())
    }
}

/// Counts tries.
#[derive(Debug)]
pub struct Limiter {
    all: Bucket,
    peers: HashMap<IpAddr, Bucket>,
}

impl Limiter {
    /// Nobody has tried yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            all: Bucket { full_at: now },
            peers: HashMap::new(),
        }
    }

    /// Counts a try of `peer`.
    ///
    /// # Errors
    /// The time after which a try would be taken.
    pub fn take(&mut self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        let peer = network(peer);
        if self.peers.len() >= PEERS && !self.peers.contains_key(&peer) {
            self.peers.retain(|_, bucket| bucket.full_at > now);
            if self.peers.len() >= PEERS {
                return Err(PEER.every);
            }
        }
        let peer = self.peers.entry(peer).or_insert(Bucket { full_at: now });
        // The peer's own bucket first: who exceeds it takes nothing from the others.
        peer.take(PEER, now)?;
        self.all.take(ALL, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(limiter: &mut Limiter, peer: &str, count: usize, now: Instant) -> usize {
        (0..count)
            .filter(|_| limiter.take(peer.parse().unwrap(), now).is_ok())
            .count()
    }

    #[test]
    fn a_peer_has_its_burst_and_then_one_try_a_second() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        assert_eq!(tries(&mut limiter, "192.0.2.1", 100, now), 20);
        assert_eq!(
            tries(&mut limiter, "192.0.2.1", 100, now + Duration::from_secs(3)),
            3
        );
        assert_eq!(tries(&mut limiter, "192.0.2.2", 100, now), 20);
    }

    #[test]
    fn all_peers_together_are_bounded_and_so_is_the_memory() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        let taken: usize = (0..2 * PEERS)
            .map(|n| tries(&mut limiter, &format!("10.0.{}.{}", n / 256, n % 256), 1, now))
            .sum();
        assert_eq!(taken, 200);
        assert!(limiter.peers.len() <= PEERS);
        let known = tries(&mut limiter, "10.0.0.1", 5, now + ALL.every * 5);
        assert_eq!(
            known, 5,
            "who is remembered is not shut out by the number of others"
        );
    }

    #[test]
    fn a_network_of_ipv6_addresses_is_one_peer() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        let taken: usize = (0..100)
            .map(|n| tries(&mut limiter, &format!("2001:db8::{n:x}"), 1, now))
            .sum();
        assert_eq!(taken, 20);
    }
}
