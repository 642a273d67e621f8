//! SCSI disks with chosen vital product data (scsi_debug): what is shown of them is what the kernel, lsblk and udevd say,
//! two units are never one drive, and one that may not be written says so.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use smart_storage_integration::{
    Disk, Guest, Kernel, MIB, eventually, guest::Spindle, needs::GUEST, skipped,
};

use super::bed::Bed;
use crate::reading::{list, text};

const PATIENCE: Duration = Duration::from_secs(60);
const UNITS: &str = "/sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*:*";

/// What the guest knows of one unit.
#[derive(Debug)]
struct Unit {
    name: String,
    serial: String,
    /// The kernel's choice among the designators of page 0x83.
    wwid: String,
    lsblk: Value,
    udev: BTreeMap<String, String>,
    read_only: bool,
}

/// Loads the module with these parameters, and answers the units that have a disk.
fn units(guest: &mut Guest, parameters: &str, count: usize) -> Result<Vec<Unit>> {
    guest.sh(&format!(
        "rmmod scsi_debug 2>/dev/null; modprobe scsi_debug dev_size_mb=8 {parameters}"
    ))?;
    guest.wait_for(&format!(
        "[ $(ls -d {UNITS}/block/sd* 2>/dev/null | wc -l) = {count} ]"
    ))?;
    guest.sh("udevadm settle")?;
    let names = guest.sh(&format!(
        "for disk in {UNITS}/block/sd*; do [ -e $disk ] && echo ${{disk##*/}}; done; true"
    ))?;
    let names: Vec<String> = names.lines().map(str::to_owned).collect();
    let told = guest.json("lsblk -JOb -d")?;
    let mut units = Vec::new();
    for name in names {
        let attribute = |guest: &mut Guest, path: &str| -> Result<String> {
            Ok(guest
                .sh(&format!("cat /sys/block/{name}/{path}"))?
                .trim()
                .to_owned())
        };
        let words = guest.sh(&format!("udevadm info -q property -n /dev/{name}"))?;
        let pairs = words.lines().filter_map(|line| line.split_once('='));
        let lsblk = list(&told, "/blockdevices")
            .iter()
            .find(|one| at(one, "name").as_str() == Some(name.as_str()));
        units.push(Unit {
            serial: guest.sh(&format!(
                "tail -c +5 /sys/block/{name}/device/vpd_pg80 | tr -d '\\0 '"
            ))?,
            wwid: attribute(guest, "device/wwid")?,
            lsblk: lsblk.context("lsblk does not know it")?.clone(),
            udev: pairs
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            read_only: attribute(guest, "ro")? == "1",
            name,
        });
    }
    Ok(units)
}

/// The value under a key; null where there is none.
fn at<'a>(value: &'a Value, key: &str) -> &'a Value {
    value.get(key).unwrap_or(&Value::Null)
}

fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn told<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default().trim()
}

/// Everything that is shown of a unit against what the guest knows.
fn compare(drive: &Value, unit: &Unit) -> Result<()> {
    let udev = |key: &str| unit.udev.get(key).map(String::as_str);
    let facts = [
        ("serial", text(drive, "/serial")?, unit.serial.as_str()),
        ("serial", text(drive, "/serial")?, told(&unit.lsblk, "serial")),
        (
            "serial",
            text(drive, "/serial")?,
            udev("ID_SCSI_SERIAL").unwrap_or_default(),
        ),
        ("model", text(drive, "/model")?, told(&unit.lsblk, "model")),
        ("firmware", text(drive, "/firmware")?, told(&unit.lsblk, "rev")),
        (
            "firmware",
            text(drive, "/firmware")?,
            udev("ID_REVISION").unwrap_or_default(),
        ),
    ];
    for (what, shown, said) in facts {
        ensure!(shown == said, "{what}: {shown:?}, not {said:?}: {unit:?}");
    }
    let wwn = plain(text(drive, "/wwn")?);
    ensure!(wwn == plain(&unit.wwid), "{wwn}: {unit:?}");
    // lsblk and udevd know world-wide names alone, not those that a vendor makes up (t10).
    let world_wide = told(&unit.lsblk, "wwn").trim_start_matches("0x");
    ensure!(
        world_wide == wwn.strip_prefix("naa.").unwrap_or_default(),
        "{wwn}: {unit:?}"
    );
    let named = udev("ID_WWN").unwrap_or_default().trim_start_matches("0x");
    ensure!(named == world_wide, "{wwn}: {unit:?}");
    ensure!(
        at(drive, "capacity_bytes") == at(&unit.lsblk, "size"),
        "{drive}: {unit:?}"
    );
    // Rotation rate 1 in page 0xb1: it does not turn, as the kernel says too.
    ensure!(
        at(drive, "drive_type") == "ssd" && at(&unit.lsblk, "rota") == false,
        "{drive}: {unit:?}"
    );
    let refusals = at(drive, "refusals").to_string();
    for (refused, words) in [
        (unit.read_only, "read-only"),
        (at(&unit.lsblk, "rm") == true, "removable"),
    ] {
        ensure!(refusals.contains(words) == refused, "{refusals}: {unit:?}");
        ensure!(!refused || at(drive, "claimable") == false, "{drive}");
    }
    ensure!(at(&unit.lsblk, "ro") == unit.read_only, "{unit:?}");
    Ok(())
}

