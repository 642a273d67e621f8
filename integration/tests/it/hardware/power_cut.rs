//! The power fails at a step of preparing or releasing a drive: afterwards the drive is untouched, or a member, or
//! marked and half prepared and finished on retry; never something that nobody knows.

use std::{
    env,
    fs::File,
    io::Read as _,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use smart_storage_integration::{
    Disk, GIB, Guest, Kernel, checker::mark_on, guest::Spindle, needs::GUEST, quietly, skipped,
};

use super::bed::Bed;
use crate::reading::{list, text};

const NODE: &str = "dark";
const PATIENCE: Duration = Duration::from_secs(120);
const FIRST_WWN: u64 = 0x5000_c500_6666_0000;
/// The armed points read this file.
const FAULT: &str = "/run/fault";

/// What a step may leave on the drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    OurMark,
    Released,
}

/// Steps after which something is on the drive that was not there before, and the one before the first write. A cut
/// costs half a minute of emulation: `SMART_STORAGE_POWER_CUTS=all` has those between them as well.
const STEPS: [(&str, Left); 9] = [
    ("member-spec-written", Left::Nothing),
    ("member-mark-backup-written", Left::OurMark),
    ("member-mark-written", Left::OurMark),
    ("member-partition-added", Left::OurMark),
    ("member-formatted", Left::OurMark),
    ("member-identity-written", Left::OurMark),
    ("member-releasing-recorded", Left::OurMark),
    ("member-release-backup-written", Left::Released),
    ("member-release-written", Left::Released),
];

const MORE: [(&str, Left); 10] = [
    ("member-looked", Left::Nothing),
    ("member-opened", Left::Nothing),
    ("member-proven", Left::Nothing),
    ("member-mark-checked", Left::OurMark),
    ("member-formatting-recorded", Left::OurMark),
    ("member-mount-point-made", Left::OurMark),
    ("member-mounted", Left::OurMark),
    ("member-finished", Left::OurMark),
    ("member-unmounted", Left::OurMark),
    ("member-mount-point-removed", Left::Released),
];

fn steps() -> Vec<(&'static str, Left)> {
    let all = env::var("SMART_STORAGE_POWER_CUTS").is_ok_and(|which| which == "all");
    STEPS
        .into_iter()
        .chain(MORE.into_iter().filter(|_| all))
        .collect()
}

fn is_release(step: &str) -> bool {
    step.contains("releas") || ["member-unmounted", "member-mount-point-removed"].contains(&step)
}

/// A drive with a name and a pool of its own for each step.
struct Drive {
    disk: Disk,
    serial: String,
    wwn: u64,
    pool: String,
}

impl Drive {
    fn new(bed: &Bed, number: usize) -> Result<Self> {
        let name = format!("d{number}");
        Ok(Self {
            disk: Disk::blank(bed.path(), &name, GIB)?,
            serial: format!("DARK-{number}"),
            wwn: FIRST_WWN + 8 * u64::try_from(number)?,
            pool: format!("dark-{number}"),
        })
    }

