//! A disk that sleeps is never woken: the kernel's own trace of commands stays empty while the agent rescans and is
//! told of changes, from before it slept and started afresh; and what is shown of it is what was known, or that nothing
//! is.
//!
//! The sleep is the kernel's (runtime power management). QEMU's disks always say that they are active when asked, so
//! that a drive's own standby is told from an answer in the agent's unit tests; here it is seen that the question comes
//! before everything else.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use smart_storage_integration::{
    Disk, Guest, Kernel, MIB, eventually, guest::Spindle, needs::GUEST, quietly, skipped,
};

use super::bed::{Bed, rescanned};
use crate::reading::text;

const PATIENCE: Duration = Duration::from_secs(60);
/// Rescans and announcements that a sleeping disk sleeps through.
const LOOKS: u64 = 10;

/// A SATA disk of the guest, as the kernel knows it.
struct Ata {
    name: String,
    port: String,
}

impl Ata {
    fn find(guest: &mut Guest, serial: &str) -> Result<Self> {
        let found = guest.sh(&format!(
            "for disk in /sys/block/sd*; do if grep -q {serial} $disk/device/vpd_pg80; then readlink -f $disk; fi; done"
        ))?;
        let path = found.trim();
        let port = path.split('/').find_map(|part| part.strip_prefix("ata"));
        Ok(Self {
            name: path.rsplit('/').next().context("no name")?.to_owned(),
            port: port.context("no ATA port")?.to_owned(),
        })
    }

    /// The kernel may put it to sleep, or has to keep it awake.
    fn control(&self, guest: &mut Guest, word: &str) -> Result<()> {
        let power = format!("/sys/block/{}/device/power", self.name);
        guest.sh(&format!(
            "echo 100 >{power}/autosuspend_delay_ms; echo {word} >{power}/control"
        ))?;
        let status = if word == "auto" { "suspended" } else { "active" };
        guest.wait_for(&format!("[ $(cat {power}/runtime_status) = {status} ]"))
    }

    /// How long it was awake, in milliseconds, and whether it sleeps.
    fn awake(&self, guest: &mut Guest) -> Result<String> {
        guest.sh(&format!(
            "cd /sys/block/{}/device/power; cat runtime_active_time runtime_status",
            self.name
        ))
    }

    /// The commands that reached it, by their names in the kernel: `ID_ATA`, `CHK_POWER`. Of reads in a row one.
    fn commands(&self, trace: &str) -> Vec<String> {
        let own = format!("ata_port={} ", self.port);
        let mine = trace.lines().filter(|line| line.contains(&own));
        let mut names: Vec<String> = mine
            .filter_map(|line| Some(line.split_once("cmd=ATA_CMD_")?.1.split(' ').next()?.to_owned()))
            .collect();
        names.dedup_by(|next, last| next == last && next.contains("READ"));
        names
    }
}

const TRACE: &str = "/sys/kernel/tracing";

fn forget(guest: &mut Guest) -> Result<()> {
    guest.sh(&format!("echo >{TRACE}/trace")).map(drop)
}

fn traced(guest: &mut Guest) -> Result<String> {
    guest.sh(&format!("cat {TRACE}/trace"))
}

async fn shown(bed: &Bed, serial: &str) -> Result<Value> {
    let drives = bed.drives("drowsy").await?;
    let found = drives
        .into_iter()
        .find(|drive| text(drive, "/serial").is_ok_and(|found| found == serial));
    found.with_context(|| format!("no {serial}"))
}

