//! The laws of pool planning.

use proptest::prelude::*;

use super::*;
use crate::classify::{Classification, DriveUse, Health, HealthState, LABEL_TRANSPORT, UseState};

fn candidate(id: &str, node: &str, kind: DriveType, size_gb: u64) -> Candidate {
    let tier = match kind {
        DriveType::Nvme => Some(Tier::FastNvme),
        DriveType::Ssd => Some(Tier::StandardSsd),
        DriveType::Hdd => Some(Tier::Hdd),
        DriveType::Pmem => Some(Tier::UltraFast),
        DriveType::Unknown => None,
    };
    Candidate {
        id: id.into(),
        device: format!("dev-{id}"),
        node: node.into(),
        fault_domain: node.to_owned(),
        node_labels: BTreeMap::new(),
        size_bytes: size_gb * 1_000_000_000,
        zoned: Zoned::None,
        judgement: Judgement {
            id: id.into(),
            drive_type: kind,
            classification: Classification {
                tier,
                score: if tier.is_some() { 80 } else { 0 },
                capacity_tier: None,
                suitable_for: Vec::new(),
                reasons: Vec::new(),
            },
            health: Health {
                state: HealthState::Good,
                reason: String::new(),
            },
            usage: DriveUse {
                state: UseState::Free,
                holder: None,
                pool: None,
                member: None,
            },
            claimable: true,
            refusals: Vec::new(),
            labels: BTreeMap::from([(LABEL_TRANSPORT.to_owned(), "loop".to_owned())]),
        },
    }
}

fn member(id: &str, node: &str) -> ExistingMember {
    ExistingMember {
        drive: id.into(),
        node: node.into(),
        fault_domain: node.to_owned(),
        size_bytes: 1_000_000_000,
        used_bytes: 0,
    }
}

fn spec(types: &[DriveType], min: u32) -> PoolSpec {
    PoolSpec {
        selector: DriveSelector {
            drive_types: types.to_vec(),
            ..DriveSelector::default()
        },
        capacity: PoolCapacity {
            min_drives: min,
            ..PoolCapacity::default()
        },
        ..PoolSpec::default()
    }
}

fn ids(plan: &PoolPlan) -> Vec<&str> {
    plan.claim.iter().map(DriveId::as_str).collect()
}

fn why<'a>(plan: &'a PoolPlan, id: &str) -> &'a [String] {
    plan.refused
        .iter()
        .find(|(drive, _)| drive.as_str() == id)
        .map_or(&[], |(_, reasons)| reasons)
}

#[test]
fn a_drive_of_unknown_type_is_taken_only_when_the_selector_says_so() {
    let drives = [
        candidate("a", "n", DriveType::Unknown, 2),
        candidate("b", "n", DriveType::Unknown, 2),
    ];
    let found = plan(&spec(&[], 1), &[], &drives);
    assert!(found.claim.is_empty());
    assert!(why(&found, "a")[0].contains("driveTypes does not say unknown"));
    assert!(plan(&spec(&[DriveType::Hdd], 1), &[], &drives).claim.is_empty());
    assert_eq!(ids(&plan(&spec(&[DriveType::Unknown], 1), &[], &drives)), ["a"]);
}

#[test]
fn what_is_not_claimable_is_refused_with_its_own_words() {
    let mut drive = candidate("a", "n", DriveType::Ssd, 2);
    drive.judgement.claimable = false;
    drive.judgement.refusals = vec!["in use: ext4 mounted on /".to_owned()];
    let found = plan(&spec(&[], 1), &[], &[drive]);
    assert_eq!(why(&found, "a"), ["in use: ext4 mounted on /"]);
    assert_eq!(found.shortage.as_deref(), Some("needs at least 1 drives, 0 fit"));
}

#[test]
fn every_condition_of_the_selector_that_fails_is_named() {
    let mut spec = spec(&[DriveType::Nvme], 1);
    spec.selector.min_tier = Some(Tier::FastNvme);
    spec.selector.min_score = 90;
    spec.selector.min_capacity_bytes = 5_000_000_000;
    spec.selector.require_zns = true;
    spec.selector.match_labels = BTreeMap::from([(LABEL_TRANSPORT.to_owned(), "pcie".to_owned())]);
    spec.node_selector = BTreeMap::from([("disk".to_owned(), "yes".to_owned())]);
    spec.topology.excluded_nodes = vec!["n".into()];
    let found = plan(&spec, &[], &[candidate("a", "n", DriveType::Hdd, 2)]);
    assert_eq!(
        why(&found, "a"),
        [
            "node n is excluded",
            "node n has no label disk=yes",
            "type hdd is none of nvme",
            "tier hdd is below fastNvme",
            "score 80 is below 90",
            "zones are asked for, and its zones are: none",
            "2 GB is less than 5 GB",
            "label storage.billyronks.io/transport is loop, not pcie",
        ]
    );
}

#[test]
fn a_zoned_drive_is_not_taken_by_accident() {
    let mut drive = candidate("a", "n", DriveType::Nvme, 2);
    drive.zoned = Zoned::HostManaged;
    assert!(
        plan(&spec(&[], 1), &[], std::slice::from_ref(&drive))
            .claim
            .is_empty()
    );
    let mut zns = spec(&[], 1);
    zns.selector.require_zns = true;
    assert_eq!(ids(&plan(&zns, &[], &[drive])), ["a"]);
}

