//! A pool member's phase: from what its agent reports, or from its agent's silence.

use super::{Condition, Decision, node::in_grace};
use crate::{
    drive::words,
    node::{MemberReport, MemberState, SessionInfo},
};

words! {
    /// Where a pool member stands.
    MemberPhase {
        /// Claimed; its agent has not begun.
        Pending = "Pending",
        /// Marked, and being made ready.
        Preparing = "Preparing",
        /// Serves.
        Online = "Online",
        /// Something is wrong with it.
        Failed = "Failed",
        /// Its drive or its node is not there.
        Missing = "Missing",
        /// Being stopped, unmounted and marked released.
        Releasing = "Releasing",
        /// Given back; the data is still on the drive.
        Released = "Released",
    }
}

/// What is known of a member.
#[derive(Debug, Clone, Copy)]
pub struct MemberObservation<'a> {
    /// The phase as it is on record.
    pub before: MemberPhase,
    /// The report of the agent that has it, where there is one.
    pub report: Option<&'a MemberReport>,
    /// The stream of the node that it is on; none where the node is not on record.
    pub session: Option<&'a SessionInfo>,
    /// Whether it is to be released (its object is being deleted).
    pub releasing: bool,
    /// The last refusal of a command for it, as reason and message.
    pub refusal: Option<(&'a str, &'a str)>,
    /// Now, milliseconds since 1970.
    pub now_ms: u64,
}

/// What a PoolMember's status says.
#[must_use]
pub fn decide(seen: &MemberObservation<'_>) -> Decision<MemberPhase> {
    let (phase, reason, message) = phase(seen);
    let ready = if phase == MemberPhase::Online {
        Condition::yes("Ready", reason, message)
    } else {
        Condition::no("Ready", reason, message)
    };
    Decision {
        phase,
        conditions: vec![ready],
    }
}

fn phase(seen: &MemberObservation<'_>) -> (MemberPhase, String, String) {
    let say = |phase, reason: &str, message: &str| (phase, reason.to_owned(), message.to_owned());
    let released = seen
        .report
        .is_some_and(|report| report.state == MemberState::Released);
    if seen.before == MemberPhase::Released || (seen.releasing && released) {
        return say(
            MemberPhase::Released,
            "Released",
            "stopped, unmounted and marked released; the data is there",
        );
    }
    if seen.releasing {
        let (reason, message) = seen.refusal.unwrap_or((
            "Releasing",
            "the agent stops it, unmounts it and marks the drive released",
        ));
        return say(MemberPhase::Releasing, reason, message);
    }
    if let Some((phase, reason, message)) = silence(seen) {
        return say(phase, reason, message);
    }
    match seen.report {
        Some(report) => from_report(seen, report),
        None => match seen.refusal {
            Some((reason, message)) => say(refused(seen.before), reason, message),
            // A synced agent that knows nothing of a member that once served has lost its drive.
            None if served(seen.before) => say(
                MemberPhase::Missing,
                "DriveMissing",
                "no drive with the member's mark is on its node",
            ),
            None => say(
                MemberPhase::Pending,
                "WaitingForAgent",
                "the agent was told to prepare it",
            ),
        },
    }
}

/// A drive that was refused before anything was written stays pending; one that served has failed.
fn refused(before: MemberPhase) -> MemberPhase {
    if served(before) {
        MemberPhase::Failed
    } else {
        MemberPhase::Pending
    }
}

const fn served(before: MemberPhase) -> bool {
    matches!(
        before,
        MemberPhase::Online | MemberPhase::Failed | MemberPhase::Missing
    )
}

/// What an agent's absence means. A short one means nothing: the storage process outlives its agent.
fn silence(seen: &MemberObservation<'_>) -> Option<(MemberPhase, &'static str, &'static str)> {
    let away = match seen.session {
        Some(session) if session.connected && session.synced => return None,
        // Lost or not yet synced: for a while the last word stands.
        Some(session) => {
            // Not the later of both: the clock may have been set back in between.
            let since = if session.lost_at_ms > 0 {
                session.lost_at_ms
            } else {
                session.connected_at_ms
            };
            !in_grace(since, seen.now_ms)
        }
        None => true,
    };
    let (phase, reason, message) = match seen.before {
        before if served(before) && away => (
            MemberPhase::Missing,
            "NodeOffline",
            "the agent of its node is away",
        ),
        MemberPhase::Online => (
            MemberPhase::Online,
            "AgentAway",
            "its agent is away for a moment; it served before",
        ),
        before => (before, "AgentAway", "the agent of its node is away"),
    };
    Some((phase, reason, message))
}

fn from_report(seen: &MemberObservation<'_>, report: &MemberReport) -> (MemberPhase, String, String) {
    let (phase, otherwise) = match report.state {
        MemberState::Online => (MemberPhase::Online, "Online"),
        MemberState::Preparing => (MemberPhase::Preparing, "Preparing"),
        MemberState::Failed => (MemberPhase::Failed, "Failed"),
        MemberState::Missing => (MemberPhase::Missing, "DriveMissing"),
        MemberState::Released => (MemberPhase::Failed, "ReleasedByAgent"),
        // Prepared and not served: on its way up after a restart, unless it was up before.
        MemberState::Stopped | MemberState::Found if seen.before == MemberPhase::Online => {
            (MemberPhase::Failed, "NotServed")
        }
        MemberState::Stopped | MemberState::Found if served(seen.before) => (seen.before, "NotServed"),
        MemberState::Stopped | MemberState::Found => (MemberPhase::Preparing, "NotServedYet"),
        MemberState::Unknown => (seen.before, "NotReported"),
    };
    let message = match (report.message.is_empty(), phase) {
        (false, _) => report.message.clone(),
        (true, MemberPhase::Online) => format!("serves at {}", report.endpoint),
        (true, _) => format!("the agent reports {}", report.state),
    };
    (phase, Condition::reason_or(&report.reason, otherwise), message)
}
