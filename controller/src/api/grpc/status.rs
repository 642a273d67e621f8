//! Refusals as `google.rpc.Status` with details: wrong fields, preconditions, when to try again.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    crd::GROUP,
    service::{ErrorKind, ServiceError},
};

const fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Malformed | ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Refused | ErrorKind::NotReady => Code::FailedPrecondition,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Aborted => Code::Aborted,
        ErrorKind::Expired => Code::OutOfRange,
        ErrorKind::Throttled => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Internal => Code::Internal,
    }
}

/// The status that tells `error`.
pub(super) fn status(error: ServiceError) -> Status {
    let slug = error.kind.slug();
    let reason = slug.to_ascii_uppercase().replace('-', "_");
    let mut details = ErrorDetails::with_error_info(reason, GROUP, HashMap::new());
    for wrong in error.errors {
        details.add_bad_request_violation(wrong.field, wrong.message);
    }
    for reason in error.reasons {
        details.add_precondition_failure_violation(slug, "", reason);
    }
    if let Some(after) = error.retry_after {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(code(error.kind), error.detail, details)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::service::FieldError;

    #[test]
    fn the_details_say_what_the_problem_says() {
        let told = status(ServiceError::invalid(vec![FieldError::new(
            "name",
            "is required",
        )]));
        assert_eq!(told.code(), Code::InvalidArgument);
        let violations = &told.get_details_bad_request().unwrap().field_violations;
        assert_eq!(
            (violations[0].field.as_str(), violations[0].description.as_str()),
            ("name", "is required")
        );

        let away = ServiceError::unavailable("away", vec!["no stream".to_owned()], Duration::from_secs(5));
        let told = status(away);
        assert_eq!(told.code(), Code::Unavailable);
        assert_eq!(
            told.get_details_retry_info().unwrap().retry_delay,
            Some(Duration::from_secs(5))
        );
        assert_eq!(
            told.get_details_precondition_failure().unwrap().violations[0].description,
            "no stream"
        );
        assert_eq!(told.get_details_error_info().unwrap().reason, "UNAVAILABLE");
    }
}
