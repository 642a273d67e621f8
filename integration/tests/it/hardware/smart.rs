//! What drives say of their health, against the guest's own tools: the NVMe log as the ioctl reads it field by field with
//! what nvme-cli prints, and smartctl's exit status, a bit mask, as real devices give it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use smart_storage_integration::{
    Disk, Guest, Kernel, MIB, eventually, guest::Spindle, needs::GUEST, quietly, skipped,
};

use super::bed::{Bed, rescanned};
use crate::reading::text;

const PATIENCE: Duration = Duration::from_secs(60);
/// Rescans that have nothing to complain of.
const LOOKS: u64 = 10;
/// A temperature of scsi_debug's own.
const DEBUG_CELSIUS: u64 = 38;

/// The bytes that the bundle holds in rows of hexadecimal digits, where rows of zeros are left out.
fn bytes(rows: &Value) -> Result<Vec<u8>> {
    let length = rows.get("length").and_then(Value::as_u64).context("no length")?;
    let mut all = vec![0_u8; usize::try_from(length)?];
    for (at, row) in rows.get("hex").and_then(Value::as_object).context("no rows")? {
        let at = usize::from_str_radix(at.trim_start_matches("0x"), 16)?;
        let row = row.as_str().context("no row")?.replace(' ', "");
        for (place, digits) in all.iter_mut().skip(at).zip(row.as_bytes().chunks(2)) {
            *place = u8::from_str_radix(std::str::from_utf8(digits)?, 16)?;
        }
    }
    Ok(all)
}

/// A little-endian number in the log.
fn field(log: &[u8], at: usize, count: usize) -> u128 {
    let part = log.iter().skip(at).take(count).rev();
    part.fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Every field of the log that the agent reads, where the specification has it, against nvme-cli's word for it. Both
/// are of one capture, a moment apart: QEMU's drives stand still in all of them, so all have to be the same, in the same
/// unit (nvme-cli prints the temperature in kelvin, as the log has it).
fn the_same_log(guest: &mut Guest, controller: &str) -> Result<Value> {
    const FIELDS: [(&str, usize, usize); 7] = [
        ("critical_warning", 0, 1),
        ("temperature", 1, 2),
        ("avail_spare", 3, 1),
        ("spare_thresh", 4, 1),
        ("percent_used", 5, 1),
        ("power_on_hours", 128, 16),
        ("media_errors", 160, 16),
    ];
    let bundle = captured(guest)?;
    let read = bundle.pointer(&format!("/nvme/~1dev~1{controller}/SMART log"));
    let log = bytes(read.with_context(|| format!("{controller} was not asked"))?)?;
    ensure!(log.len() == 512, "{} bytes", log.len());
    let line = format!("nvme smart-log /dev/{controller} -o json");
    let printed = at(at(at(at(&bundle, "programs"), &line), "stdout"), "json");
    let fresh = guest.json(&line)?;
    for (name, at, count) in FIELDS {
        let ours = field(&log, at, count).to_string();
        for said in [printed, &fresh] {
            let said = said.get(name).with_context(|| format!("no {name} in {said}"))?;
            ensure!(
                said.to_string().trim_matches('"') == ours,
                "{name}: {ours}, nvme-cli says {said}"
            );
        }
    }
    Ok(fresh)
}

fn captured(guest: &mut Guest) -> Result<Value> {
    guest.json("/opt/smart-storage-agent capture 2>/dev/null")
}

/// The exit status of smartctl and what it said, as the agent ran it.
fn smartctl<'a>(bundle: &'a Value, device: &str) -> Result<(i64, &'a Value)> {
    let programs = at(bundle, "programs").as_object().context("no programs")?;
    let run = programs.iter().find(|(line, _)| {
        line.starts_with("smartctl --json -a -n standby") && line.ends_with(&format!("/dev/{device}"))
    });
    let (_, run) = run.with_context(|| format!("{device} was not asked"))?;
    let status = at(run, "status").as_i64().context("ended by a signal")?;
    Ok((status, at(at(run, "stdout"), "json")))
}

