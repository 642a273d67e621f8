//! Fault points: named places at which a crash test kills this process.
//!
//! In a build without the feature `fault-points` every call is nothing; a shipped binary never has it. With it,
//! `SMART_STORAGE_FAULT=<name>` in the environment aborts the process when it comes to that point.

/// Every point there is, in the order in which taking, serving and releasing a drive passes them.
pub const POINTS: &[&str] = &[
    "member-proven",
    "member-spec-written",
    "member-mark-backup-written",
    "member-mark-written",
    "member-mark-checked",
    "member-partition-added",
    "member-formatting-recorded",
    "member-formatted",
    "member-mounted",
    "member-identity-written",
    "member-finished",
    "member-process-started",
    "member-releasing-recorded",
    "member-unmounted",
    "member-release-backup-written",
    "member-release-written",
    "member-spec-removed",
];

/// Aborts here when the environment names this point.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) {
    debug_assert!(
        POINTS.contains(&name),
        "a fault point that the tests cannot enumerate: {name}"
    );
    if std::env::var_os("SMART_STORAGE_FAULT").is_some_and(|wanted| wanted == name) {
        std::process::abort();
    }
}

/// Nothing: this build has no fault points.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn point(_name: &str) {}

#[cfg(test)]
mod tests {
    use super::POINTS;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let mut names = POINTS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), POINTS.len());
    }
}