/// The drives that are shown of these units, by their devices, once each is.
async fn shown(bed: &Bed, guest: &mut Guest, units: &[Unit]) -> Result<Vec<Value>> {
    let found = eventually(PATIENCE, &format!("{} units are shown", units.len()), || async {
        let drives = bed.drives("units").await?;
        let mut found = Vec::new();
        for unit in units {
            let drive = drives.iter().find(|drive| {
                let place = |name: &str| told(drive, name);
                place("device") == unit.name && place("serial") == unit.serial && place("health") != "Unknown"
            });
            let drive = drive.with_context(|| format!("no {}: {drives:?}", unit.name))?;
            compare(drive, unit)?;
            found.push(drive.clone());
        }
        let devices = drives
            .iter()
            .filter(|drive| told(drive, "device").starts_with("sd"));
        // The twins are there too.
        ensure!(devices.count() == found.len() + 2, "{drives:?}");
        Ok(Some(found))
    })
    .await;
    found.with_context(|| Bed::agent_log(guest))
}

/// Waits until so many drives of scsi_debug's one serial are shown.
async fn alike(bed: &Bed, count: usize) -> Result<Vec<Value>> {
    eventually(
        PATIENCE,
        &format!("{count} drives with one serial are shown"),
        || async {
            let drives = bed.drives("units").await?;
            let mine = drives
                .into_iter()
                .filter(|drive| told(drive, "serial") == "2000" && at(drive, "present") == true);
            let mine: Vec<Value> = mine.filter(|drive| told(drive, "health") != "Unknown").collect();
            ensure!(mine.len() == count, "{mine:?}");
            Ok(Some(mine))
        },
    )
    .await
}

fn all_differ(drives: &[Value]) -> Result<()> {
    let ids: std::collections::BTreeSet<&str> = drives.iter().map(|drive| told(drive, "id")).collect();
    ensure!(ids.len() == drives.len() && !ids.contains(""), "{drives:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn scsi_units_are_what_their_vital_product_data_say_and_never_one_another() -> Result<()> {
    if skipped("hardware: vpd", &GUEST)? {
        return Ok(());
    }
    let bed = Bed::start("units").await?;
    let mut machine = bed.node("units", Kernel::Linux6_12)?;
    for n in 1..=2 {
        let disk = Disk::blank(bed.path(), &format!("twin{n}"), 64 * MIB)?;
        machine.virtio_scsi(
            &disk,
            Some("TWIN"),
            Some(0x5000_c500_8888_0000 + n),
            Spindle::Rpm(7200),
        );
    }
    let mut guest = Guest::boot(&machine, bed.path())?;
    bed.start_agent(&mut guest, "", "")?;
    let drives = bed.see(&mut guest, 5).await?;

    println!("  two disks with one serial and world-wide names of their own are two drives");
    let twins: Vec<Value> = drives
        .into_iter()
        .filter(|drive| told(drive, "serial") == "TWIN")
        .collect();
    ensure!(twins.len() == 2, "{twins:?}");
    all_differ(&twins)?;
    for twin in &twins {
        ensure!(at(twin, "claimable") == true, "{twin}");
    }

    println!("  names of their vendor's making, and UUIDs that the kernel passes over");
    let vendor = "uuid_ctl=1 max_luns=2 inq_vendor=ACME inq_product=ODDDISK inq_rev=0042";
    let found = units(&mut guest, vendor, 2)?;
    let drives = shown(&bed, &mut guest, &found).await?;
    all_differ(&drives)?;
    ensure!(
        drives.iter().all(|drive| at(drive, "claimable") == true),
        "{drives:?}"
    );

    println!("  one UUID for all units, removable");
    let found = units(&mut guest, "uuid_ctl=2 max_luns=2 add_host=2 removable=1", 4)?;
    all_differ(&shown(&bed, &mut guest, &found).await?)?;

    println!("  no unit 0, blocks of 4096 bytes in eights; what has no disk is no drive");
    let found = units(
        &mut guest,
        "no_lun_0=1 max_luns=3 physblk_exp=3 lbpu=1 unmap_max_blocks=64",
        2,
    )?;
    all_differ(&shown(&bed, &mut guest, &found).await?)?;
    for nothing in ["no_uld=1", "ptype=5"] {
        let found = units(&mut guest, nothing, 0)?;
        shown(&bed, &mut guest, &found).await?;
    }

    println!("  write protected: refused, and said so; two ways to one unit are one drive");
    let found = units(&mut guest, "wp=1 sector_size=4096", 1)?;
    shown(&bed, &mut guest, &found).await?;
    let two_hosts = "vpd_use_hostno=0 add_host=2";
    let found = units(&mut guest, two_hosts, 2)?;
    let ports = alike(&bed, 1).await?;
    ensure!(
        ports
            .iter()
            .all(|drive| found.iter().any(|unit| told(drive, "device") == unit.name)),
        "{ports:?}"
    );
    ensure!(
        ports[0]["claimable"] == true && told(&ports[0], "wwn") == found[0].wwid,
        "{ports:?}"
    );

    println!(
        "  equal in serial and vendor's name, with UUIDs and contents of their own: two, and none is claimable"
    );
    let other = format!("{two_hosts} per_host_store=1 uuid_ctl=1 inq_vendor=ACME inq_product=TWOUNITS");
    units(&mut guest, &other, 2)?;
    for drive in alike(&bed, 2).await? {
        ensure!(
            at(&drive, "claimable") == false && at(&drive, "refusals").to_string().contains("conflict"),
            "{drive}"
        );
    }
    Ok(())
}