/// The value under a key; null where there is none.
fn at<'a>(value: &'a Value, key: &str) -> &'a Value {
    value.get(key).unwrap_or(&Value::Null)
}

async fn shown(bed: &Bed, serial: &str) -> Result<Value> {
    let drives = bed.drives("clinic").await?;
    let found = drives
        .into_iter()
        .find(|drive| text(drive, "/serial").is_ok_and(|found| found == serial));
    found.with_context(|| format!("no {serial}"))
}

/// Waits until a drive is shown so, for this reason.
async fn is(bed: &Bed, serial: &str, health: &str, reason: &str) -> Result<Value> {
    quietly(PATIENCE, &format!("{serial} is {health}"), || async {
        let drive = shown(bed, serial).await?;
        let why = at(&drive, "health_reason").as_str().unwrap_or_default();
        ensure!(
            text(&drive, "/health")? == health && why.contains(reason),
            "{drive}"
        );
        Ok(Some(drive))
    })
    .await
}

async fn started_anew(bed: &Bed, guest: &mut Guest) -> Result<()> {
    Bed::stop_agent(guest)?;
    bed.start_agent(guest, "", "")
}

/// scsi_debug's disk: its kernel name, and that of the door for its commands.
fn debug_disk(guest: &mut Guest, parameters: &str) -> Result<(String, String)> {
    guest.sh(&format!(
        "udevadm control --start-exec-queue; rmmod scsi_debug 2>/dev/null; modprobe scsi_debug dev_size_mb=8 {parameters}"
    ))?;
    let disks = "/sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*:*";
    guest.wait_for(&format!("ls -d {disks}/block/sd*"))?;
    guest.sh("udevadm settle")?;
    let name = |found: String| Some(found.trim().rsplit('/').next()?.to_owned());
    let disk = name(guest.sh(&format!("ls -d {disks}/block/sd*"))?).context("no disk")?;
    let door = name(guest.sh(&format!("ls -d {disks}/scsi_generic/sg*"))?).context("no door")?;
    Ok((disk, door))
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_what_nvme_cli_and_smartctl_say_in_the_same_guest() -> Result<()> {
    if skipped("hardware: smart", &GUEST)? {
        return Ok(());
    }
    let bed = Bed::start("clinic").await?;
    let mut machine = bed.node("clinic", Kernel::Linux6_12)?;
    let disk = |name: &str| Disk::blank(bed.path(), name, 64 * MIB);
    machine.nvme_drive(&disk("flash")?, "FLASH");
    let wwn = |n: u64| Some(0x5000_c500_7777_0000 + n);
    machine.sata(&disk("sata")?, "SATA-1", wwn(1), Spindle::Rpm(7200));
    machine.sas(&disk("sas")?, "SAS-1", wwn(2), Spindle::Rpm(10_000));
    machine.usb(&disk("stick")?, "STICK");
    let mut guest = Guest::boot(&machine, bed.path())?;
    let controller = guest.controller("FLASH")?;
    let named = |guest: &mut Guest, serial: &str| -> Result<String> {
        let found = guest.sh(&format!(
            "lsblk -dno NAME,SERIAL | awk '$2 == \"{serial}\" {{ print $1 }}'"
        ))?;
        Ok(found.trim().to_owned())
    };
    let (sata, sas) = (named(&mut guest, "SATA-1")?, named(&mut guest, "SAS-1")?);
    let stick = named(&mut guest, "STICK")?;
    bed.start_agent(&mut guest, "", "")?;
    bed.see(&mut guest, 7).await?;

    println!("  NVMe: the ioctl and nvme-cli agree in every field");
    is(&bed, "FLASH", "Good", "").await?;
    the_same_log(&mut guest, &controller)?;
    for bits in [0b0_0101_u64, 0b1_0010] {
        guest.set("flash", "smart_critical_warning", &json!(bits))?;
        let log = the_same_log(&mut guest, &controller)?;
        ensure!(at(&log, "critical_warning") == bits, "{log}");
    }
    started_anew(&bed, &mut guest).await?;
    let warned = is(&bed, "FLASH", "Warning", "temperature is out of range").await?;
    ensure!(
        text(&warned, "/health_reason")?.contains("memory backup"),
        "{warned}"
    );

    println!("  smartctl: 0 for SATA, 4 for SAS, 1 for a stick; virtio is not asked");
    let bundle = captured(&mut guest)?;
    for (device, status) in [(&sata, 0), (&sas, 4), (&stick, 1)] {
        let (found, said) = smartctl(&bundle, device)?;
        ensure!(found == status, "{device}: {found}, {said}");
    }
    is(&bed, "SATA-1", "Good", "").await?;
    for silent in ["SAS-1", "STICK", "root"] {
        is(&bed, silent, "Unknown", "does not report").await?;
    }
    ensure!(smartctl(&bundle, "vda").is_err(), "virtio was asked");
    let log = rescanned(&mut guest, LOOKS, |_| Ok(()))?;
    for line in log.lines().chain(Bed::agent_log(&mut guest).lines()) {
        let of_drives = ["smart", "SMART", &sata, &sas, &stick, "vda"];
        let of_drives = of_drives
            .iter()
            .any(|word| line.replace("smart_storage", "").contains(word));
        ensure!(!of_drives, "{line}");
    }

    println!(
        "  scsi_debug: 4 while it is well, 12 once its own assessment is a failure, 2 while it is stopped"
    );
    let (device, door) = debug_disk(&mut guest, "")?;
    is(&bed, "20000", "Good", "").await?;
    let bundle = captured(&mut guest)?;
    let (status, said) = smartctl(&bundle, &device)?;
    ensure!(
        status == 4 && at(at(said, "temperature"), "current") == DEBUG_CELSIUS,
        "{status}: {said}"
    );
    // TEST of the informational exceptions, to be told on request.
    guest.sh(&format!(
        "sg_wr_mode -p 0x1c -c 1c,0a,04,06,0,0,0,0,0,0,0,1 /dev/{door}; sg_turs /dev/{door}; true"
    ))?;
    started_anew(&bed, &mut guest).await?;
    let failing = is(&bed, "20000", "Failing", "its own assessment").await?;
    ensure!(
        at(&failing, "claimable") == false && at(&failing, "refusals").to_string().contains("health"),
        "{failing}"
    );
    let bundle = captured(&mut guest)?;
    let (status, said) = smartctl(&bundle, &device)?;
    ensure!(
        status == 8 | 4 && at(at(said, "smart_status"), "passed") == false,
        "{status}: {said}"
    );
    // udevd would read it, and the kernel would start it for that.
    let trace = "/sys/kernel/tracing";
    guest.sh(&format!(
        "udevadm control --stop-exec-queue; mount -t tracefs tracefs {trace}; sg_start --stop /dev/{door}; \
         echo 1 >{trace}/events/scsi/scsi_dispatch_cmd_start/enable"
    ))?;
    started_anew(&bed, &mut guest).await?;
    // It tells nothing, and what the kernel could not read on it is told instead.
    is(&bed, "20000", "Warning", "I/O error, READ").await?;
    let commands = guest.sh(&format!("cat {trace}/trace"))?;
    ensure!(
        commands.contains("TEST_UNIT_READY") && !commands.contains("START_STOP"),
        "{commands}"
    );
    ensure!(
        guest.try_sh(&format!("sg_turs /dev/{door}"))?.0 == 2,
        "it was started"
    );

    println!("  a medium error where it is looked at is said, and it is not blank");
    debug_disk(&mut guest, "opts=2 medium_error_start=0 medium_error_count=64")?;
    let broken = eventually(PATIENCE, "it is not claimable", || async {
        let drive = shown(&bed, "20000").await?;
        ensure!(
            at(&drive, "claimable") == false
                && at(&drive, "refusals").to_string().contains("not proven free"),
            "{drive}"
        );
        Ok(Some(drive))
    })
    .await?;
    println!("  {}", at(&broken, "refusals"));
    Ok(())
}
