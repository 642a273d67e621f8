//! What is written on a device: partition tables, file systems, RAID, volume managers, encryption, our own mark,
//! or nothing at all.
//!
//! [`examine`] only reads, through anything that can be read at an offset: a device, a file, a descriptor that is
//! already held exclusively, a slice. For the picture it reads the first and the last 16 MiB, every place where a known
//! format keeps its superblock or a copy of it, and 256 samples in between; for the proof before a write,
//! [`examine_closely`] reads all of a device of up to 16 GiB, and much more of a larger one ([`Reading`]). What was not
//! read is not spoken of. Bytes that are neither zero nor known are reported as such. Malformed bytes are never an
//! error.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use super::Mark;

mod blank;
mod magic;
mod table;

pub use blank::{EDGE_BYTES, Reading};
pub use table::{Entry, Table, TableKind};

/// Partitions that are looked into; a table that claims more is reported with its number.
const MAX_PARTITIONS: usize = 128;

/// Anything that can be read at an offset.
pub trait Source {
    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// Where not all of it could be read.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

impl Source for std::fs::File {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }
}

impl Source for [u8] {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let found = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..)?.get(..buf.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(found);
        Ok(())
    }
}

/// One thing that was recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// What it is, in words: "ext4 file system", "LVM physical volume of vg0".
    pub description: String,
    /// Its UUID, where it is a file system.
    pub filesystem_uuid: Option<String>,
    /// Byte offset on the device at which it was recognised.
    pub offset: u64,
    /// Number of the partition in which it lies; none: on the whole device.
    pub partition: Option<u32>,
}

/// What an examination found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Size that was examined, in bytes.
    pub size_bytes: u64,
    /// Everything that was recognised.
    pub signatures: Vec<Signature>,
    /// The partition table, if there is one.
    pub table: Option<Table>,
    /// Our mark, from a table whose checksums are right.
    pub mark: Option<Mark>,
    /// Offset of the first non-zero byte, where nothing was recognised and the device is not blank.
    pub unknown_data_at: Option<u64>,
    /// What could not be read. With any of these nothing is blank.
    pub errors: Vec<String>,
}

impl Findings {
    /// Proven to be blank: everything that had to be read was read, and nothing was there. `None` where reading
    /// failed and nothing else speaks against it.
    pub fn blank(&self) -> Option<bool> {
        if !self.signatures.is_empty() || self.table.is_some() || self.unknown_data_at.is_some() {
            Some(false)
        } else if self.errors.is_empty() && self.size_bytes > 0 {
            Some(true)
        } else {
            None
        }
    }

    /// Everything found, in one line for a person.
    pub fn summary(&self) -> String {
        let mut words = String::new();
        if let Some(table) = &self.table {
            let _ = write!(words, "{}", table.description());
        }
        for signature in &self.signatures {
            let separator = if words.is_empty() { "" } else { ", " };
            let _ = write!(words, "{separator}{}", signature.description);
        }
        if let Some(offset) = self.unknown_data_at {
            let _ = write!(words, "unknown data at byte {offset}");
        }
        for error in &self.errors {
            let separator = if words.is_empty() { "" } else { ", " };
            let _ = write!(words, "{separator}{error}");
        }
        words
    }
}

/// Reads what is on a device of `size` bytes, at most about 40 MiB of it.
pub fn examine<S: Source + ?Sized>(source: &S, size: u64) -> Findings {
    examine_as(source, size, Reading::GLANCE)
}

/// Reads what is on a device of `size` bytes as closely as can be afforded once, before the first write.
pub fn examine_closely<S: Source + ?Sized>(source: &S, size: u64) -> Findings {
    examine_as(source, size, Reading::PROOF)
}

