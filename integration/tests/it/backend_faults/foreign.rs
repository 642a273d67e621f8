//! Things of others in the same SeaweedFS: a bucket with its key, a folder with a rule and a collection, and a folder
//! that is named as ours are. Whatever happens, they stay as they are.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use smart_storage_integration::Cluster;

/// Things of others, made by hand beside ours.
pub async fn make(cluster: &Cluster) -> Result<()> {
    let filer = cluster.filer()?;
    cluster.weed_shell("s3.bucket.create -name somebody-else")?;
    cluster.weed_shell("s3.configure -user stranger -access_key STRANGER -secret_key hush -buckets somebody-else -actions Read,Write -apply")?;
    cluster
        .weed_shell("fs.configure -locationPrefix=/theirs/ -collection=theirs -volumeGrowthCount=1 -apply")?;
    for path in [
        "/buckets/somebody-else/kept",
        "/theirs/kept",
        // Looks like one of ours, and carries no mark.
        "/buckets/uv-00000000-0000-4000-8000-000000000000/data/kept",
    ] {
        let status = filer.put(path, path.as_bytes().to_vec()).await?;
        ensure!(status.is_success(), "{path}: {status}");
    }
    Ok(())
}

/// What is there of them.
pub async fn picture(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let filer = cluster.filer()?;
    let mut seen = BTreeMap::new();
    for path in [
        "/buckets/somebody-else/kept",
        "/theirs/kept",
        "/buckets/uv-00000000-0000-4000-8000-000000000000/data/kept",
        "/etc/iam/identities/stranger.json",
    ] {
        seen.insert(path.to_owned(), String::from_utf8(filer.get(path).await?)?);
    }
    let lines = |said: String, wanted: &str| -> String {
        said.lines()
            .filter(|line| line.contains(wanted))
            .map(str::trim)
            .collect::<Vec<_>>()
            .join("; ")
    };
    seen.insert(
        "rule".to_owned(),
        lines(cluster.weed_shell("fs.configure")?, "theirs"),
    );
    let collections = cluster.weed_shell("collection.list")?;
    ensure!(
        collections.contains("\"theirs\""),
        "their collection is gone: {collections}"
    );
    Ok(seen)
}
