//! One shard: the nodes whose names fall into it, and their sums, under one lock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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
type Nodes = HashMap<NodeName, Entry, BuildHasherDefault<DefaultHasher>>;

/// A node, and what it adds to the sums: an update touches only the drives that differ.
#[derive(Debug)]
struct Entry {
    record: Arc<NodeRecord>,
    totals: Totals,
}

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
        match update(state.nodes.get(name).map(|entry| &entry.record)) {
            // A record under another name would sit in the wrong shard.
            Some(record) if &record.name == name => state.put(Arc::new(record)),
            _ => Change::Unchanged,
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<NodeRecord>> {
        self.state
            .read()
            .nodes
            .get(name)
            .map(|entry| Arc::clone(&entry.record))
    }

    pub(super) fn remove(&self, name: &str) -> Option<Arc<NodeRecord>> {
        let mut state = self.state.write();
        let entry = state.nodes.remove(name)?;
        state.totals = state.totals.minus(&entry.totals);
        Some(entry.record)
    }

    pub(super) fn snapshot(&self) -> Vec<Arc<NodeRecord>> {
        self.state
            .read()
            .nodes
            .values()
            .map(|entry| Arc::clone(&entry.record))
            .collect()
    }

    pub(super) fn totals(&self) -> Totals {
        self.state.read().totals
    }
}

impl State {
    fn put(&mut self, record: Arc<NodeRecord>) -> Change {
        let Some(entry) = self.nodes.get_mut(record.name.as_str()) else {
            let totals = Totals::of(&record);
            self.totals = self.totals.plus(&totals);
            self.nodes.insert(record.name.clone(), Entry { record, totals });
            return Change::Added;
        };
        let old = &entry.record;
        if Arc::ptr_eq(old, &record) {
            return Change::Unchanged;
        }
        let places = changed_places(&old.drives, &record.drives);
        let difference = compare(old, &record, places.as_deref());
        if difference == Difference::default() {
            return Change::Unchanged;
        }
        let mine = match &places {
            Some(places) => entry.totals.moved(old, &record, places),
            None => Totals::of(&record),
        };
        self.totals = self.totals.minus(&entry.totals).plus(&mine);
        *entry = Entry { record, totals: mine };
        Change::Updated(difference)
    }
}

/// The places at which the same drives differ; `None` where drives came, went or changed places. Drives are
/// compared by pointer first: what a delta did not touch is shared.
fn changed_places(old: &[Arc<DriveRecord>], new: &[Arc<DriveRecord>]) -> Option<Vec<usize>> {
    if old.len() != new.len() {
        return None;
    }
    let mut places = Vec::new();
    for (place, (was, is)) in old.iter().zip(new).enumerate() {
        if Arc::ptr_eq(was, is) || was == is {
            continue;
        }
        if was.identity.id() != is.identity.id() || was.facts.name != is.facts.name {
            return None;
        }
        places.push(place);
    }
    Some(places)
}

/// In what two records differ.
fn compare(old: &NodeRecord, new: &NodeRecord, places: Option<&[usize]>) -> Difference {
    let contact = old.phase != new.phase || old.session.connected != new.session.connected;
    let mut found = Difference {
        members: old.members != new.members,
        contact,
        rest: (!contact && old.session != new.session)
            || old.boot_id != new.boot_id
            || old.agent_version != new.agent_version
            || old.capabilities != new.capabilities
            || old.system != new.system
            || old.faults != new.faults,
        ..Difference::default()
    };
    match places {
        Some(places) => {
            let drives = places.iter().filter_map(|place| new.drives.get(*place));
            found.drives_changed = drives.map(|drive| drive.identity.id().clone()).collect();
        }
        None => moved_drives(&old.drives, &new.drives, &mut found),
    }
    found
}

/// Drives that came, went or changed, wherever they stand.
fn moved_drives(old: &[Arc<DriveRecord>], new: &[Arc<DriveRecord>], found: &mut Difference) {
    fn key(drive: &DriveRecord) -> (&DriveId, &str) {
        (drive.identity.id(), &drive.facts.name)
    }
    let before: BTreeMap<(&DriveId, &str), &Arc<DriveRecord>> =
        old.iter().map(|drive| (key(drive), drive)).collect();
    let after: BTreeSet<&DriveId> = new.iter().map(|drive| drive.identity.id()).collect();
    let differs = |drive: &&Arc<DriveRecord>| before.get(&key(drive)).is_none_or(|was| *was != *drive);
    found.drives_changed = new
        .iter()
        .filter(differs)
        .map(|drive| drive.identity.id().clone())
        .collect();
    let gone = old.iter().filter(|drive| !after.contains(drive.identity.id()));
    found.drives_removed = gone.map(|drive| drive.identity.id().clone()).collect();
    // The same drives in another order, or one path less: nobody's drive, and still another record.
    found.rest |= found.drives_changed.is_empty() && found.drives_removed.is_empty();
}

impl Totals {
    /// What one node adds to the sums.
    pub(super) fn of(record: &NodeRecord) -> Self {
        Self {
            drives: record.drive_count(),
            raw_bytes: record.raw_bytes(),
            ..Self::of_contact(record)
        }
    }

    /// The same after the drives at these places changed.
    fn moved(&self, old: &NodeRecord, new: &NodeRecord, places: &[usize]) -> Self {
        let sum = |record: &NodeRecord| {
            let drives = places.iter().filter_map(|place| record.drives.get(*place));
            let drives = drives.filter(|drive| !drive.identity.is_path());
            drives.fold((0_u64, 0_u64), |(count, bytes), drive| {
                (
                    count + 1,
                    bytes.saturating_add(drive.facts.size_bytes.known().copied().unwrap_or(0)),
                )
            })
        };
        let (before, after) = (sum(old), sum(new));
        Self {
            drives: self.drives.saturating_sub(before.0).saturating_add(after.0),
            raw_bytes: self.raw_bytes.saturating_sub(before.1).saturating_add(after.1),
            ..Self::of_contact(new)
        }
    }

    /// What a node adds, without its drives.
    fn of_contact(record: &NodeRecord) -> Self {
        let mut totals = Self {
            nodes: 1,
            connected: u64::from(record.session.connected),
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
