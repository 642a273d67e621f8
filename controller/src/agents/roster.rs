//! Who the drives of the fleet are: the memory of every drive ever seen, applied to what agents tell now.
//!
//! The decision is [`identity::resolve`]'s; here is only its bookkeeping. One update at a time passes, because a
//! drive that shows up on one node may change what is known of another: two devices with the same evidence are a
//! conflict on both nodes. Durable memory is the StorageNodes' status: whoever leads fills the roster from it before
//! the first stream, and writes it back.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use smart_storage_core::{
    decide,
    drive::{DriveFacts, DriveId, NodeName},
    identity::{self, KnownDrive, RecordedEvidence, SeenDrive, Verdict},
    node::{DriveRecord, NodeRecord},
    registry::{Change, Registry},
};

mod index;

use self::index::Index;

/// The memory.
#[derive(Debug, Default)]
pub struct Roster {
    memory: Mutex<Memory>,
}

/// Every drive ever seen, and who has which piece of evidence: on record, and on the nodes as they are now.
#[derive(Debug, Default)]
struct Memory {
    known: BTreeMap<DriveId, KnownDrive>,
    known_by_node: HashMap<NodeName, BTreeSet<DriveId>>,
    known_by_piece: Index<Arc<DriveId>>,
    nodes_by_piece: Index<Arc<NodeName>>,
    /// Nodes and drives that were compared; the fleet's size must not show in it.
    #[cfg(test)]
    compared: usize,
}

impl Memory {
    fn insert(&mut self, drive: KnownDrive) {
        if self.known.get(&drive.id) == Some(&drive) {
            return;
        }
        self.remove(&drive.id);
        let id = Arc::new(drive.id.clone());
        for piece in evidence_keys(&drive.evidence.evidence) {
            self.known_by_piece.add(&piece, &id);
        }
        self.known_by_node
            .entry(drive.node.clone())
            .or_default()
            .insert(drive.id.clone());
        self.known.insert(drive.id.clone(), drive);
    }

    fn remove(&mut self, id: &DriveId) {
        let Some(drive) = self.known.remove(id) else {
            return;
        };
        let owner = Arc::new(id.clone());
        for piece in evidence_keys(&drive.evidence.evidence) {
            self.known_by_piece.remove(&piece, &owner);
        }
        if let Some(of_node) = self.known_by_node.get_mut(&drive.node) {
            of_node.remove(id);
            if of_node.is_empty() {
                self.known_by_node.remove(&drive.node);
            }
        }
    }

    /// The node shows `now` and no longer `before`.
    fn shows(&mut self, node: &NodeName, before: &[Arc<DriveRecord>], now: &[Arc<DriveRecord>]) {
        let node = Arc::new(node.clone());
        for piece in before.iter().flat_map(|drive| keys(&drive.facts)) {
            self.nodes_by_piece.remove(&piece, &node);
        }
        for piece in now.iter().flat_map(|drive| keys(&drive.facts)) {
            self.nodes_by_piece.add(&piece, &node);
        }
    }

    /// Drives on record that were seen on `node`, or have one of these pieces, ordered by id.
    fn near_known(&mut self, node: &NodeName, keys: &HashSet<String>) -> Vec<KnownDrive> {
        let of_node = self.known_by_node.get(node).into_iter().flatten().cloned();
        let like = self.known_by_piece.near(keys);
        let ids: BTreeSet<DriveId> = of_node.chain(like.iter().map(|id| DriveId::clone(id))).collect();
        let near: Vec<_> = ids.iter().filter_map(|id| self.known.get(id).cloned()).collect();
        #[cfg(test)]
        {
            self.compared += near.len();
        }
        near
    }

