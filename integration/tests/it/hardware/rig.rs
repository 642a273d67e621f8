//! A guest whose drives serve a pool: what is on them, who holds them, and whether their bytes are still those that
//! were written.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use smart_storage_integration::{Guest, MIB, eventually, quietly};

use super::bed::Bed;
use crate::reading::{list, noise, text};

pub const PATIENCE: Duration = Duration::from_secs(120);
const FILE_BYTES: usize = 300_000;

/// A member on a drive, as the guest shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name of the PoolMember.
    pub name: String,
    /// The drive's id.
    pub drive: String,
    /// What the kernel calls the drive now.
    pub device: String,
}

/// A pool and its class over every drive of the guests that a pool may take and whose kernel says what it is.
pub async fn pool(bed: &Bed, drives: usize) -> Result<()> {
    let api = "storage.billyronks.io/v1";
    let pool = json!({
        "apiVersion": api, "kind": "UnifiedPool", "metadata": {"name": "guests"},
        "spec": {
            "poolType": "file", "backend": {"type": "seaweedfs"},
            "driveSelector": {"driveTypes": ["nvme", "hdd"]},
            "capacity": {"minDrives": drives, "maxDrives": drives},
        },
    });
    let class = json!({
        "apiVersion": api, "kind": "UnifiedStorageClass", "metadata": {"name": "guests"},
        "spec": {
            "storageType": "file", "tier": "auto", "backend": "seaweedfs", "reclaimPolicy": "Delete",
            "isDefault": true,
        },
    });
    for (kind, object) in [("unifiedpools", pool), ("unifiedstorageclasses", class)] {
        bed.create(kind, &object).await?;
    }
    Ok(())
}

/// The members of the pool by the serials of their drives, once `count` of them serve. What listens in the guest is
/// then found on the host as well.
pub async fn members(bed: &Bed, guest: &mut Guest, count: usize) -> Result<BTreeMap<String, Member>> {
    let node = guest.name().to_owned();
    // What is shown may be from before the guest's last start: first its processes, two ports each.
    let started = guest.wait_for(&format!("[ $({PORTS} | wc -l) -ge {} ]", 2 * count));
    started.with_context(|| Bed::agent_log(guest))?;
    let seen = eventually(PATIENCE, &format!("{count} members serve"), || async {
        let members = bed.cluster.object("poolmembers").await?;
        let mut found = BTreeMap::new();
        for drive in bed.drives(&node).await? {
            let id = text(&drive, "/id")?.to_owned();
            let name = format!("pm-{id}");
            let is_it = |member: &&Value| text(member, "/metadata/name").is_ok_and(|found| found == name);
            let Some(member) = list(&members, "/items").iter().find(is_it) else {
                continue;
            };
            ensure!(text(member, "/status/phase")? == "Online", "{member}");
            let device = text(&drive, "/device")?.to_owned();
            found.insert(
                text(&drive, "/serial")?.to_owned(),
                Member {
                    name,
                    drive: id,
                    device,
                },
            );
        }
        ensure!(found.len() == count, "{found:?}");
        Ok(Some(found))
    })
    .await;
    let seen = seen.with_context(|| Bed::agent_log(guest))?;
    forward(guest)?;
    Ok(seen)
}

/// What the members' processes listen on is found on the host as well.
pub fn forward(guest: &mut Guest) -> Result<()> {
    for port in listening(guest)? {
        guest.forward(port)?;
    }
    Ok(())
}

/// Members copy to each other: each guest reaches what the others listen on.
pub fn connect(guests: &mut [Guest]) -> Result<()> {
    for guest in &mut *guests {
        forward(guest)?;
    }
    let all: Vec<_> = guests.iter().map(|guest| guest.forwarded().clone()).collect();
    for (mine, guest) in guests.iter_mut().enumerate() {
        let others = all.iter().enumerate().filter(|(index, _)| *index != mine);
        for port in others.flat_map(|(_, ports)| ports) {
            guest.reach(*port)?;
        }
    }
    Ok(())
}

/// The flags of the members' processes that name ports.
const PORTS: &str =
    "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -E '^-port(\\.grpc)?=' | sort -u";

