//! The service's answers as messages, and messages as drafts. Words are the same as in JSON.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use smart_storage_proto::v1 as pb;

use crate::service::{
    CreateDraft,
    capacity::{Capacity, CapacityTotals},
    request::RedundancyDraft,
    view::{Access, Class, Condition, Drive, DryRunAnswer, Node, Pool, PoolMember, Storage},
    watch::Event,
};

/// An enum's word, as JSON has it.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    }
}

pub(super) fn draft(request: pb::CreateStorageRequest) -> CreateDraft {
    let given = |text: String| Some(text).filter(|t| !t.is_empty());
    CreateDraft {
        name: given(request.name),
        storage_type: given(request.storage_type),
        capacity_bytes: Some(request.capacity_bytes),
        tier: request.tier,
        class: request.class,
        namespace: request.namespace,
        labels: request.labels.into_iter().collect::<BTreeMap<_, _>>(),
        redundancy: request.redundancy.map(|r| RedundancyDraft {
            type_: given(r.r#type),
            replication_factor: r.replication_factor,
            ec_policy: r.ec_policy,
            min_fault_domains: r.min_fault_domains,
        }),
        reclaim_policy: request.reclaim_policy,
        faults: Vec::new(),
    }
}

pub(super) fn dry_run(answer: DryRunAnswer) -> pb::CreateStorageResponse {
    pb::CreateStorageResponse {
        storage: None,
        placed: Some(answer.placed),
        placement: answer.placement.map(|p| pb::Placement {
            class: p.class,
            backend: p.backend,
            pool: p.pool,
        }),
        reasons: answer.reasons,
    }
}

fn conditions(from: Vec<Condition>) -> Vec<pb::Condition> {
    from.into_iter()
        .map(|c| pb::Condition {
            r#type: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: Some(timestamp(c.last_transition_time)),
            observed_generation: c.observed_generation.unwrap_or_default(),
        })
        .collect()
}

fn access(from: Access) -> pb::Access {
    pb::Access {
        filer: from.filer.map(|f| pb::Filer {
            url: f.url,
            path: f.path,
        }),
        s3: from.s3.map(|s| pb::S3 {
            endpoint: s.endpoint,
            bucket: s.bucket,
            access_key: s.access_key,
            secret_ref: s.secret_ref.map(|r| pb::SecretRef {
                namespace: r.namespace,
                name: r.name,
            }),
        }),
        mount: from.mount.unwrap_or_default(),
    }
}

pub(super) fn storage(from: Storage) -> pb::Storage {
    pb::Storage {
        id: from.id,
        name: from.name,
        namespace: from.namespace,
        storage_type: word(&from.storage_type),
        capacity_bytes: from.capacity_bytes,
        tier: word(&from.tier),
        class: from.class.unwrap_or_default(),
        backend: from.backend.map(|b| word(&b)).unwrap_or_default(),
        pool: from.pool.unwrap_or_default(),
        phase: word(&from.phase),
        conditions: conditions(from.conditions),
        access: from.access.map(access),
        created_at: from.created_at.map(timestamp),
        labels: from.labels.into_iter().collect(),
        reclaim_policy: word(&from.reclaim_policy),
    }
}

fn drive(from: Drive) -> pb::Drive {
    pb::Drive {
        id: from.id,
        device: from.device,
        drive_type: from.drive_type,
        model: from.model.unwrap_or_default(),
        serial: from.serial.unwrap_or_default(),
        firmware: from.firmware.unwrap_or_default(),
        wwn: from.wwn.unwrap_or_default(),
        transport: from.transport.unwrap_or_default(),
        capacity_bytes: from.capacity_bytes.unwrap_or_default(),
        health: from.health,
        health_reason: from.health_reason.unwrap_or_default(),
        use_state: word(&from.usage.state),
        holder: from.usage.holder.unwrap_or_default(),
        pool: from.usage.pool.unwrap_or_default(),
        claimable: from.claimable,
        refusals: from.refusals,
        classification: Some(pb::Classification {
            tier: from.classification.tier.map(|t| word(&t)).unwrap_or_default(),
            score: from.classification.score,
            capacity_tier: from.classification.capacity_tier,
            suitable_for: from.classification.suitable_for,
            reasons: from.classification.reasons,
        }),
        labels: from.labels.into_iter().collect(),
    }
}

pub(super) fn node(from: Node) -> pb::Node {
    pb::Node {
        name: from.name,
        phase: word(&from.phase),
        drives: from.drives.into_iter().map(drive).collect(),
        conditions: conditions(from.conditions),
        total_capacity_bytes: from.total_capacity_bytes,
        available_capacity_bytes: from.available_capacity_bytes,
        drive_count: from.drive_count,
    }
}

fn member(from: PoolMember) -> pb::PoolMember {
    pb::PoolMember {
        name: from.name,
        node: from.node,
        drive: from.drive,
        device: from.device,
        phase: word(&from.phase),
        reason: from.reason,
        capacity_bytes: from.capacity_bytes,
    }
}

pub(super) fn pool(from: Pool) -> pb::Pool {
    pb::Pool {
        name: from.name,
        pool_type: word(&from.pool_type),
        backend: word(&from.backend),
        phase: word(&from.phase),
        members: from.members.into_iter().map(member).collect(),
        total_capacity_bytes: from.total_capacity_bytes,
        promised_bytes: from.promised_bytes,
        used_capacity_bytes: from.used_capacity_bytes,
        available_capacity_bytes: from.available_capacity_bytes,
        conditions: conditions(from.conditions),
    }
}

const fn totals(from: CapacityTotals) -> pb::CapacityTotals {
    pb::CapacityTotals {
        raw_bytes: from.raw_bytes,
        claimed_bytes: from.claimed_bytes,
        promised_bytes: from.promised_bytes,
        free_bytes: from.free_bytes,
    }
}

pub(super) fn capacity(from: Capacity) -> pb::Capacity {
    let table = |table: BTreeMap<String, CapacityTotals>| {
        table.into_iter().map(|(name, sum)| (name, totals(sum))).collect()
    };
    pb::Capacity {
        total: Some(totals(from.total)),
        by_node: table(from.by_node),
        by_tier: table(from.by_tier),
        by_type: table(from.by_type),
        by_pool: table(from.by_pool),
    }
}

pub(super) fn class(from: Class) -> pb::Class {
    pb::Class {
        name: from.name,
        storage_type: word(&from.storage_type),
        tier: word(&from.tier),
        backend: from.backend.map(|b| word(&b)).unwrap_or_default(),
        phase: word(&from.phase),
        is_default: from.is_default,
        available_capacity_bytes: from.available_capacity_bytes,
        volume_count: from.volume_count,
    }
}

pub(super) fn storage_event(from: Event<Storage>) -> pb::StorageEvent {
    pb::StorageEvent {
        r#type: from.kind.as_str().to_owned(),
        storage: from.item.map(storage),
        resume_token: from.resume_token,
    }
}

pub(super) fn node_event(from: Event<Node>) -> pb::NodeEvent {
    pb::NodeEvent {
        r#type: from.kind.as_str().to_owned(),
        node: from.item.map(node),
        resume_token: from.resume_token,
    }
}
