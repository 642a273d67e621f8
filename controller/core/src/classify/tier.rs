//! Tier, score and suitability, each part with its reason.

use super::{CapacityTier, Classification, Health, HealthState, Suitability, Tier, fingerprint::recognise};
use crate::{
    bytes::format_bytes,
    drive::{DriveFacts, DriveType, Observed, Zoned},
};

/// 1 TB: below it a drive is small.
const MEDIUM_FROM: u64 = 1_000_000_000_000;
/// 8 TB: from it on a drive is large.
const LARGE_FROM: u64 = 8_000_000_000_000;

/// Classifies one drive. `force` is an administrator's tier and wins over the facts.
#[must_use]
pub fn classify(facts: &DriveFacts, health: &Health, force: Option<Tier>) -> Classification {
    let mut reasons = Vec::new();
    let (tier, base) = tier_and_base(facts, force, &mut reasons);
    let score = score(facts, health, base, &mut reasons);
    let capacity_tier = capacity_tier(facts, &mut reasons);
    let suitable_for = suitability(facts, tier, health, &mut reasons);
    Classification {
        tier,
        score,
        capacity_tier,
        suitable_for,
        reasons,
    }
}

fn tier_and_base(facts: &DriveFacts, force: Option<Tier>, reasons: &mut Vec<String>) -> (Option<Tier>, u8) {
    if let Some(tier) = force {
        reasons.push(format!("tier {tier}: set by an override on its StorageNode"));
        return (Some(tier), base_of(tier));
    }
    let recognised = facts.model.known().and_then(|model| recognise(model));
    let tier = match facts.kind {
        DriveType::Nvme => {
            if let Some(found) = recognised {
                let behind = if found.is_virtual {
                    ", virtual: what is behind it is not known"
                } else {
                    ""
                };
                reasons.push(format!(
                    "tier {}: recognised as {}{behind}",
                    found.tier, found.family
                ));
                return (Some(found.tier), found.score);
            }
            reasons.push("tier fastNvme: flash on NVMe, model not recognised".to_owned());
            Some(Tier::FastNvme)
        }
        DriveType::Pmem => {
            reasons.push("tier ultraFast: persistent memory".to_owned());
            Some(Tier::UltraFast)
        }
        DriveType::Ssd => {
            reasons.push(format!("tier standardSsd: flash behind {}", facts.transport));
            Some(Tier::StandardSsd)
        }
        DriveType::Hdd => {
            reasons.push("tier hdd: it spins".to_owned());
            Some(Tier::Hdd)
        }
        DriveType::Unknown => {
            reasons.push(format!(
                "no tier: what is behind {} is not known; an override on its StorageNode can say",
                facts.transport
            ));
            None
        }
    };
    (tier, tier.map_or(0, base_of))
}

const fn base_of(tier: Tier) -> u8 {
    match tier {
        Tier::UltraFast => 96,
        Tier::FastNvme => 84,
        Tier::StandardSsd => 60,
        Tier::Hdd => 30,
    }
}

fn score(facts: &DriveFacts, health: &Health, base: u8, reasons: &mut Vec<String>) -> u8 {
    if base == 0 {
        reasons.push("score 0: a drive without a tier has no score".to_owned());
        return 0;
    }
    reasons.push(format!("score starts at {base} from its tier and model"));
    let mut score = base;
    let mut lose = |points: u8, why: String| {
        if points > 0 {
            reasons.push(format!("score -{points}: {why}"));
            score = score.saturating_sub(points);
        }
    };
    match health.state {
        HealthState::Good => {}
        HealthState::Unknown => lose(5, format!("health unknown, {}", health.reason)),
        HealthState::Warning => lose(15, format!("health warning, {}", health.reason)),
        HealthState::Failing => lose(75, format!("health failing, {}", health.reason)),
        HealthState::Failed => lose(100, format!("health failed, {}", health.reason)),
    }
    if let Observed::Known(used) = facts.health.percentage_used {
        // Up to 20 points over the rated life.
        let points = u8::try_from(used.min(100) / 5).unwrap_or(20);
        lose(points, format!("{used} % of its rated endurance used"));
    }
    match facts.zoned {
        Zoned::HostManaged => lose(
            10,
            "host-managed zones need software that writes in sequence".to_owned(),
        ),
        Zoned::HostAware => lose(3, "host-aware zones slow random writes".to_owned()),
        Zoned::None | Zoned::Unknown => {}
    }
    score
}

fn capacity_tier(facts: &DriveFacts, reasons: &mut Vec<String>) -> Option<CapacityTier> {
    let size = *facts.size_bytes.known()?;
    let tier = match size {
        ..MEDIUM_FROM => CapacityTier::Small,
        MEDIUM_FROM..LARGE_FROM => CapacityTier::Medium,
        _ => CapacityTier::Large,
    };
    reasons.push(format!("capacity {tier}: {}", format_bytes(size)));
    Some(tier)
}

fn suitability(
    facts: &DriveFacts,
    tier: Option<Tier>,
    health: &Health,
    reasons: &mut Vec<String>,
) -> Vec<Suitability> {
    if matches!(health.state, HealthState::Failing | HealthState::Failed) {
        reasons.push("suits nothing: its health does not allow new data".to_owned());
        return Vec::new();
    }
    if facts.zoned == Zoned::HostManaged {
        reasons.push("suits object: host-managed zones take sequential writes only".to_owned());
        return vec![Suitability::Object];
    }
    let (suits, why): (&[Suitability], &str) = match tier {
        Some(Tier::UltraFast) => (
            &[Suitability::Block, Suitability::Cache],
            "low latency, dear by the byte",
        ),
        Some(Tier::FastNvme) => (
            &[
                Suitability::Block,
                Suitability::File,
                Suitability::Object,
                Suitability::Cache,
            ],
            "fast in every pattern",
        ),
        Some(Tier::StandardSsd) => (
            &[Suitability::Block, Suitability::File, Suitability::Object],
            "good random access",
        ),
        Some(Tier::Hdd) => (
            &[Suitability::File, Suitability::Object],
            "good in sequence, slow at random",
        ),
        None => (
            &[Suitability::File, Suitability::Object],
            "its speed is not known, so nothing that needs it",
        ),
    };
    let names: Vec<&str> = suits.iter().map(|suit| suit.as_str()).collect();
    reasons.push(format!("suits {}: {why}", names.join(", ")));
    suits.to_vec()
}
