//! A member whose file system dies under it, and comes back.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use smart_storage_integration::{Cluster, Setup, drives::run, eventually, needs::INSTANCE, skipped};

use crate::reading::{list, noise, text};

const SAID_WITHIN: Duration = Duration::from_secs(45);

/// A mounted member: mount point and partition.
pub struct Mounted {
    pub point: PathBuf,
    pub partition: String,
}

/// The member that stores `volume`.
pub fn member_with(cluster: &Cluster, volume: &str) -> Result<Mounted> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    for point in cluster.member_mounts()? {
        if cluster.storage_files(&point, volume)?.is_empty() {
            continue;
        }
        let line = table
            .lines()
            .find(|line| line.split(' ').nth(4).is_some_and(|at| point.as_os_str() == at));
        let (_, source) = line
            .and_then(|line| line.split_once(" - "))
            .context("a mount without a source")?;
        let partition = source
            .split(' ')
            .nth(1)
            .context("a mount without a source")?
            .to_owned();
        return Ok(Mounted { point, partition });
    }
    anyhow::bail!("no member stores {volume}")
}

/// What an object says about itself: its phase, and every condition with reason and message.
pub fn says(object: &Value) -> String {
    let phase = text(object, "/status/phase").unwrap_or_default();
    let mut said = vec![phase.to_owned()];
    for condition in list(object, "/status/conditions") {
        let part = |pointer| text(condition, pointer).unwrap_or_default();
        said.push(format!(
            "{}={} {}: {}",
            part("/type"),
            part("/status"),
            part("/reason"),
            part("/message")
        ));
    }
    said.join("; ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_file_system_is_told_by_member_pool_and_claim_and_heals() -> Result<()> {
    if skipped("dead_filesystem", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("dead_filesystem", Setup::DEMO).await?;
    let claim_path = "namespaces/default/unifiedstorageclaims/demo";
    let claim = cluster.object(claim_path).await?;
    let id = text(&claim, "/status/volumeName")?.to_owned();
    let path = text(&claim, "/status/access/filer/path")?
        .trim_end_matches('/')
        .to_owned();
    let filer = cluster.filer()?;
    ensure!(
        filer
            .put(&format!("{path}/kept"), noise(7, 8 << 20))
            .await?
            .is_success()
    );

    let mounted = member_with(&cluster, &id)?;
    let device = mounted.partition.trim_start_matches("/dev/");
    let device = device.rsplit_once('p').map_or(device, |(whole, _)| whole);
    let drive = cluster
        .drive(device)
        .await?
        .with_context(|| format!("no drive {device}"))?;
    let member_path = format!("poolmembers/pm-{}", text(&drive, "/id")?);
    let paths = [member_path.as_str(), "unifiedpools/demo-file", claim_path];
    // The claim is Ready as soon as one member serves.
    let before = eventually(Duration::from_secs(60), "all is well", || async {
        let mut before = Vec::new();
        for path in paths {
            let object = cluster.object(path).await?;
            let phase = text(&object, "/status/phase")?;
            ensure!(
                matches!(phase, "Online" | "Ready"),
                "{path} says {}",
                says(&object)
            );
            before.push(object);
        }
        Ok(Some(before))
    })
    .await?;

    // What was not on the drive yet dies with it, here as in life.
    run(Command::new("sync").arg("-f").arg(&mounted.point))?;
    run(Command::new("xfs_io")
        .args(["-x", "-c", "shutdown -f"])
        .arg(&mounted.point))?;
    eventually(SAID_WITHIN, "member, pool and claim say so", || async {
        for (path, before) in paths.iter().zip(&before) {
            let now = cluster.object(path).await?;
            ensure!(says(&now) != says(before), "{path} still says {}", says(&now));
        }
        Ok(Some(()))
    })
    .await?;
    for path in paths {
        println!("  {path}: {}", says(&cluster.object(path).await?));
    }
    let member = cluster.object(&member_path).await?;
    ensure!(
        text(&member, "/status/phase")? != text(&before[0], "/status/phase")?,
        "{}",
        says(&member)
    );

    // What an administrator does; the agent may be quicker with the second half.
    let alive = || fs::read(mounted.point.join("member.json")).is_ok();
    eventually(Duration::from_secs(30), "mounted again", || async {
        if alive() {
            return Ok(Some(()));
        }
        let is_mounted = cluster.member_mounts()?.contains(&mounted.point);
        let output = if is_mounted {
            Command::new("umount").arg(&mounted.point).output()?
        } else {
            Command::new("mount")
                .arg("-onoatime")
                .arg(&mounted.partition)
                .arg(&mounted.point)
                .output()?
        };
        anyhow::bail!("{}", String::from_utf8_lossy(&output.stderr))
    })
    .await?;
    eventually(Duration::from_secs(60), "all is well again", || async {
        for (path, before) in paths.iter().zip(&before) {
            let now = cluster.object(path).await?;
            let (phase, was) = (text(&now, "/status/phase")?, text(before, "/status/phase")?);
            ensure!(phase == was, "{path} says {}", says(&now));
        }
        ensure!(
            filer.get(&format!("{path}/kept")).await? == noise(7, 8 << 20),
            "other bytes"
        );
        Ok(Some(()))
    })
    .await?;
    let after = cluster.object(&member_path).await?;
    ensure!(
        text(&after, "/spec/memberId")? == text(&before[0], "/spec/memberId")?,
        "the same member"
    );
    ensure!(
        text(&after, "/metadata/uid")? == text(&before[0], "/metadata/uid")?,
        "the same object"
    );
    ensure!(
        filer
            .put(&format!("{path}/new"), noise(8, 1 << 20))
            .await?
            .is_success(),
        "and it can be written"
    );
    Ok(())
}
