//! What is asked of the service: drafts as they come in over JSON or protobuf, and the requests that they become
//! when every field is right. Parsed once, at the border; past it nothing is checked again.

use std::{collections::BTreeMap, time::Duration};

use kube::api::ObjectMeta;
use schemars::{JsonSchema, Schema, json_schema};
use serde::Serialize;
use serde_json::Value;

use super::{
    error::{ErrorKind, FieldError, ServiceError},
    fields::Fields,
    names::{is_dns_label, is_ec_policy, is_label_key, is_label_value, is_ours, is_subdomain},
    view::Redundancy,
};
use crate::crd::{
    ANNOTATION_REQUEST, GROUP, LABEL_ID, UnifiedStorageClaim, UnifiedStorageClaimSpec,
    claim::ClaimPhase,
    class::{self, ReclaimPolicy, RedundancyType, ServiceTier, StorageType},
};

/// The largest size that can be asked for: 8 PiB, and every number up to it survives any JSON parser.
pub const MAX_CAPACITY_BYTES: u64 = 1 << 53;
/// The most labels on one claim.
pub const MAX_LABELS: usize = 64;

const STORAGE_TYPES: &[(&str, StorageType)] = &[
    ("block", StorageType::Block),
    ("file", StorageType::File),
    ("object", StorageType::Object),
];
const TIERS: &[(&str, ServiceTier)] = &[
    ("hot", ServiceTier::Hot),
    ("warm", ServiceTier::Warm),
    ("cold", ServiceTier::Cold),
    ("auto", ServiceTier::Auto),
];
const RECLAIM_POLICIES: &[(&str, ReclaimPolicy)] = &[
    ("Delete", ReclaimPolicy::Delete),
    ("Retain", ReclaimPolicy::Retain),
];
const REDUNDANCY_TYPES: &[(&str, RedundancyType)] = &[
    ("replication", RedundancyType::Replication),
    ("erasureCoding", RedundancyType::ErasureCoding),
    ("none", RedundancyType::None),
];
const PHASES: &[(&str, ClaimPhase)] = &[
    ("Pending", ClaimPhase::Pending),
    ("Placing", ClaimPhase::Placing),
    ("Provisioning", ClaimPhase::Provisioning),
    ("Ready", ClaimPhase::Ready),
    ("Expanding", ClaimPhase::Expanding),
    ("Deleting", ClaimPhase::Deleting),
    ("Failed", ClaimPhase::Failed),
    ("Lost", ClaimPhase::Lost),
];

/// A request for storage. The pair of namespace and name is the idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateStorage {
    /// Name, unique in its namespace.
    #[schemars(
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
        length(min = 1, max = 63)
    )]
    pub name: String,
    /// block, file or object.
    pub storage_type: StorageType,
    /// Size in bytes.
    #[schemars(range(min = 1, max = 9_007_199_254_740_992_u64))]
    pub capacity_bytes: u64,
    /// Service tier: hot, warm, cold or auto; where it is left out, the class's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<ServiceTier>,
    /// Name of a UnifiedStorageClass; where it is left out, the default class of the type, or any pool that fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
        length(min = 1, max = 253)
    )]
    pub class: Option<String>,
    /// Namespace; it has to exist.
    #[serde(default = "default_namespace")]
    #[schemars(
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
        length(min = 1, max = 63)
    )]
    pub namespace: String,
    /// Labels of the claim.
    #[serde(default)]
    #[schemars(schema_with = "labels_schema")]
    pub labels: BTreeMap<String, String>,
    /// How data survives a loss; where it is left out, the class's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redundancy: Option<Redundancy>,
    /// Delete or Retain; where it is left out, the class's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reclaim_policy: Option<ReclaimPolicy>,
}

/// A larger size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpandStorage {
    /// The new size in bytes; at least the present one.
    #[schemars(range(min = 1, max = 9_007_199_254_740_992_u64))]
    pub capacity_bytes: u64,
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn labels_schema(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": MAX_LABELS,
        "propertyNames": {
            "pattern": r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?){0,2}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
            "not": {"pattern": r"^([^/]*\.)?storage\.billyronks\.io/"},
        },
        "additionalProperties": {
            "type": "string",
            "pattern": r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$",
        },
    })
}

