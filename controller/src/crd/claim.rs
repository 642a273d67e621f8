//! `UnifiedStorageClaim`: a request for storage. Namespaced, and without a finalizer: a namespace can always go.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn has its own type_ and name"
)]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Condition,
    class::{BackendType, ReclaimPolicy, Redundancy, ServiceTier, StorageType},
};

/// A request for storage.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "storage.billyronks.io",
    version = "v1",
    kind = "UnifiedStorageClaim",
    plural = "unifiedstorageclaims",
    shortname = "uclaim",
    namespaced,
    category = "smart-storage",
    doc = "A request for block, file or object storage.",
    status = "UnifiedStorageClaimStatus",
    derive = "PartialEq",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.storageType"),
    printcolumn(name = "Class", type_ = "string", json_path = ".spec.className"),
    printcolumn(name = "Capacity", type_ = "string", json_path = ".spec.capacity"),
    printcolumn(name = "Volume", type_ = "string", json_path = ".status.volumeName"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.storageType == oldSelf.storageType", "storageType cannot be changed: make another claim"))]
#[x_kube(validation = ("(has(self.volumeName) ? self.volumeName : '') == (has(oldSelf.volumeName) ? oldSelf.volumeName : '')", "volumeName cannot be changed: make another claim"))]
#[x_kube(validation = ("(has(self.className) ? self.className : '') == (has(oldSelf.className) ? oldSelf.className : '')", "className cannot be changed: make another claim"))]
#[x_kube(validation = ("(has(self.tier) ? self.tier : '') == (has(oldSelf.tier) ? oldSelf.tier : '')", "tier cannot be changed: make another claim"))]
#[x_kube(validation = ("has(self.redundancy) == has(oldSelf.redundancy) && (!has(self.redundancy) || self.redundancy == oldSelf.redundancy)", "redundancy cannot be changed: make another claim"))]
#[x_kube(validation = ("(has(self.reclaimPolicy) ? self.reclaimPolicy : '') == (has(oldSelf.reclaimPolicy) ? oldSelf.reclaimPolicy : '')", "reclaimPolicy cannot be changed on the claim: change it on its UnifiedVolume"))]
#[x_kube(validation = ("isQuantity(self.capacity) && quantity(self.capacity).compareTo(quantity('0')) > 0 && quantity(self.capacity).compareTo(quantity('8Pi')) <= 0", "capacity must be a size from 1 byte to 8Pi: write 10Gi"))]
pub struct UnifiedStorageClaimSpec {
    /// block, file or object.
    pub storage_type: StorageType,
    /// Name of a UnifiedStorageClass; where it is left out, the default class of the type, or any pool that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub class_name: Option<String>,
    /// Service tier: hot, warm, cold or auto; where it is left out, the class's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<ServiceTier>,
    /// Size as a Kubernetes quantity: 10Gi. It may grow, and never shrinks.
    #[schemars(
        regex(pattern = r"^[0-9]+(\.[0-9]+)?([KMGTPE]i|[kMGTPEm])?$"),
        length(min = 1, max = 32)
    )]
    pub capacity: String,
    /// How data survives a loss; where it is left out, the class's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redundancy: Option<Redundancy>,
    /// Delete or Retain; where it is left out, the class's. From the moment that there is a volume, the volume's counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim_policy: Option<ReclaimPolicy>,
    /// Name of the volume to bind or to make; where it is left out, one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub volume_name: Option<String>,
}

/// Phases of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum ClaimPhase {
    #[default]
    Pending,
    Placing,
    Provisioning,
    Ready,
    Expanding,
    Deleting,
    Failed,
    Lost,
}

/// A Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// How to read a volume through the filer's HTTP. The bearer token is `filer_token` of the claim's Secret; writing goes
/// through S3 or a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilerAccess {
    /// URL of the filer.
    pub url: String,
    /// The directory that is the volume's.
    pub path: String,
}

/// How to reach a volume through S3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Access {
    /// URL of the S3 endpoint.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// The access key of the claim's own identity.
    pub access_key: String,
    /// The Secret with the keys (access_key, secret_key).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

/// How to reach the data. Never holds a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Through the filer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filer: Option<FilerAccess>,
    /// Through S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Access>,
    /// The command that mounts it, on a host that may: `<SECURITY>` is the folder with its SeaweedFS certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
}

/// What the operator sees of a claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnifiedStorageClaimStatus {
    /// Pending, Placing, Provisioning, Ready, Expanding, Deleting, Failed or Lost.
    #[serde(default)]
    pub phase: ClaimPhase,
    /// The volume that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_name: Option<String>,
    /// The class that serves it; empty where a pool was found without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The storage system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendType>,
    /// The pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Bytes that the backend holds it to now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u64>,
    /// How to reach the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// The Secret with the claim's own credentials (access_key, secret_key, filer_token).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Standard conditions: Placed, Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
