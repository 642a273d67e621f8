//! The weighted scorers of placement: among pools that can serve, which serves best. Each gives 0-100.

use super::{Fit, Pool, ServiceTier, StorageType};
use crate::{bytes::percent, classify::Tier};

/// One opinion on a pool, 0-100.
pub type Scorer = fn(&Fit<'_>, &Pool) -> u32;

/// The scorers with their weights. Speed decides before room, room before the number of members.
pub const SCORERS: [(&str, u32, Scorer); 3] = [
    ("tier match", 5, tier_match),
    ("free share", 3, free_share),
    ("members online", 1, members),
];

/// The weighted sum and how it came about.
#[must_use]
pub fn score(fit: &Fit<'_>, pool: &Pool) -> (u32, Vec<String>) {
    let mut total = 0;
    let mut reasons = Vec::new();
    for (name, weight, scorer) in SCORERS {
        let points = scorer(fit, pool).min(100);
        total += points * weight;
        reasons.push(format!("{name} {points} x {weight}"));
    }
    (total, reasons)
}

/// The nearest tier that is good enough: hot wants the fastest, cold the cheapest, auto what suits the type.
fn tier_match(fit: &Fit<'_>, pool: &Pool) -> u32 {
    let speed = match pool.slowest_tier {
        Some(Tier::UltraFast) => 100,
        Some(Tier::FastNvme) => 75,
        Some(Tier::StandardSsd) => 50,
        Some(Tier::Hdd) => 25,
        None => 0,
    };
    match (fit.tier, fit.request.storage_type) {
        (ServiceTier::Hot, _) | (ServiceTier::Auto, StorageType::Block) => speed,
        (ServiceTier::Warm, _) | (ServiceTier::Auto, StorageType::File) => 100 - speed.abs_diff(50),
        (ServiceTier::Cold, _) | (ServiceTier::Auto, StorageType::Object) => 100 - speed,
    }
}

fn free_share(fit: &Fit<'_>, pool: &Pool) -> u32 {
    let after = pool.promised_bytes.saturating_add(fit.cost(pool).bytes);
    100 - u32::from(percent(after, pool.capacity_bytes))
}

fn members(_: &Fit<'_>, pool: &Pool) -> u32 {
    pool.members_online.saturating_mul(10).min(100)
}
