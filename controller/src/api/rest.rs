//! REST under `/v1`: routes, and what each takes and answers. Every rule is the service's.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, Uri, header};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::{
    auth::Bearer, body, negotiate, observe, observe::Metrics, openapi, params::Params, problem::Problem,
};
use crate::service::{
    CreateDraft, Deletion, ErrorKind, Service, ServiceError, StorageFilter,
    request::{ExpandStorage, parse_wait},
};

/// Requests under way at once; one more is told to come back.
const MAX_UNDER_WAY: usize = 512;

type Answer = Result<Response, Problem>;
type Shared = State<Arc<Service>>;

/// The REST API. Everything but `/health` and `/openapi.json` needs the token.
pub fn rest_router(service: Arc<Service>, bearer: Bearer, metrics: Metrics) -> Router {
    let document = Bytes::from(openapi::text());
    let open = Router::new()
        .route("/health", get(health))
        .route("/openapi.json", get(move || openapi_json(document.clone())))
        .layer(middleware::from_fn(negotiate::json_only));
    let limit = Arc::new(Semaphore::new(MAX_UNDER_WAY));
    let guarded = Router::new()
        .route("/v1/storage", get(list_storage).post(create_storage))
        .route(
            "/v1/storage/{id}",
            get(get_storage).patch(expand_storage).delete(delete_storage),
        )
        .route("/v1/storage/{id}/credentials", post(rotate_credentials))
        .route("/v1/nodes", get(list_nodes))
        .route("/v1/nodes/{name}", get(get_node))
        .route("/v1/nodes/{name}/classify", post(classify_node))
        .route("/v1/pools", get(list_pools))
        .route("/v1/pools/{name}", get(get_pool))
        .route("/v1/capacity", get(capacity))
        .route("/v1/classes", get(list_classes))
        .layer(middleware::from_fn(negotiate::json_only))
        .layer(middleware::from_fn_with_state(limit, under_way))
        .layer(middleware::from_fn_with_state(bearer, token));
    Router::new()
        .merge(open)
        .merge(guarded)
        .layer(middleware::from_fn_with_state(metrics, observe::rest))
        .with_state(service)
}

async fn token(State(bearer): State<Bearer>, request: Request, next: Next) -> Response {
    match bearer.admit("rest", &request) {
        Ok(()) => next.run(request).await,
        Err(denied) => Problem::new(StatusCode::UNAUTHORIZED, denied.detail())
            .with(header::WWW_AUTHENTICATE, denied.challenge())
            .into_response(),
    }
}

async fn under_way(State(limit): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    match limit.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => Problem::new(StatusCode::TOO_MANY_REQUESTS, "Too many requests are under way.")
            .retry_after(std::time::Duration::from_secs(1))
            .into_response(),
    }
}

fn ok<T: Serialize>(body: T) -> Answer {
    Ok(Json(body).into_response())
}

async fn health(State(service): Shared, uri: Uri) -> Answer {
    Params::none(&uri)?;
    let health = service.health();
    if health.ready {
        return ok(health);
    }
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "Not ready.")
        .because(health.reasons)
        .retry_after(std::time::Duration::from_secs(2)))
}

async fn openapi_json(document: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

async fn create_storage(State(service): Shared, request: Request) -> Answer {
    let mut params = Params::of(request.uri())?;
    let dry_run = params.flag("dry_run");
    let wait = params.parsed("wait", |text| parse_wait("wait", text));
    params.finish()?;
    let draft = CreateDraft::from_json(body::json(request, &["application/json"]).await?);
    let wanted = draft.parse()?;
    if dry_run {
        return ok(service.dry_run_storage(&wanted).await?);
    }
    let created = service.create_storage(&wanted, wait).await?;
    let location = HeaderValue::from_str(&format!("/v1/storage/{}", created.storage.id))
        .map_err(|_| ServiceError::new(ErrorKind::Internal, "The new id cannot be told."))?;
    let status = if created.new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, [(header::LOCATION, location)], Json(created.storage)).into_response())
}

async fn list_storage(State(service): Shared, uri: Uri) -> Answer {
    let mut params = Params::of(&uri)?;
    let page = params.page();
    let (namespace, type_, phase) = (params.one("namespace"), params.one("type"), params.one("phase"));
    let labels = params.all("label");
    let filter = StorageFilter::parse(namespace, type_.as_deref(), phase.as_deref(), &labels);
    let filter = params.keep(filter).unwrap_or_default();
    params.finish()?;
    ok(service.list_storage(&filter, &page).await?)
}

async fn get_storage(State(service): Shared, Path(id): Path<String>, uri: Uri) -> Answer {
    Params::none(&uri)?;
    ok(service.get_storage(&id).await?)
}

async fn expand_storage(State(service): Shared, Path(id): Path<String>, request: Request) -> Answer {
    Params::none(request.uri())?;
    let body = body::json(request, &["application/json", "application/merge-patch+json"]).await?;
    ok(service
        .expand_storage(&id, ExpandStorage::from_json(body)?)
        .await?)
}

async fn delete_storage(State(service): Shared, Path(id): Path<String>, uri: Uri) -> Answer {
    Params::none(&uri)?;
    match service.delete_storage(&id).await? {
        Deletion::Going(storage) => Ok((StatusCode::ACCEPTED, Json(storage)).into_response()),
        Deletion::Gone(detail) => Err(ServiceError::new(ErrorKind::NotFound, detail).into()),
    }
}

async fn rotate_credentials(State(service): Shared, Path(id): Path<String>, uri: Uri) -> Answer {
    Params::none(&uri)?;
    ok(service.rotate_credentials(&id).await?)
}

async fn list_nodes(State(service): Shared, uri: Uri) -> Answer {
    let mut params = Params::of(&uri)?;
    let page = params.page();
    params.finish()?;
    ok(service.list_nodes(&page).await?)
}

async fn get_node(State(service): Shared, Path(name): Path<String>, uri: Uri) -> Answer {
    Params::none(&uri)?;
    ok(service.get_node(&name).await?)
}

async fn classify_node(State(service): Shared, Path(name): Path<String>, uri: Uri) -> Answer {
    Params::none(&uri)?;
    ok(service.classify_node(&name).await?)
}

async fn list_pools(State(service): Shared, uri: Uri) -> Answer {
    let mut params = Params::of(&uri)?;
    let page = params.page();
    params.finish()?;
    ok(service.list_pools(&page).await?)
}

async fn get_pool(State(service): Shared, Path(name): Path<String>, uri: Uri) -> Answer {
    Params::none(&uri)?;
    ok(service.get_pool(&name).await?)
}

async fn capacity(State(service): Shared, uri: Uri) -> Answer {
    Params::none(&uri)?;
    ok(service.capacity().await?)
}

async fn list_classes(State(service): Shared, uri: Uri) -> Answer {
    let mut params = Params::of(&uri)?;
    let page = params.page();
    params.finish()?;
    ok(service.list_classes(&page).await?)
}

#[cfg(test)]
mod tests;
