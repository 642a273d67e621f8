//! A drive that comes and goes.

use std::time::Duration;

use anyhow::{Result, ensure};
use smart_storage_integration::{Cluster, GIB, Setup, needs::INSTANCE, skipped, within};

use crate::reading::text;

const ONE_SECOND: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_drive_is_seen_within_a_second_and_gone_when_it_is_pulled() -> Result<()> {
    if skipped("hotplug", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("hotplug", Setup::DEMO).await?;
    // The kernel's event is sent while losetup still runs: its end is the latest moment to count from.
    let fourth = cluster.attach("fourth", 2 * GIB)?;
    let (drive, _) = within(ONE_SECOND, PAUSE, "attach to GET /v1/nodes", || {
        cluster.drive(&fourth.device)
    })
    .await?;
    ensure!(
        text(&drive, "/use/state")? == "Free",
        "the pool has its three drives: {drive}"
    );
    let id = text(&drive, "/id")?.to_owned();

    fourth.detach()?;
    within(ONE_SECOND, PAUSE, "detach to GET /v1/nodes", || async {
        Ok(cluster.drive(&fourth.device).await?.is_none().then_some(()))
    })
    .await?;

    let again = cluster.attach("fourth", 2 * GIB)?;
    let (drive, _) = within(ONE_SECOND, PAUSE, "attached again", || {
        cluster.drive(&again.device)
    })
    .await?;
    ensure!(
        text(&drive, "/id")? == id,
        "the same drive has the same id: {drive}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_device_that_is_not_ours_is_no_drive() -> Result<()> {
    if skipped("hotplug: foreign", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("foreign", Setup::BARE).await?;
    let elsewhere = tempfile::tempdir()?;
    let foreign = smart_storage_integration::LoopDrive::attach(elsewhere.path(), "foreign", GIB)?;
    let ours = cluster.attach("ours", GIB);
    let seen = async {
        within(ONE_SECOND, PAUSE, "our own is seen", || async {
            cluster
                .drive(&ours.as_ref().ok().map(|o| o.device.clone()).unwrap_or_default())
                .await
        })
        .await?;
        anyhow::Ok(cluster.drive(&foreign.device).await?)
    }
    .await;
    foreign.detach()?;
    ensure!(seen?.is_none(), "a loop device outside the folder is no drive");
    Ok(())
}
