//! Which drives a pool claims: from its selector and topology, out of the drives that are claimable.
//!
//! It never takes a drive that is not claimable, never one of unknown type unless the selector says `unknown`,
//! and never a part of what the pool needs at least: below `minDrives` or `minNodes` it claims nothing and says
//! what is missing, so that two pools cannot starve each other half-built. The order is that of quality, spread
//! and name: equal input, equal plan.

mod selector;

use std::collections::{BTreeMap, BTreeSet};

pub use self::selector::refuse;
use crate::{
    bytes::{format_bytes, percent},
    classify::{Judgement, Tier},
    drive::{DriveId, DriveType, NodeName, Zoned},
};

/// What a UnifiedPool asks for. Zero and empty mean "no condition".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolSpec {
    /// Which drives.
    pub selector: DriveSelector,
    /// Labels that the drive's node must have.
    pub node_selector: BTreeMap<String, String>,
    /// How many.
    pub capacity: PoolCapacity,
    /// Where.
    pub topology: Topology,
}

/// Which drives a pool may take.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DriveSelector {
    /// Types; empty means every known type, never `unknown`.
    pub drive_types: Vec<DriveType>,
    /// Slowest tier that is taken.
    pub min_tier: Option<Tier>,
    /// Smallest score that is taken, 0-100.
    pub min_score: u8,
    /// Only zoned drives; without it host-managed ones are refused.
    pub require_zns: bool,
    /// Smallest size in bytes.
    pub min_capacity_bytes: u64,
    /// Largest size in bytes; 0 for any.
    pub max_capacity_bytes: u64,
    /// Labels that the drive must have.
    pub match_labels: BTreeMap<String, String>,
}

/// How much a pool wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolCapacity {
    /// Raw bytes to reach; 0 for as many drives as `max_drives` says, or just the minimum where it says none.
    pub target_bytes: u64,
    /// Fewest drives; below it nothing is claimed. 0 is read as 1.
    pub min_drives: u32,
    /// Most drives; 0 for no limit.
    pub max_drives: u32,
    /// Whether a full pool takes one more drive.
    pub auto_expand: bool,
    /// Used percent from which on it does; 0 is read as 80.
    pub expand_threshold_percent: u8,
}

/// Where a pool's drives may be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    /// Take drives of the fault domain that has the fewest first.
    pub spread_across_fault_domains: bool,
    /// Most drives of one node; 0 for no limit.
    pub max_drives_per_node: u32,
    /// Fewest nodes; below it nothing is claimed.
    pub min_nodes: u32,
    /// Nodes that come first.
    pub preferred_nodes: Vec<NodeName>,
    /// Nodes that never serve.
    pub excluded_nodes: Vec<NodeName>,
}

/// A drive that the pool has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingMember {
    /// The drive.
    pub drive: DriveId,
    /// Its node.
    pub node: NodeName,
    /// The node's fault domain.
    pub fault_domain: String,
    /// Size of the drive in bytes.
    pub size_bytes: u64,
    /// Used bytes of it.
    pub used_bytes: u64,
}

/// A drive that might be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The drive.
    pub id: DriveId,
    /// Kernel name now, for words only.
    pub device: String,
    /// Its node.
    pub node: NodeName,
    /// The node's fault domain; where the StorageNode names none, the node's name.
    pub fault_domain: String,
    /// Labels of the node.
    pub node_labels: BTreeMap<String, String>,
    /// Size in bytes; 0 where it is not known.
    pub size_bytes: u64,
    /// Zones.
    pub zoned: Zoned,
    /// What was judged of it.
    pub judgement: Judgement,
}

/// What a pool does next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolPlan {
    /// Drives to claim now, in this order.
    pub claim: Vec<DriveId>,
    /// Drives that are not taken, and every reason why; the pool's own members are not among them.
    pub refused: Vec<(DriveId, Vec<String>)>,
    /// What is missing, in words.
    pub shortage: Option<String>,
}

