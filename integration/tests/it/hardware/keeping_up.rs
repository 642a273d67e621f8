//! Drives of one pool under the same load: one becomes slow, one cannot read a sector. Both are found and told in words,
//! and nothing else happens to them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use smart_storage_integration::{Disk, GIB, Guest, Kernel, guest::Namespace, needs::GUEST, skipped, within};

use super::{
    bed::Bed,
    rig::{self, Member, Written},
};
use crate::reading::{list, text};

const PATIENCE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(500);
/// Neither the partition table nor the mark lies there, nor does the load read it.
const BAD_SECTOR: u64 = (GIB - (64 << 20)) / 512;

/// A condition of a member as status, reason and words.
async fn said(bed: &Bed, member: &Member, kind: &str) -> Result<(String, String, String)> {
    let object = bed
        .cluster
        .object(&format!("poolmembers/{}", member.name))
        .await?;
    ensure!(
        text(&object, "/status/phase")? == "Online",
        "it does not serve any more: {object}"
    );
    let conditions = list(&object, "/status/conditions");
    let is_it = |condition: &&Value| text(condition, "/type").is_ok_and(|found| found == kind);
    let found = conditions
        .iter()
        .find(is_it)
        .with_context(|| format!("no {kind}: {object}"))?;
    let part = |pointer| text(found, pointer).map(str::to_owned);
    Ok((part("/status")?, part("/reason")?, part("/message")?))
}

/// Has the drives looked at until a member's condition says this; answers its words.
async fn is_said(bed: &Bed, member: &Member, kind: &str, reason: &str) -> Result<String> {
    let what = format!("{} is {reason}", member.device);
    let (words, _) = within(PATIENCE, PAUSE, &what, || async {
        bed.cluster
            .rest()?
            .post("/v1/nodes/ward/classify", &Value::Null)
            .await?;
        let (_, found, words) = said(bed, member, kind).await?;
        ensure!(found == reason, "{found}: {words}");
        Ok(Some(words))
    })
    .await?;
    Ok(words)
}

/// What stands between a drive and its disk from now on.
fn put_between(guest: &mut Guest, disk: &Disk, mut node: Value) -> Result<()> {
    let name = format!("between-{}", disk.name);
    if let Some(node) = node.as_object_mut() {
        node.insert("node-name".to_owned(), name.as_str().into());
    }
    guest.qmp("blockdev-add", &node)?;
    guest.set(&format!("ns-{}", disk.name), "drive", &name.into())
}

