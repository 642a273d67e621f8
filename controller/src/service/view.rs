//! What is answered: claims, nodes, pools and classes as REST shows them, snake_case, made from the objects. Pure; no
//! secret is ever in them.

mod fleet;

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::fleet::{
    Class, Classification, Drive, DriveUse, Node, Pool, PoolMember, RefusedDrive, SystemInfo,
};
use super::DryRunPlacement;
use crate::crd::{
    self, LABEL_ID, UnifiedStorageClaim, UnifiedStorageClass, UnifiedVolume,
    claim::ClaimPhase,
    class::{self, BackendType, ReclaimPolicy, RedundancyType, ServiceTier, StorageType},
};

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Asks for the next part; empty at the end.
    #[serde(rename = "continue")]
    pub continue_: String,
}

/// How data survives the loss of a drive or node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("allOf" = [{
    "if": {"required": ["ec_policy"], "properties": {"ec_policy": {"type": "string"}}},
    "then": {"required": ["type"], "properties": {"type": {"const": "erasureCoding"}}},
}]))]
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
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,2}\+[1-9][0-9]{0,2}$"))]
    pub ec_policy: Option<String>,
    /// Fault domains over which the copies must be spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub min_fault_domains: Option<u32>,
}

impl From<Redundancy> for class::Redundancy {
    fn from(from: Redundancy) -> Self {
        Self {
            type_: from.type_,
            replication_factor: from.replication_factor,
            ec_policy: from.ec_policy,
            min_fault_domains: from.min_fault_domains,
        }
    }
}

impl From<&class::Redundancy> for Redundancy {
    fn from(from: &class::Redundancy) -> Self {
        Self {
            type_: from.type_,
            replication_factor: from.replication_factor,
            ec_policy: from.ec_policy.clone(),
            min_fault_domains: from.min_fault_domains,
        }
    }
}

/// One aspect of an object's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Condition {
    /// What is told about: Ready, Placed, ...
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// One stable word for programs.
    pub reason: String,
    /// What, why, and what would help, for people.
    pub message: String,
    /// When status last changed.
    #[schemars(schema_with = "date_time")]
    pub last_transition_time: Timestamp,
    /// The generation of the object that this speaks of.
    pub observed_generation: Option<i64>,
}

fn date_time(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "format": "date-time"})
}

fn optional_date_time(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": ["string", "null"], "format": "date-time"})
}

impl From<&crd::Condition> for Condition {
    fn from(from: &crd::Condition) -> Self {
        Self {
            type_: from.type_.clone(),
            status: from.status.clone(),
            reason: from.reason.clone(),
            message: from.message.clone(),
            last_transition_time: from.last_transition_time,
            observed_generation: from.observed_generation,
        }
    }
}

fn conditions(from: &[crd::Condition]) -> Vec<Condition> {
    from.iter().map(Condition::from).collect()
}

/// A Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// How to reach the data through the filer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FilerAccess {
    /// URL of the filer.
    pub url: String,
    /// The directory.
    pub path: String,
}

/// How to reach the data through S3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct S3Access {
    /// URL of the endpoint.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// The access key of this storage's own identity.
    pub access_key: String,
    /// The Secret with the keys.
    pub secret_ref: Option<SecretRef>,
}

/// How to reach the data. Secrets are answered by `/credentials` only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Access {
    /// Through the filer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filer: Option<FilerAccess>,
    /// Through S3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Access>,
    /// The command that mounts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
}

impl From<&crd::claim::SecretRef> for SecretRef {
    fn from(from: &crd::claim::SecretRef) -> Self {
        Self {
            namespace: from.namespace.clone(),
            name: from.name.clone(),
        }
    }
}

impl From<&crd::claim::Access> for Access {
    fn from(from: &crd::claim::Access) -> Self {
        Self {
            filer: from.filer.as_ref().map(|f| FilerAccess {
                url: f.url.clone(),
                path: f.path.clone(),
            }),
            s3: from.s3.as_ref().map(|s| S3Access {
                endpoint: s.endpoint.clone(),
                bucket: s.bucket.clone(),
                access_key: s.access_key.clone(),
                secret_ref: s.secret_ref.as_ref().map(SecretRef::from),
            }),
            mount: from.mount.clone(),
        }
    }
}

/// Storage that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Storage {
    /// The volume's name, fixed before the request was acknowledged.
    pub id: String,
    /// Name, unique in its namespace.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// block, file or object.
    pub storage_type: StorageType,
    /// Size that was asked for, in bytes.
    pub capacity_bytes: u64,
    /// Service tier.
    pub tier: ServiceTier,
    /// The class; null where there is none, or not yet.
    pub class: Option<String>,
    /// The storage system; null until it is placed.
    pub backend: Option<BackendType>,
    /// The pool; null until it is placed.
    pub pool: Option<String>,
    /// Pending, Placing, Provisioning, Ready, Expanding, Deleting, Failed or Lost.
    pub phase: ClaimPhase,
    /// Standard conditions: Placed says why it is where it is, or what refused it.
    pub conditions: Vec<Condition>,
    /// How to reach the data; null until it can be reached.
    pub access: Option<Access>,
    /// When it was asked for.
    #[schemars(schema_with = "optional_date_time")]
    pub created_at: Option<Timestamp>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What deleting it does to the data.
    pub reclaim_policy: ReclaimPolicy,
    /// How data survives a loss, where the request said so.
    pub redundancy: Option<Redundancy>,
    /// Why it was placed there, in words; told of one, not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placement_reasons: Vec<String>,
}

