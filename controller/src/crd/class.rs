//! `UnifiedStorageClass`: what users may ask for.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn has its own type_ and name"
)]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;

/// The three types of storage, and the one that leaves the choice to the claim.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum ClassType {
    Block,
    File,
    Object,
    #[default]
    Auto,
}

/// The three types of storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum StorageType {
    Block,
    File,
    Object,
}

impl StorageType {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::File => "file",
            Self::Object => "object",
        }
    }
}

/// Service tiers: hot asks for NVMe and better, warm for at least SATA or SAS flash, cold takes anything, cheapest
/// first, auto decides by type and by what is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum ServiceTier {
    Hot,
    Warm,
    Cold,
    #[default]
    Auto,
}

impl ServiceTier {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Warm => "warm",
            Self::Cold => "cold",
            Self::Auto => "auto",
        }
    }
}

/// The storage systems that can stand behind a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum BackendType {
    Mayastor,
    Seaweedfs,
    Rustfs,
}

impl BackendType {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mayastor => "mayastor",
            Self::Seaweedfs => "seaweedfs",
            Self::Rustfs => "rustfs",
        }
    }
}

/// What deleting a claim does to the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum ReclaimPolicy {
    #[default]
    Delete,
    Retain,
}

impl ReclaimPolicy {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "Delete",
            Self::Retain => "Retain",
        }
    }
}

/// How data survives the loss of a drive or node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum RedundancyType {
    Replication,
    ErasureCoding,
    #[default]
    None,
}

/// How data survives the loss of a drive or node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(self.ecPolicy) || self.type == 'erasureCoding'", "ecPolicy goes with type erasureCoding"))]
pub struct Redundancy {
    /// replication, erasureCoding or none.
    #[serde(rename = "type", default)]
    pub type_: RedundancyType,
    /// Copies of every byte, with type replication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub replication_factor: Option<u32>,
    /// Data and parity shards, as 4+2, with type erasureCoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]*\+[1-9][0-9]*$"))]
    pub ec_policy: Option<String>,
    /// Fault domains over which the copies must be spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub min_fault_domains: Option<u32>,
}

/// Selects objects by their labels; all must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that must be there with just these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
}

/// Sizes and limits of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassCapacity {
    /// Size where the claim names none, a Kubernetes quantity: 100Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]+(\.[0-9]+)?([KMGTPE]i|[kMGTPEm])?$"))]
    pub requested: Option<String>,
    /// Limit of I/O operations a second; a backend that cannot enforce it says so in a condition.
    #[serde(rename = "maxIOPS", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_iops: Option<u32>,
    /// Limit of throughput in MB/s; a backend that cannot enforce it says so in a condition.
    #[serde(
        rename = "maxThroughputMBps",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1))]
    pub max_throughput_mbps: Option<u32>,
    /// Whether claims of this class may grow.
    #[serde(default = "yes")]
    pub allow_expansion: bool,
}

impl Default for ClassCapacity {
    fn default() -> Self {
        Self {
            requested: None,
            max_iops: None,
            max_throughput_mbps: None,
            allow_expansion: yes(),
        }
    }
}

pub(super) const fn yes() -> bool {
    true
}

/// The kind of drive that a class would rather have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum PreferredDrive {
    Nvme,
    Ssd,
    Hdd,
    #[default]
    Auto,
}

/// Hardware that a class would rather have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HardwarePreference {
    /// nvme, ssd, hdd or auto.
    #[serde(default)]
    pub drive_type: PreferredDrive,
    /// Only pools with at least so many drives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_drive_count: Option<u32>,
    /// Rather pools with zoned drives.
    #[serde(default)]
    pub prefer_zns: bool,
    /// Only pools on nodes with these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
}

/// What the class is called, or set to, on other platforms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlatformOverrides {
    /// Harvester and Longhorn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harvester: Option<HarvesterOverrides>,
    /// OpenStack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openstack: Option<OpenStackOverrides>,
}

/// Settings for Harvester.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HarvesterOverrides {
    /// Name of the StorageClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// Replicas of a Longhorn volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Longhorn's data locality: disabled, best-effort or strict-local.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_locality: Option<String>,
}

/// Settings for OpenStack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpenStackOverrides {
    /// Cinder volume type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<String>,
    /// Manila share type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_type: Option<String>,
    /// Swift container policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_policy: Option<String>,
    /// Availability zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,
}

/// What users may ask for: a type of storage with its tier, redundancy and reclaim policy.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "storage.billyronks.io",
    version = "v1",
    kind = "UnifiedStorageClass",
    plural = "unifiedstorageclasses",
    shortname = "usc",
    category = "smart-storage",
    doc = "A class of storage that users may ask for.",
    status = "UnifiedStorageClassStatus",
    derive = "PartialEq",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.storageType"),
    printcolumn(name = "Tier", type_ = "string", json_path = ".spec.tier"),
    printcolumn(name = "Backend", type_ = "string", json_path = ".status.resolvedBackend"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.storageType == oldSelf.storageType", "storageType cannot be changed: make another class"))]
#[x_kube(validation = ("!has(self.backend) || self.storageType == 'auto' || (self.backend == 'mayastor') == (self.storageType == 'block')", "mayastor serves block, seaweedfs and rustfs serve file and object"))]
pub struct UnifiedStorageClassSpec {
    /// block, file, object, or auto: then the claim says which.
    #[serde(default)]
    pub storage_type: ClassType,
    /// Service tier: hot, warm, cold or auto.
    #[serde(default)]
    pub tier: ServiceTier,
    /// Storage system: mayastor, seaweedfs or rustfs; where it is left out, the type decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendType>,
    /// Only pools with these labels.
    #[serde(default)]
    pub pool_selector: LabelSelector,
    /// Delete or Retain: it alone decides what deleting a claim does to data.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
    /// Sizes and limits.
    #[serde(default)]
    pub capacity: ClassCapacity,
    /// How data survives the loss of a drive or node.
    #[serde(default)]
    pub redundancy: Redundancy,
    /// Hardware that this class would rather have.
    #[serde(default)]
    pub hardware_preference: HardwarePreference,
    /// What the class is called, or set to, on other platforms.
    #[serde(default)]
    pub platform_overrides: PlatformOverrides,
    /// Taken where a claim of this type names no class.
    #[serde(default)]
    pub is_default: bool,
    /// Handed to the backend as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

/// Phases of a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum ClassPhase {
    #[default]
    Pending,
    Ready,
    Degraded,
    Error,
}

/// A class as it exists on a platform.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlatformClass {
    /// kubernetes, harvester or openstack.
    pub platform: String,
    /// Its name there.
    pub class_name: String,
    /// Whether it can be used there.
    pub ready: bool,
}

/// What the operator sees of a class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnifiedStorageClassStatus {
    /// Pending, Ready, Degraded or Error.
    #[serde(default)]
    pub phase: ClassPhase,
    /// The storage system that serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_backend: Option<BackendType>,
    /// The class on each platform.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platform_classes: Vec<PlatformClass>,
    /// Bytes that can still be promised through this class.
    #[serde(default)]
    pub available_capacity_bytes: u64,
    /// Volumes of this class.
    #[serde(default)]
    pub volume_count: u32,
    /// Standard conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
