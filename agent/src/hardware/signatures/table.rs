//! Partition tables: GPT (both copies, blocks of 512 and 4096 bytes) and MBR with its logical partitions.
//!
//! A table whose checksums are wrong is still a table, but it bears no mark of ours.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Mark, Source, View};

/// Entries that are read from a table; more are not to be believed.
const MAX_ENTRIES: u32 = 256;

/// Which sort of table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableKind {
    /// GUID partition table.
    Gpt,
    /// MBR (DOS) partition table.
    Mbr,
}

/// One partition as the table describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Number, from 1, as the kernel counts.
    pub number: u32,
    /// GPT: type GUID, lower-case. MBR: two hex digits.
    pub type_id: String,
    /// GPT: partition GUID, lower-case.
    pub uuid: Option<String>,
    /// GPT: name.
    pub name: String,
    /// Where it begins, in bytes.
    pub start_bytes: u64,
    /// How long it is, in bytes.
    pub length_bytes: u64,
}

impl Entry {
    /// Whether a byte of the device lies in it. Partitions that begin at 0 (hybrid images) hold nothing of their own.
    pub(super) fn holds(&self, offset: u64) -> bool {
        self.start_bytes > 0
            && offset
                .checked_sub(self.start_bytes)
                .is_some_and(|at| at < self.length_bytes)
    }
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Which sort.
    pub kind: TableKind,
    /// GPT disk GUID, or MBR disk signature (8 hex digits); none where it is zero.
    pub uuid: Option<String>,
    /// Its partitions, by number.
    pub entries: Vec<Entry>,
    /// GPT: the copy at the beginning is right.
    pub primary_valid: bool,
    /// GPT: the copy at the end is right.
    pub backup_valid: bool,
}

impl Table {
    /// In words.
    pub fn description(&self) -> String {
        let count = match self.entries.len() {
            0 => "without partitions".to_owned(),
            1 => "with 1 partition".to_owned(),
            n => format!("with {n} partitions"),
        };
        let state = match (self.kind, self.primary_valid, self.backup_valid) {
            (TableKind::Mbr, ..) => return format!("MBR partition table {count}"),
            (_, true, true) => "",
            (_, true, false) => " (backup missing or damaged)",
            (_, false, true) => " (only the backup at the end is left)",
            (_, false, false) => " (damaged)",
        };
        format!("GPT partition table {count}{state}")
    }

    /// Our mark, where a copy with right checksums bears it.
    pub(super) fn mark(&self) -> Option<Mark> {
        if !(self.primary_valid || self.backup_valid) {
            return None;
        }
        self.entries.iter().find_map(|entry| {
            let released = entry.type_id == smart_storage_proto::RELEASED_PARTITION_TYPE;
            let ours = released || entry.type_id == smart_storage_proto::MEMBER_PARTITION_TYPE;
            ours.then(|| Mark {
                member_id: entry.uuid.clone().unwrap_or_default(),
                label: entry.name.clone(),
                partition: entry.number,
                released,
            })
        })
    }
}

/// The table of a device, if there is one. `formatted`: a file system was recognised on the whole device; then a
/// boot sector without partitions is that file system's and no table.
pub(super) fn read<S: Source + ?Sized>(view: &View<'_, S>, formatted: bool) -> Option<Table> {
    gpt(view).or_else(|| mbr(view, formatted))
}

fn gpt<S: Source + ?Sized>(view: &View<'_, S>) -> Option<Table> {
    [512_u64, 4096]
        .into_iter()
        .find_map(|block| gpt_in_blocks(view, block))
}

/// The GPT of a device whose logical blocks have that many bytes.
pub(super) fn gpt_in_blocks<S: Source + ?Sized>(view: &View<'_, S>, block: u64) -> Option<Table> {
    let last = (view.length / block).checked_sub(1)?.checked_mul(block)?;
    let primary = gpt_copy(view, block, block);
    let backup = gpt_copy(view, block, last);
    let primary_valid = primary.as_ref().is_some_and(|copy| copy.valid);
    let backup_valid = backup.as_ref().is_some_and(|copy| copy.valid);
    let best = if primary_valid || !backup_valid {
        primary.or(backup)
    } else {
        backup
    }?;
    Some(Table {
        kind: TableKind::Gpt,
        uuid: best.uuid,
        entries: best.entries,
        primary_valid,
        backup_valid,
    })
}

struct Copy {
    valid: bool,
    uuid: Option<String>,
    entries: Vec<Entry>,
}

fn gpt_copy<S: Source + ?Sized>(view: &View<'_, S>, block: u64, at: u64) -> Option<Copy> {
    if !view.is(at, b"EFI PART") {
        return None;
    }
    let damaged = Copy {
        valid: false,
        uuid: None,
        entries: Vec::new(),
    };
    Some(gpt_body(view, block, at).unwrap_or(damaged))
}

