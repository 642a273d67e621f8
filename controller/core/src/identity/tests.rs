//! How ids are made and remembered; the cases from elsewhere are in the corpus, the laws in `laws.rs`.

use super::*;
use crate::drive::{Mark, Observed};

pub(super) fn facts(name: &str, size: u64, evidence: Evidence) -> DriveFacts {
    DriveFacts {
        name: name.to_owned(),
        size_bytes: Observed::Known(size),
        model: Observed::Known("INTEL SSDPE2KE016T8".to_owned()),
        evidence,
        ..DriveFacts::default()
    }
}

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

pub(super) fn mark(member: &str) -> Option<Mark> {
    Some(Mark {
        member_id: member.into(),
        label: "c1/pool".to_owned(),
        partition: 1,
        released: false,
    })
}

/// Resolves devices given as (node, facts).
pub(super) fn run(known: &[KnownDrive], seen: &[(&str, &DriveFacts)]) -> Vec<Resolution> {
    let nodes: Vec<NodeName> = seen.iter().map(|(node, _)| NodeName::from(*node)).collect();
    let seen: Vec<SeenDrive<'_>> = seen
        .iter()
        .zip(&nodes)
        .map(|((_, facts), node)| SeenDrive { node, facts })
        .collect();
    resolve(known, &seen)
}

fn recorded(node: &str, facts: &DriveFacts) -> KnownDrive {
    let answer = run(&[], &[(node, facts)]);
    KnownDrive {
        id: answer[0].verdict.certain().expect("an id").clone(),
        evidence: RecordedEvidence::of(facts),
        aliases: Vec::new(),
        node: node.into(),
    }
}

fn id(resolution: &Resolution) -> &str {
    resolution.verdict.certain().map_or("", DriveId::as_str)
}

fn conflict(resolution: &Resolution) -> &str {
    match &resolution.verdict {
        Verdict::Conflict { reason, .. } => reason,
        other => panic!("no conflict: {other:?}"),
    }
}

pub(super) const GIB: u64 = 1 << 30;
const M1: &str = "0b7c1b2e-0000-4000-8000-000000000001";
const M2: &str = "0b7c1b2e-0000-4000-8000-000000000002";

#[test]
fn the_strongest_evidence_names_a_drive() {
    let check = |evidence: Evidence, expected: &str| {
        let drive = facts("x", GIB, evidence);
        assert_eq!(id(&run(&[], &[("n", &drive)])[0]), expected);
    };
    check(
        Evidence {
            eui64: text("0025385c21501234"),
            serial: text("S1"),
            ..Evidence::default()
        },
        "nvme-eui.0025385c21501234",
    );
    check(
        Evidence {
            nguid: text("35503741304500160025385300000001"),
            eui64: text("0000000000000000"),
            ..Evidence::default()
        },
        "nvme-nguid.35503741304500160025385300000001",
    );
    check(
        Evidence {
            wwn: text("uuid.c0ffee00-1111-2222-3333-444444444444"),
            ..Evidence::default()
        },
        "nvme-uuid.c0ffee00-1111-2222-3333-444444444444",
    );
    check(
        Evidence {
            wwn: text("naa.5000c500a1b2c3d4"),
            ..Evidence::default()
        },
        "wwn-5000c500a1b2c3d4",
    );
    check(
        Evidence {
            wwn: text("0x500ee01fb131f08e"),
            ..Evidence::default()
        },
        "wwn-500ee01fb131f08e",
    );
    check(
        Evidence {
            serial: text("PHLN 1234"),
            wwn: text("nvme.8086-50484c4e-494e54454c-00000001"),
            nvme_namespace: Some(1),
            ..Evidence::default()
        },
        "serial-intel-ssdpe2ke016t8-phln-1234-n1",
    );
}