/// Reads at random, each read alone and past the page cache.
fn load(guest: &mut Guest, members: &BTreeMap<String, Member>) -> Result<()> {
    for member in members.values() {
        guest.sh(&format!(
            "setsid sh -c 'while :; do dd if=/dev/{} of=/dev/null bs=4k iflag=direct count=64 \
             skip=$(($(od -An -N2 -tu2 /dev/urandom) % 8192)) 2>/dev/null; done' >/dev/null 2>&1 </dev/null &",
            member.device
        ))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_that_lags_behind_its_peers_or_cannot_read_is_told_and_left_alone() -> Result<()> {
    if skipped("hardware: keeping up", &GUEST)? {
        return Ok(());
    }
    let bed = Bed::start("ward").await?;
    // Before Linux 6.5 the kernel counts I/O of such namespaces on their hidden paths only.
    let mut machine = bed.node("ward", Kernel::Linux6_1)?;
    let mut disks = BTreeMap::new();
    for serial in ["ONE", "TWO", "LAME", "SCRATCHED"] {
        let disk = Disk::blank(bed.path(), &serial.to_lowercase(), GIB)?;
        let namespace = Namespace {
            disk: disk.clone(),
            properties: json!({"nsid": 1}),
        };
        machine.nvme(&format!("c-{}", disk.name), serial, &[namespace]);
        disks.insert(serial, disk);
    }
    let mut guest = Guest::boot(&machine, bed.path())?;
    bed.start_agent(&mut guest, "", "")?;
    bed.see(&mut guest, 4).await?;
    rig::pool(&bed, 4).await?;
    let members = rig::members(&bed, &mut guest, 4).await?;
    let written = Written::everywhere(&bed, &mut guest, &members).await?;
    let of = |serial: &str| members.get(serial).with_context(|| format!("no {serial}"));
    let (lame, scratched) = (of("LAME")?, of("SCRATCHED")?);
    let disk = |serial: &str| disks.get(serial).context("no such disk");

    load(&mut guest, &members)?;
    for member in members.values() {
        is_said(&bed, member, "Slow", "KeepsUp").await?;
        is_said(&bed, member, "DriveHealthy", "Good").await?;
    }

    let group = json!({"qom-type": "throttle-group", "id": "brake", "limits": {"iops-total": 20}});
    guest.qmp("object-add", &group)?;
    let brake = json!({"driver": "throttle", "throttle-group": "brake", "file": "lame"});
    put_between(&mut guest, disk("LAME")?, brake)?;
    let words = is_said(&bed, lame, "Slow", "SlowerThanPeers").await?;
    ensure!(words.contains("its 3 peers"), "{words}");
    for member in members.values().filter(|member| *member != lame) {
        is_said(&bed, member, "Slow", "KeepsUp").await?;
    }
    guest.set("ns-lame", "drive", &json!("lame"))?;
    is_said(&bed, lame, "Slow", "KeepsUp").await?;

    let sectors: Vec<u64> = (0..12).map(|place| BAD_SECTOR + place * 4096).collect();
    let rules: Vec<Value> = sectors
        .iter()
        .map(|sector| {
            json!({
                "event": "none", "iotype": "read", "errno": 5, "once": false, "immediately": true, "sector": sector,
            })
        })
        .collect();
    let bad = json!({"driver": "blkdebug", "image": "scratched", "inject-error": rules});
    put_between(&mut guest, disk("SCRATCHED")?, bad)?;
    let fails = |guest: &mut Guest, sector: u64| -> Result<()> {
        let device = &scratched.device;
        let (status, _, _) = guest.try_sh(&format!(
            "dd if=/dev/{device} of=/dev/null bs=512 iflag=direct count=1 skip={sector}"
        ))?;
        ensure!(status != 0, "{sector} can be read");
        Ok(())
    };
    for _ in 0..5 {
        fails(&mut guest, BAD_SECTOR)?;
    }
    let words = is_said(&bed, scratched, "DriveHealthy", "Warning").await?;
    ensure!(
        words.contains("at least 1 bad place") && words.contains(&format!("READ at sector {BAD_SECTOR}")),
        "{words}"
    );
    // The kernel's log takes ten in five seconds, and loses the others: they are read until it took enough.
    let start = Instant::now();
    let words = loop {
        for sector in &sectors {
            fails(&mut guest, *sector)?;
        }
        let (_, reason, words) = said(&bed, scratched, "DriveHealthy").await?;
        if reason == "Failing" {
            break words;
        }
        ensure!(start.elapsed() < PATIENCE, "{reason}: {words}");
        tokio::time::sleep(PAUSE).await;
    };
    println!("  it is Failing after {:.1?}: {words}", start.elapsed());
    ensure!(words.contains("bad places on its medium"), "{words}");
    for member in members.values().filter(|member| *member != scratched) {
        is_said(&bed, member, "DriveHealthy", "Good").await?;
    }

    println!("  everybody serves on, and every byte is there");
    ensure!(
        rig::members(&bed, &mut guest, 4).await? == members,
        "other members"
    );
    written.is_whole(&bed).await?;
    let events = http::Request::get("/apis/events.k8s.io/v1/events").body(Vec::new())?;
    let events = bed
        .cluster
        .kube()
        .await?
        .request::<Value>(events)
        .await?
        .to_string();
    for reason in ["DriveSlowerThanPeers", "DriveWarning", "DriveFailing"] {
        ensure!(events.contains(reason), "no event {reason}: {events}");
    }
    Ok(())
}
