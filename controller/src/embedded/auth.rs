//! The admin token in front of the API: who may come in at all.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{self, Next};
use http::{HeaderValue, Response, header};

use super::service::refusal;
use super::status::ApiError;

/// Lets only requests with `Authorization: Bearer <token>` through; any other gets a `metav1.Status` 401.
/// Health needs no token.
pub fn require_token(router: Router, token: &str) -> Router {
    let expected = Arc::new(digest(token.as_bytes()));
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let expected = Arc::clone(&expected);
        async move {
            let open = matches!(request.uri().path(), "/healthz" | "/readyz" | "/livez");
            if open || presented(&request).is_some_and(|given| digest(given.as_bytes()) == *expected) {
                return next.run(request).await;
            }
            unauthorized()
        }
    }))
}

fn presented(request: &Request) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Tokens are compared by digest, so that the time of comparing says nothing about them.
fn digest(token: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, token)
        .as_ref()
        .to_vec()
}

fn unauthorized() -> Response<Body> {
    let mut response = refusal(&ApiError::unauthorized());
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}
