//! Bodies in Kubernetes' protobuf, for the three kinds that kubectl creates so.
//!
//! `kubectl create namespace`, `secret` and `configmap` send protobuf and do not fall back to JSON. Only
//! reading is offered: answers are JSON, which the same clients accept. Fields that a creation cannot set
//! are left out.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::{Map, Value, json};

const MAGIC: &[u8] = b"k8s\0";

#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    generate_name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, tag = "5")]
    uid: String,
    #[prost(string, tag = "6")]
    resource_version: String,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    annotations: BTreeMap<String, String>,
    #[prost(string, repeated, tag = "14")]
    finalizers: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Namespace {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
}

#[derive(Clone, PartialEq, Message)]
struct Secret {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(btree_map = "string, bytes", tag = "2")]
    data: BTreeMap<String, Vec<u8>>,
    #[prost(string, tag = "3")]
    kind: String,
    #[prost(btree_map = "string, string", tag = "4")]
    string_data: BTreeMap<String, String>,
    #[prost(bool, optional, tag = "5")]
    immutable: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct ConfigMap {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(btree_map = "string, string", tag = "2")]
    data: BTreeMap<String, String>,
    #[prost(btree_map = "string, bytes", tag = "3")]
    binary_data: BTreeMap<String, Vec<u8>>,
    #[prost(bool, optional, tag = "4")]
    immutable: Option<bool>,
}

/// The object in a body, or nothing where it is broken or of a kind that is not read so.
pub fn decode(body: &[u8]) -> Option<Value> {
    let unknown = Unknown::decode(body.strip_prefix(MAGIC)?).ok()?;
    let type_meta = unknown.type_meta?;
    let raw = unknown.raw.as_slice();
    let mut object = match (type_meta.api_version.as_str(), type_meta.kind.as_str()) {
        ("v1", "Namespace") => json!({"metadata": metadata(Namespace::decode(raw).ok()?.metadata)}),
        ("v1", "Secret") => secret(Secret::decode(raw).ok()?),
        ("v1", "ConfigMap") => config_map(ConfigMap::decode(raw).ok()?),
        _ => return None,
    };
    let map = object.as_object_mut()?;
    map.retain(|_, value| !is_empty(value));
    map.insert("apiVersion".to_owned(), json!(type_meta.api_version));
    map.insert("kind".to_owned(), json!(type_meta.kind));
    Some(object)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn metadata(given: Option<ObjectMeta>) -> Value {
    let given = given.unwrap_or_default();
    let fields = [
        ("name", json!(given.name)),
        ("generateName", json!(given.generate_name)),
        ("namespace", json!(given.namespace)),
        ("uid", json!(given.uid)),
        ("resourceVersion", json!(given.resource_version)),
        ("labels", json!(given.labels)),
        ("annotations", json!(given.annotations)),
        ("finalizers", json!(given.finalizers)),
    ];
    let kept = fields.into_iter().filter(|(_, value)| !is_empty(value));
    Value::Object(
        kept.map(|(name, value)| (name.to_owned(), value))
            .collect::<Map<_, _>>(),
    )
}

fn in_base64(data: BTreeMap<String, Vec<u8>>) -> Value {
    Value::Object(
        data.into_iter()
            .map(|(name, bytes)| (name, json!(STANDARD.encode(bytes))))
            .collect(),
    )
}

fn secret(given: Secret) -> Value {
    json!({
        "metadata": metadata(given.metadata),
        "data": in_base64(given.data),
        "stringData": given.string_data,
        "type": given.kind,
        "immutable": given.immutable,
    })
}

fn config_map(given: ConfigMap) -> Value {
    json!({
        "metadata": metadata(given.metadata),
        "data": given.data,
        "binaryData": in_base64(given.binary_data),
        "immutable": given.immutable,
    })
}
