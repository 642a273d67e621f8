//! A copy of a member's drive, byte by byte, beside the member itself: it is never taken for it, not even where it is
//! found first, and nothing is written to it. And one disk that the kernel shows twice is never two.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use smart_storage_integration::{
    Disk, GIB, Guest, Kernel,
    drives::run,
    eventually,
    guest::{Spindle, scsi_disk},
    needs::GUEST,
    skipped,
};

use super::{
    bed::Bed,
    rig::{self, Written},
};
use crate::reading::{complaints, text};

const NODE: &str = "copies";
const PATIENCE: Duration = Duration::from_secs(60);
const WWN: u64 = 0x5000_c500_8888_0000;
const TURNS: Spindle = Spindle::Rpm(7200);

fn checksum(disk: &Disk) -> Result<String> {
    run(std::process::Command::new("sha256sum").arg(&disk.file))
}

async fn shown(bed: &Bed, field: &str, is: &str) -> Result<Vec<Value>> {
    let drives = bed.drives(NODE).await?;
    let mine = drives
        .into_iter()
        .filter(|drive| text(drive, field).is_ok_and(|found| found == is));
    Ok(mine.collect())
}

/// The copy is shown, and why nobody may have it.
async fn is_doubted(bed: &Bed) -> Result<()> {
    eventually(PATIENCE, "the copy is shown and doubted", || async {
        let found = shown(bed, "/serial", "COPY").await?;
        let copy = found.first().context("it is not shown")?;
        ensure!(
            copy.get("claimable") == Some(&Value::Bool(false)) && text(copy, "/use/state")? == "Conflict",
            "{copy}"
        );
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_member_is_never_the_member() -> Result<()> {
    if skipped("hardware: copies", &GUEST)? {
        return Ok(());
    }
    let bed = Bed::start(NODE).await?;
    let original = Disk::blank(bed.path(), "original", GIB)?;
    let mut machine = bed.node(NODE, Kernel::Linux6_1)?;
    machine.virtio_scsi(&original, Some("ORIGINAL"), Some(WWN), TURNS);
    let mut guest = Guest::boot(&machine, bed.path())?;
    bed.start_agent(&mut guest, "", "")?;
    bed.see(&mut guest, 4).await?;
    rig::pool(&bed, 1).await?;
    let members = rig::members(&bed, &mut guest, 1).await?;
    let written = Written::everywhere(&bed, &mut guest, &members).await?;
    guest.sh("sync")?;

    println!("  it is plugged in beside the member");
    let copy = original.clone_to("copy")?;
    let bytes = checksum(&copy)?;
    guest.insert(&copy)?;
    guest.plug(&scsi_disk("scsi0.0", &copy, Some("COPY"), Some(WWN + 8), TURNS))?;
    is_doubted(&bed).await?;
    let beside = rig::members(&bed, &mut guest, 1).await?;
    ensure!(
        beside.get("ORIGINAL").map(|m| &m.name) == members.get("ORIGINAL").map(|m| &m.name),
        "{beside:?} was {members:?}"
    );
    written.is_whole(&bed).await?;

    println!("  the machine starts with the copy before the member");
    guest.sh("sync")?;
    guest.cut_power()?;
    drop(guest);
    let mut machine = bed.node(NODE, Kernel::Linux6_1)?;
    machine.virtio_scsi(&copy, Some("COPY"), Some(WWN + 8), TURNS);
    machine.virtio_scsi(&original, Some("ORIGINAL"), Some(WWN), TURNS);
    let mut guest = Guest::boot(&machine, bed.path())?;
    let first = guest.sh("grep -l COPY /sys/block/sd*/device/vpd_pg80 | cut -d / -f 4")?;
    bed.start_agent(&mut guest, "", "")?;
    let member = members.get("ORIGINAL").context("no member")?.name.clone();
    println!("  the copy is {}", first.trim());
    is_doubted(&bed).await?;
    // Which of two the member is on is not for a program to guess: it waits, and says so.
    let said = eventually(PATIENCE, "the member waits and says why", || async {
        let object = bed.cluster.object(&format!("poolmembers/{member}")).await?;
        let said = complaints(&object);
        ensure!(
            text(&object, "/status/phase")? != "Online" && said.contains("DuplicateMark"),
            "{object}"
        );
        Ok(Some(said))
    })
    .await?;
    println!("  {said}");
    println!("  the copy is pulled");
    guest.pull("copy", PATIENCE)?;
    let after = rig::members(&bed, &mut guest, 1).await?;
    let back = after.get("ORIGINAL").context("the member is on another drive")?;
    ensure!(back.name == member, "{back:?} was {member}");
    written.is_whole(&bed).await?;
    drop(guest);
    ensure!(checksum(&copy)? == bytes, "something was written to the copy");

    println!("  one disk that is shown twice");
    let mut machine = bed.node(NODE, Kernel::Linux6_1)?;
    machine.virtio_scsi(&original, Some("ORIGINAL"), Some(WWN), TURNS);
    let mut guest = Guest::boot(&machine, bed.path())?;
    bed.start_agent(&mut guest, "", "")?;
    guest.sh("modprobe scsi_debug dev_size_mb=16 add_host=2 vpd_use_hostno=0 inq_vendor=TESTCORP inq_product=TWICE")?;
    guest.wait_for("[ $(grep -l TWICE /sys/block/sd*/device/model | wc -l) = 2 ]")?;
    let names = guest.sh("grep -l TWICE /sys/block/sd*/device/model | cut -d / -f 4")?;
    let way = eventually(PATIENCE, "two ways to one drive are one drive", || async {
        let twice = shown(&bed, "/model", "TWICE").await?;
        let drive = twice.first().context("it is not shown")?;
        ensure!(
            twice.len() == 1 && drive.get("claimable") == Some(&Value::Bool(true)),
            "{twice:?}"
        );
        Ok(Some(text(drive, "/device")?.to_owned()))
    })
    .await?;
    let other = names.lines().find(|name| *name != way).context("no other way")?;
    guest.sh(&format!(
        "modprobe dm_mod; dmsetup create holds --table '0 64 linear /dev/{other} 0'"
    ))?;
    eventually(PATIENCE, "who holds it by the other way is seen", || async {
        let twice = shown(&bed, "/model", "TWICE").await?;
        let free = twice
            .iter()
            .filter(|drive| drive.get("claimable") == Some(&Value::Bool(true)));
        ensure!(!twice.is_empty() && free.count() == 0, "{twice:?}");
        Ok(Some(()))
    })
    .await?;
    rig::members(&bed, &mut guest, 1).await?;
    Ok(())
}
