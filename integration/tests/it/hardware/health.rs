//! What drives say of themselves while they run: critical warnings in the right words, at once where the drive
//! announces them, and nothing is done about them but telling.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use smart_storage_integration::{Disk, Guest, Kernel, MIB, needs::GUEST, quietly, skipped, within};

use super::bed::Bed;
use crate::reading::text;

const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Bits of the NVMe critical warning, and what is shown.
const WARNINGS: [(u32, &str, &[&str]); 6] = [
    (0b0_0001, "Failing", &["spare blocks are below the threshold"]),
    (0b0_0010, "Warning", &["temperature is out of range"]),
    (0b0_0100, "Failing", &["reliability is degraded"]),
    (0b0_1000, "Failed", &["went read-only"]),
    (0b1_0000, "Warning", &["volatile memory backup failed"]),
    (0b0_0101, "Failing", &["spare blocks", "reliability"]),
];

async fn shown(bed: &Bed, serial: &str) -> Result<Value> {
    let drives = bed.drives("ward").await?;
    let found = drives
        .into_iter()
        .find(|drive| text(drive, "/serial").is_ok_and(|found| found == serial));
    found.with_context(|| format!("no {serial}"))
}

/// Waits until a drive is shown so, with these words.
async fn is(bed: &Bed, serial: &str, health: &str, words: &[&str]) -> Result<Duration> {
    let what = format!("{serial} is {health} {words:?}");
    let (_, took) = within(PATIENCE, PAUSE, &what, || async {
        let drive = shown(bed, serial).await?;
        let reason = drive
            .get("health_reason")
            .and_then(Value::as_str)
            .unwrap_or_default();
        ensure!(
            text(&drive, "/health")? == health && words.iter().all(|word| reason.contains(word)),
            "{drive}"
        );
        Ok(Some(()))
    })
    .await?;
    Ok(took)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_that_warns_is_shown_so_with_its_words() -> Result<()> {
    if skipped("hardware: health", &GUEST)? {
        return Ok(());
    }
    let bed = Bed::start("ward").await?;
    let mut machine = bed.node("ward", Kernel::Linux6_12)?;
    for (name, serial) in [("loud", "LOUD"), ("mute", "MUTE")] {
        machine.nvme_drive(&Disk::blank(bed.path(), name, 64 * MIB)?, serial);
    }
    machine.virtio_blk(&Disk::blank(bed.path(), "dumb", 64 * MIB)?, Some("DUMB"));
    let mut guest = Guest::boot(&machine, bed.path())?;
    // Linux leaves announcements of health to the administrator.
    let loud = guest.controller("LOUD")?;
    guest.sh(&format!("nvme set-feature /dev/{loud} -f 0x0b -v 0x31f"))?;
    bed.start_agent(&mut guest, "", "")?;
    bed.see(&mut guest, 6).await?;
    for serial in ["LOUD", "MUTE"] {
        is(&bed, serial, "Good", &[]).await?;
    }

    for (bits, health, words) in WARNINGS {
        guest.set("loud", "smart_critical_warning", &json!(bits))?;
        is(&bed, "LOUD", health, words).await?;
        ensure!(
            text(&shown(&bed, "MUTE").await?, "/health")? == "Good",
            "another drive's warning"
        );
        guest.set("loud", "smart_critical_warning", &json!(0))?;
    }

    println!("  one that announces nothing is asked at the agent's start");
    guest.set("mute", "smart_critical_warning", &json!(8))?;
    Bed::stop_agent(&mut guest)?;
    bed.start_agent(&mut guest, "", "")?;
    is(&bed, "MUTE", "Failed", &["went read-only"]).await?;
    is(&bed, "LOUD", "Good", &[]).await?;

    println!("  and at the interval, at the rescan after it");
    Bed::stop_agent(&mut guest)?;
    bed.start_agent(&mut guest, "", "--health-interval 1")?;
    is(&bed, "MUTE", "Failed", &["went read-only"]).await?;
    guest.set("mute", "smart_critical_warning", &json!(2))?;
    quietly(PATIENCE, "it is asked again", || async {
        bed.cluster
            .rest()?
            .post("/v1/nodes/ward/classify", &Value::Null)
            .await?;
        let drive = shown(&bed, "MUTE").await?;
        Ok((text(&drive, "/health")? == "Warning").then_some(()))
    })
    .await?;
    is(&bed, "MUTE", "Warning", &["temperature is out of range"]).await?;
    guest.set("mute", "smart_critical_warning", &json!(8))?;
    quietly(PATIENCE, "and again", || async {
        bed.cluster
            .rest()?
            .post("/v1/nodes/ward/classify", &Value::Null)
            .await?;
        let drive = shown(&bed, "MUTE").await?;
        Ok((text(&drive, "/health")? == "Failed").then_some(()))
    })
    .await?;

    println!("  one that can say nothing is unknown, and nobody complains of it");
    let dumb = shown(&bed, "DUMB").await?;
    ensure!(
        text(&dumb, "/health")? == "Unknown" && text(&dumb, "/health_reason")?.contains("does not report"),
        "{dumb}"
    );
    quietly(PATIENCE, "a failed drive is refused", || async {
        let drive = shown(&bed, "MUTE").await?;
        let said = drive.get("refusals").map(Value::to_string).unwrap_or_default();
        ensure!(said.contains("health"), "{drive}");
        Ok(Some(()))
    })
    .await?;
    let log = Bed::agent_log(&mut guest);
    ensure!(!log.contains("SMART") && !log.contains("vdc"), "{log}");
    Ok(())
}
