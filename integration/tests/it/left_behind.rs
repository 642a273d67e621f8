//! What stays behind: on a drive that is away, and of storage that its owner keeps.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::DeleteParams, core::DynamicObject};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use smart_storage_integration::{
    Cluster, Component, LoopDrive, MIB, Setup, checker, drives::run, eventually, needs::INSTANCE, skipped,
};

use crate::reading::{POOL, complaints, list, noise, number, text, whole_pool};

const PATIENCE: Duration = Duration::from_secs(90);

async fn ask(cluster: &Cluster, name: &str, policy: &str) -> Result<String> {
    let request = json!({
        "name": name, "storage_type": "file", "capacity_bytes": 4 * MIB, "reclaim_policy": policy,
    });
    let made = cluster.rest()?.post("/v1/storage", &request).await?;
    let id = text(&made, "/id")?.to_owned();
    cluster.phase(&id, "Ready", PATIENCE).await?;
    Ok(id)
}

/// Whether REST and the API know nothing of it any more.
async fn is_gone(cluster: &Cluster, id: &str) -> Result<Option<()>> {
    let rest = cluster.rest()?;
    let (status, answer) = rest.call(Method::GET, &format!("/v1/storage/{id}"), None).await?;
    ensure!(status == StatusCode::NOT_FOUND, "{status}: {answer}");
    let volumes = cluster.object("unifiedvolumes").await?;
    let there = list(&volumes, "/items")
        .iter()
        .any(|volume| text(volume, "/metadata/name").is_ok_and(|name| name == id));
    Ok((!there).then_some(()))
}

