//! Evidence of drives, true, missing, borrowed and made up: contradicting drives are never one, an id is given once,
//! and the answer does not hang on the order of the questions.

use std::collections::{BTreeMap, BTreeSet};

use smart_storage_core::{
    drive::{DriveFacts, Evidence, Mark, MemberId, NodeName, Observed, Transport},
    identity::{self, KnownDrive, RecordedEvidence, Resolution, SeenDrive, Verdict},
};

use super::stream::legal_id;
use crate::{Format, Target, outcome, rng::Rng};

pub(super) const TARGETS: &[Target] = &[Target {
    name: "identity",
    format: Format::Bytes,
    run,
    seeds,
    words: &[],
    short: 1200,
}];

const EUI: &[&str] = &["0025385c21501234", "0025385c21501235", "0000000000000000", "00a0b0c0d0e0f001"];
const NGUID: &[&str] = &["36344730528000250025384500000001", "36344730528000250025384500000002"];
const UUID: &[&str] = &["0190d5c4-7c3e-7a50-8a51-6c2f1f1d0a11", "0190d5c4-7c3e-7a50-8a51-6c2f1f1d0a12"];
const WWN: &[&str] = &["naa.5000c500a1b2c3d4", "naa.5000c500a1b2c3d5", "naa.0000000000000000"];
const SERIAL: &[&str] = &["S1", "S2", "unknown", "", "0000", "S 1", "\u{130}ß", "123456789"];
const MODEL: &[&str] = &["M1", "M2", ""];
const NODES: &[&str] = &["a", "b"];
const FILES: &[&str] = &["/demo/a.img", "/demo/b.img"];

/// Choices out of the input; where that is used up, always the first.
struct Choices<'a>(std::slice::Iter<'a, u8>, &'a [u8]);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or_default()
    }

    /// One of these, or none, or (seldom) the input itself as text.
    fn text(&mut self, all: &[&str]) -> Option<String> {
        match self.next() {
            choice if choice < 120 => None,
            255 => Some(String::from_utf8_lossy(self.1.get(..self.1.len().min(90)).unwrap_or_default()).into_owned()),
            choice => all.get(usize::from(choice) % all.len()).map(|text| (*text).to_owned()),
        }
    }

    fn facts(&mut self, name: &str) -> DriveFacts {
        let mark = self.text(UUID).map(|id| Mark {
            member_id: MemberId::from(id),
            partition: 1,
            ..Mark::default()
        });
        DriveFacts {
            name: name.to_owned(),
            size_bytes: match self.next() % 4 {
                0 => Observed::Unsupported,
                size => Observed::Known(u64::from(size) << 40),
            },
            model: self.text(MODEL).map_or(Observed::Unsupported, Observed::Known),
            vendor: self.text(&["ATA", "SEAGATE"]).map_or(Observed::Unsupported, Observed::Known),
            transport: if self.next() > 200 { Transport::Sas } else { Transport::Sata },
            paths: if self.next() > 230 { vec!["d0".to_owned(), "d1".to_owned()] } else { Vec::new() },
            evidence: Evidence {
                eui64: self.text(EUI),
                nguid: self.text(NGUID),
                nvme_uuid: self.text(UUID),
                wwn: self.text(WWN),
                serial: self.text(SERIAL),
                mark,
                filesystem_uuids: self.text(UUID).into_iter().collect(),
                backing_file: self.text(FILES),
                backing_file_inode: self.text(&["1:1", "1:2"]),
                bus_path: self.text(&["/sys/devices/p0", "/sys/devices/p1"]),
                nvme_namespace: Some(u32::from(self.next())).filter(|n| (1..3).contains(n)),
                ..Evidence::default()
            },
            ..DriveFacts::default()
        }
    }
}

fn run(data: &[u8]) -> u64 {
    let mut choices = Choices(data.iter(), data);
    let nodes: Vec<NodeName> = NODES.iter().map(|name| NodeName::from(*name)).collect();
    let node = |choice: u8| nodes.get(usize::from(choice) % nodes.len()).expect("a node");
    let known_count = choices.next() % 5;
    let seen_count = choices.next() % 6;
    let known: Vec<KnownDrive> = (0..known_count)
        .map(|index| {
            let facts = choices.facts("k");
            KnownDrive {
                id: format!("known-{index}").as_str().into(),
                evidence: RecordedEvidence::of(&facts),
                aliases: Vec::new(),
                node: node(choices.next()).clone(),
            }
        })
        .collect();
    let all: Vec<(NodeName, DriveFacts)> = (0..seen_count)
        .map(|index| (node(choices.next()).clone(), choices.facts(&format!("d{index}"))))
        .collect();
    let seen: Vec<SeenDrive<'_>> = all.iter().map(|(node, facts)| SeenDrive { node, facts }).collect();

    let resolved = identity::resolve(&known, &seen);
    assert_eq!(resolved.len(), seen.len());
    certain_ids_do_not_contradict(&known, &seen, &resolved);
    order_does_not_matter(&known, &seen, &resolved, u64::from(choices.next()));
    what_was_learnt_changes_nothing(&known, &seen, &resolved);
    let mut kinds: Vec<u8> = resolved.iter().map(|answer| kind(&answer.verdict)).collect();
    kinds.sort_unstable();
    outcome((kinds, resolved.iter().filter(|answer| answer.minted).count(), known_count))
}

