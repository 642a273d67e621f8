//! Cases that destroyed data elsewhere, or nearly did, as data: what every node shows, and who each device then is.
//!
//! A case is a story in steps. Each step is all that the fleet shows at that time; the memory of the steps before is
//! kept as the controller keeps it. Every story is told several ways that must not matter: with and without a restart
//! of the controller between the steps, and with the devices and the records in the opposite order.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::*;
use crate::{
    classify::{JudgeInput, Judgement, judge},
    drive::{DriveType, Mark, Observed, Usage, Zoned},
    pool::{Candidate, PoolSpec, plan},
};

const CORPUS: [(&str, &str); 5] = [
    ("kernel", include_str!("corpus/kernel.json")),
    ("names", include_str!("corpus/names.json")),
    ("links", include_str!("corpus/links.json")),
    ("collisions", include_str!("corpus/collisions.json")),
    ("copies", include_str!("corpus/copies.json")),
];

/// The threads that every corpus of identity has to answer.
const THREADS: [&str; 19] = [
    "harvester/harvester#8645",
    "harvester/harvester#8295",
    "longhorn/longhorn#6125",
    "hwameistor/hwameistor#1116",
    "rook/rook#14363",
    "rook/rook#14568",
    "rook/rook#13564",
    "rook/rook#12111",
    "openshift/local-storage-operator#542",
    "openshift/local-storage-operator#423",
    "harvester/harvester#6604",
    "harvester/harvester#7173",
    "harvester/harvester#4494",
    "harvester/harvester#6975",
    "hwameistor/hwameistor#1450",
    "openebs/node-disk-manager#656",
    "openebs/node-disk-manager#678",
    "minio/directpv#796",
    "piraeusdatastore/piraeus-operator#141",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// Where it was told; empty for what nobody had to tell.
    thread: String,
    /// The design decision that decides it, where one does.
    #[serde(default)]
    why: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    when: String,
    sees: Vec<Sight>,
}

/// A device as a node shows it, and who it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sight {
    on: String,
    #[serde(rename = "as")]
    name: String,
    /// In units of 1 GB.
    size: Option<u64>,
    transport: Option<Transport>,
    vendor: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    ns: Option<u32>,
    eui64: Option<String>,
    nguid: Option<String>,
    wwn: Option<String>,
    /// The number of a member.
    mark: Option<u8>,
    table: Option<String>,
    #[serde(default)]
    files: Vec<String>,
    port: Option<String>,
    file: Option<String>,
    inode: Option<String>,
    #[serde(default)]
    blank: bool,
    #[serde(default)]
    paths: Vec<String>,

    /// It is a drive that was never seen before, from now on called so.
    new: Option<String>,
    /// It is the drive of that name.
    same: Option<String>,
    /// It is a further path to the drive of that name.
    path: Option<String>,
    /// It is a conflict, and each of these words is said.
    conflict: Option<Vec<String>>,
    /// Nothing says who it is, and each of these words is said.
    nobody: Option<Vec<String>>,

    /// The id that it gets.
    id: Option<String>,
    /// The node where it was before.
    from: Option<String>,
    /// The device that stands for the drive.
    of: Option<String>,
}

impl Sight {
    fn facts(&self) -> DriveFacts {
        let seen = |text: &Option<String>| Observed::from(text.clone());
        DriveFacts {
            name: self.name.clone(),
            size_bytes: Observed::from(self.size.map(|size| size * 1_000_000_000)),
            transport: self.transport.unwrap_or(Transport::Unknown),
            vendor: seen(&self.vendor),
            model: seen(&self.model),
            paths: self.paths.clone(),
            usage: Usage {
                blank: Observed::Known(self.blank),
                ..Usage::default()
            },
            evidence: Evidence {
                nguid: self.nguid.clone(),
                eui64: self.eui64.clone(),
                nvme_uuid: None,
                wwn: self.wwn.clone(),
                serial: self.serial.clone(),
                mark: self.mark.map(|member| Mark {
                    member_id: format!("0b7c1b2e-0000-4000-8000-00000000000{member}").into(),
                    label: "c1/pool".to_owned(),
                    partition: 1,
                    released: false,
                }),
                partition_table_uuid: self.table.clone(),
                filesystem_uuids: self.files.clone(),
                bus_path: self.port.clone(),
                backing_file: self.file.clone(),
                backing_file_inode: self.inode.clone(),
                nvme_namespace: self.ns,
            },
            ..DriveFacts::default()
        }
    }
}