/// A request for storage as it came in: nothing is known to be right.
#[derive(Clone, Debug, Default)]
pub struct CreateDraft {
    /// Name.
    pub name: Option<String>,
    /// block, file or object.
    pub storage_type: Option<String>,
    /// Size in bytes.
    pub capacity_bytes: Option<u64>,
    /// Service tier.
    pub tier: Option<String>,
    /// Class.
    pub class: Option<String>,
    /// Namespace.
    pub namespace: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Redundancy.
    pub redundancy: Option<RedundancyDraft>,
    /// Reclaim policy.
    pub reclaim_policy: Option<String>,
    /// What was already wrong with the message itself.
    pub faults: Vec<FieldError>,
}

/// Redundancy as it came in.
#[derive(Clone, Debug, Default)]
pub struct RedundancyDraft {
    /// replication, erasureCoding or none.
    pub type_: Option<String>,
    /// Copies.
    pub replication_factor: Option<u32>,
    /// Data and parity shards.
    pub ec_policy: Option<String>,
    /// Fault domains.
    pub min_fault_domains: Option<u32>,
}

impl CreateDraft {
    /// The draft in a JSON body, with the faults of its shape.
    #[must_use]
    pub fn from_json(body: Value) -> Self {
        let mut fields = Fields::of("", body);
        fields.never_null(&["namespace", "labels"]);
        let mut nested = Vec::new();
        let redundancy = fields.raw("redundancy").map(|value| {
            let (draft, faults) = RedundancyDraft::from_json(value);
            nested = faults;
            draft
        });
        let mut draft = Self {
            name: fields.take("name", "a string"),
            storage_type: fields.take("storage_type", "a string"),
            capacity_bytes: fields.take_whole("capacity_bytes"),
            tier: fields.take("tier", "a string"),
            class: fields.take("class", "a string"),
            namespace: fields.take("namespace", "a string"),
            labels: fields.take("labels", "an object of strings").unwrap_or_default(),
            redundancy,
            reclaim_policy: fields.take("reclaim_policy", "a string"),
            faults: nested,
        };
        draft.faults.extend(fields.finish());
        draft
    }

    /// The request, or every wrong field.
    ///
    /// # Errors
    /// `Invalid` with all faults.
    pub fn parse(self) -> Result<CreateStorage, ServiceError> {
        let mut check = Check { faults: self.faults };
        let name = check.required("name", self.name);
        check.label_like("name", name.as_deref());
        let storage_type = check.required("storage_type", self.storage_type);
        let storage_type = check.word("storage_type", storage_type.as_deref(), STORAGE_TYPES);
        let capacity_bytes = check.required("capacity_bytes", self.capacity_bytes);
        check.capacity(capacity_bytes);
        let namespace = self.namespace.unwrap_or_else(default_namespace);
        check.label_like("namespace", Some(&namespace));
        if self.class.as_deref().is_some_and(|class| !is_subdomain(class)) {
            check.fault("class", "must be a name: at most 253 of a-z, 0-9, dash and dot");
        }
        check.labels(&self.labels);
        let tier = check.word("tier", self.tier.as_deref(), TIERS);
        let reclaim_policy = check.word("reclaim_policy", self.reclaim_policy.as_deref(), RECLAIM_POLICIES);
        let redundancy = self.redundancy.map(|draft| draft.parse(&mut check));
        match (name, storage_type, capacity_bytes) {
            (Some(name), Some(storage_type), Some(capacity_bytes)) if check.faults.is_empty() => {
                Ok(CreateStorage {
                    name,
                    storage_type,
                    capacity_bytes,
                    tier,
                    class: self.class,
                    namespace,
                    labels: self.labels,
                    redundancy,
                    reclaim_policy,
                })
            }
            _ => Err(ServiceError::invalid(check.faults)),
        }
    }
}

impl RedundancyDraft {
    fn from_json(body: Value) -> (Self, Vec<FieldError>) {
        let mut fields = Fields::of("redundancy", body);
        fields.never_null(&["type"]);
        let draft = Self {
            type_: fields.take("type", "a string"),
            replication_factor: fields
                .take_whole("replication_factor")
                .map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            ec_policy: fields.take("ec_policy", "a string"),
            min_fault_domains: fields
                .take_whole("min_fault_domains")
                .map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        };
        (draft, fields.finish())
    }

