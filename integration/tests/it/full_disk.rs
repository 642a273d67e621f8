//! The disk under the controller's store is full: what it says, what goes on, and that nothing has to be restarted.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use http::Method;
use reqwest::StatusCode;
use serde_json::{Value, json};
use smart_storage_integration::{
    Need, Rest, SmallDisk, Solo,
    conformance::{Ask, Place, Server},
    eventually, skipped,
};

use crate::reading::{list, text};

const MIB: u64 = 12;

async fn claim(rest: &Rest, name: &str) -> Result<(StatusCode, Value)> {
    let ask = json!({"name": name, "storage_type": "file", "capacity_bytes": 1 << 20});
    rest.call(Method::POST, "/v1/storage", Some(&ask)).await
}

/// Secrets that become smaller and smaller, until not even a small one finds room.
async fn exhaust(place: &Place) -> Result<Vec<String>> {
    let mut written = Vec::new();
    for kibibytes in [256, 32, 4, 1] {
        for number in 0.. {
            ensure!(number < 500, "{kibibytes} KiB still find room");
            let name = format!("filler-{kibibytes}-{number}");
            let body = json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
                "stringData": {"filling": "x".repeat(kibibytes << 10)},
            });
            let ask = Ask::new(Method::POST, place.secrets()).body("application/json", body.to_string());
            let answer = place.ask(ask).await?;
            if answer.code == 201 {
                written.push(name);
                continue;
            }
            let status = answer.refused(507, "InsufficientStorage")?;
            let message = text(&status, "/message")?;
            ensure!(
                message.contains("is full") && message.contains("Make room"),
                "{message}"
            );
            break;
        }
    }
    Ok(written)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_in_clear_words_and_heals_without_a_restart() -> Result<()> {
    if skipped("full disk", &[Need::Root])? {
        return Ok(());
    }
    let logs = tempfile::tempdir()?;
    let disk = SmallDisk::of(MIB)?;
    let mut solo = Solo::start(disk.path(), &logs.path().join("controller.log")).await?;
    let outcome = fill_and_free(&disk, &mut solo).await;
    if outcome.is_err() {
        let log = std::fs::read_to_string(logs.path().join("controller.log")).unwrap_or_default();
        println!("{log}");
    }
    drop(solo);
    outcome
}

async fn fill_and_free(disk: &SmallDisk, solo: &mut Solo) -> Result<()> {
    const WRITABLE: &str = "smart_storage_store_writable";
    let rest = solo.rest()?;
    let server = Server {
        client: solo.kube().await?,
        forget: None,
    };
    ensure!(solo.metric(WRITABLE).await? == "1");
    let (status, before) = claim(&rest, "before").await?;
    ensure!(status == StatusCode::CREATED, "{before}");
    let place = Place::make(&server).await?;

    disk.fill()?;
    let written = exhaust(&place).await?;
    println!("  {} secrets found room on the full disk", written.len());
    let mut acknowledged = vec!["before".to_owned()];
    // What a last free page still takes is acknowledged, and counts.
    let problem = loop {
        let name = format!("late-{}", acknowledged.len());
        let (status, answer) = claim(&rest, &name).await?;
        match status {
            StatusCode::CREATED => acknowledged.push(name),
            StatusCode::SERVICE_UNAVAILABLE => break answer,
            other => bail!("{other}: {answer}"),
        }
        ensure!(acknowledged.len() < 500, "claims still find room");
    };
    ensure!(problem.to_string().contains("is full"), "{problem}");
    eventually(Duration::from_secs(30), "readyz says why", || async {
        claim(&rest, "never").await?;
        let (code, text) = solo.readiness().await?;
        ensure!(
            code == 503 && text.contains("store") && text.contains("full"),
            "{code}: {text}"
        );
        ensure!(solo.metric(WRITABLE).await? == "0");
        Ok(Some(()))
    })
    .await?;
    let all = rest.get("/v1/storage").await?;
    ensure!(!list(&all, "/items").is_empty(), "reading goes on: {all}");
    place.get(&place.secrets()).await?.is(200)?;

    disk.free()?;
    eventually(Duration::from_secs(30), "writes work again", || async {
        let (status, answer) = claim(&rest, "after").await?;
        ensure!(status.is_success(), "{status}: {answer}");
        Ok(Some(()))
    })
    .await?;
    solo.ready().await?;
    ensure!(solo.metric(WRITABLE).await? == "1");
    acknowledged.push("after".to_owned());
    converged(&rest, &acknowledged).await?;
    let secrets = place.get(&place.secrets()).await?.is(200)?;
    let there: Vec<&str> = list(&secrets, "/items")
        .iter()
        .filter_map(|item| text(item, "/metadata/name").ok())
        .collect();
    ensure!(
        written.iter().all(|name| there.contains(&name.as_str())),
        "{written:?} and not {there:?}"
    );

    // Full once more, and killed there: what was acknowledged is there when it starts again.
    disk.fill()?;
    exhaust(&place).await?;
    solo.kill9()?;
    disk.free()?;
    solo.again()?;
    solo.ready().await?;
    converged(&solo.rest()?, &acknowledged).await
}

/// Every claim is there, and the reconcilers have said why it waits.
async fn converged(rest: &Rest, names: &[String]) -> Result<()> {
    eventually(Duration::from_secs(90), "every claim was looked at", || async {
        for name in names {
            let found = rest.get("/v1/storage?limit=500").await?;
            let claim = list(&found, "/items")
                .iter()
                .find(|claim| text(claim, "/name").is_ok_and(|known| known == name));
            let Some(claim) = claim else {
                bail!("{name} is lost: {found}")
            };
            ensure!(
                text(claim, "/phase")? == "Pending" && !list(claim, "/conditions").is_empty(),
                "{claim}"
            );
        }
        Ok(Some(()))
    })
    .await
}