fn kind(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Drive { .. } => 0,
        Verdict::Path { .. } => 1,
        Verdict::Conflict { .. } => 2,
        Verdict::NoEvidence { .. } => 3,
    }
}

/// The pieces that one drive cannot have two of, where they say something: only those from the pools above, whose
/// normal form is themselves.
fn strong(evidence: &Evidence) -> BTreeMap<&'static str, &str> {
    let mut found = BTreeMap::new();
    let mut put = |kind, all: &'static [&'static str], told: Option<&str>| {
        let one = all.iter().find(|one| told == Some(**one));
        if let Some(one) = one.filter(|one| !one.trim_start_matches("naa.").bytes().all(|b| b == b'0')) {
            found.insert(kind, *one);
        }
    };
    put("eui64", EUI, evidence.eui64.as_deref());
    put("nguid", NGUID, evidence.nguid.as_deref());
    put("uuid", UUID, evidence.nvme_uuid.as_deref());
    put("wwn", WWN, evidence.wwn.as_deref());
    put("mark", UUID, evidence.mark.as_ref().map(|mark| mark.member_id.as_str()));
    found
}

fn contradiction(a: &Evidence, b: &Evidence) -> Option<&'static str> {
    let (a, b) = (strong(a), strong(b));
    a.iter().find(|(kind, value)| b.get(*kind).is_some_and(|other| other != *value)).map(|(kind, _)| *kind)
}

fn certain_ids_do_not_contradict(known: &[KnownDrive], seen: &[SeenDrive<'_>], resolved: &[Resolution]) {
    let mut drives: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, answer) in resolved.iter().enumerate() {
        legal_id(answer.verdict.id().as_str());
        let facts = seen.get(index).expect("as many").facts;
        if let Verdict::Drive { id } = &answer.verdict {
            let twice = drives.insert(id.as_str(), index);
            assert_eq!(twice, None, "{id} stands for two devices: {answer:?}");
        }
        let Some(id) = answer.verdict.certain() else { continue };
        if let Some(record) = known.iter().find(|drive| drive.id == *id) {
            let other = contradiction(&record.evidence.evidence, &facts.evidence);
            assert_eq!(other, None, "{id} on record contradicts {facts:?}");
            assert!(!answer.minted, "an id on record was given anew: {answer:?}");
        } else {
            let primary = matches!(answer.verdict, Verdict::Path { .. }) || answer.minted;
            assert!(primary, "an id that is neither on record nor made now: {answer:?}");
        }
        for (twin, other) in resolved.iter().zip(seen).skip(index + 1) {
            if twin.verdict.certain() == Some(id) {
                let different = contradiction(&facts.evidence, &other.facts.evidence);
                assert_eq!(different, None, "two devices that contradict are both {id}");
            }
        }
    }
}

fn order_does_not_matter(known: &[KnownDrive], seen: &[SeenDrive<'_>], resolved: &[Resolution], seed: u64) {
    let mut rng = Rng::new(seed);
    let mut order: Vec<usize> = (0..seen.len()).collect();
    for index in (1..order.len()).rev() {
        order.swap(index, rng.below(index + 1));
    }
    let shuffled: Vec<SeenDrive<'_>> = order.iter().filter_map(|index| seen.get(*index)).copied().collect();
    let backwards: Vec<KnownDrive> = known.iter().rev().cloned().collect();
    let again = identity::resolve(&backwards, &shuffled);
    for (index, answer) in order.iter().zip(&again) {
        assert_eq!(resolved.get(*index), Some(answer), "another answer in another order");
    }
}

/// What is remembered of certain drives makes the same drives of the same devices.
fn what_was_learnt_changes_nothing(known: &[KnownDrive], seen: &[SeenDrive<'_>], resolved: &[Resolution]) {
    let mut memory: BTreeMap<String, KnownDrive> =
        known.iter().map(|drive| (drive.id.to_string(), drive.clone())).collect();
    let doubted: BTreeSet<u8> = resolved.iter().map(|answer| kind(&answer.verdict)).collect();
    for (answer, drive) in resolved.iter().zip(seen) {
        if let Verdict::Drive { id } = &answer.verdict {
            let remembered = match memory.get(id.as_str()) {
                Some(before) => before.absorb(drive.node, drive.facts, &answer.new_aliases),
                None => KnownDrive {
                    id: id.clone(),
                    evidence: RecordedEvidence::of(drive.facts),
                    aliases: answer.new_aliases.clone(),
                    node: drive.node.clone(),
                },
            };
            memory.insert(id.to_string(), remembered);
        }
    }
    // Where something was in doubt, what was learnt of the others may add to it or take it away.
    if doubted.contains(&2) || doubted.contains(&1) {
        return;
    }
    let memory: Vec<KnownDrive> = memory.into_values().collect();
    for (before, after) in resolved.iter().zip(identity::resolve(&memory, seen)) {
        let (Some(was), is) = (before.verdict.certain(), after.verdict.certain()) else {
            continue;
        };
        assert_eq!(Some(was), is, "another drive when seen again: {after:?}");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(3);
    (0..40).map(|_| (0..160).map(|_| rng.number() as u8).collect()).collect()
}
