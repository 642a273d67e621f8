//! The laws of judgement.

use proptest::prelude::*;

use super::*;
use crate::drive::{Evidence, HealthFacts, Holder, IoErrors, Mark, Transport, Usage, Zoned};

fn drive(kind: DriveType, model: &str) -> DriveFacts {
    DriveFacts {
        name: "x".to_owned(),
        size_bytes: Observed::Known(3_840_000_000_000),
        kind,
        model: Observed::Known(model.to_owned()),
        zoned: Zoned::None,
        usage: Usage {
            blank: Observed::Known(true),
            holders: Vec::new(),
            exclusive_open_ok: Observed::Known(true),
        },
        health: HealthFacts {
            self_assessment_passed: Observed::Known(true),
            ..HealthFacts::default()
        },
        ..DriveFacts::default()
    }
}

fn certain() -> Verdict {
    Verdict::Drive { id: "wwn-1".into() }
}

fn input<'a>(facts: &'a DriveFacts, identity: &'a Verdict) -> JudgeInput<'a> {
    JudgeInput {
        facts,
        identity,
        overrides: None,
        excluded: false,
        claim: None,
        node_connected: true,
        node_labels: None,
    }
}

fn judged(facts: &DriveFacts) -> Judgement {
    judge(&input(facts, &certain()))
}

fn holder(kind: HolderKind, description: &str) -> Holder {
    Holder {
        kind,
        description: description.to_owned(),
        device: "x1".to_owned(),
    }
}

#[test]
fn tiers_follow_the_facts() {
    let check =
        |kind, model, tier| assert_eq!(judged(&drive(kind, model)).classification.tier, tier, "{model}");
    check(DriveType::Nvme, "INTEL SSDPE21K375GA", Some(Tier::UltraFast));
    check(DriveType::Nvme, "Samsung SSD 980 PRO 1TB", Some(Tier::FastNvme));
    check(DriveType::Nvme, "INTEL SSDPF2KX038TZ", Some(Tier::FastNvme));
    check(DriveType::Nvme, "never heard of", Some(Tier::FastNvme));
    check(DriveType::Pmem, "", Some(Tier::UltraFast));
    check(DriveType::Ssd, "Samsung SSD 860", Some(Tier::StandardSsd));
    check(DriveType::Hdd, "ST4000", Some(Tier::Hdd));
    // What the kernel cannot tell is no spinning drive, whatever it says of rotation.
    let mut virtio = drive(DriveType::Unknown, "");
    virtio.rotational = Observed::Known(true);
    let found = judged(&virtio);
    assert_eq!((found.classification.tier, found.classification.score), (None, 0));
    assert!(found.claimable);
}

#[test]
fn an_override_gives_a_tier_and_excludes() {
    let facts = drive(DriveType::Unknown, "");
    let force = DriveOverride {
        force_tier: Some(Tier::FastNvme),
        labels: BTreeMap::from([("rack".to_owned(), "7".to_owned())]),
        ..DriveOverride::default()
    };
    let found = judge(&JudgeInput {
        overrides: Some(&force),
        ..input(&facts, &certain())
    });
    assert_eq!(found.classification.tier, Some(Tier::FastNvme));
    assert_eq!(found.labels.get(LABEL_TIER).map(String::as_str), Some("fastNvme"));
    assert_eq!(found.labels.get("rack").map(String::as_str), Some("7"));
    let exclude = DriveOverride {
        exclude: true,
        ..DriveOverride::default()
    };
    let found = judge(&JudgeInput {
        overrides: Some(&exclude),
        ..input(&facts, &certain())
    });
    assert_eq!(found.refusals, ["excluded by its StorageNode"]);
}

#[test]
fn a_better_drive_scores_higher() {
    let order = [
        judged(&drive(DriveType::Hdd, "ST4000")),
        judged(&drive(DriveType::Ssd, "860")),
        judged(&drive(DriveType::Nvme, "never heard of")),
        judged(&drive(DriveType::Nvme, "INTEL SSDPF2KX038TZ")),
        judged(&drive(DriveType::Nvme, "INTEL SSDPF21Q800GB")),
    ];
    assert!(
        order
            .windows(2)
            .all(|pair| pair[0].classification.score < pair[1].classification.score)
    );
    let mut worn = drive(DriveType::Nvme, "INTEL SSDPF2KX038TZ");
    worn.health.percentage_used = Observed::Known(50);
    assert_eq!(
        judged(&worn).classification.score,
        order[3].classification.score - 10
    );
}

