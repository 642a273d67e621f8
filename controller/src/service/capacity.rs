//! Sums of capacity by node, tier, type and pool. Pure.
//!
//! Promises are made by pools, not by drives: for nodes and tiers a pool's promised and free bytes are shared out
//! over its members by their size, so that every table sums to the same total.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::crd::{
    PoolMember, StorageNode, UnifiedPool,
    member::MemberPhase,
    node::{Drive, DriveTier},
};

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CapacityTotals {
    /// The drives that are there.
    pub raw_bytes: u64,
    /// Drives that are members of a pool.
    pub claimed_bytes: u64,
    /// Promised to volumes, all copies.
    pub promised_bytes: u64,
    /// What can still be promised.
    pub free_bytes: u64,
}

/// Totals by node, tier, type and pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Capacity {
    /// All of it.
    pub total: CapacityTotals,
    /// By the node's name.
    pub by_node: BTreeMap<String, CapacityTotals>,
    /// By the drives' tier: ultraFast, fastNvme, standardSsd, hdd, and unknown for drives without one.
    pub by_tier: BTreeMap<String, CapacityTotals>,
    /// By the type of the pools: block, file, object. Drives without a pool are in none.
    pub by_type: BTreeMap<String, CapacityTotals>,
    /// By the pool's name.
    pub by_pool: BTreeMap<String, CapacityTotals>,
}

const fn tier_word(tier: Option<DriveTier>) -> &'static str {
    match tier {
        Some(DriveTier::UltraFast) => "ultraFast",
        Some(DriveTier::FastNvme) => "fastNvme",
        Some(DriveTier::StandardSsd) => "standardSsd",
        Some(DriveTier::Hdd) => "hdd",
        None => "unknown",
    }
}

/// Shares `total` out by `weights`; the parts sum to `total` exactly, or are all 0 where the weights are.
fn share_out(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum();
    // Beyond 64 bits the products below would not fit: so the weights lose their last digits instead.
    let scale = sum / u128::from(u64::MAX) + 1;
    let weights: Vec<u128> = weights.iter().map(|w| u128::from(*w) / scale).collect();
    let sum: u128 = weights.iter().sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let (mut before, mut given) = (0_u128, 0_u64);
    weights
        .iter()
        .map(|weight| {
            before += weight;
            let until = u64::try_from(u128::from(total) * before / sum).unwrap_or(u64::MAX);
            let part = until.saturating_sub(given);
            given = until;
            part
        })
        .collect()
}

/// The totals of these objects.
#[must_use]
pub fn totals(nodes: &[StorageNode], pools: &[UnifiedPool], members: &[PoolMember]) -> Capacity {
    let mut sums = Capacity::default();
    let mut tiers: BTreeMap<&str, &'static str> = BTreeMap::new();
    for node in nodes {
        let by_node = sums.by_node.entry(node.spec.node_name.clone()).or_default();
        for drive in node.status.iter().flat_map(|s| &s.drives) {
            tiers.insert(&drive.id, tier_word(drive.classification.tier));
            add_drive(drive, by_node, &mut sums.total, &mut sums.by_tier);
        }
    }
    for pool in pools {
        let name = pool.name_any();
        let own: Vec<_> = members.iter().filter(|m| m.spec.pool == name).collect();
        add_pool(pool, name, &own, &tiers, &mut sums);
    }
    sums
}

fn add_drive(
    drive: &Drive,
    by_node: &mut CapacityTotals,
    total: &mut CapacityTotals,
    by_tier: &mut BTreeMap<String, CapacityTotals>,
) {
    if !drive.present {
        return;
    }
    let bytes = drive.capacity_bytes.unwrap_or_default();
    let tier = by_tier
        .entry(tier_word(drive.classification.tier).to_owned())
        .or_default();
    for sum in [by_node, total, tier] {
        sum.raw_bytes = sum.raw_bytes.saturating_add(bytes);
    }
}