#[test]
fn an_id_is_always_a_legal_object_name() {
    let mut drive = facts(
        "x",
        GIB,
        Evidence {
            serial: text("S/N: __ 7 **"),
            ..Evidence::default()
        },
    );
    drive.model =
        Observed::Known("A very long model name that goes on and on, and then some more of it".to_owned());
    let answer = run(&[], &[("n", &drive)]);
    let id = id(&answer[0]);
    assert!(
        id.len() <= MAX_ID && id.starts_with("serial-a-very-long-model"),
        "{id}"
    );
    assert!(
        id.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-'),
        "{id}"
    );
}

#[test]
fn what_every_drive_has_identifies_none() {
    for wwn in [
        "0x0000000000000000",
        "unknown",
        "naa.0000000000000000",
        "0x0",
        "none",
        "eui.0000000000000000",
        "0xffffffffffffffff",
    ] {
        let drive = facts(
            "sda",
            GIB,
            Evidence {
                wwn: text(wwn),
                ..Evidence::default()
            },
        );
        let answer = &run(&[], &[("n", &drive)])[0];
        assert!(
            matches!(answer.verdict, Verdict::NoEvidence { .. }),
            "{wwn}: {answer:?}"
        );
    }
    let mut virtio = facts(
        "vda",
        GIB,
        Evidence {
            serial: text("osdisk"),
            ..Evidence::default()
        },
    );
    virtio.model = Observed::Unsupported;
    let Verdict::NoEvidence { reason, .. } = &run(&[], &[("n", &virtio)])[0].verdict else {
        panic!("identified")
    };
    assert!(reason.contains("serial alone"), "{reason}");
}

#[test]
fn a_new_kernel_that_renames_the_wwn_changes_nothing() {
    // harvester#8645: nvme-eui.* became nvme-nvme.8086-* after a kernel upgrade.
    let before = facts(
        "nvme0n1",
        GIB,
        Evidence {
            wwn: text("eui.01000000010000005cd2e4f2a1b25051"),
            serial: text("PHLN1"),
            nvme_namespace: Some(1),
            ..Evidence::default()
        },
    );
    let after = facts(
        "nvme3n1",
        GIB,
        Evidence {
            wwn: text("nvme.8086-50484c4e31-494e54454c-00000001"),
            serial: text("PHLN1"),
            nvme_namespace: Some(1),
            ..Evidence::default()
        },
    );
    let known = recorded("a", &before);
    let answer = &run(std::slice::from_ref(&known), &[("a", &after)])[0];
    assert_eq!(id(answer), known.id.as_str());
    assert_eq!(answer.new_aliases, ["serial-intel-ssdpe2ke016t8-phln1-n1"]);
    let remembered = known.absorb(&"a".into(), &after, &answer.new_aliases);
    assert_eq!(remembered.evidence.evidence.wwn, before.evidence.wwn);
    assert!(run(&[remembered], &[("a", &after)])[0].new_aliases.is_empty());
}

#[test]
fn a_drive_that_moves_to_another_node_keeps_its_id() {
    let mut there = facts(
        "sdb",
        GIB,
        Evidence {
            wwn: text("naa.5000c500a1b2c3d4"),
            bus_path: text("/sys/1"),
            mark: mark(M1),
            ..Evidence::default()
        },
    );
    let known = recorded("a", &there);
    there.name = "sdq".to_owned();
    there.evidence.bus_path = text("/sys/9");
    let answer = &run(std::slice::from_ref(&known), &[("b", &there)])[0];
    assert_eq!(
        (id(answer), &answer.moved_from),
        (known.id.as_str(), &Some("a".into()))
    );
}

#[test]
fn two_devices_with_the_same_evidence_are_in_conflict_both() {
    // hwameistor#1116, #1450: equal serials; harvester#6604: one WWN for all.
    let serial = facts(
        "sda",
        GIB,
        Evidence {
            serial: text("0001"),
            ..Evidence::default()
        },
    );
    let twin = facts(
        "sdb",
        GIB,
        Evidence {
            serial: text("0001"),
            ..Evidence::default()
        },
    );
    for (node_a, node_b) in [("a", "a"), ("a", "b")] {
        let answer = run(&[], &[(node_a, &serial), (node_b, &twin)]);
        assert!(conflict(&answer[0]).contains(&format!("sdb on {node_b}")));
        assert!(conflict(&answer[1]).contains(&format!("sda on {node_a}")));
        assert_ne!(answer[0].verdict.id(), answer[1].verdict.id());
    }
    let lun = |name: &str, serial: &str| {
        facts(
            name,
            GIB,
            Evidence {
                wwn: text("naa.600508b1001c0001"),
                serial: text(serial),
                ..Evidence::default()
            },
        )
    };
    let (a, b) = (lun("sda", "LUN-A"), lun("sdb", "LUN-B"));
    let answer = run(&[], &[("a", &a), ("a", &b)]);
    assert!(conflict(&answer[0]).contains("the same WWN and size, but another serial"));
    assert!(conflict(&answer[1]).contains("the same WWN"));
}

