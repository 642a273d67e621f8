//! Create, replace, patch, delete.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::json::{self, set};
use super::super::kinds::Kind;
use super::super::names;
use super::super::objects::{self, Part, Update, text};
use super::super::patch::Patch;
use super::super::protobuf;
use super::super::status::{ApiError, FieldError};
use super::super::store::{Key, Object, Transaction};
use super::delete::{remove, sweep};
use super::{Answer, Call, Service};

/// Tries for a free name under `generateName`, as in the real server.
const NAME_TRIES: usize = 8;
/// How often a request is judged anew because others were quicker.
const RACES: usize = 200;
/// Events live this long, as in the real server.
const EVENT_SECONDS: i64 = 3600;

enum Outcome {
    Done(Arc<Object>),
    Raced,
}

impl Call {
    /// The body, with the paths of fields that it gives twice.
    fn body_read(&self) -> Result<(Value, Vec<String>), ApiError> {
        let broken = |e: String| ApiError::bad_request(format!("the body cannot be read: {e}"));
        match self.media_type.as_str() {
            "application/json" => json::read(&self.body).map_err(|e| broken(e.to_string())),
            "application/yaml" => {
                // A vessel may be called y.
                let options = serde_saphyr::options! { strict_booleans: true };
                let value = serde_saphyr::from_slice_with_options(&self.body, options);
                Ok((value.map_err(|e| broken(e.to_string()))?, Vec::new()))
            }
            "application/vnd.kubernetes.protobuf" => {
                let value = protobuf::decode(&self.body).ok_or_else(|| {
                    ApiError::unsupported_media(
                        "only Namespace, Secret and ConfigMap are read in protobuf; send JSON",
                    )
                });
                Ok((value?, Vec::new()))
            }
            other => Err(ApiError::unsupported_media(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json, application/yaml (got {other})"
            ))),
        }
    }

    pub(super) fn body_value(&self) -> Result<Value, ApiError> {
        Ok(self.body_read()?.0)
    }

    /// The object in the body, judged for what nobody knows and what is given twice.
    fn decoded(&self) -> Result<objects::Decoded, ApiError> {
        let (value, twice) = self.body_read()?;
        objects::decode(&self.kind, value, &twice, self.query.unknown(self.options())?)
    }

    /// How the options of this request are called.
    fn options(&self) -> &'static str {
        match self.method {
            Method::POST => "CreateOptions",
            Method::PUT => "UpdateOptions",
            Method::PATCH => "PatchOptions",
            _ => "DeleteOptions",
        }
    }

    pub(super) fn dry_run(&self) -> Result<bool, ApiError> {
        self.query.dry_run(self.options())
    }

    pub(super) fn named(&self) -> Result<String, ApiError> {
        self.name.clone().ok_or_else(ApiError::method_not_allowed)
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
        let dry_run = call.dry_run()?;
        let mut decoded = call.decoded()?;
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
                set(
                    &mut value,
                    &["metadata", "name"],
                    json!(names::generated(&base, uuid::Uuid::new_v4().as_u128())),
                );
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
        let dry_run = call.dry_run()?;
        let name = call.named()?;
        let mut decoded = call.decoded()?;
        call.settle_place(&mut decoded.value)?;
        let value = decoded.value;
        let creates = call.kind.create_on_update && call.part == Part::Main;
        if creates && self.store.get(&call.key(&name)).is_none() {
            let object = self.create_object(&call, value, dry_run).await?;
            return self.object_answer(&call, StatusCode::CREATED, &object);
        }
        if self.store.get(&call.key(&name)).is_none() {
            return Err(ApiError::not_found(call.kind.about(&name)));
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
        let dry_run = call.dry_run()?;
        let name = call.named()?;
        let unknown = call.query.unknown(call.options())?;
        let patch = Patch::parse(&call.kind, &call.media_type, &call.body)?;
        let warnings = parking_lot::Mutex::new(Vec::new());
        let object = self
            .modify(&call, &name, dry_run, |old| {
                let patched = patch.apply(old.clone())?;
                let mut decoded = objects::decode(&call.kind, patched.clone(), &[], unknown)
                    .map_err(|error| ApiError::wrong_patch(&patched, &error))?;
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
            let old = kind.presented(current.value()?);
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
                    {
                        let (kinds, now) = (self.all_kinds(), self.now());
                        self.if_still(&current, dry_run, move |t| {
                            let last = remove(t, key, value)?;
                            sweep(t, &kinds, now)?;
                            Ok(last)
                        })
                    }
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
    set(
        &mut error.details,
        &["causes"],
        json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {} is being terminated", key.namespace),
            "field": "metadata.namespace",
        }]),
    );
    Err(error)
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
