//! A member whose storage process hangs, dies, or finds its drive read-only: member, pool and the claims on it say so,
//! nothing is deleted, others are served by what is left, and all is well when it is back.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use smart_storage_integration::{
    Cluster, MIB, Setup, checker, cluster::kill9, drives::run, eventually, needs::INSTANCE, quietly, skipped,
};

use crate::{
    dead_filesystem::{member_with, says},
    file_claim::claim,
    reading::{complaints, list, noise, text},
};

const SAID_WITHIN: Duration = Duration::from_secs(60);
const WELL_WITHIN: Duration = Duration::from_secs(120);

/// A member, what stores it, and a claim whose bytes it holds.
struct Lost {
    name: String,
    drive: String,
    point: PathBuf,
    claim: String,
}

impl Lost {
    async fn of(cluster: &Cluster, id: &str) -> Result<Self> {
        let mounted = member_with(cluster, id)?;
        let device = mounted.partition.trim_start_matches("/dev/");
        let device = device.rsplit_once('p').map_or(device, |(whole, _)| whole);
        let drive = cluster.drive(device).await?.context("no such drive")?;
        let drive = text(&drive, "/id")?.to_owned();
        Ok(Self {
            name: format!("pm-{drive}"),
            drive,
            point: mounted.point,
            claim: id.to_owned(),
        })
    }

    fn pid(&self, cluster: &Cluster) -> Result<i32> {
        let point = self.point.display().to_string();
        for pid in cluster.member_pids()? {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&point) {
                return Ok(pid);
            }
        }
        bail!("no process serves {point}")
    }

    async fn member(&self, cluster: &Cluster) -> Result<Value> {
        cluster.object(&format!("poolmembers/{}", self.name)).await
    }

    /// Member, pool and claim say that the member failed, why, and which it is. Answers the members of its pool.
    async fn is_said(&self, cluster: &Cluster, reason: &str) -> Result<()> {
        eventually(SAID_WITHIN, &format!("{reason}: all say so"), || async {
            let member = self.member(cluster).await?;
            ensure!(text(&member, "/status/phase")? == "Failed", "{}", says(&member));
            ensure!(complaints(&member).contains(reason), "{}", says(&member));
            let claim = cluster
                .rest()?
                .get(&format!("/v1/storage/{}", self.claim))
                .await?;
            ensure!(text(&claim, "/phase")? == "Ready", "its bytes are there: {claim}");
            for object in [cluster.object("unifiedpools/demo-file").await?, claim] {
                let said = complaints(&object);
                for word in ["MemberFailed", reason, self.drive.as_str(), "bed-node"] {
                    ensure!(said.contains(word), "{word}: {said}");
                }
            }
            Ok(Some(()))
        })
        .await
    }

    async fn is_well(&self, cluster: &Cluster) -> Result<()> {
        eventually(WELL_WITHIN, "all is well again", || async {
            for object in [
                self.member(cluster).await?,
                cluster.object("unifiedpools/demo-file").await?,
                cluster
                    .rest()?
                    .get(&format!("/v1/storage/{}", self.claim))
                    .await?,
            ] {
                ensure!(complaints(&object).is_empty(), "{}", complaints(&object));
            }
            Ok(Some(()))
        })
        .await
    }

    /// Every storage file below the mount point, with its size.
    fn files(&self) -> Result<BTreeMap<PathBuf, u64>> {
        let found = run(Command::new("find")
            .arg(&self.point)
            .args(["-name", "*.dat", "-printf", "%s %p\\n"]))?;
        let files = found.lines().filter_map(|line| {
            Some((
                line.split_once(' ')?.1.into(),
                line.split_once(' ')?.0.parse().ok()?,
            ))
        });
        Ok(files.collect())
    }
}

fn remount(point: &Path, how: &str) -> Result<()> {
    run(Command::new("mount")
        .args(["-o", &format!("remount,{how}")])
        .arg(point))
    .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_volume_server_is_named_everywhere_loses_nothing_and_comes_back() -> Result<()> {
    if skipped("member_lost", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("member_lost", Setup::DEMO).await?;
    let demo = cluster
        .object("namespaces/default/unifiedstorageclaims/demo")
        .await?;
    let id = text(&demo, "/status/volumeName")?;
    let data = format!("/buckets/{id}/data");
    let filer = cluster.filer()?;
    let bytes = noise(7, 4 << 20);
    ensure!(
        filer
            .put(&format!("{data}/kept"), bytes.clone())
            .await?
            .is_success(),
        "it is written"
    );
    let lost = Lost::of(&cluster, id).await?;
    let before = lost.member(&cluster).await?;

    println!("  it hangs");
    let pid = lost.pid(&cluster)?;
    kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
    let said = lost.is_said(&cluster, "ProcessNotAnswering").await;
    // Whatever came of it, it can be taken down.
    kill(Pid::from_raw(pid), Signal::SIGCONT)?;
    said?;
    lost.is_well(&cluster).await?;

    println!("  it is dead, and its drive read-only");
    run(Command::new("sync").arg("-f").arg(&lost.point))?;
    let files = lost.files()?;
    // The agent starts it again within a moment: whoever writes keeps the file system from becoming read-only.
    quietly(SAID_WITHIN, "the file system is read-only", || async {
        if let Ok(pid) = lost.pid(&cluster) {
            kill9(pid).await?;
        }
        remount(&lost.point, "ro").context("remount")?;
        Ok(Some(()))
    })
    .await?;
    let outcome = read_only(&cluster, &lost, &files).await;
    // Whatever came of it, it can be taken down.
    remount(&lost.point, "rw")?;
    let doomed = outcome?;
    lost.is_well(&cluster).await?;
    let after = lost.member(&cluster).await?;
    for pointer in ["/metadata/uid", "/spec/memberId"] {
        ensure!(
            text(&after, pointer)? == text(&before, pointer)?,
            "the same member: {after}"
        );
    }
    eventually(WELL_WITHIN, "its bytes are read", || async {
        ensure!(filer.get(&format!("{data}/kept")).await? == bytes, "other bytes");
        Ok(Some(()))
    })
    .await?;
    eventually(WELL_WITHIN, "what was to be deleted is", || async {
        let volumes = cluster.object("unifiedvolumes").await?;
        let left = list(&volumes, "/items")
            .iter()
            .any(|volume| text(volume, "/metadata/name").is_ok_and(|name| name == doomed));
        ensure!(!left, "{doomed} is still there");
        Ok(Some(()))
    })
    .await?;
    checker::converged(&cluster, WELL_WITHIN).await?;
    Ok(())
}

/// Answers a volume whose deletion waits for the member.
async fn read_only(cluster: &Cluster, lost: &Lost, files: &BTreeMap<PathBuf, u64>) -> Result<String> {
    lost.is_said(cluster, "FileSystemReadOnly").await?;
    // The others serve.
    let other = claim(cluster, "other", 8 * MIB).await?;
    let doomed = text(&other, "/id")?.to_owned();
    // The operator cannot know that the member holds nothing of it.
    cluster.rest()?.delete(&format!("/v1/storage/{doomed}")).await?;
    eventually(SAID_WITHIN, "the deletion waits for the member", || async {
        let volume = cluster.object(&format!("unifiedvolumes/{doomed}")).await?;
        let said = complaints(&volume);
        ensure!(said.contains("MemberAway") && said.contains(&lost.name), "{said}");
        Ok(Some(()))
    })
    .await?;
    ensure!(lost.files()? == *files, "something was deleted or written");
    Ok(doomed)
}
