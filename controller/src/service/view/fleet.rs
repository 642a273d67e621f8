//! Nodes, drives, pools and classes, as REST shows them.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, conditions};
use crate::crd::{
    self, StorageNode, UnifiedPool, UnifiedStorageClass,
    class::{BackendType, ClassPhase, ClassType, ReclaimPolicy, ServiceTier, StorageType},
    condition,
    member::MemberPhase,
    node::{DriveTier, NodePhase, UseState},
    pool::PoolPhase,
};

/// Who uses a drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DriveUse {
    /// Free, InUse, Claimed, Conflict or Unknown.
    pub state: UseState,
    /// What was found on it, in words.
    pub holder: Option<String>,
    /// The pool that claimed it.
    pub pool: Option<String>,
}

/// What a drive is good for, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Classification {
    /// ultraFast, fastNvme, standardSsd or hdd; null where the kernel cannot say what the drive is.
    pub tier: Option<DriveTier>,
    /// 0 to 100.
    pub score: u32,
    /// small, medium or large.
    pub capacity_tier: String,
    /// block, file, object, cache.
    pub suitable_for: Vec<String>,
    /// Every part of the classification in words.
    pub reasons: Vec<String>,
}

/// A drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drive {
    /// Stable id, never a kernel name.
    pub id: String,
    /// What the kernel calls it now; empty while it is not there.
    pub device: String,
    /// nvme, ssd, hdd, pmem or unknown.
    pub drive_type: String,
    /// Model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Firmware revision.
    pub firmware: Option<String>,
    /// World wide name.
    pub wwn: Option<String>,
    /// pcie, sas, sata, virtio, usb, loop, ...
    pub transport: Option<String>,
    /// Zone model.
    pub zoned: Option<String>,
    /// Namespaces of the NVMe controller.
    pub namespaces: Option<u32>,
    /// Size in bytes; null where it could not be read.
    pub capacity_bytes: Option<u64>,
    /// Good, Warning, Failing, Failed or Unknown.
    pub health: String,
    /// Why.
    pub health_reason: Option<String>,
    /// Who uses it.
    #[serde(rename = "use")]
    pub usage: DriveUse,
    /// Whether a pool may take it.
    pub claimable: bool,
    /// Where it is not claimable: every reason in words.
    pub refusals: Vec<String>,
    /// What it is good for.
    pub classification: Classification,
    /// Labels for selectors.
    pub labels: BTreeMap<String, String>,
    /// Whether the agent sees it now.
    pub present: bool,
    /// What the operator recognises it by.
    pub evidence: BTreeMap<String, String>,
}

impl Drive {
    fn of(from: &crd::node::Drive, node: &StorageNode) -> Self {
        let (labels, evidence) = (from.labels(&node.spec), from.remembered());
        let from = from.clone();
        Self {
            id: from.id,
            device: from.device,
            drive_type: from.drive_type,
            model: from.model,
            serial: from.serial,
            firmware: from.firmware,
            wwn: from.wwn,
            transport: from.transport,
            zoned: from.zoned,
            namespaces: from.namespaces,
            capacity_bytes: from.capacity_bytes,
            health: from.health,
            health_reason: from.health_reason,
            usage: DriveUse {
                state: from.usage.state,
                holder: from.usage.holder,
                pool: from.usage.pool,
            },
            claimable: from.claimable,
            refusals: from.refusals,
            classification: Classification {
                tier: from.classification.tier,
                score: from.classification.score,
                capacity_tier: from.classification.capacity_tier,
                suitable_for: from.classification.suitable_for,
                reasons: from.classification.reasons,
            },
            labels,
            present: from.present,
            evidence,
        }
    }
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SystemInfo {
    /// Host name.
    pub hostname: String,
    /// Kernel release.
    pub kernel_release: String,
    /// CPU architecture.
    pub architecture: String,
    /// Name of the operating system.
    pub os_name: String,
    /// CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Version of the agent.
    pub agent_version: String,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// The node's name.
    pub name: String,
    /// Pending, Discovering, Ready, Degraded or Offline.
    pub phase: NodePhase,
    /// Rack, room or whatever else fails as one; null where the node stands for itself.
    pub fault_domain: Option<String>,
    /// Labels of every drive of the node.
    pub labels: BTreeMap<String, String>,
    /// Drives that are there.
    pub drive_count: u32,
    /// NVMe drives among them.
    pub nvme_count: u32,
    /// SATA and SAS flash among them.
    pub ssd_count: u32,
    /// Disks among them.
    pub hdd_count: u32,
    /// Capacity of all drives in bytes.
    pub total_capacity_bytes: u64,
    /// Capacity of the claimable drives in bytes.
    pub available_capacity_bytes: u64,
    /// The machine.
    pub system_info: Option<SystemInfo>,
    /// The drives.
    pub drives: Vec<Drive>,
    /// Standard conditions.
    pub conditions: Vec<Condition>,
}

impl From<&StorageNode> for Node {
    fn from(node: &StorageNode) -> Self {
        let status = node.status.clone().unwrap_or_default();
        Self {
            name: node.spec.node_name.clone(),
            phase: status.phase,
            fault_domain: node.spec.fault_domain.clone(),
            labels: node.spec.labels.clone(),
            drive_count: status.drive_count,
            nvme_count: status.nvme_count,
            ssd_count: status.ssd_count,
            hdd_count: status.hdd_count,
            total_capacity_bytes: status.total_capacity_bytes,
            available_capacity_bytes: status.available_capacity_bytes,
            system_info: status.system_info.map(|info| SystemInfo {
                hostname: info.hostname,
                kernel_release: info.kernel_release,
                architecture: info.architecture,
                os_name: info.os_name,
                cpus: info.cpus,
                memory_bytes: info.memory_bytes,
                agent_version: info.agent_version,
            }),
            drives: status.drives.iter().map(|drive| Drive::of(drive, node)).collect(),
            conditions: conditions(&status.conditions),
        }
    }
}

/// A drive that serves a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolMember {
    /// Name of the PoolMember.
    pub name: String,
    /// The node on which the drive is now.
    pub node: String,
    /// The drive's id.
    pub drive: String,
    /// What the kernel calls it now.
    pub device: String,
    /// Pending, Preparing, Online, Failed, Missing, Releasing or Released.
    pub phase: MemberPhase,
    /// Why it is not well, in words; empty where it is.
    pub reason: String,
    /// Capacity of its file system in bytes; of the drive while there is none.
    pub capacity_bytes: u64,
    /// Bytes in use, quantised to 1 %.
    pub used_bytes: u64,
    /// Standard conditions.
    pub conditions: Vec<Condition>,
}

