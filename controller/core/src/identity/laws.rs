//! The laws of identity, on fleets that nobody thought of: drives whose evidence collides wherever evidence can, and of
//! which any part is missing at times.

use proptest::prelude::*;

use super::{
    tests::{GIB, facts, mark, run},
    *,
};
use crate::{
    classify::{JudgeInput, judge},
    drive::{DriveType, Observed, Usage},
    pool::{Candidate, DriveSelector, PoolCapacity, PoolSpec, plan},
};

const NODES: [&str; 3] = ["a", "b", "c"];

/// A fleet of different drives with real names, and the ways in which evidence is thin.
fn fleet() -> impl Strategy<Value = Vec<(usize, DriveFacts)>> {
    let drive = (0usize..3, 0u8..5, any::<bool>(), 1u64..4);
    proptest::collection::vec(drive, 1..12).prop_map(|drives| {
        drives
            .into_iter()
            .enumerate()
            .map(|(i, (node, kind, serial, size))| {
                let mut evidence = Evidence {
                    bus_path: Some(format!("/sys/{i}")),
                    ..Evidence::default()
                };
                match kind {
                    0 => evidence.eui64 = Some(format!("0025385c2150{i:04x}")),
                    1 => evidence.nguid = Some(format!("355037413045001600253853000{i:05x}")),
                    2 => evidence.wwn = Some(format!("naa.5000c500a1b2{i:04x}")),
                    3 => evidence.wwn = Some(format!("nvme.8086-{i:04x}")),
                    _ => evidence.backing_file = Some(format!("/d/{i}.img")),
                }
                if serial || kind == 3 {
                    evidence.serial = Some(format!("SERIAL{i}"));
                }
                (node, facts(&format!("disk{i}"), size << 30, evidence))
            })
            .collect()
    })
}

/// Names of which each may be missing: a drive that answers in part.
fn thin() -> impl Strategy<Value = (u8, DriveFacts)> {
    let few = || proptest::option::of(0u8..3);
    (
        0u8..2,
        (few(), few(), few(), few()),
        (few(), few(), few(), any::<bool>()),
    )
        .prop_map(
            |(node, (vendor, model, serial, namespace), (wwn, member, file, blank))| {
                let told = |word: &str, value: Option<u8>| value.map(|value| format!("{word}{value}"));
                let seen = |word, value| told(word, value).map_or(Observed::Unsupported, Observed::Known);
                let facts = DriveFacts {
                    vendor: seen("Vendor", vendor),
                    model: seen("Model", model),
                    usage: Usage {
                        blank: Observed::Known(blank),
                        ..Default::default()
                    },
                    ..facts(
                        "sda",
                        GIB,
                        Evidence {
                            serial: told("S", serial),
                            nvme_namespace: namespace.map(u32::from),
                            wwn: told("naa.5000c500a1b2c3d", wwn),
                            mark: member.and_then(|member| {
                                mark(&format!("0b7c1b2e-0000-4000-8000-00000000000{member}"))
                            }),
                            backing_file: told("/d/", file),
                            backing_file_inode: told("8:", file),
                            ..Evidence::default()
                        },
                    )
                };
                (node, facts)
            },
        )
}

