//! Who a drive is: evidence to a stable id, across renames, moved slots, moved nodes and kernel updates.
//!
//! A drive that was seen before is found again when at least two independent pieces of evidence agree, one of
//! them a piece that identifies (an NVMe id, a WWN, our mark, vendor + model + serial, a loop device's file), and
//! no strong piece contradicts. It keeps the id that it was first given; new evidence becomes an alias.
//!
//! It never takes a kernel name, a port or a serial alone for identity, never counts an id that many drives
//! share (all zero, "unknown", the number of a hypervisor's slot), and never guesses: two devices with the same evidence, or evidence that
//! contradicts, are a conflict that both of them show. The answer does not depend on names or order.

mod evidence;
mod memory;
mod normal;
mod paths;
mod resolver;

use std::collections::BTreeSet;

use ring::digest;
use serde::{Deserialize, Serialize};

pub use self::evidence::{Piece, PieceKind};
use self::{evidence::Pieces, resolver::Resolver};
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
    /// drive is seen to be blank. Vendor, model, serial and namespace are one piece: what was never seen together is
    /// never put together.
    #[must_use]
    pub fn absorb(&self, facts: &DriveFacts) -> Self {
        let seen = Self::of(facts);
        let blank = facts.usage.blank.is(&true);
        let named = self.named_by(&seen);
        let (new, old) = (seen.evidence, &self.evidence);
        let displaced = normal::displaced(new.wwn.as_deref(), old.wwn.as_deref());
        let told_as = |kind| displaced.clone().filter(|(of, _)| *of == kind).map(|(_, id)| id);
        let kept = |old: &Option<String>| if blank { None } else { old.clone() };
        Self {
            evidence: Evidence {
                nguid: new
                    .nguid
                    .or_else(|| old.nguid.clone())
                    .or_else(|| told_as(PieceKind::Nguid)),
                eui64: new
                    .eui64
                    .or_else(|| old.eui64.clone())
                    .or_else(|| told_as(PieceKind::Eui64)),
                nvme_uuid: new
                    .nvme_uuid
                    .or_else(|| old.nvme_uuid.clone())
                    .or_else(|| told_as(PieceKind::NvmeUuid)),
                wwn: normal::better_wwn(new.wwn, old.wwn.clone()),
                serial: named.serial,
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
                nvme_namespace: named.namespace,
            },
            vendor: named.vendor,
            model: named.model,
            size_bytes: seen.size_bytes.or(self.size_bytes),
        }
    }

    /// The name to remember, out of one sight: the newer one of another serial, the fuller one of the same.
    fn named_by(&self, seen: &Self) -> Name {
        let (new, old) = (Name::of(seen), Name::of(self));
        let kept = match (&new.serial, &old.serial) {
            (None, Some(_)) => true,
            (new_serial, old_serial) if new_serial != old_serial => false,
            _ => old.told() > new.told(),
        };
        if kept { old } else { new }
    }
}

/// What makes up the serial as a piece of evidence.
struct Name {
    vendor: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    namespace: Option<u32>,
}

impl Name {
    fn of(recorded: &RecordedEvidence) -> Self {
        Self {
            vendor: recorded.vendor.clone(),
            model: recorded.model.clone(),
            serial: recorded.evidence.serial.clone(),
            namespace: recorded.evidence.nvme_namespace,
        }
    }

    fn told(&self) -> usize {
        let texts = [&self.vendor, &self.model, &self.serial];
        texts.into_iter().flatten().count() + usize::from(self.namespace.is_some())
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
        let mut before = self.evidence.clone();
        if *node != self.node {
            // A file's path and inode speak of the node that has it.
            before.evidence.backing_file = None;
            before.evidence.backing_file_inode = None;
        }
        Self {
            id: self.id.clone(),
            evidence: before.absorb(facts),
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
/// `known` is every drive on record in the whole fleet, `seen` every device that can be seen now. A device that is
/// left out of `seen` cannot be found to be a duplicate. Equal sets give equal answers in any order.
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
    let primaries = paths::group(seen, &seen_pieces);
    let state = Resolver {
        known,
        seen,
        known_pieces: &known_pieces,
        seen_pieces: &seen_pieces,
        primaries: &primaries,
    };
    state.run()
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

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
