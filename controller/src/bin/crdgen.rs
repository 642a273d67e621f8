//! Writes the CRDs, one file a kind, into the folder named by the first argument (default `deploy/crds`).

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, ensure};
use smart_storage_controller::crd;

fn main() -> anyhow::Result<()> {
    let folder = env::args().nth(1).unwrap_or_else(|| "deploy/crds".to_owned());
    ensure!(
        !folder.starts_with('-'),
        "usage: crdgen [FOLDER]; {folder} is none"
    );
    let folder = PathBuf::from(folder);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for crd in crd::all() {
        let path = folder.join(format!("{}.yaml", crd.spec.names.plural));
        fs::write(&path, crd::yaml(&crd)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
