//! An agent that says anything: frames through the session's state machine and the wire's parser into roster and
//! registry, and what is then judged of its drives. Another node is there all the time, and must not notice.

use std::{
    collections::BTreeMap,
    sync::OnceLock,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use prost::Message as _;
use smart_storage_agent::{
    hardware::{Device, Evidence, Mark, Usage},
    wire as agent_wire,
};
use smart_storage_controller::{
    agents::{fuzzing as doors, roster::Roster, session::SILENCE, session::Session, session::Step, wire},
    pki::Authority,
};
use smart_storage_core::{
    classify::{JudgeInput, judge},
    drive::{DriveFacts, NodeName, Observed},
    identity::Verdict,
    node::NodeRecord,
    registry::Registry,
};
use smart_storage_proto::{
    agent::v1::{self as pb, agent_message::Message},
    codec,
};

use crate::{
    Format, Target,
    mutate::frames::{join, split},
    outcome,
};

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "stream",
        format: Format::Frames,
        run,
        seeds,
        words: &[
            "node-1",
            "node-2",
            "naa.5000c500a1b2c3d4",
            "0025385c21501234",
            "\u{0}",
            "sda",
            "../x",
            "unknown",
        ],
        short: 500,
    },
    Target {
        name: "csr",
        format: Format::Bytes,
        run: csr,
        seeds: csr_seeds,
        words: &["\u{30}\u{7f}", "\u{6}\u{3}", "\u{2}\u{1}\u{0}"],
        short: 300,
    },
];

const NODE: &str = "node-1";
const OTHER: &str = "node-2";

fn neighbour(name: &str, serial: &str) -> DriveFacts {
    let told = agent_wire::device(&drive(name, serial));
    wire::drive(told).expect("a drive that is right")
}

fn drive(name: &str, serial: &str) -> Device {
    Device {
        name: name.to_owned(),
        dev_path: format!("/dev/{name}"),
        size_bytes: Some(1 << 40),
        read_only: Some(false),
        vendor: Some("ATA".to_owned()),
        model: Some("M1".to_owned()),
        evidence: Evidence {
            serial: Some(serial.to_owned()),
            wwn: Some(format!("naa.5000c500{serial:0>8}")),
            ..Evidence::default()
        },
        usage: Usage {
            blank: Some(true),
            exclusive_open_ok: Some(true),
            holders: Vec::new(),
        },
        ..Device::default()
    }
}

fn run(data: &[u8]) -> u64 {
    let (roster, registry) = (Roster::default(), Registry::new());
    let (node, other) = (NodeName::from(NODE), NodeName::from(OTHER));
    roster.publish(&registry, &other, 0, |_, facts| {
        *facts = vec![neighbour("sda", "77"), neighbour("sdb", "78")];
    });
    let before = registry.get(OTHER).expect("the other node");
    let now = Instant::now();
    let mut session = Session::new(node.clone(), SILENCE, now);
    let (mut steps, mut ended, mut epoch) = (BTreeMap::new(), "open", 0_u64);
    for frame in split(data).into_iter().take(64) {
        let Ok(message) = codec::decode::<pb::AgentMessage>(Bytes::copy_from_slice(frame)) else {
            ended = "undecodable";
            break;
        };
        let step = match session.on(message, now) {
            Err(_) => {
                ended = "refused";
                break;
            }
            Ok(None) => continue,
            Ok(Some(step)) => step,
        };
        let kind = match &step {
            Step::Welcome(_) => "welcome",
            Step::Resync(_) => "resync",
            Step::Snapshot(snapshot) => {
                assert!(snapshot.epoch > epoch, "an epoch that did not grow");
                epoch = snapshot.epoch;
                "snapshot"
            }
            Step::Delta(_) => "delta",
            Step::Result(_) => "result",
            Step::Stored(_) => "stored",
            Step::Ignored(_) => "ignored",
        };
        *steps.entry(kind).or_insert(0_u8) |= 1;
        for changed in doors::apply(&roster, &registry, &node, step) {
            assert!(changed == node || changed == other, "{changed} changed");
        }
        let after = registry.get(OTHER).expect("the other node");
        untouched(&before, &after);
    }
    let judged = registry
        .get(NODE)
        .map(|record| of_the_node(&record))
        .unwrap_or_default();
    // The garbage goes: the other node's drives are what they were.
    let empty = Step::Snapshot(wire::Snapshot {
        epoch: u64::MAX,
        ..wire::Snapshot::default()
    });
    doors::apply(&roster, &registry, &node, empty);
    let after = registry.get(OTHER).expect("the other node");
    for (was, is) in before.drives.iter().zip(&after.drives) {
        assert_eq!(
            was.identity, is.identity,
            "the other node's drive is another since the garbage came and went"
        );
    }
    outcome((steps, ended, judged))
}

