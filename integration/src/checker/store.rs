//! The controller's store, read from its file while the controller is dead: the ledger and the volumes of one moment.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde_json::Value;

use super::{
    Picture,
    picture::{pool, text, volume},
};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");

/// Pools and volumes from a copy of the file: what opens it may repair it, and that is the controller's to do.
pub(super) fn read(file: &Path, picture: &mut Picture) -> Result<()> {
    let copy = tempfile::NamedTempFile::new()?;
    fs::copy(file, copy.path()).with_context(|| file.display().to_string())?;
    let database = Database::open(copy.path())?;
    let table = database.begin_read()?.open_table(OBJECTS)?;
    for row in table.iter()? {
        let (key, json) = row?;
        let object: Value = serde_json::from_slice(json.value())?;
        let name = text(&object, "/metadata/name");
        match key.value().split('\0').next() {
            Some("unifiedpools") => drop(picture.pools.insert(name, pool(&object))),
            Some("unifiedvolumes") => drop(picture.volumes.insert(name, volume(&object))),
            _ => {}
        }
    }
    Ok(())
}
