//! What every node is now, for ten thousands of them: soft state, rebuilt from the agents' snapshots.
//!
//! Nodes are spread over 256 shards by a hash of their name, one lock a shard. A record is an `Arc`: reading it
//! copies a pointer, never a drive. Totals are kept up to date with every change, so nobody ever counts the
//! fleet. It holds no opinion and no clock, and it never blocks a reader on another shard's writer.

mod shard;

use std::sync::Arc;

use self::shard::Shard;
use crate::{
    drive::{DriveId, NodeName},
    node::{NodePhase, NodeRecord},
};

/// Number of shards: a power of two far above the number of writing threads.
pub const SHARDS: usize = 256;

/// Sums over the whole fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Nodes on record.
    pub nodes: u64,
    /// Nodes whose agent is connected.
    pub connected: u64,
    /// Drives, each once.
    pub drives: u64,
    /// Their raw capacity in bytes.
    pub raw_bytes: u64,
    /// Nodes by phase, in the order of [`NodePhase::ALL`].
    pub by_phase: [u64; NodePhase::ALL.len()],
}

impl Totals {
    /// Nodes in a phase.
    #[must_use]
    pub fn in_phase(&self, phase: NodePhase) -> u64 {
        self.by_phase.get(phase as usize).copied().unwrap_or(0)
    }
}

/// What an update changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing: equal pictures make no noise, and the record on file stays the same `Arc`.
    Unchanged,
    /// The node is new.
    Added,
    /// The node is another than before.
    Updated(Difference),
}

/// In what a record differs from the one before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Drives that are new or whose facts or identity changed.
    pub drives_changed: Vec<DriveId>,
    /// Drives that are gone.
    pub drives_removed: Vec<DriveId>,
    /// Member reports changed.
    pub members: bool,
    /// The stream came or went, or the phase changed.
    pub contact: bool,
    /// Anything else: boot, version, faults, sequence numbers.
    pub rest: bool,
}

/// All nodes.
#[derive(Debug)]
pub struct Registry {
    shards: Box<[Shard]>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// A registry without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
        }
    }

    /// Puts a node's record in place of the one before it and says what changed.
    pub fn apply(&self, record: NodeRecord) -> Change {
        self.apply_shared(Arc::new(record))
    }

    /// As [`Self::apply`], for a record that is shared already.
    pub fn apply_shared(&self, record: Arc<NodeRecord>) -> Change {
        match self.shard(record.name.as_str()) {
            Some(shard) => shard.apply(record),
            None => Change::Unchanged,
        }
    }

    /// Makes a node's next record out of its present one, under the shard's lock: two updates of one node cannot
    /// lose each other. `None` from `update` leaves everything as it is.
    pub fn update(
        &self,
        name: &NodeName,
        update: impl FnOnce(Option<&Arc<NodeRecord>>) -> Option<NodeRecord>,
    ) -> Change {
        self.shard(name.as_str())
            .map_or(Change::Unchanged, |shard| shard.update(name, update))
    }

    /// A node's record; costs no copy.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<NodeRecord>> {
        self.shard(name)?.get(name)
    }

    /// Forgets a node, and answers what was known of it.
    pub fn remove(&self, name: &str) -> Option<Arc<NodeRecord>> {
        self.shard(name)?.remove(name)
    }

    /// Calls `visit` with every record, shard by shard. No lock is held while `visit` runs.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<NodeRecord>)) {
        for shard in &self.shards {
            shard.snapshot().iter().for_each(&mut visit);
        }
    }

    /// Every record, ordered by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<NodeRecord>> {
        let mut all: Vec<Arc<NodeRecord>> = self.shards.iter().flat_map(Shard::snapshot).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Every name, ordered.
    #[must_use]
    pub fn names(&self) -> Vec<NodeName> {
        self.all().iter().map(|record| record.name.clone()).collect()
    }

    /// Sums over the fleet: 256 short reads, whatever the number of nodes.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.shards
            .iter()
            .fold(Totals::default(), |sum, shard| sum.plus(&shard.totals()))
    }

    /// Number of nodes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.totals().nodes
    }

    /// Whether no node is on record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, name: &str) -> Option<&Shard> {
        self.shards.get(shard_of(name))
    }
}

