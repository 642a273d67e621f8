//! Which node holds a certificate of which CA: one small file a node in `<data-dir>/pki/holders`, written when it
//! changes and never otherwise.
//!
//! It says what an agent is known to have: what it enrolled with, what it showed, and what it says it has stored.
//! [`super::rotation::finish`] asks it, from another process than the controller's. It decides about no certificate.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    PkiError,
    files::{file_error, private_dir, write_private},
    unix,
};

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("pki/holders")
}

/// `node` (a node name) holds a certificate of the CA with this hash until `not_after`.
pub(super) fn note(data_dir: &Path, node: &str, ca: &str, not_after: i64) -> Result<(), PkiError> {
    let folder = folder(data_dir);
    let path = folder.join(node);
    let line = format!("{ca} {not_after}\n");
    if fs::read_to_string(&path).is_ok_and(|there| there == line) {
        return Ok(());
    }
    private_dir(&folder)?;
    write_private(&path, line.as_bytes())
}

/// Nodes whose certificate is good at `now` and of another CA than this one, sorted.
pub(super) fn of_others(data_dir: &Path, ca: &str, now: SystemTime) -> Result<Vec<String>, PkiError> {
    let mut names: Vec<String> = all(data_dir)?
        .into_iter()
        .filter(|holder| holder.ca != ca && holder.not_after > unix(now))
        .map(|holder| holder.node)
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Forgets certificates that are good for nothing any more.
pub(super) fn sweep(data_dir: &Path, ca: &str, now: SystemTime) -> Result<(), PkiError> {
    for holder in all(data_dir)? {
        if holder.ca != ca || holder.not_after <= unix(now) {
            let path = folder(data_dir).join(&holder.node);
            fs::remove_file(&path).map_err(|e| file_error(&path, e))?;
        }
    }
    Ok(())
}

/// `<node>.<pid>.new`: another process writes it just now, or died over it; the node's own file says what was before.
fn is_unfinished(name: &str) -> bool {
    let pid = name.strip_suffix(".new").and_then(|rest| rest.rsplit_once('.'));
    pid.is_some_and(|(_, pid)| pid.parse::<u32>().is_ok())
}

struct Holder {
    node: String,
    ca: String,
    not_after: i64,
}

fn all(data_dir: &Path) -> Result<Vec<Holder>, PkiError> {
    let folder = folder(data_dir);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file_error(&folder, error)),
    };
    let mut holders = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| file_error(&folder, e))?;
        let node = entry.file_name().to_string_lossy().into_owned();
        if is_unfinished(&node) {
            continue;
        }
        let text = fs::read_to_string(entry.path()).map_err(|e| file_error(&entry.path(), e))?;
        let Some((ca, not_after)) = text.trim().split_once(' ') else {
            // What a crash left of a write: the node is written down anew when it is seen.
            continue;
        };
        // One that cannot be read counts as held for ever: an administrator looks at it.
        holders.push(Holder {
            node,
            ca: ca.to_owned(),
            not_after: not_after.parse().unwrap_or(i64::MAX),
        });
    }
    Ok(holders)
}
