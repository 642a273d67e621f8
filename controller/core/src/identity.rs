//! Who a drive is: evidence to a stable id, across renames, moved slots, moved nodes and kernel updates.
//!
//! A drive that was seen before is found again when at least two independent pieces of evidence agree, one of
//! them a piece that identifies (an NVMe id, a WWN, our mark, vendor + model + serial, a loop device's file), and
//! no strong piece contradicts. It keeps the id that it was first given; new evidence becomes an alias.
//!
//! It never takes a kernel name, a path or a serial alone for identity, never counts an id that many drives
//! share (all zero, "unknown"), and never guesses: two devices with the same evidence, or evidence that
//! contradicts, are a conflict that both of them show. The answer does not depend on names or order.

mod evidence;

use std::collections::{BTreeMap, BTreeSet};

use ring::digest;
use serde::{Deserialize, Serialize};

pub use self::evidence::{Piece, PieceKind};
use crate::drive::{DriveFacts, DriveId, Evidence, NodeName, Transport};

/// The longest id that is made. `pm-<id>` and labels made of it stay legal.
pub const MAX_ID: usize = 63;

/// The evidence of a drive as it is kept in StorageNode.status and PoolMember.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RecordedEvidence {
    /// Everything that the agent sent.
    #[serde(flatten)]
    pub evidence: Evidence,
    /// Vendor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

impl RecordedEvidence {
    /// The evidence in a drive's facts.
    #[must_use]
    pub fn of(facts: &DriveFacts) -> Self {
        Self {
            evidence: facts.evidence.clone(),
            vendor: facts.vendor.known().cloned(),
            model: facts.model.known().cloned(),
            size_bytes: facts.size_bytes.known().copied(),
        }
    }

    /// What is to be remembered once the drive was seen again with these facts: new pieces are taken up, pieces
    /// that were not observed this time are kept. Our mark and the other contents are forgotten only when the
    /// drive is seen to be blank.
    #[must_use]
    pub fn absorb(&self, facts: &DriveFacts) -> Self {
        let seen = Self::of(facts);
        let blank = facts.usage.blank.is(&true);
        let (new, old) = (seen.evidence, &self.evidence);
        let kept = |old: &Option<String>| if blank { None } else { old.clone() };
        Self {
            evidence: Evidence {
                nguid: new.nguid.or_else(|| old.nguid.clone()),
                eui64: new.eui64.or_else(|| old.eui64.clone()),
                nvme_uuid: new.nvme_uuid.or_else(|| old.nvme_uuid.clone()),
                wwn: evidence::better_wwn(new.wwn, old.wwn.clone()),
                serial: new.serial.or_else(|| old.serial.clone()),
                mark: new.mark.or_else(|| if blank { None } else { old.mark.clone() }),
                partition_table_uuid: new
                    .partition_table_uuid
                    .or_else(|| kept(&old.partition_table_uuid)),
                filesystem_uuids: match (new.filesystem_uuids.is_empty(), blank) {
                    (true, false) => old.filesystem_uuids.clone(),
                    _ => new.filesystem_uuids,
                },
                bus_path: new.bus_path.or_else(|| old.bus_path.clone()),
                backing_file: new.backing_file.or_else(|| old.backing_file.clone()),
                backing_file_inode: new.backing_file_inode.or_else(|| old.backing_file_inode.clone()),
                nvme_namespace: new.nvme_namespace.or(old.nvme_namespace),
            },
            vendor: seen.vendor.or_else(|| self.vendor.clone()),
            model: seen.model.or_else(|| self.model.clone()),
            size_bytes: seen.size_bytes.or(self.size_bytes),
        }
    }
}

/// A drive that was seen before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownDrive {
    /// The id that it was first given.
    pub id: DriveId,
    /// What is remembered of it.
    pub evidence: RecordedEvidence,
    /// Other ids that its evidence would have made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The node where it was last.
    pub node: NodeName,
}

