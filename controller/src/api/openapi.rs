//! OpenAPI 3.1 of the REST API: the schemas are made from the very types that are read and answered, the paths are
//! written down here, next to the routes, and a test holds the two together.

mod paths;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::problem::ProblemDocument;
use crate::service::{
    Health, NewCredentials,
    capacity::Capacity,
    request::{CreateStorage, ExpandStorage},
    view::{Class, DryRunAnswer, Node, Page, Pool, Storage},
};

/// The document.
#[must_use]
pub fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Smart Storage Operator",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Block, file and object storage from the drives of many machines.",
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "contact": {
                "name": "Smart Storage Operator",
                "url": "https://github.com/billyronks/smart-storage-operator",
            },
        },
        "servers": [{"url": "http://localhost:8090", "description": "A controller on this machine."}],
        "security": [{"bearer": []}],
        "tags": [
            {"name": "storage", "description": "Storage that was asked for."},
            {"name": "fleet", "description": "Nodes, drives, pools, classes and capacity."},
            {"name": "server", "description": "The server itself."},
        ],
        "paths": paths::paths(),
        "components": {
            "schemas": schemas(),
            "responses": paths::responses(),
            "headers": {
                "x-request-id": {
                    "description": "Id of the request; the caller's own where it sent a sensible one.",
                    "schema": {"type": "string"},
                },
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "The token of the server."},
            },
        },
    })
}

const DESCRIPTION: &str = "Bytes are integers, times RFC 3339 UTC. Errors are RFC 9457 problems that name every wrong \
                           field or every reason. Storage is never refused for lack of capacity: then it is Pending \
                           and says why, drive by drive. Namespace and name are the idempotency key of a request.";

/// The document as it is served and kept in `deploy/openapi.json`.
#[must_use]
pub fn text() -> String {
    let mut text = serde_json::to_string_pretty(&document()).unwrap_or_default();
    text.push('\n');
    text
}

fn schemas() -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.definitions_path = "/components/schemas".into();
        s.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    fn add<T: JsonSchema>(generator: &mut schemars::SchemaGenerator) {
        generator.subschema_for::<T>();
    }
    add::<CreateStorage>(&mut generator);
    add::<ExpandStorage>(&mut generator);
    add::<Storage>(&mut generator);
    add::<Page<Storage>>(&mut generator);
    add::<DryRunAnswer>(&mut generator);
    add::<NewCredentials>(&mut generator);
    add::<Node>(&mut generator);
    add::<Page<Node>>(&mut generator);
    add::<Pool>(&mut generator);
    add::<Page<Pool>>(&mut generator);
    add::<Capacity>(&mut generator);
    add::<Page<Class>>(&mut generator);
    add::<Health>(&mut generator);
    add::<ProblemDocument>(&mut generator);
    generator.take_definitions(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_document_is_the_generated_one() {
        let kept = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/openapi.json"))
            .unwrap_or_default();
        assert!(
            kept == text(),
            "deploy/openapi.json is not what the types say; write it anew with:\n    \
             cargo run -p smart-storage-controller --bin openapigen"
        );
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(object) => {
                    found.extend(object.get("$ref").and_then(Value::as_str));
                    object.values().for_each(|v| references(v, found));
                }
                Value::Array(list) => list.iter().for_each(|v| references(v, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 50);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}
