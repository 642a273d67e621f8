//! Patches: merge patch, JSON patch, and strategic merge where its lists are known.

use serde_json::Value;

use super::kinds::{Kind, Shape};
use super::status::ApiError;

/// Operations of one JSON patch, as in the real server.
const MOST_OPERATIONS: usize = 10_000;

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
    for operation in &patch.0 {
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