impl KnownDrive {
    /// The drive as it is to be remembered after it was seen on `node` with these facts and this resolution.
    #[must_use]
    pub fn absorb(&self, node: &NodeName, facts: &DriveFacts, new_aliases: &[String]) -> Self {
        let mut aliases: BTreeSet<String> = self.aliases.iter().cloned().collect();
        aliases.extend(new_aliases.iter().cloned());
        Self {
            id: self.id.clone(),
            evidence: self.evidence.absorb(facts),
            aliases: aliases.into_iter().collect(),
            node: node.clone(),
        }
    }
}

/// A device that is there now.
#[derive(Debug, Clone, Copy)]
pub struct SeenDrive<'a> {
    /// The node that shows it.
    pub node: &'a NodeName,
    /// What was seen.
    pub facts: &'a DriveFacts,
}

/// Who a seen device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This drive and no other.
    Drive {
        /// Its id.
        id: DriveId,
    },
    /// A further path to a drive that another device of the node already shows.
    Path {
        /// The drive's id.
        id: DriveId,
        /// Kernel name of the device that stands for it.
        primary: String,
    },
    /// Somebody else has the same evidence, or its evidence contradicts. Nothing destructive may follow.
    Conflict {
        /// An id to show it by; not the drive's.
        shown_as: DriveId,
        /// What is wrong, in words.
        reason: String,
    },
    /// Nothing on it says who it is.
    NoEvidence {
        /// An id to show it by; it lasts only as long as the device stays where it is.
        shown_as: DriveId,
        /// What is missing, in words.
        reason: String,
    },
}

impl Verdict {
    /// The id to show the device by: the drive's own where it is certain.
    #[must_use]
    pub const fn id(&self) -> &DriveId {
        match self {
            Self::Drive { id } | Self::Path { id, .. } => id,
            Self::Conflict { shown_as, .. } | Self::NoEvidence { shown_as, .. } => shown_as,
        }
    }

    /// The drive's id, only where it is certain.
    #[must_use]
    pub const fn certain(&self) -> Option<&DriveId> {
        match self {
            Self::Drive { id } | Self::Path { id, .. } => Some(id),
            Self::Conflict { .. } | Self::NoEvidence { .. } => None,
        }
    }

    /// Whether it is a second path of a drive that is listed elsewhere.
    #[must_use]
    pub const fn is_path(&self) -> bool {
        matches!(self, Self::Path { .. })
    }
}

/// What became of one seen device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The node that shows it.
    pub node: NodeName,
    /// Its kernel name now.
    pub device: String,
    /// Who it is.
    pub verdict: Verdict,
    /// True where the id was made now.
    pub minted: bool,
    /// Ids that its evidence would make today and that are not recorded yet.
    pub new_aliases: Vec<String>,
    /// Where it was before, if it was on another node.
    pub moved_from: Option<NodeName>,
}

/// Decides who every seen device is, in the order of `seen`.
///
/// `known` is every drive on record in the whole fleet, `seen` every device that can be seen now: the more of the
/// fleet it holds, the more duplicates it finds. Equal sets give equal answers in any order.
#[must_use]
pub fn resolve(known: &[KnownDrive], seen: &[SeenDrive<'_>]) -> Vec<Resolution> {
    let known_pieces: Vec<Pieces> = known
        .iter()
        .map(|drive| Pieces::of(&drive.node, &drive.evidence))
        .collect();
    let seen_pieces: Vec<Pieces> = seen
        .iter()
        .map(|drive| Pieces::of(drive.node, &RecordedEvidence::of(drive.facts)))
        .collect();
    let primaries = evidence::group_paths(seen, &seen_pieces);
    let state = Resolver {
        known,
        seen,
        known_pieces: &known_pieces,
        seen_pieces: &seen_pieces,
        primaries: &primaries,
    };
    state.run()
}

use self::evidence::{Pieces, Relation};

struct Resolver<'a> {
    known: &'a [KnownDrive],
    seen: &'a [SeenDrive<'a>],
    known_pieces: &'a [Pieces],
    seen_pieces: &'a [Pieces],
    /// For each seen device the index of the device that stands for its drive.
    primaries: &'a [usize],
}

/// What the comparison of one device with all that is on record came to.
#[derive(Default)]
struct Matches {
    same: BTreeSet<usize>,
    clash: Vec<(usize, String)>,
    /// Looks like a drive on record whose strong evidence changed; matters only while that one is not seen.
    resembles: Vec<(usize, String)>,
}

