//! Doors to this module's private parsers for `integration/fuzz`: what filer, master and S3 answer. They do nothing but
//! call, and are never in a shipped binary.

use prost::Message as _;

use super::{
    directory,
    error::{CallError, Part},
    rules::{Change, FilerConf, Rule},
    topology::{self, Topology},
    wire::{filer, iam, master},
};

/// Reads `filer.conf`, sets a rule, unlocks and removes it again; answers the bytes after the first and the last step.
///
/// # Errors
/// Where it is no such document.
pub fn filer_conf(bytes: &[u8], prefix: &str) -> Result<(Vec<u8>, Vec<u8>), String> {
    let mut conf = FilerConf::parse(bytes)?;
    let put = Change::Put(Rule {
        prefix: prefix.to_owned(),
        disk_tag: "pool-a".to_owned(),
        replication: "000".to_owned(),
        growth_count: 1,
    });
    let mut steps = Vec::new();
    for change in [
        put,
        Change::Unlock(prefix.to_owned()),
        Change::Remove(prefix.to_owned()),
    ] {
        conf.apply(&change);
        assert!(
            conf.holds(&change),
            "a change that was applied is not in force: {change:?}"
        );
        steps.push(conf.to_bytes());
    }
    Ok((
        steps.first().cloned().unwrap_or_default(),
        steps.last().cloned().unwrap_or_default(),
    ))
}

/// Reads the master's list of volumes; answers drives, and the live bytes of a collection.
#[must_use]
pub fn volume_list(bytes: &[u8], collection: &str) -> Option<(Topology, u64)> {
    let answer = master::VolumeListResponse::decode(bytes).ok()?;
    let live = topology::live_bytes(&answer, collection);
    Some((Topology::from_answer(answer), live))
}

/// Whether a directory of the filer says that it is this volume's; `None`: the bytes are no entry.
#[must_use]
pub fn owned(bytes: &[u8], volume: &str, cluster: &str) -> Option<Result<(), String>> {
    let entry = filer::Entry::decode(bytes).ok()?;
    Some(directory::owned(&entry, volume, cluster))
}

/// Whether an identity that the filer answers grants what we asked for and nothing else.
#[must_use]
pub fn identity(bytes: &[u8]) -> Option<bool> {
    let answer = iam::GetUserResponse::decode(bytes).ok()?;
    Some(
        answer
            .identity
            .is_some_and(|identity| identity.actions.is_empty()),
    )
}

/// What a refusal of the filer in words is taken for, and what of it is told.
#[must_use]
pub fn words(text: &str, secret: &str) -> String {
    CallError::from_words(Part::Filer, "answer", text)
        .without(secret)
        .words
}
