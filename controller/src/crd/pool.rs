//! `UnifiedPool`: which drives serve which backend.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn has its own type_ and name"
)]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Condition,
    class::{BackendType, StorageType, yes},
    node::DriveTier,
    volume::ClaimRef,
};

/// The storage system of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolBackend {
    /// mayastor, seaweedfs or rustfs.
    #[serde(rename = "type")]
    pub type_: BackendType,
    /// Namespace of its objects, where it lives in Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Settings of the backend. seaweedfs: master and filer (host:port.grpcPort), s3 (URL); the controller's flags
    /// are the default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
}

/// Types of drives in a selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum SelectableDriveType {
    Nvme,
    Ssd,
    Hdd,
    Pmem,
    Unknown,
}

/// Which drives a pool may take. Everything that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(self.maxCapacityBytes) || self.maxCapacityBytes == 0 || !has(self.minCapacityBytes) || self.minCapacityBytes <= self.maxCapacityBytes", "minCapacityBytes is above maxCapacityBytes: no drive can match"))]
pub struct DriveSelector {
    /// Types of drives: nvme, ssd, hdd, pmem, unknown. Empty: every type that the kernel can name; an unknown
    /// drive (virtio, loop) is taken only where unknown is listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub drive_types: Vec<SelectableDriveType>,
    /// The lowest tier: ultraFast, fastNvme, standardSsd or hdd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tier: Option<DriveTier>,
    /// The lowest score, 0 to 100.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub min_score: u32,
    /// Only zoned drives.
    #[serde(default)]
    pub require_zns: bool,
    /// The smallest drive in bytes; 0 for no limit.
    #[serde(default)]
    pub min_capacity_bytes: u64,
    /// The largest drive in bytes; 0 for no limit.
    #[serde(default)]
    pub max_capacity_bytes: u64,
    /// Labels that a drive must have with just these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
}

/// How much a pool wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(self.maxDrives) || self.maxDrives == 0 || !has(self.minDrives) || self.minDrives <= self.maxDrives", "minDrives is above maxDrives"))]
pub struct PoolCapacity {
    /// Drives are taken until the pool has so many bytes. 0 for no target: then maxDrives of them, or minDrives where
    /// there is no limit or autoExpand is on.
    #[serde(default)]
    pub target_bytes: u64,
    /// Fewer drives than this make no pool: none is taken until so many can be.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 10000))]
    pub min_drives: u32,
    /// Never more drives than this; 0 for no limit.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10000))]
    pub max_drives: u32,
    /// Take further drives when the pool fills.
    #[serde(default)]
    pub auto_expand: bool,
    /// Promised share of the capacity, in percent, at which a pool with autoExpand takes further drives.
    #[serde(default = "eighty")]
    #[schemars(range(min = 1, max = 100))]
    pub expand_threshold_percent: u32,
}

impl Default for PoolCapacity {
    fn default() -> Self {
        Self {
            target_bytes: 0,
            min_drives: one(),
            max_drives: 0,
            auto_expand: false,
            expand_threshold_percent: eighty(),
        }
    }
}

const fn one() -> u32 {
    1
}

const fn eighty() -> u32 {
    80
}

/// Where a pool's drives may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolTopology {
    /// Take drives from the fault domains in turn.
    #[serde(default = "yes")]
    pub spread_across_fault_domains: bool,
    /// Never more drives of one node than this; 0 for no limit.
    #[serde(default)]
    pub max_drives_per_node: u32,
    /// Fewer nodes than this make no pool.
    #[serde(default)]
    pub min_nodes: u32,
    /// Nodes whose drives are taken first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub preferred_nodes: Vec<String>,
    /// Nodes whose drives are never taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub excluded_nodes: Vec<String>,
}

impl Default for PoolTopology {
    fn default() -> Self {
        Self {
            spread_across_fault_domains: yes(),
            max_drives_per_node: 0,
            min_nodes: 0,
            preferred_nodes: Vec::new(),
            excluded_nodes: Vec::new(),
        }
    }
}

/// What deleting a pool does to its drives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum OnDelete {
    #[default]
    KeepData,
    #[serde(rename = "yes-really-destroy-data")]
    DestroyData,
}

