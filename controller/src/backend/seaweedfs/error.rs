//! What can go wrong with each operation, and whether trying again helps.
//!
//! The server's own words are kept, shortened; nothing else of an answer is.

use std::fmt;

use tonic::{Code, Status};

use crate::backend::{BackendError, Severity};

/// At most so many characters of the server's words are kept.
const WORDS: usize = 300;

const DISK_FULL: &str = "no space left on device";

/// Which server was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The master.
    Master,
    /// The filer.
    Filer,
    /// The S3 gateway.
    S3,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Master => "SeaweedFS master",
            Self::Filer => "SeaweedFS filer",
            Self::S3 => "SeaweedFS S3 gateway",
        })
    }
}

/// How a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answers there.
    Unreachable,
    /// Somebody answers, and not as SeaweedFS does: something in between, or an answer that broke off.
    Garbled,
    /// No answer in time: it may or may not have been done.
    Deadline,
    /// The master is not the leader now.
    NotLeader,
    /// The thing is not there.
    NotFound,
    /// The thing is there already.
    Exists,
    /// Somebody else changed it in between.
    Conflict,
    /// Our credentials are not accepted.
    Unauthorized,
    /// This SeaweedFS does not know the call.
    Unsupported,
    /// The request itself is wrong.
    Invalid,
    /// The path is closed for writing, as it is over its quota.
    ReadOnly,
    /// No slot, no such disk tag, or the copies cannot be spread.
    NoRoom,
    /// Anything else the server said no to.
    Refused,
}

impl Failure {
    /// Whether the same call may go through later.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::NotFound | Self::Exists | Self::Unauthorized | Self::Unsupported | Self::Invalid => {
                Severity::Permanent
            }
            _ => Severity::Transient,
        }
    }
}

/// One call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part} did not {what}: {words}")]
pub struct CallError {
    /// Who was asked.
    pub part: Part,
    /// What was asked, completing "did not ...".
    pub what: &'static str,
    /// How it failed.
    pub failure: Failure,
    /// The server's words, shortened.
    pub words: String,
}

impl CallError {
    /// From a gRPC status.
    #[must_use]
    pub fn from_status(part: Part, what: &'static str, status: &Status) -> Self {
        let failure = match status.code() {
            _ if is_garbled(status.message()) => Failure::Garbled,
            Code::Unavailable => Failure::Unreachable,
            Code::DeadlineExceeded | Code::Cancelled => Failure::Deadline,
            Code::NotFound => Failure::NotFound,
            Code::AlreadyExists => Failure::Exists,
            Code::FailedPrecondition | Code::Aborted => Failure::Conflict,
            Code::Unauthenticated | Code::PermissionDenied => Failure::Unauthorized,
            Code::Unimplemented => Failure::Unsupported,
            Code::InvalidArgument | Code::OutOfRange => Failure::Invalid,
            _ => from_text(status.message()),
        };
        Self {
            part,
            what,
            failure,
            words: shorten(status.message()),
        }
    }

    /// From the `error` text that many answers carry beside an OK status.
    #[must_use]
    pub fn from_words(part: Part, what: &'static str, words: &str) -> Self {
        Self {
            part,
            what,
            failure: from_text(words),
            words: shorten(words),
        }
    }

    /// The same error without `secret` in its words, should the server have repeated it.
    #[must_use]
    pub fn without(mut self, secret: &str) -> Self {
        if !secret.is_empty() {
            self.words = self.words.replace(secret, "[secret]");
        }
        self
    }
}

/// What our own side of the connection says of an answer that is none of gRPC, whatever code it gives it.
fn is_garbled(words: &str) -> bool {
    const OURS: [&str; 6] = [
        "mapped from HTTP status code",
        "protocol error",
        "failed to decode Protobuf",
        "error reading a body",
        "Unexpected EOF",
        "missing response message",
    ];
    OURS.iter().any(|ours| words.contains(ours))
}