/// What another node told stays; its drives may be doubted, never be called others.
fn untouched(before: &NodeRecord, after: &NodeRecord) {
    assert_eq!(
        before.drives.len(),
        after.drives.len(),
        "drives of the other node"
    );
    assert!(
        before.members == after.members && before.faults == after.faults,
        "what the other node told"
    );
    for (was, is) in before.drives.iter().zip(&after.drives) {
        assert_eq!(was.facts, is.facts, "facts of the other node");
        let doubted = matches!(is.identity, Verdict::Conflict { .. });
        assert!(
            was.identity == is.identity || doubted,
            "{:?} became {:?}",
            was.identity,
            is.identity
        );
    }
}

fn of_the_node(record: &NodeRecord) -> (usize, Vec<(bool, u8)>) {
    let mut names = Vec::new();
    let mut answers = Vec::new();
    for drive in &record.drives {
        let facts = &drive.facts;
        names.push(facts.name.clone());
        let judgement = judge(&JudgeInput {
            facts,
            identity: &drive.identity,
            overrides: None,
            excluded: false,
            claim: None,
            node_connected: true,
            node_labels: None,
        });
        if judgement.claimable {
            assert_eq!(
                facts.usage.blank,
                Observed::Known(true),
                "claimable, and not known to be blank"
            );
            assert_eq!(
                facts.usage.exclusive_open_ok,
                Observed::Known(true),
                "claimable, and perhaps held"
            );
            assert!(facts.usage.holders.is_empty(), "claimable, and held");
            assert!(facts.evidence.mark.is_none(), "claimable, and marked");
            assert!(
                matches!(drive.identity, Verdict::Drive { .. }),
                "claimable, and nobody knows who it is"
            );
            assert!(
                facts.size_bytes.known().is_some_and(|size| *size > 0),
                "claimable, and of no size"
            );
        } else {
            assert!(!judgement.refusals.is_empty(), "not claimable without a reason");
        }
        legal_id(judgement.id.as_str());
        assert!(judgement.classification.score <= 100);
        for (key, value) in &judgement.labels {
            let legal = value.len() <= 63
                && value
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && value.starts_with(|c: char| c.is_ascii_alphanumeric())
                && value.ends_with(|c: char| c.is_ascii_alphanumeric());
            assert!(legal, "label {key}={value:?}");
        }
        let kind = match drive.identity {
            Verdict::Drive { .. } => 0,
            Verdict::Path { .. } => 1,
            Verdict::Conflict { .. } => 2,
            Verdict::NoEvidence { .. } => 3,
        };
        answers.push((judgement.claimable, kind));
    }
    let told = names.len();
    names.sort();
    names.dedup();
    assert_eq!(told, names.len(), "a kernel name twice on one node");
    answers.sort_unstable();
    answers.dedup();
    (told.min(4), answers)
}

/// An id has to make a legal object name.
pub(super) fn legal_id(id: &str) {
    let legal = (1..=63).contains(&id.len())
        && id.split('.').all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        });
    assert!(legal, "{id:?} is no id");
}

fn message(message: Message) -> Vec<u8> {
    pb::AgentMessage {
        message: Some(message),
    }
    .encode_to_vec()
}

