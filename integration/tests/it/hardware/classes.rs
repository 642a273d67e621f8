//! Every class of drive on both kernels: what the controller shows is what nvme-cli, smartctl, lsblk and udevd say in
//! the same guest, field by field; where they differ, the reason stands here.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use smart_storage_integration::{
    Disk, Guest, Kernel, MIB,
    guest::{Machine, Namespace, Spindle},
    needs::GUEST,
    skipped,
};

use super::bed::Bed;
use crate::reading::{list, text};

/// What the shop-window of drives is: name of the disk, and what has to be shown of it.
struct Expected {
    serial: Option<&'static str>,
    kind: &'static str,
    transport: &'static str,
    tier: Option<&'static str>,
    claimable: bool,
}

const fn expected(
    serial: Option<&'static str>,
    kind: &'static str,
    transport: &'static str,
    tier: Option<&'static str>,
    claimable: bool,
) -> Expected {
    Expected {
        serial,
        kind,
        transport,
        tier,
        claimable,
    }
}

/// Everything that is told apart by its serial. A serial alone is no identity: virtio-blk tells no more.
const SHOWN: [Expected; 11] = [
    expected(Some("IDS-42"), "nvme", "pcie", Some("fastNvme"), true),
    expected(Some("ZONED-42"), "nvme", "pcie", Some("fastNvme"), true),
    expected(Some("PATHS-42"), "nvme", "pcie", Some("fastNvme"), true),
    expected(Some("SATA-hdd-42"), "hdd", "sata", Some("hdd"), true),
    expected(Some("SATA-ssd-42"), "ssd", "sata", Some("standardSsd"), true),
    expected(Some("SAS-hdd-42"), "hdd", "sas", Some("hdd"), true),
    expected(Some("SAS-ssd-42"), "ssd", "sas", Some("standardSsd"), true),
    expected(Some("VSCSI-42"), "hdd", "scsi", Some("hdd"), true),
    expected(Some("STICK-42"), "unknown", "usb", None, true),
    expected(Some("VBLK-42"), "unknown", "virtio", None, false),
    expected(Some("root"), "unknown", "virtio", None, false),
];

/// A machine with one of each.
fn zoo(bed: &Bed, name: &str, kernel: Kernel) -> Result<Machine> {
    let mut machine = bed.node(name, kernel)?;
    let disk = |drive: &str| Disk::blank(bed.path(), &format!("{name}-{drive}"), 64 * MIB);
    let namespace = |drive: &str, properties| -> Result<Namespace> {
        let disk = disk(drive)?;
        Ok(Namespace { disk, properties })
    };
    // No ids at all: QEMU answers zeros.
    machine.nvme(
        "two",
        "TWO-42",
        &[
            namespace("two-1", json!({"nsid": 1}))?,
            namespace(
                "two-2",
                json!({"nsid": 2, "logical_block_size": 4096, "physical_block_size": 4096}),
            )?,
        ],
    );
    let ids = json!({
        "nsid": 1, "eui64": 0x0011_2233_4455_6677_u64, "nguid": "0123456789abcdef0123456789abcde0",
        "uuid": "c0ffee00-1111-2222-3333-444444444444",
    });
    machine.nvme("ids", "IDS-42", &[namespace("ids-1", ids)?]);
    let zones = json!({
        "nsid": 1, "zoned": true, "zoned.zone_size": 4 * MIB, "zoned.zone_capacity": 3 * MIB, "zoned.max_open": 8,
        "zoned.max_active": 12, "logical_block_size": 4096, "physical_block_size": 4096,
    });
    machine.nvme("zoned", "ZONED-42", &[namespace("zoned-1", zones)?]);
    machine.nvme_pair("paths", "PATHS-42", &namespace("paths-1", json!({"nsid": 1}))?);
    let wwn = |n: u64| Some(0x5000_c500_1111_0000 + n);
    machine.sata(&disk("hdd")?, "SATA-hdd-42", wwn(1), Spindle::Rpm(7200));
    machine.sata(&disk("ssd")?, "SATA-ssd-42", wwn(2), Spindle::Flash);
    machine.sas(&disk("sas")?, "SAS-hdd-42", wwn(3), Spindle::Rpm(10_000));
    machine.sas(&disk("sasssd")?, "SAS-ssd-42", wwn(5), Spindle::Flash);
    machine.virtio_scsi(&disk("vscsi")?, Some("VSCSI-42"), wwn(7), Spindle::Rpm(7200));
    machine.virtio_scsi(&disk("nobody")?, None, None, Spindle::Rpm(7200));
    machine.virtio_blk(&disk("vblk")?, Some("VBLK-42"));
    machine.virtio_blk(&disk("vnobody")?, None);
    machine.usb(&disk("stick")?, "STICK-42");
    machine.nvdimm(&Disk::blank(bed.path(), &format!("{name}-pmem"), 97 * MIB)?)?;
    Ok(machine)
}