fn examine_as<S: Source + ?Sized>(source: &S, size: u64, reading: Reading) -> Findings {
    let mut findings = Findings {
        size_bytes: size,
        ..Findings::default()
    };
    let whole = View::new(source, 0, size);
    findings.signatures = magic::recognise(&whole, None);
    findings.table = table::read(&whole, !findings.signatures.is_empty());
    if let Some(table) = &findings.table {
        findings.mark = table.mark();
        // A copy of a superblock that lies within a partition is that partition's, not the whole device's.
        findings
            .signatures
            .retain(|signature| !table.entries.iter().any(|entry| entry.holds(signature.offset)));
        for entry in table.entries.iter().take(MAX_PARTITIONS) {
            let end = entry.start_bytes.saturating_add(entry.length_bytes).min(size);
            let Some(length) = end.checked_sub(entry.start_bytes).filter(|length| *length > 0) else {
                continue;
            };
            let view = View::new(source, entry.start_bytes, length);
            let inside = magic::recognise(&view, Some(entry.number));
            // An MBR's first partition may start at 0 (hybrid images): then it is the whole disk once more.
            if entry.start_bytes > 0 {
                findings.signatures.extend(inside);
            }
            findings.errors.extend(view.into_errors());
        }
    }
    findings.errors.extend(whole.into_errors());
    if findings.signatures.is_empty() && findings.table.is_none() {
        match blank::first_data(source, size, reading) {
            Ok(offset) => findings.unknown_data_at = offset,
            Err(error) => findings.errors.push(error),
        }
    }
    findings.errors.sort();
    findings.errors.dedup();
    findings
}

/// The GPT of a device of `size` bytes whose logical blocks have `block` bytes: no more of it is read than can be
/// believed, whatever its numbers say.
///
/// # Errors
/// Where a part of it could not be read, and no copy is right.
pub(crate) fn gpt<S: Source + ?Sized>(source: &S, size: u64, block: u64) -> io::Result<Option<Table>> {
    let view = View::new(source, 0, size);
    let table = table::gpt_in_blocks(&view, block);
    let right = table
        .as_ref()
        .is_some_and(|table| table.primary_valid || table.backup_valid);
    match view.into_errors().pop() {
        Some(error) if !right => Err(io::Error::other(error)),
        _ => Ok(table),
    }
}

/// A stretch of a source: the whole device or one partition. Reading outside of it answers nothing; a read that
/// failed is remembered.
struct View<'a, S: Source + ?Sized> {
    source: &'a S,
    base: u64,
    length: u64,
    head: Vec<u8>,
    errors: std::cell::RefCell<Vec<String>>,
}

impl<'a, S: Source + ?Sized> View<'a, S> {
    /// Enough for nearly every superblock: one read instead of fifty.
    const HEAD_BYTES: u64 = 72 << 10;

    fn new(source: &'a S, base: u64, length: u64) -> Self {
        let mut view = Self {
            source,
            base,
            length,
            head: Vec::new(),
            errors: std::cell::RefCell::default(),
        };
        let head = view
            .bytes(0, Self::HEAD_BYTES.min(length) as usize)
            .unwrap_or_default();
        view.head = head;
        view
    }

    /// `count` bytes at `offset` of this stretch.
    fn bytes(&self, offset: u64, count: usize) -> Option<Vec<u8>> {
        if offset.checked_add(count as u64)? > self.length {
            return None;
        }
        if let Some(found) = usize::try_from(offset)
            .ok()
            .and_then(|at| self.head.get(at..)?.get(..count))
        {
            return Some(found.to_vec());
        }
        let at = self.base.checked_add(offset)?;
        let mut buf = vec![0_u8; count];
        match self.source.read_exact_at(at, &mut buf) {
            Ok(()) => Some(buf),
            Err(error) => {
                self.errors
                    .borrow_mut()
                    .push(format!("reading {count} bytes at byte {at}: {error}"));
                None
            }
        }
    }

    fn array<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        self.bytes(offset, N)?.try_into().ok()
    }

    fn u32_le(&self, offset: u64) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn u32_be(&self, offset: u64) -> Option<u32> {
        self.array(offset).map(u32::from_be_bytes)
    }

    fn u64_le(&self, offset: u64) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }

    fn is(&self, offset: u64, magic: &[u8]) -> bool {
        self.bytes(offset, magic.len())
            .is_some_and(|found| found == magic)
    }

    /// A UUID in its text form; none where it is all zero.
    fn uuid(&self, offset: u64) -> Option<String> {
        self.array::<16>(offset)
            .filter(|id| *id != [0; 16])
            .map(|id| uuid::Uuid::from_bytes(id).to_string())
    }

    /// Text up to the first NUL, without control characters; none where it is empty.
    fn text(&self, offset: u64, count: usize) -> Option<String> {
        let bytes = self.bytes(offset, count)?;
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let text: String = String::from_utf8_lossy(text)
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn into_errors(self) -> Vec<String> {
        self.errors.into_inner()
    }
}

#[cfg(test)]
mod tests;
