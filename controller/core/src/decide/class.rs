//! A class's phase: whether what it offers can be had.

use super::{Condition, Decision};
use crate::{
    drive::words,
    placement::{Class, Fit, Pool, Request, StorageType, filters},
};

words! {
    /// Where a class stands.
    ClassPhase {
        /// No pool of its type exists.
        Pending = "Pending",
        /// A claim of it can be placed.
        Ready = "Ready",
        /// Pools exist, and none takes a claim now.
        Degraded = "Degraded",
        /// It asks for what cannot be.
        Error = "Error",
    }
}

/// Bytes that a class can still give, before copies and garbage room are taken off, and what its status says.
#[must_use]
pub fn decide(class: &Class, pools: &[Pool]) -> (Decision<ClassPhase>, u64) {
    let kinds: Vec<StorageType> = class
        .storage_type
        .map_or_else(|| StorageType::ALL.to_vec(), |kind| vec![kind]);
    let of_type: Vec<&Pool> = pools
        .iter()
        .filter(|pool| kinds.contains(&pool.pool_type))
        .collect();
    let mut available = 0_u64;
    let mut refusals = Vec::new();
    for pool in &of_type {
        // The smallest claim there is: what refuses it refuses every claim.
        let request = Request {
            storage_type: pool.pool_type,
            capacity_bytes: 1,
            tier: class.tier,
            class: None,
            redundancy: None,
            labels: std::collections::BTreeMap::new(),
            volume: String::new(),
        };
        let reasons = filters::refuse(&Fit::new(&request, class), pool);
        if reasons.is_empty() {
            available = available.saturating_add(pool.free_bytes());
        } else {
            refusals.push(format!("pool {}: {}", pool.name, reasons.join("; ")));
        }
    }
    let (phase, ready) = if of_type.is_empty() {
        let names: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
        let words = format!("no UnifiedPool of type {} exists", names.join(" or "));
        (ClassPhase::Pending, Condition::no("Ready", "NoPool", words))
    } else if refusals.len() == of_type.len() {
        (
            ClassPhase::Degraded,
            Condition::no("Ready", "NoPoolFits", refusals.join(" | ")),
        )
    } else {
        let fit = of_type.len() - refusals.len();
        (
            ClassPhase::Ready,
            Condition::yes("Ready", "PoolsFit", format!("{fit} pools serve it")),
        )
    };
    (
        Decision {
            phase,
            conditions: vec![ready],
        },
        available,
    )
}
