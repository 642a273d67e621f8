//! What was asked of this node, on its own disk: one file for each member, `<data-dir>/members/<id>.json`.
//!
//! Written before the effect that it speaks of, atomically (a new file, synced, renamed over the old one, the
//! folder synced), and only when something changed. It never holds what was merely seen.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::{EnsureMember, FileSystem, MemberId, fault};

/// How far the taking (or releasing) of the drive has come. Each is recorded before the step that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    /// The mark is being written.
    Marking,
    /// The mark is complete; the file system is being made, and holds no data as far as this node knows.
    Formatting,
    /// The file system is the member's, and may hold data: nothing makes a file system here again.
    Finished,
    /// The mark is being changed into that of a released member.
    Releasing,
}

/// What this agent chose and has to remember.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub phase: Phase,
    /// GUID of the partition table.
    pub disk_guid: Uuid,
    /// The file system that was made or is to be made.
    pub file_system: FileSystem,
    pub filesystem_uuid: Uuid,
    /// HTTP and gRPC port of the storage process, so that it keeps its address.
    pub ports: Option<(u16, u16)>,
    /// The id that the storage process wrote into its folder.
    pub data_id: Option<String>,
}

/// A member's file: the last order and the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemberSpec {
    pub order: EnsureMember,
    pub journal: Journal,
}

/// Why a member's file could not be read or written.
#[derive(Debug, Error)]
pub(super) enum StoreError {
    #[error("{action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path} is not a member's file: {source}")]
    Format {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// What was found at the start, file by file.
pub(super) struct Loaded {
    pub specs: Vec<MemberSpec>,
    pub failures: Vec<(Option<MemberId>, StoreError)>,
}

/// The folder of the members' files.
#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    /// Opens (and makes) the folder.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let folder = data_dir.join("members");
        fs::create_dir_all(&folder).map_err(io_error("making the folder", &folder))?;
        Ok(Self { folder })
    }

    fn path(&self, id: MemberId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Every member's file. One that cannot be read spoils none of the others.
    pub fn load(&self) -> Result<Loaded, StoreError> {
        let mut loaded = Loaded {
            specs: Vec::new(),
            failures: Vec::new(),
        };
        for entry in fs::read_dir(&self.folder).map_err(io_error("listing", &self.folder))? {
            let path = entry.map_err(io_error("listing", &self.folder))?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                // Of an agent that died before it could name it.
                fs::remove_file(&path).map_err(io_error("removing", &path))?;
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let id = path
                .file_stem()
                .and_then(|stem| MemberId::parse(&stem.to_string_lossy()));
            match read_spec(&path) {
                Ok(spec) if Some(spec.order.member_id) == id => loaded.specs.push(spec),
                Ok(_) => {
                    let source = serde::de::Error::custom("it names another member than its file name");
                    loaded.failures.push((id, StoreError::Format { path, source }));
                }
                Err(error) => loaded.failures.push((id, error)),
            }
        }
        loaded.specs.sort_by_key(|spec| spec.order.member_id);
        Ok(loaded)
    }

    /// One member's file; `None`: there is none.
    pub fn read(&self, id: MemberId) -> Result<Option<MemberSpec>, StoreError> {
        match read_spec(&self.path(id)) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Writes a member's file; when this returns, it is on the disk.
    pub fn save(&self, spec: &MemberSpec) -> Result<(), StoreError> {
        let path = self.path(spec.order.member_id);
        let bytes = serde_json::to_vec_pretty(spec).map_err(|source| StoreError::Format {
            path: path.clone(),
            source,
        })?;
        write_atomically(&path, &bytes).map_err(io_error("writing", &path))
    }

    /// Removes a member's file; nothing to remove is no error.
    pub fn remove(&self, id: MemberId) -> Result<(), StoreError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("removing", &path)(error)),
            Ok(()) => sync_folder(&path).map_err(io_error("removing", &path)),
        }
    }
}

/// Replaces a file by a synced new one; readers see the old bytes or the new ones.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fault::point("member-file-unnamed");
    fs::rename(&fresh, path)?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn read_spec(path: &Path) -> Result<MemberSpec, StoreError> {
    let bytes = fs::read(path).map_err(io_error("reading", path))?;
    serde_json::from_slice(&bytes).map_err(|source| StoreError::Format {
        path: path.to_owned(),
        source,
    })
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::hardware::Evidence;
    use crate::member::{ExpectedDrive, WeedVolume};

    pub(in crate::member) fn spec(id: &str, phase: Phase) -> MemberSpec {
        MemberSpec {
            order: EnsureMember {
                member_id: MemberId::parse(id).unwrap(),
                pool: "fast".into(),
                cluster_id: "0a1b2c3d-0000-4000-8000-000000000000".into(),
                may_prepare: true,
                drive: ExpectedDrive {
                    device: "loop9".into(),
                    size_bytes: 2 << 30,
                    disk_sequence: Some(7),
                    evidence: Evidence {
                        serial: Some("S1".into()),
                        ..Evidence::default()
                    },
                    drive_id: "loop-s1".into(),
                },
                file_system: FileSystem::Xfs,
                weed: WeedVolume {
                    masters: vec!["127.0.0.1:9333.19333".into()],
                    disk_tag: "fast".into(),
                    max_volumes: 30,
                    data_center: String::new(),
                    rack: String::new(),
                    min_free_bytes: 64 << 20,
                },
            },
            journal: Journal {
                phase,
                disk_guid: Uuid::from_u128(1),
                file_system: FileSystem::Xfs,
                filesystem_uuid: Uuid::from_u128(2),
                ports: Some((21001, 21002)),
                data_id: None,
            },
        }
    }

    const ONE: &str = "3f0c2b9e-6a52-4b8e-9d57-0a3f5c1e7d21";
    const TWO: &str = "4f0c2b9e-6a52-4b8e-9d57-0a3f5c1e7d22";

    #[test]
    fn what_was_saved_is_loaded_again_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (one, two) = (spec(ONE, Phase::Marking), spec(TWO, Phase::Finished));
        store.save(&two).unwrap();
        store.save(&one).unwrap();
        store.save(&one).unwrap();
        assert_eq!(store.load().unwrap().specs, [one.clone(), two.clone()]);
        store.remove(one.order.member_id).unwrap();
        store.remove(one.order.member_id).unwrap();
        assert_eq!(store.load().unwrap().specs, [two]);
    }

    #[test]
    fn a_spoilt_file_is_named_and_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.save(&spec(ONE, Phase::Finished)).unwrap();
        fs::write(folder.path().join("members").join(format!("{TWO}.json")), b"{").unwrap();
        fs::write(folder.path().join("members").join(format!("{TWO}.new")), b"half").unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(loaded.specs.len(), 1);
        assert_eq!(
            loaded.failures.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
            [MemberId::parse(TWO)]
        );
    }
}
