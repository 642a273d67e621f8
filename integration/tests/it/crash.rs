//! Every process is killed in turn while requests come in.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use smart_storage_integration::{
    Cluster, MIB, Rest, Setup, checker, cluster::kill9, eventually, needs::INSTANCE, skipped,
};

use crate::reading::{list, text};

const CLAIMS: usize = 60;
const VICTIMS: [&str; 6] = [
    "controller",
    "agent",
    "weed-filer",
    "weed-master",
    "weed-s3",
    "weed-volume-meta",
];

/// Asks for every claim until it is acknowledged, and answers the ids in the order of asking.
async fn ask_for_all(rest: Rest) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for index in 0..CLAIMS {
        let ask = json!({
            "name": format!("crash-{index}"), "storage_type": "file", "capacity_bytes": 4 * MIB,
        });
        let mut tries = 0;
        let claim = loop {
            match rest.post("/v1/storage", &ask).await {
                Ok(claim) => break claim,
                Err(error) if tries < 300 => {
                    tries += 1;
                    // Not acknowledged: the same request again, as any client would.
                    drop(error);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error).with_context(|| format!("claim {index}")),
            }
        };
        ids.push(text(&claim, "/id")?.to_owned());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_claim_becomes_ready_once_whatever_dies() -> Result<()> {
    if skipped("crash", &INSTANCE)? {
        return Ok(());
    }
    let mut cluster = Cluster::start("crash", Setup::DEMO).await?;
    let demo = cluster
        .object("namespaces/default/unifiedstorageclaims/demo")
        .await?;
    let demo = text(&demo, "/status/volumeName")?.to_owned();
    let asking = tokio::spawn(ask_for_all(cluster.rest()?));

    for victim in VICTIMS {
        cluster.kill9(victim).await?;
        println!("  killed {victim}");
        cluster
            .up()
            .await
            .with_context(|| format!("after the death of {victim}"))?;
    }
    for victim in cluster.member_pids()? {
        kill9(victim).await?;
        println!("  killed a member ({victim})");
        eventually(Duration::from_secs(60), "its agent starts it again", || async {
            let now = cluster.member_pids()?;
            Ok((now.len() == 3 && !now.contains(&victim)).then_some(()))
        })
        .await?;
    }

    let ids = asking.await??;
    let asked: BTreeSet<_> = ids.iter().cloned().collect();
    ensure!(asked.len() == CLAIMS, "every claim has an id of its own");
    let rest = cluster.rest()?;
    eventually(
        Duration::from_secs(120),
        "every acknowledged claim is Ready",
        || async {
            for id in &asked {
                let claim = rest.get(&format!("/v1/storage/{id}")).await?;
                ensure!(text(&claim, "/phase")? == "Ready", "{claim}");
            }
            Ok(Some(()))
        },
    )
    .await?;
    let mut expected = asked.clone();
    expected.insert(demo);
    let found: BTreeSet<_> = cluster
        .filer()?
        .list("/buckets")
        .await?
        .into_iter()
        .filter(|name| name.starts_with("uv-"))
        .collect();
    ensure!(found == expected, "the filer holds exactly those: {found:?}");
    let volumes = cluster.object("unifiedvolumes").await?;
    ensure!(
        list(&volumes, "/items").len() == CLAIMS + 1,
        "one volume for each claim"
    );

    for id in &ids {
        rest.delete(&format!("/v1/storage/{id}")).await?;
    }
    eventually(Duration::from_secs(120), "all of them are deleted", || async {
        let left = cluster.filer()?.list("/buckets").await?;
        let left: Vec<_> = left.into_iter().filter(|name| asked.contains(name)).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
    .await?;
    checker::converged(&cluster, Duration::from_secs(120)).await?;
    Ok(())
}
