//! What lies on the cluster under names that we give and belongs to no volume: kept on purpose, or left over.
//!
//! A volume is four things of one name (directory, rule, collection, identity); any of them may be left alone.
//! Everything is only looked at and told: who removes it is a person.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{
    BUCKETS, Disk, SeaweedFs,
    directory::Directory,
    error::{CallError, DeleteVolumeError, Part, RuleError},
    is_volume_name,
    rulebook::RuleFile as _,
    rules::FilerConf,
    wire::iam as pb,
};

/// Why something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// Its volume was forgotten with reclaim policy Retain.
    Retained,
    /// It bears this cluster's mark, or only our rule, keys or slots are left of it.
    Orphan,
    /// A directory without a mark under a name of ours: a mount that was left open writes such.
    Unmarked,
}

/// Something that belongs to no volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The name that all its parts have.
    pub name: String,
    /// Why it is there.
    pub kept: Kept,
    /// `namespace/name` of the claim it was made for, where it says so.
    pub claim: Option<String>,
    /// What is left: directory, rule, collection, identity.
    pub parts: Vec<&'static str>,
    /// Slots that it takes, by disk type tag.
    pub slots: BTreeMap<String, u64>,
    /// Disk type tag of its rule, where there is one.
    pub tag: Option<String>,
}

/// What was seen of a cluster.
#[derive(Default)]
struct Seen {
    directories: Vec<Directory>,
    /// Volume names and disk type tags.
    rules: Vec<(String, String)>,
    identities: Vec<String>,
    disks: Vec<Disk>,
}

impl SeaweedFs {
    /// Everything with a name of ours that is not among `known`, and what is marked as kept whatever is known, ordered
    /// by name. Nothing is changed.
    ///
    /// # Errors
    /// When a part of the cluster cannot be asked.
    pub async fn leftovers(
        &self,
        cluster_id: &str,
        known: &HashSet<String>,
    ) -> Result<Vec<Leftover>, RuleError> {
        let (conf, _) = self.read().await?;
        let conf = FilerConf::parse(&conf).map_err(RuleError::Malformed)?;
        let volume = |prefix: &str| {
            let name = prefix.strip_prefix(BUCKETS)?.trim_matches('/');
            is_volume_name(name).then(|| name.to_owned())
        };
        let rules = conf
            .tags()
            .filter_map(|(prefix, tag)| Some((volume(prefix)?, tag.to_owned())));
        let seen = Seen {
            directories: self.volume_directories().await?,
            rules: rules.collect(),
            identities: self.identities().await?,
            disks: self.topology().await?.disks,
        };
        Ok(left(seen, cluster_id, known))
    }

    /// Takes the keys of a volume away and marks its data as kept; what is not there is fine.
    ///
    /// # Errors
    /// When the filer refuses or cannot be asked.
    pub async fn retain_volume(&self, volume: &str, cluster_id: &str) -> Result<(), DeleteVolumeError> {
        if !is_volume_name(volume) {
            return Err(DeleteVolumeError::Invalid(volume.to_owned()));
        }
        self.delete_identity(volume).await?;
        crate::fault::point("retained-identity-deleted");
        self.mark_retained(volume, cluster_id).await?;
        crate::fault::point("data-marked-as-kept");
        Ok(())
    }

    async fn identities(&self) -> Result<Vec<String>, CallError> {
        match self.inner.iam.clone().list_users(pb::ListUsersRequest {}).await {
            Ok(answer) => Ok(answer.into_inner().usernames),
            Err(status) => Err(CallError::from_status(
                Part::Filer,
                "list the identities",
                &status,
            )),
        }
    }
}