/// Rescans by an agent that is started for it, and announcements that all agents hear.
fn disturb(guest: &mut Guest, disk: &Ata) -> Result<()> {
    let own = (Bed::counted(guest, "event")?, Bed::counted(guest, "probe")?);
    rescanned(guest, LOOKS, |guest| {
        let script = format!("echo change >/sys/block/{}/uevent", disk.name);
        guest.sh(&script).map(drop)
    })?;
    // Announcements that come close together are looked at once.
    let looked = (Bed::counted(guest, "event")?, Bed::counted(guest, "probe")?);
    ensure!(
        looked.0 >= own.0 + LOOKS && looked.1 > own.1,
        "{own:?}, {looked:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_disk_is_never_woken_and_what_is_not_known_of_it_is_said() -> Result<()> {
    if skipped("hardware: asleep", &GUEST)? {
        return Ok(());
    }
    let bed = Bed::start("drowsy").await?;
    let mut machine = bed.node("drowsy", Kernel::Linux6_12)?;
    for (n, serial) in [(1, "DROWSY"), (2, "AWAKE")] {
        let disk = Disk::blank(bed.path(), serial, 64 * MIB)?;
        machine.sata(&disk, serial, Some(0x5000_c500_6666_0000 + n), Spindle::Rpm(7200));
    }
    let mut guest = Guest::boot(&machine, bed.path())?;
    let (drowsy, awake) = (Ata::find(&mut guest, "DROWSY")?, Ata::find(&mut guest, "AWAKE")?);
    // What udevd does on an event reads the disk; it is not what is looked at here.
    guest.sh(&format!(
        "udevadm settle; udevadm control --stop-exec-queue; mount -t tracefs tracefs {TRACE}; \
         echo 1 >{TRACE}/events/libata/ata_qc_issue/enable"
    ))?;

    println!("  an agent that starts while it sleeps");
    drowsy.control(&mut guest, "auto")?;
    forget(&mut guest)?;
    let before = drowsy.awake(&mut guest)?;
    bed.start_agent(&mut guest, "", "")?;
    bed.see(&mut guest, 5).await?;
    eventually(PATIENCE, "the other disk was asked for its health", || async {
        Ok((text(&shown(&bed, "AWAKE").await?, "/health")? == "Good").then_some(()))
    })
    .await?;
    disturb(&mut guest, &drowsy)?;
    let trace = traced(&mut guest)?;
    ensure!(
        drowsy.commands(&trace).is_empty(),
        "{:?}",
        drowsy.commands(&trace)
    );
    ensure!(
        drowsy.awake(&mut guest)? == before,
        "{before}, {}",
        drowsy.awake(&mut guest)?
    );
    let unknown = shown(&bed, "DROWSY").await?;
    let words = unknown.get("refusals").map(Value::to_string).unwrap_or_default();
    ensure!(
        unknown.get("claimable") == Some(&Value::Bool(false))
            && words.contains("sleeps")
            && text(&unknown, "/health")? == "Unknown"
            && text(&unknown, "/health_reason")?.contains("sleeps"),
        "{unknown}"
    );

    println!("  one that is awake is asked whether it is before anything else");
    let commands = awake.commands(&trace);
    let asked = |command: &str| commands.iter().filter(|found| *found == command).count();
    ensure!(
        commands.first().map(String::as_str) == Some("CHK_POWER") && asked("SMART") > 0,
        "{commands:?}"
    );
    ensure!(asked("CHK_POWER") == asked("ID_ATA"), "{commands:?}");
    for pair in commands.windows(2) {
        ensure!(pair[1] != "ID_ATA" || pair[0] == "CHK_POWER", "{commands:?}");
    }

    println!("  something wakes it, and everything is learnt");
    drowsy.control(&mut guest, "on")?;
    guest.sh(&format!(
        "dd if=/dev/{0} of=/dev/null count=1 2>/dev/null; echo change >/sys/block/{0}/uevent",
        drowsy.name
    ))?;
    let known = eventually(PATIENCE, "it is known in full", || async {
        let drive = shown(&bed, "DROWSY").await?;
        ensure!(drive.get("claimable") == Some(&Value::Bool(true)), "{drive}");
        ensure!(text(&drive, "/health")? == "Unknown" || text(&drive, "/health")? == "Good");
        Ok((text(&drive, "/health")? == "Good").then_some(drive))
    })
    .await?;

    println!("  it falls asleep again, and stays what it was");
    drowsy.control(&mut guest, "auto")?;
    forget(&mut guest)?;
    let before = drowsy.awake(&mut guest)?;
    let log = Bed::agent_log(&mut guest);
    disturb(&mut guest, &drowsy)?;
    let trace = traced(&mut guest)?;
    ensure!(
        drowsy.commands(&trace).is_empty(),
        "{:?}",
        drowsy.commands(&trace)
    );
    ensure!(
        drowsy.awake(&mut guest)? == before,
        "{before}, {}",
        drowsy.awake(&mut guest)?
    );
    quietly(PATIENCE, "it is shown as before", || async {
        let drive = shown(&bed, "DROWSY").await?;
        ensure!(drive == known, "{drive}, was {known}");
        Ok(Some(()))
    })
    .await?;
    ensure!(
        Bed::agent_log(&mut guest) == log,
        "{}",
        Bed::agent_log(&mut guest)
    );
    Ok(())
}