impl Resolver<'_> {
    fn run(&self) -> Vec<Resolution> {
        let by_piece = index(self.known_pieces);
        let shared = shared_serials(self.known_pieces);
        let matches: Vec<Matches> = (0..self.seen.len())
            .map(|i| self.compare_known(i, &by_piece, &shared))
            .collect();
        let mut claimed: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (i, found) in matches.iter().enumerate() {
            for k in &found.same {
                claimed.entry(*k).or_default().insert(self.primary(i));
            }
        }
        let mut conflicts: BTreeMap<usize, BTreeSet<String>> = self.duplicates();
        for (i, found) in matches.iter().enumerate() {
            for reason in self.contradictions(found, &claimed) {
                conflicts.entry(self.primary(i)).or_default().insert(reason);
            }
        }
        self.answer(&matches, &conflicts)
    }

    fn primary(&self, i: usize) -> usize {
        self.primaries.get(i).copied().unwrap_or(i)
    }

    /// Compares a device with every drive on record that shares an identifying piece with it.
    fn compare_known(
        &self,
        i: usize,
        by_piece: &BTreeMap<&Piece, Vec<usize>>,
        shared_serials: &BTreeSet<&Piece>,
    ) -> Matches {
        let mut found = Matches::default();
        let Some(mine) = self.seen_pieces.get(i) else {
            return found;
        };
        let near: BTreeSet<usize> = mine
            .identifying()
            .filter_map(|piece| by_piece.get(piece))
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
                Relation::Resembles(_) | Relation::Different => {}
            }
        }
        found
    }

    /// Devices that carry the same evidence as another device that is seen now.
    fn duplicates(&self) -> BTreeMap<usize, BTreeSet<String>> {
        let mut conflicts: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for holders in index(self.seen_pieces).values() {
            for &a in holders {
                for &b in holders {
                    let (pa, pb) = (self.primary(a), self.primary(b));
                    if pa == pb {
                        continue;
                    }
                    let (Some(left), Some(right)) = (self.seen_pieces.get(a), self.seen_pieces.get(b)) else {
                        continue;
                    };
                    if let Some(words) = evidence::cannot_both_be(left, right) {
                        let reason = format!("{} has the same evidence: {words}", self.place(b));
                        conflicts.entry(pa).or_default().insert(reason);
                    }
                }
            }
        }
        conflicts
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
        let minted = self.mint_all(matches, conflicts);
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
            // A path may match where its primary does not (one of them could not be read): the drive is one.
            let same = (0..self.seen.len())
                .filter(|j| self.primary(*j) == primary)
                .filter_map(|j| matches.get(j)?.same.first().copied())
                .find_map(|k| self.known.get(k));
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
        matches: &[Matches],
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
            .filter(|i| matches.get(*i).is_some_and(|found| found.same.is_empty()))
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

/// Serials that more than one drive on record has: they tell nothing (hypervisors give one to all).
fn shared_serials(all: &[Pieces]) -> BTreeSet<&Piece> {
    let index = index(all);
    let shared = index
        .into_iter()
        .filter(|(piece, holders)| piece.kind == PieceKind::Serial && holders.len() > 1);
    shared.map(|(piece, _)| piece).collect()
}

/// An id to show a device by that has none of its own.
fn provisional(word: &str, drive: &SeenDrive<'_>) -> DriveId {
    let place = drive
        .facts
        .evidence
        .bus_path
        .as_deref()
        .unwrap_or(&drive.facts.name);
    let shared = format!("{}\0{}\0{place}", drive.node, drive.facts.name);
    DriveId::new(format!("{word}-{}", short_hash(&shared)))
}

/// The first 16 hex digits of a text's SHA-256.
fn short_hash(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest
        .as_ref()
        .iter()
        .take(8)
        .fold(String::new(), |mut hex, byte| {
            hex.push_str(&format!("{byte:02x}"));
            hex
        })
}

/// Transports on which one drive can be reached by several ports of one node.
const fn has_ports(transport: Transport) -> bool {
    matches!(
        transport,
        Transport::Sas | Transport::Fc | Transport::Iscsi | Transport::NvmeFabrics
    )
}
