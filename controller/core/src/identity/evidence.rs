//! Pieces of evidence: which of them identify, which only support, and how two drives' pieces relate.
//!
//! The same fact told twice is one piece: a WWN `eui.0025...` is the EUI-64, `nvme.8086-...` is the serial in
//! hex, `uuid...` is the NVMe UUID, and a serial may be the WWN once more. What no drive owns alone (all zero,
//! "unknown") is no piece, and neither is the port: the next drive in it has the same.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    MAX_ID, RecordedEvidence,
    normal::{self, hex_id, meaningful, world_wide_name},
    short_hash,
};
use crate::drive::NodeName;

/// What a piece of evidence is, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PieceKind {
    /// NVMe namespace EUI-64.
    Eui64,
    /// NVMe namespace GUID.
    Nguid,
    /// NVMe namespace UUID.
    NvmeUuid,
    /// SCSI or ATA world-wide name.
    Wwn,
    /// The member id of our mark.
    Mark,
    /// Vendor, model, serial and NVMe namespace together.
    Serial,
    /// A loop device's file, on its node.
    BackingFile,
    /// Device and inode of that file, on its node.
    Inode,
    /// Size in bytes.
    Size,
    /// Partition table and file systems.
    Content,
}

impl PieceKind {
    /// Whether two drives that differ in it cannot be one, and two that share it must be.
    #[must_use]
    pub const fn is_strong(self) -> bool {
        matches!(
            self,
            Self::Eui64 | Self::Nguid | Self::NvmeUuid | Self::Wwn | Self::Mark
        )
    }

    /// Whether it can say who a drive is, together with a second piece.
    #[must_use]
    pub const fn identifies(self) -> bool {
        self.is_strong() || matches!(self, Self::Serial | Self::BackingFile)
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Eui64 => "EUI-64",
            Self::Nguid => "NGUID",
            Self::NvmeUuid => "NVMe UUID",
            Self::Wwn => "WWN",
            Self::Mark => "member mark",
            Self::Serial => "serial",
            Self::BackingFile => "backing file",
            Self::Inode => "backing file's inode",
            Self::Size => "size",
            Self::Content => "partition table or file system",
        }
    }
}

/// One piece of evidence in its normal form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Piece {
    /// What it is.
    pub kind: PieceKind,
    /// Its value; equal values are equal evidence.
    pub value: String,
}

impl Piece {
    /// The id that this piece alone would make; none for a mark, which is no part of the drive.
    #[must_use]
    pub fn as_id(&self) -> Option<String> {
        let id = match self.kind {
            PieceKind::Eui64 => format!("nvme-eui.{}", self.value),
            PieceKind::Nguid => format!("nvme-nguid.{}", self.value),
            PieceKind::NvmeUuid => format!("nvme-uuid.{}", self.value),
            PieceKind::Wwn => format!("wwn-{}", self.value),
            PieceKind::Serial => format!("serial-{}", self.value),
            PieceKind::BackingFile => return Some(format!("loop-{}", short_hash(&self.value))),
            // A drive of which only our mark speaks (virtual, no serial): its first mark names it.
            PieceKind::Mark => format!("mark-{}", self.value),
            PieceKind::Inode | PieceKind::Size | PieceKind::Content => return None,
        };
        Some(legal_id(&id))
    }
}

/// An id of `[a-z0-9.-]`, hashed at its end where it was too long or lost characters.
fn legal_id(id: &str) -> String {
    let mut legal = String::new();
    for c in id.chars() {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '.') => legal.push(c),
            _ if legal.ends_with('-') => {}
            _ => legal.push('-'),
        }
    }
    // Neither dots nor dashes may meet or stand at the end: an object name is made of it.
    let legal = legal.replace("..", ".").replace(".-", "-").replace("-.", "-");
    let legal = legal.trim_end_matches(['-', '.']);
    if legal == id && legal.len() <= MAX_ID {
        return legal.to_owned();
    }
    with_hash(legal, id)
}

fn with_hash(head: &str, hashed: &str) -> String {
    let head = head.get(..head.len().min(MAX_ID - 17)).unwrap_or(head);
    format!("{}-{}", head.trim_end_matches(['-', '.']), short_hash(hashed))
}