/// The filer and the master say most things as text with the code UNKNOWN, or with no code at all.
fn from_text(words: &str) -> Failure {
    const NO_ROOM: [&str; 8] = [
        DISK_FULL,
        "no free volumes",
        "no writable volumes",
        "failed to find writable",
        "no volume server carries",
        "no more writable volumes",
        "not enough data nodes",
        "only has 0 ",
    ];
    let said = words.to_ascii_lowercase();
    if said.contains("no entry is found") || said.starts_with("not found ") {
        Failure::NotFound
    } else if said.contains("entry already exists") {
        Failure::Exists
    } else if said.contains("not leader") || said.contains("notleader") || said.contains("not the leader") {
        Failure::NotLeader
    } else if said.contains("read only: ") || said.contains("bucket over quota") {
        Failure::ReadOnly
    } else if NO_ROOM.iter().any(|text| said.contains(text)) {
        Failure::NoRoom
    } else if said.contains("invalid bucket name") {
        Failure::Invalid
    } else {
        Failure::Refused
    }
}

fn shorten(words: &str) -> String {
    let mut short: String = words
        .chars()
        .take(WORDS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if short.len() < words.len() {
        short.push('…');
    }
    if short.is_empty() {
        short.push_str("it gave no reason");
    }
    short
}

/// `filer.conf` could not be read or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// It is there and cannot be understood: it is somebody's, so it is left as it is.
    #[error("filer.conf is not what SeaweedFS writes ({0}); it is left untouched, mend or remove it")]
    Malformed(String),
    /// It kept changing under our hands.
    #[error("filer.conf was changed by others {0} times in a row while it was being changed")]
    Contended(u32),
    /// The writer that carried this change along was stopped.
    #[error("the change to filer.conf was given up half way")]
    Interrupted,
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl RuleError {
    /// Whether trying again can help.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::Malformed(_) => Severity::Permanent,
            Self::Contended(_) | Self::Interrupted => Severity::Transient,
            Self::Call(call) => call.failure.severity(),
        }
    }
}

/// A volume could not be made as wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnsureVolumeError {
    /// The specification cannot be met by any server.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field of the specification.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Something that is not ours has the name.
    #[error("{path} exists and is not this volume ({found}); it is left untouched")]
    Foreign {
        /// The directory.
        path: String,
        /// Whose it is, as far as it says.
        found: String,
    },
    /// The directory kept changing hands while it was being made.
    #[error("{path} changed while it was being made")]
    Unstable {
        /// The directory.
        path: String,
    },
    /// Data of the volume lies on other drives than the pool's.
    #[error("{collection} has slots on {found} instead of {wanted}")]
    Misplaced {
        /// The collection.
        collection: String,
        /// Tags and servers that hold it.
        found: String,
        /// The pool's tag.
        wanted: String,
    },
    /// The rule that leads it to the pool's drives could not be set.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// A volume could not be grown or its quota set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// There is no such volume.
    #[error("{path} does not exist")]
    Missing {
        /// The directory.
        path: String,
    },
    /// Zero, or more than a signed 64-bit number holds.
    #[error("{0} bytes cannot be a quota")]
    Invalid(u64),
    /// Something that is not ours has the name.
    #[error("{path} is not this cluster's ({found}); it is left untouched")]
    Foreign {
        /// The directory.
        path: String,
        /// Whose it is, as far as it says.
        found: String,
    },
    /// The read-only rule could not be lifted.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// A volume could not be removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeleteVolumeError {
    /// No name of a volume.
    #[error("{0:?} is no name of a volume")]
    Invalid(String),
    /// It does not carry our mark.
    #[error("{path} is not this cluster's ({found}); it is left untouched")]
    Foreign {
        /// The directory.
        path: String,
        /// Whose it is, as far as it says.
        found: String,
    },
    /// The master still lists its collection: a server that holds a part of it is slow or away.
    #[error("collection {0} is still there; a volume server that holds a part of it may be away")]
    Lingering(String),
    /// Its identity could not be removed.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its rule could not be removed.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// An S3 identity could not be set or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No name of a volume.
    #[error("{0:?} is no name of a volume")]
    Invalid(String),
    /// It came and went while it was being set.
    #[error("the identity {0} was changed by others while it was being set")]
    Unstable(String),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

