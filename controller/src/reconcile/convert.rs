//! Between the objects' types and core's: words to words, numbers to numbers, nothing decided.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use kube::ResourceExt as _;
use serde::{Serialize, de::DeserializeOwned};
use smart_storage_core::{
    classify::{DriveClaim, DriveOverride, JudgeInput, Judgement, judge},
    decide,
    drive::{DriveId, NodeName},
    node::{DriveRecord, NodeRecord},
    placement, pool,
};

use crate::crd::{
    Condition, PoolMember, StorageNode, UnifiedPool, UnifiedPoolSpec, UnifiedStorageClaimSpec,
    UnifiedStorageClass, class, condition,
};

/// A word of one enum as the same word of another; both sides spell the contract's words.
pub(super) fn word<A: Serialize, B: DeserializeOwned>(value: A) -> Option<B> {
    serde_json::from_value(serde_json::to_value(value).ok()?).ok()
}

/// The conditions of a decision put into those of a status.
pub(super) fn conditions(
    old: &[Condition],
    decided: &[decide::Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut new: Vec<Condition> = old
        .iter()
        .filter(|condition| decided.iter().any(|d| d.kind == condition.type_))
        .cloned()
        .collect();
    for decided in decided {
        let mut next = Condition::new(decided.kind, false, &decided.reason, decided.message.clone(), now);
        next.status = decided.status.as_str().to_owned();
        condition::set(&mut new, next, generation);
    }
    new
}

/// A status's condition as core has it.
pub(super) fn condition_of(conditions: &[Condition], kind: &'static str) -> Option<decide::Condition> {
    let found = condition::get(conditions, kind)?;
    Some(decide::Condition {
        kind,
        status: decide::Status::from_word(&found.status)?,
        reason: found.reason.clone(),
        message: found.message.clone(),
    })
}

/// Milliseconds since 1970, as core counts.
pub(super) fn millis(now: Timestamp) -> u64 {
    u64::try_from(now.as_millisecond()).unwrap_or(0)
}

/// The members by the drive that they claim.
pub(super) fn claims(members: &[Arc<PoolMember>]) -> BTreeMap<DriveId, DriveClaim> {
    members
        .iter()
        .map(|member| {
            let claim = DriveClaim {
                pool: member.spec.pool.as_str().into(),
                member: member.spec.member_id.as_str().into(),
            };
            (DriveId::from(member.spec.drive_id.as_str()), claim)
        })
        .collect()
}

/// Every drive of a node with what follows from its facts.
pub(super) fn judge_node(
    node: &StorageNode,
    record: &NodeRecord,
    claims: &BTreeMap<DriveId, DriveClaim>,
) -> Vec<(Arc<DriveRecord>, Judgement)> {
    let overrides: BTreeMap<&str, DriveOverride> = node
        .spec
        .drive_overrides
        .iter()
        .map(|(id, said)| {
            let core = DriveOverride {
                force_tier: said.force_tier.and_then(word),
                exclude: said.exclude,
                labels: said.labels.clone(),
            };
            (id.as_str(), core)
        })
        .collect();
    record
        .drives
        .iter()
        .map(|drive| {
            let id = drive.identity.id();
            let judgement = judge(&JudgeInput {
                facts: &record.by_every_path(drive),
                identity: &drive.identity,
                overrides: overrides.get(id.as_str()),
                excluded: node
                    .spec
                    .excluded_drives
                    .iter()
                    .any(|excluded| excluded == id.as_str()),
                claim: claims.get(id),
                node_connected: record.session.connected,
                node_labels: Some(&node.spec.labels),
            });
            (Arc::clone(drive), judgement)
        })
        .collect()
}

/// The fault domain of a node: its own name where none is said.
pub(super) fn fault_domain(node: &StorageNode) -> String {
    node.spec
        .fault_domain
        .clone()
        .filter(|domain| !domain.is_empty())
        .unwrap_or_else(|| node.spec.node_name.clone())
}

/// A pool's wishes as the plan takes them.
pub(super) fn pool_spec(spec: &UnifiedPoolSpec) -> pool::PoolSpec {
    let names = |names: &[String]| names.iter().map(|name| NodeName::from(name.as_str())).collect();
    let selector = &spec.drive_selector;
    pool::PoolSpec {
        selector: pool::DriveSelector {
            drive_types: selector.drive_types.iter().filter_map(word).collect(),
            min_tier: selector.min_tier.and_then(word),
            min_score: u8::try_from(selector.min_score).unwrap_or(100),
            require_zns: selector.require_zns,
            min_capacity_bytes: selector.min_capacity_bytes,
            max_capacity_bytes: selector.max_capacity_bytes,
            match_labels: selector.match_labels.clone(),
        },
        node_selector: spec.node_selector.clone(),
        capacity: pool::PoolCapacity {
            target_bytes: spec.capacity.target_bytes,
            min_drives: spec.capacity.min_drives,
            max_drives: spec.capacity.max_drives,
            auto_expand: spec.capacity.auto_expand,
            expand_threshold_percent: u8::try_from(spec.capacity.expand_threshold_percent).unwrap_or(100),
        },
        topology: pool::Topology {
            spread_across_fault_domains: spec.topology.spread_across_fault_domains,
            max_drives_per_node: spec.topology.max_drives_per_node,
            min_nodes: spec.topology.min_nodes,
            preferred_nodes: names(&spec.topology.preferred_nodes),
            excluded_nodes: names(&spec.topology.excluded_nodes),
        },
    }
}

fn redundancy(said: &class::Redundancy) -> placement::Redundancy {
    placement::Redundancy {
        kind: word(said.type_).unwrap_or(placement::RedundancyKind::None),
        replication_factor: said.replication_factor.unwrap_or(1),
        ec_policy: said.ec_policy.clone().unwrap_or_default(),
        min_fault_domains: said.min_fault_domains.unwrap_or(0),
    }
}

/// Redundancy as it was placed, for the volume.
pub(super) fn placed_redundancy(placed: &placement::Redundancy) -> class::Redundancy {
    class::Redundancy {
        type_: word(placed.kind).unwrap_or_default(),
        replication_factor: (placed.kind == placement::RedundancyKind::Replication)
            .then_some(placed.replication_factor),
        ec_policy: (!placed.ec_policy.is_empty()).then(|| placed.ec_policy.clone()),
        min_fault_domains: (placed.min_fault_domains > 0).then_some(placed.min_fault_domains),
    }
}

/// A class as placement sees it.
pub(super) fn class(object: &UnifiedStorageClass) -> placement::Class {
    let spec = &object.spec;
    let storage_type = match spec.storage_type {
        class::ClassType::Auto => None,
        other => word(other),
    };
    placement::Class {
        name: object.name_any(),
        storage_type,
        tier: word(spec.tier).unwrap_or(placement::ServiceTier::Auto),
        backend: spec.backend.and_then(word),
        pool_labels: spec.pool_selector.match_labels.clone(),
        redundancy: redundancy(&spec.redundancy),
        drive_type: match spec.hardware_preference.drive_type {
            class::PreferredDrive::Auto => None,
            other => word(other),
        },
        is_default: spec.is_default,
    }
}

/// A claim as placement sees it, for the volume of that name.
pub(super) fn request(
    spec: &UnifiedStorageClaimSpec,
    capacity_bytes: u64,
    volume: &str,
) -> Option<placement::Request> {
    Some(placement::Request {
        storage_type: word(spec.storage_type)?,
        capacity_bytes,
        tier: spec.tier.and_then(word).unwrap_or(placement::ServiceTier::Auto),
        class: spec.class_name.clone(),
        redundancy: spec.redundancy.as_ref().map(redundancy),
        labels: BTreeMap::new(),
        volume: volume.to_owned(),
    })
}

/// A pool's phase and condition, as its status says them.
pub(super) fn pool_decision(pool: &UnifiedPool) -> decide::Decision<decide::pool::PoolPhase> {
    let status = pool.status.clone().unwrap_or_default();
    decide::Decision {
        phase: word(status.phase).unwrap_or(decide::pool::PoolPhase::Pending),
        conditions: condition_of(&status.conditions, "Ready").into_iter().collect(),
    }
}
