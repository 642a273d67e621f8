//! The marks on drives, read from their bytes by hand: not by the code that wrote them.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use smart_storage_proto::{MEMBER_PARTITION_TYPE, RELEASED_PARTITION_TYPE};

const BLOCK: u64 = 512;
const SIGNATURE: &[u8] = b"EFI PART";

/// A mark of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The file behind the drive.
    pub drive: String,
    /// The member's id.
    pub member: String,
    /// Whether it says that the member was released.
    pub released: bool,
    /// Whether one copy at least says so.
    pub going: bool,
    /// Whether both copies of the table say the same.
    pub whole: bool,
}

/// The mark on a drive, if either copy of its table has one.
///
/// # Errors
/// The drive cannot be read.
pub fn read(path: &Path) -> io::Result<Option<Mark>> {
    let file = File::open(path)?;
    let blocks = file.metadata()?.len() / BLOCK;
    let copies = [
        entry(&file, 1, blocks)?,
        entry(&file, blocks.saturating_sub(1), blocks)?,
    ];
    let [primary, backup] = &copies;
    let Some(found) = primary.as_ref().or(backup.as_ref()) else {
        return Ok(None);
    };
    let (kind, member) = found;
    Ok(Some(Mark {
        drive: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        member: member.clone(),
        released: kind == RELEASED_PARTITION_TYPE,
        going: copies
            .iter()
            .flatten()
            .any(|(kind, _)| kind == RELEASED_PARTITION_TYPE),
        whole: primary == backup,
    }))
}

/// Type and GUID of the first partition, where it is one of ours, by the table whose header is in that block.
fn entry(file: &File, header_at: u64, blocks: u64) -> io::Result<Option<(String, String)>> {
    let mut header = [0; 92];
    file.read_exact_at(&mut header, header_at * BLOCK)?;
    if !header.starts_with(SIGNATURE) {
        return Ok(None);
    }
    let entries_at = header
        .get(72..80)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_le_bytes);
    let Some(entries_at) = entries_at.filter(|at| *at < blocks) else {
        return Ok(None);
    };
    let mut entry = [0; 32];
    file.read_exact_at(&mut entry, entries_at * BLOCK)?;
    let (kind, member) = entry.split_at(16);
    let kind = guid(kind);
    let ours = kind == MEMBER_PARTITION_TYPE || kind == RELEASED_PARTITION_TYPE;
    Ok(ours.then(|| (kind, guid(member))))
}

/// A GUID as GPT writes it: the first three parts are little-endian.
fn guid(bytes: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::new();
    for (position, index) in order.into_iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", bytes.get(index).copied().unwrap_or_default()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::guid;

    #[test]
    fn a_guid_is_read_in_its_mixed_order() {
        let bytes = [
            0xf6, 0xd8, 0xa9, 0xc0, 0x1e, 0x5b, 0x57, 0x4d, 0x9c, 0x1a, 0x53, 0xe2, 0x7b, 0x0f, 0x6a, 0x11,
        ];
        assert_eq!(guid(&bytes), super::MEMBER_PARTITION_TYPE);
    }
}
