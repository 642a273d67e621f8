//! Devices of a node that are one drive: the ports and paths by which it is reached.

use std::collections::BTreeMap;

use super::{
    SeenDrive,
    evidence::{Comparison, Piece, PieceKind, Pieces},
    has_ports,
};
use crate::drive::{NodeName, Transport};

/// For each device the index of the one that stands for its drive: the first by name of all its paths.
pub(super) fn group(seen: &[SeenDrive<'_>], pieces: &[Pieces]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..seen.len()).collect();
    order.sort_by_key(|i| seen.get(*i).map(|drive| (drive.node, natural(&drive.facts.name))));
    let mut primaries: Vec<usize> = (0..seen.len()).collect();
    let mut groups: BTreeMap<(&NodeName, &Piece), Vec<usize>> = BTreeMap::new();
    for i in order {
        let (Some(drive), Some(mine)) = (seen.get(i), pieces.get(i)) else {
            continue;
        };
        let mut primary = i;
        for piece in mine.identifying() {
            let group = groups.entry((drive.node, piece)).or_default();
            for &j in group.iter() {
                let (Some(other), Some(theirs)) = (seen.get(j), pieces.get(j)) else {
                    continue;
                };
                if are_paths(drive, mine, other, theirs) {
                    primary = primaries.get(j).copied().unwrap_or(j);
                }
            }
            group.push(i);
        }
        if let Some(slot) = primaries.get_mut(i) {
            *slot = primary;
        }
    }
    primaries
}

/// Kernel names in their order of creation: sdb before sdaa, nvme2n1 before nvme10n1.
fn natural(name: &str) -> (usize, &str) {
    (name.len(), name)
}

/// Whether two devices of a node are paths of one drive: the agent says so, or they sit on a transport with
/// several ports and agree in a strong piece, serial and size. A name of the vendor's making (t10) is none: it is made of
/// the serial, or the same for all units of a target.
fn are_paths(a: &SeenDrive<'_>, mine: &Pieces, b: &SeenDrive<'_>, theirs: &Pieces) -> bool {
    let found = Comparison::of(mine, theirs);
    if found.contradicts() || found.differ.contains(&PieceKind::Size) || found.agree.len() < 2 {
        return false;
    }
    let said = a.facts.paths.contains(&b.facts.name) || b.facts.paths.contains(&a.facts.name);
    let transports: [Transport; 2] = [a.facts.transport, b.facts.transport];
    let ports = transports.into_iter().all(has_ports)
        && found
            .agree
            .iter()
            .any(|kind| kind.is_strong() && *kind != PieceKind::Mark && !mine.is_of_its_vendor(*kind))
        && found.agree.contains(&PieceKind::Serial)
        && found.agree.contains(&PieceKind::Size);
    said || ports
}
