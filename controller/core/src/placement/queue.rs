//! Who of those that wait is served next, in the order in which they came.
//!
//! Room that becomes free is given away once: each that fits takes its part before the next one is asked. So a
//! slot that is freed wakes one, and not everybody. Who needs more than there is does not hold up those behind.

use super::{Class, DriveView, Placement, Pool, Request, place};
use crate::{
    drive::PoolName,
    volume::{Cost, reserve},
};

/// What somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// A place.
    Place(Request),
    /// More bytes on the pool where it is.
    Growth {
        /// The pool.
        pool: PoolName,
        /// How many more it promises then.
        bytes: u64,
    },
}

/// Positions of the wishes that would be granted now, one after the other; `pools` are as they are before.
#[must_use]
pub fn served(wishes: &[Wish], classes: &[Class], pools: &[Pool], drives: &[DriveView]) -> Vec<usize> {
    let mut pools = pools.to_vec();
    let mut served = Vec::new();
    for (position, wish) in wishes.iter().enumerate() {
        if grant(wish, classes, &mut pools, drives) {
            served.push(position);
        }
    }
    served
}

fn grant(wish: &Wish, classes: &[Class], pools: &mut [Pool], drives: &[DriveView]) -> bool {
    match wish {
        Wish::Place(request) => {
            // Without any room left there is no need to ask each drive why.
            let hopeless = pools
                .iter()
                .filter(|pool| pool.pool_type == request.storage_type)
                .all(|pool| pool.capacity_bytes <= pool.promised_to_others(&request.volume));
            if hopeless {
                return false;
            }
            let Placement::Placed(placed) = place(request, classes, pools, drives) else {
                return false;
            };
            let taken = pools.iter_mut().find(|pool| pool.name == placed.pool);
            if let Some(pool) = taken {
                let own = pool.reserved.remove(&request.volume).unwrap_or(0);
                let others = pool.promised_bytes.saturating_sub(own);
                pool.promised_bytes = others.saturating_add(placed.cost.bytes.max(own));
            }
            true
        }
        Wish::Growth { pool, bytes } => {
            let Some(pool) = pools.iter_mut().find(|known| known.name == *pool) else {
                return false;
            };
            let cost = Cost {
                bytes: *bytes,
                slots: 0,
            };
            match reserve(pool.capacity_bytes, pool.promised_bytes, cost) {
                Ok(promised) => pool.promised_bytes = promised,
                Err(_) => return false,
            }
            true
        }
    }
}

#[cfg(test)]
mod tests;
