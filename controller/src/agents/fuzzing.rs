//! Doors to this module's private parts for `integration/fuzz`. They do nothing but call, and are never in a shipped
//! binary.

use std::{collections::BTreeSet, time::SystemTime};

use smart_storage_core::{drive::NodeName, registry::Registry};
use tonic::Status;

use super::{enrol, roster::Roster, session::Step, stream};
use crate::pki::Authority;

/// What the driver of a stream does with a step of its session: the node's record is changed by it. Answers the nodes
/// whose record changed.
pub fn apply(roster: &Roster, registry: &Registry, node: &NodeName, step: Step) -> BTreeSet<NodeName> {
    match step {
        Step::Snapshot(snapshot) => roster.publish(registry, node, 0, |record, facts| {
            stream::replace(record, facts, snapshot);
        }),
        Step::Delta(delta) => roster.publish(registry, node, 0, |record, facts| {
            stream::amend(record, facts, delta);
        }),
        Step::Welcome(_) | Step::Resync(_) | Step::Result(_) => BTreeSet::new(),
    }
}

/// Signs a certificate request; answers the certificate's DER.
///
/// # Errors
/// As the agent is told.
pub fn certificate(
    authority: &Authority,
    node: &str,
    csr: &[u8],
    now: SystemTime,
) -> Result<Vec<u8>, Status> {
    let answer = enrol::certificate(authority, node, csr, now)?;
    Ok(answer.certificate_chain.into_iter().next().unwrap_or_default())
}