    /// Other nodes that show one of these pieces, ordered by name.
    fn near(&mut self, registry: &Registry, node: &NodeName, keys: &HashSet<String>) -> Vec<Arc<NodeRecord>> {
        let near: Vec<_> = self
            .nodes_by_piece
            .near(keys)
            .iter()
            .filter(|other| other.as_ref() != node)
            .filter_map(|other| registry.get(other.as_str()))
            .filter(|record| record.drives.iter().any(|drive| touches(&drive.facts, keys)))
            .collect();
        #[cfg(test)]
        {
            self.compared += near.len();
        }
        near
    }
}

impl Roster {
    /// Adds what is on record; a drive that is known already stays as it is.
    pub fn remember(&self, drives: impl IntoIterator<Item = KnownDrive>) {
        let mut memory = self.memory.lock();
        for drive in drives {
            if !memory.known.contains_key(&drive.id) {
                memory.insert(drive);
            }
        }
    }

    /// Forgets drives: the next time they are seen they are new.
    pub fn forget<'a>(&self, drives: impl IntoIterator<Item = &'a DriveId>) {
        let mut memory = self.memory.lock();
        for drive in drives {
            memory.remove(drive);
        }
    }

    /// Takes a node out of `registry`; its drives stay known. Answers the nodes whose record changed by it: that one,
    /// and those that were in conflict with nobody else.
    pub fn forget_node(&self, registry: &Registry, node: &NodeName, now_ms: u64) -> BTreeSet<NodeName> {
        let mut memory = self.memory.lock();
        let Some(record) = registry.remove(node.as_str()) else {
            return BTreeSet::new();
        };
        memory.shows(node, &record.drives, &[]);
        let pieces: HashSet<String> = record
            .drives
            .iter()
            .flat_map(|drive| keys(&drive.facts))
            .collect();
        let touching = memory.near(registry, node, &pieces);
        let mut changed = BTreeSet::from([node.clone()]);
        resolve_again(&mut memory, registry, &touching, now_ms, &mut changed);
        changed
    }

    /// Every drive that was last seen on `node`, ordered by id.
    #[must_use]
    pub fn of_node(&self, node: &NodeName) -> Vec<KnownDrive> {
        let memory = self.memory.lock();
        let ids = memory.known_by_node.get(node);
        ids.into_iter()
            .flatten()
            .filter_map(|id| memory.known.get(id).cloned())
            .collect()
    }

    /// What is remembered of one drive.
    #[must_use]
    pub fn get(&self, drive: &DriveId) -> Option<KnownDrive> {
        self.memory.lock().known.get(drive).cloned()
    }

    /// Puts a node's new record, made by `update` from the present one, into the registry, every drive with its
    /// identity; answers the nodes whose record changed by it.
    pub fn publish(
        &self,
        registry: &Registry,
        node: &NodeName,
        now_ms: u64,
        update: impl FnOnce(&mut NodeRecord, &mut Vec<DriveFacts>),
    ) -> BTreeSet<NodeName> {
        let mut memory = self.memory.lock();
        let before = registry.get(node.as_str());
        let mut record = before
            .as_deref()
            .cloned()
            .unwrap_or_else(|| NodeRecord::empty(node.clone()));
        let mut facts: Vec<DriveFacts> = record.drives.iter().map(|drive| drive.facts.clone()).collect();
        update(&mut record, &mut facts);
        facts.sort_unstable_by(|a, b| a.name.cmp(&b.name));

        let mut changed = BTreeSet::new();
        let gone = record.drives.clone();
        if let Some(drives) = kept(&record.drives, &facts) {
            // The evidence is what it was, and so is who has it.
            record.drives = drives;
            apply(registry, record, now_ms, &mut changed);
            return changed;
        }
        record.drives = resolve(&mut memory, registry, node, &facts);
        let pieces: HashSet<String> = gone
            .iter()
            .map(|drive| &drive.facts)
            .chain(&facts)
            .flat_map(keys)
            .collect();
        memory.shows(node, &gone, &record.drives);
        let touching = memory.near(registry, node, &pieces);
        apply(registry, record, now_ms, &mut changed);
        resolve_again(&mut memory, registry, &touching, now_ms, &mut changed);
        changed
    }
}

