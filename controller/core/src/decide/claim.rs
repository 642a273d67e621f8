//! A claim's phase: from its volume, or from why it could not be placed.

use super::{Condition, Decision, volume::VolumePhase};
use crate::{drive::words, placement::Refusal};

words! {
    /// Where a claim stands.
    ClaimPhase {
        /// Nothing takes it now; the condition `Placed` lists what refused it.
        Pending = "Pending",
        /// It is being placed.
        Placing = "Placing",
        /// Its volume is being made.
        Provisioning = "Provisioning",
        /// Its data can be reached, or could be: the condition `Ready` says which.
        Ready = "Ready",
        /// Ready, and growing.
        Expanding = "Expanding",
        /// It goes.
        Deleting = "Deleting",
        /// It can never be.
        Failed = "Failed",
        /// Its volume vanished. It is never made anew silently.
        Lost = "Lost",
    }
}

/// The most characters of a condition's message: the API server takes 32768.
const MESSAGE: usize = 30_000;

/// What is known of a claim.
#[derive(Debug, Clone, Copy)]
pub enum ClaimObservation<'a> {
    /// Nobody has tried yet.
    New,
    /// Nothing takes it.
    Refused(&'a [Refusal]),
    /// It names a volume that belongs to another claim, or asks for what cannot be: reason and message.
    Impossible(&'a str, &'a str),
    /// It has a volume.
    Bound(BoundClaim<'a>),
    /// It had a volume of this name, and that is gone.
    VolumeGone(&'a str),
}

/// A claim with its volume.
#[derive(Debug, Clone, Copy)]
pub struct BoundClaim<'a> {
    /// Name of the volume.
    pub volume: &'a str,
    /// Name of its pool.
    pub pool: &'a str,
    /// What the volume's status says.
    pub decision: &'a Decision<VolumePhase>,
    /// Why the size that is asked for was refused, as reason and message.
    pub growth_refused: Option<(&'a str, &'a str)>,
}

/// What a UnifiedStorageClaim's status says.
#[must_use]
pub fn decide(seen: &ClaimObservation<'_>) -> Decision<ClaimPhase> {
    match seen {
        ClaimObservation::New => unplaced(ClaimPhase::Placing, "Placing", "it is being placed"),
        ClaimObservation::Refused(refusals) => {
            unplaced(ClaimPhase::Pending, "NoPlace", &refusal_words(refusals))
        }
        ClaimObservation::Impossible(reason, message) => unplaced(ClaimPhase::Failed, reason, message),
        ClaimObservation::VolumeGone(volume) => {
            let words = format!("its volume {volume} does not exist any more; it is not made anew");
            let ready = Condition::no("Ready", "VolumeGone", &words);
            Decision {
                phase: ClaimPhase::Lost,
                conditions: vec![ready, Condition::no("Placed", "VolumeGone", words)],
            }
        }
        ClaimObservation::Bound(bound) => bound_claim(bound),
    }
}

fn unplaced(phase: ClaimPhase, reason: &str, message: &str) -> Decision<ClaimPhase> {
    let conditions = vec![
        Condition::no("Ready", reason, message),
        Condition::no("Placed", reason, message),
    ];
    Decision { phase, conditions }
}

/// Every refusal on a line of its own, as long as there is room.
#[must_use]
pub fn refusal_words(refusals: &[Refusal]) -> String {
    let mut words = String::new();
    for (index, refusal) in refusals.iter().enumerate() {
        let line = refusal.line();
        if words.len() + line.len() > MESSAGE {
            words.push_str(&format!("\n... and {} more", refusals.len() - index));
            break;
        }
        if index > 0 {
            words.push('\n');
        }
        words.push_str(&line);
    }
    words
}

fn bound_claim(bound: &BoundClaim<'_>) -> Decision<ClaimPhase> {
    let phase = match bound.decision.phase {
        VolumePhase::Pending | VolumePhase::Provisioning => ClaimPhase::Provisioning,
        // It is there; the condition `Ready` says that its data cannot be reached, and why.
        VolumePhase::Ready | VolumePhase::Degraded => ClaimPhase::Ready,
        VolumePhase::Expanding => ClaimPhase::Expanding,
        VolumePhase::Deleting | VolumePhase::Released => ClaimPhase::Deleting,
        VolumePhase::Failed => ClaimPhase::Failed,
    };
    let ready = bound.decision.condition("Ready").cloned().unwrap_or_else(|| {
        Condition::unknown(
            "Ready",
            "NotObserved",
            format!("nothing is known of volume {}", bound.volume),
        )
    });
    let placed = Condition::yes(
        "Placed",
        "Placed",
        format!("volume {} on pool {}", bound.volume, bound.pool),
    );
    let mut conditions = vec![ready, placed];
    if let Some((reason, words)) = bound.growth_refused {
        conditions.push(Condition::no("Expanded", reason, words));
    }
    Decision { phase, conditions }
}
