//! StorageNode: the registry's picture of a node, judged and written down where it differs. Its status is also the
//! memory of the drives' identities.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kube::{
    Api,
    runtime::{controller::Action, reflector::ObjectRef},
};
use smart_storage_core::{
    bytes::format_bytes,
    classify::{HealthState, Judgement},
    decide::node::{GRACE_MS, decide},
    drive::{Transport, Zoned},
    node::{DriveRecord, NodeRecord},
};

use super::{Change, Context, Error, Stores, convert, every, live, publish};
use crate::crd::{
    StorageNode, StorageNodeStatus,
    node::{Drive, DriveClassification, DriveUse, NodePhase, NodeSystemInfo},
};

/// Which nodes have to be looked at again.
pub(super) fn concerns(change: Option<&Change>, stores: &Stores) -> Vec<ObjectRef<StorageNode>> {
    let named = |name: &str| {
        let nodes = stores.nodes.state();
        nodes
            .iter()
            .filter(|node| node.spec.node_name == name)
            .map(|node| ObjectRef::from_obj(node.as_ref()))
            .collect()
    };
    match change {
        None => every(&stores.nodes),
        Some(Change::Agent(name)) => named(name),
        Some(Change::Member { node, .. }) => named(node),
        Some(_) => Vec::new(),
    }
}

/// Publishes what is known of a node.
pub(super) async fn reconcile(node: Arc<StorageNode>, context: Arc<Context>) -> Result<Action, Error> {
    let api = Api::<StorageNode>::all(context.client.clone());
    let Some(node) = live(&api, &node)
        .await?
        .filter(|node| node.metadata.deletion_timestamp.is_none())
    else {
        return Ok(Action::await_change());
    };
    let now = context.now();
    let old = node.status.clone().unwrap_or_default();
    let record = context.registry.get(&node.spec.node_name);
    let grace = Duration::from_millis(GRACE_MS);
    // After a restart the agents come back within seconds: until then the last word stands.
    if record.is_none() && !old.drives.is_empty() && context.is_young(grace) {
        return Ok(Action::requeue(grace));
    }
    let decision = decide(record.as_deref(), convert::millis(now));
    let mut status = StorageNodeStatus {
        phase: convert::word(decision.phase).unwrap_or_default(),
        conditions: convert::conditions(
            &old.conditions,
            &decision.conditions,
            node.metadata.generation,
            now,
        ),
        system_info: record
            .as_ref()
            .map(|record| system_info(record))
            .or_else(|| old.system_info.clone()),
        drives: drives(&node, record.as_deref(), &context),
        ..StorageNodeStatus::default()
    };
    if record.is_none() && !old.drives.is_empty() {
        status.phase = NodePhase::Offline;
    }
    count(&mut status);
    publish(&api, &node, node.status.as_ref(), &status).await?;
    if old.phase != status.phase && matches!(status.phase, NodePhase::Ready | NodePhase::Offline) {
        let ok = status.phase == NodePhase::Ready;
        let note = format!("{} drives, {}", status.drive_count, status.total_capacity);
        context
            .event(&node, ok, if ok { "NodeReady" } else { "NodeOffline" }, note)
            .await;
    }
    let away = record.is_some_and(|record| !record.session.connected);
    Ok(if away && status.phase != NodePhase::Offline {
        Action::requeue(grace)
    } else {
        Action::await_change()
    })
}

fn count(status: &mut StorageNodeStatus) {
    let present = || status.drives.iter().filter(|drive| drive.present);
    let of = |word: &str| {
        u32::try_from(present().filter(|drive| drive.drive_type == word).count()).unwrap_or(u32::MAX)
    };
    let bytes = |claimable: bool| -> u64 {
        present()
            .filter(|drive| !claimable || drive.claimable)
            .filter_map(|drive| drive.capacity_bytes)
            .sum()
    };
    let (nvme, ssd, hdd) = (of("nvme"), of("ssd"), of("hdd"));
    let (all, total, available) = (present().count(), bytes(false), bytes(true));
    status.drive_count = u32::try_from(all).unwrap_or(u32::MAX);
    (status.nvme_count, status.ssd_count, status.hdd_count) = (nvme, ssd, hdd);
    status.total_capacity = format_bytes(total);
    status.total_capacity_bytes = total;
    status.available_capacity_bytes = available;
}

