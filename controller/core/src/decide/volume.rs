//! A volume's phase: from what its backend holds and how its pool stands.

use super::{Condition, Decision, Status, pool::PoolPhase};
use crate::drive::words;

words! {
    /// Where a volume stands.
    VolumePhase {
        /// Written down; no backend was called.
        Pending = "Pending",
        /// The backend is being made to hold it.
        Provisioning = "Provisioning",
        /// Its data can be reached.
        Ready = "Ready",
        /// Ready, and growing.
        Expanding = "Expanding",
        /// It was made, and its pool or backend is not well: some of its data may not be reached now.
        Degraded = "Degraded",
        /// Its claim is gone and its data is being deleted.
        Deleting = "Deleting",
        /// Its claim is gone and its data is kept.
        Released = "Released",
        /// The backend refuses it for good.
        Failed = "Failed",
    }
}

/// Reason of what waits for a member that cannot be seen: it names the drive itself.
pub const MEMBER_AWAY: &str = "MemberAway";

/// Why a backend call did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTrouble {
    /// CamelCase, stable.
    pub reason: String,
    /// In words.
    pub message: String,
    /// Whether the same call may succeed later.
    pub transient: bool,
}

/// What is known of a volume.
#[derive(Debug, Clone, Copy)]
pub struct VolumeObservation<'a> {
    /// Whether the backend was seen to hold it as it is asked for.
    pub provisioned: bool,
    /// Bytes that the backend enforces.
    pub capacity_bytes: u64,
    /// Bytes that are asked for.
    pub wanted_bytes: u64,
    /// What the last backend call came to, where it failed.
    pub trouble: Option<&'a BackendTrouble>,
    /// How its pool stands; none where it is gone.
    pub pool: Option<&'a Decision<PoolPhase>>,
    /// Name of its pool.
    pub pool_name: &'a str,
    /// Whether its claim is gone.
    pub claim_gone: bool,
    /// Whether its data outlives its claim.
    pub retain: bool,
}

/// What a UnifiedVolume's status says.
#[must_use]
pub fn decide(seen: &VolumeObservation<'_>) -> Decision<VolumePhase> {
    let phase = phase(seen);
    Decision {
        phase,
        conditions: vec![ready(seen, phase)],
    }
}

fn phase(seen: &VolumeObservation<'_>) -> VolumePhase {
    match (seen.claim_gone, seen.retain) {
        (true, true) => return VolumePhase::Released,
        (true, false) => return VolumePhase::Deleting,
        (false, _) => {}
    }
    if !seen.provisioned {
        return match seen.trouble {
            Some(trouble) if !trouble.transient => VolumePhase::Failed,
            _ => VolumePhase::Provisioning,
        };
    }
    if seen.pool.is_none() || ailing(seen).is_some() {
        VolumePhase::Degraded
    } else if seen.wanted_bytes > seen.capacity_bytes {
        VolumePhase::Expanding
    } else {
        VolumePhase::Ready
    }
}

/// A pool that lost a member may have lost this volume's bytes: that is said, not hidden.
fn ailing<'a>(seen: &VolumeObservation<'a>) -> Option<&'a Condition> {
    seen.pool
        .and_then(|pool| pool.condition("Ready"))
        .filter(|ready| ready.status != Status::True)
}

fn ready(seen: &VolumeObservation<'_>, phase: VolumePhase) -> Condition {
    let ailing = ailing(seen);
    if let Some(trouble) = seen.trouble {
        // What a backend says of a lost drive is a consequence: the drive is the reason.
        return match ailing.filter(|_| trouble.transient && trouble.reason != MEMBER_AWAY) {
            Some(ready) => Condition::no(
                "Ready",
                &ready.reason,
                format!("pool {}: {}; {}", seen.pool_name, ready.message, trouble.message),
            ),
            None => Condition::no(
                "Ready",
                Condition::reason_or(&trouble.reason, "BackendFailed"),
                &trouble.message,
            ),
        };
    }
    match phase {
        VolumePhase::Released => {
            return Condition::no("Ready", "ClaimGone", "its claim is gone, its data is kept");
        }
        VolumePhase::Deleting => return Condition::no("Ready", "Deleting", "its data is being deleted"),
        VolumePhase::Ready | VolumePhase::Expanding | VolumePhase::Degraded => {}
        _ => return Condition::no("Ready", "Provisioning", "the backend is being made to hold it"),
    }
    if seen.pool.is_none() {
        return Condition::no(
            "Ready",
            "PoolGone",
            format!("its pool {} does not exist", seen.pool_name),
        );
    }
    match ailing {
        Some(ready) => Condition::no(
            "Ready",
            &ready.reason,
            format!("pool {}: {}", seen.pool_name, ready.message),
        ),
        None => Condition::yes("Ready", "Provisioned", "its data can be reached"),
    }
}
