//! A small Kubernetes API for our own kinds, in this process: what standalone mode has instead of a cluster.
//!
//! It takes its kinds as data (CustomResourceDefinitions, plus a few built-in ones), keeps the objects in one
//! redb file and serves them twice from one implementation: to our own controllers as a tower service behind
//! [`kube::Client`], and to kubectl as an [`axum::Router`]. The same reconcilers run against it and against a
//! real kube-apiserver, so where this one answers, it answers as that one does.
//!
//! Layers, from the outside: `auth` (who), `request` (what is asked), `service` (verbs), `objects`, `schema`,
//! `rules`, `patch`, `selectors`, `table` (pure), `watching`, `store` (durable).
//!
//! It is one process on one machine: no replicas, no admission webhooks, no conversion between versions, no
//! server-side apply, no RBAC.

pub mod auth;
mod discovery;
mod json;
mod kinds;
mod names;
mod objects;
mod openapi;
mod patch;
mod protobuf;
mod request;
mod rules;
mod schema;
mod selectors;
mod service;
mod status;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod watching;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use kinds::{Kind, KindError, Shape, built_in};
use service::{FIXED_NAMESPACES, LARGEST_BODY, Service, refusal};
use status::ApiError;
use store::{Key, Place, Store, Transaction};

use crate::listen::Room;
use json::set;
use request::Query;
pub use service::Clock;
pub use store::{Limits, StoreError};

/// Requests, and watches, under way at once over HTTP; one more is told to come back.
const CALLS: usize = 512;
const WATCHES: usize = 1024;
/// The longest time that a body may take.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Why the API cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A definition.
    #[error("custom resource definition {0}")]
    Kind(#[from] KindError),
    /// The objects that are always there cannot be made.
    #[error("cannot write the definitions and namespaces: {0}")]
    Seed(String),
}

impl From<ApiError> for OpenError {
    fn from(error: ApiError) -> Self {
        Self::Seed(error.message)
    }
}

/// The API. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Embedded {
    service: Arc<Service>,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens (or makes) the store at `path` and serves these kinds with the system's clock.
    pub async fn open(path: &Path, crds: Vec<CustomResourceDefinition>) -> Result<Self, OpenError> {
        Self::open_with(path, crds, Arc::new(Timestamp::now), Limits::default()).await
    }

    /// As [`Embedded::open`], with a clock for every time that is written or shown, and the bounds of the
    /// history.
    pub async fn open_with(
        path: &Path,
        crds: Vec<CustomResourceDefinition>,
        clock: Clock,
        limits: Limits,
    ) -> Result<Self, OpenError> {
        let mut kinds = built_in();
        for crd in &crds {
            kinds.push(Kind::from_crd(crd)?);
        }
        let place = Place::file(path);
        let store = tokio::task::spawn_blocking(move || Store::open(place, limits))
            .await
            .map_err(|e| OpenError::Seed(e.to_string()))??;
        let service = Arc::new(Service::new(store, kinds, clock));
        let now = service.now();
        let kinds: Vec<Arc<Kind>> = service.kinds().cloned().collect();
        let begin = move |transaction: &mut Transaction<'_>| {
            seed(transaction, &crds, now)?;
            kinds.iter().try_for_each(|kind| complete(transaction, kind))
        };
        service.store.write(false, begin).await?;
        // Nobody can hold a revision from before the API was there.
        service.store.forget();
        Ok(Self { service })
    }

    /// A client on this API, with `default` as its namespace. Call it within a tokio runtime.
    pub fn client(&self) -> kube::Client {
        let service = Arc::clone(&self.service);
        let call = move |request: Request<kube::client::Body>| {
            let service = Arc::clone(&service);
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                Ok::<_, kube::Error>(service.handle(parts, body).await)
            }
        };
        kube::Client::new(tower::service_fn(call), "default")
    }

    /// The same API over HTTP; put [`auth::require_token`] in front of it.
    pub fn router(&self) -> Router {
        let service = Arc::clone(&self.service);
        let (calls, watches) = (Room::new(CALLS), Room::new(WATCHES));
        Router::new().fallback_service(tower::service_fn(move |request: Request<Body>| {
            let (service, calls, watches) = (Arc::clone(&service), calls.clone(), watches.clone());
            async move {
                let watch = Query::parse(request.uri()).is_ok_and(|query| query.flag("watch"));
                let room = if watch { watches } else { calls };
                let Some(place) = room.enter() else {
                    return Ok::<_, Infallible>(too_many());
                };
                let response = over_http(&service, request).await;
                Ok(place.until_the_end_of(response))
            }
        }))
    }

    /// Forgets the history, as a real server's store is compacted: watches and pages from before are expired.
    #[cfg(test)]
    pub(crate) fn forget(&self) {
        self.service.store.forget();
    }

    /// Whether the last write reached the disk.
    pub fn is_writable(&self) -> bool {
        self.service.store.is_writable()
    }

    /// Finishes what was begun, ends all watches and closes the file. Writes are refused from then on.
    pub async fn close(&self) {
        self.service.store.close().await;
    }
}

