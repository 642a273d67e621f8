//! Reads a JSON object field by field and keeps every fault, so that one answer names all that is wrong.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::FieldError;

/// The fields of one JSON object.
pub(super) struct Fields {
    prefix: String,
    object: Map<String, Value>,
    pub(super) errors: Vec<FieldError>,
}

impl Fields {
    /// The fields of `value`; anything but an object is one fault of the whole.
    pub(super) fn of(prefix: &str, value: Value) -> Self {
        let (object, errors) = match value {
            Value::Object(object) => (object, Vec::new()),
            other => {
                let field = if prefix.is_empty() { "(body)" } else { prefix };
                (
                    Map::new(),
                    vec![FieldError::new(
                        field,
                        format!("must be an object, not {}", kind(&other)),
                    )],
                )
            }
        };
        let prefix = if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}.")
        };
        Self {
            prefix,
            object,
            errors,
        }
    }

    /// Takes one field; null means absent, a wrong type is a fault.
    pub(super) fn take<T: DeserializeOwned>(&mut self, name: &str, wanted: &str) -> Option<T> {
        let value = self.raw(name)?;
        let found = kind(&value);
        match serde_json::from_value(value) {
            Ok(value) => Some(value),
            Err(_) => {
                self.fault(name, format!("must be {wanted}, not {found}"));
                None
            }
        }
    }

    /// Takes a whole number; 1.0 is as whole as 1.
    pub(super) fn take_whole(&mut self, name: &str) -> Option<u64> {
        let value = self.raw(name)?;
        let whole = value.as_u64().or_else(|| value.as_f64().and_then(whole_number));
        if whole.is_none() {
            let found = if value.is_number() { "that" } else { kind(&value) };
            self.fault(name, format!("must be a whole number from 1 up, not {found}"));
        }
        whole
    }

    /// Notes those of `names` that are null: they have a default, and null is not it.
    pub(super) fn never_null(&mut self, names: &[&str]) {
        for name in names {
            if self.object.get(*name).is_some_and(Value::is_null) {
                self.fault(name, "must not be null: leave it out");
            }
        }
    }

    /// Takes a field as it is; null means absent.
    pub(super) fn raw(&mut self, name: &str) -> Option<Value> {
        self.object.remove(name).filter(|value| !value.is_null())
    }

    /// Notes what is wrong with a field.
    pub(super) fn fault(&mut self, name: &str, message: impl Into<String>) {
        self.errors
            .push(FieldError::new(format!("{}{name}", self.prefix), message));
    }

    /// Every field that nobody took is one that does not exist.
    pub(super) fn finish(mut self) -> Vec<FieldError> {
        for name in self.object.keys() {
            let shown: String = name.chars().take(64).collect();
            self.errors.push(FieldError::new(
                format!("{}{shown}", self.prefix),
                "there is no such field",
            ));
        }
        self.errors
    }
}

/// Whole numbers that a double holds exactly.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "both are checked just before"
)]
fn whole_number(number: f64) -> Option<u64> {
    (number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number)).then_some(number as u64)
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
