//! Fault points: named places at which a crash test kills this process, after a write and before the next one.
//!
//! In a build without the feature `fault-points` every call is nothing; a shipped binary never has it. With it,
//! `SMART_STORAGE_FAULT=<name>[:N]` aborts the process (nothing is flushed, closed or told) the N-th time it passes
//! that point; `SMART_STORAGE_FAULT=@<file>` reads the same words from a file at each point, and removes the file
//! before it aborts, so that a running process can be armed, once. `SMART_STORAGE_FAULT=list` prints every point.

/// What a whole instance does when it passes a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    /// The first start in an empty data folder.
    FirstStart,
    /// `join-token`, a process of its own.
    JoinToken,
    /// A new node enrols and gets its first stream.
    Enrolment,
    /// Every start.
    Start,
    /// A pool that claims a drive.
    Take,
    /// That pool being deleted.
    Release,
    /// A request for storage, until it is Ready.
    Create,
    /// A larger size.
    Grow,
    /// New credentials.
    Rotate,
    /// The request being deleted, until its bytes are free.
    Delete,
    /// A volume that is kept being deleted, after its request.
    Forget,
}

/// Every point there is, with what passes it.
pub const POINTS: &[(&str, During)] = &[
    ("file-unnamed", During::FirstStart),
    ("ca-key-written", During::FirstStart),
    ("ca-written", During::FirstStart),
    ("server-key-written", During::FirstStart),
    ("server-written", During::FirstStart),
    ("secret-file-unnamed", During::FirstStart),
    ("admin-token-written", During::FirstStart),
    ("cluster-id-written", During::FirstStart),
    ("store-file-made", During::FirstStart),
    ("store-made", During::FirstStart),
    ("lead-taken", During::Start),
    ("join-token-written", During::JoinToken),
    ("enrolment-checked", During::Enrolment),
    ("node-certificate-signed", During::Enrolment),
    ("node-made", During::Enrolment),
    ("store-before-commit", During::Create),
    ("store-after-commit", During::Create),
    ("finalizer-added", During::Take),
    ("member-made", During::Take),
    ("member-told", During::Take),
    ("status-published", During::Create),
    ("claim-made", During::Create),
    ("after-reserve", During::Create),
    ("volume-written", During::Create),
    ("after-secret-created", During::Create),
    ("rule-written", During::Create),
    ("directory-made", During::Create),
    ("data-folder-made", During::Create),
    ("slot-taken", During::Create),
    ("after-backend-volume", During::Create),
    ("after-backend-identity", During::Create),
    ("claim-grown", During::Grow),
    ("after-reserve-growth", During::Grow),
    ("volume-grown", During::Grow),
    ("quota-changed", During::Grow),
    ("after-secret", During::Rotate),
    ("rotated-identity-written", During::Rotate),
    ("claim-deleted", During::Delete),
    ("volume-deletion-asked", During::Delete),
    ("identity-deleted", During::Delete),
    ("directory-deleted", During::Delete),
    ("collection-deleted", During::Delete),
    ("after-backend-delete", During::Delete),
    ("secret-removed", During::Delete),
    ("finalizer-removed", During::Delete),
    ("after-volume-gone", During::Delete),
    ("promise-recounted", During::Delete),
    ("retained-identity-deleted", During::Forget),
    ("data-marked-as-kept", During::Forget),
    ("bytes-retained", During::Forget),
    ("member-deletion-asked", During::Release),
    ("member-released", During::Release),
];

/// Aborts here when this is the point, and the pass, that the environment names.
#[cfg(feature = "fault-points")]
pub fn point(name: &'static str) {
    debug_assert!(
        POINTS.iter().any(|(known, _)| *known == name),
        "a fault point that the tests cannot enumerate: {name}"
    );
    if armed::is_due(name) {
        std::process::abort();
    }
}

/// Nothing: this build has no fault points.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn point(_name: &'static str) {}

/// Says on standard error that this build is for tests; where the environment asks for it, prints the points and ends.
#[cfg(feature = "fault-points")]
pub fn announce() {
    use std::io::Write as _;
    if std::env::var_os("SMART_STORAGE_FAULT").is_some_and(|wanted| wanted == "list") {
        for (name, during) in POINTS {
            let _ = writeln!(std::io::stdout(), "{name} {during:?}");
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
    use super::POINTS;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let mut names: Vec<_> = POINTS.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), POINTS.len());
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
        let mut known: Vec<_> = POINTS.iter().map(|(name, _)| (*name).to_owned()).collect();
        known.sort_unstable();
        assert_eq!(found, known);
    }
}
