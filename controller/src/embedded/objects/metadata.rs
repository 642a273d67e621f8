//! Judging metadata: name, labels, annotations, finalizers.

use serde_json::{Value, json};

use super::super::kinds::Kind;
use super::super::names;
use super::super::status::FieldError;
use super::{finalizers, text};

/// Lists what is wrong; parts that an update leaves as they were are not judged again.
pub(super) fn check_metadata(kind: &Kind, value: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let name = text(value, "/metadata/name");
    if old.is_none() {
        if name.is_empty() {
            errors.push(FieldError::required(
                "metadata.name",
                "name or generateName is required",
            ));
        } else {
            let rule = if kind.kind == "Namespace" {
                names::label
            } else {
                names::subdomain
            };
            if let Err(why) = rule(name) {
                errors.push(FieldError::invalid("metadata.name", &json!(name), why));
            }
        }
    }
    let unchanged = |field: &str| {
        old.is_some_and(|old| {
            old.pointer(&format!("/metadata/{field}")) == value.pointer(&format!("/metadata/{field}"))
        })
    };
    if !unchanged("labels") {
        for (key, label) in members(value, "/metadata/labels") {
            if let Err(why) = names::label_key(key) {
                errors.push(FieldError::invalid("metadata.labels", &json!(key), why));
            }
            if let Err(why) = names::label_value(label.as_str().unwrap_or_default()) {
                errors.push(FieldError::invalid("metadata.labels", label, why));
            }
        }
    }
    if !unchanged("annotations") {
        let mut total = 0;
        for (key, text) in members(value, "/metadata/annotations") {
            total += key.len() + text.as_str().map_or(0, str::len);
            if let Err(why) = names::label_key(&key.to_lowercase()) {
                errors.push(FieldError::invalid("metadata.annotations", &json!(key), why));
            }
        }
        if total > 256 << 10 {
            errors.push(FieldError::too_long("metadata.annotations", 256 << 10));
        }
    }
    if !unchanged("finalizers") {
        for finalizer in finalizers(value) {
            if let Err(why) = names::label_key(finalizer) {
                errors.push(FieldError::invalid("metadata.finalizers", &json!(finalizer), why));
            }
        }
    }
}

fn members<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    value
        .pointer(pointer)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}
