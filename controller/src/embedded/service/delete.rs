//! Delete: one object, a collection, a namespace with all that is in it; and what they owned.
//!
//! Objects whose last living owner (`metadata.ownerReferences`) goes are deleted in the same transaction,
//! unless the request says `Orphan`; a real cluster's garbage collector does so a moment later.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::super::json::set;
use super::super::kinds::Kind;
use super::super::objects::{self, Deletion, text};
use super::super::selectors::Selector;
use super::super::status::ApiError;
use super::super::store::{Key, Object, Transaction};
use super::{Answer, Call, Service};

/// Namespaces that are always there.
pub(in super::super) const FIXED_NAMESPACES: [&str; 2] = ["default", "kube-system"];
/// What a delete request asks beyond the name.
#[derive(Debug, Default, Clone)]
struct DeleteOptions {
    uid: Option<String>,
    revision: Option<String>,
    dry_run: bool,
    orphan: bool,
}

impl Call {
    fn delete_options(&self) -> Result<DeleteOptions, ApiError> {
        let mut options = DeleteOptions {
            dry_run: self.dry_run()?,
            orphan: self.query.text("propagationPolicy") == "Orphan",
            ..DeleteOptions::default()
        };
        if self.body.is_empty() {
            return Ok(options);
        }
        let body = self.body_value()?;
        let owned = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        options.uid = owned("/preconditions/uid");
        options.revision = owned("/preconditions/resourceVersion");
        options.orphan |= text(&body, "/propagationPolicy") == "Orphan";
        let runs = body.get("dryRun").and_then(Value::as_array).into_iter().flatten();
        for run in runs {
            match run.as_str() {
                Some("All") => options.dry_run = true,
                _ => {
                    return Err(ApiError::wrong_option(
                        "DeleteOptions",
                        "dryRun",
                        run,
                        &[json!("All")],
                    ));
                }
            }
        }
        Ok(options)
    }
}

impl Service {
    pub(super) async fn delete(&self, call: Call) -> Result<Answer, ApiError> {
        let name = call.named()?;
        let options = call.delete_options()?;
        let (kind, key, now) = (Arc::clone(&call.kind), call.key(&name), self.now());
        if kind.kind == "Namespace" && kind.group.is_empty() {
            return self.delete_namespace(&call, name, options).await;
        }
        let (dry_run, kinds) = (options.dry_run, self.all_kinds());
        let (object, gone) = self
            .store
            .write(dry_run, move |transaction| {
                let about = kind.about(&key.name);
                let current = transaction.get(&key).ok_or_else(|| ApiError::not_found(about))?;
                let outcome = delete_one(transaction, &kind, &current, &options, now)?;
                if !options.orphan {
                    sweep(transaction, &kinds, now)?;
                }
                Ok::<_, ApiError>(outcome)
            })
            .await?;
        if !gone {
            return self.object_answer(&call, StatusCode::OK, &object);
        }
        let value = object.value()?;
        let mut details = json!({
            "name": name, "kind": call.kind.plural, "uid": text(&value, "/metadata/uid"),
        });
        if !call.kind.group.is_empty() {
            set(&mut details, &["group"], json!(call.kind.group));
        }
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
        });
        Ok(Answer::json(StatusCode::OK, &status))
    }

    pub(super) async fn delete_collection(&self, call: Call) -> Result<Answer, ApiError> {
        if call.kind.namespaced && call.namespace.is_none() || call.kind.kind == "Namespace" {
            return Err(ApiError::method_not_allowed());
        }
        let options = call.delete_options()?;
        let selector: Selector = Self::selector(&call)?;
        let (kind, namespace, now) = (Arc::clone(&call.kind), call.namespace.clone(), self.now());
        let (dry_run, kinds) = (options.dry_run, self.all_kinds());
        let removed = self
            .store
            .write(dry_run, move |transaction| {
                let mut removed = Vec::new();
                for object in transaction.list(&kind.resource, namespace.as_deref()) {
                    if selector.fits(&object, &kind) {
                        let (last, _) = delete_one(transaction, &kind, &object, &options, now)?;
                        removed.push(kind.presented(last.value()?));
                    }
                }
                if !options.orphan {
                    sweep(transaction, &kinds, now)?;
                }
                Ok::<_, ApiError>(removed)
            })
            .await?;
        let list = json!({
            "kind": call.kind.list_kind,
            "apiVersion": call.kind.api_version(),
            "metadata": {"resourceVersion": self.store.revision().to_string()},
            "items": removed,
        });
        Ok(Answer::json(StatusCode::OK, &list))
    }

    /// Deletes what is in it in the same transaction. It stays, Terminating, only while finalizers hold
    /// something in it.
    async fn delete_namespace(
        &self,
        call: &Call,
        name: String,
        options: DeleteOptions,
    ) -> Result<Answer, ApiError> {
        if FIXED_NAMESPACES.contains(&name.as_str()) {
            return Err(ApiError::forbidden(
                call.kind.about(&name),
                "this namespace may not be deleted",
            ));
        }
        let kinds = self.all_kinds();
        let (kind, key, now) = (Arc::clone(&call.kind), call.key(&name), self.now());
        let dry_run = options.dry_run;
        let object = self
            .store
            .write(dry_run, move |transaction| {
                let about = kind.about(&key.name);
                let current = transaction.get(&key).ok_or_else(|| ApiError::not_found(about))?;
                let mut value = current.value()?;
                check_delete_options(&kind, &key.name, &value, &options)?;
                for object in transaction.in_namespace(&key.name) {
                    // Kinds that are served no more have nobody to finalize them.
                    match kinds.iter().find(|k| k.resource == object.key.resource) {
                        Some(kind) => {
                            delete_one(transaction, kind, &object, &DeleteOptions::default(), now)?;
                        }
                        None => {
                            transaction.remove(object.key.clone(), object.value()?)?;
                        }
                    }
                }
                sweep(transaction, &kinds, now)?;
                set(&mut value, &["status", "phase"], json!("Terminating"));
                if text(&value, "/metadata/deletionTimestamp").is_empty() {
                    set(
                        &mut value,
                        &["metadata", "deletionTimestamp"],
                        json!(objects::seconds(now)),
                    );
                }
                if transaction.in_namespace(&key.name).is_empty() {
                    Ok::<_, ApiError>(transaction.remove(key, value)?)
                } else {
                    Ok(transaction.put(key, value)?)
                }
            })
            .await?;
        self.object_answer(call, StatusCode::OK, &object)
    }
}

