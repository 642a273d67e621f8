//! The comparison of everything that is seen with everything on record, each device with each drive that shares
//! a piece of evidence with it. Nothing here depends on the order in which devices come.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    KnownDrive, Resolution, SeenDrive, Verdict,
    evidence::{self, Piece, PieceKind, Pieces, Relation},
    provisional,
};
use crate::drive::DriveId;

/// Twins that a conflict names for each piece of evidence: a node that tells of a thousand devices with one serial
/// must not fill the memory of the fleet with a million reasons.
const TWINS_NAMED: usize = 3;

pub(super) struct Resolver<'a> {
    pub(super) known: &'a [KnownDrive],
    pub(super) seen: &'a [SeenDrive<'a>],
    pub(super) known_pieces: &'a [Pieces],
    pub(super) seen_pieces: &'a [Pieces],
    /// For each seen device the index of the device that stands for its drive.
    pub(super) primaries: &'a [usize],
}

/// What the comparison of one device with all that is on record came to.
#[derive(Default)]
struct Matches {
    same: BTreeSet<usize>,
    clash: Vec<(usize, String)>,
    /// Looks like a drive on record whose strong evidence changed; matters only while that one is not seen.
    resembles: Vec<(usize, String)>,
    /// Has the serial of a drive on record under another name, and whether the model is the same; matters only while
    /// that drive is not seen, and while nothing stronger than a serial says who it is.
    renamed: Vec<(usize, bool, String)>,
    /// Of what says who it is only the serial agrees.
    by_serial: bool,
}