fn seeds() -> Vec<Vec<u8>> {
    let hello = |node: &str| {
        message(Message::Hello(pb::Hello {
            protocol_version: 1,
            node_name: node.to_owned(),
            boot_id: "b".to_owned(),
            system: Some(pb::SystemInfo::default()),
            ..Default::default()
        }))
    };
    let mut nvme = drive("nvme0n1", "N1");
    nvme.evidence.eui64 = Some("0025385c21501234".to_owned());
    nvme.evidence.nguid = Some("36344730528000250025384500000001".to_owned());
    nvme.evidence.nvme_namespace = Some(1);
    nvme.nvme = Some(smart_storage_agent::hardware::NvmeFacts::default());
    let mut marked = drive("loop0", "L");
    marked.evidence = Evidence {
        backing_file: Some("/demo/a.img".to_owned()),
        backing_file_inode: Some("1:2".to_owned()),
        filesystem_uuids: vec!["0190d5c4-7c3e-7a50-8a51-6c2f1f1d0a12".to_owned()],
        mark: Some(Mark {
            member_id: "0190d5c4-7c3e-7a50-8a51-6c2f1f1d0a11".to_owned(),
            label: "01234567/fast".to_owned(),
            partition: 1,
            released: false,
        }),
        ..Evidence::default()
    };
    let mut faulty = drive("sdf", "F");
    faulty.faults = vec![smart_storage_agent::hardware::Fault::failed(
        smart_storage_agent::hardware::Probe::Signatures,
        "sdf",
        "EIO",
    )];
    faulty.usage.blank = None;
    // Nothing says that it is blank, and nothing says why not.
    let mut silent = drive("sdg", "G");
    silent.usage.blank = None;
    let snapshot = |epoch, devices: &[&Device]| {
        message(Message::Snapshot(pb::Snapshot {
            epoch,
            devices: devices.iter().map(|device| agent_wire::device(device)).collect(),
            members: vec![pb::MemberReport {
                member_id: "0190d5c4-7c3e-7a50-8a51-6c2f1f1d0a11".to_owned(),
                state: 3,
                ..Default::default()
            }],
            faults: Vec::new(),
        }))
    };
    let delta = |epoch, seq, changed: &[&Device], removed: &[&str]| {
        message(Message::Delta(pb::Delta {
            epoch,
            seq,
            changed: changed.iter().map(|device| agent_wire::device(device)).collect(),
            removed: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        }))
    };
    let twin = drive("sdx", "77");
    let (one, two) = (drive("sda", "1"), drive("sdb", "2"));
    let beat = message(Message::Heartbeat(pb::Heartbeat { epoch: 1, seq: 1 }));
    let result = message(Message::CommandResult(pb::CommandResult::default()));
    let streams = [
        vec![
            hello(NODE),
            snapshot(1, &[&one, &two, &nvme]),
            delta(1, 1, &[&marked], &["sda"]),
            beat,
        ],
        vec![
            hello(NODE),
            snapshot(1, &[&one, &twin]),
            delta(1, 1, &[&faulty], &["sdx"]),
            result,
        ],
        vec![
            hello(NODE),
            snapshot(1, &[&marked, &faulty, &silent]),
            snapshot(2, &[&one]),
            delta(2, 2, &[&two], &[]),
        ],
        vec![hello(OTHER), snapshot(1, &[&one])],
        vec![snapshot(1, &[&one])],
    ];
    streams
        .iter()
        .map(|frames| join(frames.iter().map(Vec::as_slice)))
        .collect()
}

fn authority() -> &'static Authority {
    static MADE: OnceLock<(Authority, tempfile::TempDir)> = OnceLock::new();
    &MADE
        .get_or_init(|| {
            let folder = tempfile::tempdir().expect("a folder");
            let made = Authority::open(folder.path(), SystemTime::now()).expect("an authority");
            (made, folder)
        })
        .0
}

fn csr(data: &[u8]) -> u64 {
    match doors::certificate(authority(), NODE, data, SystemTime::now()) {
        Ok(der) => {
            let names = der.windows(NODE.len()).any(|part| part == NODE.as_bytes());
            assert!(names, "a certificate that does not name its node");
            1
        }
        Err(status) => {
            assert_eq!(
                status.code() as i32,
                3,
                "a broken request is the caller's fault: {status:?}"
            );
            outcome(status.message().split(' ').take(6).collect::<Vec<_>>())
        }
    }
}

fn csr_seeds() -> Vec<Vec<u8>> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["node-9".to_owned()]).expect("a name");
    params.is_ca = rcgen::IsCa::NoCa;
    let request = params.serialize_request(&key).expect("a request");
    vec![request.der().to_vec()]
}
