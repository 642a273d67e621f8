//! One shard: the nodes whose names fall into it, and their sums, under one lock.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, DefaultHasher},
    sync::Arc,
};

use parking_lot::RwLock;

use super::{Change, Difference, Totals};
use crate::{
    drive::{DriveId, NodeName},
    node::{DriveRecord, NodeRecord},
};

/// Names come from certificates that we signed, so nobody can choose them to collide; no random seed is needed.
type Nodes = HashMap<NodeName, Arc<NodeRecord>, BuildHasherDefault<DefaultHasher>>;

#[derive(Debug, Default)]
pub(super) struct Shard {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    nodes: Nodes,
    totals: Totals,
}

impl Shard {
    pub(super) fn apply(&self, record: Arc<NodeRecord>) -> Change {
        self.state.write().put(record)
    }

    pub(super) fn update(
        &self,
        name: &NodeName,
        update: impl FnOnce(Option<&Arc<NodeRecord>>) -> Option<NodeRecord>,
    ) -> Change {
        let mut state = self.state.write();
        match update(state.nodes.get(name)) {
            // A record under another name would sit in the wrong shard.
            Some(record) if &record.name == name => state.put(Arc::new(record)),
            _ => Change::Unchanged,
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<NodeRecord>> {
        self.state.read().nodes.get(name).cloned()
    }

    pub(super) fn remove(&self, name: &str) -> Option<Arc<NodeRecord>> {
        let mut state = self.state.write();
        let record = state.nodes.remove(name)?;
        state.totals = state.totals.minus(&Totals::of(&record));
        Some(record)
    }

    pub(super) fn snapshot(&self) -> Vec<Arc<NodeRecord>> {
        self.state.read().nodes.values().cloned().collect()
    }

    pub(super) fn totals(&self) -> Totals {
        self.state.read().totals
    }
}

impl State {
    fn put(&mut self, record: Arc<NodeRecord>) -> Change {
        let mine = Totals::of(&record);
        let Some(slot) = self.nodes.get_mut(record.name.as_str()) else {
            self.totals = self.totals.plus(&mine);
            self.nodes.insert(record.name.clone(), record);
            return Change::Added;
        };
        let Some(difference) = compare(slot, &record) else {
            return Change::Unchanged;
        };
        self.totals = self.totals.minus(&Totals::of(slot)).plus(&mine);
        *slot = record;
        Change::Updated(difference)
    }
}

/// In what two records differ; `None` where they are equal.
fn compare(old: &NodeRecord, new: &NodeRecord) -> Option<Difference> {
    let mut found = Difference::default();
    drives(&old.drives, &new.drives, &mut found);
    found.members = old.members != new.members;
    found.contact = old.phase != new.phase || old.session.connected != new.session.connected;
    found.rest = old.session != new.session && (old.session.connected == new.session.connected)
        || old.boot_id != new.boot_id
        || old.agent_version != new.agent_version
        || old.capabilities != new.capabilities
        || old.system != new.system
        || old.faults != new.faults;
    let order = old.drives.len() != new.drives.len()
        || old
            .drives
            .iter()
            .zip(&new.drives)
            .any(|(a, b)| a.identity != b.identity);
    let changed = !found.drives_changed.is_empty() || !found.drives_removed.is_empty();
    (changed || order || found.members || found.contact || found.rest || old.session != new.session)
        .then_some(found)
}

/// Drives are compared by pointer first: what a delta did not touch is shared.
fn drives(old: &[Arc<DriveRecord>], new: &[Arc<DriveRecord>], found: &mut Difference) {
    let same = |a: &Arc<DriveRecord>, b: &Arc<DriveRecord>| Arc::ptr_eq(a, b) || a == b;
    if old.len() == new.len() && old.iter().zip(new).all(|(a, b)| same(a, b)) {
        return;
    }
    let key = |drive: &DriveRecord| (drive.identity.id().clone(), drive.facts.name.clone());
    let before: HashMap<(DriveId, String), &Arc<DriveRecord>, BuildHasherDefault<DefaultHasher>> =
        old.iter().map(|drive| (key(drive), drive)).collect();
    let mut kept = 0_usize;
    for drive in new {
        match before.get(&key(drive)) {
            Some(was) if same(was, drive) => kept += 1,
            Some(_) => {
                kept += 1;
                found.drives_changed.push(drive.identity.id().clone());
            }
            None => found.drives_changed.push(drive.identity.id().clone()),
        }
    }
    if kept < old.len() {
        let gone =
            |drive: &&Arc<DriveRecord>| !new.iter().any(|other| other.identity.id() == drive.identity.id());
        found.drives_removed = old
            .iter()
            .filter(gone)
            .map(|drive| drive.identity.id().clone())
            .collect();
    }
}

impl Totals {
    /// What one node adds to the sums.
    pub(super) fn of(record: &NodeRecord) -> Self {
        let mut totals = Self {
            nodes: 1,
            connected: u64::from(record.session.connected),
            drives: record.drive_count(),
            raw_bytes: record.raw_bytes(),
            ..Self::default()
        };
        if let Some(slot) = totals.by_phase.get_mut(record.phase as usize) {
            *slot = 1;
        }
        totals
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        self.combine(other, u64::saturating_add)
    }

    fn minus(&self, other: &Self) -> Self {
        self.combine(other, u64::saturating_sub)
    }

    fn combine(&self, other: &Self, op: fn(u64, u64) -> u64) -> Self {
        let mut by_phase = self.by_phase;
        for (slot, value) in by_phase.iter_mut().zip(other.by_phase) {
            *slot = op(*slot, value);
        }
        Self {
            nodes: op(self.nodes, other.nodes),
            connected: op(self.connected, other.connected),
            drives: op(self.drives, other.drives),
            raw_bytes: op(self.raw_bytes, other.raw_bytes),
            by_phase,
        }
    }
}
