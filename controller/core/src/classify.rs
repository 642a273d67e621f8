//! What a drive is good for, how healthy it is, who uses it, and whether it may be claimed: each with reasons.
//!
//! It never treats a fact that was not observed as a good one: no known blankness means not claimable, no known
//! type means no tier. Equal facts always give equal answers.

pub mod fingerprint;
mod health;
mod tier;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::health::judge_health;
pub use self::tier::classify;
use crate::{
    drive::{DriveFacts, DriveId, DriveType, HolderKind, MemberId, Observed, PoolName, words},
    identity::Verdict,
};

/// Label of a drive: how it is attached.
pub const LABEL_TRANSPORT: &str = "storage.billyronks.io/transport";
/// Label of a drive: its model.
pub const LABEL_MODEL: &str = "storage.billyronks.io/model";
/// Label of a drive: its firmware.
pub const LABEL_FIRMWARE: &str = "storage.billyronks.io/firmware";
/// Label of a drive: its tier.
pub const LABEL_TIER: &str = "storage.billyronks.io/tier";

words! {
    /// How fast a class of drives is, slowest first.
    Tier {
        /// Spinning.
        Hdd = "hdd",
        /// Flash behind SATA or SAS.
        StandardSsd = "standardSsd",
        /// Flash on NVMe.
        FastNvme = "fastNvme",
        /// Optane-class media or persistent memory.
        UltraFast = "ultraFast",
    }
}

words! {
    /// How large a drive is.
    CapacityTier {
        /// Below 1 TB.
        Small = "small",
        /// Below 8 TB.
        Medium = "medium",
        /// 8 TB and more.
        Large = "large",
    }
}

words! {
    /// What a drive is suited for.
    Suitability {
        /// Block storage.
        Block = "block",
        /// File storage.
        File = "file",
        /// Object storage.
        Object = "object",
        /// Caches and journals.
        Cache = "cache",
    }
}

words! {
    /// How a drive's health is judged.
    HealthState {
        /// It says so, and nothing speaks against it.
        Good = "Good",
        /// Works; something should be looked at.
        Warning = "Warning",
        /// It will fail, or says that it might: takes no new data.
        Failing = "Failing",
        /// It does not serve any more.
        Failed = "Failed",
        /// It did not or cannot say.
        Unknown = "Unknown",
    }
}

words! {
    /// Who uses a drive.
    UseState {
        /// Proven blank, unmounted, unheld.
        Free = "Free",
        /// Something is on it or holds it.
        InUse = "InUse",
        /// A pool of ours has it.
        Claimed = "Claimed",
        /// Its identity or its mark contradicts the record.
        Conflict = "Conflict",
        /// It could not be found out.
        Unknown = "Unknown",
    }
}

/// A judgement of health and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The judgement.
    pub state: HealthState,
    /// Why, in words.
    pub reason: String,
}

/// Who uses a drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriveUse {
    /// The judgement.
    pub state: UseState,
    /// What holds it, in words; where it is `Conflict` or `Unknown`, why.
    pub holder: Option<String>,
    /// The pool that has it.
    pub pool: Option<PoolName>,
    /// The member that it is.
    pub member: Option<MemberId>,
}

/// What a drive is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classification {
    /// How fast; none for a drive of unknown type.
    pub tier: Option<Tier>,
    /// Quality, 0-100.
    pub score: u8,
    /// How large; none where the size is not known.
    pub capacity_tier: Option<CapacityTier>,
    /// What it suits.
    pub suitable_for: Vec<Suitability>,
    /// Why, part by part.
    pub reasons: Vec<String>,
}

/// What an administrator says of one drive (`StorageNode.spec.driveOverrides`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DriveOverride {
    /// The tier whatever the facts say.
    pub force_tier: Option<Tier>,
    /// Never claim it.
    pub exclude: bool,
    /// Labels beside those made from facts.
    pub labels: BTreeMap<String, String>,
}

/// The PoolMember that has a drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriveClaim {
    /// The pool.
    pub pool: PoolName,
    /// The member's id.
    pub member: MemberId,
}

/// Everything that a judgement of one drive rests on.
#[derive(Debug, Clone, Copy)]
pub struct JudgeInput<'a> {
    /// What was seen.
    pub facts: &'a DriveFacts,
    /// Who it is.
    pub identity: &'a Verdict,
    /// What an administrator says of it.
    pub overrides: Option<&'a DriveOverride>,
    /// Whether `StorageNode.spec.excludedDrives` names it.
    pub excluded: bool,
    /// The PoolMember of its id, where there is one.
    pub claim: Option<&'a DriveClaim>,
    /// Whether the agent is connected: facts of an agent that is away are old.
    pub node_connected: bool,
    /// Labels of its StorageNode.
    pub node_labels: Option<&'a BTreeMap<String, String>>,
}