#[test]
fn a_node_that_tells_of_hundreds_of_twins_is_doubted_in_few_words() {
    let drives: Vec<DriveFacts> = (0..300)
        .map(|number| {
            let evidence = Evidence {
                wwn: text("naa.5000c500a1b2c3d4"),
                serial: text("S1"),
                ..Evidence::default()
            };
            facts(&format!("d{number}"), GIB, evidence)
        })
        .collect();
    let seen: Vec<(&str, &DriveFacts)> = drives.iter().map(|facts| ("n", facts)).collect();
    for answer in run(&[], &seen) {
        let twins = conflict(&answer).matches("has the same evidence").count();
        assert!((1..=6).contains(&twins), "{twins} twins are named");
    }
}

#[test]
fn evidence_that_contradicts_the_record_is_a_conflict() {
    let before = facts(
        "sda",
        GIB,
        Evidence {
            wwn: text("naa.5000c500a1b2c3d4"),
            serial: text("S1"),
            ..Evidence::default()
        },
    );
    let known = recorded("a", &before);
    let mut other_serial = before.clone();
    other_serial.evidence.serial = text("S2");
    let answer = run(std::slice::from_ref(&known), &[("a", &other_serial)]);
    assert!(conflict(&answer[0]).contains("contradicts the record of wwn-5000c500a1b2c3d4"));
    // Its WWN changed: it could be the excluded drive, so it is not taken for a new one.
    let mut other_wwn = before.clone();
    other_wwn.evidence.wwn = text("naa.5000c500ffffff01");
    let answer = run(std::slice::from_ref(&known), &[("a", &other_wwn)]);
    assert!(conflict(&answer[0]).contains("resembles wwn-5000c500a1b2c3d4"));
    // While the one on record is there, the other is another drive.
    let answer = run(&[known], &[("a", &before), ("a", &other_wwn)]);
    assert_eq!(
        [id(&answer[0]), id(&answer[1])],
        ["wwn-5000c500a1b2c3d4", "wwn-5000c500ffffff01"]
    );
}

#[test]
fn a_virtual_drive_without_any_name_is_found_again_by_its_mark() {
    let mut disk = facts(
        "vdb",
        GIB,
        Evidence {
            mark: mark(M1),
            ..Evidence::default()
        },
    );
    disk.model = Observed::Unsupported;
    let known = KnownDrive {
        id: "old".into(),
        evidence: RecordedEvidence::of(&disk),
        aliases: Vec::new(),
        node: "a".into(),
    };
    disk.name = "vdx".to_owned();
    assert_eq!(id(&run(&[known], &[("b", &disk)])[0]), "old");
}