#[test]
fn health_says_the_gravest_finding_with_its_reason() {
    let check = |change: fn(&mut HealthFacts), state, words: &str| {
        let mut facts = drive(DriveType::Nvme, "x");
        change(&mut facts.health);
        let found = judge_health(&facts);
        assert_eq!(found.state, state, "{found:?}");
        assert!(found.reason.contains(words), "{found:?}");
    };
    check(|_| {}, HealthState::Good, "no problem");
    check(
        |h| h.self_assessment_passed = Observed::Known(false),
        HealthState::Failing,
        "own assessment",
    );
    check(
        |h| h.critical_warning = Observed::Known(0b1010),
        HealthState::Failed,
        "read-only",
    );
    check(
        |h| h.critical_warning = Observed::Known(0b10),
        HealthState::Warning,
        "temperature",
    );
    check(
        |h| h.percentage_used = Observed::Known(104),
        HealthState::Warning,
        "104 %",
    );
    check(
        |h| h.pending_sectors = Observed::Known(3),
        HealthState::Warning,
        "3 pending",
    );
    check(
        |h| h.reallocated_sectors = Observed::Known(900),
        HealthState::Failing,
        "900 reallocated",
    );
    check(
        |h| {
            h.available_spare_percent = Observed::Known(4);
            h.available_spare_threshold_percent = Observed::Known(10);
        },
        HealthState::Failing,
        "threshold 10 %",
    );
    check(
        |h| *h = HealthFacts::default(),
        HealthState::Unknown,
        "does not report",
    );
    check(
        |h| h.self_assessment_passed = Observed::Failed("smartctl: timed out".to_owned()),
        HealthState::Unknown,
        "timed out",
    );
    // Counters at zero are no verdict.
    check(
        |h| {
            *h = HealthFacts {
                media_errors: Observed::Known(0),
                ..HealthFacts::default()
            }
        },
        HealthState::Unknown,
        "",
    );
}

#[test]
fn what_the_kernel_could_not_read_counts_whatever_the_drive_says() {
    let with = |bad_places, failures| {
        let mut facts = drive(DriveType::Hdd, "x");
        facts.io_errors = Some(IoErrors {
            bad_places,
            failures,
            last: "critical medium error, READ at sector 2048".to_owned(),
        });
        judged(&facts).health
    };
    assert_eq!(with(0, 0).state, HealthState::Good);
    let one = with(1, 0);
    let words = "at least 1 bad place on its medium, such as: critical medium error, READ at sector 2048";
    assert_eq!((one.state, one.reason.as_str()), (HealthState::Warning, words));
    assert_eq!(with(9, 0).state, HealthState::Warning);
    let many = with(10, 3);
    assert_eq!(many.state, HealthState::Failing);
    assert!(
        many.reason
            .starts_with("at least 10 bad places on its medium and at least 3 failed reads and writes, ")
    );
    assert_eq!(with(0, 1000).state, HealthState::Warning, "that may be the cable");
    let mut mute = drive(DriveType::Unknown, "virtio");
    mute.health = HealthFacts::default();
    mute.io_errors = Some(IoErrors {
        failures: 3,
        ..IoErrors::default()
    });
    assert_eq!(judged(&mute).health.state, HealthState::Warning);
}

#[test]
fn a_drive_is_free_only_where_it_was_proven() {
    let check = |change: fn(&mut DriveFacts), state, words: &str| {
        let mut facts = drive(DriveType::Ssd, "x");
        change(&mut facts);
        let found = judged(&facts);
        assert_eq!(found.usage.state, state, "{found:?}");
        assert_eq!(found.claimable, state == UseState::Free);
        assert!(found.refusals.join("; ").contains(words), "{found:?}");
    };
    check(|_| {}, UseState::Free, "");
    check(
        |f| f.usage.blank = Observed::Unsupported,
        UseState::Unknown,
        "not proven free",
    );
    check(
        |f| f.usage.blank = Observed::Failed("EIO".to_owned()),
        UseState::Unknown,
        "EIO",
    );
    check(
        |f| f.usage.blank = Observed::Known(false),
        UseState::InUse,
        "not blank",
    );
    check(
        |f| f.usage.exclusive_open_ok = Observed::Known(false),
        UseState::InUse,
        "exclusive open failed",
    );
    check(
        |f| f.usage.exclusive_open_ok = Observed::Unsupported,
        UseState::Unknown,
        "was not tried",
    );
    check(
        |f| f.usage.holders = vec![holder(HolderKind::Mount, "ext4 mounted on /")],
        UseState::InUse,
        "in use: ext4 mounted on /",
    );
    check(
        |f| {
            f.evidence.mark = Some(Mark {
                member_id: "m".into(),
                released: true,
                ..Mark::default()
            })
        },
        UseState::InUse,
        "released member m",
    );
}

