//! The laws of the ledger. How its writes interleave with those of other leaders is tried where they are written.

use proptest::prelude::*;

use super::*;

fn ask(volume: &str, bytes: u64, by: &str) -> Reservation {
    Reservation {
        volume: volume.to_owned(),
        bytes,
        by: by.to_owned(),
        grows: None,
    }
}

fn growth(volume: &str, bytes: u64, version: &str) -> Reservation {
    Reservation {
        grows: Some(version.to_owned()),
        ..ask(volume, bytes, "a")
    }
}

fn volume(name: &str, bytes: u64) -> Held<'_> {
    Held {
        name,
        here: true,
        bytes,
        version: "7",
    }
}

fn counted(ledger: &Ledger, volumes: &[Held<'_>]) -> Ledger {
    match ledger.recount(volumes, |_| false) {
        Counted::Ledger(ledger) => ledger,
        Counted::Fence(names) => panic!("wants {names:?} fenced"),
    }
}

#[test]
fn a_promise_is_counted_before_its_volume_is_there_and_once_when_it_is() {
    let ledger = Ledger::default().reserve(100, ask("uv-1", 40, "a"), 0).unwrap();
    assert_eq!(ledger.promised, 40);
    assert_eq!(
        counted(&ledger, &[]),
        ledger,
        "a count in between forgets nothing"
    );
    let after = counted(&ledger, &[volume("uv-1", 40)]);
    assert_eq!((after.promised, after.reservations.len()), (40, 0));
}

#[test]
fn the_same_volume_again_costs_nothing_and_belongs_to_who_asked_last() {
    let first = Ledger::default().reserve(40, ask("uv-1", 40, "a"), 0).unwrap();
    let second = first.reserve(40, ask("uv-1", 40, "b"), 0).unwrap();
    assert_eq!(second.promised, 40);
    assert_eq!(second.withdraw("uv-1", "a"), second, "it is no longer a's");
    assert_eq!(second.withdraw("uv-1", "b"), Ledger::default());
}

#[test]
fn what_is_reserved_for_a_volume_is_not_in_its_own_way() {
    let ledger = Ledger::default().reserve(100, ask("uv-1", 100, "a"), 0).unwrap();
    assert_eq!(ledger.promised_to_others("uv-1"), 0);
    assert_eq!(ledger.promised_to_others("uv-2"), 100);
    assert!(ledger.reserve(100, ask("uv-2", 1, "a"), 0).is_err());
}

#[test]
fn a_reservation_that_nobody_wants_any_more_goes_with_the_next_count() {
    let ledger = Ledger::default().reserve(100, ask("uv-1", 40, "a"), 0).unwrap();
    let Counted::Ledger(after) = ledger.recount(&[], |reservation| reservation.volume == "uv-1") else {
        panic!("nothing grows here");
    };
    assert_eq!(after, Ledger::default());
}

#[test]
fn a_growth_costs_the_difference_and_is_fenced_before_it_is_forgotten() {
    let ledger = Ledger {
        promised: 40,
        reservations: Vec::new(),
    };
    let growing = ledger.reserve(100, growth("uv-1", 90, "7"), 40).unwrap();
    assert_eq!(growing.promised, 90);
    assert_eq!(
        ledger
            .reserve(80, growth("uv-1", 90, "7"), 40)
            .unwrap_err()
            .needed,
        50
    );
    // Its write may still come: the volume is as it was read.
    assert_eq!(
        growing.recount(&[volume("uv-1", 40)], |_| true),
        Counted::Fence(vec!["uv-1".to_owned()])
    );
    let changed = Held {
        version: "8",
        ..volume("uv-1", 40)
    };
    assert_eq!(counted(&growing, &[changed]), ledger);
    let grown = Held {
        version: "9",
        ..volume("uv-1", 90)
    };
    assert_eq!(counted(&growing, &[grown]).promised, 90);
    assert_eq!(counted(&growing, &[]), Ledger::default(), "it is gone");
}

#[test]
fn a_volume_on_another_pool_ends_the_reservation_and_costs_nothing_here() {
    let ledger = Ledger::default().reserve(100, ask("uv-1", 40, "a"), 0).unwrap();
    let elsewhere = Held {
        here: false,
        ..volume("uv-1", 40)
    };
    assert_eq!(counted(&ledger, &[elsewhere]), Ledger::default());
}

proptest! {
    #[test]
    fn nothing_is_promised_beyond_the_capacity_and_a_count_changes_no_sum(
        capacity in 0_u64..500,
        asks in proptest::collection::vec((0_u8..8, 1_u64..200, any::<bool>()), 0..40),
    ) {
        let mut ledger = Ledger::default();
        for (name, bytes, withdrawn) in asks {
            let name = format!("uv-{name}");
            if let Ok(next) = ledger.reserve(capacity, ask(&name, bytes, "a"), 0) {
                ledger = next;
            }
            if withdrawn {
                ledger = ledger.withdraw(&name, "a");
            }
            prop_assert!(ledger.promised <= capacity);
            let sum: u64 = ledger.reservations.iter().map(|held| held.bytes).sum();
            prop_assert_eq!(ledger.promised, sum);
            prop_assert_eq!(&counted(&ledger, &[]), &ledger);
        }
    }
}