/// A way of telling a story that must not matter.
#[derive(Clone, Copy)]
struct Way {
    restarts: bool,
    backwards: bool,
}

/// What the controller keeps between two steps, and the story's names of drives.
#[derive(Default)]
struct Memory {
    known: BTreeMap<DriveId, KnownDrive>,
    called: BTreeMap<String, DriveId>,
}

impl Memory {
    fn restart(&mut self) {
        for known in self.known.values_mut() {
            *known = KnownDrive::from_map(known.id.clone(), known.node.clone(), &known.to_map());
        }
    }

    /// Who the devices of a step are; what is certain is remembered.
    fn see(&mut self, step: &Step, backwards: bool) -> Vec<Resolution> {
        let nodes: Vec<NodeName> = step.sees.iter().map(|sight| sight.on.as_str().into()).collect();
        let facts: Vec<DriveFacts> = step.sees.iter().map(Sight::facts).collect();
        let mut known: Vec<KnownDrive> = self.known.values().cloned().collect();
        let mut seen: Vec<SeenDrive<'_>> = nodes
            .iter()
            .zip(&facts)
            .map(|(node, facts)| SeenDrive { node, facts })
            .collect();
        if backwards {
            known.reverse();
            seen.reverse();
        }
        let mut answers = resolve(&known, &seen);
        if backwards {
            answers.reverse();
        }
        for ((answer, node), facts) in answers.iter().zip(&nodes).zip(&facts) {
            if let Verdict::Drive { id } = &answer.verdict {
                let remembered = match self.known.get(id) {
                    Some(before) => before.absorb(node, facts, &answer.new_aliases),
                    None => KnownDrive {
                        id: id.clone(),
                        evidence: RecordedEvidence::of(facts),
                        aliases: answer.new_aliases.clone(),
                        node: node.clone(),
                    },
                };
                self.known.insert(id.clone(), remembered);
            }
        }
        answers
    }

    /// Whether the answer is the one that the story expects; in words where it is not.
    fn check(&mut self, sight: &Sight, answer: &Resolution) -> Result<(), String> {
        let called = |name: &String| self.called.get(name).cloned();
        let right = match (&answer.verdict, sight) {
            (Verdict::Drive { id }, Sight { new: Some(name), .. }) => {
                let fresh = answer.minted && !self.called.values().any(|other| other == id);
                self.called.insert(name.clone(), id.clone());
                fresh
            }
            (Verdict::Drive { id }, Sight { same: Some(name), .. }) => {
                !answer.minted && called(name).as_ref() == Some(id)
            }
            (
                Verdict::Path { id, primary },
                Sight {
                    path: Some(name), of, ..
                },
            ) => called(name).as_ref() == Some(id) && of.as_ref() == Some(primary),
            (
                Verdict::Conflict { reason, .. },
                Sight {
                    conflict: Some(said), ..
                },
            )
            | (
                Verdict::NoEvidence { reason, .. },
                Sight {
                    nobody: Some(said), ..
                },
            ) => !said.is_empty() && said.iter().all(|words| reason.contains(words.as_str())),
            _ => false,
        };
        let id = sight
            .id
            .as_ref()
            .is_none_or(|id| answer.verdict.id().as_str() == id);
        let from = answer.moved_from.as_ref().map(NodeName::as_str) == sight.from.as_deref();
        (right && id && from).then_some(()).ok_or_else(|| {
            let names = &self.called;
            format!("{} on {}: {answer:?}, where {names:?}", sight.name, sight.on)
        })
    }
}

fn cases() -> Vec<Case> {
    let read = |(file, text): &(&str, &str)| -> Vec<Case> {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{file}.json: {error}"))
    };
    CORPUS.iter().flat_map(read).collect()
}

