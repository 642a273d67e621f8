//! `StorageNode`: what a node has. Its status is also the operator's memory of every drive's identity.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn has its own type_ and name"
)]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use smart_storage_core::classify::labels_of_facts;

use super::{Condition, class::yes};

/// What an administrator says of one drive, by its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriveOverride {
    /// The tier, whatever the classification says: ultraFast, fastNvme, standardSsd or hdd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_tier: Option<DriveTier>,
    /// Never to be taken by any pool.
    #[serde(default)]
    pub exclude: bool,
    /// Labels for selectors, beside those made from the drive's facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Tiers of drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum DriveTier {
    UltraFast,
    FastNvme,
    StandardSsd,
    Hdd,
}

/// A storage node that the operator takes in, and what is to be known of it beforehand.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "storage.billyronks.io",
    version = "v1",
    kind = "StorageNode",
    plural = "storagenodes",
    shortname = "sn",
    category = "smart-storage",
    doc = "A storage node: its drives, what they are, what holds them, and whether they can be claimed.",
    status = "StorageNodeStatus",
    derive = "PartialEq",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Drives", type_ = "integer", json_path = ".status.driveCount"),
    printcolumn(name = "NVMe", type_ = "integer", json_path = ".status.nvmeCount"),
    printcolumn(name = "Capacity", type_ = "string", json_path = ".status.totalCapacity"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.nodeName == oldSelf.nodeName", "nodeName cannot be changed: make another StorageNode"))]
pub struct StorageNodeSpec {
    /// Name of the node, as its agent's certificate has it.
    #[schemars(length(min = 1, max = 253))]
    pub node_name: String,
    /// Whether this node is taken in when its agent calls.
    #[serde(default = "yes")]
    pub auto_discover: bool,
    /// Rack, room or whatever else fails as one; where it is left out, the node is its own fault domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault_domain: Option<String>,
    /// Labels of every drive of the node, for selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Seconds between full rescans; events do not wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 86400))]
    pub discovery_interval_secs: Option<u32>,
    /// Ids of drives that no pool may take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub excluded_drives: Vec<String>,
    /// What is to be held true of single drives, by drive id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drive_overrides: BTreeMap<String, DriveOverride>,
}

/// Phases of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum NodePhase {
    #[default]
    Pending,
    Discovering,
    Ready,
    Degraded,
    Offline,
}

/// States of use of a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(
    missing_docs,
    reason = "the words are the contract's; a documented variant would break the structural schema"
)]
pub enum UseState {
    Free,
    InUse,
    Claimed,
    Conflict,
    #[default]
    Unknown,
}

/// Who uses a drive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriveUse {
    /// Free, InUse, Claimed, Conflict or Unknown.
    #[serde(default)]
    pub state: UseState,
    /// What was found on it, in words: "ext4 mounted on /".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// The pool that claimed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// What a drive is good for, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriveClassification {
    /// ultraFast, fastNvme, standardSsd or hdd; none where the kernel cannot say what the drive is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<DriveTier>,
    /// 0 to 100, from tier, model, health, wear and zones.
    #[serde(default)]
    pub score: u32,
    /// small (under 1 TB), medium (under 8 TB) or large.
    #[serde(default)]
    pub capacity_tier: String,
    /// block, file, object, cache.
    #[serde(default)]
    pub suitable_for: Vec<String>,
    /// Every part of the classification in words.
    #[serde(default)]
    pub reasons: Vec<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
const fn is_true(value: &bool) -> bool {
    *value
}

/// One drive. Where it is now may change; its id does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drive {
    /// Stable id, made once from the strongest evidence: at most 63 of a-z, 0-9, dot and dash.
    pub id: String,
    /// What the kernel calls it now; empty while it is not there.
    #[serde(default)]
    pub device: String,
    /// nvme, ssd, hdd, pmem, or unknown where the kernel cannot say (virtio, loop).
    pub drive_type: String,
    /// Model, as the drive tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Serial number, as the drive tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Firmware revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// World wide name, as the kernel writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// pcie, sas, sata, virtio, usb, loop, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Zone model: host-managed or host-aware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zoned: Option<String>,
    /// Namespaces of the NVMe controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<u32>,
    /// Size in bytes; absent where it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u64>,
    /// Good, Warning, Failing, Failed or Unknown.
    pub health: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_reason: Option<String>,
    /// Who uses it.
    #[serde(rename = "use")]
    pub usage: DriveUse,
    /// Whether a pool may take it.
    pub claimable: bool,
    /// Where it is not claimable: every reason in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<String>,
    /// What it is good for.
    #[serde(default)]
    pub classification: DriveClassification,
    /// False where the agent does not see it now.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub present: bool,
    /// What the operator recognises it by, kind and value, beside model, serial, wwn and capacityBytes; also other ids
    /// that it went by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub evidence: BTreeMap<String, String>,
}