    /// Nothing but zeros.
    fn is_blank(&self) -> Result<bool> {
        let (mut file, mut part) = (File::open(&self.disk.file)?, vec![0; 1 << 20]);
        loop {
            let count = file.read(&mut part)?;
            if count == 0 {
                return Ok(true);
            }
            if part.iter().take(count).any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
    }

    fn left(&self) -> Result<Left> {
        Ok(match mark_on(&self.disk.file)? {
            Some(mark) if mark.going => Left::Released,
            Some(_) => Left::OurMark,
            None if self.is_blank()? => Left::Nothing,
            None => bail!("{} has something on it, and not our mark", self.serial),
        })
    }
}

/// A machine with one drive, whose agent dies with the power where it is armed.
async fn switched_on(bed: &Bed, drive: &Drive) -> Result<Guest> {
    let mut machine = bed.node(NODE, Kernel::Linux6_1)?;
    machine.virtio_scsi(
        &drive.disk,
        Some(&drive.serial),
        Some(drive.wwn),
        Spindle::Rpm(7200),
    );
    let mut guest = Guest::boot(&machine, bed.path())?;
    // The kernel calls this for a process that aborts, before it takes anything from it.
    guest.sh(
        "printf '#!/bin/sh\\necho b >/proc/sysrq-trigger\\n' >/power-cut; chmod +x /power-cut; \
         echo '|/power-cut' >/proc/sys/kernel/core_pattern",
    )?;
    bed.start_agent(&mut guest, &format!("SMART_STORAGE_FAULT=@{FAULT}"), "")?;
    Ok(guest)
}

async fn make_pool(bed: &Bed, pool: &str) -> Result<()> {
    let object = json!({
        "apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedPool", "metadata": {"name": pool},
        "spec": {
            "poolType": "file", "backend": {"type": "seaweedfs"}, "driveSelector": {"driveTypes": ["hdd"]},
            "capacity": {"minDrives": 1, "maxDrives": 1},
        },
    });
    bed.create("unifiedpools", &object).await.map(drop)
}

/// The pool's members, by phase.
async fn phases(bed: &Bed, pool: &str) -> Result<Vec<String>> {
    let members = bed.cluster.object("poolmembers").await?;
    let mine = list(&members, "/items")
        .iter()
        .filter(|member| text(member, "/spec/pool").is_ok_and(|found| found == pool));
    Ok(mine
        .map(|member| text(member, "/status/phase").unwrap_or_default().to_owned())
        .collect())
}

async fn serves(bed: &Bed, guest: &mut Guest, drive: &Drive) -> Result<()> {
    let served = quietly(PATIENCE, &format!("{} serves", drive.serial), || async {
        let phases = phases(bed, &drive.pool).await?;
        ensure!(phases == ["Online"], "{phases:?}");
        Ok(Some(()))
    })
    .await;
    served.with_context(|| Bed::agent_log(guest))?;
    let mark = mark_on(&drive.disk.file)?.context("a member without a mark")?;
    ensure!(mark.whole && !mark.going, "{mark:?}");
    Ok(())
}

async fn delete_pool(bed: &Bed, pool: &str) -> Result<()> {
    let path = format!("/apis/storage.billyronks.io/v1/unifiedpools/{pool}");
    let request = http::Request::delete(path).body(Vec::new())?;
    bed.cluster.kube().await?.request::<Value>(request).await?;
    Ok(())
}

async fn is_released(bed: &Bed, guest: &mut Guest, drive: &Drive) -> Result<()> {
    let gone = quietly(PATIENCE, &format!("{} is released", drive.serial), || async {
        let path = format!("/v1/pools/{}", drive.pool);
        let (status, answer) = bed
            .cluster
            .rest()?
            .call(reqwest::Method::GET, &path, None)
            .await?;
        ensure!(status == StatusCode::NOT_FOUND, "{answer}");
        ensure!(phases(bed, &drive.pool).await?.is_empty(), "a member is left");
        let drives = bed.drives(NODE).await?;
        let mine = drives
            .iter()
            .find(|one| text(one, "/serial").is_ok_and(|serial| serial == drive.serial));
        let said = mine.context("it is not shown")?.to_string();
        ensure!(said.contains("released member"), "{said}");
        Ok(Some(()))
    })
    .await;
    gone.with_context(|| Bed::agent_log(guest))?;
    let mark = mark_on(&drive.disk.file)?.context("a released member without a mark")?;
    ensure!(mark.whole && mark.released, "{mark:?}");
    Ok(())
}

/// Waits for the dark.
fn dark(guest: &mut Guest, step: &str) -> Result<()> {
    let start = Instant::now();
    while guest.ended()?.is_none() {
        if start.elapsed() > PATIENCE {
            bail!("it never came to {step}: {}", Bed::agent_log(guest));
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

async fn cut_at(bed: &Bed, number: usize, step: &str, may_leave: Left) -> Result<()> {
    let drive = Drive::new(bed, number)?;
    let mut guest = switched_on(bed, &drive).await?;
    let arm = |guest: &mut Guest| guest.sh(&format!("echo {step} >{FAULT}"));
    if is_release(step) {
        make_pool(bed, &drive.pool).await?;
        serves(bed, &mut guest, &drive).await?;
        arm(&mut guest)?;
        delete_pool(bed, &drive.pool).await?;
    } else {
        arm(&mut guest)?;
        make_pool(bed, &drive.pool).await?;
    }
    dark(&mut guest, step)?;
    drop(guest);
    let left = drive.left()?;
    ensure!(left == may_leave, "{step} left {left:?}");

    let mut guest = switched_on(bed, &drive).await?;
    if !is_release(step) {
        serves(bed, &mut guest, &drive).await?;
        delete_pool(bed, &drive.pool).await?;
    }
    is_released(bed, &mut guest, &drive).await?;
    println!("  {step}: {left:?}, and made good");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_power_fails_at_every_step_that_writes_to_a_drive() -> Result<()> {
    if skipped("hardware: power cut", &GUEST)? {
        return Ok(());
    }
    let bed = Bed::start("dark").await?;
    for (number, (step, may_leave)) in steps().into_iter().enumerate() {
        cut_at(&bed, number, step, may_leave)
            .await
            .with_context(|| step)?;
    }
    Ok(())
}