fn add_pool(
    pool: &UnifiedPool,
    name: String,
    members: &[&PoolMember],
    tiers: &BTreeMap<&str, &'static str>,
    sums: &mut Capacity,
) {
    let status = pool.status.clone().unwrap_or_default();
    let weights: Vec<u64> = members.iter().map(|m| m.spec.drive_bytes).collect();
    let whole = CapacityTotals {
        raw_bytes: weights.iter().copied().fold(0, u64::saturating_add),
        claimed_bytes: weights.iter().copied().fold(0, u64::saturating_add),
        promised_bytes: status.promised_bytes,
        free_bytes: status.available_capacity_bytes,
    };
    let by_type = sums
        .by_type
        .entry(pool.spec.pool_type.as_str().to_owned())
        .or_default();
    by_type.raw_bytes = by_type.raw_bytes.saturating_add(whole.raw_bytes);
    add_use(by_type, whole);
    add_use(&mut sums.total, whole);
    sums.by_pool.insert(name, whole);

    let promised = share_out(whole.promised_bytes, &weights);
    // Nothing is free on a member that does not serve.
    let serving: Vec<u64> = members
        .iter()
        .map(|member| match member.status.as_ref().map(|status| status.phase) {
            Some(MemberPhase::Failed | MemberPhase::Missing) => 0,
            _ => member.spec.drive_bytes,
        })
        .collect();
    let free = share_out(whole.free_bytes, &serving);
    for ((member, promised_bytes), free_bytes) in members.iter().zip(promised).zip(free) {
        let status_node = member
            .status
            .as_ref()
            .map(|s| s.node.clone())
            .filter(|n| !n.is_empty());
        let node = status_node.unwrap_or_else(|| member.spec.node_name.clone());
        let tier = tiers
            .get(member.spec.drive_id.as_str())
            .copied()
            .unwrap_or("unknown");
        let part = CapacityTotals {
            raw_bytes: 0,
            claimed_bytes: member.spec.drive_bytes,
            promised_bytes,
            free_bytes,
        };
        add_use(sums.by_node.entry(node).or_default(), part);
        add_use(sums.by_tier.entry(tier.to_owned()).or_default(), part);
    }
}

/// Everything but the raw bytes, which are counted drive by drive.
const fn add_use(sum: &mut CapacityTotals, part: CapacityTotals) {
    sum.claimed_bytes = sum.claimed_bytes.saturating_add(part.claimed_bytes);
    sum.promised_bytes = sum.promised_bytes.saturating_add(part.promised_bytes);
    sum.free_bytes = sum.free_bytes.saturating_add(part.free_bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_the_whole() {
        for (total, weights) in [
            (100, vec![1, 1, 1]),
            (7, vec![5, 0, 9]),
            (u64::MAX, vec![u64::MAX, 1, 3]),
        ] {
            assert_eq!(
                share_out(total, &weights).iter().sum::<u64>(),
                total,
                "{weights:?}"
            );
        }
        assert_eq!(share_out(9, &[0, 0]), vec![0, 0]);
        assert_eq!(share_out(9, &[]), Vec::<u64>::new());
    }

    #[test]
    fn every_table_tells_the_same_total() {
        let node: StorageNode = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a"}, "spec": {"nodeName": "a"},
            "status": {"drives": [
                {"id": "d1", "driveType": "unknown", "capacityBytes": 300, "health": "Good",
                 "use": {"state": "Claimed", "pool": "p"}, "claimable": false},
                {"id": "d2", "driveType": "nvme", "capacityBytes": 700, "health": "Good", "use": {"state": "Free"},
                 "claimable": true, "classification": {"tier": "fastNvme"}},
                {"id": "d3", "driveType": "nvme", "capacityBytes": 5, "health": "Good", "use": {"state": "Free"},
                 "claimable": false, "present": false},
            ]},
        }))
        .unwrap();
        let pool: UnifiedPool = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p"}, "spec": {"poolType": "file", "backend": {"type": "seaweedfs"}},
            "status": {"promisedBytes": 100, "availableCapacityBytes": 150},
        }))
        .unwrap();
        let member: PoolMember = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "pm-d1"},
            "spec": {"pool": "p", "driveId": "d1", "memberId": "", "nodeName": "a", "driveBytes": 300},
        }))
        .unwrap();
        let sums = totals(&[node], &[pool], &[member]);
        let whole = CapacityTotals {
            raw_bytes: 1000,
            claimed_bytes: 300,
            promised_bytes: 100,
            free_bytes: 150,
        };
        assert_eq!(sums.total, whole);
        assert_eq!(sums.by_node["a"], whole);
        assert_eq!(
            sums.by_tier["unknown"],
            CapacityTotals {
                raw_bytes: 300,
                ..whole
            }
        );
        assert_eq!(
            sums.by_tier["fastNvme"],
            CapacityTotals {
                raw_bytes: 700,
                ..CapacityTotals::default()
            }
        );
        assert_eq!(
            sums.by_type["file"],
            CapacityTotals {
                raw_bytes: 300,
                ..whole
            }
        );
        assert_eq!(sums.by_pool["p"], sums.by_type["file"]);
    }
}