fn gpt_body<S: Source + ?Sized>(view: &View<'_, S>, block: u64, at: u64) -> Option<Copy> {
    let header_len = view.u32_le(at + 12).filter(|len| (92..=512).contains(len))?;
    let mut header = view.bytes(at, header_len as usize)?;
    header.get_mut(16..20)?.fill(0);
    let header_right = view.u32_le(at + 16)? == crc32(&header) && view.u64_le(at + 24)? == at / block;
    let uuid = view.array::<16>(at + 56).and_then(guid);
    let entries_at = view.u64_le(at + 72)?.checked_mul(block)?;
    let count = view.u32_le(at + 80)?;
    let entry_len = view
        .u32_le(at + 84)
        .filter(|len| (128..=4096).contains(len) && len % 128 == 0)?;
    let array = view.bytes(
        entries_at,
        (count.min(MAX_ENTRIES) as usize).checked_mul(entry_len as usize)?,
    )?;
    let valid = header_right && count <= MAX_ENTRIES && view.u32_le(at + 88)? == crc32(&array);
    let entries = array
        .chunks_exact(entry_len as usize)
        .zip(1..)
        .filter_map(|(bytes, number)| gpt_entry(bytes, number, block))
        .collect();
    Some(Copy { valid, uuid, entries })
}

fn gpt_entry(bytes: &[u8], number: u32, block: u64) -> Option<Entry> {
    let field = |at: usize| bytes.get(at..)?.first_chunk::<16>().copied();
    let number_at = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk::<8>()?));
    let type_id = guid(field(0)?)?;
    let (first, last) = (number_at(32)?, number_at(40)?);
    let units: Vec<u16> = bytes
        .get(56..128)?
        .chunks_exact(2)
        .filter_map(|pair| pair.first_chunk::<2>().map(|p| u16::from_le_bytes(*p)))
        .take_while(|unit| *unit != 0)
        .collect();
    Some(Entry {
        number,
        type_id,
        uuid: field(16).and_then(guid),
        name: String::from_utf16_lossy(&units)
            .chars()
            .filter(|c| !c.is_control())
            .collect(),
        start_bytes: first.checked_mul(block)?,
        length_bytes: last.checked_sub(first)?.checked_add(1)?.checked_mul(block)?,
    })
}

fn guid(bytes: [u8; 16]) -> Option<String> {
    (bytes != [0; 16]).then(|| Uuid::from_bytes_le(bytes).to_string())
}

fn mbr<S: Source + ?Sized>(view: &View<'_, S>, formatted: bool) -> Option<Table> {
    let sector = boot_sector(view, 0)?;
    let primary: Vec<(u32, [u8; 16])> = (1..)
        .zip(
            sector
                .get(446..510)?
                .chunks_exact(16)
                .filter_map(|e| e.first_chunk().copied()),
        )
        .collect();
    let plausible = primary.iter().all(|(_, entry)| entry[0] & 0x7f == 0);
    let mut entries = Vec::new();
    if plausible {
        for (number, raw) in &primary {
            let Some(entry) = mbr_entry(raw, *number, 0) else {
                continue;
            };
            if is_extended(&entry) {
                entries.extend(logical(view, entry.start_bytes));
            }
            entries.push(entry);
        }
    }
    if entries.is_empty() && formatted {
        return None;
    }
    entries.sort_by_key(|entry| entry.number);
    let signature = u32::from_le_bytes(*sector.get(440..)?.first_chunk()?);
    Some(Table {
        kind: TableKind::Mbr,
        uuid: (signature != 0).then(|| format!("{signature:08x}")),
        entries,
        primary_valid: true,
        backup_valid: true,
    })
}

fn boot_sector<S: Source + ?Sized>(view: &View<'_, S>, at: u64) -> Option<Vec<u8>> {
    view.bytes(at, 512)
        .filter(|sector| sector.ends_with(&[0x55, 0xaa]))
}

/// Logical partitions hang on a chain of boot sectors; one that loops is cut.
fn logical<S: Source + ?Sized>(view: &View<'_, S>, extended: u64) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut at = extended;
    for number in 5..69 {
        let Some(sector) = boot_sector(view, at) else {
            break;
        };
        let raw = |index: usize| sector.get(446 + index * 16..)?.first_chunk::<16>();
        entries.extend(raw(0).and_then(|raw| mbr_entry(raw, number, at)));
        let Some(next) = raw(1)
            .and_then(|raw| mbr_entry(raw, 0, extended))
            .filter(is_extended)
        else {
            break;
        };
        if next.start_bytes <= at {
            break;
        }
        at = next.start_bytes;
    }
    entries
}

fn is_extended(entry: &Entry) -> bool {
    matches!(entry.type_id.as_str(), "05" | "0f" | "85")
}

fn mbr_entry(raw: &[u8; 16], number: u32, base: u64) -> Option<Entry> {
    let word = |at: usize| Some(u64::from(u32::from_le_bytes(*raw.get(at..)?.first_chunk()?)));
    let (start, sectors) = (word(8)?, word(12)?);
    (raw[4] != 0 && sectors != 0).then(|| Entry {
        number,
        type_id: format!("{:02x}", raw[4]),
        uuid: None,
        name: String::new(),
        start_bytes: base.saturating_add(start * 512),
        length_bytes: sectors * 512,
    })
}

/// CRC-32 (IEEE 802.3), as GPT uses it.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| {
        if crc & 1 == 1 {
            (crc >> 1) ^ 0xedb8_8320
        } else {
            crc >> 1
        }
    };
    !bytes
        .iter()
        .fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::crc32;

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
