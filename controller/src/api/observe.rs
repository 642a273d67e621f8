//! The outermost layer of both protocols: gives every request its id, turns a panic into an answer, writes problems
//! out, and tells the metrics what was done. Bodies and tokens are never looked at.

use std::{collections::BTreeSet, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::time::Instant;
use uuid::Uuid;

use super::problem::Problem;

/// Header with the request's id: the caller's own where it is a sensible one.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestDone<'a> {
    /// rest or grpc.
    pub protocol: &'static str,
    /// The HTTP method; OTHER for unusual ones.
    pub method: &'static str,
    /// The route as a template, /v1/storage/{id}; unmatched where there is none. For gRPC service and method.
    pub route: &'a str,
    /// The HTTP status; for gRPC the gRPC code.
    pub status: u16,
    /// From the head of the request to the head of the answer.
    pub elapsed: Duration,
}

/// Is told of every request that was answered.
pub type Metrics = Arc<dyn Fn(&RequestDone<'_>) + Send + Sync>;

/// The layer for REST.
pub(super) async fn rest(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = method_word(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let id = request_id(request.headers());
    let response = AssertUnwindSafe(next.run(request))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| {
            tracing::error!(request_id = %id, route, "handler panicked");
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "An error of the server; its log has the request's id.",
            )
            .into_response()
        });
    let mut response = written_out(response, &id);
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    let done = RequestDone {
        protocol: "rest",
        method,
        route: &route,
        status: response.status().as_u16(),
        elapsed: began.elapsed(),
    };
    tracing::debug!(request_id = %id, method, route, status = done.status, "request answered");
    metrics(&done);
    response
}

/// The layer for gRPC: `grpc-status` of an error stands in the head of the answer.
pub(super) async fn grpc(
    State((metrics, methods)): State<(Metrics, Arc<BTreeSet<String>>)>,
    request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let method = method_word(request.method());
    // Only what exists gets a name: paths are made up by whoever calls.
    let route = methods
        .get(request.uri().path())
        .map_or("unmatched", String::as_str);
    let response = AssertUnwindSafe(next.run(request))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| {
            tracing::error!(route, "handler panicked");
            tonic::Status::internal("An error of the server.").into_http()
        });
    let code = response
        .headers()
        .get("grpc-status")
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok());
    let status = match (code, response.status()) {
        (Some(code), _) => code,
        (None, StatusCode::OK) => 0,
        (None, _) => tonic::Code::Unknown as u16,
    };
    metrics(&RequestDone {
        protocol: "grpc",
        method,
        route,
        status,
        elapsed: began.elapsed(),
    });
    response
}

fn written_out(mut response: Response, id: &str) -> Response {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return problem.render(response, id);
    }
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        return Problem::of_status(status).render(response, id);
    }
    response
}

fn request_id(headers: &HeaderMap) -> String {
    let sensible = |text: &&str| {
        (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let given = headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(sensible);
    given.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

fn method_word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}