impl Resolver<'_> {
    pub(super) fn run(&self) -> Vec<Resolution> {
        let by_piece = index(self.known_pieces);
        let by_serial = index_serials(self.known_pieces);
        let shared = shared_serials(self.known_pieces);
        let matches: Vec<Matches> = (0..self.seen.len())
            .map(|i| self.compare_known(i, &by_piece, &by_serial, &shared))
            .collect();
        let mut claimed: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (i, found) in matches.iter().enumerate() {
            for k in &found.same {
                claimed.entry(*k).or_default().insert(self.primary(i));
            }
        }
        let mut conflicts: BTreeMap<usize, BTreeSet<String>> = self.duplicates();
        let paths = self.paths();
        for (i, found) in matches.iter().enumerate() {
            let others = paths.get(&self.primary(i)).map_or(&[][..], Vec::as_slice);
            let reasons = self.contradictions(found, &claimed).into_iter();
            for reason in reasons.chain(self.other_paths_deny(found, others)) {
                conflicts.entry(self.primary(i)).or_default().insert(reason);
            }
        }
        self.answer(&matches, &conflicts)
    }

    fn primary(&self, i: usize) -> usize {
        self.primaries.get(i).copied().unwrap_or(i)
    }

    /// The devices of each drive that has more than one, by the one that stands for it.
    fn paths(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut paths: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for i in 0..self.seen.len() {
            paths.entry(self.primary(i)).or_default().push(i);
        }
        paths.retain(|_, devices| devices.len() > 1);
        paths
    }

    /// A drive on record that one path agrees with, and another path cannot be.
    fn other_paths_deny(&self, found: &Matches, paths: &[usize]) -> Vec<String> {
        let mut reasons = Vec::new();
        for (k, j) in found
            .same
            .iter()
            .flat_map(|k| paths.iter().map(move |j| (*k, *j)))
        {
            let (Some(theirs), Some(drive)) = (self.known_pieces.get(k), self.known.get(k)) else {
                continue;
            };
            let words = self
                .seen_pieces
                .get(j)
                .and_then(|mine| evidence::contradiction(mine, theirs));
            reasons.extend(words.map(|words| {
                let place = self.place(j);
                format!(
                    "evidence of its path {place} contradicts the record of {}: {words}",
                    drive.id
                )
            }));
        }
        reasons
    }

    /// Compares a device with every drive on record that shares an identifying piece, or a serial's text, with it.
    fn compare_known(
        &self,
        i: usize,
        by_piece: &BTreeMap<&Piece, Vec<usize>>,
        by_serial: &BTreeMap<&str, Vec<usize>>,
        shared_serials: &BTreeSet<&Piece>,
    ) -> Matches {
        let mut found = Matches::default();
        let Some(mine) = self.seen_pieces.get(i) else {
            return found;
        };
        let same_serial = mine.serial_text().and_then(|text| by_serial.get(text));
        let near: BTreeSet<usize> = mine
            .identifying()
            .filter_map(|piece| by_piece.get(piece))
            .chain(same_serial)
            .flatten()
            .copied()
            .collect();
        for k in near {
            let (Some(theirs), Some(drive)) = (self.known_pieces.get(k), self.known.get(k)) else {
                continue;
            };
            match evidence::relate(mine, theirs) {
                Relation::Same => {
                    found.same.insert(k);
                }
                Relation::SameSerial => {
                    found.same.insert(k);
                    found.by_serial = true;
                }
                Relation::Clash(words) => {
                    found.clash.push((
                        k,
                        format!("evidence contradicts the record of {}: {words}", drive.id),
                    ));
                }
                Relation::Resembles(words) if !theirs.any_in(shared_serials) => found.resembles.push((
                    k,
                    format!(
                        "it resembles {}, which is on record and not seen now: {words}",
                        drive.id
                    ),
                )),
                Relation::TooLittle(words) => found.resembles.push((
                    k,
                    format!(
                        "only one piece of evidence agrees with the record of {}: {words}",
                        drive.id
                    ),
                )),
                Relation::Renamed { words, same_model } => found.renamed.push((
                    k,
                    same_model,
                    format!(
                        "it could be {}, which is on record and not seen now: {words}",
                        drive.id
                    ),
                )),
                Relation::Resembles(_) | Relation::Different => {}
            }
        }
        found
    }

    /// Devices that carry the same evidence as another device that is seen now.
    fn duplicates(&self) -> BTreeMap<usize, BTreeSet<String>> {
        let mut conflicts: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        let by_serial = index_serials(self.seen_pieces).into_values();
        for mut holders in index(self.seen_pieces).into_values().chain(by_serial) {
            // By place, so that the twins that are named do not hang on the order of the question.
            holders.sort_by_cached_key(|i| self.place(*i));
            for &a in &holders {
                let twins = holders.iter().filter_map(|&b| Some((b, self.twins(a, b)?)));
                for (b, words) in twins.take(TWINS_NAMED) {
                    let reason = format!("{} has the same evidence: {words}", self.place(b));
                    conflicts.entry(self.primary(a)).or_default().insert(reason);
                }
            }
        }
        conflicts
    }

    /// Why two devices of different drives cannot be told apart, where that is so.
    fn twins(&self, a: usize, b: usize) -> Option<String> {
        if self.primary(a) == self.primary(b) {
            return None;
        }
        evidence::cannot_both_be(self.seen_pieces.get(a)?, self.seen_pieces.get(b)?)
    }

    fn place(&self, i: usize) -> String {
        self.seen.get(i).map_or_else(String::new, |drive| {
            format!("{} on {}", drive.facts.name, drive.node)
        })
    }

    fn contradictions(&self, found: &Matches, claimed: &BTreeMap<usize, BTreeSet<usize>>) -> Vec<String> {
        let mut reasons: Vec<String> = found.clash.iter().map(|(_, reason)| reason.clone()).collect();
        if found.same.is_empty() {
            let unseen = found.resembles.iter().filter(|(k, _)| !claimed.contains_key(k));
            reasons.extend(unseen.map(|(_, reason)| reason.clone()));
        }
        let unnamed = found.same.is_empty();
        let renamed = found.renamed.iter().filter(|(k, same_model, _)| {
            // With a record of its own, it is another's only where the other's name may be what is left of it.
            !claimed.contains_key(k) && (unnamed || (found.by_serial && *same_model))
        });
        reasons.extend(renamed.map(|(.., reason)| reason.clone()));
        if found.same.len() > 1 {
            let ids: BTreeSet<&str> = found
                .same
                .iter()
                .filter_map(|k| self.known.get(*k))
                .map(|drive| drive.id.as_str())
                .collect();
            let ids: Vec<&str> = ids.into_iter().collect();
            reasons.push(format!(
                "it agrees with several drives on record: {}",
                ids.join(", ")
            ));
        }
        for k in &found.same {
            if claimed.get(k).is_some_and(|devices| devices.len() > 1)
                && let Some(drive) = self.known.get(*k)
            {
                reasons.push(format!(
                    "more than one device agrees with the record of {}",
                    drive.id
                ));
            }
        }
        reasons
    }

    fn answer(&self, matches: &[Matches], conflicts: &BTreeMap<usize, BTreeSet<String>>) -> Vec<Resolution> {
        // A path may match where its primary does not (one of them could not be read): the drive is one.
        let on_record: BTreeMap<usize, &KnownDrive> = matches
            .iter()
            .enumerate()
            .filter_map(|(i, found)| Some((self.primary(i), self.known.get(*found.same.first()?)?)))
            .collect();
        let minted = self.mint_all(&on_record, conflicts);
        let mut answers = Vec::with_capacity(self.seen.len());
        for (i, drive) in self.seen.iter().enumerate() {
            let primary = self.primary(i);
            let mut answer = Resolution {
                node: drive.node.clone(),
                device: drive.facts.name.clone(),
                verdict: Verdict::NoEvidence {
                    shown_as: provisional("unidentified", drive),
                    reason: String::new(),
                },
                minted: false,
                new_aliases: Vec::new(),
                moved_from: None,
            };
            let same = on_record.get(&primary).copied();
            if let Some(reasons) = conflicts.get(&primary) {
                let reasons: Vec<&str> = reasons.iter().map(String::as_str).collect();
                let shown_as = provisional("conflict", drive);
                answer.verdict = Verdict::Conflict {
                    shown_as,
                    reason: reasons.join("; "),
                };
            } else if let Some(known) = same {
                answer.verdict = self.verdict(&known.id, i, primary);
                answer.moved_from = (&known.node != drive.node).then(|| known.node.clone());
                answer.new_aliases = self.aliases(known, i);
            } else if let Some(Some(id)) = minted.get(&primary) {
                answer.verdict = self.verdict(id, i, primary);
                answer.minted = true;
            } else if let Verdict::NoEvidence { reason, .. } = &mut answer.verdict {
                *reason = self
                    .seen_pieces
                    .get(i)
                    .map_or_else(String::new, Pieces::what_is_missing);
            }
            answers.push(answer);
        }
        answers
    }

    fn verdict(&self, id: &DriveId, i: usize, primary: usize) -> Verdict {
        match self.seen.get(primary) {
            Some(stands) if primary != i => Verdict::Path {
                id: id.clone(),
                primary: stands.facts.name.clone(),
            },
            _ => Verdict::Drive { id: id.clone() },
        }
    }

    fn aliases(&self, known: &KnownDrive, i: usize) -> Vec<String> {
        let Some(pieces) = self.seen_pieces.get(i) else {
            return Vec::new();
        };
        let names = pieces.identifying().filter_map(Piece::as_id);
        let new: BTreeSet<String> = names
            .filter(|name| name != known.id.as_str() && !known.aliases.contains(name))
            .collect();
        new.into_iter().collect()
    }

    /// New ids by primary. An id that is on record, or that two new drives would share, is made longer by a
    /// hash of all the evidence: it is never given twice.
    fn mint_all(
        &self,
        on_record: &BTreeMap<usize, &KnownDrive>,
        conflicts: &BTreeMap<usize, BTreeSet<String>>,
    ) -> BTreeMap<usize, Option<DriveId>> {
        let mut taken: BTreeMap<String, usize> = BTreeMap::new();
        for drive in self.known {
            for name in std::iter::once(drive.id.as_str()).chain(drive.aliases.iter().map(String::as_str)) {
                *taken.entry(name.to_owned()).or_default() += 1;
            }
        }
        let fresh: Vec<(usize, &Pieces)> = (0..self.seen.len())
            .filter(|i| self.primary(*i) == *i && !conflicts.contains_key(i))
            .filter(|i| !on_record.contains_key(i))
            .filter_map(|i| Some((i, self.seen_pieces.get(i)?)))
            .collect();
        for (_, pieces) in &fresh {
            if let Some(id) = pieces.mint() {
                *taken.entry(id).or_default() += 1;
            }
        }
        let mint = |pieces: &Pieces| {
            let id = pieces.mint()?;
            let unique = taken.get(&id).is_none_or(|times| *times <= 1);
            Some(DriveId::new(if unique { id } else { pieces.longer(&id) }))
        };
        fresh.into_iter().map(|(i, pieces)| (i, mint(pieces))).collect()
    }
}

/// Which drives hold an identifying piece.
fn index(all: &[Pieces]) -> BTreeMap<&Piece, Vec<usize>> {
    let mut index: BTreeMap<&Piece, Vec<usize>> = BTreeMap::new();
    for (i, pieces) in all.iter().enumerate() {
        for piece in pieces.identifying() {
            index.entry(piece).or_default().push(i);
        }
    }
    index
}

/// Which drives have a serial of this text and a model, whatever model.
fn index_serials(all: &[Pieces]) -> BTreeMap<&str, Vec<usize>> {
    let mut index: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, pieces) in all.iter().enumerate() {
        if let Some(text) = pieces.named_serial() {
            index.entry(text).or_default().push(i);
        }
    }
    index
}

/// Serials that more than one drive on record has: they tell nothing (hypervisors give one to all).
fn shared_serials(all: &[Pieces]) -> BTreeSet<&Piece> {
    let index = index(all);
    let shared = index
        .into_iter()
        .filter(|(piece, holders)| piece.kind == PieceKind::Serial && holders.len() > 1);
    shared.map(|(piece, _)| piece).collect()
}