/// REST's `id` of a claim: the volume name that was minted with the request, or the name of the volume that it is
/// bound to, or the name that its volume will have.
#[must_use]
pub fn claim_id(claim: &UnifiedStorageClaim) -> String {
    let minted = claim
        .labels()
        .get(LABEL_ID)
        .filter(|id| claim.spec.volume_name.as_ref() == Some(id));
    let bound = || {
        claim
            .status
            .as_ref()
            .and_then(|s| s.volume_name.as_ref())
            .filter(|name| !name.is_empty())
    };
    minted.or_else(bound).cloned().unwrap_or_else(|| id_by_uid(claim))
}

/// The name of the volume of a claim that names none.
#[must_use]
pub fn id_by_uid(claim: &UnifiedStorageClaim) -> String {
    format!("uv-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// Bytes that a claim asks for; 0 where its quantity cannot be read.
#[must_use]
pub fn claimed_bytes(claim: &UnifiedStorageClaim) -> u64 {
    smart_storage_core::bytes::parse_quantity(&claim.spec.capacity).unwrap_or_default()
}

impl Storage {
    /// A claim, with its class where that is known and its volume where there is one.
    #[must_use]
    pub fn of_claim(
        claim: &UnifiedStorageClaim,
        class: Option<&UnifiedStorageClass>,
        volume: Option<&UnifiedVolume>,
    ) -> Self {
        let status = claim.status.clone().unwrap_or_default();
        let spec = &claim.spec;
        Self {
            id: claim_id(claim),
            name: claim.name_any(),
            namespace: claim.namespace().unwrap_or_default(),
            storage_type: spec.storage_type,
            capacity_bytes: claimed_bytes(claim),
            tier: volume
                .map(|v| v.spec.tier)
                .or(spec.tier)
                .or(class.map(|c| c.spec.tier))
                .unwrap_or_default(),
            class: class_name(claim).map(str::to_owned),
            backend: status.backend,
            pool: status.pool.filter(|p| !p.is_empty()),
            phase: status.phase,
            conditions: conditions(&status.conditions),
            access: status.access.as_ref().map(Access::from),
            created_at: claim.metadata.creation_timestamp.as_ref().map(|t| t.0),
            labels: claim.labels().clone(),
            reclaim_policy: volume
                .map(|v| v.spec.reclaim_policy)
                .or(spec.reclaim_policy)
                .or(class.map(|c| c.spec.reclaim_policy))
                .unwrap_or_default(),
            redundancy: spec.redundancy.as_ref().map(Redundancy::from),
            placement_reasons: volume
                .map(|v| v.spec.placement.reasons.clone())
                .unwrap_or_default(),
        }
    }

    /// A volume whose claim is gone: what is left while it goes.
    #[must_use]
    pub fn of_leaving_volume(volume: &UnifiedVolume) -> Self {
        let spec = &volume.spec;
        Self {
            id: volume.name_any(),
            name: spec.claim_ref.name.clone(),
            namespace: spec.claim_ref.namespace.clone(),
            storage_type: spec.storage_type,
            capacity_bytes: spec.capacity_bytes,
            tier: spec.tier,
            class: Some(spec.class_name.clone()).filter(|name| !name.is_empty()),
            backend: Some(spec.placement.backend),
            pool: Some(spec.placement.pool.clone()),
            phase: ClaimPhase::Deleting,
            conditions: conditions(
                volume
                    .status
                    .as_ref()
                    .map(|s| s.conditions.as_slice())
                    .unwrap_or_default(),
            ),
            access: None,
            created_at: volume.metadata.creation_timestamp.as_ref().map(|t| t.0),
            labels: volume.labels().clone(),
            reclaim_policy: spec.reclaim_policy,
            redundancy: Some(Redundancy::from(&spec.redundancy)),
            placement_reasons: spec.placement.reasons.clone(),
        }
    }
}

/// The class that serves a claim, or that it asks for.
#[must_use]
pub fn class_name(claim: &UnifiedStorageClaim) -> Option<&str> {
    let serving = claim.status.as_ref().and_then(|s| s.class.as_deref());
    serving
        .or(claim.spec.class_name.as_deref())
        .filter(|name| !name.is_empty())
}

/// Whether storage would be placed now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DryRunAnswer {
    /// Whether it would be.
    pub placed: bool,
    /// Where.
    pub placement: Option<DryRunPlacement>,
    /// Or every reason why not.
    pub reasons: Vec<String>,
}

#[cfg(test)]
mod tests;