/// A drive as it truly is: one piece is its own, everything else it may have in common with any other.
fn colliding(i: usize) -> impl Strategy<Value = DriveFacts> {
    let few = || 0u8..3;
    (
        0u8..6,
        (few(), few(), few(), few()),
        (1u64..3, few(), few(), any::<bool>()),
    )
        .prop_map(
            move |(own, (vendor, model, serial, namespace), (size, content, port, marked))| {
                let some = |word: &str, value: u8| (value > 0).then(|| format!("{word}{value}"));
                let mut evidence = Evidence {
                    serial: some("S", serial),
                    nvme_namespace: Some(u32::from(namespace)).filter(|number| *number > 0),
                    filesystem_uuids: some("f", content).into_iter().collect(),
                    bus_path: some("/sys/", port),
                    mark: mark(&format!("0b7c1b2e-0000-4000-8000-00000000000{i:x}")).filter(|_| marked),
                    ..Evidence::default()
                };
                match own {
                    0 => evidence.eui64 = Some(format!("0025385c2150000{i:x}")),
                    1 => evidence.nguid = Some(format!("3550374130450016002538530000000{i:x}")),
                    2 => evidence.wwn = Some(format!("naa.5000c500a1b2000{i:x}")),
                    3 => evidence.wwn = Some(format!("eui.0025385c2150000{i:x}")),
                    4 => evidence.wwn = Some(format!("uuid.c0ffee00-1111-2222-3333-00000000000{i:x}")),
                    _ => evidence.serial = Some(format!("OWN{i}")),
                }
                let known = |text: Option<String>| text.map_or(Observed::Unsupported, Observed::Known);
                DriveFacts {
                    vendor: known(some("Vendor", vendor)),
                    model: known(some("Model", model)),
                    ..facts(&format!("d{i}"), size * GIB, evidence)
                }
            },
        )
}

/// What of a drive is not read this time, its node, and its name and port among all.
type Sight = (u16, u8, u8);

/// The drive with what is missing taken out, under another name in another port.
fn thinned(truth: &DriveFacts, i: usize, (lost, _, place): Sight) -> DriveFacts {
    let mut facts = truth.clone();
    facts.name = format!("r{}", (i + usize::from(place)) % 7 + 7 * i);
    facts.evidence.bus_path = (place < 6).then(|| format!("/sys/{}", place % 3));
    let gone = |bit: u16| lost & (1 << bit) != 0;
    if gone(0) {
        (facts.evidence.eui64, facts.evidence.nguid, facts.evidence.wwn) = (None, None, None);
    }
    if gone(1) {
        facts.evidence.serial = None;
    }
    if gone(2) {
        facts.vendor = Observed::Failed("EIO".to_owned());
    }
    if gone(3) {
        facts.model = Observed::Unsupported;
    }
    if gone(4) {
        facts.evidence.nvme_namespace = None;
    }
    if gone(5) {
        facts.size_bytes = Observed::Failed("EIO".to_owned());
    }
    if gone(6) {
        facts.evidence.filesystem_uuids = Vec::new();
    }
    if gone(7) {
        facts.evidence.mark = None;
    }
    facts
}

fn remember(known: &mut Vec<KnownDrive>, answer: &Resolution, facts: &DriveFacts) {
    let Verdict::Drive { id } = &answer.verdict else {
        return;
    };
    match known.iter_mut().find(|drive| drive.id == *id) {
        Some(drive) => *drive = drive.absorb(&answer.node, facts, &answer.new_aliases),
        None => known.push(KnownDrive {
            id: id.clone(),
            evidence: RecordedEvidence::of(facts),
            aliases: answer.new_aliases.clone(),
            node: answer.node.clone(),
        }),
    }
}

/// Ids that a pool which wants everything would claim, were every one of these devices blank, healthy and free.
fn claimed(answers: &[Resolution], seen: &[(&str, &DriveFacts)]) -> Vec<DriveId> {
    let candidates: Vec<Candidate> = answers
        .iter()
        .zip(seen)
        .map(|(answer, (node, facts))| {
            let mut facts = DriveFacts::clone(facts);
            facts.kind = DriveType::Ssd;
            facts.size_bytes = Observed::Known(GIB);
            facts.evidence.mark = None;
            facts.usage.blank = Observed::Known(true);
            facts.usage.exclusive_open_ok = Observed::Known(true);
            let judgement = judge(&JudgeInput {
                facts: &facts,
                identity: &answer.verdict,
                overrides: None,
                excluded: false,
                claim: None,
                node_connected: true,
                node_labels: None,
            });
            Candidate {
                id: judgement.id.clone(),
                device: facts.name.clone(),
                node: answer.node.clone(),
                fault_domain: (*node).to_owned(),
                node_labels: Default::default(),
                size_bytes: GIB,
                zoned: facts.zoned,
                judgement,
            }
        })
        .collect();
    let spec = PoolSpec {
        selector: DriveSelector::default(),
        capacity: PoolCapacity {
            target_bytes: 1000 * GIB,
            ..PoolCapacity::default()
        },
        ..PoolSpec::default()
    };
    plan(&spec, &[], &candidates).claim
}

