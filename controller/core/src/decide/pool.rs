//! A pool's phase and sums, from its members and its plan.

use super::{Condition, Decision, member::MemberPhase};
use crate::{
    bytes::quantise_percent,
    drive::{DriveId, NodeName, words},
};

words! {
    /// Where a pool stands.
    PoolPhase {
        /// No drive is claimed; the condition says what is missing.
        Pending = "Pending",
        /// Its first members are being made ready.
        Creating = "Creating",
        /// Every member serves.
        Ready = "Ready",
        /// It serves, and further members are being made ready.
        Expanding = "Expanding",
        /// It serves with fewer members than it has.
        Degraded = "Degraded",
        /// No member serves although some were ready before, or its spec cannot be carried out.
        Error = "Error",
        /// It is being deleted.
        Deleting = "Deleting",
    }
}

/// One member as its pool sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolMemberView {
    /// The drive.
    pub drive: DriveId,
    /// Its node.
    pub node: NodeName,
    /// Where it stands.
    pub phase: MemberPhase,
    /// Reason of its `Ready` condition.
    pub reason: String,
    /// Message of its `Ready` condition.
    pub message: String,
    /// Bytes that may be promised on it: its slots times the slot size.
    pub capacity_bytes: u64,
    /// Used bytes.
    pub used_bytes: u64,
}

/// What is known of a pool.
#[derive(Debug, Clone, Copy)]
pub struct PoolObservation<'a> {
    /// Its members.
    pub members: &'a [PoolMemberView],
    /// What the plan misses, in words.
    pub shortage: Option<&'a str>,
    /// What lies on its backend and belongs to no volume, in words.
    pub orphans: Option<&'a str>,
    /// Volumes on it.
    pub volumes: u64,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Why its spec cannot be carried out, as reason and message.
    pub error: Option<(&'a str, &'a str)>,
}

/// The sums in a pool's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolSums {
    /// Its drives.
    pub drives: u32,
    /// Nodes that they are on.
    pub nodes: u32,
    /// Members that serve.
    pub online: u32,
    /// Bytes that may be promised: of the members that serve.
    pub total_bytes: u64,
    /// Bytes of members that hold data and do not serve now.
    pub offline_bytes: u64,
    /// Used bytes on the members that serve, quantised to 1 % of the total.
    pub used_bytes: u64,
}

/// Sums over a pool's members. What is promised of them is the ledger's word, not theirs.
#[must_use]
pub fn sums(members: &[PoolMemberView]) -> PoolSums {
    let held = || {
        members
            .iter()
            .filter(|member| member.phase != MemberPhase::Released)
    };
    let nodes: std::collections::BTreeSet<&NodeName> = held().map(|member| &member.node).collect();
    // What lies on a member that does not serve cannot be given to anybody now.
    let serving = || held().filter(|member| member.phase == MemberPhase::Online);
    let total = serving().fold(0_u64, |sum, member| sum.saturating_add(member.capacity_bytes));
    let all = held().fold(0_u64, |sum, member| sum.saturating_add(member.capacity_bytes));
    let used = serving()
        .fold(0_u64, |sum, member| sum.saturating_add(member.used_bytes))
        .min(total);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    PoolSums {
        drives: count(held().count()),
        nodes: count(nodes.len()),
        online: count(serving().count()),
        total_bytes: total,
        offline_bytes: all.saturating_sub(total),
        used_bytes: quantise_percent(used, total),
    }
}

/// What a UnifiedPool's status says.
#[must_use]
pub fn decide(seen: &PoolObservation<'_>) -> Decision<PoolPhase> {
    let sums = sums(seen.members);
    let (phase, ready) = phase(seen, &sums);
    let mut conditions = vec![ready];
    conditions.push(match seen.shortage {
        Some(words) => Condition::no("DrivesClaimed", "DrivesMissing", words),
        None => Condition::yes(
            "DrivesClaimed",
            "Complete",
            format!("{} drives are claimed", sums.drives),
        ),
    });
    if let Some(words) = seen.orphans {
        conditions.push(Condition::yes("Orphans", "OrphansFound", words));
    }
    if seen.deleting && seen.volumes > 0 {
        let words = format!("{} volumes remain on it; delete them first", seen.volumes);
        conditions.push(Condition::yes("VolumesRemain", "VolumesRemain", words));
    }
    Decision { phase, conditions }
}

fn phase(seen: &PoolObservation<'_>, sums: &PoolSums) -> (PoolPhase, Condition) {
    let no = |phase, reason: &str, message: String| (phase, Condition::no("Ready", reason, message));
    if seen.deleting {
        return no(
            PoolPhase::Deleting,
            "Deleting",
            format!("{} members are still held", sums.drives),
        );
    }
    if let Some((reason, message)) = seen.error {
        return no(PoolPhase::Error, reason, message.to_owned());
    }
    let bad: Vec<&PoolMemberView> = seen
        .members
        .iter()
        .filter(|member| matches!(member.phase, MemberPhase::Failed | MemberPhase::Missing))
        .collect();
    if !bad.is_empty() {
        let phase = if sums.online == 0 {
            PoolPhase::Error
        } else {
            PoolPhase::Degraded
        };
        let reason = if bad.iter().any(|member| member.phase == MemberPhase::Failed) {
            "MemberFailed"
        } else {
            "MemberMissing"
        };
        return no(
            phase,
            reason,
            bad.iter()
                .map(|member| member_words(member))
                .collect::<Vec<_>>()
                .join("; "),
        );
    }
    if sums.drives == 0 {
        let words = seen.shortage.unwrap_or("no drive is claimed yet");
        return no(PoolPhase::Pending, "NoDrives", words.to_owned());
    }
    let rising: Vec<String> = seen
        .members
        .iter()
        .filter(|member| is_rising(member.phase))
        .map(member_words)
        .collect();
    if rising.is_empty() {
        let words = format!("{} drives on {} nodes serve", sums.online, sums.nodes);
        return (PoolPhase::Ready, Condition::yes("Ready", "MembersOnline", words));
    }
    if sums.online == 0 {
        return no(PoolPhase::Creating, "MembersPreparing", rising.join("; "));
    }
    (
        PoolPhase::Expanding,
        Condition::yes("Ready", "Expanding", rising.join("; ")),
    )
}

const fn is_rising(phase: MemberPhase) -> bool {
    matches!(
        phase,
        MemberPhase::Pending | MemberPhase::Preparing | MemberPhase::Releasing
    )
}

/// A member that does not serve, as conditions name it.
#[must_use]
pub fn member_words(member: &PoolMemberView) -> String {
    format!(
        "{} on {} is {} ({}): {}",
        member.drive, member.node, member.phase, member.reason, member.message
    )
}
