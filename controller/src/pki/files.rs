//! The files of the PKI and the join tokens: private to their owner, and whole or not there at all.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::PkiError;

pub(super) fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|e| file_error(path, e))
}

/// A folder that only its owner may enter, made with its parents.
///
/// # Errors
/// [`PkiError::File`].
pub fn private_dir(dir: &Path) -> Result<(), PkiError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| file_error(dir, e))
}

/// Writes a file of mode 0600 whole or not at all: synced under another name, then renamed.
///
/// # Errors
/// [`PkiError::File`].
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        crate::fault::point("file-unnamed");
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    })();
    written.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        file_error(path, e)
    })
}

/// Removes what a process left that died before it could name a file of [`write_private`]: there may be a key in it.
pub(super) fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let pid = name
            .strip_suffix(".new")
            .and_then(|rest| rest.rsplit_once('.'))
            .and_then(|(_, pid)| pid.parse::<u32>().ok());
        // A process of that number may be writing it just now; ours has not begun.
        let abandoned = |pid: u32| pid == std::process::id() || !Path::new(&format!("/proc/{pid}")).exists();
        if pid.is_some_and(abandoned) {
            let _ = fs::remove_file(&path);
        }
    }
}

pub(super) fn file_error(path: &Path, source: io::Error) -> PkiError {
    PkiError::File {
        path: path.to_owned(),
        source,
    }
}

pub(super) fn content_error(path: &Path, reason: &dyn std::fmt::Display) -> PkiError {
    PkiError::Content {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
