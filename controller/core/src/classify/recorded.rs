//! What is made of drives that existed: the numbers are those of `agent/fixtures/smartctl`, read there by the agent.

use super::health::judge_health;
use super::{HealthState, HealthState::*};
use crate::drive::{DriveFacts, HealthFacts, Observed};

/// A drive that assessed itself so, with these numbers; all others it cannot tell.
fn drive(passed: bool, numbers: &[(&str, u64)]) -> DriveFacts {
    let mut health = HealthFacts {
        self_assessment_passed: Observed::Known(passed),
        ..HealthFacts::default()
    };
    for (name, number) in numbers {
        let (number, small) = (
            Observed::Known(*number),
            Observed::Known(u32::try_from(*number).unwrap()),
        );
        match *name {
            "reallocated" => health.reallocated_sectors = number,
            "pending" => health.pending_sectors = number,
            "uncorrectable" => health.uncorrectable_errors = number,
            "media" => health.media_errors = number,
            "warning" => health.critical_warning = small,
            "used" => health.percentage_used = small,
            "spare" => health.available_spare_percent = small,
            "threshold" => health.available_spare_threshold_percent = small,
            "celsius" => health.temperature_celsius = small,
            other => panic!("{other}"),
        }
    }
    DriveFacts {
        health,
        ..DriveFacts::default()
    }
}

#[test]
fn recorded_drives_are_judged_by_the_gravest_thing_that_they_say() {
    type Row = (
        &'static str,
        bool,
        &'static [(&'static str, u64)],
        HealthState,
        &'static str,
    );
    let own = "its own assessment says that it fails";
    let rows: &[Row] = &[
        (
            "ata-failing-now",
            false,
            &[("reallocated", 1975), ("pending", 8), ("uncorrectable", 0)],
            Failing,
            own,
        ),
        (
            "ata-prefail-now",
            false,
            &[("reallocated", 250), ("uncorrectable", 1)],
            Failing,
            own,
        ),
        (
            "ata-failed-once",
            true,
            &[("reallocated", 0), ("pending", 0), ("celsius", 38)],
            Good,
            "no problem",
        ),
        (
            "ata-error-log",
            true,
            &[("reallocated", 304), ("uncorrectable", 98)],
            Failing,
            "304 reallocated",
        ),
        (
            "ata-self-test-failed",
            true,
            &[("pending", 16), ("uncorrectable", 16)],
            Warning,
            "16 pending",
        ),
        (
            "ata-packed-raw",
            true,
            &[("reallocated", 11)],
            Warning,
            "11 reallocated",
        ),
        (
            "ata-ssd-worn",
            true,
            &[("used", 97), ("reallocated", 0)],
            Warning,
            "97 % of its rated endurance",
        ),
        (
            "sas-uncorrected",
            true,
            &[("reallocated", 17), ("uncorrectable", 4)],
            Warning,
            "4 uncorrectable",
        ),
        (
            "sas-failing",
            false,
            &[("reallocated", 2211)],
            Failing,
            "2211 reallocated",
        ),
        ("sas-ssd-worn", true, &[("used", 104)], Warning, "104 %"),
        (
            "nvme-media-errors",
            true,
            &[
                ("warning", 0),
                ("media", 7),
                ("spare", 99),
                ("threshold", 10),
                ("used", 3),
            ],
            Warning,
            "7 media errors",
        ),
        (
            "nvme-worn-out",
            false,
            &[
                ("warning", 5),
                ("spare", 8),
                ("threshold", 10),
                ("used", 121),
                ("media", 41),
                ("celsius", 62),
            ],
            Failing,
            "spare blocks at 8 %, threshold 10 %",
        ),
    ];
    for (name, passed, numbers, state, words) in rows {
        let found = judge_health(&drive(*passed, numbers));
        assert_eq!(found.state, *state, "{name}: {found:?}");
        assert!(found.reason.contains(words), "{name}: {found:?}");
    }
}