/// The ports of the members' processes that the host does not have yet.
fn listening(guest: &mut Guest) -> Result<Vec<u16>> {
    let lines = guest.sh(PORTS)?;
    let ports = lines
        .lines()
        .filter_map(|line| line.rsplit_once('=')?.1.parse().ok());
    Ok(ports.filter(|port| !guest.forwarded().contains(port)).collect())
}

/// Claims with a file each, and what is in it.
#[derive(Debug, Default)]
pub struct Written(BTreeMap<String, (String, Vec<u8>)>);

impl Written {
    /// Claims storage until every member holds some of it.
    pub async fn everywhere(
        bed: &Bed,
        guest: &mut Guest,
        members: &BTreeMap<String, Member>,
    ) -> Result<Self> {
        let mut written = Self::default();
        // SeaweedFS throws dice for each: of four members one is missed forty times once in some thousand runs.
        for seed in 0..40 {
            let holders = holders(guest)?;
            let all = members
                .values()
                .all(|member| holders.keys().any(|device| is_on(device, &member.device)));
            if all {
                return Ok(written);
            }
            written.one_more(bed, seed).await?;
        }
        anyhow::bail!(
            "forty claims, and some member holds nothing: {:?}",
            holders(guest)?
        )
    }

    async fn one_more(&mut self, bed: &Bed, seed: u64) -> Result<()> {
        let ask = json!({"name": format!("c{seed}"), "storage_type": "file", "capacity_bytes": 8 * MIB});
        let claim = bed.cluster.rest()?.post("/v1/storage", &ask).await?;
        let id = text(&claim, "/id")?.to_owned();
        bed.cluster.phase(&id, "Ready", PATIENCE).await?;
        let (path, bytes) = (format!("/buckets/{id}/data/kept"), noise(seed, FILE_BYTES));
        quietly(PATIENCE, "a file is written", || async {
            let status = bed.cluster.filer()?.put(&path, bytes.clone()).await?;
            ensure!(status.is_success(), "{status}");
            Ok(Some(()))
        })
        .await?;
        self.0.insert(id, (path, bytes));
        Ok(())
    }

    /// The claims whose bytes are on a drive.
    pub fn on(&self, guest: &mut Guest, member: &Member) -> Result<Vec<String>> {
        let holders = holders(guest)?;
        let mine = holders.iter().filter(|(device, _)| is_on(device, &member.device));
        let held: Vec<&String> = mine.flat_map(|(_, claims)| claims).collect();
        Ok(self.0.keys().filter(|id| held.contains(id)).cloned().collect())
    }

    /// Every byte is there.
    pub async fn is_whole(&self, bed: &Bed) -> Result<()> {
        eventually(PATIENCE, &format!("{} files are whole", self.0.len()), || async {
            for (path, bytes) in self.0.values() {
                ensure!(
                    bed.cluster.filer()?.get(path).await? == *bytes,
                    "{path}: other bytes"
                );
            }
            Ok(Some(()))
        })
        .await
    }
}

/// `nvme0n1p1` is on `nvme0n1`, and `sda1` on `sda`.
fn is_on(partition: &str, drive: &str) -> bool {
    partition.strip_prefix(drive).is_some_and(|rest| {
        rest.trim_start_matches('p').chars().all(|c| c.is_ascii_digit()) && !rest.is_empty()
    })
}

/// The volumes of the guest's members, by the names of their files.
pub fn volumes(guest: &mut Guest) -> Result<Vec<String>> {
    let files =
        guest.sh("find /var/lib/smart-storage/agent/mounts -name '*.dat' 2>/dev/null | sed 's#^.*/##'")?;
    Ok(files.lines().map(str::to_owned).collect())
}

/// Which claims have storage files on which partition.
fn holders(guest: &mut Guest) -> Result<BTreeMap<String, Vec<String>>> {
    let script = "grep smart-storage/agent/ /proc/mounts | while read -r device point rest; do \
        find \"$point\" -name '*.dat' | sed \"s#^.*/#${device#/dev/} #\"; done";
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in guest.sh(script)?.lines() {
        let (device, file) = line.split_once(' ').context("no file")?;
        let claim = file.rsplit_once('_').map_or(file, |(claim, _)| claim);
        found.entry(device.to_owned()).or_default().push(claim.to_owned());
    }
    Ok(found)
}
