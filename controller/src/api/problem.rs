//! How a refusal looks over HTTP: RFC 9457 `application/problem+json`.
//!
//! Handlers answer a [`Problem`]; the outermost layer writes it out, because only there the request's id is known and
//! only there every answer passes, the framework's own ones too.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::service::{ErrorKind, FieldError, ServiceError};

/// Media type of problems.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A problem as it is written out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub struct ProblemDocument {
    /// Names the kind of problem; the same for every problem of the kind.
    #[serde(rename = "type")]
    pub type_: String,
    /// The kind in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, in a sentence.
    pub detail: String,
    /// Id of the request, as in the header x-request-id; the server's log has it too.
    pub request_id: String,
    /// Every wrong field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Every reason of a refusal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// A refusal on its way out.
#[derive(Clone, Debug)]
pub struct Problem(Box<Refusal>);

#[derive(Clone, Debug)]
struct Refusal {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    reasons: Vec<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of HTTP itself.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let (slug, title) = words(status);
        Self(Box::new(Refusal {
            status,
            slug,
            title,
            detail: detail.into(),
            errors: Vec::new(),
            reasons: Vec::new(),
            headers: Vec::new(),
        }))
    }

    /// What a status says by itself, for answers that the framework made.
    #[must_use]
    pub fn of_status(status: StatusCode) -> Self {
        let detail = match status {
            StatusCode::NOT_FOUND => "There is nothing under this path.",
            StatusCode::METHOD_NOT_ALLOWED => {
                "This path does not take this method; Allow says which it takes."
            }
            StatusCode::BAD_REQUEST => "The request cannot be read.",
            _ => status.canonical_reason().unwrap_or("The request failed."),
        };
        Self::new(status, detail)
    }

    /// With a header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.0.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    /// With reasons.
    #[must_use]
    pub fn because(mut self, reasons: Vec<String>) -> Self {
        self.0.reasons = reasons;
        self
    }

    /// To be tried again after that time, in whole seconds.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0
            .headers
            .push((header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1))));
        self
    }

    /// Writes the problem over `response`, whose other headers stay.
    #[must_use]
    pub(super) fn render(self, mut response: Response, request_id: &str) -> Response {
        let refusal = *self.0;
        let document = ProblemDocument {
            type_: format!("https://storage.billyronks.io/problems/{}", refusal.slug),
            title: refusal.title.to_owned(),
            status: refusal.status.as_u16(),
            detail: refusal.detail,
            request_id: request_id.to_owned(),
            errors: refusal.errors,
            reasons: refusal.reasons,
        };
        let text = serde_json::to_vec(&document).unwrap_or_default();
        *response.status_mut() = refusal.status;
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        for (name, value) in refusal.headers {
            headers.insert(name, value);
        }
        *response.body_mut() = text.into();
        response
    }
}

const fn words(status: StatusCode) -> (&'static str, &'static str) {
    match status {
        StatusCode::BAD_REQUEST => ("malformed", "The request cannot be read"),
        StatusCode::UNAUTHORIZED => ("unauthorized", "Not let in"),
        StatusCode::FORBIDDEN => ("forbidden", "Not allowed"),
        StatusCode::NOT_FOUND => ("not-found", "Not found"),
        StatusCode::METHOD_NOT_ALLOWED => ("method-not-allowed", "Not this method"),
        StatusCode::NOT_ACCEPTABLE => ("not-acceptable", "Nothing that is accepted can be answered"),
        StatusCode::REQUEST_TIMEOUT => ("request-timeout", "The request took too long to arrive"),
        StatusCode::PAYLOAD_TOO_LARGE => ("too-large", "The body is too large"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported-media-type", "Not a media type that is read"),
        StatusCode::TOO_MANY_REQUESTS => ("throttled", "Too many requests"),
        StatusCode::SERVICE_UNAVAILABLE => ("unavailable", "Not available right now"),
        _ => ("internal", "An error of the server"),
    }
}

const fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Malformed => StatusCode::BAD_REQUEST,
        ErrorKind::Invalid | ErrorKind::Refused => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::NotReady | ErrorKind::Aborted | ErrorKind::Expired => {
            StatusCode::CONFLICT
        }
        ErrorKind::Throttled => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let problem = Self(Box::new(Refusal {
            status: status_of(error.kind),
            slug: error.kind.slug(),
            title: error.kind.title(),
            detail: error.detail,
            errors: error.errors,
            reasons: error.reasons,
            headers: Vec::new(),
        }));
        match error.retry_after {
            Some(after) => problem.retry_after(after),
            None => problem,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
