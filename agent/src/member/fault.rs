//! Fault points: named places at which a crash test kills this process.
//!
//! In a build without the feature `fault-points` every call is nothing; a shipped binary never has it. With it,
//! `SMART_STORAGE_FAULT=<name>[:N]` in the environment aborts the process when it comes to that point (the N-th
//! time); `SMART_STORAGE_FAULT=@<file>` reads the same words from a file at each point, and removes the file before
//! it aborts, so that a running process can be armed, once. `SMART_STORAGE_FAULT=list` prints every point.

/// Every point there is, in the order in which taking, serving and releasing a drive passes them.
pub const POINTS: &[&str] = &[
    "member-looked",
    "member-opened",
    "member-examined",
    "member-proven",
    "member-file-unnamed",
    "member-spec-written",
    "member-mark-backup-written",
    "member-mark-written",
    "member-mark-checked",
    "member-partition-added",
    "member-formatting-recorded",
    "member-formatted",
    "member-mount-point-made",
    "member-mounted",
    "member-identity-written",
    "member-finished",
    "member-ports-recorded",
    "member-process-started",
    "member-releasing-recorded",
    "member-unmounted",
    "member-release-backup-written",
    "member-release-written",
    "member-mount-point-removed",
    "member-spec-removed",
];

/// The points outside of a member's life, in the order in which a new node passes them; orders come after that.
pub const SESSION_POINTS: &[&str] = &[
    "identity-received",
    "identity-file-unnamed",
    "identity-ca-written",
    "identity-written",
    "stream-welcomed",
    "order-taken",
    "order-done",
];

/// Aborts here when the environment names this point.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) {
    debug_assert!(
        POINTS.contains(&name) || SESSION_POINTS.contains(&name),
        "a fault point that the tests cannot enumerate: {name}"
    );
    #[cfg(test)]
    super::pause::at(name);
    if armed::is_due(name) {
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

/// Says on standard error that this build is for tests; where the environment asks for it, prints the points with
/// what a whole instance does when it passes them, and ends.
#[cfg(feature = "fault-points")]
pub fn announce() {
    use std::io::Write as _;
    if std::env::var_os("SMART_STORAGE_FAULT").is_some_and(|wanted| wanted == "list") {
        let mut during = "Take";
        for name in POINTS {
            if *name == "member-releasing-recorded" {
                during = "Release";
            }
            let _ = writeln!(std::io::stdout(), "{name} {during}");
        }
        for name in SESSION_POINTS {
            let during = if name.starts_with("order") {
                "Take"
            } else {
                "Enrolment"
            };
            let _ = writeln!(std::io::stdout(), "{name} {during}");
        }
        std::process::exit(0);
    }
    let _ = writeln!(std::io::stderr(), "this build has fault points: for tests only");
}

/// Nothing: this build has no fault points.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn announce() {}

#[cfg(feature = "fault-points")]
mod armed {
    use std::{env, fs};

    use parking_lot::Mutex;

    /// What was asked for, and how often it was passed since.
    static PASSED: Mutex<(String, u32)> = Mutex::new((String::new(), 0));

    pub fn is_due(name: &str) -> bool {
        let Ok(asked) = env::var("SMART_STORAGE_FAULT") else {
            return false;
        };
        let file = asked.strip_prefix('@');
        let words = file.map_or_else(
            || asked.clone(),
            |path| fs::read_to_string(path).unwrap_or_default(),
        );
        let words = words.trim();
        let (wanted, pass) = words.split_once(':').unwrap_or((words, "1"));
        let mut passed = PASSED.lock();
        if passed.0 != words {
            *passed = (words.to_owned(), 0);
        }
        if wanted != name {
            return false;
        }
        passed.1 += 1;
        let due = pass.parse() == Ok(passed.1);
        if let (true, Some(path)) = (due, file) {
            let _ = fs::remove_file(path);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::{POINTS, SESSION_POINTS};

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let mut names = [POINTS, SESSION_POINTS].concat();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), POINTS.len() + SESSION_POINTS.len());
    }

    /// A point that is declared and never called would be a test that cannot fail, and the other way round.
    #[test]
    fn every_point_is_called_somewhere_and_no_other_is() {
        fn calls(folder: &std::path::Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    calls(&path, found);
                } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("fault.rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let named = text.split("fault::point(\"").skip(1);
                    found.extend(named.map(|rest| rest.split('"').next().unwrap().to_owned()));
                }
            }
        }
        let mut found = Vec::new();
        calls(
            std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
            &mut found,
        );
        found.sort_unstable();
        found.dedup();
        let mut known: Vec<_> = [POINTS, SESSION_POINTS]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect();
        known.sort_unstable();
        assert_eq!(found, known);
    }
}