async fn over_http(service: &Arc<Service>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, LARGEST_BODY).collect();
    match tokio::time::timeout(BODY_TIME, body).await {
        Ok(Ok(body)) => service.handle(parts, body.to_bytes()).await,
        Ok(Err(error)) if error.is::<LengthLimitError>() => refusal(&ApiError::too_large(LARGEST_BODY)),
        Ok(Err(_)) => refusal(&ApiError::bad_request("the body broke off")),
        Err(_) => refusal(&ApiError::late(BODY_TIME)),
    }
}

fn too_many() -> Response<Body> {
    let mut response = refusal(&ApiError::too_many());
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Makes what is always there: two namespaces and the definitions. Writes nothing that is right already.
fn seed(
    transaction: &mut Transaction<'_>,
    crds: &[CustomResourceDefinition],
    now: Timestamp,
) -> Result<(), OpenError> {
    for name in FIXED_NAMESPACES {
        let spec = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        });
        ensure(transaction, "namespaces", name, spec, now, false)?;
    }
    const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";
    let mut wanted = Vec::new();
    for crd in crds {
        let mut value = serde_json::to_value(crd).map_err(|e| OpenError::Seed(e.to_string()))?;
        let name = crd.metadata.name.clone().unwrap_or_default();
        let condition = |kind: &str, reason: &str| {
            json!({
                "type": kind, "status": "True", "reason": reason, "message": "",
                "lastTransitionTime": objects::seconds(now),
            })
        };
        let names = value.pointer("/spec/names").cloned();
        set(
            &mut value,
            &["status"],
            json!({
                "acceptedNames": names,
                "storedVersions": crd.spec.versions.iter().filter(|v| v.storage).map(|v| &v.name).collect::<Vec<_>>(),
                "conditions": [
                    condition("NamesAccepted", "NoConflicts"),
                    condition("Established", "InitialNamesAccepted"),
                ],
            }),
        );
        ensure(transaction, CRDS, &name, value, now, true)?;
        wanted.push(name);
    }
    for stale in transaction.list(CRDS, None) {
        if !wanted.contains(&stale.key.name) {
            transaction.remove(stale.key.clone(), stale.value()?)?;
        }
    }
    Ok(())
}

/// Gives objects of earlier definitions the defaults that came since: a real server does so at every read.
fn complete(transaction: &mut Transaction<'_>, kind: &Kind) -> Result<(), OpenError> {
    let Shape::Structural(schema) = &kind.shape else {
        return Ok(());
    };
    for object in transaction.list(&kind.resource, None) {
        let before = object.value()?;
        let mut value = before.clone();
        schema.fill(&mut value);
        if value != before {
            transaction.put(object.key.clone(), value)?;
        }
    }
    Ok(())
}

fn ensure(
    transaction: &mut Transaction<'_>,
    resource: &str,
    name: &str,
    mut value: Value,
    now: Timestamp,
    follow: bool,
) -> Result<(), OpenError> {
    let key = Key {
        resource: resource.into(),
        namespace: String::new(),
        name: name.to_owned(),
    };
    let mut uid = uuid::Uuid::new_v4().to_string();
    let mut created = objects::seconds(now);
    if let Some(found) = transaction.get(&key) {
        let found = found.value()?;
        if !follow || found.get("spec") == value.get("spec") {
            return Ok(());
        }
        uid = objects::text(&found, "/metadata/uid").to_owned();
        created = objects::text(&found, "/metadata/creationTimestamp").to_owned();
    }
    set(&mut value, &["metadata", "uid"], json!(uid));
    set(&mut value, &["metadata", "creationTimestamp"], json!(created));
    set(&mut value, &["metadata", "generation"], json!(1));
    transaction.put(key, value)?;
    Ok(())
}
