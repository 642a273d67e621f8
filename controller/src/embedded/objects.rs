//! What the API does to one object: reading a body, making, changing, deleting. Pure: time and ids come in.

mod metadata;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};

use super::json::set;
use super::kinds::{Kind, Shape};
use super::rules::check_rules;
use super::schema::check;
use super::status::{ApiError, FieldError};
use metadata::check_metadata;

/// What to do about fields that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unknown {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse the object.
    Strict,
}

/// Which part of an object a request may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status (where it is a subresource).
    Main,
    /// The status only.
    Status,
}

/// What a replacement comes to.
#[derive(Debug, PartialEq)]
pub enum Update {
    /// Nothing differs: nothing is written.
    Unchanged,
    /// The object becomes this.
    Write(Value),
    /// The last finalizer of a deleted object went: it goes. Its last state.
    Remove(Value),
}

/// What deleting an object comes to.
#[derive(Debug, PartialEq)]
pub enum Deletion {
    /// It goes now.
    Remove,
    /// Finalizers hold it: it is marked.
    Mark(Value),
    /// It is marked already.
    AlreadyMarked,
}

/// A decoded body and what to warn about.
#[derive(Debug)]
pub struct Decoded {
    /// The object: known fields only, defaults filled in.
    pub value: Value,
    /// Sentences for `Warning` headers.
    pub warnings: Vec<String>,
}

/// Checks and completes `apiVersion` and `kind`, prunes, fills in defaults. `twice` are the paths of fields that
/// the body gave more than once.
pub fn decode(
    kind: &Kind,
    mut value: Value,
    twice: &[String],
    unknown: Unknown,
) -> Result<Decoded, ApiError> {
    check_identity(kind, &mut value)?;
    let mut strange = Vec::new();
    let metadata = value.get("metadata").cloned().unwrap_or_else(|| json!({}));
    let cleaned = typed_metadata(kind, metadata.clone())?;
    lost("metadata", &metadata, &cleaned, &mut strange);
    match &kind.shape {
        Shape::Structural(schema) => {
            if let Some(map) = value.as_object_mut() {
                map.insert("metadata".to_owned(), cleaned);
            }
            strange.extend(schema.prune(&mut value));
            schema.fill(&mut value);
        }
        Shape::Typed(read) => {
            let given = value;
            let mut read_back = read(given.clone()).map_err(|e| cannot_handle(kind, &e.to_string()))?;
            if let Some(map) = read_back.as_object_mut() {
                map.insert("metadata".to_owned(), cleaned);
                map.insert("apiVersion".to_owned(), json!(kind.api_version()));
                map.insert("kind".to_owned(), json!(kind.kind));
            }
            for (name, child) in given.as_object().into_iter().flatten() {
                if name != "metadata" {
                    let kept = read_back.get(name).unwrap_or(&Value::Null);
                    lost(name, child, kept, &mut strange);
                }
            }
            value = complete_built_in(kind, read_back);
        }
    }
    let sentences = (strange.iter().map(|path| format!("unknown field \"{path}\"")))
        .chain(twice.iter().map(|path| format!("duplicate field \"{path}\"")));
    match unknown {
        Unknown::Strict if !strange.is_empty() || !twice.is_empty() => {
            let list = sentences.collect::<Vec<_>>().join(", ");
            Err(cannot_handle(kind, &format!("strict decoding error: {list}")))
        }
        Unknown::Warn => Ok(Decoded {
            value,
            warnings: sentences.collect(),
        }),
        _ => Ok(Decoded {
            value,
            warnings: Vec::new(),
        }),
    }
}

fn cannot_handle(kind: &Kind, why: &str) -> ApiError {
    let (version, name) = (&kind.version, &kind.kind);
    ApiError::bad_request(format!(
        "{name} in version \"{version}\" cannot be handled as a {name}: {why}"
    ))
}

fn check_identity(kind: &Kind, value: &mut Value) -> Result<(), ApiError> {
    let Some(map) = value.as_object_mut() else {
        return Err(cannot_handle(kind, "the body is not an object"));
    };
    for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.clone())] {
        match map.get(field).and_then(Value::as_str) {
            None | Some("") => {
                map.insert(field.to_owned(), json!(expected));
            }
            Some(given) if given == expected => {}
            Some(given) => {
                return Err(ApiError::bad_request(format!(
                    "the {field} in the data ({given}) does not match the expected {field} ({expected})"
                )));
            }
        }
    }
    Ok(())
}

fn typed_metadata(kind: &Kind, metadata: Value) -> Result<Value, ApiError> {
    let wrong = |e: serde_json::Error| cannot_handle(kind, &format!("metadata: {e}"));
    let typed: ObjectMeta = serde_json::from_value(metadata).map_err(wrong)?;
    serde_json::to_value(typed).map_err(wrong)
}

