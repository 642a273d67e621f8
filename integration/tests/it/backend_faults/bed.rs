//! A pool whose SeaweedFS is reached through proxies, claims on it, and what they say.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use smart_storage_integration::{
    Cluster, MIB, eventually,
    proxy::{Fault, Proxy},
};

use crate::reading::{list, text};

/// The pool looks at its backend every fifteen seconds, and gives each part three to answer.
pub const SAID_WITHIN: Duration = Duration::from_secs(60);
/// The longest pause between two tries is a minute and a fifth.
pub const WELL_WITHIN: Duration = Duration::from_secs(120);
pub const POOL: &str = "unifiedpools/files";

/// The three doors of SeaweedFS with a proxy in front of each.
pub struct Doors {
    pub master: Proxy,
    pub filer: Proxy,
    pub s3: Proxy,
}

impl Doors {
    pub async fn of(cluster: &Cluster) -> Result<Self> {
        let core = cluster.security()?.join("core");
        let at = |name: &str| -> Result<String> { Ok(format!("127.0.0.1:{}", cluster.port(name)?)) };
        Ok(Self {
            master: Proxy::start(at("weed-master-grpc")?, Some(&core)).await?,
            filer: Proxy::start(at("weed-filer-grpc")?, Some(&core)).await?,
            s3: Proxy::start(at("weed-s3")?, None).await?,
        })
    }

    pub fn spoil(&self, fault: Fault) {
        for door in [&self.master, &self.filer, &self.s3] {
            door.spoil(fault);
        }
    }

    /// Waits until the operator has asked every part twice since now: whatever it says then is of this fault.
    pub async fn is_met(&self) -> Result<()> {
        let counts = || [&self.master, &self.filer, &self.s3].map(|door| door.count(is_health));
        let before = counts();
        eventually(SAID_WITHIN, "every part was asked again", || async {
            let met = counts()
                .into_iter()
                .zip(before)
                .all(|(now, before)| now >= before + 2);
            Ok(met.then_some(()))
        })
        .await
    }

    pub fn config(&self, cluster: &Cluster) -> Result<Value> {
        let address = |name: &str, proxy: &Proxy| -> Result<String> {
            Ok(format!("127.0.0.1:{}.{}", cluster.port(name)?, proxy.port()))
        };
        Ok(json!({
            "master": address("weed-master", &self.master)?,
            "filer": address("weed-filer", &self.filer)?,
            "s3": format!("http://127.0.0.1:{}", self.s3.port()),
        }))
    }
}

/// The calls by which the operator asks whether a part serves.
pub fn is_health(path: &str) -> bool {
    ["GetMasterConfiguration", "GetFilerConfiguration", "/healthz"]
        .iter()
        .any(|end| path.ends_with(end))
}

async fn create(cluster: &Cluster, plural: &str, object: &Value) -> Result<()> {
    let path = format!("/apis/storage.billyronks.io/v1/{plural}");
    let request = http::Request::post(path)
        .header("Content-Type", "application/json")
        .body(serde_json::to_vec(object)?)?;
    cluster.kube().await?.request::<Value>(request).await?;
    Ok(())
}

/// A pool of the three demo drives and a class for it.
pub async fn pool(cluster: &Cluster, config: &Value) -> Result<()> {
    let group = "storage.billyronks.io/v1";
    let class = json!({"apiVersion": group, "kind": "UnifiedStorageClass", "metadata": {"name": "files"},
        "spec": {"storageType": "file", "tier": "auto", "backend": "seaweedfs", "reclaimPolicy": "Delete", "isDefault": true}});
    create(cluster, "unifiedstorageclasses", &class).await?;
    let pool = json!({"apiVersion": group, "kind": "UnifiedPool", "metadata": {"name": "files"},
        "spec": {"poolType": "file", "backend": {"type": "seaweedfs", "config": config},
            "driveSelector": {"driveTypes": ["unknown"], "matchLabels": {"storage.billyronks.io/transport": "loop"}},
            "capacity": {"minDrives": 1, "maxDrives": 3}}});
    create(cluster, "unifiedpools", &pool).await?;
    eventually(Duration::from_secs(60), "the pool has its drives", || async {
        let pool = cluster.object(POOL).await?;
        ensure!(pool.pointer("/status/driveCount") == Some(&json!(3)), "{pool}");
        ready(&pool)
    })
    .await
}

pub fn ready(object: &Value) -> Result<Option<()>> {
    let ready = condition(object, "Ready").context("no condition Ready")?;
    ensure!(text(ready, "/status")? == "True", "{ready}");
    Ok(Some(()))
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = list(object, "/status/conditions")
        .iter()
        .chain(list(object, "/conditions"));
    conditions
        .into_iter()
        .find(|condition| text(condition, "/type").is_ok_and(|found| found == kind))
}

/// Asks for a claim; acknowledged means nothing more than that here.
pub async fn ask(cluster: &Cluster, name: &str) -> Result<String> {
    let ask = json!({"name": name, "storage_type": "file", "capacity_bytes": 8 * MIB});
    let claim = cluster.rest()?.post("/v1/storage", &ask).await?;
    Ok(text(&claim, "/id")?.to_owned())
}

pub async fn gone(cluster: &Cluster, id: &str) -> Result<()> {
    let (rest, path) = (cluster.rest()?, format!("/v1/storage/{id}"));
    eventually(WELL_WITHIN, &format!("{id} is gone"), || async {
        let (status, claim) = rest.call(Method::GET, &path, None).await?;
        ensure!(status == StatusCode::NOT_FOUND, "{claim}");
        let buckets = cluster.filer()?.list("/buckets").await?;
        ensure!(!buckets.contains(&id.to_owned()), "its bucket is there");
        Ok(Some(()))
    })
    .await
}
