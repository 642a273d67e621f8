//! The laws of waiting.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    placement::{BackendKind, ServiceTier, StorageType},
    volume::cost,
};

const SLOT: u64 = 32 << 20;

fn pool(name: &str, slots: u64, promised: u64) -> Pool {
    Pool {
        name: name.into(),
        pool_type: StorageType::File,
        backend: BackendKind::Seaweedfs,
        labels: BTreeMap::new(),
        accepting: true,
        not_accepting_because: String::new(),
        drive_types: Vec::new(),
        slowest_tier: None,
        members_online: 1,
        fault_domains: 1,
        capacity_bytes: slots * SLOT,
        promised_bytes: promised * SLOT,
        reserved: BTreeMap::new(),
        slot_bytes: SLOT,
    }
}

fn wish(volume: &str, slots: u64) -> Wish {
    let capacity_bytes = slots * SLOT * 100 / 130;
    assert_eq!(cost(capacity_bytes, 1, SLOT).slots, slots);
    Wish::Place(Request {
        storage_type: StorageType::File,
        capacity_bytes,
        tier: ServiceTier::Auto,
        class: None,
        redundancy: None,
        labels: BTreeMap::new(),
        volume: volume.to_owned(),
    })
}

#[test]
fn freed_room_wakes_as_many_as_it_holds_and_those_who_came_first() {
    let wishes: Vec<Wish> = (0..170).map(|n| wish(&format!("uv-{n}"), 2)).collect();
    assert_eq!(
        served(&wishes, &[], &[pool("p", 60, 60)], &[]),
        Vec::<usize>::new()
    );
    assert_eq!(served(&wishes, &[], &[pool("p", 60, 54)], &[]), [0, 1, 2]);
}

#[test]
fn who_needs_more_than_there_is_holds_up_nobody() {
    let wishes = [wish("uv-large", 10), wish("uv-small", 1), wish("uv-small-too", 1)];
    assert_eq!(served(&wishes, &[], &[pool("p", 60, 59)], &[]), [1]);
}

#[test]
fn a_growth_waits_in_the_same_line() {
    let growth = |slots: u64| Wish::Growth {
        pool: "p".into(),
        bytes: slots * SLOT,
    };
    let wishes = [wish("uv-1", 1), growth(2), wish("uv-2", 1), growth(1)];
    assert_eq!(served(&wishes, &[], &[pool("p", 60, 57)], &[]), [0, 1]);
    assert_eq!(served(&[growth(1)], &[], &[], &[]), Vec::<usize>::new());
}

#[test]
fn who_has_a_reservation_needs_no_room_of_others() {
    let mut full = pool("p", 60, 60);
    full.reserved.insert("uv-1".to_owned(), 2 * SLOT);
    assert_eq!(
        served(&[wish("uv-0", 2), wish("uv-1", 2)], &[], &[full], &[]),
        [1]
    );
}

proptest! {
    #[test]
    fn together_they_never_get_more_than_there_is_and_nobody_who_fits_is_passed_over(
        pools in proptest::collection::vec((1_u64..20, 0_u64..20), 1..4),
        sizes in proptest::collection::vec(1_u64..8, 0..30),
    ) {
        let pools: Vec<Pool> = pools
            .iter()
            .enumerate()
            .map(|(n, (slots, promised))| pool(&format!("p{n}"), *slots, (*promised).min(*slots)))
            .collect();
        let wishes: Vec<Wish> = sizes.iter().enumerate().map(|(n, size)| wish(&format!("uv-{n}"), *size)).collect();
        let granted = served(&wishes, &[], &pools, &[]);
        let free: u64 = pools.iter().map(Pool::free_bytes).sum();
        let taken: u64 = granted.iter().map(|at| sizes[*at] * SLOT).sum();
        prop_assert!(taken <= free);
        // Nothing that was left out would fit into what is left in a single pool even if all of it were empty there.
        let largest = pools.iter().map(Pool::free_bytes).max().unwrap_or(0);
        if granted.is_empty() {
            prop_assert!(sizes.iter().all(|size| size * SLOT > largest));
        }
    }
}