/// Paths that are in `given` and not in `kept`; null and empty values count as absent.
fn lost(path: &str, given: &Value, kept: &Value, found: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (name, child) in given {
                lost(
                    &format!("{path}.{name}"),
                    child,
                    kept.get(name).unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (index, (child, kept)) in given.iter().zip(kept).enumerate() {
                lost(&format!("{path}[{index}]"), child, kept, found);
            }
        }
        (Value::Null, _) => {}
        (Value::Object(map), Value::Null) if map.is_empty() => {}
        (Value::Array(list), Value::Null) if list.is_empty() => {}
        (_, Value::Null) => found.push(path.to_owned()),
        _ => {}
    }
}

/// Secrets: `stringData` goes into `data`, the type is Opaque by default.
fn complete_built_in(kind: &Kind, mut value: Value) -> Value {
    use base64::Engine as _;
    if kind.kind != "Secret" {
        return value;
    }
    let Some(map) = value.as_object_mut() else {
        return value;
    };
    map.entry("type").or_insert_with(|| json!("Opaque"));
    if let Some(Value::Object(plain)) = map.remove("stringData") {
        let data = map.entry("data").or_insert_with(|| json!({}));
        for (name, text) in &plain {
            let bytes = text.as_str().unwrap_or_default().as_bytes();
            if let Some(data) = data.as_object_mut() {
                data.insert(
                    name.clone(),
                    json!(base64::engine::general_purpose::STANDARD.encode(bytes)),
                );
            }
        }
    }
    value
}

/// A new object, ready to be stored: metadata set, status emptied, everything checked.
pub fn create(kind: &Kind, mut value: Value, uid: &str, now: Timestamp) -> Result<Value, ApiError> {
    {
        let Some(metadata) = metadata_of(&mut value) else {
            return Err(no_metadata());
        };
        for field in [
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "managedFields",
        ] {
            metadata.remove(field);
        }
        metadata.insert("uid".to_owned(), json!(uid));
        metadata.insert("creationTimestamp".to_owned(), json!(seconds(now)));
        metadata.remove("generation");
        if kind.generations {
            metadata.insert("generation".to_owned(), json!(1));
        }
    }
    if kind.status
        && let Some(map) = value.as_object_mut()
    {
        map.remove("status");
    }
    if kind.kind == "Namespace" {
        set(&mut value, &["status"], json!({"phase": "Active"}));
        set(&mut value, &["spec"], json!({"finalizers": ["kubernetes"]}));
        name_label(&mut value);
    }
    // Emptying the status may have taken defaults away.
    if let Shape::Structural(schema) = &kind.shape {
        schema.fill(&mut value);
    }
    validate(kind, &value, None)?;
    Ok(value)
}

/// Replaces (a part of) an object. `value` is decoded; `old` is what is stored, in the form of this kind.
pub fn update(kind: &Kind, old: &Value, mut value: Value, part: Part) -> Result<Update, ApiError> {
    let name = text(old, "/metadata/name").to_owned();
    preserve(kind, old, &mut value, part)?;
    if let Shape::Structural(schema) = &kind.shape {
        schema.fill(&mut value);
    }
    if kind.generations {
        let generation = old
            .pointer("/metadata/generation")
            .and_then(Value::as_i64)
            .unwrap_or(1);
        let next = if desired_differs(kind, old, &value) {
            generation + 1
        } else {
            generation
        };
        set(&mut value, &["metadata", "generation"], json!(next));
    }
    if same(old, &value) {
        return Ok(Update::Unchanged);
    }
    validate(kind, &value, Some(old))?;
    check_immutable(kind, old, &value, &name)?;
    let going = value.pointer("/metadata/deletionTimestamp").is_some();
    if going && finalizers(&value).next().is_none() {
        return Ok(Update::Remove(value));
    }
    Ok(Update::Write(value))
}

/// Carries over what a request may not change.
fn preserve(kind: &Kind, old: &Value, value: &mut Value, part: Part) -> Result<(), ApiError> {
    if part == Part::Status {
        let status = value.get("status").cloned();
        *value = old.clone();
        let Some(map) = value.as_object_mut() else {
            return Err(no_metadata());
        };
        match status {
            Some(status) => map.insert("status".to_owned(), status),
            None => map.remove("status"),
        };
        return Ok(());
    }
    if kind.status
        && let Some(map) = value.as_object_mut()
    {
        match old.get("status") {
            Some(status) => map.insert("status".to_owned(), status.clone()),
            None => map.remove("status"),
        };
    }
    if kind.kind == "Namespace"
        && let (Some(map), Some(spec)) = (value.as_object_mut(), old.get("spec"))
    {
        map.insert("spec".to_owned(), spec.clone());
        name_label(value);
    }
    let Some(metadata) = metadata_of(value) else {
        return Err(no_metadata());
    };
    metadata.remove("managedFields");
    metadata.remove("selfLink");
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        match old.pointer(&format!("/metadata/{field}")) {
            Some(kept) => metadata.insert(field.to_owned(), kept.clone()),
            None => metadata.remove(field),
        };
    }
    Ok(())
}