fn told(severity: Severity, reason: &'static str, error: &impl fmt::Display) -> BackendError {
    BackendError {
        severity,
        reason,
        message: error.to_string(),
    }
}

impl From<CallError> for BackendError {
    fn from(error: CallError) -> Self {
        let (reason, help) = match error.failure {
            Failure::Unreachable | Failure::Garbled | Failure::Deadline | Failure::NotLeader => (
                "BackendUnavailable",
                "see that it runs and can be reached; it is tried again by itself",
            ),
            Failure::NoRoom if error.words.contains(DISK_FULL) => (
                "BackendFull",
                "make room on the disk under it, and start it again if it goes on saying so",
            ),
            Failure::NoRoom => (
                "BackendFull",
                "see that the pool's members serve, or give it more drives; it is tried again by itself",
            ),
            Failure::Unauthorized => (
                "BackendUnauthorized",
                "give the operator a certificate and keys that it takes (--seaweedfs-security, or securityFile of the pool)",
            ),
            Failure::Unsupported => ("BackendTooOld", "SeaweedFS 4.48 or a newer one is needed"),
            _ => (
                "BackendRefused",
                "its log may say more; it is tried again by itself",
            ),
        };
        told(error.failure.severity(), reason, &format_args!("{error}; {help}"))
    }
}

impl From<RuleError> for BackendError {
    fn from(error: RuleError) -> Self {
        match error {
            RuleError::Call(call) => call.into(),
            other => told(other.severity(), "PlacementRuleFailed", &other),
        }
    }
}

impl From<EnsureVolumeError> for BackendError {
    fn from(error: EnsureVolumeError) -> Self {
        match error {
            EnsureVolumeError::Rule(rule) => rule.into(),
            EnsureVolumeError::Call(call) => call.into(),
            EnsureVolumeError::Invalid { .. } => told(Severity::Permanent, "InvalidVolume", &error),
            EnsureVolumeError::Foreign { .. } => told(Severity::Permanent, "ForeignVolume", &error),
            EnsureVolumeError::Unstable { .. } => told(Severity::Transient, "BackendRefused", &error),
            EnsureVolumeError::Misplaced { .. } => told(Severity::Permanent, "Misplaced", &error),
        }
    }
}

impl From<QuotaError> for BackendError {
    fn from(error: QuotaError) -> Self {
        match error {
            QuotaError::Rule(rule) => rule.into(),
            QuotaError::Call(call) => call.into(),
            QuotaError::Missing { .. } => told(Severity::Permanent, "VolumeMissing", &error),
            QuotaError::Invalid(_) => told(Severity::Permanent, "InvalidVolume", &error),
            QuotaError::Foreign { .. } => told(Severity::Permanent, "ForeignVolume", &error),
        }
    }
}

impl From<DeleteVolumeError> for BackendError {
    fn from(error: DeleteVolumeError) -> Self {
        match error {
            DeleteVolumeError::Rule(rule) => rule.into(),
            DeleteVolumeError::Call(call) => call.into(),
            DeleteVolumeError::Identity(identity) => identity.into(),
            DeleteVolumeError::Invalid(_) => told(Severity::Permanent, "InvalidVolume", &error),
            DeleteVolumeError::Foreign { .. } => told(Severity::Permanent, "ForeignVolume", &error),
            DeleteVolumeError::Lingering(_) => told(Severity::Transient, "BackendUnavailable", &error),
        }
    }
}

