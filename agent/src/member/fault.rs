//! Fault points: named places at which a crash test kills this process.
//!
//! In a build without the feature `fault-points` every call is nothing; a shipped binary never has it. With it,
//! `SMART_STORAGE_FAULT=<name>` in the environment aborts the process when it comes to that point.

/// Every point there is, in the order in which taking, serving and releasing a drive passes them.
pub const POINTS: &[&str] = &[
    "member-looked",
    "member-opened",
    "member-examined",
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
    #[cfg(test)]
    super::pause::at(name);
    if std::env::var_os("SMART_STORAGE_FAULT").is_some_and(|wanted| wanted == name) {
        std::process::abort();
    }
}

/// Nothing: this build has no fault points (but in unit tests, which pause at them).
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn point(_name: &str) {
    #[cfg(test)]
    super::pause::at(_name);
}

/// The points between the plan and the first byte that is written to the drive.
#[cfg(test)]
pub(super) fn before_the_first_write() -> impl Iterator<Item = &'static str> {
    let first = |name: &&&str| **name != "member-mark-backup-written";
    POINTS.iter().take_while(first).copied()
}

/// The points between the first write and the mounted file system.
#[cfg(test)]
pub(super) fn until_it_is_mounted() -> impl Iterator<Item = &'static str> {
    let first = |name: &&&str| **name != "member-mark-backup-written";
    let mounted = |name: &&&str| **name != "member-mounted";
    POINTS.iter().skip_while(first).take_while(mounted).copied()
}

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