/// Plans a pool's next claims.
#[must_use]
pub fn plan(spec: &PoolSpec, members: &[ExistingMember], candidates: &[Candidate]) -> PoolPlan {
    let mut refused = Vec::new();
    let mut eligible: Vec<&Candidate> = Vec::new();
    let mine: BTreeSet<&DriveId> = members.iter().map(|member| &member.drive).collect();
    let mut seen = BTreeSet::new();
    let mut sorted: Vec<&Candidate> = candidates
        .iter()
        .filter(|drive| !mine.contains(&drive.id))
        .collect();
    sorted.sort_by(|a, b| (&a.id, &a.node, &a.device).cmp(&(&b.id, &b.node, &b.device)));
    for drive in sorted {
        let mut reasons = refuse(spec, drive);
        if reasons.is_empty() && !seen.insert(&drive.id) {
            reasons.push("listed twice under one id".to_owned());
        }
        if reasons.is_empty() {
            eligible.push(drive);
        } else {
            refused.push((drive.id.clone(), reasons));
        }
    }
    let picked = pick(spec, members, &eligible);
    let after = Standing::of(members, &picked);
    let minimum = missing_minimum(spec, &after);
    let chosen: BTreeSet<&DriveId> = picked.iter().map(|drive| &drive.id).collect();
    for drive in &eligible {
        if !chosen.contains(&drive.id) {
            refused.push((drive.id.clone(), vec![not_needed(spec, &after, drive)]));
        }
    }
    refused.sort();
    if members.is_empty() && minimum.is_some() {
        return PoolPlan {
            claim: Vec::new(),
            refused,
            shortage: minimum,
        };
    }
    let shortage = minimum.or_else(|| missing_target(spec, &after));
    PoolPlan {
        claim: picked.iter().map(|drive| drive.id.clone()).collect(),
        refused,
        shortage,
    }
}

/// What a pool has, or would have.
#[derive(Debug, Default)]
struct Standing<'a> {
    drives: u32,
    bytes: u64,
    used: u64,
    by_node: BTreeMap<&'a NodeName, u32>,
    by_domain: BTreeMap<&'a str, u32>,
}

impl<'a> Standing<'a> {
    fn of(members: &'a [ExistingMember], picked: &[&'a Candidate]) -> Self {
        let mut standing = Self::default();
        for member in members {
            standing.add(&member.node, &member.fault_domain, member.size_bytes);
            standing.used = standing.used.saturating_add(member.used_bytes);
        }
        for drive in picked {
            standing.add(&drive.node, &drive.fault_domain, drive.size_bytes);
        }
        standing
    }

    fn add(&mut self, node: &'a NodeName, domain: &'a str, bytes: u64) {
        self.drives += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        *self.by_node.entry(node).or_default() += 1;
        *self.by_domain.entry(domain).or_default() += 1;
    }

    fn on_node(&self, node: &NodeName) -> u32 {
        self.by_node.get(node).copied().unwrap_or(0)
    }

    fn in_domain(&self, domain: &str) -> u32 {
        self.by_domain.get(domain).copied().unwrap_or(0)
    }

    fn nodes(&self) -> u32 {
        u32::try_from(self.by_node.len()).unwrap_or(u32::MAX)
    }
}

/// Takes the best eligible drive again and again until the pool has what it wants.
fn pick<'a>(
    spec: &PoolSpec,
    members: &'a [ExistingMember],
    eligible: &[&'a Candidate],
) -> Vec<&'a Candidate> {
    let mut left: Vec<&Candidate> = eligible.to_vec();
    let mut picked = Vec::new();
    let mut standing = Standing::of(members, &[]);
    let before = standing.drives;
    while wants_more(spec, &standing, before) {
        let best = left
            .iter()
            .enumerate()
            .filter(|(_, drive)| has_room(spec, &standing, drive))
            .min_by_key(|(_, drive)| rank(spec, &standing, drive))
            .map(|(index, _)| index);
        let Some(index) = best else { break };
        let drive = left.swap_remove(index);
        standing.add(&drive.node, &drive.fault_domain, drive.size_bytes);
        picked.push(drive);
    }
    picked
}

fn min_drives(spec: &PoolSpec) -> u32 {
    spec.capacity.min_drives.max(1)
}

fn wants_more(spec: &PoolSpec, standing: &Standing<'_>, before: u32) -> bool {
    let capacity = &spec.capacity;
    if capacity.max_drives > 0 && standing.drives >= capacity.max_drives {
        return false;
    }
    let threshold = if capacity.expand_threshold_percent == 0 {
        80
    } else {
        capacity.expand_threshold_percent
    };
    // The drive that an expansion adds counts with its bytes, so the pool asks for one at a time.
    let full = capacity.auto_expand && before > 0 && percent(standing.used, standing.bytes) >= threshold;
    // Without a target, and without growing by need, a limit is what the pool is to have.
    let to_limit = capacity.target_bytes == 0 && !capacity.auto_expand && capacity.max_drives > 0;
    standing.drives < min_drives(spec)
        || standing.nodes() < spec.topology.min_nodes
        || standing.bytes < capacity.target_bytes
        || to_limit
        || full
}

