//! The request of the first README, on a machine that cannot hold it.

use std::time::Duration;

use anyhow::{Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use smart_storage_integration::{Cluster, Setup, eventually, needs::INSTANCE, skipped};

use crate::reading::{complaints, list, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_gibibytes_of_hot_block_storage_wait_and_say_why_drive_by_drive() -> Result<()> {
    if skipped("first_request", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("first_request", Setup::DEMO).await?;
    let rest = cluster.rest()?;
    let ask = json!({
        "name": "my-volume", "storage_type": "block", "capacity_bytes": 107_374_182_400_u64, "tier": "hot",
    });

    let (status, dry) = rest
        .call(Method::POST, "/v1/storage?dry_run=true", Some(&ask))
        .await?;
    ensure!(status == StatusCode::OK, "{status} {dry}");
    ensure!(dry.get("placed") == Some(&Value::Bool(false)), "{dry}");
    ensure!(!list(&dry, "/reasons").is_empty(), "{dry}");
    let listed = rest.get("/v1/storage").await?;
    ensure!(
        !listed.to_string().contains("my-volume"),
        "a dry run makes nothing: {listed}"
    );

    let (status, claim) = rest.call(Method::POST, "/v1/storage", Some(&ask)).await?;
    ensure!(status == StatusCode::CREATED, "{status} {claim}");
    let path = format!("/v1/storage/{}", text(&claim, "/id")?);
    let drives = cluster.drives().await?;
    eventually(
        Duration::from_secs(10),
        "Pending with a reason for every drive",
        || async {
            let claim = rest.get(&path).await?;
            ensure!(text(&claim, "/phase")? == "Pending", "{claim}");
            let said = complaints(&claim);
            for drive in &drives {
                let (id, device) = (text(drive, "/id")?, text(drive, "/device")?);
                ensure!(
                    said.contains(id) || said.contains(device),
                    "nothing about {device} in: {said}"
                );
            }
            Ok(Some(()))
        },
    )
    .await?;

    let (status, again) = rest.call(Method::POST, "/v1/storage", Some(&ask)).await?;
    ensure!(
        status == StatusCode::OK,
        "the same request again is the same claim: {status} {again}"
    );
    ensure!(text(&again, "/id")? == text(&claim, "/id")?, "{again}");

    rest.delete(&path).await?;
    eventually(Duration::from_secs(10), "deleted", || async {
        let (status, _) = rest.call(Method::GET, &path, None).await?;
        Ok((status == StatusCode::NOT_FOUND).then_some(()))
    })
    .await?;
    Ok(())
}