    fn parse(self, check: &mut Check) -> Redundancy {
        let type_ = check
            .word("redundancy.type", self.type_.as_deref(), REDUNDANCY_TYPES)
            .unwrap_or_default();
        if self.replication_factor.is_some_and(|n| !(1..=10).contains(&n)) {
            check.fault("redundancy.replication_factor", "must be from 1 to 10");
        }
        if self.min_fault_domains.is_some_and(|n| !(1..=100).contains(&n)) {
            check.fault("redundancy.min_fault_domains", "must be from 1 to 100");
        }
        if let Some(policy) = &self.ec_policy {
            if !is_ec_policy(policy) {
                check.fault("redundancy.ec_policy", "must be data and parity shards, as 4+2");
            } else if type_ != RedundancyType::ErasureCoding {
                check.fault("redundancy.ec_policy", "goes with type erasureCoding");
            }
        }
        Redundancy {
            type_,
            replication_factor: self.replication_factor,
            ec_policy: self.ec_policy,
            min_fault_domains: self.min_fault_domains,
        }
    }
}

impl ExpandStorage {
    /// The request in a JSON body.
    ///
    /// # Errors
    /// `Invalid` with all faults.
    pub fn from_json(body: Value) -> Result<Self, ServiceError> {
        let mut fields = Fields::of("", body);
        let capacity_bytes = fields.take_whole("capacity_bytes");
        Self::parse(capacity_bytes, fields.finish())
    }

    /// The request with that size.
    ///
    /// # Errors
    /// `Invalid` where the size is absent or out of range.
    pub fn parse(capacity_bytes: Option<u64>, faults: Vec<FieldError>) -> Result<Self, ServiceError> {
        let mut check = Check { faults };
        let capacity_bytes = check.required("capacity_bytes", capacity_bytes);
        check.capacity(capacity_bytes);
        match capacity_bytes {
            Some(capacity_bytes) if check.faults.is_empty() => Ok(Self { capacity_bytes }),
            _ => Err(ServiceError::invalid(check.faults)),
        }
    }
}

impl CreateStorage {
    /// Tells a repeat from a conflict: equal requests have equal digests.
    #[must_use]
    pub fn digest(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let digest = ring::digest::digest(&ring::digest::SHA256, &text);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What a claim for it says, but for the volume's name.
    #[must_use]
    pub fn claim_spec(&self) -> UnifiedStorageClaimSpec {
        UnifiedStorageClaimSpec {
            storage_type: self.storage_type,
            class_name: self.class.clone(),
            tier: self.tier,
            capacity: self.capacity_bytes.to_string(),
            redundancy: self.redundancy.clone().map(class::Redundancy::from),
            reclaim_policy: self.reclaim_policy,
            volume_name: None,
        }
    }

    /// The claim whose creation acknowledges the request.
    #[must_use]
    pub fn claim(&self, id: &str) -> UnifiedStorageClaim {
        let mut labels = self.labels.clone();
        labels.insert(LABEL_ID.to_owned(), id.to_owned());
        UnifiedStorageClaim {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                labels: Some(labels),
                annotations: Some(BTreeMap::from([(ANNOTATION_REQUEST.to_owned(), self.digest())])),
                ..ObjectMeta::default()
            },
            spec: UnifiedStorageClaimSpec {
                volume_name: Some(id.to_owned()),
                ..self.claim_spec()
            },
            status: None,
        }
    }
}

/// Labels that a list can be asked for: what they make fits the address of a request.
const MOST_LABELS: usize = 64;

/// Which claims a list is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageFilter {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only this type.
    pub storage_type: Option<StorageType>,
    /// Only this phase.
    pub phase: Option<ClaimPhase>,
    /// Only claims with these labels.
    pub labels: BTreeMap<String, String>,
}

impl StorageFilter {
    /// The filter, or every wrong part of it. Each of `labels` is `key=value`.
    ///
    /// # Errors
    /// `Invalid` with all faults.
    pub fn parse(
        namespace: Option<String>,
        storage_type: Option<&str>,
        phase: Option<&str>,
        labels: &[String],
    ) -> Result<Self, ServiceError> {
        let mut check = Check { faults: Vec::new() };
        check.label_like("namespace", namespace.as_deref());
        let storage_type = check.word("type", storage_type, STORAGE_TYPES);
        let phase = check.word("phase", phase, PHASES);
        let mut selected = BTreeMap::new();
        if labels.len() > MOST_LABELS {
            check.fault("label", format!("at most {MOST_LABELS} can be asked for at once"));
        }
        for label in labels.iter().take(MOST_LABELS) {
            match label.split_once('=') {
                Some((key, value)) if is_label_key(key) && is_label_value(value) => {
                    selected.insert(key.to_owned(), value.to_owned());
                }
                _ => check.fault("label", "must be key=value, as Kubernetes writes labels"),
            }
        }
        if check.faults.is_empty() {
            Ok(Self {
                namespace,
                storage_type,
                phase,
                labels: selected,
            })
        } else {
            Err(ServiceError::invalid(check.faults))
        }
    }