/// A pool of drives that serves one backend.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "storage.billyronks.io",
    version = "v1",
    kind = "UnifiedPool",
    plural = "unifiedpools",
    shortname = "up",
    category = "smart-storage",
    doc = "A pool of drives that serves one storage system.",
    status = "UnifiedPoolStatus",
    derive = "PartialEq",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.poolType"),
    printcolumn(name = "Backend", type_ = "string", json_path = ".spec.backend.type"),
    printcolumn(name = "Drives", type_ = "integer", json_path = ".status.driveCount"),
    printcolumn(name = "Capacity", type_ = "string", json_path = ".status.totalCapacity"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.poolType == oldSelf.poolType", "poolType cannot be changed: make another pool"))]
#[x_kube(validation = ("self.backend.type == oldSelf.backend.type", "backend.type cannot be changed: make another pool"))]
#[x_kube(validation = ("(self.backend.type == 'mayastor') == (self.poolType == 'block')", "mayastor serves block pools, seaweedfs and rustfs serve file and object pools"))]
pub struct UnifiedPoolSpec {
    /// block, file or object.
    pub pool_type: StorageType,
    /// The storage system.
    pub backend: PoolBackend,
    /// Which drives it may take.
    #[serde(default)]
    pub drive_selector: DriveSelector,
    /// How much it wants.
    #[serde(default)]
    pub capacity: PoolCapacity,
    /// Only nodes with these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Where its drives may be.
    #[serde(default)]
    pub topology: PoolTopology,
    /// KeepData, or the literal yes-really-destroy-data.
    #[serde(default)]
    pub on_delete: OnDelete,
}

/// Phases of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum PoolPhase {
    #[default]
    Pending,
    Creating,
    Ready,
    Expanding,
    Degraded,
    Error,
    Deleting,
}

/// What the operator sees of a pool. Its members are PoolMember objects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnifiedPoolStatus {
    /// Pending, Creating, Ready, Expanding, Degraded, Error or Deleting.
    #[serde(default)]
    pub phase: PoolPhase,
    /// Members.
    #[serde(default)]
    pub drive_count: u32,
    /// Nodes of the members.
    #[serde(default)]
    pub node_count: u32,
    /// Capacity in words: 6.44 GB.
    #[serde(default)]
    pub total_capacity: String,
    /// Bytes that the pool can promise in all: the slots of the members that serve.
    #[serde(default)]
    pub total_capacity_bytes: u64,
    /// Bytes of prepared members that do not serve now; nothing is promised on them.
    #[serde(default)]
    pub offline_capacity_bytes: u64,
    /// Bytes promised to volumes. Raised by a conditional update before a volume is written: this number is the lock.
    #[serde(default)]
    pub promised_bytes: u64,
    /// What of the promise is for volumes that are just being written; empty a moment later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<PoolReservation>,
    /// Bytes that data takes which belongs to no volume any more: kept by reclaim policy Retain and forgotten, or
    /// orphans. They cannot be promised.
    #[serde(default)]
    pub retained_bytes: u64,
    /// Bytes in use, quantised to 1 % of the capacity.
    #[serde(default)]
    pub used_capacity_bytes: u64,
    /// Bytes that can still be promised.
    #[serde(default)]
    pub available_capacity_bytes: u64,
    /// Promised bytes in percent of the capacity.
    #[serde(default)]
    pub utilization_percent: u32,
    /// Bytes of one slot, the backend's unit of allocation.
    #[serde(default)]
    pub slot_bytes: u64,
    /// What lies on its backend and belongs to no volume; looked for every ten minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphans: Option<PoolOrphans>,
    /// Drives that were looked at and not taken, each with its reasons; at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_drives: Vec<RefusedDrive>,
    /// Standard conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What lies on a backend and belongs to no volume. It is told and never removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolOrphans {
    /// How many there are.
    pub count: u32,
    /// How many of them are kept on purpose.
    #[serde(default)]
    pub retained: u32,
    /// The first of them by name, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<PoolOrphan>,
}

/// Something that belongs to no volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolOrphan {
    /// Its name on the backend.
    pub name: String,
    /// Retained: its volume was forgotten with reclaim policy Retain. Orphan: it bears our mark, or only parts are left.
    /// Unmarked: it has a name of ours and no mark.
    pub kind: OrphanKind,
    /// What is left: directory, rule, collection, identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
    /// namespace/name of the claim it was made for, where it says so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub claim: String,
}

/// Why something is there that belongs to no volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(
    missing_docs,
    reason = "a documented variant would break the structural schema"
)]
pub enum OrphanKind {
    Retained,
    #[default]
    Orphan,
    Unmarked,
}

/// Bytes promised to a volume that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolReservation {
    /// Name of the volume.
    pub volume: String,
    /// What it may take in all.
    pub bytes: u64,
    /// Which process is writing it.
    pub by: String,
    /// Where an existing volume grows: the resourceVersion that the growth builds on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grows: Option<String>,
    /// The claim that a new volume is for.
    #[serde(default)]
    pub claim: ClaimRef,
}

/// A drive that a pool did not take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedDrive {
    /// The node.
    pub node: String,
    /// The drive's id.
    pub drive: String,
    /// Every reason in words.
    pub reasons: Vec<String>,
}
