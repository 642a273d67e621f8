//! The custom resources of `storage.billyronks.io/v1`, one file a kind: what users and the operator tell each
//! other.
//!
//! The types are the schema: descriptions, enums, defaults, columns and CEL rules of the generated CRDs come from
//! here (`crdgen` writes `deploy/crds`), and the embedded API validates with the very same documents. Nothing here
//! decides or talks to anybody.

pub mod claim;
pub mod class;
pub mod condition;
pub mod member;
pub mod node;
pub mod pool;
pub mod volume;

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt as _;

pub use self::{
    claim::{UnifiedStorageClaim, UnifiedStorageClaimSpec, UnifiedStorageClaimStatus},
    class::{UnifiedStorageClass, UnifiedStorageClassSpec, UnifiedStorageClassStatus},
    condition::Condition,
    member::{PoolMember, PoolMemberSpec, PoolMemberStatus},
    node::{StorageNode, StorageNodeSpec, StorageNodeStatus},
    pool::{UnifiedPool, UnifiedPoolSpec, UnifiedPoolStatus},
    volume::{UnifiedVolume, UnifiedVolumeSpec, UnifiedVolumeStatus},
};

/// API group of every kind, and the domain of our labels, annotations and finalizers.
pub const GROUP: &str = "storage.billyronks.io";
/// The one version.
pub const VERSION: &str = "v1";
/// Finalizer of volumes, members and pools.
pub const FINALIZER: &str = "storage.billyronks.io/finalizer";
/// Label on a claim whose volume name was minted by REST or gRPC: that name, REST's `id`.
pub const LABEL_ID: &str = "storage.billyronks.io/id";
/// Label on members and volumes: the pool's name.
pub const LABEL_POOL: &str = "storage.billyronks.io/pool";
/// Label on members: the node's name.
pub const LABEL_NODE: &str = "storage.billyronks.io/node";
/// Label of a drive: how it is attached (pcie, sas, sata, virtio, usb, loop, ...).
pub const LABEL_TRANSPORT: &str = "storage.billyronks.io/transport";
/// Annotation on a member whose node is gone for ever: its own name lets the object go.
pub const ANNOTATION_ABANDON: &str = "storage.billyronks.io/abandon";
/// Annotation on a claim made through REST or gRPC: a digest of the request, to tell a repeat from a conflict.
pub const ANNOTATION_REQUEST: &str = "storage.billyronks.io/request-digest";

/// Every CRD, in the order in which they are applied.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        UnifiedStorageClass::crd(),
        StorageNode::crd(),
        UnifiedPool::crd(),
        PoolMember::crd(),
        UnifiedStorageClaim::crd(),
        UnifiedVolume::crd(),
    ];
    for crd in &mut crds {
        crd.metadata
            .annotations
            .get_or_insert_with(BTreeMap::new)
            .insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
        for version in &mut crd.spec.versions {
            if let Some(schema) = version
                .schema
                .as_mut()
                .and_then(|s| s.open_api_v3_schema.as_mut())
            {
                finish_schema(schema);
            }
        }
    }
    crds
}

/// Conditions are a map by type, every other list is written as a whole; and integers have the one format that API
/// servers know for all of ours.
fn finish_schema(schema: &mut JSONSchemaProps) {
    for (name, property) in schema.properties.iter_mut().flatten() {
        if matches!(property.format.as_deref(), Some("uint32" | "uint64")) {
            property.format = Some("int64".to_owned());
        }
        if property.type_.as_deref() == Some("array") {
            if name == "conditions" {
                property.x_kubernetes_list_type = Some("map".to_owned());
                property.x_kubernetes_list_map_keys = Some(vec!["type".to_owned()]);
            } else {
                property.x_kubernetes_list_type = Some("atomic".to_owned());
            }
        }
        finish_schema(property);
        if let Some(JSONSchemaPropsOrArray::Schema(item)) = property.items.as_mut() {
            finish_schema(item);
        }
        if let Some(JSONSchemaPropsOrBool::Schema(value)) = property.additional_properties.as_mut() {
            finish_schema(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptions_missing(path: &str, schema: &JSONSchemaProps, missing: &mut Vec<String>) {
        for (name, property) in schema.properties.iter().flatten() {
            let path = format!("{path}.{name}");
            if property.description.as_deref().unwrap_or_default().is_empty() && name != "metadata" {
                missing.push(path.clone());
            }
            descriptions_missing(&path, property, missing);
        }
    }

    #[test]
    fn every_field_is_described() {
        let mut missing = Vec::new();
        for crd in all() {
            let kind = &crd.spec.names.kind;
            for version in &crd.spec.versions {
                let schema = version
                    .schema
                    .as_ref()
                    .unwrap()
                    .open_api_v3_schema
                    .as_ref()
                    .unwrap();
                for part in ["spec", "status"] {
                    let part_schema = &schema.properties.as_ref().unwrap()[part];
                    descriptions_missing(&format!("{kind}.{part}"), part_schema, &mut missing);
                }
            }
        }
        assert!(missing.is_empty(), "without a description: {missing:#?}");
    }

    #[test]
    fn an_absent_object_means_the_same_as_an_empty_one() {
        fn check<T: Default + serde::Serialize + serde::de::DeserializeOwned>() {
            let empty: T = serde_json::from_str("{}").unwrap();
            let (empty, absent) = (
                serde_json::to_value(empty).unwrap(),
                serde_json::to_value(T::default()).unwrap(),
            );
            assert_eq!(empty, absent, "{}", std::any::type_name::<T>());
        }
        check::<pool::PoolCapacity>();
        check::<pool::PoolTopology>();
        check::<pool::DriveSelector>();
        check::<class::ClassCapacity>();
        check::<class::Redundancy>();
        check::<class::HardwarePreference>();
        check::<UnifiedStorageClassSpec>();
    }

    #[test]
    fn every_kind_has_a_status_subresource_columns_and_the_category() {
        for crd in all() {
            let version = &crd.spec.versions[0];
            assert!(version.subresources.as_ref().unwrap().status.is_some());
            assert!(
                version.additional_printer_columns.as_ref().unwrap().len() >= 4,
                "{}",
                crd.spec.names.kind
            );
            assert_eq!(
                crd.spec.names.categories.as_deref(),
                Some(&["smart-storage".to_owned()][..])
            );
            assert_eq!(crd.spec.names.short_names.as_ref().unwrap().len(), 1);
        }
    }
}
