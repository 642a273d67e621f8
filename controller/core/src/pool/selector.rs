//! Why a pool cannot take a drive: every condition that fails, in words that name the drive's value.

use super::{Candidate, PoolSpec};
use crate::{
    bytes::format_bytes,
    drive::{DriveType, Zoned},
};

/// Every reason why a pool cannot take a drive; empty where it can.
#[must_use]
pub fn refuse(spec: &PoolSpec, drive: &Candidate) -> Vec<String> {
    let mut reasons = drive.judgement.refusals.clone();
    if !drive.judgement.claimable && reasons.is_empty() {
        reasons.push("not claimable".to_owned());
    }
    reasons.extend(refuse_node(spec, drive));
    reasons.extend(refuse_type(spec, drive));
    reasons.extend(refuse_quality(spec, drive));
    reasons.extend(refuse_zones(spec, drive));
    reasons.extend(refuse_size(spec, drive));
    reasons.extend(refuse_labels(spec, drive));
    reasons
}

fn refuse_node(spec: &PoolSpec, drive: &Candidate) -> Vec<String> {
    let excluded = spec.topology.excluded_nodes.contains(&drive.node);
    let missing = spec
        .node_selector
        .iter()
        .filter(|(key, value)| drive.node_labels.get(*key) != Some(*value));
    let labels = missing.map(|(key, value)| format!("node {} has no label {key}={value}", drive.node));
    excluded
        .then(|| format!("node {} is excluded", drive.node))
        .into_iter()
        .chain(labels)
        .collect()
}

fn refuse_type(spec: &PoolSpec, drive: &Candidate) -> Option<String> {
    let types = &spec.selector.drive_types;
    let kind = drive.judgement.drive_type;
    if types.is_empty() {
        // An override that gives a drive a tier vouches for it.
        let nobody_knows = kind == DriveType::Unknown && drive.judgement.classification.tier.is_none();
        return nobody_knows.then(|| "its type is unknown, and driveTypes does not say unknown".to_owned());
    }
    let names: Vec<&str> = types.iter().map(|kind| kind.as_str()).collect();
    (!types.contains(&kind)).then(|| format!("type {kind} is none of {}", names.join(", ")))
}

fn refuse_quality(spec: &PoolSpec, drive: &Candidate) -> Vec<String> {
    let class = &drive.judgement.classification;
    let mut reasons = Vec::new();
    match (spec.selector.min_tier, class.tier) {
        (Some(min), Some(tier)) if tier < min => reasons.push(format!("tier {tier} is below {min}")),
        (Some(min), None) => reasons.push(format!("it has no tier, {min} is asked for")),
        _ => {}
    }
    if class.score < spec.selector.min_score {
        reasons.push(format!(
            "score {} is below {}",
            class.score, spec.selector.min_score
        ));
    }
    reasons
}

fn refuse_zones(spec: &PoolSpec, drive: &Candidate) -> Option<String> {
    match (spec.selector.require_zns, drive.zoned) {
        (true, Zoned::HostManaged) | (false, Zoned::None | Zoned::HostAware | Zoned::Unknown) => None,
        (true, zoned) => Some(format!("zones are asked for, and its zones are: {zoned}")),
        (false, Zoned::HostManaged) => {
            Some("its zones are host-managed, and requireZns is not set".to_owned())
        }
    }
}

fn refuse_size(spec: &PoolSpec, drive: &Candidate) -> Option<String> {
    let (min, max) = (spec.selector.min_capacity_bytes, spec.selector.max_capacity_bytes);
    let size = format_bytes(drive.size_bytes);
    if drive.size_bytes < min {
        return Some(format!("{size} is less than {}", format_bytes(min)));
    }
    (max > 0 && drive.size_bytes > max).then(|| format!("{size} is more than {}", format_bytes(max)))
}

fn refuse_labels(spec: &PoolSpec, drive: &Candidate) -> Vec<String> {
    let labels = &drive.judgement.labels;
    let missing = spec
        .selector
        .match_labels
        .iter()
        .filter(|(key, value)| labels.get(*key) != Some(*value));
    missing
        .map(|(key, value)| match labels.get(key) {
            Some(found) => format!("label {key} is {found}, not {value}"),
            None => format!("it has no label {key}={value}"),
        })
        .collect()
}
