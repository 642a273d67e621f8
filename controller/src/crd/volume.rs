//! `UnifiedVolume`: the bytes. It keeps the durable intent (placement), the backend's handle and the finalizer, and
//! stays in the ledger until the bytes are gone.

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
    claim::{Access, SecretRef},
    class::{BackendType, ReclaimPolicy, Redundancy, ServiceTier, StorageType},
};

/// The claim that a volume belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: another claim of the same name is another claim.
    pub uid: String,
}

/// Where a volume was placed, before any backend was called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumePlacement {
    /// The storage system.
    pub backend: BackendType,
    /// The pool.
    pub pool: String,
    /// Copies of every byte.
    pub copies: u32,
    /// Bytes that the pool promised for it: whole slots times copies.
    pub promised_bytes: u64,
    /// Why there, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// A volume on a backend.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "storage.billyronks.io",
    version = "v1",
    kind = "UnifiedVolume",
    plural = "unifiedvolumes",
    shortname = "uv",
    category = "smart-storage",
    doc = "The bytes behind a claim: where they were placed and how they are reached.",
    status = "UnifiedVolumeStatus",
    derive = "PartialEq",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.storageType"),
    printcolumn(name = "Backend", type_ = "string", json_path = ".spec.placement.backend"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.placement.pool"),
    printcolumn(name = "Capacity", type_ = "string", json_path = ".status.capacity"),
    printcolumn(name = "Claim", type_ = "string", json_path = ".spec.claimRef.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.placement.pool == oldSelf.placement.pool && self.placement.backend == oldSelf.placement.backend", "a volume's placement cannot be changed"))]
#[x_kube(validation = ("self.capacityBytes >= oldSelf.capacityBytes", "a volume cannot shrink"))]
pub struct UnifiedVolumeSpec {
    /// block, file or object.
    pub storage_type: StorageType,
    /// The claim that it belongs to.
    pub claim_ref: ClaimRef,
    /// The class's name at the time of placing; empty where there was none.
    #[serde(default)]
    pub class_name: String,
    /// Service tier at the time of placing.
    #[serde(default)]
    pub tier: ServiceTier,
    /// Redundancy at the time of placing.
    #[serde(default)]
    pub redundancy: Redundancy,
    /// Parameters of the class at the time of placing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// Delete or Retain.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
    /// Size in bytes.
    pub capacity_bytes: u64,
    /// Where it is placed.
    pub placement: VolumePlacement,
}

/// Phases of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum VolumePhase {
    #[default]
    Pending,
    Provisioning,
    Ready,
    Expanding,
    Degraded,
    Deleting,
    Released,
    Failed,
}

/// What the operator sees of a volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnifiedVolumeStatus {
    /// Pending, Provisioning, Ready, Expanding, Degraded, Deleting, Released or Failed.
    #[serde(default)]
    pub phase: VolumePhase,
    /// Size in words: 1 GiB.
    #[serde(default)]
    pub capacity: String,
    /// Bytes that the backend holds it to now.
    #[serde(default)]
    pub capacity_bytes: u64,
    /// What the backend calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// How to reach the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// The Secret with its credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Standard conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
