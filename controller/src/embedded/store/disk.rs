//! The redb file: one table of objects, one of numbers. Nothing but the writer thread touches it.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Change, Key, Object, StoreError};

/// `resource NUL namespace NUL name` to the object's JSON.
const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
/// `revision` and `format`.
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
/// What this code writes; a file of a newer format is refused.
const FORMAT: u64 = 1;
/// Everything is served from memory, so the file needs few pages.
const CACHE_BYTES: usize = 8 << 20;

type Open = dyn Fn() -> Result<Database, redb::Error> + Send;

/// Where the file is, and how it is opened: tests put failing disks there.
pub struct Place {
    name: String,
    open: Box<Open>,
}

impl Place {
    /// A file, made with permissions for its owner only.
    pub fn file(path: &Path) -> Self {
        let name = path.display().to_string();
        let path = path.to_owned();
        Self {
            name,
            open: Box::new(move || open_file(&path)),
        }
    }

    /// Any other storage.
    #[cfg(test)]
    pub fn other(open: Box<Open>) -> Self {
        Self {
            name: "a disk for tests".to_owned(),
            open,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

fn open_file(path: &Path) -> Result<Database, redb::Error> {
    // Secrets are in it.
    let options = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .clone();
    drop(options.open(path).map_err(redb::Error::Io)?);
    crate::fault::point("store-file-made");
    Ok(redb::Builder::new().set_cache_size(CACHE_BYTES).create(path)?)
}

pub(super) struct Disk {
    database: Database,
}

impl Disk {
    pub(super) fn open(place: &Place) -> Result<Self, StoreError> {
        let name = place.name();
        let database = (place.open)().map_err(|e| failed(e, Some(name)))?;
        let disk = Self { database };
        disk.prepare().map_err(|e| failed(e, Some(name)))?;
        match disk.number("format")? {
            FORMAT => Ok(disk),
            other => Err(StoreError::Open {
                path: name.to_owned(),
                cause: format!("format {other} is not known"),
            }),
        }
    }

    /// Makes the tables where they are missing; an existing file is not written to.
    fn prepare(&self) -> Result<(), redb::Error> {
        let read = self.database.begin_read()?;
        match read.open_table(NUMBERS) {
            Ok(numbers) if numbers.get("format")?.is_some() => return Ok(()),
            Ok(_) | Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(other) => return Err(other.into()),
        }
        drop(read);
        let mut write = self.database.begin_write()?;
        write.set_quick_repair(true);
        write.open_table(OBJECTS)?;
        {
            let mut numbers = write.open_table(NUMBERS)?;
            numbers.insert("format", FORMAT)?;
            // As etcd: 0 means "any" to clients, so counting starts at 1.
            numbers.insert("revision", 1)?;
        }
        write.commit()?;
        crate::fault::point("store-made");
        Ok(())
    }

    pub(super) fn revision(&self) -> Result<u64, StoreError> {
        self.number("revision")
    }

    fn number(&self, name: &str) -> Result<u64, StoreError> {
        let read = || -> Result<Option<u64>, redb::Error> {
            let numbers = self.database.begin_read()?.open_table(NUMBERS)?;
            Ok(numbers.get(name)?.map(|v| v.value()))
        };
        read()
            .map_err(|e| failed(e, None))?
            .ok_or_else(|| StoreError::Corrupt(format!("the number {name} is missing")))
    }

    pub(super) fn load(&self) -> Result<(u64, Vec<Arc<Object>>), StoreError> {
        let rows = || -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
            let table = self.database.begin_read()?.open_table(OBJECTS)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                rows.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(rows)
        };
        let rows = rows().map_err(|e| failed(e, None))?;
        let objects = rows
            .into_iter()
            .map(|(key, json)| Ok(Arc::new(Object::from_disk(parse_key(&key)?, json)?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        Ok((self.revision()?, objects))
    }

    pub(super) fn commit(&self, changes: &[Change], revision: u64) -> Result<(), StoreError> {
        let commit = || -> Result<(), redb::Error> {
            let mut write = self.database.begin_write()?;
            write.set_quick_repair(true);
            {
                let mut objects = write.open_table(OBJECTS)?;
                for change in changes {
                    let key = disk_key(&change.object.key);
                    if change.removed {
                        objects.remove(key.as_str())?;
                    } else {
                        objects.insert(key.as_str(), &*change.object.json)?;
                    }
                }
                write.open_table(NUMBERS)?.insert("revision", revision)?;
            }
            crate::fault::point("store-before-commit");
            write.commit()?;
            crate::fault::point("store-after-commit");
            Ok(())
        };
        commit().map_err(|e| failed(e, None))
    }
}

fn disk_key(key: &Key) -> String {
    format!("{}\0{}\0{}", key.resource, key.namespace, key.name)
}

fn parse_key(text: &str) -> Result<Key, StoreError> {
    let mut parts = text.split('\0');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(resource), Some(namespace), Some(name), None) => Ok(Key {
            resource: resource.into(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }),
        _ => Err(StoreError::Corrupt(format!(
            "the key {text:?} is not one of ours"
        ))),
    }
}

fn failed(error: redb::Error, opening: Option<&str>) -> StoreError {
    match (error, opening) {
        (redb::Error::Io(e), _) if is_full(&e) => StoreError::NoSpace,
        (redb::Error::DatabaseAlreadyOpen, Some(path)) => StoreError::InUse(path.to_owned()),
        (redb::Error::Corrupted(what), _) => StoreError::Corrupt(what),
        (other, Some(path)) => StoreError::Open {
            path: path.to_owned(),
            cause: other.to_string(),
        },
        (other, None) => StoreError::Write(other.to_string()),
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}
