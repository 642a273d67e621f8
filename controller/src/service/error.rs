//! Why a use case was not carried out: one error for REST (problem+json) and gRPC (status with details).
//!
//! What the caller did wrong and what is wrong here are different kinds, so that neither side can be blamed for the
//! other's fault. Nothing of the inside (addresses, stack, secrets) is ever told.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of refusal it is; the protocols have their own numbers for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Not even readable.
    Malformed,
    /// Readable, and wrong: `errors` names every field.
    Invalid,
    /// Well asked, and refused by a rule: `reasons` says which.
    Refused,
    /// There is no such thing.
    NotFound,
    /// Another thing has that name.
    AlreadyExists,
    /// Not in the state that this needs.
    NotReady,
    /// Changed by somebody else at the same time.
    Aborted,
    /// A token that is too old.
    Expired,
    /// Too much at once.
    Throttled,
    /// Something that this needs is away.
    Unavailable,
    /// A fault of ours.
    Internal,
}

impl ErrorKind {
    /// The kind in a few words, the same for every error of the kind.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Malformed => "The request cannot be read",
            Self::Invalid => "The request is not valid",
            Self::Refused => "The request was refused",
            Self::NotFound => "Not found",
            Self::AlreadyExists => "The name is taken",
            Self::NotReady => "Not in the state that this needs",
            Self::Aborted => "Changed by somebody else at the same time",
            Self::Expired => "The token is too old",
            Self::Throttled => "Too many requests",
            Self::Unavailable => "Not available right now",
            Self::Internal => "An error of the server",
        }
    }

    /// One stable word for programs.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::NotFound => "not-found",
            Self::AlreadyExists => "already-exists",
            Self::NotReady => "not-ready",
            Self::Aborted => "aborted",
            Self::Expired => "expired",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldError {
    /// Path of the field, with dots: redundancy.ec_policy.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub message: String,
}

impl FieldError {
    /// `field` is wrong because of `message`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// Why a use case was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct ServiceError {
    /// The kind.
    pub kind: ErrorKind,
    /// What happened, in a sentence.
    pub detail: String,
    /// Every wrong field.
    pub errors: Vec<FieldError>,
    /// Every reason of a refusal.
    pub reasons: Vec<String>,
    /// When it is worth trying again.
    pub retry_after: Option<Duration>,
}

impl ServiceError {
    /// An error of `kind` that says `detail`.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            reasons: Vec::new(),
            retry_after: None,
        }
    }

    /// Wrong fields.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let fields: Vec<_> = errors.iter().map(|e| e.field.as_str()).collect();
        let detail = format!("Wrong: {}.", fields.join(", "));
        Self {
            errors,
            ..Self::new(ErrorKind::Invalid, detail)
        }
    }

    /// One wrong field.
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError::new(field, message)])
    }

    /// There is no `what` called `name`.
    #[must_use]
    pub fn not_found(what: &str, name: &str) -> Self {
        Self::new(ErrorKind::NotFound, format!("There is no {what} {name:?}."))
    }

    /// Something is away for now.
    pub fn unavailable(detail: impl Into<String>, reasons: Vec<String>, retry_after: Duration) -> Self {
        Self {
            reasons,
            retry_after: Some(retry_after),
            ..Self::new(ErrorKind::Unavailable, detail)
        }
    }

    /// With `reasons`.
    #[must_use]
    pub fn because(mut self, reasons: Vec<String>) -> Self {
        self.reasons = reasons;
        self
    }
}

impl From<kube::Error> for ServiceError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => from_status(&status),
            other => {
                tracing::warn!(error = %other, "kubernetes API not reached");
                Self::unavailable(
                    "The Kubernetes API cannot be reached right now.",
                    Vec::new(),
                    Duration::from_secs(2),
                )
            }
        }
    }
}

/// What the Kubernetes API said, in our words. A caller is blamed only for what a caller can do.
fn from_status(status: &kube::core::Status) -> ServiceError {
    let retry_after = status
        .details
        .as_ref()
        .map(|d| u64::from(d.retry_after_seconds))
        .filter(|s| *s > 0);
    match status.code {
        404 => ServiceError::new(ErrorKind::NotFound, status.message.clone()),
        409 => ServiceError::new(ErrorKind::Aborted, status.message.clone()),
        410 => ServiceError::new(ErrorKind::Expired, status.message.clone()),
        400 | 422 => ServiceError {
            errors: causes(status),
            ..ServiceError::new(ErrorKind::Invalid, status.message.clone())
        },
        429 => ServiceError {
            retry_after: Some(Duration::from_secs(retry_after.unwrap_or(1))),
            ..ServiceError::new(ErrorKind::Throttled, "The Kubernetes API asks for patience.")
        },
        code => {
            tracing::warn!(code, reason = %status.reason, message = %status.message, "kubernetes API refused");
            ServiceError::unavailable(
                "The Kubernetes API does not serve this right now.",
                vec![status.message.clone()],
                Duration::from_secs(retry_after.unwrap_or(2)),
            )
        }
    }
}

fn causes(status: &kube::core::Status) -> Vec<FieldError> {
    status
        .details
        .iter()
        .flat_map(|d| &d.causes)
        .map(|cause| FieldError::new(cause.field.clone(), cause.message.clone()))
        .collect()
}