/// Removes an object, and its namespace if that only waited for it.
pub(super) fn remove(
    transaction: &mut Transaction<'_>,
    key: Key,
    last: Value,
) -> Result<Arc<Object>, ApiError> {
    let namespace = key.namespace.clone();
    let removed = transaction.remove(key, last)?;
    if namespace.is_empty() {
        return Ok(removed);
    }
    let place = Key {
        resource: "namespaces".into(),
        namespace: String::new(),
        name: namespace,
    };
    let Some(waiting) = transaction.get(&place) else {
        return Ok(removed);
    };
    let value = waiting.value()?;
    let terminating = !text(&value, "/metadata/deletionTimestamp").is_empty();
    if terminating && transaction.in_namespace(&place.name).is_empty() {
        transaction.remove(place, value)?;
    }
    Ok(removed)
}

/// Deletes what was owned by what this write removed, wave by wave.
pub(super) fn sweep(
    transaction: &mut Transaction<'_>,
    kinds: &[Arc<Kind>],
    now: jiff::Timestamp,
) -> Result<(), ApiError> {
    let mut seen = 0;
    loop {
        let (removed, reached) = transaction.removed_after(seen);
        if removed.is_empty() {
            return Ok(());
        }
        seen = reached;
        let owned = |object: &Object| object.owners.iter().any(|owner| removed.contains(owner));
        for dependent in transaction.every(&owned) {
            let lives = |owner: &String| {
                !removed.contains(owner) && !transaction.every(&|object| object.uid == *owner).is_empty()
            };
            let kind = kinds.iter().find(|kind| kind.resource == dependent.key.resource);
            let (Some(kind), false) = (kind, dependent.owners.iter().any(lives)) else {
                continue;
            };
            delete_one(transaction, kind, &dependent, &DeleteOptions::default(), now)?;
        }
    }
}

/// Deletes one object; whether it is gone, and its last state.
fn delete_one(
    transaction: &mut Transaction<'_>,
    kind: &Kind,
    current: &Arc<Object>,
    options: &DeleteOptions,
    now: jiff::Timestamp,
) -> Result<(Arc<Object>, bool), ApiError> {
    let value = current.value()?;
    check_delete_options(kind, &current.key.name, &value, options)?;
    let key = current.key.clone();
    match objects::delete(kind, &value, now) {
        Deletion::Remove => Ok((remove(transaction, key, value)?, true)),
        Deletion::Mark(marked) => Ok((transaction.put(key, marked)?, false)),
        Deletion::AlreadyMarked => Ok((Arc::clone(current), false)),
    }
}

fn check_delete_options(
    kind: &Kind,
    name: &str,
    value: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let wrong = |what: &str, wanted: &Option<String>, have: &str| {
        let wanted = wanted.as_deref().filter(|wanted| *wanted != have)?;
        let detail =
            format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {have}");
        Some(ApiError::conflict(kind.about(name), &detail))
    };
    let refused = wrong("UID", &options.uid, text(value, "/metadata/uid")).or_else(|| {
        wrong(
            "ResourceVersion",
            &options.revision,
            text(value, "/metadata/resourceVersion"),
        )
    });
    refused.map_or(Ok(()), Err)
}
