//! A drive that serves a pool is pulled under load and comes back in another slot under another name; then the whole
//! machine comes back with its drives in another order and another kernel.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use smart_storage_integration::{
    Disk, GIB, Guest, Kernel, MIB,
    guest::{Spindle, scsi_disk},
    needs::GUEST,
    skipped, within,
};

use super::{
    bed::Bed,
    rig::{self, Member, Written},
};
use crate::reading::{complaints, noise, text};

const SAID_WITHIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);
const SCSI_WWN: u64 = 0x5000_c500_4444_0001;

/// Somebody writes all the time, whatever comes of it.
struct Load {
    ends: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<u64>,
}

impl Load {
    fn on(bed: &Bed, claims: Vec<String>) -> Result<Self> {
        let (filer, ends) = (bed.cluster.filer()?, Arc::new(AtomicBool::new(false)));
        let over = ends.clone();
        let task = tokio::spawn(async move {
            let (mut written, mut turn) = (0, 0_u64);
            while !over.load(Ordering::Relaxed) {
                for claim in &claims {
                    turn += 1;
                    let path = format!("/buckets/{claim}/data/load-{}", turn % 5);
                    let put = filer.put(&path, noise(turn, 100_000));
                    let answer = tokio::time::timeout(Duration::from_secs(5), put).await;
                    written += u64::from(matches!(answer, Ok(Ok(status)) if status.is_success()));
                }
            }
            written
        });
        Ok(Self { ends, task })
    }

    async fn end(self) -> Result<u64> {
        self.ends.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}

/// When a member's drive is gone there is no process, no mount, and a bare mount point that nobody can write to.
fn is_cleaned_up(guest: &mut Guest, mounts: &BTreeMap<String, String>, member: &Member) -> Result<()> {
    let point = mounts.get(&member.device).context("it was mounted")?;
    let start = Instant::now();
    guest.wait_for(&format!(
        "! grep -q ' {point} ' /proc/mounts && ! cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -q '^-dir={point}'"
    ))?;
    println!("  process and mount are gone: {:.2?}", start.elapsed());
    ensure!(start.elapsed() < SAID_WITHIN, "they took their time");
    guest.sh(&format!(
        "[ -z \"$(ls -A {point})\" ] && ! touch {point}/x 2>/dev/null && lsattr -d {point} | grep -q i"
    ))?;
    Ok(())
}

/// Device and mount point of every member.
fn mounts(guest: &mut Guest) -> Result<BTreeMap<String, String>> {
    let lines = guest.sh("grep smart-storage/agent/ /proc/mounts | cut -d ' ' -f 1,2")?;
    let pairs = lines.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs
        .map(|(partition, point)| {
            let name = partition.trim_start_matches("/dev/");
            let whole = name.trim_end_matches(|c: char| c.is_ascii_digit());
            let whole = if name.starts_with("nvme") {
                whole.trim_end_matches('p')
            } else {
                whole
            };
            (whole.to_owned(), point.to_owned())
        })
        .collect())
}

/// Member, pool and the claims on it say that the drive is away.
async fn is_said(bed: &Bed, member: &Member, claims: &[String]) -> Result<()> {
    let (_, took) = within(
        SAID_WITHIN,
        PAUSE,
        &format!("{} is missed", member.device),
        || async {
            let object = bed
                .cluster
                .object(&format!("poolmembers/{}", member.name))
                .await?;
            ensure!(text(&object, "/status/phase")? == "Missing", "{object}");
            let mut all = vec![bed.cluster.object("unifiedpools/guests").await?];
            for id in claims {
                all.push(bed.cluster.rest()?.get(&format!("/v1/storage/{id}")).await?);
            }
            for object in all {
                let said = complaints(&object);
                ensure!(
                    said.contains("MemberMissing") && said.contains(&member.drive),
                    "{said:?} of {object}"
                );
            }
            Ok(Some(()))
        },
    )
    .await?;
    ensure!(took < SAID_WITHIN);
    Ok(())
}

async fn uid(bed: &Bed, member: &Member) -> Result<String> {
    let object = bed
        .cluster
        .object(&format!("poolmembers/{}", member.name))
        .await?;
    Ok(format!(
        "{} {}",
        text(&object, "/metadata/uid")?,
        text(&object, "/spec/memberId")?
    ))
}