impl From<&crd::PoolMember> for PoolMember {
    fn from(member: &crd::PoolMember) -> Self {
        let status = member.status.clone().unwrap_or_default();
        let ready = condition::get(&status.conditions, "Ready").filter(|c| !c.is_true());
        Self {
            name: member.name_any(),
            node: Some(status.node)
                .filter(|n| !n.is_empty())
                .unwrap_or_else(|| member.spec.node_name.clone()),
            drive: member.spec.drive_id.clone(),
            device: status.device,
            phase: status.phase,
            reason: ready.map(|c| c.message.clone()).unwrap_or_default(),
            capacity_bytes: if status.capacity_bytes > 0 {
                status.capacity_bytes
            } else {
                member.spec.drive_bytes
            },
            used_bytes: status.used_bytes,
            conditions: conditions(&status.conditions),
        }
    }
}

/// A drive that a pool looked at and did not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RefusedDrive {
    /// The node.
    pub node: String,
    /// The drive's id.
    pub drive: String,
    /// Every reason in words.
    pub reasons: Vec<String>,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pool {
    /// Name.
    pub name: String,
    /// block, file or object.
    pub pool_type: StorageType,
    /// The storage system.
    pub backend: BackendType,
    /// Pending, Creating, Ready, Expanding, Degraded, Error or Deleting.
    pub phase: PoolPhase,
    /// The drives that serve it.
    pub members: Vec<PoolMember>,
    /// How many they are.
    pub drive_count: u32,
    /// On how many nodes.
    pub node_count: u32,
    /// Bytes that the pool can promise in all.
    pub total_capacity_bytes: u64,
    /// Bytes promised to volumes.
    pub promised_bytes: u64,
    /// Bytes in use, quantised to 1 %.
    pub used_capacity_bytes: u64,
    /// Bytes that can still be promised.
    pub available_capacity_bytes: u64,
    /// Promised bytes in percent of the capacity.
    pub utilization_percent: u32,
    /// Drives that were looked at and not taken, each with its reasons.
    pub refused_drives: Vec<RefusedDrive>,
    /// Standard conditions.
    pub conditions: Vec<Condition>,
}

impl Pool {
    /// A pool with its members.
    #[must_use]
    pub fn of(pool: &UnifiedPool, members: Vec<PoolMember>) -> Self {
        let status = pool.status.clone().unwrap_or_default();
        Self {
            name: pool.name_any(),
            pool_type: pool.spec.pool_type,
            backend: pool.spec.backend.type_,
            phase: status.phase,
            members,
            drive_count: status.drive_count,
            node_count: status.node_count,
            total_capacity_bytes: status.total_capacity_bytes,
            promised_bytes: status.promised_bytes,
            used_capacity_bytes: status.used_capacity_bytes,
            available_capacity_bytes: status.available_capacity_bytes,
            utilization_percent: status.utilization_percent,
            refused_drives: status
                .refused_drives
                .into_iter()
                .map(|r| RefusedDrive {
                    node: r.node,
                    drive: r.drive,
                    reasons: r.reasons,
                })
                .collect(),
            conditions: conditions(&status.conditions),
        }
    }
}

/// A class of storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Class {
    /// Name.
    pub name: String,
    /// block, file, object, or auto: then the claim says which.
    pub storage_type: ClassType,
    /// Service tier.
    pub tier: ServiceTier,
    /// The storage system; null until it is known.
    pub backend: Option<BackendType>,
    /// Pending, Ready, Degraded or Error.
    pub phase: ClassPhase,
    /// Taken where a claim of this type names no class.
    pub is_default: bool,
    /// What deleting a claim does to the data.
    pub reclaim_policy: ReclaimPolicy,
    /// Whether claims of this class may grow.
    pub allow_expansion: bool,
    /// Bytes that can still be promised through this class.
    pub available_capacity_bytes: u64,
    /// Volumes of this class.
    pub volume_count: u32,
    /// Standard conditions.
    pub conditions: Vec<Condition>,
}

impl From<&UnifiedStorageClass> for Class {
    fn from(class: &UnifiedStorageClass) -> Self {
        let status = class.status.clone().unwrap_or_default();
        Self {
            name: class.name_any(),
            storage_type: class.spec.storage_type,
            tier: class.spec.tier,
            backend: status.resolved_backend.or(class.spec.backend),
            phase: status.phase,
            is_default: class.spec.is_default,
            reclaim_policy: class.spec.reclaim_policy,
            allow_expansion: class.spec.capacity.allow_expansion,
            available_capacity_bytes: status.available_capacity_bytes,
            volume_count: status.volume_count,
            conditions: conditions(&status.conditions),
        }
    }
}
