//! OpenAPI v3 documents, one for each group and version: what `kubectl explain` and kubectl's checks read.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::json::set;
use super::kinds::Kind;
use super::request::GroupVersion;

const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

fn path_of(api: &GroupVersion) -> String {
    if api.group.is_empty() {
        format!("api/{}", api.version)
    } else {
        format!("apis/{}/{}", api.group, api.version)
    }
}

/// `/openapi/v3`.
pub fn index<'a>(apis: impl Iterator<Item = &'a GroupVersion>) -> Value {
    let paths: Map<String, Value> = apis
        .map(|api| {
            let path = path_of(api);
            let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// `/openapi/v3/apis/<group>/<version>`.
pub fn document(api: &GroupVersion, kinds: &[Arc<Kind>]) -> Value {
    let mut schemas = Map::new();
    let mut paths = Map::new();
    schemas.insert(METADATA.to_owned(), metadata());
    for kind in kinds {
        let name = schema_name(kind);
        schemas.insert(name.clone(), schema(kind));
        schemas.insert(format!("{name}List"), list_schema(kind, &name));
        kind_paths(kind, &path_of(api), &name, &mut paths);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Smart Storage embedded API", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn schema_name(kind: &Kind) -> String {
    let group = if kind.group.is_empty() {
        "core.api.k8s.io"
    } else {
        &kind.group
    };
    let reversed = group.split('.').rev().collect::<Vec<_>>().join(".");
    format!("{reversed}.{}.{}", kind.version, kind.kind)
}

fn identity(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn schema(kind: &Kind) -> Value {
    let mut schema = kind.openapi.clone();
    set(
        &mut schema,
        &["x-kubernetes-group-version-kind"],
        json!([identity(kind)]),
    );
    set(
        &mut schema,
        &["properties", "apiVersion"],
        json!({
            "type": "string",
            "description": "APIVersion defines the versioned schema of this representation of an object.",
        }),
    );
    set(
        &mut schema,
        &["properties", "kind"],
        json!({
            "type": "string",
            "description": "Kind is a string value representing the REST resource this object represents.",
        }),
    );
    set(
        &mut schema,
        &["properties", "metadata"],
        json!({
            "description": "Standard object's metadata.",
            "allOf": [{"$ref": format!("#/components/schemas/{METADATA}")}],
            "default": {},
        }),
    );
    schema
}

fn list_schema(kind: &Kind, name: &str) -> Value {
    json!({
        "type": "object",
        "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "items": {"type": "array", "items": {"$ref": format!("#/components/schemas/{name}")}},
        },
        "x-kubernetes-group-version-kind": [
            {"group": kind.group, "version": kind.version, "kind": kind.list_kind},
        ],
    })
}

fn metadata() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let map = |description: &str| {
        json!({
            "type": "object", "description": description, "additionalProperties": {"type": "string"},
        })
    };
    json!({
        "type": "object",
        "description": "ObjectMeta is metadata that all persisted resources must have.",
        "properties": {
            "name": text("Name must be unique within a namespace."),
            "generateName": text("A prefix, used by the server to generate a unique name."),
            "namespace": text("Namespace defines the space within which each name must be unique."),
            "uid": text("UID is the unique in time and space value for this object."),
            "resourceVersion": text("An opaque value that represents the internal version of this object."),
            "generation": {
                "type": "integer", "format": "int64",
                "description": "A sequence number representing a specific generation of the desired state.",
            },
            "creationTimestamp": text("The time when this object was created."),
            "deletionTimestamp": text("The time at which this object will be or was deleted."),
            "labels": map("Map of string keys and values that can be used to organize and select objects."),
            "annotations": map("Unstructured key value map for arbitrary metadata."),
            "finalizers": {
                "type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set",
                "x-kubernetes-patch-strategy": "merge",
                "description": "Must be empty before the object is deleted from the registry.",
            },
            "ownerReferences": {
                "type": "array", "items": {"type": "object"},
                "description": "List of objects depended by this object.",
            },
        },
    })
}

fn kind_paths(kind: &Kind, base: &str, name: &str, paths: &mut Map<String, Value>) {
    let parameter = |name: &str, place: &str, required: bool| json!({"name": name, "in": place, "required": required, "schema": {"type": "string"}});
    let operation = |action: &str, extra: &[&str]| {
        let parameters: Vec<Value> = extra.iter().map(|p| parameter(p, "query", false)).collect();
        json!({
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": identity(kind),
            "parameters": parameters,
            "responses": {"200": {
                "description": "OK",
                "content": {"application/json": {"schema": {"$ref": format!("#/components/schemas/{name}")}}},
            }},
        })
    };
    let writing = ["dryRun", "fieldManager", "fieldValidation"];
    let plural = &kind.plural;
    let (collection, shared) = if kind.namespaced {
        let all = json!({"get": operation("list", &["labelSelector", "fieldSelector", "limit", "continue"])});
        paths.insert(format!("/{base}/{plural}"), all);
        (
            format!("/{base}/namespaces/{{namespace}}/{plural}"),
            vec![parameter("namespace", "path", true)],
        )
    } else {
        (format!("/{base}/{plural}"), Vec::new())
    };
    let mut of_collection = json!({
        "parameters": shared,
        "get": operation("list", &["labelSelector", "fieldSelector", "limit", "continue"]),
    });
    let mut named = shared;
    named.push(parameter("name", "path", true));
    let mut of_object = json!({"parameters": named, "get": operation("get", &[])});
    if !kind.read_only {
        set(&mut of_collection, &["post"], operation("post", &writing));
        set(&mut of_object, &["put"], operation("put", &writing));
        set(&mut of_object, &["patch"], operation("patch", &writing));
        set(
            &mut of_object,
            &["delete"],
            operation("delete", &["dryRun", "propagationPolicy"]),
        );
    }
    paths.insert(format!("{collection}/{{name}}"), of_object);
    paths.insert(collection, of_collection);
}