/// A drive's evidence in normal form, at most one piece of a kind (several of content).
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces {
    by_kind: BTreeMap<PieceKind, Piece>,
    contents: BTreeSet<String>,
    serial: Option<SerialPiece>,
    /// A WWN and a serial that were told and say nothing, in words.
    worthless: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SerialPiece {
    serial: String,
    model: Option<String>,
    namespace: Option<u32>,
}

impl Pieces {
    pub(super) fn of(node: &NodeName, recorded: &RecordedEvidence) -> Self {
        let evidence = &recorded.evidence;
        let mut pieces = Self::default();
        pieces.put(PieceKind::Eui64, evidence.eui64.as_deref().and_then(hex_id));
        pieces.put(PieceKind::Nguid, evidence.nguid.as_deref().and_then(hex_id));
        pieces.put(
            PieceKind::NvmeUuid,
            evidence.nvme_uuid.as_deref().and_then(hex_id),
        );
        if let Some((kind, value)) = evidence.wwn.as_deref().and_then(world_wide_name) {
            // What Identify said wins over the kernel's rendering of it.
            pieces.by_kind.entry(kind).or_insert(Piece { kind, value });
        } else {
            pieces.doubt("WWN", evidence.wwn.as_deref());
        }
        let mark = evidence
            .mark
            .as_ref()
            .and_then(|mark| hex_id(mark.member_id.as_str()));
        pieces.put(PieceKind::Mark, mark);
        pieces.put_serial(recorded);
        let here = |value: &String| format!("{node}\0{value}");
        pieces.put(
            PieceKind::BackingFile,
            evidence
                .backing_file
                .as_ref()
                .filter(|path| !path.is_empty())
                .map(here),
        );
        pieces.put(PieceKind::Inode, evidence.backing_file_inode.as_ref().map(here));
        pieces.put(
            PieceKind::Size,
            recorded
                .size_bytes
                .filter(|size| *size > 0)
                .map(|size| size.to_string()),
        );
        let contents = evidence
            .partition_table_uuid
            .iter()
            .chain(&evidence.filesystem_uuids);
        pieces.contents = contents.filter_map(|uuid| meaningful(uuid)).collect();
        pieces
    }

    fn put(&mut self, kind: PieceKind, value: Option<String>) {
        if let Some(value) = value {
            self.by_kind.insert(kind, Piece { kind, value });
        }
    }

    fn put_serial(&mut self, recorded: &RecordedEvidence) {
        let told = recorded.evidence.serial.as_deref();
        let Some(serial) = told.and_then(normal::serial) else {
            self.doubt("serial", told);
            return;
        };
        let model = recorded.model.as_deref().and_then(meaningful);
        let namespace = recorded.evidence.nvme_namespace;
        if let Some(model) = &model {
            let vendor = recorded
                .vendor
                .as_deref()
                .and_then(meaningful)
                .filter(|vendor| vendor != "ata");
            let words = vendor.into_iter().chain([model.clone(), serial.clone()]);
            let mut value = words.collect::<Vec<_>>().join("-");
            if let Some(namespace) = namespace {
                value.push_str(&format!("-n{namespace}"));
            }
            self.put(PieceKind::Serial, Some(value));
        }
        self.serial = Some(SerialPiece {
            serial,
            model,
            namespace,
        });
    }

    fn doubt(&mut self, what: &str, told: Option<&str>) {
        const SHOWN: usize = 48;
        let text: String = told.unwrap_or_default().trim().chars().take(SHOWN).collect();
        if !text.is_empty() {
            self.worthless.push(format!("{what} {text:?}"));
        }
    }

    /// Its serial's text, where vendor and model are not asked for.
    pub(super) fn serial_text(&self) -> Option<&str> {
        self.serial.as_ref().map(|serial| serial.serial.as_str())
    }

    /// The same, where there is a model to go with it.
    pub(super) fn named_serial(&self) -> Option<&str> {
        self.get(PieceKind::Serial).and_then(|_| self.serial_text())
    }

    /// Whether its serial is its WWN or NVMe id once more, and no second piece.
    fn serial_repeats(&self) -> bool {
        let serial = self.serial_text().map(|text| text.trim_start_matches("0x"));
        self.get(PieceKind::Serial).is_some()
            && self
                .by_kind
                .values()
                .any(|piece| piece.kind.is_strong() && serial == Some(piece.value.as_str()))
    }

    fn get(&self, kind: PieceKind) -> Option<&Piece> {
        self.by_kind.get(&kind)
    }

    /// Whether its piece of this kind is a name that its vendor made up (t10), and not a world-wide one.
    pub(super) fn is_of_its_vendor(&self, kind: PieceKind) -> bool {
        self.get(kind)
            .is_some_and(|piece| piece.value.starts_with("t10."))
    }

    /// Pieces that can say who it is, strongest first.
    pub(super) fn identifying(&self) -> impl Iterator<Item = &Piece> {
        self.by_kind.values().filter(|piece| piece.kind.identifies())
    }

    pub(super) fn any_in(&self, set: &BTreeSet<&Piece>) -> bool {
        self.by_kind.values().any(|piece| set.contains(piece))
    }

    /// A new id from the strongest piece, where a second independent piece is there to find it again by.
    pub(super) fn mint(&self) -> Option<String> {
        let id = self.identifying().next()?.as_id()?;
        let repeated = usize::from(self.serial_repeats());
        (self.by_kind.len() - repeated >= 2).then_some(id)
    }

    /// The id, told apart from an equal one by a hash of everything that lasts.
    pub(super) fn longer(&self, id: &str) -> String {
        let all: Vec<String> = self
            .by_kind
            .values()
            .map(|piece| format!("{:?}={}", piece.kind, piece.value))
            .collect();
        with_hash(id, &all.join("\0"))
    }

    pub(super) fn what_is_missing(&self) -> String {
        let words = self.missing_words();
        if self.worthless.is_empty() {
            return words;
        }
        format!(
            "{words}; its {} is no drive's own; an id of its own, set where the drive is made, would help",
            self.worthless.join(" and its ")
        )
    }

    fn missing_words(&self) -> String {
        match self.identifying().next() {
            None if self.serial.is_some() => {
                "its serial alone is no identity: vendor, model or an NVMe id, WWN is missing".to_owned()
            }
            None => "it shows no NVMe id, no WWN, no serial, and no mark of ours".to_owned(),
            Some(piece) => format!(
                "its {} alone is no identity: a second piece (its size, a serial) could not be read",
                piece.kind.words()
            ),
        }
    }
}

/// How a device relates to a drive on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Relation {
    /// Two independent pieces agree, one of them strong or a file, and nothing contradicts.
    Same,
    /// The same, but of what identifies only the serial agrees.
    SameSerial,
    /// A strong piece agrees and another contradicts.
    Clash(String),
    /// Serial and another piece agree, a strong piece contradicts.
    Resembles(String),
    /// One identifying piece agrees, and nothing else does.
    TooLittle(String),
    /// The serial's text agrees, its vendor, model or namespace does not or is not told.
    Renamed {
        /// What agrees.
        words: String,
        /// The model agrees too.
        same_model: bool,
    },
    /// Another drive.
    Different,
}