fn check_immutable(kind: &Kind, old: &Value, value: &Value, name: &str) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    if old.pointer("/metadata/deletionTimestamp").is_some() {
        let before: Vec<&str> = finalizers(old).collect();
        let added: Vec<&str> = finalizers(value).filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            errors.push(FieldError::forbidden("metadata.finalizers", &detail));
        }
    }
    let immutable = old.get("immutable").and_then(Value::as_bool).unwrap_or(false);
    if matches!(kind.kind.as_str(), "Secret" | "ConfigMap") && immutable {
        for field in ["data", "binaryData", "immutable"] {
            if old.get(field) != value.get(field) {
                let detail = "field is immutable when `immutable` is set";
                errors.push(FieldError::forbidden(field, detail));
            }
        }
    }
    if kind.kind == "Secret" && old.get("type") != value.get("type") {
        let given = value.get("type").cloned().unwrap_or_default();
        errors.push(FieldError::invalid("type", &given, "field is immutable"));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(kind.about(name), &errors))
    }
}

/// What a deletion does to an object; the mark carries the time.
pub fn delete(kind: &Kind, old: &Value, now: Timestamp) -> Deletion {
    if finalizers(old).next().is_none() {
        return Deletion::Remove;
    }
    if old.pointer("/metadata/deletionTimestamp").is_some() {
        return Deletion::AlreadyMarked;
    }
    let mut marked = old.clone();
    if let Some(metadata) = metadata_of(&mut marked) {
        metadata.insert("deletionTimestamp".to_owned(), json!(seconds(now)));
        metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(0));
        if kind.generations {
            // As the real server: being asked to go is a change of what is desired.
            let generation = metadata.get("generation").and_then(Value::as_i64).unwrap_or(1);
            metadata.insert("generation".to_owned(), json!(generation + 1));
        }
    }
    Deletion::Mark(marked)
}

/// Names, labels, annotations, finalizers, owners, the schema and the rules.
fn validate(kind: &Kind, value: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    check_metadata(kind, value, old, &mut errors);
    if let Shape::Structural(schema) = &kind.shape {
        check(schema, value, old, "", &mut errors);
        if errors.iter().any(FieldError::blocks_rules) {
            let detail = "some validation rules were not checked because the object was invalid; correct the \
                          existing errors to complete validation";
            if schema.rules_below {
                errors.push(FieldError::invalid("", &Value::Null, detail));
            }
        } else {
            check_rules(
                schema,
                &for_rules(value),
                old.map(for_rules).as_ref(),
                "",
                &mut errors,
            );
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(
        kind.about(text(value, "/metadata/name")),
        &errors,
    ))
}

/// Rules see of the metadata only the names, so that they cannot depend on more.
fn for_rules(value: &Value) -> Value {
    let mut seen = value.clone();
    if let Some(metadata) = metadata_of(&mut seen) {
        metadata.retain(|name, _| matches!(name.as_str(), "name" | "generateName"));
    }
    seen
}

fn finalizers(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

fn desired_differs(kind: &Kind, old: &Value, new: &Value) -> bool {
    let desired = |value: &Value| {
        let mut value = value.clone();
        if let Some(map) = value.as_object_mut() {
            map.remove("metadata");
            if kind.status {
                map.remove("status");
            }
        }
        value
    };
    desired(old) != desired(new)
}

/// Equal as stored: empty maps and lists of the metadata count as absent.
fn same(old: &Value, new: &Value) -> bool {
    let normal = |value: &Value| {
        let mut value = value.clone();
        if let Some(metadata) = metadata_of(&mut value) {
            metadata.retain(|_, v| {
                !v.is_null()
                    && v.as_object().is_none_or(|m| !m.is_empty())
                    && v.as_array().is_none_or(|l| !l.is_empty())
            });
        }
        value
    };
    normal(old) == normal(new)
}

/// Namespaces can be selected by name, as in the real server.
fn name_label(value: &mut Value) {
    let name = value.pointer("/metadata/name").cloned().unwrap_or_default();
    set(
        value,
        &["metadata", "labels", "kubernetes.io/metadata.name"],
        name,
    );
}

fn metadata_of(value: &mut Value) -> Option<&mut Map<String, Value>> {
    value.get_mut("metadata")?.as_object_mut()
}

fn no_metadata() -> ApiError {
    ApiError::bad_request("the object has no metadata")
}

/// A string in an object, or nothing.
pub fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Kubernetes writes `metav1.Time` in whole seconds.
pub fn seconds(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
