//! The named filters of placement. Each answers one question and, where the answer is no, says what was asked
//! and what there is.

use super::{BackendKind, Class, DriveView, Fit, Pool, RedundancyKind, Request, ServiceTier};
use crate::{bytes::format_bytes, volume::reserve};

/// One question to a pool: `None` where it may serve.
pub type Filter = fn(&Fit<'_>, &Pool) -> Option<String>;

/// The chain, in the order in which reasons are told.
pub const CHAIN: [(&str, Filter); 8] = [
    ("accepting", accepting),
    ("backend", backend),
    ("labels", labels),
    ("drive_type", drive_type),
    ("tier", tier),
    ("redundancy", redundancy),
    ("fault_domains", fault_domains),
    ("capacity", capacity),
];

/// Every reason why a pool cannot serve; empty where it can.
#[must_use]
pub fn refuse(fit: &Fit<'_>, pool: &Pool) -> Vec<String> {
    CHAIN.iter().filter_map(|(_, filter)| filter(fit, pool)).collect()
}

fn accepting(_: &Fit<'_>, pool: &Pool) -> Option<String> {
    if pool.accepting && pool.members_online > 0 {
        return None;
    }
    let why = if pool.not_accepting_because.is_empty() {
        "none of its members is online"
    } else {
        &pool.not_accepting_because
    };
    Some(format!("takes no new volumes: {why}"))
}

fn backend(fit: &Fit<'_>, pool: &Pool) -> Option<String> {
    let wanted = fit.class.backend?;
    (wanted != pool.backend).then(|| format!("its backend is {}, the class asks for {wanted}", pool.backend))
}

fn labels(fit: &Fit<'_>, pool: &Pool) -> Option<String> {
    let wanted = fit.class.pool_labels.iter().chain(&fit.request.labels);
    let missing: Vec<String> = wanted
        .filter(|(key, value)| pool.labels.get(*key) != Some(*value))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    (!missing.is_empty()).then(|| format!("has no label {}", missing.join(", ")))
}

fn drive_type(fit: &Fit<'_>, pool: &Pool) -> Option<String> {
    let wanted = fit.class.drive_type?;
    let other = pool.drive_types.iter().find(|kind| **kind != wanted)?;
    Some(format!("has drives of type {other}, the class asks for {wanted}"))
}

fn tier(fit: &Fit<'_>, pool: &Pool) -> Option<String> {
    if fit.tier.takes(pool.slowest_tier) {
        return None;
    }
    let has = pool
        .slowest_tier
        .map_or("drives without a tier", |tier| tier.as_str());
    Some(format!(
        "has {has}, tier {} asks for {}",
        fit.tier,
        fit.tier.wants()
    ))
}

/// Copies over the nodes of one data center that SeaweedFS can place: its replica digit goes to 2.
const SEAWEEDFS_COPIES: u32 = 3;

fn redundancy(fit: &Fit<'_>, pool: &Pool) -> Option<String> {
    let coded = fit.redundancy.kind == RedundancyKind::ErasureCoding;
    if coded && pool.backend == BackendKind::Seaweedfs {
        return Some(
            "seaweedfs codes volumes after they are full, not when they are made: ask for replication".into(),
        );
    }
    let copies = fit.redundancy.copies();
    if copies > SEAWEEDFS_COPIES && pool.backend == BackendKind::Seaweedfs {
        return Some(format!(
            "seaweedfs keeps at most {SEAWEEDFS_COPIES} copies, {copies} are asked for"
        ));
    }
    (copies > pool.members_online).then(|| {
        format!(
            "{copies} copies are asked for, {} members are online",
            pool.members_online
        )
    })
}

fn fault_domains(fit: &Fit<'_>, pool: &Pool) -> Option<String> {
    // Two copies on one node die together, so each copy needs a domain of its own.
    let needed = fit.redundancy.copies().max(fit.redundancy.min_fault_domains);
    (needed > pool.fault_domains).then(|| {
        format!(
            "{needed} fault domains are needed, its members are in {}",
            pool.fault_domains
        )
    })
}

fn capacity(fit: &Fit<'_>, pool: &Pool) -> Option<String> {
    let cost = fit.cost(pool);
    let promised = pool.promised_to_others(&fit.request.volume);
    let shortage = reserve(pool.capacity_bytes, promised, cost).err()?;
    Some(shortage.to_string())
}

/// Every reason why a class does not serve a request; empty where it does.
#[must_use]
pub fn refuse_class(request: &Request, class: &Class) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(kind) = class.storage_type
        && kind != request.storage_type
    {
        reasons.push(format!(
            "serves {kind} storage, {} is asked for",
            request.storage_type
        ));
    }
    let tiers = [request.tier, class.tier];
    if !tiers.contains(&ServiceTier::Auto) && request.tier != class.tier {
        reasons.push(format!(
            "its tier is {}, {} is asked for",
            class.tier, request.tier
        ));
    }
    reasons
}

/// Every reason why a drive could not serve a request in a pool of its own; empty where it could.
#[must_use]
pub fn refuse_drive(fit: &Fit<'_>, drive: &DriveView) -> Vec<String> {
    let mut reasons = drive.judgement.refusals.clone();
    let tier = drive.judgement.classification.tier;
    if !fit.tier.takes(tier) {
        let has = tier.map_or_else(
            || format!("it has no tier (type {})", drive.judgement.drive_type),
            |tier| format!("its tier is {tier}"),
        );
        reasons.push(format!("{has}, {} asks for {}", fit.tier, fit.tier.wants()));
    }
    if let Some(wanted) = fit.class.drive_type
        && drive.judgement.drive_type != wanted
    {
        reasons.push(format!(
            "its type is {}, the class asks for {wanted}",
            drive.judgement.drive_type
        ));
    }
    if let Some(size) = drive.size_bytes
        && size < fit.request.capacity_bytes
    {
        reasons.push(format!(
            "it holds {}, {} is asked for",
            format_bytes(size),
            format_bytes(fit.request.capacity_bytes)
        ));
    }
    reasons
}

/// A drive as people look for it.
#[must_use]
pub fn drive_words(drive: &DriveView) -> String {
    let size = drive
        .size_bytes
        .map_or_else(|| "size unknown".to_owned(), format_bytes);
    format!(
        "drive {}/{} ({}, {}, {size})",
        drive.node, drive.device, drive.judgement.id, drive.judgement.drive_type
    )
}
