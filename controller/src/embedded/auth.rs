//! The admin token in front of the API: who may come in at all.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{self, Next};
use http::{HeaderValue, Response, header};

use super::service::refusal;
use super::status::ApiError;
use crate::api::auth::{Bearer, Denied};

/// Lets only requests with `Authorization: Bearer <token>` through; any other gets a `metav1.Status` 401.
/// Health needs no token.
pub fn require_token(router: Router, bearer: Bearer) -> Router {
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let bearer = bearer.clone();
        async move {
            if matches!(request.uri().path(), "/healthz" | "/readyz" | "/livez") {
                return next.run(request).await;
            }
            match bearer.admit("kubernetes", &request) {
                Ok(()) => next.run(request).await,
                Err(denied) => unauthorized(denied),
            }
        }
    }))
}

fn unauthorized(denied: Denied) -> Response<Body> {
    let mut response = refusal(&ApiError::unauthorized());
    response.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static(denied.challenge()),
    );
    response
}
