//! What every object's status says: from observations to a phase and conditions, as plain data.
//!
//! It never writes and never waits: time is a parameter in milliseconds since 1970, and equal observations give
//! equal answers, so that a reconciler writes only what changed. `lastTransitionTime` is the writer's business.

pub mod claim;
pub mod class;
pub mod member;
pub mod node;
pub mod pool;
pub mod volume;

use crate::drive::words;

words! {
    /// Whether a condition holds.
    Status {
        /// It holds.
        True = "True",
        /// It does not.
        False = "False",
        /// It cannot be said.
        Unknown = "Unknown",
    }
}

/// A `metav1.Condition` without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its type: `Ready`, `Placed`, ...
    pub kind: &'static str,
    /// Whether it holds.
    pub status: Status,
    /// CamelCase, stable.
    pub reason: String,
    /// In words.
    pub message: String,
}

impl Condition {
    /// A condition that holds.
    #[must_use]
    pub fn yes(kind: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: Status::True,
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// A condition that does not hold.
    #[must_use]
    pub fn no(kind: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: Status::False,
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// A condition of which nothing can be said.
    #[must_use]
    pub fn unknown(kind: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: Status::Unknown,
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// `reason`, or `Unknown` where it is empty: the API server refuses an empty one.
    #[must_use]
    pub(crate) fn reason_or(reason: &str, otherwise: &str) -> String {
        if reason.is_empty() {
            otherwise.to_owned()
        } else {
            reason.to_owned()
        }
    }
}

/// A phase and its conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<P> {
    /// The phase.
    pub phase: P,
    /// The conditions, `Ready` first.
    pub conditions: Vec<Condition>,
}

impl<P> Decision<P> {
    /// The condition of a type, where there is one.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}

#[cfg(test)]
mod tests;