fn tell(case: &Case, way: Way) -> Result<Vec<Vec<Resolution>>, String> {
    let mut memory = Memory::default();
    let mut told = Vec::new();
    for step in &case.steps {
        if way.restarts {
            memory.restart();
        }
        let answers = memory.see(step, way.backwards);
        // New drives first: a path may be listed before the device that stands for it.
        let mut pairs: Vec<(&Sight, &Resolution)> = step.sees.iter().zip(&answers).collect();
        pairs.sort_by_key(|(sight, _)| sight.new.is_none());
        for (sight, answer) in pairs {
            let wrong = |error| format!("{}, {}: {error}", case.name, step.when);
            memory.check(sight, answer).map_err(wrong)?;
        }
        told.push(answers);
    }
    Ok(told)
}

#[test]
fn every_story_ends_as_it_must() {
    let mut wrong = Vec::new();
    for case in cases() {
        for (restarts, backwards) in [(false, false), (false, true), (true, false), (true, true)] {
            wrong.extend(tell(&case, Way { restarts, backwards }).err());
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// A drive as good as a drive can be, with nothing against it but who it is.
fn blank_and_free(facts: &DriveFacts) -> DriveFacts {
    let mut facts = facts.clone();
    facts.kind = DriveType::Ssd;
    facts.size_bytes = Observed::Known(1 << 40);
    facts.usage = Usage {
        blank: Observed::Known(true),
        holders: Vec::new(),
        exclusive_open_ok: Observed::Known(true),
    };
    facts.evidence.mark = None;
    facts
}

fn judged(facts: &DriveFacts, identity: &Verdict) -> Judgement {
    judge(&JudgeInput {
        facts,
        identity,
        overrides: None,
        excluded: false,
        claim: None,
        node_connected: true,
        node_labels: None,
    })
}

#[test]
fn only_a_drive_that_is_certain_is_ever_claimed() {
    let mut claimed = [0, 0];
    for case in cases() {
        let told = tell(
            &case,
            Way {
                restarts: false,
                backwards: false,
            },
        )
        .unwrap();
        for (step, answers) in case.steps.iter().zip(told) {
            for (sight, answer) in step.sees.iter().zip(answers) {
                let judgement = judged(&blank_and_free(&sight.facts()), &answer.verdict);
                let certain = matches!(answer.verdict, Verdict::Drive { .. });
                assert_eq!(judgement.claimable, certain, "{}: {judgement:?}", case.name);
                if let Verdict::Conflict { reason, .. } | Verdict::NoEvidence { reason, .. } = &answer.verdict
                {
                    let said = judgement.refusals.iter().any(|refusal| refusal.contains(reason));
                    assert!(said, "{}: {:?}", case.name, judgement.refusals);
                }
                let candidate = Candidate {
                    id: judgement.id.clone(),
                    device: sight.name.clone(),
                    node: answer.node.clone(),
                    fault_domain: sight.on.clone(),
                    node_labels: BTreeMap::new(),
                    size_bytes: 1 << 40,
                    zoned: Zoned::None,
                    judgement,
                };
                let claim = plan(&PoolSpec::default(), &[], &[candidate]).claim;
                assert!(certain || claim.is_empty(), "{}: {claim:?}", case.name);
                claimed[usize::from(certain)] += claim.len();
            }
        }
    }
    assert!(claimed[0] == 0 && claimed[1] > 50, "{claimed:?}");
}

#[test]
fn the_corpus_answers_every_thread_and_says_what_it_tells() {
    let cases = cases();
    let told: BTreeSet<&str> = cases.iter().map(|case| case.thread.as_str()).collect();
    for thread in THREADS {
        assert!(told.contains(thread), "no case of {thread}");
    }
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "every case has a name of its own");
    for case in &cases {
        assert!(
            case.name.contains(' ') && (case.why.is_empty() || case.why.ends_with('.')),
            "{}",
            case.name
        );
        assert!(!case.steps.is_empty() && case.steps.iter().all(|step| !step.when.is_empty()));
    }
}
