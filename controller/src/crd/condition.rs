//! Standard conditions, in the shape of `metav1.Condition`.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One aspect of an object's state, as the operator last saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is told about, in CamelCase: Ready, Placed, ...
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// One stable CamelCase word for programs.
    pub reason: String,
    /// What, why, and what would help, for people.
    pub message: String,
    /// When status last changed, RFC 3339 UTC.
    #[schemars(schema_with = "date_time")]
    pub last_transition_time: Timestamp,
    /// The metadata.generation that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

pub(super) fn date_time(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "format": "date-time"})
}

/// Whole seconds, as Kubernetes writes times.
#[must_use]
pub fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

impl Condition {
    /// A condition that came to be at `now`.
    #[must_use]
    pub fn new(type_: &str, status: bool, reason: &str, message: impl Into<String>, now: Timestamp) -> Self {
        Self {
            type_: type_.to_owned(),
            status: if status { "True" } else { "False" }.to_owned(),
            reason: reason.to_owned(),
            message: message.into(),
            last_transition_time: whole_seconds(now),
            observed_generation: None,
        }
    }

    /// Whether it says True.
    #[must_use]
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// Puts `condition` into `conditions`, keeping the transition time where the status did not change, so that an
/// unchanged state makes an unchanged object.
pub fn set(conditions: &mut Vec<Condition>, mut condition: Condition, generation: Option<i64>) {
    condition.observed_generation = generation;
    match conditions.iter_mut().find(|c| c.type_ == condition.type_) {
        Some(old) => {
            if old.status == condition.status {
                condition.last_transition_time = old.last_transition_time;
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
}

/// The condition of that type.
#[must_use]
pub fn get<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_changes_with_the_status_only() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut conditions = Vec::new();
        set(
            &mut conditions,
            Condition::new("Ready", false, "Waiting", "a", at(1)),
            Some(1),
        );
        set(
            &mut conditions,
            Condition::new("Ready", false, "Waiting", "b", at(2)),
            Some(2),
        );
        assert_eq!(
            (conditions[0].last_transition_time, conditions[0].message.as_str()),
            (at(1), "b")
        );
        set(
            &mut conditions,
            Condition::new("Ready", true, "Done", "c", at(3)),
            Some(2),
        );
        assert_eq!((conditions.len(), conditions[0].last_transition_time), (1, at(3)));
    }
}