#[test]
fn both_ports_of_a_drive_are_one_drive() {
    let port = |name: &str, path: &str| {
        let mut facts = facts(
            name,
            GIB,
            Evidence {
                wwn: text("naa.5000c500a1b2c3d4"),
                serial: text("S1"),
                bus_path: text(path),
                ..Evidence::default()
            },
        );
        facts.transport = Transport::Sas;
        facts
    };
    let (a, b) = (port("sda", "/sys/a"), port("sdaa", "/sys/b"));
    for seen in [[("n", &a), ("n", &b)], [("n", &b), ("n", &a)]] {
        let answer = run(&[], &seen);
        let first = answer.iter().find(|answer| answer.device == "sda").unwrap();
        let second = answer.iter().find(|answer| answer.device == "sdaa").unwrap();
        assert_eq!(
            first.verdict,
            Verdict::Drive {
                id: "wwn-5000c500a1b2c3d4".into()
            }
        );
        let path = Verdict::Path {
            id: "wwn-5000c500a1b2c3d4".into(),
            primary: "sda".to_owned(),
        };
        assert_eq!(second.verdict, path);
    }
    // A name of the vendor's making says no more than the serial: two targets may both have it.
    let (mut c, mut d) = (a.clone(), b.clone());
    for unit in [&mut c, &mut d] {
        unit.transport = Transport::Iscsi;
        unit.evidence.wwn = text("t10.IET 00010001");
    }
    assert!(conflict(&run(&[], &[("n", &c), ("n", &d)])[0]).contains("same evidence"));
    // The same evidence on another node is no port.
    assert!(conflict(&run(&[], &[("n", &a), ("m", &b)])[0]).contains("same evidence"));
    // Nor is it on a transport with one port only, unless the agent says so.
    let (mut c, mut d) = (a.clone(), b.clone());
    (c.transport, d.transport) = (Transport::Sata, Transport::Sata);
    assert!(conflict(&run(&[], &[("n", &c), ("n", &d)])[0]).contains("same evidence"));
    d.paths = vec!["sda".to_owned()];
    assert!(run(&[], &[("n", &c), ("n", &d)])[1].verdict.is_path());
}

fn loop_drive(name: &str, file: &str, size: u64, inode: &str) -> DriveFacts {
    let mut facts = facts(
        name,
        size,
        Evidence {
            backing_file: text(file),
            backing_file_inode: text(inode),
            ..Evidence::default()
        },
    );
    facts.model = Observed::Unsupported;
    facts.transport = Transport::Loop;
    facts
}

#[test]
fn a_loop_drive_is_its_file_on_its_node() {
    let drive = loop_drive("loop0", "/d/1.img", GIB, "8:17");
    let known = recorded("a", &drive);
    assert!(
        known.id.as_str().starts_with("loop-") && known.id.as_str().len() == 21,
        "{}",
        known.id
    );
    let mut again = drive.clone();
    again.name = "loop7".to_owned();
    assert_eq!(
        id(&run(std::slice::from_ref(&known), &[("a", &again)])[0]),
        known.id.as_str()
    );
    // Grown: file and inode agree.
    let grown = loop_drive("loop0", "/d/1.img", 2 * GIB, "8:17");
    assert_eq!(
        id(&run(std::slice::from_ref(&known), &[("a", &grown)])[0]),
        known.id.as_str()
    );
    // The same path on another node is another drive, and so is a new file of another size under the old name.
    let elsewhere = run(std::slice::from_ref(&known), &[("b", &drive)]);
    assert!(!id(&elsewhere[0]).is_empty() && id(&elsewhere[0]) != known.id.as_str());
    let replaced = loop_drive("loop0", "/d/1.img", 3 * GIB, "8:99");
    let answer = run(std::slice::from_ref(&known), &[("a", &replaced)]);
    assert!(id(&answer[0]).starts_with(known.id.as_str()) && id(&answer[0]) != known.id.as_str());
}

#[test]
fn a_mark_is_forgotten_only_when_the_drive_is_seen_blank() {
    let mut drive = loop_drive("loop0", "/d/1.img", GIB, "8:1");
    drive.evidence.mark = mark(M1);
    let known = recorded("a", &drive);
    let mut unread = drive.clone();
    unread.evidence.mark = None;
    let known = known.absorb(&"a".into(), &unread, &[]);
    let mut remade = drive.clone();
    remade.evidence.mark = mark(M2);
    assert!(conflict(&run(std::slice::from_ref(&known), &[("a", &remade)])[0]).len() > 10);
    unread.usage.blank = Observed::Known(true);
    let known = known.absorb(&"a".into(), &unread, &[]);
    assert_eq!(
        id(&run(std::slice::from_ref(&known), &[("a", &remade)])[0]),
        known.id.as_str()
    );
}