    /// Labels as a selector.
    #[must_use]
    pub fn selector(&self) -> String {
        self.labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Whether a claim is one of those; labels and namespace were asked of the API already.
    #[must_use]
    pub fn matches(&self, claim: &UnifiedStorageClaim) -> bool {
        let phase = claim.status.as_ref().map(|s| s.phase).unwrap_or_default();
        self.storage_type
            .is_none_or(|wanted| wanted == claim.spec.storage_type)
            && self.phase.is_none_or(|wanted| wanted == phase)
    }
}

/// A time to wait, as `500ms`, `30s` or `2m`; more than a minute is a minute.
///
/// # Errors
/// `Invalid` naming `field`.
pub fn parse_wait(field: &str, text: &str) -> Result<Duration, ServiceError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let wait = (1..=6)
        .contains(&digits)
        .then(|| number.parse::<u64>().ok())
        .flatten()
        .and_then(|n| match unit {
            "ms" => Some(Duration::from_millis(n)),
            "s" => Some(Duration::from_secs(n)),
            "m" => Some(Duration::from_secs(n * 60)),
            _ => None,
        });
    wait.map(|wait| wait.min(Duration::from_secs(60)))
        .ok_or_else(|| ServiceError::field(field, "must be a time, as 500ms, 30s or 1m"))
}

/// The value of a JSON text.
///
/// # Errors
/// `Malformed` with the place.
pub fn parse_json(text: &[u8]) -> Result<Value, ServiceError> {
    serde_json::from_slice(text)
        .map_err(|error| ServiceError::new(ErrorKind::Malformed, format!("The body is not JSON: {error}.")))
}

struct Check {
    faults: Vec<FieldError>,
}

impl Check {
    fn fault(&mut self, field: &str, message: impl Into<String>) {
        self.faults.push(FieldError::new(field, message));
    }

    /// Absent is a fault, unless the field is already known to be wrong.
    fn required<T>(&mut self, field: &str, value: Option<T>) -> Option<T> {
        if value.is_none() && !self.faults.iter().any(|f| f.field == field) {
            self.fault(field, "is required");
        }
        value
    }

    fn capacity(&mut self, bytes: Option<u64>) {
        if bytes.is_some_and(|bytes| !(1..=MAX_CAPACITY_BYTES).contains(&bytes)) {
            self.fault(
                "capacity_bytes",
                format!("must be from 1 to {MAX_CAPACITY_BYTES}"),
            );
        }
    }

    fn label_like(&mut self, field: &str, text: Option<&str>) {
        if text.is_some_and(|text| !is_dns_label(text)) {
            self.fault(
                field,
                "must be 1 to 63 of a-z, 0-9 and dash, with a letter or digit at both ends",
            );
        }
    }

    fn word<T: Copy>(&mut self, field: &str, text: Option<&str>, words: &[(&str, T)]) -> Option<T> {
        let text = text?;
        let found = words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.fault(field, format!("must be one of {}", words.join(", ")));
        }
        found
    }

    fn labels(&mut self, labels: &BTreeMap<String, String>) {
        if labels.len() > MAX_LABELS {
            self.fault("labels", format!("must be at most {MAX_LABELS}"));
            return;
        }
        for (key, value) in labels {
            let shown: String = key.chars().take(80).collect();
            let field = format!("labels.{shown}");
            if !is_label_key(key) {
                self.fault(
                    &field,
                    "the key must be a label's, as Kubernetes has it: name or domain/name",
                );
            } else if is_ours(key) {
                self.fault(&field, format!("labels under {GROUP} are the operator's own"));
            }
            if !is_label_value(value) {
                self.fault(
                    &field,
                    "the value must be at most 63 of letters, digits, dash, dot and underscore",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
