//! Patches: merge patch, JSON patch, and strategic merge where its lists are known.

use serde_json::Value;

use super::kinds::{Kind, Shape};
use super::service::LARGEST_BODY;
use super::status::ApiError;
use super::store::{DEEPEST, deeper_than};

/// Operations of one JSON patch, as in the real server.
const MOST_OPERATIONS: usize = 10_000;
/// Bytes that the copies of one JSON patch may come to, as in the real server.
const MOST_COPIED: usize = LARGEST_BODY;

/// A patch as the content type says.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    /// `application/merge-patch+json`.
    Merge(Value),
    /// `application/json-patch+json`.
    Json(json_patch::Patch),
    /// `application/strategic-merge-patch+json`.
    Strategic(Value),
}

impl Patch {
    /// Reads a patch.
    pub fn parse(kind: &Kind, media_type: &str, body: &[u8]) -> Result<Self, ApiError> {
        let broken = |e: serde_json::Error| ApiError::bad_request(format!("error decoding patch: {e}"));
        match media_type {
            "application/merge-patch+json" => {
                let patch: Value = serde_json::from_slice(body).map_err(broken)?;
                if !patch.is_object() {
                    return Err(ApiError::bad_request(
                        "error decoding patch: a merge patch is an object",
                    ));
                }
                Ok(Self::Merge(patch))
            }
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_slice(body).map_err(broken)?;
                if patch.0.len() > MOST_OPERATIONS {
                    return Err(ApiError::too_large(MOST_OPERATIONS));
                }
                Ok(Self::Json(patch))
            }
            "application/strategic-merge-patch+json" if matches!(kind.shape, Shape::Typed(_)) => {
                Ok(Self::Strategic(serde_json::from_slice(body).map_err(broken)?))
            }
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
                Err(ApiError::unsupported_media(
                    "server-side apply is not offered by the embedded API; use client-side apply (a merge patch)",
                ))
            }
            other => Err(ApiError::unsupported_media(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json (got {other})"
            ))),
        }
    }

    /// The object after the patch.
    pub fn apply(&self, mut object: Value) -> Result<Value, ApiError> {
        match self {
            Self::Merge(patch) => json_patch::merge(&mut object, patch),
            Self::Json(patch) => operate(&mut object, patch)?,
            Self::Strategic(patch) => strategic(&mut object, patch, "")?,
        }
        Ok(object)
    }
}

/// One operation after the other. As in the real server, a test for null holds where there is nothing:
/// kube-runtime's finalizer relies on it.
fn operate(object: &mut Value, patch: &json_patch::Patch) -> Result<(), ApiError> {
    let mut copied = 0;
    for operation in &patch.0 {
        copied += growth(object, operation)?;
        if copied > MOST_COPIED {
            return Err(ApiError::too_large(MOST_COPIED));
        }
        if let json_patch::PatchOperation::Test(test) = operation
            && test.value.is_null()
            && object.pointer(test.path.as_str()).is_none()
        {
            continue;
        }
        json_patch::patch(object, std::slice::from_ref(operation)).map_err(|e| {
            ApiError::unprocessable(format!(
                "the server rejected our request due to an error in our request: {e}"
            ))
        })?;
    }
    Ok(())
}

/// Bytes that a copy adds. What nests too deeply to be stored is refused before it is made: a dozen copies of an object
/// into itself are deeper than any stack.
fn growth(object: &Value, operation: &json_patch::PatchOperation) -> Result<usize, ApiError> {
    use json_patch::PatchOperation::{Add, Copy, Move, Remove, Replace, Test};
    let (path, new) = match operation {
        Add(add) => (&add.path, Some(&add.value)),
        Replace(replace) => (&replace.path, Some(&replace.value)),
        Copy(copy) => (&copy.path, object.pointer(copy.from.as_str())),
        Move(moved) => (&moved.path, object.pointer(moved.from.as_str())),
        Remove(_) | Test(_) => return Ok(0),
    };
    let Some(new) = new else { return Ok(0) };
    let above = path.as_str().matches('/').count();
    if deeper_than(new, DEEPEST.saturating_sub(above)) {
        return Err(ApiError::unprocessable(format!(
            "the patch nests more than {DEEPEST} levels deep"
        )));
    }
    let copies = matches!(operation, Copy(_));
    Ok(if copies { new.to_string().len() } else { 0 })
}

/// Merge patch, but finalizers are united and owners merged by uid. Directives (`$patch` and the like)
/// other than the harmless order of a list are refused rather than half obeyed.
fn strategic(object: &mut Value, patch: &Value, path: &str) -> Result<(), ApiError> {
    let (Some(changes), true) = (patch.as_object(), object.is_object()) else {
        *object = patch.clone();
        return Ok(());
    };
    for (name, change) in changes {
        if name.starts_with("$setElementOrder") {
            continue;
        }
        if name.starts_with('$') {
            return Err(ApiError::unsupported_media(format!(
                "the directive {name} of strategic merge patches is not offered; use a merge patch"
            )));
        }
        let at = format!("{path}/{name}");
        let Some(target) = object.as_object_mut() else {
            return Ok(());
        };
        if change.is_null() {
            target.remove(name);
            continue;
        }
        let current = target.entry(name.clone()).or_insert(Value::Null);
        match (at.as_str(), current.as_array_mut(), change.as_array()) {
            ("/metadata/finalizers" | "/metadata/ownerReferences", Some(have), Some(more)) => {
                for item in more {
                    let same = |other: &Value| match item.get("uid") {
                        Some(uid) => other.get("uid") == Some(uid),
                        None => other == item,
                    };
                    match have.iter_mut().find(|other| same(other)) {
                        Some(found) => *found = item.clone(),
                        None => have.push(item.clone()),
                    }
                }
            }
            _ => {
                if change.is_object() && !current.is_object() {
                    *current = Value::Object(serde_json::Map::new());
                }
                strategic(current, change, &at)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(object: &Value, operations: Value) -> Result<Value, ApiError> {
        let patch: json_patch::Patch = serde_json::from_value(operations).unwrap();
        Patch::Json(patch).apply(object.clone())
    }

    #[test]
    fn copies_into_the_copy_end_before_the_stack_does() {
        let copies = |count: usize| -> Value {
            let mut path = String::new();
            (0..count)
                .map(|_| {
                    let to = format!("{path}/a");
                    path = format!("{to}{path}");
                    json!({"op": "copy", "from": "", "path": to})
                })
                .collect()
        };
        let object = json!({"spec": {}});
        assert!(patched(&object, copies(5)).is_ok());
        for count in [7, 14] {
            let refused = patched(&object, copies(count)).unwrap_err();
            assert_eq!(
                (refused.code, refused.message.contains("levels deep")),
                (422, true)
            );
        }
    }

    #[test]
    fn copies_do_not_grow_without_bound() {
        let object = json!({"spec": {"text": "x".repeat(1000)}});
        let doubling: Value = (0..40)
            .map(|n| json!({"op": "copy", "from": "/spec", "path": format!("/spec/{n}")}))
            .collect();
        assert_eq!(patched(&object, doubling).unwrap_err().code, 413);
        let honest =
            json!([{"op": "copy", "from": "/spec", "path": "/status"}, {"op": "remove", "path": "/spec"}]);
        assert_eq!(
            patched(&object, honest).unwrap(),
            json!({"status": {"text": "x".repeat(1000)}})
        );
    }
}