/// The same drives of these nodes, before a fleet that is another one now.
fn resolve_again(
    memory: &mut Memory,
    registry: &Registry,
    nodes: &[Arc<NodeRecord>],
    now_ms: u64,
    changed: &mut BTreeSet<NodeName>,
) {
    for before in nodes {
        let facts: Vec<DriveFacts> = before.drives.iter().map(|drive| drive.facts.clone()).collect();
        let mut record = NodeRecord::clone(before);
        record.drives = resolve(memory, registry, &before.name, &facts);
        apply(registry, record, now_ms, changed);
    }
}

fn apply(registry: &Registry, mut record: NodeRecord, now_ms: u64, changed: &mut BTreeSet<NodeName>) {
    record.phase = decide::node::decide(Some(&record), now_ms).phase;
    let name = record.name.clone();
    if registry.apply(record) != Change::Unchanged {
        changed.insert(name);
    }
}

/// The drives with new facts and old identities, where nothing that identity hangs on has changed.
fn kept(before: &[Arc<DriveRecord>], facts: &[DriveFacts]) -> Option<Vec<Arc<DriveRecord>>> {
    if before.len() != facts.len() {
        return None;
    }
    before
        .iter()
        .zip(facts)
        .map(|(drive, facts)| {
            let same = drive.facts.name == facts.name
                && drive.facts.usage.blank == facts.usage.blank
                && drive.facts.paths == facts.paths
                && drive.facts.transport == facts.transport
                && RecordedEvidence::of(&drive.facts) == RecordedEvidence::of(facts);
            if !same {
                return None;
            }
            if drive.facts == *facts {
                return Some(Arc::clone(drive));
            }
            Some(Arc::new(DriveRecord {
                identity: drive.identity.clone(),
                facts: facts.clone(),
            }))
        })
        .collect()
}

/// Identities of the node's drives, before the rest of the fleet; the memory takes up what was learnt.
fn resolve(
    memory: &mut Memory,
    registry: &Registry,
    node: &NodeName,
    facts: &[DriveFacts],
) -> Vec<Arc<DriveRecord>> {
    let keys: HashSet<String> = facts.iter().flat_map(keys).collect();
    let near_known = memory.near_known(node, &keys);
    let others = memory.near(registry, node, &keys);
    let mut seen: Vec<SeenDrive<'_>> = facts.iter().map(|facts| SeenDrive { node, facts }).collect();
    for other in &others {
        let theirs = other.drives.iter().filter(|drive| touches(&drive.facts, &keys));
        seen.extend(theirs.map(|drive| SeenDrive {
            node: &other.name,
            facts: &drive.facts,
        }));
    }
    let resolved = identity::resolve(&near_known, &seen);
    let mut drives = Vec::with_capacity(facts.len());
    for (facts, resolution) in facts.iter().zip(resolved) {
        if let Verdict::Drive { id } = &resolution.verdict {
            let remembered = match memory.known.get(id) {
                Some(before) => before.absorb(node, facts, &resolution.new_aliases),
                None => KnownDrive {
                    id: id.clone(),
                    evidence: RecordedEvidence::of(facts),
                    aliases: resolution.new_aliases.clone(),
                    node: node.clone(),
                },
            };
            memory.insert(remembered);
        }
        drives.push(Arc::new(DriveRecord {
            identity: resolution.verdict,
            facts: facts.clone(),
        }));
    }
    drives
}

fn touches(facts: &DriveFacts, with: &HashSet<String>) -> bool {
    evidence_keys(&facts.evidence)
        .iter()
        .any(|key| with.contains(key))
}

fn keys(facts: &DriveFacts) -> Vec<String> {
    evidence_keys(&facts.evidence)
}