/// What follows from a drive's facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The drive, or the id that it is shown by.
    pub id: DriveId,
    /// What it is.
    pub drive_type: DriveType,
    /// What it is good for.
    pub classification: Classification,
    /// How healthy.
    pub health: Health,
    /// Who uses it.
    pub usage: DriveUse,
    /// Whether a pool may take it.
    pub claimable: bool,
    /// Where it is not claimable: every reason in words.
    pub refusals: Vec<String>,
    /// Labels made from facts, node and overrides.
    pub labels: BTreeMap<String, String>,
}

/// Judges one drive.
#[must_use]
pub fn judge(input: &JudgeInput<'_>) -> Judgement {
    let facts = input.facts;
    let health = judge_health(facts);
    let force = input.overrides.and_then(|overrides| overrides.force_tier);
    let classification = classify(facts, &health, force);
    let usage = judge_use(facts, input.identity, input.claim);
    let refusals = refusals(input, &health, &usage);
    let labels = labels(facts, classification.tier, input.node_labels, input.overrides);
    Judgement {
        id: input.identity.id().clone(),
        drive_type: facts.kind,
        classification,
        health,
        usage,
        claimable: refusals.is_empty(),
        refusals,
        labels,
    }
}

/// Who uses a drive. Free only where it was proven: known blank, nothing found, an exclusive open succeeded.
#[must_use]
pub fn judge_use(facts: &DriveFacts, identity: &Verdict, claim: Option<&DriveClaim>) -> DriveUse {
    let plain = |state, holder: Option<String>| DriveUse {
        state,
        holder,
        pool: None,
        member: None,
    };
    match identity {
        Verdict::Conflict { reason, .. } => return plain(UseState::Conflict, Some(reason.clone())),
        Verdict::Path { id, primary } => {
            return plain(
                UseState::InUse,
                Some(format!("another path of {id}, listed as {primary}")),
            );
        }
        Verdict::Drive { .. } | Verdict::NoEvidence { .. } => {}
    }
    let mark = facts.evidence.mark.as_ref();
    if let Some(claim) = claim {
        let contradicts = mark.filter(|mark| mark.member_id != claim.member);
        return DriveUse {
            state: if contradicts.is_some() {
                UseState::Conflict
            } else {
                UseState::Claimed
            },
            holder: contradicts.map(|mark| {
                format!(
                    "claimed as member {}, but marked as member {} ({})",
                    claim.member, mark.member_id, mark.label
                )
            }),
            pool: Some(claim.pool.clone()),
            member: Some(claim.member.clone()),
        };
    }
    if let Some(mark) = mark {
        let released = if mark.released {
            "released member"
        } else {
            "member"
        };
        let words = format!(
            "{released} {} of {}, which no PoolMember here names",
            mark.member_id, mark.label
        );
        return DriveUse {
            state: UseState::InUse,
            holder: Some(words),
            pool: None,
            member: Some(mark.member_id.clone()),
        };
    }
    if !facts.usage.holders.is_empty() {
        return plain(UseState::InUse, Some(holder_words(facts)));
    }
    match (&facts.usage.blank, &facts.usage.exclusive_open_ok) {
        (Observed::Known(true), Observed::Known(true)) => plain(UseState::Free, None),
        (_, Observed::Known(false)) => plain(
            UseState::InUse,
            Some("some process holds it: an exclusive open failed".to_owned()),
        ),
        (Observed::Known(false), _) => plain(
            UseState::InUse,
            Some("it is not blank, and what is on it is not known".to_owned()),
        ),
        (Observed::Known(true), open) => plain(
            UseState::Unknown,
            Some(format!(
                "looks blank, but an exclusive open was not tried: {}",
                open.why_not().unwrap_or("unknown")
            )),
        ),
        (blank, _) => plain(
            UseState::Unknown,
            Some(format!(
                "whether it is blank could not be found out: {}",
                blank.why_not().unwrap_or("unknown")
            )),
        ),
    }
}