#[test]
fn a_claimed_drive_names_its_pool_and_a_wrong_mark_is_a_conflict() {
    let claim = DriveClaim {
        pool: "demo".into(),
        member: "m1".into(),
    };
    let mut facts = drive(DriveType::Ssd, "x");
    facts.evidence = Evidence {
        mark: Some(Mark {
            member_id: "m1".into(),
            ..Mark::default()
        }),
        ..Evidence::default()
    };
    let found = judge(&JudgeInput {
        claim: Some(&claim),
        ..input(&facts, &certain())
    });
    assert_eq!(
        (found.usage.state, found.usage.pool),
        (UseState::Claimed, Some("demo".into()))
    );
    assert_eq!(found.refusals, ["claimed by pool demo"]);
    facts.evidence.mark = Some(Mark {
        member_id: "m2".into(),
        ..Mark::default()
    });
    let found = judge(&JudgeInput {
        claim: Some(&claim),
        ..input(&facts, &certain())
    });
    assert_eq!(found.usage.state, UseState::Conflict);
}

#[test]
fn every_refusal_is_told() {
    let mut facts = drive(DriveType::Ssd, "x");
    facts.read_only = Observed::Known(true);
    facts.size_bytes = Observed::Failed("EIO".to_owned());
    facts.health.self_assessment_passed = Observed::Known(false);
    facts.usage.holders = vec![holder(HolderKind::Swap, "swap")];
    let conflict = Verdict::Conflict {
        shown_as: "conflict-1".into(),
        reason: "sdb has it too".to_owned(),
    };
    let found = judge(&JudgeInput {
        excluded: true,
        node_connected: false,
        ..input(&facts, &conflict)
    });
    assert_eq!(found.refusals.len(), 6, "{:?}", found.refusals);
    assert_eq!(found.usage.state, UseState::Conflict);
}

#[test]
fn holders_are_told_as_people_know_them() {
    let mut facts = drive(DriveType::Ssd, "x");
    facts.usage.holders = vec![
        holder(HolderKind::Partition, "partition vda1"),
        holder(HolderKind::PartitionTable, "GPT"),
        holder(HolderKind::Mount, "ext4 mounted on /"),
        holder(HolderKind::Mount, "ext4 mounted on /"),
        holder(HolderKind::Signature, "ext4"),
        holder(HolderKind::Signature, "swap"),
    ];
    assert_eq!(holder_words(&facts), "ext4 mounted on /, ext4, swap, GPT, 1 more");
}

#[test]
fn labels_are_legal() {
    let mut facts = drive(DriveType::Nvme, "  INTEL SSDPE2KE016T8 (rev/2) ");
    facts.transport = Transport::Loop;
    facts.firmware = Observed::Known("///".to_owned());
    let labels = judged(&facts).labels;
    assert_eq!(
        labels.get(LABEL_MODEL).map(String::as_str),
        Some("INTEL-SSDPE2KE016T8-rev-2")
    );
    assert_eq!(labels.get(LABEL_TRANSPORT).map(String::as_str), Some("loop"));
    assert!(!labels.contains_key(LABEL_FIRMWARE));
}

proptest! {
    #[test]
    fn a_label_value_is_always_legal(text in "\\PC{0,100}") {
        let value = label_value(&text);
        prop_assert!(value.len() <= 63);
        prop_assert!(value.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)));
        for end in [value.chars().next(), value.chars().last()].into_iter().flatten() {
            prop_assert!(end.is_ascii_alphanumeric());
        }
    }
}