pub(super) struct Comparison {
    pub(super) agree: Vec<PieceKind>,
    pub(super) differ: Vec<PieceKind>,
    /// The serial that agrees is the WWN once more.
    repeated: bool,
    /// The serials are one text, but vendor, model or namespace are not the same or not all told.
    renamed: bool,
    /// The models are the same.
    same_model: bool,
}

impl Comparison {
    pub(super) fn of(a: &Pieces, b: &Pieces) -> Self {
        let mut found = Self {
            agree: Vec::new(),
            differ: Vec::new(),
            repeated: false,
            renamed: false,
            same_model: false,
        };
        for (kind, left) in &a.by_kind {
            match b.get(*kind) {
                Some(right) if left == right => found.agree.push(*kind),
                // A serial differs by its own text and namespace only: models and vendors are rewritten.
                Some(_) if *kind != PieceKind::Serial => found.differ.push(*kind),
                _ => {}
            }
        }
        if let (Some(left), Some(right)) = (&a.serial, &b.serial) {
            let namespaces = matches!((left.namespace, right.namespace), (Some(l), Some(r)) if l != r);
            if left.serial != right.serial || namespaces {
                found.differ.push(PieceKind::Serial);
            } else if !found.agree.contains(&PieceKind::Serial) {
                found.renamed = true;
            }
            found.same_model = left.model.is_some() && left.model == right.model;
        }
        found.repeated =
            found.strong_agree() && found.agree.contains(&PieceKind::Serial) && a.serial_repeats();
        // The file's path and its inode are two pieces; a partition table and its file systems are one.
        if a.contents.intersection(&b.contents).next().is_some() && !found.agree.contains(&PieceKind::Mark) {
            found.agree.push(PieceKind::Content);
        }
        found
    }