impl From<IdentityError> for BackendError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Call(call) => call.into(),
            IdentityError::Invalid(_) => told(Severity::Permanent, "InvalidVolume", &error),
            IdentityError::Unstable(_) => told(Severity::Transient, "BackendRefused", &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_words_are_understood() {
        let check = |words: &str, failure| assert_eq!(from_text(words), failure, "{words}");
        check("filer: no entry is found in filer store", Failure::NotFound);
        check(
            "not found /buckets/x: filer: no entry is found in filer store",
            Failure::NotFound,
        );
        check("/buckets/uv-1: entry already exists", Failure::Exists);
        check("raft.Server: Not leader", Failure::NotLeader);
        check(
            "assign volume: read only: /buckets/vol1/ (e.g. bucket over quota)",
            Failure::ReadOnly,
        );
        check(
            "assign volume: no volume server carries the \"nvme\" disk layout",
            Failure::NoRoom,
        );
        check(
            "assign volume: No writable volumes and no free volumes left",
            Failure::NoRoom,
        );
        check(
            "insert entry: write /x/000021.log: no space left on device",
            Failure::NoRoom,
        );
        check("invalid bucket name v1: too short", Failure::Invalid);
        check("leveldb: closed", Failure::Refused);
    }

    #[test]
    fn a_server_that_is_away_is_worth_another_try_and_a_wrong_key_is_not() {
        let of = |status: Status| {
            CallError::from_status(Part::Filer, "look", &status)
                .failure
                .severity()
        };
        assert_eq!(of(Status::unavailable("connection refused")), Severity::Transient);
        assert_eq!(of(Status::cancelled("Timeout expired")), Severity::Transient);
        assert_eq!(of(Status::unknown("something")), Severity::Transient);
        assert_eq!(
            of(Status::unauthenticated("missing authorization metadata")),
            Severity::Permanent
        );
        assert_eq!(of(Status::unimplemented("unknown method")), Severity::Permanent);
    }

    #[test]
    fn what_something_in_between_answers_is_no_word_of_seaweedfs() {
        for (code, words) in [
            (
                Code::Unimplemented,
                "grpc-status header missing, mapped from HTTP status code 404",
            ),
            (
                Code::Unauthenticated,
                "grpc-status header missing, mapped from HTTP status code 401",
            ),
            (
                Code::Internal,
                "protocol error: received message with invalid compression flag: 60",
            ),
            (
                Code::Internal,
                "failed to decode Protobuf message: invalid wire type",
            ),
        ] {
            let error = CallError::from_status(Part::Filer, "look", &Status::new(code, words));
            assert_eq!(error.failure, Failure::Garbled, "{words}");
            let told = BackendError::from(error);
            assert_eq!(
                (told.severity, told.reason),
                (Severity::Transient, "BackendUnavailable")
            );
        }
    }

    #[test]
    fn what_is_told_names_the_part_and_what_would_help() {
        let check = |words: &str, reason, help: &str| {
            let told = BackendError::from(CallError::from_words(Part::Filer, "create an entry", words));
            assert_eq!(told.reason, reason, "{words}");
            let whole = format!("SeaweedFS filer did not create an entry: {words}; {help}");
            assert!(told.message.starts_with(&whole), "{}", told.message);
        };
        check(
            "write /x/000021.log: no space left on device",
            "BackendFull",
            "make room on the disk",
        );
        check(
            "no free volumes left",
            "BackendFull",
            "see that the pool's members serve",
        );
        check(
            "raft.Server: Not leader",
            "BackendUnavailable",
            "see that it runs",
        );
        check("leveldb: closed", "BackendRefused", "its log may say more");
    }

    #[test]
    fn words_are_short_and_without_the_secret() {
        let long = CallError::from_words(Part::Filer, "write", &"x".repeat(5_000));
        assert!(long.words.chars().count() <= WORDS + 1);
        let told = CallError::from_words(Part::Filer, "set the identity", "bad key hush!").without("hush");
        assert!(!told.to_string().contains("hush"), "{told}");
    }
}