/// FNV-1a over the name, folded to a shard: the same in every process, so that tests and dumps agree.
fn shard_of(name: &str) -> usize {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    usize::try_from((hash ^ (hash >> 32)) % SHARDS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::{DriveFacts, Holder, HolderKind, Observed};
    use crate::identity::Verdict;
    use crate::node::DriveRecord;
    use proptest::prelude::*;

    fn drive(id: &str, size: u64) -> Arc<DriveRecord> {
        Arc::new(DriveRecord {
            identity: Verdict::Drive { id: id.into() },
            facts: DriveFacts {
                size_bytes: Observed::Known(size),
                ..DriveFacts::default()
            },
        })
    }

    fn node(name: &str, connected: bool, sizes: &[u64]) -> NodeRecord {
        let mut record = NodeRecord::empty(name.into());
        record.session.connected = connected;
        record.phase = if connected {
            NodePhase::Ready
        } else {
            NodePhase::Offline
        };
        record.drives = sizes
            .iter()
            .enumerate()
            .map(|(i, size)| drive(&format!("{name}-{i}"), *size))
            .collect();
        record
    }

    fn counted(registry: &Registry) -> Totals {
        let mut totals = Totals::default();
        registry.for_each(|record| totals = totals.plus(&Totals::of(record)));
        totals
    }

    #[test]
    fn an_equal_record_is_no_change_and_stays_the_same_allocation() {
        let registry = Registry::new();
        assert_eq!(registry.apply(node("a", true, &[1, 2])), Change::Added);
        let before = registry.get("a").unwrap();
        assert_eq!(registry.apply(node("a", true, &[1, 2])), Change::Unchanged);
        assert!(Arc::ptr_eq(&before, &registry.get("a").unwrap()));
    }

    #[test]
    fn a_change_names_the_drives_that_differ() {
        let registry = Registry::new();
        registry.apply(node("a", true, &[1, 2, 3]));
        let Change::Updated(found) = registry.apply(node("a", true, &[1, 5])) else {
            panic!("no update")
        };
        assert_eq!(found.drives_changed, [DriveId::from("a-1")]);
        assert_eq!(found.drives_removed, [DriveId::from("a-2")]);
        assert!(!found.contact && !found.members && !found.rest);
    }

    #[test]
    fn a_node_that_comes_back_is_counted_again() {
        let registry = Registry::new();
        registry.apply(node("a", true, &[10]));
        registry.apply(node("a", false, &[10]));
        assert_eq!(
            (
                registry.totals().connected,
                registry.totals().in_phase(NodePhase::Offline)
            ),
            (0, 1)
        );
        registry.apply(node("a", true, &[10]));
        assert_eq!(
            (
                registry.totals().connected,
                registry.totals().in_phase(NodePhase::Offline)
            ),
            (1, 0)
        );
    }

    #[test]
    fn a_second_path_is_no_second_drive() {
        let registry = Registry::new();
        let mut record = node("a", true, &[10]);
        let mut path = DriveRecord::clone(&record.drives[0]);
        path.identity = Verdict::Path {
            id: "a-0".into(),
            primary: "sda".to_owned(),
        };
        record.drives.push(Arc::new(path));
        registry.apply(record);
        assert_eq!((registry.totals().drives, registry.totals().raw_bytes), (1, 10));
    }

    #[test]
    fn who_uses_a_drive_by_one_path_uses_the_drive() {
        let mut record = node("a", true, &[10]);
        let free = Arc::clone(&record.drives[0]);
        assert_eq!(*record.by_every_path(&free), free.facts, "it has one path");
        let mut path = DriveRecord::clone(&free);
        path.identity = Verdict::Path {
            id: free.identity.id().clone(),
            primary: "sda".to_owned(),
        };
        path.facts.usage.blank = Observed::Failed("it does not answer".to_owned());
        path.facts.usage.exclusive_open_ok = Observed::Known(false);
        path.facts.usage.holders = vec![Holder {
            kind: HolderKind::Device,
            description: "dm-0 is on it".to_owned(),
            device: "sdb".to_owned(),
        }];
        record.drives.push(Arc::new(path.clone()));
        let seen = record.by_every_path(&free).into_owned().usage;
        assert_eq!(seen, path.facts.usage);
        // Another drive's path says nothing of this one.
        path.identity = Verdict::Path {
            id: "other".into(),
            primary: "sdc".to_owned(),
        };
        record.drives[1] = Arc::new(path);
        assert_eq!(*record.by_every_path(&free), free.facts);
    }

    #[test]
    fn names_spread_over_the_shards() {
        let used: std::collections::BTreeSet<usize> =
            (0..10_000).map(|i| shard_of(&format!("worker-{i}"))).collect();
        assert_eq!(used.len(), SHARDS);
    }

    proptest! {
        #[test]
        fn totals_are_what_counting_would_give(
            steps in proptest::collection::vec((0u8..6, any::<bool>(), proptest::collection::vec(0u64..1000, 0..4), any::<bool>()), 0..60)
        ) {
            let registry = Registry::new();
            for (name, connected, sizes, remove) in steps {
                let name = format!("n{name}");
                if remove {
                    registry.remove(&name);
                } else {
                    registry.apply(node(&name, connected, &sizes));
                }
                prop_assert_eq!(registry.totals(), counted(&registry));
            }
        }
    }
}