/// Pulls the drive with this serial while it is written to, has another drive take its name, and puts it back with
/// `plug`.
async fn pulled_and_back(
    bed: &Bed,
    guest: &mut Guest,
    serial: &str,
    disk: &Disk,
    written: &Written,
    plug: impl FnOnce(&mut Guest) -> Result<()>,
) -> Result<()> {
    let before = rig::members(bed, guest, 2).await?;
    let member = before.get(serial).context("no such member")?;
    let (id, claims, points) = (
        uid(bed, member).await?,
        written.on(guest, member)?,
        mounts(guest)?,
    );
    ensure!(!claims.is_empty(), "nothing is on it");
    let load = Load::on(bed, claims.clone())?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    guest.pull(&disk.name, Duration::from_secs(30))?;
    let said = is_said(bed, member, &claims).await;
    said.with_context(|| Bed::agent_log(guest))?;
    is_cleaned_up(guest, &points, member)?;
    println!("  {} files were written under load", load.end().await?);
    guest.eject(disk)?;
    guest.insert(disk)?;
    // Somebody else is to have its name.
    guest.wait_for(&format!("[ ! -e /sys/block/{} ]", member.device))?;
    plug(guest)?;
    let after = rig::members(bed, guest, 2).await?;
    let back = after.get(serial).context("it is not back")?;
    ensure!(
        back.name == member.name && uid(bed, back).await? == id,
        "{back:?} was {member:?}"
    );
    ensure!(
        back.device != member.device,
        "it has its old name {}",
        back.device
    );
    written.is_whole(bed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_is_pulled_under_load_and_is_the_same_elsewhere() -> Result<()> {
    if skipped("hardware: pull", &GUEST)? {
        return Ok(());
    }
    let bed = Bed::start("pull").await?;
    let disk = |name: &str, bytes| Disk::blank(bed.path(), name, bytes);
    let (nvme, scsi) = (disk("fast", 2 * GIB)?, disk("slow", 2 * GIB)?);
    let (stand_in, other) = (disk("standin", 64 * MIB)?, disk("other", 64 * MIB)?);
    let mut machine = bed.node("rig", Kernel::Linux6_1)?;
    machine.nvme_drive(&nvme, "FAST");
    machine.virtio_scsi(&scsi, Some("SLOW"), Some(SCSI_WWN), Spindle::Rpm(7200));
    machine.slot("hp0");
    machine.slot("hp1");
    let mut guest = Guest::boot(&machine, bed.path())?;
    bed.start_agent(&mut guest, "", "")?;
    bed.see(&mut guest, 5).await?;
    rig::pool(&bed, 2).await?;
    let members = rig::members(&bed, &mut guest, 2).await?;
    let written = Written::everywhere(&bed, &mut guest, &members).await?;
    written.is_whole(&bed).await?;
    // A drive that is pulled has what was written through, and SeaweedFS leaves that to the kernel.
    guest.sh("sync")?;

    println!("  NVMe");
    pulled_and_back(&bed, &mut guest, "FAST", &nvme, &written, |guest| {
        guest.insert(&stand_in)?;
        guest.plug(
            &json!({"driver": "nvme", "id": "standin", "bus": "hp0", "serial": "IN", "drive": "standin"}),
        )?;
        guest.wait_for("grep -q IN /sys/class/nvme/nvme*/serial")?;
        guest.plug(&json!({"driver": "nvme", "id": "fast", "bus": "hp1", "serial": "FAST", "drive": "fast"}))
    })
    .await?;

    println!("  virtio-scsi");
    pulled_and_back(&bed, &mut guest, "SLOW", &scsi, &written, |guest| {
        guest.insert(&other)?;
        guest.plug(&scsi_disk(
            "scsi0.0",
            &other,
            Some("OTHER"),
            Some(SCSI_WWN + 8),
            Spindle::Flash,
        ))?;
        guest.wait_for("grep -q OTHER /sys/block/sd*/device/vpd_pg80")?;
        guest.plug(&scsi_disk(
            "scsi0.0",
            &scsi,
            Some("SLOW"),
            Some(SCSI_WWN),
            Spindle::Rpm(7200),
        ))
    })
    .await?;

    println!("  another kernel, and the drives in another order");
    let before = rig::members(&bed, &mut guest, 2).await?;
    guest.sh("sync")?;
    guest.cut_power()?;
    drop(guest);
    let mut machine = bed.node("rig", Kernel::Linux6_12)?;
    // The kernel mistrusts the NVMe's ids, as it may from one update to the next.
    machine.word("guest.quirks");
    machine.nvme_drive(&stand_in, "IN");
    machine.virtio_scsi(&scsi, Some("SLOW"), Some(SCSI_WWN), Spindle::Rpm(7200));
    machine.virtio_scsi(&other, Some("OTHER"), Some(SCSI_WWN + 8), Spindle::Flash);
    machine.nvme_drive(&nvme, "FAST");
    let mut guest = Guest::boot(&machine, bed.path())?;
    bed.start_agent(&mut guest, "", "")?;
    let after = rig::members(&bed, &mut guest, 2).await?;
    for (serial, member) in &before {
        let now = after.get(serial).with_context(|| format!("no {serial}"))?;
        ensure!(
            now.name == member.name && now.drive == member.drive,
            "{now:?} was {member:?}"
        );
    }
    written.is_whole(&bed).await?;
    let unknown: Vec<Value> = bed
        .drives("rig")
        .await?
        .into_iter()
        .filter(|drive| text(drive, "/use/state").is_ok_and(|state| state == "Conflict"))
        .collect();
    ensure!(unknown.is_empty(), "{unknown:?}");
    Ok(())
}
