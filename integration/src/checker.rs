//! Compares what an instance says with what there really is.
//!
//! The ledger against the volumes, the volumes against claims, directories, rules, quotas, S3 identities, Secrets and
//! the files on the drives; the members against the marks on the drives, the mounts, the volume servers and what the
//! master sees. [`read`] reads all of that from the real parts, [`compare`] is pure and answers every difference as a
//! sentence; an instance that has converged has none.

mod marks;
mod picture;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

pub use self::{
    marks::{Mark, read as mark_on},
    picture::{Claim, Directory, Member, Picture, Pool, Rule, Server, Volume, read, read_machine},
};
use crate::cluster::Cluster;

/// Waits until an instance has no differences; answers how long that took.
///
/// # Errors
/// There are some after `deadline`: all of them as they were last seen.
pub async fn converged(cluster: &Cluster, deadline: Duration) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let found = match read(cluster).await {
            Ok(picture) => compare(&picture),
            Err(error) => vec![format!("the instance cannot be read: {error:#}")],
        };
        if found.is_empty() {
            return Ok(start.elapsed());
        }
        if start.elapsed() > deadline {
            bail!(
                "after {deadline:?} there are differences:\n  {}",
                found.join("\n  ")
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What may not be at any moment, however much is half-way: also where a program has just died. The store is read where
/// it was the controller's death.
///
/// # Errors
/// The machine cannot be read, or something of that is there.
pub fn holds_at_any_moment(cluster: &Cluster, controller_is_dead: bool) -> Result<()> {
    let found = never(&read_machine(cluster, controller_is_dead)?);
    ensure!(found.is_empty(), "what may never be:\n  {}", found.join("\n  "));
    Ok(())
}

/// As [`holds_at_any_moment`], a sentence each.
#[must_use]
pub fn never(picture: &Picture) -> Vec<String> {
    let mut found = Differences::default();
    for mark in picture.marks.iter().filter(|mark| mark.going) {
        if picture.mounts.contains(&mark.member) {
            found.say(format!(
                "{}: its mark says that {} is released, and it is mounted",
                mark.drive, mark.member
            ));
        }
    }
    found.once(
        picture.marks.iter().map(|mark| &mark.member),
        "drives with one mark",
    );
    found.once(picture.mounts.iter(), "mounts of a member");
    for mount in &picture.mounts {
        if !picture.records.contains(mount) {
            found.say(format!(
                "{mount}: it is mounted, and the agent has no record of it"
            ));
        }
    }
    for (name, pool) in &picture.pools {
        let mine = picture.volumes.values().filter(|volume| volume.pool == *name);
        let held: u64 = mine.map(|volume| volume.promised).sum();
        if held > pool.promised {
            found.say(format!(
                "pool {name} has promised {} bytes, and its volumes hold {held}: the rest can be promised twice",
                pool.promised
            ));
        }
    }
    found.0
}

/// Everything that does not fit together, a sentence each.
#[must_use]
pub fn compare(picture: &Picture) -> Vec<String> {
    let mut found = Differences::default();
    found.claims(picture);
    found.ledger(picture);
    found.backend(picture);
    found.secrets(picture);
    found.members(picture);
    found.processes(picture);
    found.rest(picture);
    found.0
}

impl Picture {
    /// What its owner keeps: its directory says so, and its volume is no more.
    fn kept(&self) -> impl Iterator<Item = &String> {
        self.directories
            .iter()
            .filter(|(name, directory)| directory.kept && !self.volumes.contains_key(*name))
            .map(|(name, _)| name)
    }

    /// Bytes of the slots that such take on a pool.
    fn kept_on(&self, pool: &str) -> u64 {
        let member = self.members.values().find(|member| member.pool == pool);
        let here = |name: &&String| {
            let mut rules = self.rules.iter();
            rules.any(|rule| rule.volume == **name && rule.disk_tag == pool)
        };
        let slots: u64 = self
            .kept()
            .filter(here)
            .filter_map(|name| self.collections.get(name))
            .sum();
        slots * member.map_or(0, |member| member.slot_bytes)
    }
}

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn say(&mut self, sentence: String) {
        self.0.push(sentence);
    }

    /// Both sides must be the same set: `one` has what `other` lacks, and the reverse.
    fn same<T: Ord + Display>(
        &mut self,
        one: impl IntoIterator<Item = T>,
        one_name: &str,
        other: impl IntoIterator<Item = T>,
        other_name: &str,
    ) {
        let (one, other): (BTreeSet<T>, BTreeSet<T>) =
            (one.into_iter().collect(), other.into_iter().collect());
        for missing in one.difference(&other) {
            self.say(format!("{missing}: {one_name}, but no {other_name}"));
        }
        for missing in other.difference(&one) {
            self.say(format!("{missing}: {other_name}, but no {one_name}"));
        }
    }

    /// Nothing may be there twice.
    fn once<T: Ord + Display>(&mut self, all: impl IntoIterator<Item = T>, what: &str) {
        let mut counted = BTreeMap::new();
        for one in all {
            *counted.entry(one).or_insert(0) += 1;
        }
        for (one, times) in counted.into_iter().filter(|(_, times)| *times > 1) {
            self.say(format!("{one}: there are {times} of {what}"));
        }
    }

    fn claims(&mut self, picture: &Picture) {
        for claim in &picture.claims {
            if claim.phase != "Ready" {
                self.say(format!(
                    "claim {} is {}: {}",
                    claim.name, claim.phase, claim.words
                ));
            }
            let Some(volume) = picture.volumes.get(&claim.volume) else {
                self.say(format!(
                    "claim {}: its volume {:?} does not exist",
                    claim.name, claim.volume
                ));
                continue;
            };
            if volume.claim_uid != claim.uid {
                self.say(format!(
                    "claim {}: its volume {} is of another claim",
                    claim.name, claim.volume
                ));
            }
            if !claim.wanted.is_empty() && claim.wanted != claim.volume {
                self.say(format!(
                    "claim {} asks for volume {} and has {}",
                    claim.name, claim.wanted, claim.volume
                ));
            }
            for (what, bytes) in [("asks for", claim.asked), ("says that it has", claim.has)] {
                if bytes != volume.bytes {
                    self.say(format!(
                        "claim {} {what} {bytes} bytes, volume {} says {}",
                        claim.name, claim.volume, volume.bytes
                    ));
                }
            }
        }
        self.once(
            picture.claims.iter().map(|claim| &claim.volume),
            "claims for one volume",
        );
        for (name, volume) in &picture.volumes {
            if volume.deleting || volume.phase != "Ready" {
                self.say(format!(
                    "volume {name} is {}, deleting: {}: {}",
                    volume.phase, volume.deleting, volume.words
                ));
            }
            if !picture.claims.iter().any(|claim| claim.uid == volume.claim_uid) {
                self.say(format!("volume {name}: its claim does not exist"));
            }
        }
    }

    fn ledger(&mut self, picture: &Picture) {
        for (name, pool) in &picture.pools {
            if pool.phase != "Ready" || pool.deleting {
                self.say(format!("pool {name} is {}: {}", pool.phase, pool.words));
            }
            let mine = picture.volumes.values().filter(|volume| volume.pool == *name);
            let held: u64 = mine.map(|volume| volume.promised).sum();
            if pool.promised != held {
                self.say(format!(
                    "pool {name} has promised {} bytes, its volumes hold {held}",
                    pool.promised
                ));
            }
            let members = picture.members.values().filter(|member| member.pool == *name);
            let total: u64 = members.map(|member| member.slots * member.slot_bytes).sum();
            if pool.total != total {
                self.say(format!(
                    "pool {name} says {} bytes, its members have {total}",
                    pool.total
                ));
            }
            for volume in &pool.reserved {
                self.say(format!("pool {name}: bytes are still reserved for {volume}"));
            }
            let kept = picture.kept_on(name);
            if pool.retained != kept {
                self.say(format!(
                    "pool {name} says that {} bytes are kept after their volumes, there are {kept}",
                    pool.retained
                ));
            }
            let free = pool.total.saturating_sub(pool.promised + pool.retained);
            if pool.promised > pool.total || pool.available != free {
                self.say(format!(
                    "pool {name}: {} of {} bytes are promised and {} said to be free",
                    pool.promised, pool.total, pool.available
                ));
            }
        }
    }

    fn backend(&mut self, picture: &Picture) {
        self.same(
            picture.volumes.keys(),
            "volume",
            picture.identities.keys(),
            "S3 identity",
        );
        // What is kept after its volume is all there but for its keys.
        let volumes = || picture.volumes.keys().chain(picture.kept());
        self.same(volumes(), "volume", picture.directories.keys(), "directory");
        self.same(
            volumes(),
            "volume",
            picture.collections.keys(),
            "collection at the master",
        );
        self.same(
            volumes(),
            "volume",
            picture.files.iter(),
            "file of it on the drives",
        );
        let rules = picture.rules.iter().map(|rule| &rule.volume);
        self.same(volumes(), "volume", rules.clone(), "rule in filer.conf");
        self.once(rules, "rules in filer.conf");
        for rule in &picture.rules {
            if let Some(volume) = picture.volumes.get(&rule.volume)
                && (rule.disk_tag != volume.pool || rule.read_only)
            {
                self.say(format!(
                    "{}: its rule leads to {:?} (read-only: {}), its pool is {}",
                    rule.volume, rule.disk_tag, rule.read_only, volume.pool
                ));
            }
        }
        for (name, directory) in &picture.directories {
            if directory.marked_as != *name {
                self.say(format!(
                    "{name}: its directory is marked as {:?}",
                    directory.marked_as
                ));
            }
            if let Some(volume) = picture.volumes.get(name)
                && directory.quota != volume.bytes
            {
                self.say(format!(
                    "{name}: its directory has a quota of {} bytes, it says {}",
                    directory.quota, volume.bytes
                ));
            }
        }
    }

    fn secrets(&mut self, picture: &Picture) {
        self.same(picture.volumes.keys(), "volume", picture.secrets.keys(), "Secret");
        for (name, keys) in &picture.secrets {
            if picture
                .identities
                .get(name)
                .is_some_and(|real| *real != vec![keys.clone()])
            {
                self.say(format!("{name}: its S3 identity has other keys than its Secret"));
            }
            let shown = picture.claims.iter().find(|claim| claim.volume == *name);
            if shown.is_some_and(|claim| claim.access_key != keys.0) {
                self.say(format!(
                    "{name}: its claim shows another access key than its Secret"
                ));
            }
        }
    }

    fn members(&mut self, picture: &Picture) {
        for (id, member) in &picture.members {
            if member.phase != "Online" || member.deleting {
                self.say(format!(
                    "member {} ({id}) is {}: {}",
                    member.name, member.phase, member.words
                ));
            }
            if !picture.pools.contains_key(&member.pool) {
                self.say(format!(
                    "member {}: its pool {} does not exist",
                    member.name, member.pool
                ));
            }
        }
        let ids = || picture.members.keys();
        let served = picture.marks.iter().filter(|mark| !mark.released);
        self.once(
            picture.marks.iter().map(|mark| &mark.member),
            "drives with one mark",
        );
        self.same(
            ids(),
            "PoolMember",
            served.map(|mark| &mark.member),
            "mark on a drive",
        );
        for mark in picture.marks.iter().filter(|mark| !mark.whole) {
            self.say(format!("{}: the copies of its mark differ", mark.drive));
        }
        self.once(picture.mounts.iter(), "mounts of a member");
        self.same(ids(), "PoolMember", picture.mounts.iter(), "mount");
        self.same(ids(), "PoolMember", picture.mount_points.iter(), "mount point");
        self.same(
            ids(),
            "PoolMember",
            picture.records.iter(),
            "record of the agent's",
        );
        self.once(
            picture.servers.iter().map(|server| &server.member),
            "volume servers",
        );
        self.same(
            ids(),
            "PoolMember",
            picture.servers.iter().map(|server| &server.member),
            "volume server",
        );
        let endpoints = || picture.members.values().map(|member| &member.endpoint);
        self.same(
            endpoints(),
            "PoolMember there",
            picture.servers.iter().map(|server| &server.endpoint),
            "volume server",
        );
        self.same(
            endpoints(),
            "PoolMember there",
            picture.at_master.iter(),
            "server at the master",
        );
        self.same(
            picture.members.values().map(|member| &member.drive),
            "PoolMember for it",
            picture.claimed_drives.iter(),
            "drive that its node calls claimed",
        );
    }

    fn processes(&mut self, picture: &Picture) {
        for process in &picture.strays {
            self.say(format!("nobody's process: {process}"));
        }
    }

    fn rest(&mut self, picture: &Picture) {
        self.same(picture.nodes.iter(), "node", picture.tokens.iter(), "join token");
        for file in &picture.leftovers {
            self.say(format!("{file} was left by a write that did not end"));
        }
    }
}

#[cfg(test)]
mod tests;
