//! Create, replace, patch, delete.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::super::kinds::Kind;
use super::super::names;
use super::super::objects::{self, Deletion, Part, Update, text};
use super::super::patch::Patch;
use super::super::protobuf;
use super::super::selectors::Selector;
use super::super::status::{ApiError, FieldError};
use super::super::store::{Key, Object, Transaction};
use super::{Answer, Call, Service};

/// Tries for a free name under `generateName`, as in the real server.
const NAME_TRIES: usize = 8;
/// How often a request is judged anew because others were quicker.
const RACES: usize = 200;
/// Namespaces that are always there.
pub(in super::super) const FIXED_NAMESPACES: [&str; 2] = ["default", "kube-system"];
/// Events live this long, as in the real server.
const EVENT_SECONDS: i64 = 3600;

enum Outcome {
    Done(Arc<Object>),
    Raced,
}

/// What a delete request asks beyond the name.
#[derive(Debug, Default, Clone)]
struct DeleteOptions {
    uid: Option<String>,
    revision: Option<String>,
    dry_run: bool,
}

impl Call {
    fn body_value(&self) -> Result<Value, ApiError> {
        let broken = |e: String| ApiError::bad_request(format!("the body cannot be read: {e}"));
        match self.media_type.as_str() {
            "application/json" => serde_json::from_slice(&self.body).map_err(|e| broken(e.to_string())),
            "application/yaml" => serde_saphyr::from_slice(&self.body).map_err(|e| broken(e.to_string())),
            "application/vnd.kubernetes.protobuf" => protobuf::decode(&self.body).ok_or_else(|| {
                ApiError::unsupported_media(
                    "only Namespace, Secret and ConfigMap are read in protobuf; send JSON",
                )
            }),
            other => Err(ApiError::unsupported_media(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json, application/yaml (got {other})"
            ))),
        }
    }

    fn named(&self) -> Result<String, ApiError> {
        self.name.clone().ok_or_else(ApiError::method_not_allowed)
    }

    fn delete_options(&self) -> Result<DeleteOptions, ApiError> {
        let mut options = DeleteOptions {
            dry_run: self.query.dry_run()?,
            ..DeleteOptions::default()
        };
        if self.body.is_empty() {
            return Ok(options);
        }
        let body = self.body_value()?;
        let owned = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        options.uid = owned("/preconditions/uid");
        options.revision = owned("/preconditions/resourceVersion");
        let runs = body.get("dryRun").and_then(Value::as_array).into_iter().flatten();
        for run in runs {
            match run.as_str() {
                Some("All") => options.dry_run = true,
                _ => return Err(ApiError::bad_request("dryRun: supported values: \"All\"")),
            }
        }
        Ok(options)
    }

    /// Name and namespace of the body against those of the URL.
    fn settle_place(&self, value: &mut Value) -> Result<(), ApiError> {
        let name = text(value, "/metadata/name").to_owned();
        if let Some(wanted) = self
            .name
            .as_deref()
            .filter(|wanted| !name.is_empty() && *wanted != name)
        {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({wanted})"
            )));
        }
        let namespace = text(value, "/metadata/namespace").to_owned();
        let wanted = self.namespace.as_deref().unwrap_or_default();
        if !namespace.is_empty() && self.kind.namespaced && namespace != wanted {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        let Some(metadata) = metadata else {
            return Err(ApiError::bad_request("the object has no metadata"));
        };
        if let Some(name) = &self.name {
            metadata.insert("name".to_owned(), json!(name));
        }
        if self.kind.namespaced {
            metadata.insert("namespace".to_owned(), json!(wanted));
        } else {
            metadata.remove("namespace");
        }
        Ok(())
    }
}

impl Service {
    /// How the storage kind calls its version.
    fn stored(&self, kind: &Kind, value: Value) -> Value {
        kind.to_stored(value, "v1")
    }

    pub(super) async fn create(&self, call: Call) -> Result<Answer, ApiError> {
        if call.kind.namespaced && call.namespace.is_none() {
            return Err(ApiError::method_not_allowed());
        }
        let dry_run = call.query.dry_run()?;
        let body = call.body_value()?;
        let mut decoded = objects::decode(&call.kind, body, call.query.unknown()?)?;
        call.settle_place(&mut decoded.value)?;
        let object = self.create_object(&call, decoded.value, dry_run).await?;
        let mut answer = self.object_answer(&call, StatusCode::CREATED, &object)?;
        answer.warnings = decoded.warnings;
        Ok(answer)
    }