/// One field of a drive as different programs tell it.
struct Field<'a> {
    device: &'a str,
    name: &'a str,
    shown: Option<String>,
    wrong: &'a mut Vec<String>,
}

impl Field<'_> {
    /// Nothing said is nothing compared; where `silent` the drive has to be shown without it as well.
    fn is(&mut self, who: &str, said: Option<String>) {
        let said = said
            .map(|said| said.trim().to_owned())
            .filter(|said| !said.is_empty());
        if said.is_some() && said != self.shown {
            self.wrong.push(format!(
                "{} {}: shown {:?}, {who} says {said:?}",
                self.device, self.name, self.shown
            ));
        }
    }

    fn is_exactly(&mut self, who: &str, said: Option<String>) {
        if said.as_deref().is_none_or(|said| said.trim().is_empty()) && self.shown.is_some() {
            self.wrong.push(format!(
                "{} {}: shown {:?}, {who} knows none",
                self.device, self.name, self.shown
            ));
        }
        self.is(who, said);
    }
}

fn word(value: &Value, pointer: &str) -> Option<String> {
    match value.pointer(pointer)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Hex digits only, as every program writes an id in its own way.
fn digits(id: Option<String>) -> Option<String> {
    let id = id?;
    let id = id.trim_start_matches("0x").trim_start_matches("naa.");
    // A name made of vendor, serial and model is no name of its own.
    (!id.starts_with("nvme.") && !id.starts_with("uuid.") && !id.starts_with("eui.")).then(|| id.to_owned())
}

/// The text of that name, wherever in an answer it stands.
fn named(answer: &Value, name: &str) -> Option<String> {
    match answer {
        Value::Object(fields) => {
            let own = fields.get(name).and_then(Value::as_str).map(str::to_owned);
            own.or_else(|| fields.values().find_map(|value| named(value, name)))
        }
        Value::Array(all) => all.iter().find_map(|value| named(value, name)),
        _ => None,
    }
}

fn properties(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Everything that the guest's own tools say of a drive against what is shown.
fn compare(guest: &mut Guest, drive: &Value, lsblk: &Value, wrong: &mut Vec<String>) -> Result<()> {
    let device = text(drive, "/device")?.to_owned();
    let smart = guest.json(&format!("smartctl --json -i /dev/{device}"))?;
    let udev = properties(&guest.sh(&format!("udevadm info -q property -n /dev/{device}"))?);
    let nvme = device.starts_with("nvme");
    let (controller, namespace, descriptors) = if nvme {
        (
            guest.json(&format!("nvme id-ctrl /dev/{device} -o json"))?,
            guest.json(&format!("nvme id-ns /dev/{device} -o json"))?,
            guest.json(&format!("nvme ns-descs /dev/{device} -o json"))?,
        )
    } else {
        (Value::Null, Value::Null, Value::Null)
    };
    let pmem = if device.starts_with("pmem") {
        guest.json("ndctl list -N")?
    } else {
        Value::Null
    };
    let scsi = ["scsi", "sas"].contains(&text(drive, "/transport")?);
    let mut field = |name, shown: Option<String>, check: &dyn Fn(&mut Field<'_>)| {
        check(&mut Field {
            device: &device,
            name,
            shown,
            wrong,
        });
    };

    field("size", word(drive, "/capacity_bytes"), &|field| {
        field.is_exactly("lsblk", word(lsblk, "/size"));
        field.is("smartctl", word(&smart, "/user_capacity/bytes"));
        let format = namespace.get("flbas").and_then(Value::as_u64).unwrap_or(0) & 0xf;
        let shift = namespace
            .pointer(&format!("/lbafs/{format}/ds"))
            .and_then(Value::as_u64);
        let blocks = namespace.get("nsze").and_then(Value::as_u64);
        let bytes = blocks
            .zip(shift)
            .map(|(blocks, shift)| (blocks << shift).to_string());
        field.is("nvme id-ns", bytes);
    });
    field("serial", word(drive, "/serial"), &|field| {
        field.is_exactly("lsblk", word(lsblk, "/serial"));
        // A bridge's own serial is the stick's; smartctl asks the disk behind it.
        field.is("smartctl", word(&smart, "/serial_number"));
        field.is("nvme id-ctrl", word(&controller, "/sn"));
        // For SCSI, udev calls the WWN so.
        let short = udev.get(if scsi { "ID_SCSI_SERIAL" } else { "ID_SERIAL_SHORT" });
        field.is("udev", short.cloned());
    });
    field("model", word(drive, "/model"), &|field| {
        field.is_exactly("lsblk", word(lsblk, "/model"));
        // For SCSI, smartctl puts the vendor in front of it.
        if !scsi && text(drive, "/transport").is_ok_and(|transport| transport != "usb") {
            field.is("smartctl", word(&smart, "/model_name"));
        }
        field.is("smartctl", word(&smart, "/scsi_product"));
        field.is("nvme id-ctrl", word(&controller, "/mn"));
    });
    field("firmware", word(drive, "/firmware"), &|field| {
        field.is("lsblk", word(lsblk, "/rev"));
        field.is("smartctl", word(&smart, "/firmware_version"));
        field.is("smartctl", word(&smart, "/scsi_revision"));
        field.is("nvme id-ctrl", word(&controller, "/fr"));
    });
    field("wwn", digits(word(drive, "/wwn")), &|field| {
        if pmem.is_null() {
            field.is_exactly("lsblk", digits(word(lsblk, "/wwn")));
        }
        // lsblk knows nothing of the namespaces of persistent memory.
        field.is("ndctl", word(&pmem, "/0/uuid").map(|uuid| uuid.replace('-', "")));
        field.is("udev", digits(udev.get("ID_WWN").cloned()));
        let part = |name| smart.pointer(&format!("/wwn/{name}")).and_then(Value::as_u64);
        let whole = part("naa").zip(part("oui")).zip(part("id"));
        field.is(
            "smartctl",
            whole.map(|((naa, oui), id)| format!("{naa:x}{oui:06x}{id:09x}")),
        );
        // Where there is none, smartctl says so in words.
        let unit = word(&smart, "/logical_unit_id").filter(|id| id.starts_with("0x"));
        field.is("smartctl", digits(unit));
    });
    field("namespaces", word(drive, "/namespaces"), &|field| {
        field.is("nvme id-ctrl", word(&controller, "/nn"));
    });
    field("zones", word(drive, "/zoned"), &|field| {
        field.is_exactly("lsblk", word(lsblk, "/zoned").filter(|model| model != "none"));
    });
    let evidence = |name: &str| word(drive, &format!("/evidence/{name}"));
    field("namespace", evidence("namespace"), &|field| {
        field.is("udev", udev.get("ID_NSID").cloned());
    });
    let blank = |id: &String| id.chars().any(|c| c != '0');
    field("eui64", evidence("eui64"), &|field| {
        field.is_exactly("nvme id-ns", word(&namespace, "/eui64").filter(blank));
    });
    field("nguid", evidence("nguid"), &|field| {
        field.is_exactly("nvme id-ns", word(&namespace, "/nguid").filter(blank));
    });
    field("uuid", evidence("nvmeUuid"), &|field| {
        let told = named(&descriptors, "uuid");
        field.is_exactly(
            "nvme ns-descs",
            told.filter(|uuid| uuid.chars().any(|c| c != '0' && c != '-')),
        );
    });
    field("turns", Some(text(drive, "/drive_type")?.to_owned()), &|field| {
        // Neither lsblk nor the kernel knows what is behind virtio and USB: they say that it turns.
        let known = ["sata", "sas", "scsi"]
            .iter()
            .any(|known| text(drive, "/transport").is_ok_and(|t| t == *known));
        let turns = lsblk.get("rota").and_then(Value::as_bool);
        let kind = turns
            .filter(|_| known)
            .map(|turns| if turns { "hdd" } else { "ssd" });
        field.is("lsblk", kind.map(str::to_owned));
        let rate = smart
            .get("rotation_rate")
            .and_then(Value::as_u64)
            .filter(|_| known);
        field.is(
            "smartctl",
            rate.map(|rate| if rate > 0 { "hdd" } else { "ssd" }.to_owned()),
        );
    });
    Ok(())
}

fn as_expected(drives: &[Value]) -> Result<()> {
    for want in &SHOWN {
        let serial = want.serial.map(str::to_owned);
        let drive = drives.iter().find(|drive| word(drive, "/serial") == serial);
        let drive = drive.with_context(|| format!("no drive {serial:?}"))?;
        let tier = word(drive, "/classification/tier");
        ensure!(
            text(drive, "/drive_type")? == want.kind
                && text(drive, "/transport")? == want.transport
                && tier.as_deref() == want.tier
                && drive.get("claimable") == Some(&Value::Bool(want.claimable)),
            "{drive}"
        );
        ensure!(
            want.claimable || !list(drive, "/refusals").is_empty(),
            "no word why {drive} is not claimable"
        );
    }
    let pmem = drives
        .iter()
        .find(|drive| word(drive, "/drive_type").as_deref() == Some("pmem"));
    let pmem = pmem.context("no persistent memory")?;
    ensure!(
        text(pmem, "/classification/tier")? == "ultraFast" && text(pmem, "/transport")? == "nvdimm",
        "{pmem}"
    );
    let named = |kind: &str, word_: &str| {
        let them = drives
            .iter()
            .filter(|drive| word(drive, kind).as_deref() == Some(word_));
        them.count()
    };
    ensure!(named("/serial", "TWO-42") == 2, "each namespace is a drive");
    ensure!(named("/serial", "PATHS-42") == 1, "two paths are one drive");
    Ok(())
}

async fn on(kernel: Kernel, bed: &Bed) -> Result<()> {
    let name = format!("zoo-{}", kernel.line().replace('.', "-"));
    let mut guest = Guest::boot(&zoo(bed, &name, kernel)?, bed.path())?;
    // Without labels persistent memory has no identity; one namespace with a UUID, as its administrators make it.
    guest.sh("ndctl destroy-namespace -f all; ndctl create-namespace -m fsdax")?;
    bed.start_agent(&mut guest, "", "")?;
    let kernel_s: BTreeSet<String> = guest
        .sh("cd /sys/block; for d in *; do [ -e $d/device ] && [ \"$(cat $d/hidden)\" = 0 ] && echo $d; done; true")?
        .lines()
        .map(str::to_owned)
        .collect();
    bed.see(&mut guest, kernel_s.len()).await?;
    let drives = bed.asked(&mut guest).await?;
    let shown: BTreeSet<String> = drives.iter().filter_map(|drive| word(drive, "/device")).collect();
    ensure!(shown == kernel_s, "shown {shown:?}, the kernel has {kernel_s:?}");
    let hidden = guest.sh("cat /sys/block/*/hidden | grep -c 1")?;
    // One for each way to each namespace.
    ensure!(hidden.trim() == "6", "{hidden} hidden paths");
    as_expected(&drives)?;
    let told = guest.json("lsblk -JOb -d")?;
    let mut wrong = Vec::new();
    for drive in &drives {
        let device = text(drive, "/device")?;
        let said = list(&told, "/blockdevices")
            .iter()
            .find(|one| word(one, "/name").as_deref() == Some(device));
        compare(
            &mut guest,
            drive,
            said.context("lsblk does not know it")?,
            &mut wrong,
        )?;
    }
    println!("  {name}: {} drives compared", drives.len());
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    captured(&mut guest, &drives)
}

/// What the guest's agent captures tells nothing of whose drives they are; `SMART_STORAGE_BUNDLES=FOLDER` keeps it, as
/// a fixture of the agent's tests.
fn captured(guest: &mut Guest, drives: &[Value]) -> Result<()> {
    let bundle = guest.sh("/opt/smart-storage-agent capture 2>/dev/null")?;
    for drive in drives {
        for field in ["/serial", "/wwn"] {
            // Those of the guest's own disks are words.
            let id = digits(word(drive, field)).filter(|id| id.contains(|c: char| c.is_ascii_digit()));
            let Some(id) = id else {
                continue;
            };
            ensure!(!bundle.contains(&id), "{id} is in the bundle");
        }
    }
    ensure!(!bundle.contains(guest.name()), "the host's name is in the bundle");
    if let Some(folder) = env::var_os("SMART_STORAGE_BUNDLES") {
        fs::write(Path::new(&folder).join(format!("{}.json", guest.name())), bundle)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_class_of_drive_is_what_the_guest_s_own_tools_say() -> Result<()> {
    if skipped("hardware: classes", &GUEST)? {
        return Ok(());
    }
    for kernel in Kernel::ALL {
        // A cluster of its own: drives with the same ids on two nodes would be in conflict, and rightly.
        let bed = Bed::start("classes").await?;
        on(kernel, &bed).await.with_context(|| kernel.line())?;
    }
    Ok(())
}
