//! Drives that come, go, grow and lose a path: how long until REST shows it, and what a storm costs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use smart_storage_integration::{
    Disk, GIB, Guest, Kernel, MIB,
    guest::{Namespace, Spindle, scsi_disk},
    needs::GUEST,
    quietly, skipped,
};

use super::bed::Bed;
use crate::reading::text;

/// Events of each sort: a plug and a pull each time.
const PLUGS: usize = 13;
const PATIENCE: Duration = Duration::from_secs(30);
const STORM: u64 = 1000;
const WWN: u64 = 0x5000_c500_5555_0001;

/// How long things took.
#[derive(Debug, Default)]
struct Times(Vec<Duration>);

impl Times {
    fn at(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(at).copied().unwrap_or_default()
    }

    fn print(&self, what: &str) {
        println!(
            "  {what}: {} events, p50 {} ms, p90 {} ms, p99 {} ms",
            self.0.len(),
            self.at(50).as_millis(),
            self.at(90).as_millis(),
            self.at(99).as_millis()
        );
    }
}

/// Waits until REST shows a drive with this serial, or none any more.
async fn seen(bed: &Bed, node: &str, serial: &str, there: bool) -> Result<Value> {
    let what = if there { "is shown" } else { "is gone" };
    quietly(PATIENCE, &format!("{serial} {what}"), || async {
        let drives = bed.drives(node).await?;
        let found = drives.into_iter().find(|drive| {
            let present = drive.get("present") == Some(&Value::Bool(true));
            present && text(drive, "/serial").is_ok_and(|found| found == serial)
        });
        Ok((found.is_some() == there).then(|| found.unwrap_or_default()))
    })
    .await
}

/// Whether the guest's kernel has a disk with this serial.
fn kernel_has(guest: &mut Guest, serial: &str) -> Result<bool> {
    let script = format!(
        "grep -q {serial} /sys/block/*/serial /sys/block/*/device/serial /sys/block/*/device/vpd_pg80 2>/dev/null"
    );
    Ok(guest.try_sh(&script)?.0 == 0)
}

/// What the guest's kernel has, and what its agent counted.
fn state(guest: &mut Guest) -> String {
    let script = "lsblk -o NAME,SERIAL,SIZE; ls /sys/bus/pci/devices; dmesg | tail -n 20; ls /run/udev; \
        wget -q -O - http://127.0.0.1:9080/metrics | grep watched";
    let said = guest.try_sh(script).map(|(_, out, _)| out).unwrap_or_default();
    format!("{said}{}", Bed::agent_log(guest))
}

/// Plugs and pulls a drive again and again. The time counts from QEMU's answer to the command, which is before the
/// guest's kernel says anything: what the kernel itself takes is in it.
async fn plugged_and_pulled(
    bed: &Bed,
    guest: &mut Guest,
    device: &Value,
    serial: &str,
    plugs: usize,
) -> Result<Times> {
    let (mut times, name) = (Times::default(), guest.name().to_owned());
    let id = text(device, "/id")?.to_owned();
    let mut missed = 0;
    for _ in 0..plugs {
        guest.plug(device)?;
        let start = Instant::now();
        let shown = seen(bed, &name, serial, true).await;
        if shown.is_err() && !kernel_has(guest, serial)? {
            // QEMU's slot and the kernel's driver of it: nothing that the agent could have heard.
            println!("  {serial}: the guest's kernel did not take it: {}", state(guest));
            missed += 1;
            ensure!(missed <= 2, "no kernel takes it");
            guest.pull(&id, PATIENCE)?;
            continue;
        }
        shown.with_context(|| state(guest))?;
        times.0.push(start.elapsed());
        // The time of a pull counts from when the guest has let go.
        guest.pull(&id, PATIENCE)?;
        let start = Instant::now();
        let gone = seen(bed, &name, serial, false).await;
        gone.with_context(|| state(guest))?;
        times.0.push(start.elapsed());
    }
    Ok(times)
}

