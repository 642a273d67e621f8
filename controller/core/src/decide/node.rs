//! A node's phase: who is here, who is away, and what cannot be observed on it.

use super::{Condition, Decision};
use crate::{
    drive::FaultKind,
    identity::Verdict,
    node::{MemberState, NodePhase, NodeRecord},
};

/// How long an agent may be away before its node is `Offline`, in milliseconds. A restarted agent is back within
/// seconds; members are judged by the same patience.
pub const GRACE_MS: u64 = 15_000;

/// What a StorageNode's status says of its node. `record` is none where no agent has ever come.
#[must_use]
pub fn decide(record: Option<&NodeRecord>, now_ms: u64) -> Decision<NodePhase> {
    let Some(record) = record.filter(|record| record.session.connected_at_ms > 0 || record.session.connected)
    else {
        let waiting = "no agent of this node has connected yet";
        return Decision {
            phase: NodePhase::Pending,
            conditions: vec![
                Condition::unknown("Ready", "NoAgent", waiting),
                Condition::no("Connected", "NoAgent", waiting),
            ],
        };
    };
    if !record.session.connected {
        return away(record, now_ms);
    }
    let connected = Condition::yes(
        "Connected",
        "StreamOpen",
        format!("agent {} is connected", record.agent_version),
    );
    if !record.session.synced {
        let ready = Condition::unknown(
            "Ready",
            "Discovering",
            "the agent's first picture has not arrived",
        );
        return Decision {
            phase: NodePhase::Discovering,
            conditions: vec![ready, connected],
        };
    }
    let problems = problems(record);
    let (phase, ready) = match problems.split_first() {
        None => (
            NodePhase::Ready,
            Condition::yes("Ready", "Observed", "every probe answers"),
        ),
        Some(((reason, _), _)) => {
            let words: Vec<&str> = problems.iter().map(|(_, words)| words.as_str()).collect();
            (
                NodePhase::Degraded,
                Condition::no("Ready", *reason, words.join("; ")),
            )
        }
    };
    Decision {
        phase,
        conditions: vec![ready, connected],
    }
}

/// Whether what happened then is not long ago. Far ahead is as long ago: the clock was set back since.
pub(super) const fn in_grace(then_ms: u64, now_ms: u64) -> bool {
    now_ms.abs_diff(then_ms) < GRACE_MS
}

fn away(record: &NodeRecord, now_ms: u64) -> Decision<NodePhase> {
    let session = &record.session;
    let patient = session.lost_at_ms > 0 && in_grace(session.lost_at_ms, now_ms);
    let words = "the agent's stream is closed; what is known of the node is old";
    let connected = Condition::no("Connected", "StreamLost", words);
    if patient {
        let ready = Condition::unknown("Ready", "AgentAway", words);
        return Decision {
            phase: NodePhase::Degraded,
            conditions: vec![ready, connected],
        };
    }
    Decision {
        phase: NodePhase::Offline,
        conditions: vec![Condition::no("Ready", "AgentAway", words), connected],
    }
}

/// What is wrong on a node, gravest first.
fn problems(record: &NodeRecord) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    for member in &record.members {
        if matches!(member.state, MemberState::Failed | MemberState::Missing) {
            let (id, state, reason) = (&member.member_id, member.state, &member.reason);
            problems.push((
                "MemberFailed",
                format!("member {id} is {state} ({reason}): {}", member.message),
            ));
        }
    }
    for drive in &record.drives {
        if let Verdict::Conflict { reason, .. } = &drive.identity {
            problems.push(("IdentityConflict", format!("{}: {reason}", drive.facts.name)));
        }
    }
    let failed = |fault: &&crate::drive::Fault| fault.kind == FaultKind::Failed;
    for fault in record.faults.iter().filter(failed) {
        problems.push(("ProbeFailed", format!("{}: {}", fault.probe, fault.detail)));
    }
    for drive in &record.drives {
        for fault in drive.facts.faults.iter().filter(failed) {
            problems.push((
                "ProbeFailed",
                format!("{} on {}: {}", fault.probe, drive.facts.name, fault.detail),
            ));
        }
    }
    problems
}
