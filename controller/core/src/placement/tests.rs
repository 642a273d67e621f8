//! The laws of placement.

use proptest::prelude::*;

use super::*;
use crate::classify::{Classification, DriveUse, Health, HealthState, UseState};

const GIB: u64 = 1 << 30;

fn request(kind: StorageType) -> Request {
    Request {
        storage_type: kind,
        capacity_bytes: GIB,
        tier: ServiceTier::Auto,
        class: None,
        redundancy: None,
        labels: BTreeMap::new(),
        volume: String::new(),
    }
}

fn class(name: &str, kind: StorageType) -> Class {
    Class {
        name: name.to_owned(),
        storage_type: Some(kind),
        ..Class::implicit(&request(kind))
    }
}

fn pool(name: &str) -> Pool {
    Pool {
        name: name.into(),
        pool_type: StorageType::File,
        backend: BackendKind::Seaweedfs,
        labels: BTreeMap::new(),
        accepting: true,
        not_accepting_because: String::new(),
        drive_types: vec![DriveType::Unknown],
        slowest_tier: None,
        members_online: 3,
        fault_domains: 1,
        capacity_bytes: 180 * (32 << 20),
        promised_bytes: 0,
        reserved: BTreeMap::new(),
        slot_bytes: 32 << 20,
    }
}