    /// Pieces that agree, what is told twice counted once.
    fn agreeing(&self) -> usize {
        self.agree.len() - usize::from(self.repeated)
    }

    fn strong_agree(&self) -> bool {
        self.agree.iter().any(|kind| kind.is_strong())
    }

    /// What differs that one drive cannot have two of.
    pub(super) fn contradicts(&self) -> bool {
        self.differ
            .iter()
            .any(|kind| kind.is_strong() || *kind == PieceKind::Serial)
    }

    fn words(&self) -> String {
        let list = |kinds: &[PieceKind]| {
            kinds
                .iter()
                .map(|kind| kind.words())
                .collect::<Vec<_>>()
                .join(" and ")
        };
        if self.renamed && !self.agree.iter().any(|kind| kind.identifies()) {
            let others = self.agree.iter().map(|kind| format!(" and {}", kind.words()));
            return format!(
                "the same serial{} under another vendor, model or namespace number",
                others.collect::<String>()
            );
        }
        if self.differ.is_empty() {
            return format!("the same {}", list(&self.agree));
        }
        format!(
            "the same {}, but another {}",
            list(&self.agree),
            list(&self.differ)
        )
    }
}

/// How a seen device relates to a drive on record.
pub(super) fn relate(seen: &Pieces, known: &Pieces) -> Relation {
    let found = Comparison::of(seen, known);
    let identified = found.agree.iter().any(|kind| kind.identifies());
    let agreeing = found.agreeing();
    if !identified {
        let had_a_name = known.named_serial().is_some();
        let doubt = found.renamed && had_a_name && (found.same_model || agreeing > 0) && !found.contradicts();
        if doubt {
            return Relation::Renamed {
                words: found.words(),
                same_model: found.same_model,
            };
        }
        return Relation::Different;
    }
    let file = found.agree.contains(&PieceKind::BackingFile);
    match (found.contradicts(), found.strong_agree()) {
        (false, strong) if agreeing >= 2 && (strong || file) => Relation::Same,
        (false, _) if agreeing >= 2 => Relation::SameSerial,
        // A file of another size and inode under an old name is another drive; anything else is doubt.
        (false, false) if file => Relation::Different,
        (false, _) => Relation::TooLittle(found.words()),
        (true, true) => Relation::Clash(found.words()),
        (true, false) if agreeing >= 2 => Relation::Resembles(found.words()),
        (true, false) => Relation::Different,
    }
}

/// What says that a device is not a drive on record, whatever else agrees.
pub(super) fn contradiction(seen: &Pieces, known: &Pieces) -> Option<String> {
    let found = Comparison::of(seen, known);
    found.contradicts().then(|| found.words())
}

/// Why two devices that are both seen now cannot be told apart, where that is so.
pub(super) fn cannot_both_be(a: &Pieces, b: &Pieces) -> Option<String> {
    let found = Comparison::of(a, b);
    let identified = found.agree.iter().any(|kind| kind.identifies());
    let told_apart = found.contradicts()
        || (found.agree.contains(&PieceKind::BackingFile) && found.differ.contains(&PieceKind::Inode));
    let named = identified || (found.renamed && found.same_model);
    (named && (found.strong_agree() || !told_apart)).then(|| found.words())
}