    async fn create_object(&self, call: &Call, value: Value, dry_run: bool) -> Result<Arc<Object>, ApiError> {
        if !text(&value, "/metadata/resourceVersion").is_empty() {
            return Err(ApiError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let base = text(&value, "/metadata/generateName").to_owned();
        let generated = text(&value, "/metadata/name").is_empty() && !base.is_empty();
        let mut tries = 0;
        loop {
            let mut value = value.clone();
            if generated {
                value["metadata"]["name"] = json!(names::generated(&base, uuid::Uuid::new_v4().as_u128()));
            }
            let uid = uuid::Uuid::new_v4().to_string();
            let made = objects::create(&call.kind, value, &uid, self.now())?;
            let outcome = self.insert(call, made, dry_run).await;
            tries += 1;
            match outcome {
                Err(error) if generated && error.reason == "AlreadyExists" && tries < NAME_TRIES => {}
                other => return other,
            }
        }
    }

    async fn insert(&self, call: &Call, made: Value, dry_run: bool) -> Result<Arc<Object>, ApiError> {
        let kind = Arc::clone(&call.kind);
        let key = call.key(text(&made, "/metadata/name"));
        let stored = self.stored(&kind, made);
        let now = self.now();
        self.store
            .write(dry_run, move |transaction| {
                if kind.namespaced {
                    check_namespace(transaction, &kind, &key)?;
                }
                if transaction.get(&key).is_some() {
                    return Err(ApiError::already_exists(kind.about(&key.name)));
                }
                if &*kind.resource == "events" {
                    forget_old_events(transaction, now)?;
                }
                Ok(transaction.put(key, stored)?)
            })
            .await
    }

    pub(super) async fn replace(&self, call: Call) -> Result<Answer, ApiError> {
        let dry_run = call.query.dry_run()?;
        let name = call.named()?;
        let body = call.body_value()?;
        let mut decoded = objects::decode(&call.kind, body, call.query.unknown()?)?;
        call.settle_place(&mut decoded.value)?;
        let value = decoded.value;
        let creates = call.kind.create_on_update && call.part == Part::Main;
        if creates && self.store.get(&call.key(&name)).is_none() {
            let object = self.create_object(&call, value, dry_run).await?;
            return self.object_answer(&call, StatusCode::CREATED, &object);
        }
        if text(&value, "/metadata/resourceVersion").is_empty() && !call.kind.unconditional_update {
            let detail = "must be specified for an update";
            let error = FieldError::invalid("metadata.resourceVersion", &json!(0), detail);
            return Err(ApiError::invalid(call.kind.about(&name), &[error]));
        }
        let object = self.modify(&call, &name, dry_run, |_| Ok(value.clone())).await?;
        let mut answer = self.object_answer(&call, StatusCode::OK, &object)?;
        answer.warnings = decoded.warnings;
        Ok(answer)
    }

    pub(super) async fn patch(&self, call: Call) -> Result<Answer, ApiError> {
        let dry_run = call.query.dry_run()?;
        let name = call.named()?;
        let unknown = call.query.unknown()?;
        let patch = Patch::parse(&call.kind, &call.media_type, &call.body)?;
        let warnings = parking_lot::Mutex::new(Vec::new());
        let object = self
            .modify(&call, &name, dry_run, |old| {
                let patched = patch.apply(old.clone())?;
                let mut decoded = objects::decode(&call.kind, patched, unknown)?;
                call.settle_place(&mut decoded.value)?;
                *warnings.lock() = decoded.warnings;
                Ok(decoded.value)
            })
            .await?;
        let mut answer = self.object_answer(&call, StatusCode::OK, &object)?;
        answer.warnings = warnings.into_inner();
        Ok(answer)
    }

    /// Changes an object by what `make` makes of it; again and again while others are quicker.
    async fn modify<F>(
        &self,
        call: &Call,
        name: &str,
        dry_run: bool,
        make: F,
    ) -> Result<Arc<Object>, ApiError>
    where
        F: Fn(&Value) -> Result<Value, ApiError> + Send + Sync,
    {
        let (kind, key) = (&call.kind, call.key(name));
        for _ in 0..RACES {
            let current = self
                .store
                .get(&key)
                .ok_or_else(|| ApiError::not_found(kind.about(name)))?;
            let old = kind.from_stored(current.value()?);
            let new = make(&old)?;
            check_preconditions(kind, name, &old, &new)?;
            let outcome = match objects::update(kind, &old, new, call.part)? {
                Update::Unchanged => return Ok(current),
                Update::Write(value) => {
                    let (key, value) = (key.clone(), self.stored(kind, value));
                    self.if_still(&current, dry_run, move |t| Ok(t.put(key, value)?))
                        .await?
                }
                Update::Remove(value) => {
                    let (key, value) = (key.clone(), self.stored(kind, value));
                    self.if_still(&current, dry_run, move |t| remove(t, key, value))
                        .await?
                }
            };
            if let Outcome::Done(object) = outcome {
                return Ok(object);
            }
        }
        Err(ApiError::stale(kind.about(name)))
    }

    async fn if_still<F>(&self, seen: &Arc<Object>, dry_run: bool, then: F) -> Result<Outcome, ApiError>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<Arc<Object>, ApiError> + Send + 'static,
    {
        let (key, revision) = (seen.key.clone(), seen.revision);
        self.store
            .write(dry_run, move |transaction| {
                if transaction.get(&key).is_none_or(|o| o.revision != revision) {
                    return Ok(Outcome::Raced);
                }
                then(transaction).map(Outcome::Done)
            })
            .await
    }

    pub(super) async fn delete(&self, call: Call) -> Result<Answer, ApiError> {
        let name = call.named()?;
        let options = call.delete_options()?;
        let (kind, key, now) = (Arc::clone(&call.kind), call.key(&name), self.now());
        if kind.kind == "Namespace" && kind.group.is_empty() {
            return self.delete_namespace(&call, name, options).await;
        }
        let dry_run = options.dry_run;
        let (object, gone) = self
            .store
            .write(dry_run, move |transaction| {
                let about = kind.about(&key.name);
                let current = transaction.get(&key).ok_or_else(|| ApiError::not_found(about))?;
                delete_one(transaction, &kind, &current, &options, now)
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
            details["group"] = json!(call.kind.group);
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
        let dry_run = options.dry_run;
        let removed = self
            .store
            .write(dry_run, move |transaction| {
                let mut removed = Vec::new();
                for object in transaction.list(&kind.resource, namespace.as_deref()) {
                    if selector.fits(&object, &kind) {
                        let (last, _) = delete_one(transaction, &kind, &object, &options, now)?;
                        removed.push(kind.from_stored(last.value()?));
                    }
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
        let kinds: Vec<Arc<Kind>> = self.kinds().cloned().collect();
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
                value["status"]["phase"] = json!("Terminating");
                if text(&value, "/metadata/deletionTimestamp").is_empty() {
                    value["metadata"]["deletionTimestamp"] = json!(objects::seconds(now));
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

fn check_namespace(transaction: &Transaction<'_>, kind: &Kind, key: &Key) -> Result<(), ApiError> {
    let place = Key {
        resource: "namespaces".into(),
        namespace: String::new(),
        name: key.namespace.clone(),
    };
    let about = super::super::status::About {
        plural: "namespaces",
        group: "",
        kind: "Namespace",
        name: &key.namespace,
    };
    let namespace = transaction
        .get(&place)
        .ok_or_else(|| ApiError::not_found(about))?;
    let value = namespace.value()?;
    if text(&value, "/metadata/deletionTimestamp").is_empty() {
        return Ok(());
    }
    let detail = format!(
        "unable to create new content in namespace {} because it is being terminated",
        key.namespace
    );
    let mut error = ApiError::forbidden(kind.about(&key.name), &detail);
    error.details["causes"] = json!([{
        "reason": "NamespaceTerminating",
        "message": format!("namespace {} is being terminated", key.namespace),
        "field": "metadata.namespace",
    }]);
    Err(error)
}

/// Removes an object, and its namespace if that only waited for it.
fn remove(transaction: &mut Transaction<'_>, key: Key, last: Value) -> Result<Arc<Object>, ApiError> {
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

fn check_preconditions(kind: &Kind, name: &str, old: &Value, new: &Value) -> Result<(), ApiError> {
    let (given, have) = (text(new, "/metadata/uid"), text(old, "/metadata/uid"));
    if !given.is_empty() && given != have {
        let detail = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {have}");
        return Err(ApiError::conflict(kind.about(name), &detail));
    }
    let (given, have) = (
        text(new, "/metadata/resourceVersion"),
        text(old, "/metadata/resourceVersion"),
    );
    if !given.is_empty() && given != have {
        return Err(ApiError::stale(kind.about(name)));
    }
    Ok(())
}

/// Events past their time go when new ones come: an idle system writes nothing.
fn forget_old_events(transaction: &mut Transaction<'_>, now: jiff::Timestamp) -> Result<(), ApiError> {
    // The oldest few only, so that one event never pays for thousands.
    const SHARE: usize = 8;
    let old = |object: &Arc<Object>| {
        let value = object.value().ok()?;
        let times = [
            "/series/lastObservedTime",
            "/lastTimestamp",
            "/eventTime",
            "/metadata/creationTimestamp",
        ];
        let newest = times
            .iter()
            .filter_map(|t| text(&value, t).parse::<jiff::Timestamp>().ok())
            .max()?;
        (now.duration_since(newest).as_secs() > EVENT_SECONDS).then_some(value)
    };
    let mut events = transaction.list("events", None);
    events.sort_by_key(|event| event.revision);
    for event in events.into_iter().take(SHARE) {
        if let Some(value) = old(&event) {
            remove(transaction, event.key.clone(), value)?;
        }
    }
    Ok(())
}