/// The holders in words, what people know best first (mounts before the partitions that they are on), at most
/// four of them.
#[must_use]
pub fn holder_words(facts: &DriveFacts) -> String {
    const SHOWN: usize = 4;
    let rank = |kind: HolderKind| match kind {
        HolderKind::Mount => 0,
        HolderKind::Swap => 1,
        HolderKind::Device => 2,
        HolderKind::Member => 3,
        HolderKind::Signature => 4,
        HolderKind::Exclusive => 5,
        HolderKind::UnknownData => 6,
        HolderKind::PartitionTable => 7,
        HolderKind::Partition => 8,
        HolderKind::Unknown => 9,
    };
    let mut holders: Vec<_> = facts.usage.holders.iter().collect();
    holders.sort_by(|a, b| (rank(a.kind), &a.description).cmp(&(rank(b.kind), &b.description)));
    holders.dedup_by(|a, b| a.description == b.description);
    let mut words: Vec<&str> = holders
        .iter()
        .take(SHOWN)
        .map(|holder| holder.description.as_str())
        .collect();
    let more = format!("{} more", holders.len().saturating_sub(SHOWN));
    if holders.len() > SHOWN {
        words.push(&more);
    }
    words.join(", ")
}

fn refusals(input: &JudgeInput<'_>, health: &Health, usage: &DriveUse) -> Vec<String> {
    let facts = input.facts;
    let mut refusals = Vec::new();
    match input.identity {
        Verdict::Conflict { reason, .. } => refusals.push(format!("its identity is in conflict: {reason}")),
        Verdict::NoEvidence { reason, .. } => refusals.push(format!("it cannot be identified: {reason}")),
        Verdict::Drive { .. } | Verdict::Path { .. } => {}
    }
    let holder = usage.holder.as_deref().unwrap_or("unknown");
    match usage.state {
        UseState::Free => {}
        UseState::Claimed => {
            let pool = usage.pool.as_ref().map_or("unknown", |pool| pool.as_str());
            refusals.push(format!("claimed by pool {pool}"));
        }
        UseState::InUse => refusals.push(format!("in use: {holder}")),
        UseState::Unknown => refusals.push(format!("not proven free: {holder}")),
        UseState::Conflict if matches!(input.identity, Verdict::Conflict { .. }) => {}
        UseState::Conflict => refusals.push(format!("in conflict: {holder}")),
    }
    if input.excluded || input.overrides.is_some_and(|overrides| overrides.exclude) {
        refusals.push("excluded by its StorageNode".to_owned());
    }
    if facts.read_only.is(&true) {
        refusals.push("the kernel has it read-only".to_owned());
    }
    if facts.removable.is(&true) {
        refusals.push("it is a removable medium".to_owned());
    }
    match &facts.size_bytes {
        Observed::Known(0) => refusals.push("its size is zero".to_owned()),
        Observed::Known(_) => {}
        absent => refusals.push(format!(
            "its size is not known: {}",
            absent.why_not().unwrap_or("unknown")
        )),
    }
    if matches!(health.state, HealthState::Failing | HealthState::Failed) {
        refusals.push(format!("health {}: {}", health.state, health.reason));
    }
    if !input.node_connected {
        refusals.push("its node's agent is away, so what is known of it is old".to_owned());
    }
    refusals
}

/// Labels of a drive: those of its StorageNode, those made from its facts, those of its override; the later win.
#[must_use]
pub fn labels(
    facts: &DriveFacts,
    tier: Option<Tier>,
    node: Option<&BTreeMap<String, String>>,
    overrides: Option<&DriveOverride>,
) -> BTreeMap<String, String> {
    let mut labels = node.cloned().unwrap_or_default();
    labels.extend(labels_of_facts(
        facts.transport.as_str(),
        facts.model.known().map_or("", String::as_str),
        facts.firmware.known().map_or("", String::as_str),
        tier.map_or("", Tier::as_str),
    ));
    if let Some(overrides) = overrides {
        labels.extend(overrides.labels.clone());
    }
    labels
}

/// The labels that a drive's facts make; what is not known is empty and makes none.
#[must_use]
pub fn labels_of_facts(transport: &str, model: &str, firmware: &str, tier: &str) -> BTreeMap<String, String> {
    let facts = [
        (LABEL_TRANSPORT, transport),
        (LABEL_MODEL, model),
        (LABEL_FIRMWARE, firmware),
        (LABEL_TIER, tier),
    ];
    facts
        .into_iter()
        .map(|(key, value)| (key.to_owned(), label_value(value)))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

/// A text as a legal label value: at most 63 of `[A-Za-z0-9._-]`, a letter or digit at both ends.
#[must_use]
pub fn label_value(text: &str) -> String {
    let mut value = String::new();
    for c in text.trim().chars() {
        match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '.' | '_' | '-' => value.push(c),
            _ if value.ends_with('-') => {}
            _ => value.push('-'),
        }
    }
    value.truncate(63);
    value.trim_matches(['-', '.', '_']).to_owned()
}

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;