/// What of it belongs to no known volume, and to no other cluster's. Pure.
fn left(seen: Seen, cluster_id: &str, known: &HashSet<String>) -> Vec<Leftover> {
    let foreign: BTreeSet<String> = seen
        .directories
        .iter()
        .filter(|found| {
            found
                .cluster
                .as_deref()
                .is_some_and(|cluster| cluster != cluster_id)
        })
        .map(|found| found.name.clone())
        .collect();
    // What is kept is nobody's: a volume of its name has no part in it.
    let kept: BTreeSet<String> = seen
        .directories
        .iter()
        .filter(|found| found.retained)
        .map(|found| found.name.clone())
        .collect();
    let ours = |name: &str| (kept.contains(name) || !known.contains(name)) && !foreign.contains(name);
    let mut left: BTreeMap<String, Leftover> = BTreeMap::new();
    let of = |left: &mut BTreeMap<String, Leftover>, name: &str, part: &'static str| {
        let found = left.entry(name.to_owned()).or_insert_with(|| Leftover {
            name: name.to_owned(),
            kept: Kept::Orphan,
            claim: None,
            parts: Vec::new(),
            slots: BTreeMap::new(),
            tag: None,
        });
        if !found.parts.contains(&part) {
            found.parts.push(part);
        }
    };
    for found in seen.directories.iter().filter(|found| ours(&found.name)) {
        of(&mut left, &found.name, "directory");
        if let Some(leftover) = left.get_mut(&found.name) {
            leftover.claim.clone_from(&found.claim);
            leftover.kept = match (&found.cluster, found.retained) {
                (None, _) => Kept::Unmarked,
                (_, true) => Kept::Retained,
                _ => Kept::Orphan,
            };
        }
    }
    for (name, tag) in seen.rules.iter().filter(|(name, _)| ours(name)) {
        of(&mut left, name, "rule");
        if let Some(leftover) = left.get_mut(name) {
            leftover.tag = Some(tag.clone());
        }
    }
    let named = |name: &&String| is_volume_name(name) && ours(name);
    for disk in &seen.disks {
        for name in disk.collections.iter().filter(named) {
            of(&mut left, name, "collection");
            if let Some(leftover) = left.get_mut(name) {
                let slots = disk.slots_of.get(name).copied().unwrap_or(0);
                *leftover.slots.entry(disk.tag.clone()).or_insert(0) += slots;
            }
        }
    }
    for name in seen.identities.iter().filter(named) {
        of(&mut left, name, "identity");
    }
    left.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str, cluster: Option<&str>, retained: bool) -> Directory {
        Directory {
            name: name.to_owned(),
            cluster: cluster.map(str::to_owned),
            claim: Some(format!("default/{name}")),
            retained,
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn disk(tag: &str, slots: &[(&str, u64)]) -> Disk {
        let slots_of: BTreeMap<String, u64> = slots
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        Disk {
            tag: tag.to_owned(),
            collections: slots_of.keys().cloned().collect(),
            slots_of,
            ..Disk::default()
        }
    }

    #[test]
    fn every_part_that_belongs_to_no_volume_is_told_once_and_others_things_never() {
        let seen = Seen {
            directories: vec![
                directory("uv-known", Some("c1"), false),
                directory("uv-kept", Some("c1"), true),
                directory("uv-lost", Some("c1"), false),
                directory("uv-theirs", Some("c2"), true),
                directory("uv-written", None, false),
            ],
            rules: ["uv-known", "uv-kept", "uv-theirs", "uv-rule"]
                .map(|name| (name.to_owned(), "pool-a".to_owned()))
                .to_vec(),
            identities: names(&["admin", "uv-known", "uv-keys", "uv-theirs"]),
            disks: vec![
                disk(
                    "pool-a",
                    &[("uv-known", 1), ("uv-kept", 2), ("photos", 9), ("uv-theirs", 1)],
                ),
                disk("pool-a", &[("uv-kept", 1)]),
                disk("pool-b", &[("uv-slots", 4)]),
            ],
        };
        let known = ["uv-known", "uv-kept"].map(str::to_owned);
        let found = left(seen, "c1", &HashSet::from(known));
        let told: Vec<(&str, Kept, String, u64)> = found
            .iter()
            .map(|found| {
                let slots = found.slots.values().sum();
                (found.name.as_str(), found.kept, found.parts.join(" "), slots)
            })
            .collect();
        let expected = [
            (
                "uv-kept",
                Kept::Retained,
                "directory rule collection".to_owned(),
                3,
            ),
            ("uv-keys", Kept::Orphan, "identity".to_owned(), 0),
            ("uv-lost", Kept::Orphan, "directory".to_owned(), 0),
            ("uv-rule", Kept::Orphan, "rule".to_owned(), 0),
            ("uv-slots", Kept::Orphan, "collection".to_owned(), 4),
            ("uv-written", Kept::Unmarked, "directory".to_owned(), 0),
        ];
        assert_eq!(told, expected);
    }
}