/// Every piece that could make two devices one. More than identity uses does no harm: it only widens the view.
fn evidence_keys(evidence: &smart_storage_core::drive::Evidence) -> Vec<String> {
    let singles = [
        ("nguid", &evidence.nguid),
        ("eui64", &evidence.eui64),
        ("uuid", &evidence.nvme_uuid),
        ("wwn", &evidence.wwn),
        ("serial", &evidence.serial),
        ("table", &evidence.partition_table_uuid),
        ("inode", &evidence.backing_file_inode),
        ("file", &evidence.backing_file),
    ];
    let mut keys: Vec<String> = singles
        .into_iter()
        .filter_map(|(kind, value)| Some(format!("{kind}:{}", value.as_ref()?)))
        .collect();
    keys.extend(evidence.filesystem_uuids.iter().map(|uuid| format!("fs:{uuid}")));
    keys.extend(
        evidence
            .mark
            .iter()
            .map(|mark| format!("mark:{}", mark.member_id)),
    );
    keys
}

/// Used by tests of the whole and by nothing else.
#[cfg(test)]
pub(super) fn ids(registry: &Registry, node: &str) -> std::collections::HashMap<String, Verdict> {
    let record = registry.get(node);
    let drives = record.iter().flat_map(|record| &record.drives);
    drives
        .map(|drive| (drive.facts.name.clone(), drive.identity.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use smart_storage_core::drive::{Evidence, Mark, Observed};

    use super::*;

    fn drive(name: &str, serial: &str) -> DriveFacts {
        DriveFacts {
            name: name.to_owned(),
            size_bytes: Observed::Known(1 << 40),
            vendor: Observed::Known("ATA".to_owned()),
            model: Observed::Known("M1".to_owned()),
            evidence: Evidence {
                serial: Some(serial.to_owned()),
                wwn: Some(format!("naa.5000c500{serial:0>8}")),
                ..Evidence::default()
            },
            ..DriveFacts::default()
        }
    }

    fn tell(roster: &Roster, registry: &Registry, node: &str, drives: Vec<DriveFacts>) -> BTreeSet<NodeName> {
        roster.publish(registry, &node.into(), 0, |_, facts| *facts = drives)
    }

    #[test]
    fn equal_facts_told_again_change_nothing() {
        let (roster, registry) = (Roster::default(), Registry::new());
        assert_eq!(
            tell(&roster, &registry, "a", vec![drive("sda", "1")]),
            BTreeSet::from(["a".into()])
        );
        assert_eq!(
            tell(&roster, &registry, "a", vec![drive("sda", "1")]),
            BTreeSet::new()
        );
    }

    #[test]
    fn a_drive_keeps_its_id_under_another_name_and_on_another_node() {
        let (roster, registry) = (Roster::default(), Registry::new());
        tell(&roster, &registry, "a", vec![drive("sda", "1")]);
        let id = ids(&registry, "a")["sda"].clone();
        assert!(id.certain().is_some());
        tell(&roster, &registry, "a", vec![drive("sdb", "1")]);
        assert_eq!(ids(&registry, "a")["sdb"], id);
        tell(&roster, &registry, "a", vec![]);
        tell(&roster, &registry, "b", vec![drive("sdx", "1")]);
        assert_eq!(ids(&registry, "b")["sdx"], id);
        assert!(roster.of_node(&"a".into()).is_empty());
        assert_eq!(roster.of_node(&"b".into()).len(), 1);
    }

    #[test]
    fn the_same_evidence_on_two_nodes_is_a_conflict_on_both_until_one_is_gone() {
        let (roster, registry) = (Roster::default(), Registry::new());
        tell(
            &roster,
            &registry,
            "a",
            vec![drive("sda", "1"), drive("sdb", "2")],
        );
        let id = ids(&registry, "a")["sda"].clone();
        let changed = tell(&roster, &registry, "b", vec![drive("sdc", "1")]);
        assert_eq!(changed, BTreeSet::from(["a".into(), "b".into()]));
        for (node, name) in [("a", "sda"), ("b", "sdc")] {
            let verdict = ids(&registry, node)[name].clone();
            assert!(matches!(verdict, Verdict::Conflict { .. }), "{node} {verdict:?}");
        }
        assert!(ids(&registry, "a")["sdb"].certain().is_some());
        tell(&roster, &registry, "b", vec![]);
        assert_eq!(ids(&registry, "a")["sda"], id);
    }

    #[test]
    fn a_marked_drive_in_a_second_node_is_certain_again_once_the_first_is_forgotten() {
        let marked = |name: &str| {
            let mut facts = drive(name, "1");
            facts.evidence.mark = Some(Mark {
                member_id: "8f0d2c1e-5b7a-4c36-9a41-000000000000".into(),
                ..Mark::default()
            });
            facts
        };
        let (roster, registry) = (Roster::default(), Registry::new());
        tell(&roster, &registry, "a", vec![marked("sda"), drive("sdb", "2")]);
        let id = ids(&registry, "a")["sda"].clone();
        assert!(id.certain().is_some());
        // Its stream ends, and the drive is in another node: who of them has it is not guessed.
        let closed = |record: &mut NodeRecord, _: &mut Vec<DriveFacts>| record.session.connected = false;
        roster.publish(&registry, &"a".into(), 0, closed);
        tell(&roster, &registry, "b", vec![marked("sdx"), drive("sdy", "3")]);
        tell(&roster, &registry, "c", vec![drive("sdz", "4")]);
        tell(&roster, &registry, "b", vec![marked("sdx"), drive("sdy", "3")]);
        assert_eq!(ids(&registry, "b")["sdx"].certain(), None);

        let changed = roster.forget_node(&registry, &"a".into(), 0);
        assert_eq!(changed, BTreeSet::from(["a".into(), "b".into()]));
        assert!(registry.get("a").is_none());
        assert_eq!(ids(&registry, "b")["sdx"], id);
        assert_eq!(roster.get(id.id()).unwrap().node, "b".into());
        assert!(roster.forget_node(&registry, &"a".into(), 0).is_empty());
    }

    #[test]
    fn what_was_remembered_before_a_restart_gives_the_same_ids() {
        let (roster, registry) = (Roster::default(), Registry::new());
        tell(&roster, &registry, "a", vec![drive("sda", "1")]);
        let mut kept = roster.of_node(&"a".into());
        kept[0].id = "first-given".into();
        let (roster, registry) = (Roster::default(), Registry::new());
        roster.remember(kept);
        tell(&roster, &registry, "a", vec![drive("sdq", "1")]);
        assert_eq!(ids(&registry, "a")["sdq"].id().as_str(), "first-given");
    }

    #[test]
    fn what_a_node_tells_is_compared_with_what_is_like_it_and_not_with_the_fleet() {
        let (roster, registry) = (Roster::default(), Registry::new());
        let drives = |n: usize| vec![drive("sda", &format!("{n}")), drive("sdb", &format!("{n}x"))];
        for n in 0..300 {
            tell(&roster, &registry, &format!("node-{n}"), drives(n));
        }
        let before = roster.memory.lock().compared;
        tell(&roster, &registry, "node-7", vec![]);
        tell(&roster, &registry, "node-301", drives(7));
        tell(&roster, &registry, "node-302", drives(302));
        let compared = roster.memory.lock().compared - before;
        assert!(compared <= 8, "{compared}");
        // And nothing is left of who went.
        for n in 0..303 {
            tell(&roster, &registry, &format!("node-{n}"), vec![]);
            roster.forget_node(&registry, &format!("node-{n}").as_str().into(), 0);
        }
        let mut memory = roster.memory.lock();
        assert_eq!(memory.nodes_by_piece.len(), 0);
        let ids: Vec<DriveId> = memory.known.keys().cloned().collect();
        ids.iter().for_each(|id| memory.remove(id));
        assert_eq!(memory.known_by_piece.len(), 0);
        assert!(memory.known_by_node.is_empty());
    }
}