fn has_room(spec: &PoolSpec, standing: &Standing<'_>, drive: &Candidate) -> bool {
    let limit = spec.topology.max_drives_per_node;
    limit == 0 || standing.on_node(&drive.node) < limit
}

/// Least is best: spread first, then preferred nodes, quality, size, and the id so that no two are equal.
fn rank<'a>(spec: &PoolSpec, standing: &Standing<'_>, drive: &'a Candidate) -> impl Ord + use<'a> {
    let domain = if spec.topology.spread_across_fault_domains {
        standing.in_domain(&drive.fault_domain)
    } else {
        0
    };
    let new_node = standing.nodes() < spec.topology.min_nodes && standing.on_node(&drive.node) > 0;
    (
        new_node,
        domain,
        !spec.topology.preferred_nodes.contains(&drive.node),
        standing.on_node(&drive.node),
        u8::MAX - drive.judgement.classification.score,
        u64::MAX - drive.size_bytes,
        &drive.id,
    )
}

fn missing_minimum(spec: &PoolSpec, after: &Standing<'_>) -> Option<String> {
    if after.drives < min_drives(spec) {
        return Some(format!(
            "needs at least {} drives, {} fit",
            min_drives(spec),
            after.drives
        ));
    }
    let nodes = spec.topology.min_nodes;
    (after.nodes() < nodes).then(|| {
        format!(
            "needs drives on at least {nodes} nodes, {} have some",
            after.nodes()
        )
    })
}

fn missing_target(spec: &PoolSpec, after: &Standing<'_>) -> Option<String> {
    let target = spec.capacity.target_bytes;
    if after.bytes >= target {
        return None;
    }
    let max = spec.capacity.max_drives;
    let why = if max > 0 && after.drives >= max {
        format!(", and maxDrives is {max}")
    } else {
        String::new()
    };
    Some(format!(
        "wants {}, its drives hold {}{why}",
        format_bytes(target),
        format_bytes(after.bytes)
    ))
}

fn not_needed(spec: &PoolSpec, after: &Standing<'_>, drive: &Candidate) -> String {
    let topology = &spec.topology;
    let capacity = &spec.capacity;
    if capacity.max_drives > 0 && after.drives >= capacity.max_drives {
        return format!("not needed: the pool has its {} drives", capacity.max_drives);
    }
    if !has_room(spec, after, drive) {
        return format!(
            "node {} has its {} drives of this pool",
            drive.node, topology.max_drives_per_node
        );
    }
    "not needed: the pool has what it asks for".to_owned()
}

/// How a drive is cut into SeaweedFS volume slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotSizing {
    /// Size of a slot: the master's volume size limit, in bytes.
    pub slot_bytes: u64,
    /// What partition table and file system take, per mille of the drive (XFS on 2 GiB: 23).
    pub overhead_per_mille: u32,
    /// What they take at least, in bytes.
    pub overhead_bytes: u64,
    /// Kept free by the volume server, in bytes.
    pub min_free_bytes: u64,
}

impl SlotSizing {
    /// XFS or ext4 on a GPT, with a minimum kept free of 64 MiB.
    #[must_use]
    pub const fn new(slot_bytes: u64) -> Self {
        Self {
            slot_bytes,
            overhead_per_mille: 25,
            overhead_bytes: 16 << 20,
            min_free_bytes: 64 << 20,
        }
    }

    /// Slots that a drive of so many bytes can fill; 0 where it is too small.
    #[must_use]
    pub fn slots(&self, drive_bytes: u64) -> u32 {
        let share = u128::from(drive_bytes) * u128::from(self.overhead_per_mille) / 1000;
        let overhead = u64::try_from(share).unwrap_or(u64::MAX).max(self.overhead_bytes);
        let usable = drive_bytes
            .saturating_sub(overhead)
            .saturating_sub(self.min_free_bytes);
        u32::try_from(usable / self.slot_bytes.max(1)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
