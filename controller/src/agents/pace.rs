//! How much one node may tell: a bucket of [`BURST`] units, filled with [`EACH_SECOND`] a second.
//!
//! Who tells more is not refused but read more slowly: HTTP/2 holds the rest back on the sender's side. Pure: the
//! clock is a parameter.

use std::time::{Duration, Instant};

use prost::Message as _;
use smart_storage_proto::agent::v1::{AgentMessage, agent_message::Message};

/// Units of a node that was quiet: several snapshots of the largest machine, and every hot-plug storm.
const BURST: u32 = 4096;
/// Units a second for a node that is never quiet.
const EACH_SECOND: u32 = 256;
/// What a snapshot costs beside its drives: everything known of the node is judged anew.
const SNAPSHOT: u32 = 32;
/// What beginning a stream costs: the log, the record of the node and everybody who watches it.
pub const STREAM: u32 = 32;

/// What a message costs: by what is in it, and one unit for each 4 KiB.
#[must_use]
pub fn cost(message: &AgentMessage) -> u32 {
    let size = u32::try_from(message.encoded_len() >> 12).unwrap_or(u32::MAX);
    parts(message).saturating_add(size)
}

fn parts(message: &AgentMessage) -> u32 {
    let of = |parts: &[usize]| u32::try_from(parts.iter().sum::<usize>()).unwrap_or(u32::MAX);
    match &message.message {
        Some(Message::Snapshot(snapshot)) => of(&[
            snapshot.devices.len(),
            snapshot.members.len(),
            snapshot.faults.len(),
        ])
        .saturating_add(SNAPSHOT),
        Some(Message::Delta(delta)) => of(&[
            delta.changed.len(),
            delta.removed.len(),
            delta.members_changed.len(),
            delta.members_removed.len(),
            delta.faults.len(),
        ])
        .saturating_add(1),
        _ => 1,
    }
}

/// How much a node has told lately.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The moment at which the bucket is full again says everything about it.
    full_at: Instant,
}

impl Pace {
    /// A node that was quiet.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a message of this cost; answers how long nothing more is read from the node.
    pub fn spend(&mut self, cost: u32, now: Instant) -> Duration {
        // One message never costs more than the bucket holds, so the wait stays below that of an empty bucket.
        let units = cost.min(BURST);
        let unit = Duration::from_secs(1) / EACH_SECOND;
        self.full_at = self.full_at.max(now) + unit * units;
        (self.full_at - now).saturating_sub(unit * BURST)
    }
}

#[cfg(test)]
mod tests {
    use smart_storage_proto::agent::v1::{Delta, Device, Heartbeat, Snapshot};

    use super::*;

    fn snapshot(drives: usize) -> AgentMessage {
        let devices = vec![Device::default(); drives];
        AgentMessage {
            message: Some(Message::Snapshot(Snapshot {
                devices,
                ..Snapshot::default()
            })),
        }
    }

    #[test]
    fn a_machine_that_starts_and_hot_plugs_every_drive_is_never_slowed() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let delta = AgentMessage {
            message: Some(Message::Delta(Delta {
                changed: vec![Device::default()],
                ..Delta::default()
            })),
        };
        assert!(pace.spend(cost(&snapshot(1024)), now).is_zero());
        for _ in 0..1024 {
            assert!(pace.spend(cost(&delta), now).is_zero());
        }
        let beat = AgentMessage {
            message: Some(Message::Heartbeat(Heartbeat::default())),
        };
        assert_eq!(cost(&beat), 1);
    }

    #[test]
    fn a_flood_of_snapshots_comes_down_to_a_trickle() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let mut at = now;
        let mut taken = 0;
        while at < now + Duration::from_secs(60) {
            at += pace.spend(cost(&snapshot(0)), at);
            taken += 1;
        }
        assert!((600..=620).contains(&taken), "{taken}");
    }

    #[test]
    fn the_longest_wait_is_bounded_whatever_is_sent() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let mut at = now;
        for _ in 0..10 {
            let wait = pace.spend(u32::MAX, at);
            assert!(wait <= Duration::from_secs(16), "{wait:?}");
            at += wait;
        }
        assert!(pace.spend(1, at + Duration::from_secs(60)).is_zero());
    }
}