fn drive(device: &str, kind: DriveType, tier: Option<Tier>, refusals: &[&str]) -> DriveView {
    DriveView {
        node: "worker-1".into(),
        device: device.to_owned(),
        size_bytes: Some(2 * GIB),
        judgement: Judgement {
            id: format!("wwn-{device}").as_str().into(),
            drive_type: kind,
            classification: Classification {
                tier,
                score: 80,
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
            claimable: refusals.is_empty(),
            refusals: refusals.iter().map(|words| (*words).to_owned()).collect(),
            labels: BTreeMap::new(),
        },
    }
}

fn placed(placement: Placement) -> Placed {
    match placement {
        Placement::Placed(placed) => *placed,
        Placement::Refused(refusals) => panic!("refused: {refusals:?}"),
    }
}

fn refused(placement: Placement) -> String {
    match placement {
        Placement::Placed(placed) => panic!("placed: {placed:?}"),
        Placement::Refused(refusals) => refusals.iter().map(Refusal::line).collect::<Vec<_>>().join("\n"),
    }
}

#[test]
fn a_request_that_fits_is_placed_with_its_cost_and_reasons() {
    let found = placed(place(&request(StorageType::File), &[], &[pool("demo")], &[]));
    assert_eq!((found.pool.as_str(), found.class.name.as_str()), ("demo", ""));
    assert_eq!(found.cost, Cost::of_slots(42, 32 << 20));
    assert_eq!((found.backend, found.replicas), (BackendKind::Seaweedfs, 1));
    assert!(!found.reasons.is_empty());
}

#[test]
fn the_class_is_the_one_named_or_the_default_or_the_only_one() {
    let (a, mut b) = (class("a", StorageType::File), class("b", StorageType::File));
    let other = class("c", StorageType::Block);
    let ask = request(StorageType::File);
    let name = |request: &Request, classes: &[Class]| resolve_class(request, classes).map(|class| class.name);
    assert_eq!(name(&ask, &[]), Ok(String::new()));
    assert_eq!(name(&ask, &[a.clone(), other.clone()]), Ok("a".to_owned()));
    assert_eq!(name(&ask, &[a.clone(), b.clone()]), Ok(String::new()));
    b.is_default = true;
    assert_eq!(name(&ask, &[a.clone(), b.clone()]), Ok("b".to_owned()));
    let named = Request {
        class: Some("a".to_owned()),
        ..ask.clone()
    };
    assert_eq!(name(&named, &[a.clone(), b]), Ok("a".to_owned()));
    let wrong = Request {
        class: Some("c".to_owned()),
        ..ask.clone()
    };
    let refusal = name(&wrong, &[a.clone(), other]).unwrap_err();
    assert_eq!(
        refusal[0].line(),
        "class c: serves block storage, file is asked for"
    );
    let nobody = Request {
        class: Some("gold".to_owned()),
        ..ask
    };
    assert_eq!(
        name(&nobody, &[a]).unwrap_err()[0].line(),
        "class gold: there is no class of this name"
    );
}

#[test]
fn the_first_request_of_the_readme_is_refused_drive_by_drive() {
    let ask = Request {
        capacity_bytes: 100 * GIB,
        tier: ServiceTier::Hot,
        ..request(StorageType::Block)
    };
    let drives = [
        drive("vda", DriveType::Unknown, None, &["in use: ext4 mounted on /"]),
        drive("loop0", DriveType::Unknown, None, &["claimed by pool demo"]),
        drive("nvme0n1", DriveType::Nvme, Some(Tier::FastNvme), &[]),
    ];
    let words = refused(place(&ask, &[], &[pool("demo")], &drives));
    assert_eq!(
        words,
        "block storage, 107 GB (tier hot): no UnifiedPool of type block exists; drives by node follow\n\
         drive worker-1/loop0 (wwn-loop0, unknown, 2.14 GB): claimed by pool demo; it has no tier (type unknown), hot asks for ultraFast or fastNvme; it holds 2.14 GB, 107 GB is asked for\n\
         drive worker-1/nvme0n1 (wwn-nvme0n1, nvme, 2.14 GB): it holds 2.14 GB, 107 GB is asked for\n\
         drive worker-1/vda (wwn-vda, unknown, 2.14 GB): in use: ext4 mounted on /; it has no tier (type unknown), hot asks for ultraFast or fastNvme; it holds 2.14 GB, 107 GB is asked for"
    );
    let small = Request {
        capacity_bytes: GIB,
        ..ask
    };
    assert!(
        refused(place(&small, &[], &[], &drives))
            .contains("create a UnifiedPool of type block that selects it")
    );
}

#[test]
fn every_reason_of_a_pool_is_told() {
    let mut none = pool("demo");
    none.accepting = false;
    none.not_accepting_because = "MemberFailed: it is dead".to_owned();
    none.promised_bytes = none.capacity_bytes;
    let ask = Request {
        tier: ServiceTier::Hot,
        labels: BTreeMap::from([("zone".to_owned(), "1".to_owned())]),
        redundancy: Some(Redundancy {
            kind: RedundancyKind::Replication,
            replication_factor: 3,
            ..Redundancy::default()
        }),
        ..request(StorageType::File)
    };
    let words = refused(place(&ask, &[], &[none], &[]));
    for part in [
        "pool demo: takes no new volumes: MemberFailed: it is dead",
        "has no label zone=1",
        "has drives without a tier, tier hot asks for ultraFast or fastNvme",
        "3 fault domains are needed, its members are in 1",
        "0 B of 6.03 GB are free (6.03 GB promised)",
    ] {
        assert!(words.contains(part), "{part} is not in {words}");
    }
}

#[test]
fn the_pool_that_serves_best_is_taken() {
    let tiered = |name: &str, tier| Pool {
        slowest_tier: Some(tier),
        ..pool(name)
    };
    let pools = [
        tiered("hdd", Tier::Hdd),
        tiered("nvme", Tier::FastNvme),
        tiered("ssd", Tier::StandardSsd),
    ];
    let best = |tier| {
        let ask = Request {
            tier,
            ..request(StorageType::File)
        };
        placed(place(&ask, &[], &pools, &[])).pool.as_str().to_owned()
    };
    assert_eq!(best(ServiceTier::Hot), "nvme");
    assert_eq!(best(ServiceTier::Warm), "ssd");
    assert_eq!(best(ServiceTier::Cold), "hdd");
    let full = Pool {
        promised_bytes: 100 * (32 << 20),
        ..pool("a")
    };
    assert_eq!(
        placed(place(&request(StorageType::File), &[], &[full, pool("b")], &[]))
            .pool
            .as_str(),
        "b"
    );
}

proptest! {
    #[test]
    fn what_is_placed_fits_and_order_does_not_matter(
        pools in proptest::collection::vec((0u64..200, 0u64..200, 0u8..5, any::<bool>(), 0u32..4), 0..6),
        capacity in 1u64..4 << 30, copies in 0u32..4,
    ) {
        let mut all: Vec<Pool> = pools.iter().enumerate().map(|(i, (slots, promised, tier, accepting, online))| Pool {
            capacity_bytes: slots * (32 << 20),
            promised_bytes: promised * (32 << 20),
            slowest_tier: Tier::ALL.get(*tier as usize).copied(),
            accepting: *accepting,
            members_online: *online,
            fault_domains: *online,
            ..pool(&format!("p{i}"))
        }).collect();
        let redundancy = Redundancy { kind: RedundancyKind::Replication, replication_factor: copies, ..Redundancy::default() };
        let ask = Request { capacity_bytes: capacity, redundancy: Some(redundancy), ..request(StorageType::File) };
        let found = place(&ask, &[], &all, &[]);
        if let Placement::Placed(placed) = &found {
            let pool = all.iter().find(|pool| pool.name == placed.pool).unwrap();
            prop_assert!(pool.accepting && placed.cost.bytes <= pool.free_bytes());
            prop_assert!(pool.members_online >= placed.replicas);
        }
        all.reverse();
        prop_assert_eq!(found, place(&ask, &[], &all, &[]));
    }
}
