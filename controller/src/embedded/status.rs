//! Refusals in the words of the Kubernetes API: `metav1.Status` with code, reason, message and causes.
//!
//! Clients (kubectl, kube-rs, controllers) branch on `reason` and `code`, so these follow the real server.
//! Nothing here decides anything.

use super::json::set;
use serde_json::{Value, json};

/// One wrong field, as `k8s.io/apimachinery/pkg/util/validation/field.Error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, `spec.capacity`.
    pub field: String,
    /// Machine-readable cause: `FieldValueInvalid`, `FieldValueRequired`, ...
    pub reason: &'static str,
    /// Human-readable part that follows the path, `Invalid value: 5: must be even`.
    pub message: String,
}

impl FieldError {
    fn new(field: &str, reason: &'static str, message: String) -> Self {
        let field = if field.is_empty() { "<nil>" } else { field };
        Self {
            field: field.to_owned(),
            reason,
            message,
        }
    }

    /// The value breaks a rule; `detail` says which.
    pub fn invalid(field: &str, value: &Value, detail: &str) -> Self {
        Self::new(
            field,
            "FieldValueInvalid",
            format!("Invalid value: {}: {detail}", shown(value)),
        )
    }

    /// The value has the wrong type.
    pub fn type_invalid(field: &str, value: &Value, wanted: &str) -> Self {
        let (what, text) = type_and_text(value);
        let detail = format!("{field} in body must be of type {wanted}: {text}");
        Self::new(
            field,
            "FieldValueTypeInvalid",
            format!("Invalid value: \"{what}\": {detail}"),
        )
    }

    /// The field is missing.
    pub fn required(field: &str, detail: &str) -> Self {
        let tail = if detail.is_empty() {
            String::new()
        } else {
            format!(": {detail}")
        };
        Self::new(field, "FieldValueRequired", format!("Required value{tail}"))
    }

    /// The value is none of an enumeration.
    pub fn not_supported(field: &str, value: &Value, supported: &[Value]) -> Self {
        let list = supported.iter().map(shown).collect::<Vec<_>>().join(", ");
        let message = format!("Unsupported value: {}: supported values: {list}", shown(value));
        Self::new(field, "FieldValueNotSupported", message)
    }

    /// A string is longer than `max` characters.
    pub fn too_long(field: &str, max: u64) -> Self {
        Self::new(
            field,
            "FieldValueTooLong",
            format!("Too long: may not be more than {max} bytes"),
        )
    }

    /// A list or map has more than `max` entries.
    pub fn too_many(field: &str, have: usize, max: u64) -> Self {
        Self::new(
            field,
            "FieldValueTooMany",
            format!("Too many: {have}: must have at most {max} items"),
        )
    }

    /// An entry of a set or keyed list appears twice.
    pub fn duplicate(field: &str, value: &Value) -> Self {
        Self::new(
            field,
            "FieldValueDuplicate",
            format!("Duplicate value: {}", shown(value)),
        )
    }

    /// The field may not be set, or not be changed.
    pub fn forbidden(field: &str, detail: &str) -> Self {
        Self::new(field, "FieldValueForbidden", format!("Forbidden: {detail}"))
    }

    /// Whether the shape is so wrong that CEL rules cannot be asked.
    pub fn blocks_rules(&self) -> bool {
        matches!(
            self.reason,
            "FieldValueRequired" | "FieldValueTooLong" | "FieldValueTooMany" | "FieldValueTypeInvalid"
        )
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "\"object\"".to_owned(),
        Value::Array(_) => "\"array\"".to_owned(),
        other => other.to_string(),
    }
}

fn type_and_text(value: &Value) -> (&'static str, String) {
    match value {
        Value::Null => ("null", "\"null\"".to_owned()),
        Value::Bool(_) => ("boolean", "\"boolean\"".to_owned()),
        Value::Number(n) if n.is_f64() => ("number", "\"number\"".to_owned()),
        Value::Number(_) => ("integer", "\"integer\"".to_owned()),
        Value::String(_) => ("string", "\"string\"".to_owned()),
        Value::Array(_) => ("array", "\"array\"".to_owned()),
        Value::Object(_) => ("object", "\"object\"".to_owned()),
    }
}

/// A refusal, rendered as `metav1.Status`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// `metav1.StatusReason`.
    pub reason: &'static str,
    /// One sentence for a person.
    pub message: String,
    /// `metav1.StatusDetails`, or null.
    pub details: Value,
    /// A token to go on with after an expired list, put into `metadata.continue`.
    pub resume: Option<String>,
}

/// What a refusal is about: the resource as the URL spells it, its group and the object's name.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Plural, `unifiedpools`.
    pub plural: &'a str,
    /// Group, empty for core.
    pub group: &'a str,
    /// Kind, `UnifiedPool`.
    pub kind: &'a str,
    /// Name of the object, may be empty.
    pub name: &'a str,
}

impl About<'_> {
    fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    fn details(&self) -> Value {
        let mut details = json!({"name": self.name, "kind": self.plural});
        if !self.group.is_empty() {
            set(&mut details, &["group"], json!(self.group));
        }
        details
    }
}

