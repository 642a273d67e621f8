//! Raw health numbers to one judgement with its reason. Counters that were not told speak neither for nor
//! against a drive.

use super::{Health, HealthState};
use crate::drive::{DriveFacts, HealthFacts, Observed};

/// Reallocated or pending sectors from which on a spinning drive is not trusted with new data. Fleets of
/// spinning drives show failure rates an order of magnitude higher beyond a few dozen.
const MANY_SECTORS: u64 = 50;
/// Percent of rated endurance from which on a drive is shown with a warning.
const WORN_PERCENT: u32 = 90;

/// Bad places of the medium from which on a drive is not trusted with new data. Drives replace a bad sector when it is
/// written again; so many in one life of a machine are more than that mends.
const MANY_BAD_PLACES: u64 = 10;

/// Judges the health of a drive: the gravest finding wins, and every finding of that gravity is named.
#[must_use]
pub fn judge_health(facts: &DriveFacts) -> Health {
    let health = &facts.health;
    let mut findings = critical_warnings(health);
    findings.extend(counters(health));
    findings.extend(io_errors(facts));
    if health.self_assessment_passed.is(&false) {
        findings.push((
            HealthState::Failing,
            "its own assessment says that it fails".to_owned(),
        ));
    }
    for gravity in [HealthState::Failed, HealthState::Failing, HealthState::Warning] {
        let named: Vec<&str> = findings
            .iter()
            .filter(|(state, _)| *state == gravity)
            .map(|(_, words)| words.as_str())
            .collect();
        if !named.is_empty() {
            return Health {
                state: gravity,
                reason: named.join("; "),
            };
        }
    }
    let verdict = health.self_assessment_passed.is(&true) || health.critical_warning.is(&0);
    if verdict {
        return Health {
            state: HealthState::Good,
            reason: "it reports no problem".to_owned(),
        };
    }
    Health {
        state: HealthState::Unknown,
        reason: unknown_words(health),
    }
}

fn unknown_words(health: &HealthFacts) -> String {
    let failed = [
        health
            .self_assessment_passed
            .why_not()
            .filter(|why| *why != "not supported"),
        health
            .critical_warning
            .why_not()
            .filter(|why| *why != "not supported"),
    ];
    match failed.into_iter().flatten().next() {
        Some(why) => format!("its health could not be read: {why}"),
        None => "it does not report its health".to_owned(),
    }
}

/// What the kernel met counts whatever the drive says of itself. Only what it calls the medium's speaks for replacing the
/// drive: anything else may be the cable.
fn io_errors(facts: &DriveFacts) -> Option<(HealthState, String)> {
    let errors = facts.io_errors.as_ref()?;
    let counted = |count: u64, one: &str, many: &str| match count {
        0 => None,
        1 => Some(format!("at least 1 {one}")),
        _ => Some(format!("at least {count} {many}")),
    };
    let words: Vec<String> = [
        counted(
            errors.bad_places,
            "bad place on its medium",
            "bad places on its medium",
        ),
        counted(errors.failures, "failed read or write", "failed reads and writes"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let gravity = match errors.bad_places {
        MANY_BAD_PLACES.. => HealthState::Failing,
        _ => HealthState::Warning,
    };
    (!words.is_empty()).then(|| {
        (
            gravity,
            format!("{}, such as: {}", words.join(" and "), errors.last),
        )
    })
}

fn critical_warnings(health: &HealthFacts) -> Vec<(HealthState, String)> {
    const BITS: [(u32, HealthState, &str); 6] = [
        (0, HealthState::Failing, "spare blocks are below the threshold"),
        (1, HealthState::Warning, "its temperature is out of range"),
        (
            2,
            HealthState::Failing,
            "its reliability is degraded by media or internal errors",
        ),
        (3, HealthState::Failed, "its media went read-only"),
        (4, HealthState::Warning, "its volatile memory backup failed"),
        (
            5,
            HealthState::Warning,
            "its persistent memory region is unreliable",
        ),
    ];
    let Some(bits) = health.critical_warning.known() else {
        return Vec::new();
    };
    BITS.iter()
        .filter(|(bit, _, _)| (bits >> bit) & 1 == 1)
        .map(|(_, state, words)| (*state, (*words).to_owned()))
        .collect()
}

fn counters(health: &HealthFacts) -> Vec<(HealthState, String)> {
    let mut findings = Vec::new();
    let spare = (
        &health.available_spare_percent,
        &health.available_spare_threshold_percent,
    );
    if let (Observed::Known(spare), Observed::Known(threshold)) = spare
        && spare < threshold
    {
        findings.push((
            HealthState::Failing,
            format!("spare blocks at {spare} %, threshold {threshold} %"),
        ));
    }
    if let Observed::Known(used) = health.percentage_used
        && used >= WORN_PERCENT
    {
        findings.push((
            HealthState::Warning,
            format!("{used} % of its rated endurance used"),
        ));
    }
    let sectors = [
        (&health.reallocated_sectors, "reallocated sectors"),
        (&health.pending_sectors, "pending sectors"),
    ];
    for (count, what) in sectors {
        match count.known() {
            Some(count) if *count >= MANY_SECTORS => {
                findings.push((HealthState::Failing, format!("{count} {what}")));
            }
            Some(count) if *count > 0 => findings.push((HealthState::Warning, format!("{count} {what}"))),
            _ => {}
        }
    }
    let errors = [
        (&health.media_errors, "media errors"),
        (&health.uncorrectable_errors, "uncorrectable errors"),
    ];
    for (count, what) in errors {
        if let Some(count) = count.known().filter(|count| **count > 0) {
            findings.push((HealthState::Warning, format!("{count} {what}")));
        }
    }
    findings
}
