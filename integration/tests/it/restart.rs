//! What a restart of anything leaves as it was.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use smart_storage_integration::{Cluster, Setup, cluster::NODE, eventually, needs::INSTANCE, skipped};

use crate::reading::{list, noise, text};

/// Name and member id of every member.
async fn members(cluster: &Cluster) -> Result<BTreeSet<(String, String)>> {
    let all = cluster.object("poolmembers").await?;
    list(&all, "/items")
        .iter()
        .map(|member| {
            Ok((
                text(member, "/metadata/name")?.to_owned(),
                text(member, "/spec/memberId")?.to_owned(),
            ))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn members_outlive_the_agent_and_come_back_by_their_mark_after_a_reboot() -> Result<()> {
    if skipped("restart", &INSTANCE)? {
        return Ok(());
    }
    let mut cluster = Cluster::start("restart", Setup::DEMO).await?;
    let claim = cluster
        .object("namespaces/default/unifiedstorageclaims/demo")
        .await?;
    let id = text(&claim, "/status/volumeName")?.to_owned();
    let file = format!(
        "{}/kept",
        text(&claim, "/status/access/filer/path")?.trim_end_matches('/')
    );
    ensure!(cluster.filer()?.put(&file, noise(5, 4 << 20)).await?.is_success());
    let (before, mut pids) = (members(&cluster).await?, cluster.member_pids()?);
    let phase = async |cluster: &Cluster| -> Result<String> {
        let node = cluster.rest()?.get(&format!("/v1/nodes/{NODE}")).await?;
        Ok(text(&node, "/phase")?.to_owned())
    };
    let was = phase(&cluster).await?;
    ensure!(before.len() == 3 && pids.len() == 3, "{before:?} {pids:?}");

    cluster.kill9("agent").await?;
    ensure!(
        cluster.filer()?.get(&file).await? == noise(5, 4 << 20),
        "data is served without an agent"
    );
    cluster.up().await?;
    let mut now = cluster.member_pids()?;
    now.sort_unstable();
    pids.sort_unstable();
    ensure!(
        now == pids,
        "the agent took its members on again: {pids:?}, {now:?}"
    );

    cluster.kill9("controller").await?;
    ensure!(
        cluster.filer()?.get(&file).await? == noise(5, 4 << 20),
        "data is served without a controller"
    );
    cluster.up().await?;
    cluster.phase(&id, "Ready", Duration::from_secs(10)).await?;
    ensure!(
        members(&cluster).await? == before,
        "the controller remembers its members"
    );

    // As a reboot: no process, mount or loop device is left, only files.
    cluster.down().await?;
    cluster.up().await?;
    eventually(Duration::from_secs(30), "the file is there again", || async {
        Ok((cluster.filer()?.get(&file).await? == noise(5, 4 << 20)).then_some(()))
    })
    .await?;
    cluster.phase(&id, "Ready", Duration::from_secs(10)).await?;
    ensure!(members(&cluster).await? == before, "the same members");
    ensure!(phase(&cluster).await? == was, "the node is {was} again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_dies_is_started_again() -> Result<()> {
    if skipped("restart: member", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("member", Setup::DEMO).await?;
    let pids = cluster.member_pids()?;
    let Some(victim) = pids.first() else {
        anyhow::bail!("no member runs")
    };
    smart_storage_integration::cluster::kill9(*victim).await?;
    eventually(Duration::from_secs(30), "three members run again", || async {
        let now = cluster.member_pids()?;
        Ok((now.len() == 3 && !now.contains(victim)).then_some(()))
    })
    .await?;
    Ok(())
}