impl ApiError {
    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
            resume: None,
        }
    }

    fn about(code: u16, reason: &'static str, about: About<'_>, tail: &str) -> Self {
        Self {
            code,
            reason,
            message: format!("{} \"{}\" {tail}", about.resource(), about.name),
            details: about.details(),
            resume: None,
        }
    }

    /// 404: no such object.
    pub fn not_found(about: About<'_>) -> Self {
        Self::about(404, "NotFound", about, "not found")
    }

    /// 404: no such path.
    pub fn no_such_path() -> Self {
        Self::plain(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 409: the name is taken.
    pub fn already_exists(about: About<'_>) -> Self {
        Self::about(409, "AlreadyExists", about, "already exists")
    }

    /// 409: somebody else changed the object, or a precondition does not hold.
    pub fn conflict(about: About<'_>, detail: &str) -> Self {
        Self {
            code: 409,
            reason: "Conflict",
            message: format!(
                "Operation cannot be fulfilled on {} \"{}\": {detail}",
                about.resource(),
                about.name
            ),
            details: about.details(),
            resume: None,
        }
    }

    /// 409: the object was changed since the caller read it.
    pub fn stale(about: About<'_>) -> Self {
        Self::conflict(
            about,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 403: understood and refused.
    pub fn forbidden(about: About<'_>, detail: &str) -> Self {
        Self::about(403, "Forbidden", about, &format!("is forbidden: {detail}"))
    }

    /// 422: the object breaks its schema or rules.
    pub fn invalid(about: About<'_>, errors: &[FieldError]) -> Self {
        let list = match errors {
            [one] => one.to_string(),
            many => format!(
                "[{}]",
                many.iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        let kind = if about.group.is_empty() {
            about.kind.to_owned()
        } else {
            format!("{}.{}", about.kind, about.group)
        };
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({"reason": e.reason, "message": e.message, "field": e.field}))
            .collect();
        let mut details = about.details();
        set(&mut details, &["kind"], json!(about.kind));
        set(&mut details, &["causes"], Value::Array(causes));
        Self {
            code: 422,
            reason: "Invalid",
            message: format!("{kind} \"{}\" is invalid: {list}", about.name),
            details,
            resume: None,
        }
    }

    /// 422 without a field, as the real server answers a JSON patch whose `test` fails.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::plain(422, "Invalid", message)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    /// 422: an option of the request that nobody knows.
    pub fn wrong_option(kind: &'static str, option: &str, given: &Value, supported: &[Value]) -> Self {
        let about = About {
            plural: kind,
            group: "meta.k8s.io",
            kind,
            name: "",
        };
        Self::invalid(about, &[FieldError::not_supported(option, given, supported)])
    }

    /// 422: a patch whose outcome cannot be read as the kind.
    pub fn wrong_patch(patched: &Value, error: &Self) -> Self {
        let about = About {
            plural: "",
            group: "",
            kind: "",
            name: "",
        };
        let shown = Value::String(patched.to_string());
        Self::invalid(about, &[FieldError::invalid("patch", &shown, &error.message)])
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::plain(401, "Unauthorized", "Unauthorized")
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::plain(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 406.
    pub fn not_acceptable(offered: &str) -> Self {
        Self::plain(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {offered}"),
        )
    }

    /// 415.
    pub fn unsupported_media(message: impl Into<String>) -> Self {
        Self::plain(415, "UnsupportedMediaType", message)
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self::plain(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit} bytes"),
        )
    }

    /// 408: the body did not come.
    pub fn late(time: std::time::Duration) -> Self {
        Self::plain(
            408,
            "Timeout",
            format!("the body took more than {} seconds", time.as_secs()),
        )
    }

    /// 429: too much at once.
    pub fn too_many() -> Self {
        let mut error = Self::plain(
            429,
            "TooManyRequests",
            "too many requests are under way; please try again later",
        );
        error.details = json!({"retryAfterSeconds": 1});
        error
    }

    /// 410: the history that was asked for is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, "Expired", message)
    }

    /// 504: a resourceVersion from the future.
    pub fn too_large_revision(asked: u64, current: u64) -> Self {
        let mut error = Self::plain(
            504,
            "Timeout",
            format!("Timeout: Too large resource version: {asked}, current: {current}"),
        );
        error.details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        error
    }

    /// 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::plain(
            500,
            "InternalError",
            format!("Internal error occurred: {}", message.into()),
        )
    }

    /// 507: nothing was written, and nothing was lost.
    pub fn no_space() -> Self {
        let mut error = Self::plain(
            507,
            "InsufficientStorage",
            "the disk that holds the store is full: nothing was written, reading goes on. Make room where the \
             controller's data directory lies and try again; a restart is not needed",
        );
        error.details = json!({"retryAfterSeconds": 5});
        error
    }

    /// 503: shutting down.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::plain(503, "ServiceUnavailable", message)
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if !self.details.is_null() {
            set(&mut status, &["details"], self.details.clone());
        }
        if let Some(token) = &self.resume {
            set(&mut status, &["metadata", "continue"], json!(token));
        }
        status
    }
}
