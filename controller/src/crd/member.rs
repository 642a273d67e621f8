//! `PoolMember`: one drive's claim by one pool. Its name is made from the drive's id, so the API server itself
//! refuses a second claim.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn has its own type_ and name"
)]

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;

/// One drive's claim by one pool.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "storage.billyronks.io",
    version = "v1",
    kind = "PoolMember",
    plural = "poolmembers",
    shortname = "pm",
    category = "smart-storage",
    doc = "One drive's claim by one pool, made by the operator.",
    status = "PoolMemberStatus",
    derive = "PartialEq",
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Drive", type_ = "string", json_path = ".spec.driveId"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.pool == oldSelf.pool && self.driveId == oldSelf.driveId && self.memberId == oldSelf.memberId", "a member's pool, driveId and memberId cannot be changed"))]
pub struct PoolMemberSpec {
    /// The pool.
    pub pool: String,
    /// The drive's id.
    pub drive_id: String,
    /// The partition GUID of the mark on the drive.
    #[schemars(length(min = 36, max = 36))]
    pub member_id: String,
    /// The node on which the drive was when it was claimed.
    pub node_name: String,
    /// Size of the drive in bytes at the time of claiming.
    pub drive_bytes: u64,
    /// What the drive was recognised by at the time of claiming, kind and value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub evidence: BTreeMap<String, String>,
    /// Slots of the backend that fit on the drive.
    #[serde(default)]
    pub slots: u32,
    /// Bytes of one slot.
    #[serde(default)]
    pub slot_bytes: u64,
    /// The pool's tag on the backend.
    #[serde(default)]
    pub disk_tag: String,
}

/// Phases of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum MemberPhase {
    #[default]
    Pending,
    Preparing,
    Online,
    Failed,
    Missing,
    Releasing,
    Released,
}

/// What the operator sees of a member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolMemberStatus {
    /// Pending, Preparing, Online, Failed, Missing, Releasing or Released.
    #[serde(default)]
    pub phase: MemberPhase,
    /// The node on which the drive is now.
    #[serde(default)]
    pub node: String,
    /// What the kernel calls the drive now.
    #[serde(default)]
    pub device: String,
    /// True from the moment the agent said that the drive bears our mark and file system: it is never prepared again.
    #[serde(default)]
    pub prepared: bool,
    /// UUID of the member's file system.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filesystem_uuid: String,
    /// Where it is mounted on its node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mount_point: String,
    /// host:port of the storage process.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Capacity of its file system in bytes.
    #[serde(default)]
    pub capacity_bytes: u64,
    /// Bytes in use, quantised to 1 %.
    #[serde(default)]
    pub used_bytes: u64,
    /// Since when its drive has been away without a break, as its agent told the controller that runs now; what was stored
    /// later is not on it. It moves on when the controller or the agent's stream begins anew: nobody looked in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::condition::date_time")]
    pub missing_since: Option<Timestamp>,
    /// Standard conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