/// The member on a drive.
async fn member_on(cluster: &Cluster, drive: &LoopDrive) -> Result<String> {
    let shown = cluster
        .drive(&drive.device)
        .await?
        .context("the drive is not shown")?;
    Ok(format!("pm-{}", text(&shown, "/id")?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_drive_holds_back_what_it_may_hold_and_nothing_else() -> Result<()> {
    if skipped("left behind: drive", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("left_behind_drive", Setup::DEMO).await?;
    let old = ask(&cluster, "old", "Delete").await?;
    let before = whole_pool(&cluster, PATIENCE).await?;
    let file = cluster.state().join("drives/demo-3.img");
    let drive = LoopDrive::find(&file)?.context("demo-3 is attached")?;
    let member = member_on(&cluster, &drive).await?;
    let path = format!("poolmembers/{member}");
    let bytes = number(&cluster.object(&path).await?, "/spec/slots")? * number(&before, "/status/slotBytes")?;

    let mut agent = Component::take_over(&cluster, "agent").await?;
    agent.kill()?;
    let program = cluster.state().join("bin/smart-storage-agent");
    run(Command::new(program)
        .args(["stop-members", "--data-dir"])
        .arg(cluster.state().join("agent")))?;
    drive.detach()?;
    agent.start()?;
    agent.ready(PATIENCE).await?;
    let all = number(&before, "/status/totalCapacityBytes")?;
    // Nothing is promised on what is not there; the other members, stopped with it, are up again.
    let gone = eventually(
        PATIENCE,
        "member, pool and volume say that the drive is away",
        || async {
            let member = cluster.object(&path).await?;
            ensure!(text(&member, "/status/phase")? == "Missing", "{member}");
            let pool = cluster.object(POOL).await?;
            ensure!(text(&pool, "/status/phase")? == "Degraded", "{pool}");
            let (total, offline) = (
                number(&pool, "/status/totalCapacityBytes")?,
                number(&pool, "/status/offlineCapacityBytes")?,
            );
            ensure!(
                (total, offline) == (all - bytes, bytes),
                "{total} and {offline} of {all}"
            );
            let volume = cluster.object(&format!("unifiedvolumes/{old}")).await?;
            ensure!(text(&volume, "/status/phase")? == "Degraded", "{volume}");
            Ok(Some(member))
        },
    )
    .await?;

    // Times are in whole seconds: only what is made in a later one was made afterwards for certain.
    let since = text(&gone, "/status/missingSince")?.to_owned();
    eventually(PATIENCE, "the second of the loss is over", || async {
        let now = jiff::Timestamp::now();
        Ok((now.as_second() > since.parse::<jiff::Timestamp>()?.as_second()).then_some(()))
    })
    .await?;
    let new = eventually(PATIENCE, "another claim is served meanwhile", || async {
        let id = ask(&cluster, "new", "Delete").await?;
        Ok(Some(id))
    })
    .await?;
    let made = cluster.object(&format!("unifiedvolumes/{new}")).await?;
    ensure!(
        text(&made, "/metadata/creationTimestamp")? > since.as_str(),
        "{made} after {since}"
    );

    let rest = cluster.rest()?;
    rest.delete(&format!("/v1/storage/{old}")).await?;
    rest.delete(&format!("/v1/storage/{new}")).await?;
    eventually(PATIENCE, "what was made after the loss is deleted", || {
        is_gone(&cluster, &new)
    })
    .await?;
    let waiting = eventually(PATIENCE, "what was there before waits for the drive", || async {
        let volume = cluster.object(&format!("unifiedvolumes/{old}")).await?;
        let said = complaints(&volume);
        ensure!(said.contains("MemberAway") && said.contains(&member), "{said}");
        Ok(Some(volume))
    })
    .await?;
    ensure!(text(&waiting, "/status/phase")? == "Deleting", "{waiting}");
    // What may still be there is no room for others: only what was seen deleted is given back.
    let promise = number(&before, "/status/promisedBytes")?;
    eventually(PATIENCE, "its bytes stay promised while it waits", || async {
        let promised = number(&cluster.object(POOL).await?, "/status/promisedBytes")?;
        ensure!(
            promised == promise,
            "{promised} is promised, {promise} was before"
        );
        Ok(Some(()))
    })
    .await?;

    cluster.attach("demo-3", 0)?;
    eventually(PATIENCE, "the drive is back, and the rest is deleted", || {
        is_gone(&cluster, &old)
    })
    .await?;
    checker::converged(&cluster, PATIENCE).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_counted_and_told_and_nobody_else_has_it() -> Result<()> {
    if skipped("left behind: retained", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("left_behind_retained", Setup::DEMO).await?;
    let before = whole_pool(&cluster, PATIENCE).await?;
    let id = ask(&cluster, "kept", "Retain").await?;
    let (s3, bytes) = (cluster.s3(&id).await?, noise(1, 1 << 20));
    ensure!(
        s3.put("data/kept.bin", bytes.clone()).await?.is_success(),
        "it is written"
    );
    cluster.rest()?.delete(&format!("/v1/storage/{id}")).await?;
    let path = format!("unifiedvolumes/{id}");
    eventually(PATIENCE, "the volume is released", || async {
        let volume = cluster.object(&path).await?;
        ensure!(text(&volume, "/status/phase")? == "Released", "{volume}");
        Ok(Some(()))
    })
    .await?;

    let client = cluster.kube().await?;
    let group = kube::core::GroupVersionKind::gvk("storage.billyronks.io", "v1", "UnifiedVolume");
    let volumes = Api::<DynamicObject>::all_with(client.clone(), &kube::core::ApiResource::from_gvk(&group));
    volumes.delete(&id, &DeleteParams::default()).await?;
    let pool = eventually(
        PATIENCE,
        "the volume is forgotten, and what is left is told",
        || async {
            ensure!(volumes.get_opt(&id).await?.is_none(), "it is still there");
            let pool = cluster.object(POOL).await?;
            ensure!(text(&pool, "/status/orphans/items/0/name")? == id, "{pool}");
            let (promised, was) = (
                number(&pool, "/status/promisedBytes")?,
                number(&before, "/status/promisedBytes")?,
            );
            ensure!(promised == was, "{promised} is promised, {was} was");
            Ok(Some(pool))
        },
    )
    .await?;
    ensure!(
        text(&pool, "/status/orphans/items/0/kind")? == "Retained",
        "{pool}"
    );
    ensure!(number(&pool, "/status/orphans/count")? == 1, "{pool}");
    let retained = number(&pool, "/status/retainedBytes")?;
    ensure!(
        retained > 0 && retained.is_multiple_of(number(&pool, "/status/slotBytes")?),
        "{pool}"
    );
    let free = |pool: &Value| number(pool, "/status/availableCapacityBytes");
    ensure!(
        free(&pool)? + retained == free(&before)?,
        "what is kept cannot be promised: {pool}"
    );

    // The data is there, and no key opens it.
    let (status, _) = s3.get("data/kept.bin").await?;
    ensure!(status == StatusCode::FORBIDDEN, "its keys are revoked: {status}");
    let secrets = Api::<Secret>::namespaced(client, "default");
    ensure!(secrets.get_opt(&id).await?.is_none(), "its Secret is gone");
    let stored = format!("/buckets/{id}/data/kept.bin");
    ensure!(cluster.filer()?.get(&stored).await? == bytes, "its data is kept");

    // Another claim that asks for its name neither has it nor takes it away.
    let thief = json!({
        "apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedStorageClaim",
        "metadata": {"name": "thief", "namespace": "default"},
        "spec": {"storageType": "file", "capacity": "4Mi", "volumeName": id},
    });
    let file = cluster.state().join("thief.json");
    std::fs::write(&file, thief.to_string())?;
    cluster.kubectl([std::ffi::OsStr::new("apply"), "-f".as_ref(), file.as_os_str()])?;
    let claim = "namespaces/default/unifiedstorageclaims/thief";
    eventually(PATIENCE, "the thief is refused", || async {
        let thief = cluster.object(claim).await?;
        ensure!(text(&thief, "/status/phase")? == "Failed", "{thief}");
        let said = complaints(&thief);
        ensure!(
            said.contains("another claim") && !said.contains("default/kept"),
            "{said}"
        );
        Ok(Some(()))
    })
    .await?;
    let (status, answer) = cluster
        .rest()?
        .call(Method::POST, &format!("/v1/storage/{id}/credentials"), None)
        .await?;
    ensure!(
        status.is_client_error(),
        "the thief asks for keys: {status}: {answer}"
    );
    ensure!(secrets.get_opt(&id).await?.is_none(), "the thief has no Secret");
    let (status, _) = s3.get("data/kept.bin").await?;
    ensure!(status == StatusCode::FORBIDDEN, "no key opens it: {status}");
    cluster.kubectl(["delete", "uclaim", "thief"])?;
    eventually(PATIENCE, "the thief is gone", || is_gone(&cluster, &id)).await?;
    ensure!(cluster.filer()?.get(&stored).await? == bytes, "its data is kept");
    Ok(())
}