fn system_info(record: &NodeRecord) -> NodeSystemInfo {
    let system = &record.system;
    NodeSystemInfo {
        hostname: system.hostname.clone(),
        kernel_release: system.kernel_release.clone(),
        architecture: system.architecture.clone(),
        os_name: system.os_name.clone(),
        cpus: system.cpus,
        memory_bytes: system.memory_bytes,
        agent_version: record.agent_version.clone(),
    }
}

/// The drives that are there, and those that are not and must not be forgotten: members, and whatever an
/// administrator has said something of.
fn drives(node: &StorageNode, record: Option<&NodeRecord>, context: &Context) -> Vec<Drive> {
    let members = context.stores.members.state();
    let claims = convert::claims(&members);
    let mut drives: BTreeMap<String, Drive> = BTreeMap::new();
    for (drive, judgement) in record
        .map(|record| convert::judge_node(node, record, &claims))
        .unwrap_or_default()
    {
        if !drive.identity.is_path() {
            let known = drive
                .identity
                .certain()
                .and_then(|id| context.hub.known_drive(id));
            let evidence = known.map(|known| known.to_map()).unwrap_or_default();
            drives.insert(judgement.id.to_string(), present(&drive, judgement, evidence));
        }
    }
    let remembered: BTreeMap<&str, &Drive> = node
        .status
        .iter()
        .flat_map(|status| &status.drives)
        .map(|drive| (drive.id.as_str(), drive))
        .collect();
    // Where no agent has spoken since the start, nothing is known to be gone.
    let silent = record.is_none_or(|record| !record.session.synced && record.drives.is_empty());
    let mut kept: BTreeSet<&str> = node.spec.excluded_drives.iter().map(String::as_str).collect();
    kept.extend(node.spec.drive_overrides.keys().map(String::as_str));
    let here = members.iter().filter(|member| {
        let now = member.status.as_ref().map_or("", |status| status.node.as_str());
        (if now.is_empty() {
            member.spec.node_name.as_str()
        } else {
            now
        }) == node.spec.node_name
    });
    kept.extend(here.map(|member| member.spec.drive_id.as_str()));
    for (id, drive) in remembered {
        if !drives.contains_key(id) && (silent || kept.contains(id)) {
            drives.insert(id.to_owned(), absent(drive, silent));
        }
    }
    drives.into_values().collect()
}

fn present(drive: &DriveRecord, judgement: Judgement, evidence: BTreeMap<String, String>) -> Drive {
    let facts = &drive.facts;
    let nvme = facts.nvme.as_ref();
    let classification = judgement.classification;
    let mut shown = Drive {
        id: judgement.id.to_string(),
        device: facts.name.clone(),
        drive_type: judgement.drive_type.to_string(),
        model: facts.model.known().cloned(),
        serial: facts.evidence.serial.clone(),
        firmware: facts.firmware.known().cloned(),
        wwn: facts.evidence.wwn.clone(),
        transport: (facts.transport != Transport::Unknown).then(|| facts.transport.to_string()),
        zoned: matches!(facts.zoned, Zoned::HostAware | Zoned::HostManaged).then(|| facts.zoned.to_string()),
        namespaces: nvme.and_then(|nvme| nvme.namespace_count),
        capacity_bytes: facts.size_bytes.known().copied(),
        health: judgement.health.state.to_string(),
        // Nothing is wrong with a good drive: that needs no words.
        health_reason: Some(judgement.health.reason)
            .filter(|reason| !reason.is_empty() && judgement.health.state != HealthState::Good),
        usage: DriveUse {
            state: convert::word(judgement.usage.state).unwrap_or_default(),
            holder: judgement.usage.holder,
            pool: judgement.usage.pool.map(|pool| pool.to_string()),
        },
        claimable: judgement.claimable,
        refusals: judgement.refusals,
        classification: DriveClassification {
            tier: classification.tier.and_then(convert::word),
            score: u32::from(classification.score),
            capacity_tier: classification
                .capacity_tier
                .map(|tier| tier.to_string())
                .unwrap_or_default(),
            suitable_for: classification
                .suitable_for
                .iter()
                .map(ToString::to_string)
                .collect(),
            reasons: classification.reasons,
        },
        present: true,
        evidence: BTreeMap::new(),
    };
    shown.remember(evidence);
    shown
}

fn absent(drive: &Drive, silent: bool) -> Drive {
    let reason = if silent {
        "its node's agent is away"
    } else {
        "it is not there now"
    };
    Drive {
        device: if silent {
            drive.device.clone()
        } else {
            String::new()
        },
        claimable: false,
        refusals: vec![reason.to_owned()],
        present: silent && drive.present,
        ..drive.clone()
    }
}

#[cfg(test)]
mod tests;