proptest! {
    #[test]
    fn what_was_never_seen_together_is_never_remembered_together(sights in proptest::collection::vec(thin(), 1..6)) {
        let node = |node: u8| NodeName::from(["a", "b"][usize::from(node)]);
        let identifying = |pieces: &Pieces| pieces.identifying().cloned().collect::<BTreeSet<Piece>>();
        let (first, facts) = &sights[0];
        let mut known = KnownDrive {
            id: "d".into(),
            evidence: RecordedEvidence::of(facts),
            aliases: Vec::new(),
            node: node(*first),
        };
        let mut ever = identifying(&Pieces::of(&known.node, &known.evidence));
        for (at, facts) in sights.iter().skip(1) {
            known = known.absorb(&node(*at), facts, &[]);
            ever.extend(identifying(&Pieces::of(&known.node, &RecordedEvidence::of(facts))));
            let remembered = identifying(&Pieces::of(&known.node, &known.evidence));
            prop_assert!(remembered.is_subset(&ever), "{remembered:?} of {ever:?}");
        }
    }

    #[test]
    fn different_drives_never_merge(fleet in fleet()) {
        let nodes = ["a", "b", "c"];
        let seen: Vec<(&str, &DriveFacts)> = fleet.iter().map(|(node, facts)| (nodes[*node], facts)).collect();
        let answers = run(&[], &seen);
        let ids: std::collections::BTreeSet<&DriveId> = answers.iter().map(|a| a.verdict.certain().unwrap()).collect();
        prop_assert_eq!(ids.len(), fleet.len());
    }

    #[test]
    fn names_paths_nodes_and_order_never_change_who_a_drive_is(
        fleet in fleet(), shuffle in proptest::collection::vec(any::<u32>(), 12), move_by in 0usize..3
    ) {
        let nodes = ["a", "b", "c"];
        let seen: Vec<(&str, &DriveFacts)> = fleet.iter().map(|(node, facts)| (nodes[*node], facts)).collect();
        let first = run(&[], &seen);
        let known: Vec<KnownDrive> = first.iter().zip(&fleet).map(|(answer, (_, facts))| KnownDrive {
            id: answer.verdict.certain().unwrap().clone(),
            // As it comes back out of a status.
            evidence: RecordedEvidence::from_map(&RecordedEvidence::of(facts).to_map()),
            aliases: Vec::new(),
            node: answer.node.clone(),
        }).collect();
        // The same drives under other names, in other slots, (except files) on other nodes, in another order.
        let mut moved: Vec<(usize, usize, DriveFacts)> = fleet.iter().enumerate().map(|(i, (node, facts))| {
            let mut facts = facts.clone();
            let file = facts.evidence.backing_file.is_some();
            facts.name = format!("renamed{}", shuffle[i % shuffle.len()] % 7 + (i as u32) * 7);
            facts.evidence.bus_path = Some(format!("/sys/{}", fleet.len() - i));
            (i, if file { *node } else { (node + move_by) % 3 }, facts)
        }).collect();
        moved.sort_by_key(|(i, _, _)| shuffle[i % shuffle.len()]);
        let seen: Vec<(&str, &DriveFacts)> = moved.iter().map(|(_, node, facts)| (nodes[*node], facts)).collect();
        let again = run(&known, &seen);
        for ((i, _, _), answer) in moved.iter().zip(&again) {
            prop_assert_eq!(answer.verdict.certain(), Some(&known[*i].id));
            prop_assert!(!answer.minted);
        }
        // Without a record the order does not matter either.
        let unmoved: Vec<(&str, &DriveFacts)> = fleet.iter().rev().map(|(node, facts)| (nodes[*node], facts)).collect();
        let reversed = run(&[], &unmoved);
        for (answer, other) in first.iter().zip(reversed.iter().rev()) {
            prop_assert_eq!(answer, other);
        }
    }

    #[test]
    fn whatever_is_seen_no_two_devices_get_one_id(
        picks in proptest::collection::vec((0usize..3, 0u8..3, 0u8..3, 0u8..3, 0u8..2, 1u64..3), 0..8),
        recorded in 0usize..8,
    ) {
        let nodes = ["a", "b", "c"];
        let drives: Vec<(usize, DriveFacts)> = picks.iter().enumerate().map(|(i, (node, wwn, serial, member, file, size))| {
            let some = |value: u8, text: String| (value > 0).then_some(text);
            let evidence = Evidence {
                wwn: some(*wwn, format!("naa.5000c500a1b2c3d{wwn}")),
                serial: some(*serial, format!("S{serial}")),
                mark: if *member > 0 { mark(&format!("0b7c1b2e-0000-4000-8000-00000000000{member}")) } else { None },
                backing_file: some(*file, format!("/d/{file}.img")),
                ..Evidence::default()
            };
            (*node, facts(&format!("d{i}"), size << 30, evidence))
        }).collect();
        let known: Vec<KnownDrive> = drives.iter().take(recorded).enumerate().map(|(i, (node, facts))| KnownDrive {
            id: DriveId::new(format!("known-{i}")),
            evidence: RecordedEvidence::of(facts),
            aliases: Vec::new(),
            node: nodes[*node].into(),
        }).collect();
        let seen: Vec<(&str, &DriveFacts)> = drives.iter().map(|(node, facts)| (nodes[*node], facts)).collect();
        let answers = run(&known, &seen);
        let certain: Vec<&DriveId> = answers.iter().filter(|a| !a.verdict.is_path()).filter_map(|a| a.verdict.certain()).collect();
        let unique: std::collections::BTreeSet<&DriveId> = certain.iter().copied().collect();
        prop_assert_eq!(certain.len(), unique.len());
        let shown: std::collections::BTreeSet<&DriveId> = answers.iter().filter(|a| !a.verdict.is_path()).map(|a| a.verdict.id()).collect();
        prop_assert_eq!(shown.len(), answers.iter().filter(|a| !a.verdict.is_path()).count());
    }

    #[test]
    fn after_any_reboot_a_drive_is_itself_or_it_is_said_why_not(
        fleet in (1usize..6).prop_flat_map(|count| (0..count).map(colliding).collect::<Vec<_>>()),
        rounds in proptest::collection::vec(
            (proptest::collection::vec((any::<u16>(), 0u8..4, any::<u8>()), 6), any::<bool>()), 1..4),
    ) {
        let mut known = Vec::new();
        let seen: Vec<(&str, &DriveFacts)> = fleet.iter().map(|facts| ("a", facts)).collect();
        let first = run(&[], &seen);
        for (answer, facts) in first.iter().zip(&fleet) {
            remember(&mut known, answer, facts);
        }
        // Who was in doubt from the start is taken out.
        let certain: Vec<(usize, &DriveId)> =
            first.iter().enumerate().filter_map(|(i, answer)| Some((i, answer.verdict.certain()?))).collect();
        for (sights, restart) in rounds {
            if restart {
                known = known.iter().map(|drive| {
                    KnownDrive::from_map(drive.id.clone(), drive.node.clone(), &drive.to_map())
                }).collect();
            }
            // Node 3 is none: the drive is away.
            let there: Vec<(usize, &DriveId, &str, DriveFacts)> = certain.iter()
                .filter_map(|(i, id)| Some((*i, *id, *NODES.get(usize::from(sights[*i].1))?, thinned(&fleet[*i], *i, sights[*i]))))
                .collect();
            let seen: Vec<(&str, &DriveFacts)> = there.iter().map(|(_, _, node, facts)| (*node, facts)).collect();
            let answers = run(&known, &seen);
            for ((_, own, _, facts), answer) in there.iter().zip(&answers) {
                match &answer.verdict {
                    Verdict::Drive { id } => {
                        prop_assert_eq!(id, *own, "{:?} on record {:?}", facts, known);
                        prop_assert!(!answer.minted);
                    }
                    Verdict::Conflict { reason, .. } | Verdict::NoEvidence { reason, .. } => prop_assert!(reason.len() > 20),
                    Verdict::Path { .. } => prop_assert!(false, "no drive has two paths: {answer:?}"),
                }
            }
            let backwards: Vec<(&str, &DriveFacts)> = seen.iter().rev().copied().collect();
            known.reverse();
            let mut reversed = run(&known, &backwards);
            reversed.reverse();
            prop_assert_eq!(&reversed, &answers);
            for ((_, _, _, facts), answer) in there.iter().zip(&answers) {
                remember(&mut known, answer, facts);
            }
        }
    }

    #[test]
    fn neither_name_nor_port_is_who_a_drive_is(
        fleet in (1usize..6).prop_flat_map(|count| (0..count).map(colliding).collect::<Vec<_>>()),
        sights in proptest::collection::vec((any::<u16>(), 0u8..3, any::<u8>()), 6),
        places in proptest::collection::vec(any::<u8>(), 6),
        recorded in 0usize..6,
    ) {
        let mut known = Vec::new();
        for facts in fleet.iter().take(recorded) {
            // One by one, so that who collides is on record too.
            let answer = run(&known, &[("a", facts)]);
            remember(&mut known, &answer[0], facts);
        }
        let placed = |places: &[u8]| -> Vec<Option<DriveId>> {
            let thin: Vec<DriveFacts> = fleet.iter().enumerate()
                .map(|(i, facts)| thinned(facts, i, (sights[i].0, 0, places[i]))).collect();
            let seen: Vec<(&str, &DriveFacts)> = thin.iter().enumerate()
                .map(|(i, facts)| (NODES[usize::from(sights[i].1)], facts)).collect();
            run(&known, &seen).iter().map(|answer| answer.verdict.certain().cloned()).collect()
        };
        let here: Vec<u8> = sights.iter().map(|(_, _, place)| *place).collect();
        prop_assert_eq!(placed(&here), placed(&places));
    }

    #[test]
    fn nothing_in_doubt_is_ever_claimed(
        fleet in (1usize..6).prop_flat_map(|count| (0..count).map(colliding).collect::<Vec<_>>()),
        sights in proptest::collection::vec((any::<u16>(), 0u8..3, any::<u8>()), 6),
        recorded in 0usize..6,
    ) {
        let mut known = Vec::new();
        for facts in fleet.iter().take(recorded) {
            let answer = run(&known, &[("a", facts)]);
            remember(&mut known, &answer[0], facts);
        }
        let thin: Vec<DriveFacts> = fleet.iter().enumerate().map(|(i, facts)| thinned(facts, i, sights[i])).collect();
        let seen: Vec<(&str, &DriveFacts)> = thin.iter().enumerate()
            .map(|(i, facts)| (NODES[usize::from(sights[i].1)], facts)).collect();
        let answers = run(&known, &seen);
        let mut certain: Vec<DriveId> = answers.iter().filter_map(|answer| answer.verdict.certain().cloned()).collect();
        let mut claimed = claimed(&answers, &seen);
        certain.sort();
        claimed.sort();
        prop_assert_eq!(claimed, certain);
    }
}