/// Kinds of evidence that are fields of the drive, too.
const MODEL: &str = "model";
const SERIAL: &str = "serial";
const SIZE: &str = "size";
const NGUID: &str = "nguid";
const WWN: &str = "wwn";
/// Says that those of them that the drive has are evidence as they are shown.
const AS_SHOWN: &str = "asShown";

impl Drive {
    /// Remembers what it is recognised by. What its own fields say is not said twice: a node may have 60 drives, and
    /// its object stays small.
    pub fn remember(&mut self, evidence: BTreeMap<String, String>) {
        self.evidence = evidence;
        let said = self.said();
        let agrees = |(kind, value): (&&'static str, &String)| self.evidence.get(*kind) == Some(value);
        if said.is_empty() || !said.iter().all(agrees) {
            return;
        }
        for kind in said.keys() {
            self.evidence.remove(*kind);
        }
        self.evidence.insert(AS_SHOWN.to_owned(), "true".to_owned());
    }

    /// What it is recognised by, whole; empty where nothing is remembered of it.
    #[must_use]
    pub fn remembered(&self) -> BTreeMap<String, String> {
        let mut evidence = self.evidence.clone();
        if evidence.remove(AS_SHOWN).is_some() {
            for (kind, value) in self.said() {
                evidence.insert(kind.to_owned(), value);
            }
        }
        evidence
    }

    fn said(&self) -> BTreeMap<&'static str, String> {
        let wwn_is_its_own = self.evidence.contains_key(WWN);
        let nguid = self
            .wwn
            .as_deref()
            .and_then(|wwn| wwn.strip_prefix("eui."))
            .filter(|nguid| nguid.len() == 32 && !wwn_is_its_own);
        let size = self.capacity_bytes.map(|bytes| bytes.to_string());
        [
            (MODEL, self.model.clone()),
            (SERIAL, self.serial.clone()),
            (SIZE, size),
            (NGUID, nguid.map(str::to_owned)),
        ]
        .into_iter()
        .filter_map(|(kind, value)| Some((kind, value?)))
        .collect()
    }

    /// Labels for selectors: those of its StorageNode, those made from its facts, those of its override.
    #[must_use]
    pub fn labels(&self, node: &StorageNodeSpec) -> BTreeMap<String, String> {
        let mut labels = node.labels.clone();
        let tier = self
            .classification
            .tier
            .and_then(|tier| serde_json::to_value(tier).ok());
        labels.extend(labels_of_facts(
            self.transport.as_deref().unwrap_or("unknown"),
            self.model.as_deref().unwrap_or_default(),
            self.firmware.as_deref().unwrap_or_default(),
            tier.as_ref().and_then(|tier| tier.as_str()).unwrap_or_default(),
        ));
        if let Some(said) = node.drive_overrides.get(&self.id) {
            labels.extend(said.labels.clone());
        }
        labels
    }
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSystemInfo {
    /// Host name.
    #[serde(default)]
    pub hostname: String,
    /// Kernel release.
    #[serde(default)]
    pub kernel_release: String,
    /// CPU architecture.
    #[serde(default)]
    pub architecture: String,
    /// Name of the operating system.
    #[serde(default)]
    pub os_name: String,
    /// CPUs.
    #[serde(default)]
    pub cpus: u32,
    /// Memory in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Version of the agent.
    #[serde(default)]
    pub agent_version: String,
}

/// What the operator sees of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageNodeStatus {
    /// Pending, Discovering, Ready, Degraded or Offline.
    #[serde(default)]
    pub phase: NodePhase,
    /// Drives that are there.
    #[serde(default)]
    pub drive_count: u32,
    /// NVMe drives among them.
    #[serde(default)]
    pub nvme_count: u32,
    /// SATA and SAS flash among them.
    #[serde(default)]
    pub ssd_count: u32,
    /// Disks among them.
    #[serde(default)]
    pub hdd_count: u32,
    /// Capacity of all drives in decimal units: 3.84 TB.
    #[serde(default)]
    pub total_capacity: String,
    /// Capacity of all drives in bytes.
    #[serde(default)]
    pub total_capacity_bytes: u64,
    /// Capacity of the claimable drives in bytes.
    #[serde(default)]
    pub available_capacity_bytes: u64,
    /// The machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_info: Option<NodeSystemInfo>,
    /// The drives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drives: Vec<Drive>,
    /// Standard conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
