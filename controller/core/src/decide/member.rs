//! A pool member's phase: from what its agent reports, or from its agent's silence.

use super::{Condition, Decision, Status, node::in_grace};
use crate::{
    classify::{Health, HealthState},
    drive::words,
    node::{MemberReport, MemberState, SessionInfo},
    peers::Pace,
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

/// What is said of a member's drive: whether it is well, and whether it is slow. `before` are the conditions as they
/// are: a verdict stands, word for word, until there is another one, so that an idle drive and one whose figures move
/// write nothing. None: the drive is not seen.
#[must_use]
pub fn of_drive(
    health: Option<&Health>,
    pace: Option<&Pace>,
    before: impl Fn(&'static str) -> Option<Condition>,
) -> Vec<Condition> {
    let healthy = match health {
        None => before(HEALTHY),
        Some(health) => {
            let (state, words) = (health.state.as_str(), health.reason.clone());
            Some(match health.state {
                HealthState::Good => Condition::yes(HEALTHY, state, words),
                HealthState::Unknown => Condition::unknown(HEALTHY, state, words),
                HealthState::Warning | HealthState::Failing | HealthState::Failed => {
                    Condition::no(HEALTHY, state, words)
                }
            })
        }
    };
    let stands = |reason: &str| before(SLOW).filter(|before| before.reason == reason);
    let bad =
        |reason: &str, words: &str| stands(reason).unwrap_or_else(|| Condition::yes(SLOW, reason, words));
    let nothing = |why: &str| Condition::unknown(SLOW, "NotComparable", why);
    let slow = pace.map_or_else(
        || before(SLOW),
        |pace| {
            Some(match pace {
                Pace::Slow(words) => bad(LAGS, words),
                Pace::Stuck(words) => bad(HANGS, words),
                Pace::Fine => Condition::no(SLOW, "KeepsUp", "it keeps up with its peers"),
                // It works again: how well cannot be said.
                Pace::Alone(why) if stands(HANGS).is_some() => nothing(why),
                Pace::Alone(why) | Pace::Unknown(why) => before(SLOW).unwrap_or_else(|| nothing(why)),
            })
        },
    );
    healthy.into_iter().chain(slow).collect()
}

/// Whether a condition of a drive says that something is wrong with it.
#[must_use]
pub fn is_bad(condition: &Condition) -> bool {
    match condition.kind {
        HEALTHY => condition.status == Status::False,
        SLOW => condition.status == Status::True,
        _ => false,
    }
}

const HEALTHY: &str = "DriveHealthy";
const SLOW: &str = "Slow";
const LAGS: &str = "SlowerThanPeers";
const HANGS: &str = "NotAnswering";

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

#[cfg(test)]
mod tests {
    use super::*;

    fn health(state: HealthState) -> Health {
        Health {
            state,
            reason: "words".to_owned(),
        }
    }

    fn slow(pace: Option<&Pace>, before: Option<&Condition>) -> Option<Condition> {
        let before = |kind| before.filter(|before| before.kind == kind).cloned();
        of_drive(None, pace, before).pop()
    }

    #[test]
    fn what_a_drive_says_of_its_health_is_said_of_its_member() {
        for (state, status) in [
            (HealthState::Good, Status::True),
            (HealthState::Unknown, Status::Unknown),
            (HealthState::Warning, Status::False),
            (HealthState::Failing, Status::False),
            (HealthState::Failed, Status::False),
        ] {
            let said = of_drive(Some(&health(state)), None, |_| None).pop().unwrap();
            assert_eq!((said.status, said.reason.as_str()), (status, state.as_str()));
            assert_eq!(is_bad(&said), status == Status::False);
            let unseen = of_drive(None, None, |kind| (kind == HEALTHY).then(|| said.clone()));
            assert_eq!(unseen, [said], "a drive that is away is as it was");
        }
    }

    #[test]
    fn a_drive_stays_slow_in_the_same_words_until_it_keeps_up_again() {
        let words = |words: &str| Pace::Slow(words.to_owned());
        let idle = Pace::Unknown("idle".to_owned());
        let first = slow(Some(&words("10 ms")), None).unwrap();
        assert!(is_bad(&first) && first.message == "10 ms");
        assert_eq!(slow(Some(&words("11 ms")), Some(&first)), Some(first.clone()));
        assert_eq!(slow(Some(&idle), Some(&first)), Some(first.clone()));
        assert_eq!(slow(None, Some(&first)), Some(first.clone()));
        let stuck = slow(Some(&Pace::Stuck("9 s".to_owned())), Some(&first)).unwrap();
        assert!(is_bad(&stuck) && stuck.message == "9 s");
        let again = slow(Some(&Pace::Fine), Some(&first)).unwrap();
        assert_eq!((again.status, is_bad(&again)), (Status::False, false));
        let never = slow(Some(&idle), None).unwrap();
        assert_eq!((never.status, is_bad(&never)), (Status::Unknown, false));
    }

    #[test]
    fn a_drive_that_hung_and_works_again_hangs_no_more_even_if_it_has_no_peers() {
        let hangs = slow(Some(&Pace::Stuck("60 s".to_owned())), None).unwrap();
        let idle = Pace::Unknown("idle".to_owned());
        assert_eq!(
            slow(Some(&idle), Some(&hangs)),
            Some(hangs.clone()),
            "nothing says so"
        );
        let works = slow(Some(&Pace::Alone("2 peers".to_owned())), Some(&hangs)).unwrap();
        assert_eq!(
            (works.status, works.reason.as_str()),
            (Status::Unknown, "NotComparable")
        );
        let lags = slow(Some(&Pace::Slow("10 ms".to_owned())), None).unwrap();
        assert_eq!(
            slow(Some(&Pace::Alone("2 peers".to_owned())), Some(&lags)),
            Some(lags)
        );
    }
}
