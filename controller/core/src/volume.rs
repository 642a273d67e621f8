//! What a claim costs a pool, and whether it still fits.
//!
//! SeaweedFS hands out slots of a fixed size, so a claim costs whole slots: its capacity, a third more for
//! garbage that is not vacuumed yet, times the copies. A promise is made once, at one place, by raising the
//! pool's `promisedBytes`; nothing here ever promises more than there is.

use thiserror::Error;

use crate::bytes::format_bytes;

/// Room for garbage beside the live bytes, percent of the capacity.
pub const GARBAGE_PERCENT: u64 = 30;

/// What a claim takes of its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Bytes promised: slots times slot size.
    pub bytes: u64,
    /// Slots.
    pub slots: u64,
}

impl Cost {
    /// `slots` whole slots.
    #[must_use]
    pub const fn of_slots(slots: u64, slot_bytes: u64) -> Self {
        Self {
            bytes: slots.saturating_mul(slot_bytes),
            slots,
        }
    }
}

/// What `capacity` bytes cost in `copies` copies on slots of `slot_bytes`. At least one slot for each copy; an
/// impossible size saturates, so that it is refused and never wraps.
#[must_use]
pub fn cost(capacity: u64, copies: u32, slot_bytes: u64) -> Cost {
    let with_garbage = (u128::from(capacity) * u128::from(100 + GARBAGE_PERCENT)).div_ceil(100);
    let slots = with_garbage.div_ceil(u128::from(slot_bytes.max(1))).max(1) * u128::from(copies.max(1));
    Cost::of_slots(u64::try_from(slots).unwrap_or(u64::MAX), slot_bytes.max(1))
}

/// A pool cannot take a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "needs {} with copies and room for garbage, {} of {} are free ({} promised)",
    format_bytes(*needed), format_bytes(*free), format_bytes(*capacity), format_bytes(*promised)
)]
pub struct Shortage {
    /// Capacity of the pool in bytes.
    pub capacity: u64,
    /// Promised before.
    pub promised: u64,
    /// What was asked for.
    pub needed: u64,
    /// What can still be promised.
    pub free: u64,
}

/// The new sum of promises once `cost` is promised too.
///
/// # Errors
/// Where the pool's capacity does not hold it; nothing is promised then.
pub const fn reserve(capacity: u64, promised: u64, cost: Cost) -> Result<u64, Shortage> {
    match promised.checked_add(cost.bytes) {
        Some(sum) if sum <= capacity => Ok(sum),
        _ => Err(Shortage {
            capacity,
            promised,
            needed: cost.bytes,
            free: capacity.saturating_sub(promised),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_claim_costs_whole_slots_with_room_for_garbage() {
        assert_eq!(cost(1 << 30, 1, 32 * MIB), Cost::of_slots(42, 32 * MIB));
        assert_eq!(cost(4 * MIB, 1, 32 * MIB).slots, 1);
        assert_eq!(cost(4 * MIB, 3, 32 * MIB).slots, 3);
        assert_eq!(cost(0, 0, 32 * MIB).slots, 1);
        assert_eq!(cost(u64::MAX, 9, 1).bytes, u64::MAX);
    }

    #[test]
    fn a_shortage_says_what_is_missing() {
        let shortage = reserve(100, 90, Cost { bytes: 11, slots: 1 }).unwrap_err();
        assert_eq!(
            shortage.to_string(),
            "needs 11 B with copies and room for garbage, 10 B of 100 B are free (90 B promised)"
        );
    }
}
