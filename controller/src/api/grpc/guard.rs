//! What every gRPC port asks of whoever comes: HTTP/2, gRPC's media type, a body that is there in time; and that a
//! message which cannot be read is called the caller's fault. Streams of clients that never end (the agents') do not
//! belong behind it.

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, StatusCode, Version, header};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::listen::Timely;

/// The longest time that all messages of a call may take.
const MAX_TIME: Duration = Duration::from_secs(30);
const DETAILS: &str = "grpc-status-details-bin";

/// `router` behind all of that.
pub fn tamed(router: Router) -> Router {
    router.layer(middleware::from_fn(tame))
}

async fn tame(request: Request, next: Next) -> Response {
    if !is_grpc(request.headers()) {
        return (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "This port speaks gRPC; REST is on another one.\n",
        )
            .into_response();
    }
    if request.version() != Version::HTTP_2 {
        let upgrade = [(header::UPGRADE, "h2c"), (header::CONNECTION, "upgrade, close")];
        return (StatusCode::UPGRADE_REQUIRED, upgrade, "gRPC needs HTTP/2.\n").into_response();
    }
    let late = || {
        Status::deadline_exceeded(format!(
            "The request took more than {} seconds.",
            MAX_TIME.as_secs()
        ))
    };
    let request = request.map(|body| Body::new(Timely::new(body, MAX_TIME, late())));
    blamed(next.run(request).await)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let said = headers
        .get(header::CONTENT_TYPE)
        .map_or(&[][..], |value| value.as_bytes());
    let essence = said.split(|byte| *byte == b';').next().unwrap_or_default();
    matches!(
        essence.trim_ascii(),
        b"application/grpc" | b"application/grpc+proto"
    )
}

/// The framework calls a broken message its own fault. Errors of ours bear details, its own do not.
fn blamed(response: Response) -> Response {
    let headers = response.headers();
    if headers.contains_key(DETAILS) {
        return response;
    }
    let Some(status) = Status::from_header_map(headers) else {
        return response;
    };
    match status.code() {
        Code::Internal => {
            let detail = format!(
                "The message cannot be read: {}.",
                status.message().trim_end_matches('.')
            );
            let details = ErrorDetails::with_bad_request_violation("(message)", detail.clone());
            Status::with_error_details(Code::InvalidArgument, detail, details).into_http()
        }
        Code::OutOfRange => Status::resource_exhausted(status.message()).into_http(),
        _ => response,
    }
}

/// What is told to one too many.
#[must_use]
pub fn crowded() -> Response {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(1)));
    Status::with_error_details(
        Code::ResourceExhausted,
        "Too many requests are under way.",
        details,
    )
    .into_http()
}