#[test]
fn below_its_minimum_a_pool_claims_nothing() {
    let drives = [
        candidate("a", "n", DriveType::Ssd, 2),
        candidate("b", "n", DriveType::Ssd, 2),
    ];
    let found = plan(&spec(&[], 3), &[], &drives);
    assert!(found.claim.is_empty());
    assert_eq!(found.shortage.as_deref(), Some("needs at least 3 drives, 2 fit"));
    let mut two_nodes = spec(&[], 1);
    two_nodes.topology.min_nodes = 2;
    let found = plan(&two_nodes, &[], &drives);
    assert_eq!(
        found.shortage.as_deref(),
        Some("needs drives on at least 2 nodes, 1 have some")
    );
    // One that lost a drive takes what it can get.
    assert_eq!(
        ids(&plan(&spec(&[], 4), &[member("m", "n")], &drives)),
        ["a", "b"]
    );
}

#[test]
fn drives_are_spread_over_nodes_and_limited_on_each() {
    let drives: Vec<Candidate> = ["a1", "a2", "a3", "b1", "b2", "c1"]
        .iter()
        .map(|id| candidate(id, &id[..1], DriveType::Ssd, 2))
        .collect();
    assert_eq!(ids(&plan(&spec(&[], 4), &[], &drives)), ["a1", "b1", "c1", "a2"]);
    let mut limited = spec(&[], 5);
    limited.topology.max_drives_per_node = 1;
    let found = plan(&limited, &[], &drives);
    assert_eq!(found.shortage.as_deref(), Some("needs at least 5 drives, 3 fit"));
    let mut preferred = spec(&[], 1);
    preferred.topology.preferred_nodes = vec!["c".into()];
    assert_eq!(ids(&plan(&preferred, &[], &drives)), ["c1"]);
}

#[test]
fn a_target_is_reached_and_not_exceeded_by_a_drive() {
    let drives: Vec<Candidate> = (0..9)
        .map(|i| candidate(&format!("d{i}"), "n", DriveType::Ssd, 2))
        .collect();
    let mut wanted = spec(&[], 1);
    wanted.capacity.target_bytes = 5_000_000_000;
    assert_eq!(plan(&wanted, &[], &drives).claim.len(), 3);
    wanted.capacity.max_drives = 2;
    let found = plan(&wanted, &[], &drives);
    assert_eq!(found.claim.len(), 2);
    assert_eq!(
        found.shortage.as_deref(),
        Some("wants 5 GB, its drives hold 4 GB, and maxDrives is 2")
    );
    assert_eq!(why(&found, "d7"), ["not needed: the pool has its 2 drives"]);
}

#[test]
fn a_full_pool_that_may_expand_takes_one_more() {
    let mut wanted = spec(&[], 1);
    let mut full = member("m", "n");
    full.used_bytes = 900_000_000;
    let drives = [
        candidate("a", "n", DriveType::Ssd, 1),
        candidate("b", "n", DriveType::Ssd, 1),
    ];
    assert!(
        plan(&wanted, std::slice::from_ref(&full), &drives)
            .claim
            .is_empty()
    );
    wanted.capacity.auto_expand = true;
    assert_eq!(ids(&plan(&wanted, &[full], &drives)), ["a"]);
}

#[test]
fn a_drive_gives_the_slots_that_fit_on_it() {
    let sizing = SlotSizing::new(32 << 20);
    // 2 GiB: 47 MB file system, 64 MiB kept free.
    assert_eq!(sizing.slots(2 << 30), 60);
    assert_eq!(sizing.slots(50 << 20), 0);
    assert_eq!(sizing.slots(0), 0);
}

proptest! {
    #[test]
    fn a_plan_keeps_its_limits_and_does_not_depend_on_order(
        drives in proptest::collection::vec((0u8..4, 0u8..5, 1u64..5, any::<bool>()), 0..20),
        have in 0usize..4, min in 0u32..6, max in 0u32..6, per_node in 0u32..3, nodes in 0u32..3, target in 0u64..20,
    ) {
        let kinds = [DriveType::Nvme, DriveType::Ssd, DriveType::Hdd, DriveType::Unknown, DriveType::Pmem];
        let mut all: Vec<Candidate> = drives.iter().enumerate().map(|(i, (node, kind, size, claimable))| {
            let mut drive = candidate(&format!("d{i:02}"), &format!("n{node}"), kinds[*kind as usize], *size);
            drive.judgement.claimable = *claimable;
            drive
        }).collect();
        let members: Vec<ExistingMember> = (0..have).map(|i| member(&format!("m{i}"), &format!("n{i}"))).collect();
        let spec = PoolSpec {
            capacity: PoolCapacity { min_drives: min, max_drives: max, target_bytes: target << 30, ..PoolCapacity::default() },
            topology: Topology { max_drives_per_node: per_node, min_nodes: nodes, spread_across_fault_domains: true, ..Topology::default() },
            ..PoolSpec::default()
        };
        let found = plan(&spec, &members, &all);
        let unique: BTreeSet<&DriveId> = found.claim.iter().collect();
        prop_assert_eq!(unique.len(), found.claim.len());
        prop_assert!(max == 0 || found.claim.is_empty() || found.claim.len() + have <= max as usize);
        prop_assert_eq!(found.claim.len() + found.refused.len(), if found.claim.is_empty() { found.refused.len() } else { all.len() });
        for id in &found.claim {
            let drive = all.iter().find(|drive| &drive.id == id).unwrap();
            prop_assert!(drive.judgement.claimable && drive.judgement.drive_type != DriveType::Unknown);
        }
        // Once it has them, the pool wants nothing more.
        let mut after = members.clone();
        after.extend(all.iter().filter(|d| found.claim.contains(&d.id)).map(|d| ExistingMember { size_bytes: d.size_bytes, ..member(d.id.as_str(), d.node.as_str()) }));
        if !found.claim.is_empty() {
            prop_assert!(plan(&spec, &after, &all).claim.is_empty());
        }
        all.reverse();
        prop_assert_eq!(found, plan(&spec, &members, &all));
    }
}