/// Whatever was announced has been looked at.
async fn quiet(guest: &mut Guest) -> Result<(u64, u64)> {
    let mut before = (Bed::counted(guest, "event")?, Bed::counted(guest, "probe")?);
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = (Bed::counted(guest, "event")?, Bed::counted(guest, "probe")?);
        if now == before {
            return Ok(now);
        }
        before = now;
    }
    anyhow::bail!("the agent never rests: {before:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn drives_come_go_grow_and_lose_a_path() -> Result<()> {
    if skipped("hardware: hotplug", &GUEST)? {
        return Ok(());
    }
    let bed = Bed::start("plug").await?;
    let disk = |name: &str| Disk::blank(bed.path(), name, 64 * MIB);
    let mut machine = bed.node("plug", Kernel::Linux6_12)?;
    machine.slot("hp0");
    let namespace = |name: &str, nsid: u32| -> Result<Namespace> {
        let disk = disk(name)?;
        Ok(Namespace {
            disk,
            properties: json!({"nsid": nsid}),
        })
    };
    machine.nvme("two", "TWO", &[namespace("two-1", 1)?, namespace("two-2", 2)?]);
    machine.nvme_pair("paths", "PATHS", &namespace("paths-1", 1)?);
    let grows = disk("grows")?;
    machine.virtio_scsi(&grows, Some("GROWS"), Some(WWN), Spindle::Flash);
    let mut guest = Guest::boot(&machine, bed.path())?;
    bed.start_agent(&mut guest, "", "")?;
    bed.see(&mut guest, 7).await?;

    let (fast, slow, plain) = (disk("fast")?, disk("slow")?, disk("plain")?);
    for disk in [&fast, &slow, &plain] {
        guest.insert(disk)?;
    }
    let nvme = json!({"driver": "nvme", "id": "fast", "bus": "hp0", "serial": "FAST", "drive": "fast"});
    let mut all = plugged_and_pulled(&bed, &mut guest, &nvme, "FAST", PLUGS).await?;
    all.print("NVMe (ACPI)");
    let scsi = scsi_disk("scsi0.0", &slow, Some("SLOW"), Some(WWN + 8), Spindle::Flash);
    let more = plugged_and_pulled(&bed, &mut guest, &scsi, "SLOW", PLUGS).await?;
    more.print("virtio-scsi");
    all.0.extend(more.0);
    let virtio = json!({
        "driver": "virtio-blk-pci", "id": "plain", "bus": "hp0", "serial": "PLAIN", "drive": "plain",
    });
    let more = plugged_and_pulled(&bed, &mut guest, &virtio, "PLAIN", PLUGS / 3).await?;
    more.print("virtio-blk");
    all.0.extend(more.0);
    all.print("plug or pull to GET /v1/nodes");

    println!("  a namespace is detached and attached");
    let two = guest.controller("TWO")?;
    guest.sh(&format!("nvme detach-ns /dev/{two} -n 2 -c 0"))?;
    let namespaces = |drives: Vec<Value>| {
        let mine = |drive: &&Value| text(drive, "/serial").is_ok_and(|serial| serial == "TWO");
        drives.iter().filter(mine).count()
    };
    let attach = format!("nvme attach-ns /dev/{two} -n 2 -c 0");
    for (count, script) in [(1, attach.as_str()), (2, "true")] {
        quietly(PATIENCE, &format!("{count} namespaces"), || async {
            Ok((namespaces(bed.drives("plug").await?) == count).then_some(()))
        })
        .await?;
        guest.sh(script)?;
    }

    println!("  a device grows");
    guest.qmp("block_resize", &json!({"node-name": "grows", "size": GIB}))?;
    let before = seen(&bed, "plug", "GROWS", true).await?;
    quietly(PATIENCE, "the new size", || async {
        let now = seen(&bed, "plug", "GROWS", true).await?;
        ensure!(text(&now, "/id")? == text(&before, "/id")?, "{now}");
        Ok((now.get("capacity_bytes").and_then(Value::as_u64) == Some(GIB)).then_some(()))
    })
    .await?;

    println!("  one of two paths goes");
    let before = seen(&bed, "plug", "PATHS", true).await?;
    guest.pull("paths-b", PATIENCE)?;
    quiet(&mut guest).await?;
    let now = seen(&bed, "plug", "PATHS", true).await?;
    ensure!(text(&now, "/id")? == text(&before, "/id")?, "{now}");

    println!("  a storm of {STORM} announcements");
    let (events, probes) = quiet(&mut guest).await?;
    guest.sh(&format!(
        "i=0; while [ $i -lt {STORM} ]; do echo change >/sys/block/sda/uevent; i=$((i+1)); done"
    ))?;
    let (after, probed) = quiet(&mut guest).await?;
    println!("  {} heard, {} probes", after - events, probed - probes);
    ensure!(after - events >= STORM, "{} heard", after - events);
    // The announcements take seconds under emulation: one probe at their beginning, and one at the end.
    ensure!(probed - probes <= 4, "{} probes", probed - probes);

    println!("  its own opens announce nothing");
    Bed::stop_agent(&mut guest)?;
    bed.start_agent(&mut guest, "", "")?;
    guest.wait_for("wget -q -O - http://127.0.0.1:9081/readyz")?;
    // Every drive is opened, read, and opened exclusively where it looks free.
    let (heard, probes) = quiet(&mut guest).await?;
    ensure!(
        heard == 0 && probes >= 7,
        "{heard} announcements after {probes} probes, and nobody did anything"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn native_hotplug_is_heard_as_well() -> Result<()> {
    if skipped("hardware: native hotplug", &GUEST)? {
        return Ok(());
    }
    let bed = Bed::start("native").await?;
    let mut machine = bed.node("native", Kernel::Linux6_1)?;
    machine.native_hotplug();
    machine.slot("hp0");
    let mut guest = Guest::boot(&machine, bed.path())?;
    bed.start_agent(&mut guest, "", "")?;
    bed.see(&mut guest, 3).await?;
    let fast = Disk::blank(bed.path(), "fast", 64 * MIB)?;
    guest.insert(&fast)?;
    let nvme = json!({"driver": "nvme", "id": "fast", "bus": "hp0", "serial": "FAST", "drive": "fast"});
    let times = plugged_and_pulled(&bed, &mut guest, &nvme, "FAST", 2).await?;
    times.print("NVMe (pciehp)");
    Ok(())
}
