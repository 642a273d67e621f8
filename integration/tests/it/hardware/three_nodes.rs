//! Three machines, one pool, every byte on two of them: a machine is lost, a drive is pulled, and the data stays.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use smart_storage_integration::{
    Disk, GIB, Guest, Kernel, MIB, eventually,
    guest::{Machine, Spindle, scsi_disk},
    needs::GUEST,
    skipped,
};

use super::{bed::Bed, rig};
use crate::reading::{complaints, list, noise, number, text};

const PATIENCE: Duration = Duration::from_secs(150);
const FIRST_WWN: u64 = 0x5000_c500_7777_0000;
const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn machine(bed: &Bed, index: usize, disk: &Disk) -> Result<Machine> {
    let name = NODES.get(index).context("no such node")?;
    let mut machine = bed.node(name, Kernel::Linux6_1)?;
    machine.virtio_scsi(disk, Some(&disk.name), Some(wwn(index)?), Spindle::Rpm(7200));
    Ok(machine)
}

fn wwn(index: usize) -> Result<u64> {
    Ok(FIRST_WWN + 8 * u64::try_from(index)?)
}

/// All members serve, and the host reaches each of them.
async fn serve(bed: &Bed, guests: &mut [Guest]) -> Result<()> {
    let served = eventually(PATIENCE, "three members on three nodes serve", || async {
        let pool = bed.cluster.object("unifiedpools/wide").await?;
        ensure!(
            number(&pool, "/status/nodeCount")? == 3 && complaints(&pool).is_empty(),
            "{}",
            complaints(&pool)
        );
        let members = bed.cluster.object("poolmembers").await?;
        let online = list(&members, "/items")
            .iter()
            .filter(|member| text(member, "/status/phase").is_ok_and(|phase| phase == "Online"));
        ensure!(online.count() == 3, "{members}");
        Ok(Some(()))
    })
    .await;
    if served.is_err() {
        for guest in &mut *guests {
            println!("{}", Bed::agent_log(guest));
        }
    }
    served?;
    rig::connect(guests)
}

async fn whole(bed: &Bed, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    eventually(PATIENCE, "the data is whole", || async {
        for (path, bytes) in files {
            ensure!(
                bed.cluster.filer()?.get(path).await? == *bytes,
                "{path}: other bytes"
            );
        }
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_machines_keep_what_two_of_them_hold() -> Result<()> {
    if skipped("hardware: three nodes", &GUEST)? {
        return Ok(());
    }
    let bed = Bed::start("three").await?;
    let mut disks = Vec::new();
    let mut guests = Vec::new();
    for index in 0..NODES.len() {
        let disk = Disk::blank(bed.path(), &format!("wide-{index}"), GIB)?;
        guests.push(Guest::switch_on(&machine(&bed, index, &disk)?, bed.path())?);
        disks.push(disk);
    }
    for guest in &mut guests {
        guest.ready()?;
        bed.start_agent(guest, "", "")?;
    }
    let api = "storage.billyronks.io/v1";
    let pool = json!({
        "apiVersion": api, "kind": "UnifiedPool", "metadata": {"name": "wide"},
        "spec": {
            "poolType": "file", "backend": {"type": "seaweedfs"}, "driveSelector": {"driveTypes": ["hdd"]},
            "capacity": {"minDrives": 3, "maxDrives": 3},
            "topology": {"spreadAcrossFaultDomains": true, "maxDrivesPerNode": 1, "minNodes": 3},
        },
    });
    let class = json!({
        "apiVersion": api, "kind": "UnifiedStorageClass", "metadata": {"name": "twice"},
        "spec": {
            "storageType": "file", "tier": "auto", "backend": "seaweedfs", "reclaimPolicy": "Delete",
            "redundancy": {"type": "replication", "replicationFactor": 2},
        },
    });
    bed.create("unifiedpools", &pool).await?;
    bed.create("unifiedstorageclasses", &class).await?;
    serve(&bed, &mut guests).await?;

    let ask = json!({"name": "kept", "storage_type": "file", "capacity_bytes": 16 * MIB, "class": "twice"});
    let claim = bed.cluster.rest()?.post("/v1/storage", &ask).await?;
    let id = text(&claim, "/id")?.to_owned();
    bed.cluster.phase(&id, "Ready", PATIENCE).await?;
    let mut files = BTreeMap::new();
    for seed in 0..6 {
        let (path, bytes) = (format!("/buckets/{id}/data/f{seed}"), noise(seed, 200_000));
        eventually(PATIENCE, "a file is written", || async {
            let status = bed.cluster.filer()?.put(&path, bytes.clone()).await?;
            ensure!(status.is_success(), "{status}");
            Ok(Some(()))
        })
        .await?;
        files.insert(path, bytes);
    }
    whole(&bed, &files).await?;
    // SeaweedFS may have made several volumes of it.
    let mut copies: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, guest) in guests.iter_mut().enumerate() {
        guest.sh("sync")?;
        for volume in rig::volumes(guest)?
            .into_iter()
            .filter(|volume| volume.contains(&id))
        {
            copies.entry(volume).or_default().push(index);
        }
    }
    ensure!(
        !copies.is_empty() && copies.values().all(|nodes| nodes.len() == 2),
        "every byte is on two machines: {copies:?}"
    );
    let holders = copies.values().next().cloned().unwrap_or_default();
    let (lost, pulled) = (
        *holders.first().context("no holder")?,
        *holders.last().context("no holder")?,
    );

    println!("  {} is lost", NODES[lost]);
    guests.get_mut(lost).context("no guest")?.cut_power()?;
    let away = format!("/v1/nodes/{}", NODES[lost]);
    eventually(
        PATIENCE,
        "the node is offline, and its member is said to be away",
        || async {
            let node = bed.cluster.rest()?.get(&away).await?;
            ensure!(text(&node, "/phase")? == "Offline", "{}", text(&node, "/phase")?);
            let said = complaints(&bed.cluster.object("unifiedpools/wide").await?);
            ensure!(said.contains(NODES[lost]), "{said}");
            Ok(Some(()))
        },
    )
    .await?;
    whole(&bed, &files).await?;

    println!("  it is back");
    let disk = disks.get(lost).context("no disk")?;
    let slot = guests.get_mut(lost).context("no guest")?;
    *slot = Guest::boot(&machine(&bed, lost, disk)?, bed.path())?;
    bed.start_agent(slot, "", "")?;
    serve(&bed, &mut guests).await?;
    whole(&bed, &files).await?;

    println!("  a drive of {} is pulled", NODES[pulled]);
    let (guest, disk) = (
        guests.get_mut(pulled).context("no guest")?,
        disks.get(pulled).context("no disk")?,
    );
    guest.pull(&disk.name, PATIENCE)?;
    eventually(PATIENCE, "its member is missed", || async {
        let said = complaints(&bed.cluster.object("unifiedpools/wide").await?);
        ensure!(
            said.contains("MemberMissing") && said.contains(NODES[pulled]),
            "{said}"
        );
        Ok(Some(()))
    })
    .await?;
    whole(&bed, &files).await?;
    guest.eject(disk)?;
    guest.insert(disk)?;
    let device: Value = scsi_disk(
        "scsi0.0",
        disk,
        Some(&disk.name),
        Some(wwn(pulled)?),
        Spindle::Rpm(7200),
    );
    guest.plug(&device)?;
    serve(&bed, &mut guests).await?;
    whole(&bed, &files).await
}
