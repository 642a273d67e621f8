//! The mark: a GPT, both copies, with one partition whose type is ours and whose GUID is the member's id.
//!
//! An image is made in memory first, from recorded ids only, so that the same order always gives the same
//! bytes: what a crash left half-written can be recognised, sector by sector, as our own and nothing else.
//! This module writes sectors of such an image and never anything else.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use gpt::disk::LogicalBlockSize;
use gpt::partition_types::{OperatingSystem, Type};
use smart_storage_proto::{MEMBER_PARTITION_TYPE, RELEASED_PARTITION_TYPE};
use thiserror::Error;
use uuid::Uuid;

use super::MemberId;
use crate::hardware::signatures::Source;

/// Alignment of the partition's start and end, bytes.
const ALIGNMENT: u64 = 1 << 20;

/// A GPT partition name has room for this many UTF-16 units.
const LABEL_UNITS: usize = 36;

/// Size of a drive and of its logical blocks, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub size: u64,
    pub block: u64,
}

/// Why a mark could not be made, read or written.
#[derive(Debug, Error)]
pub(super) enum MarkError {
    #[error("logical blocks of {0} bytes cannot carry a GPT (512 and 4096 can)")]
    BlockSize(u64),
    #[error("a drive of {0} bytes has no room for the mark and a partition")]
    TooSmall(u64),
    #[error("the partition table could not be built or read: {0}")]
    Table(#[from] gpt::GptError),
    #[error("the protective MBR could not be built: {0}")]
    Mbr(String),
    #[error("the drive does not carry the mark of member {0}")]
    NotOurs(MemberId),
    #[error("block {0} reads back differently from what was written")]
    ReadBack(u64),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The mark as it is on a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundMark {
    pub member: MemberId,
    pub released: bool,
    /// Where the partition starts, bytes.
    pub start: u64,
    /// How long the partition is, bytes.
    pub length: u64,
}

/// Sectors to be written, by block number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MarkImage {
    geometry: Geometry,
    blocks: BTreeMap<u64, Vec<u8>>,
}

/// `<cluster id, first 8>/<pool>`, cut to what a partition name can hold.
pub(super) fn label(cluster_id: &str, pool: &str) -> String {
    let cluster: String = cluster_id.chars().take(8).collect();
    let mut label = String::new();
    let mut units = 0;
    for character in cluster.chars().chain(['/']).chain(pool.chars()) {
        units += character.len_utf16();
        if units > LABEL_UNITS {
            break;
        }
        label.push(character);
    }
    label
}

impl MarkImage {
    /// The mark for a blank drive.
    pub fn new(
        geometry: Geometry,
        disk_guid: Uuid,
        member: MemberId,
        label: &str,
    ) -> Result<Self, MarkError> {
        let mut drive = MemoryDrive::new(geometry, None);
        let blocks = (geometry.size / geometry.block).saturating_sub(1);
        gpt::mbr::ProtectiveMBR::with_lb_size(u32::try_from(blocks).unwrap_or(u32::MAX))
            .overwrite_lba0(&mut drive)
            .map_err(|error| MarkError::Mbr(error.to_string()))?;
        let mut table = gpt::GptConfig::new()
            .writable(true)
            .logical_block_size(block_size(geometry)?)
            .create_from_device(drive, Some(disk_guid))?;
        let usable = table.header().last_usable;
        let first = ALIGNMENT / geometry.block;
        let length = (usable + 1).saturating_sub(first) / first * first;
        if length == 0 {
            return Err(MarkError::TooSmall(geometry.size));
        }
        table.add_partition_at(label, 1, first, length, member_type(MEMBER_PARTITION_TYPE), 0)?;
        let mut partitions = table.take_partitions();
        for partition in partitions.values_mut() {
            partition.part_guid = member.uuid();
        }
        table.update_partitions(partitions)?;
        Ok(Self {
            geometry,
            blocks: table.write()?.blocks,
        })
    }

    /// The same table with the member's partition marked as released.
    pub fn released(drive: &File, geometry: Geometry, member: MemberId) -> Result<Self, MarkError> {
        let mut table = gpt::GptConfig::new()
            .writable(true)
            .logical_block_size(block_size(geometry)?)
            .open_from_device(MemoryDrive::new(geometry, Some(drive.try_clone()?)))?;
        let mut partitions = table.take_partitions();
        let mut changed = false;
        for partition in partitions
            .values_mut()
            .filter(|partition| partition.part_guid == member.uuid())
        {
            if partition.part_type_guid.guid == member_type(MEMBER_PARTITION_TYPE).guid {
                partition.part_type_guid = member_type(RELEASED_PARTITION_TYPE);
                changed = true;
            }
        }
        if !changed {
            return Err(MarkError::NotOurs(member));
        }
        table.update_partitions(partitions)?;
        Ok(Self {
            geometry,
            blocks: table.write()?.blocks,
        })
    }

    /// Writes and syncs the second half of the drive's share of the image: the backup table.
    pub fn write_backup(&self, drive: &File) -> io::Result<()> {
        self.write_blocks(drive, |block, middle| block >= middle)
    }

    /// Writes and syncs the first half: the primary table, then the block that other tools look at first.
    pub fn write_primary(&self, drive: &File) -> io::Result<()> {
        self.write_blocks(drive, |block, middle| block < middle && block > 0)?;
        self.write_blocks(drive, |block, _| block == 0)
    }

    fn write_blocks(&self, drive: &File, wanted: impl Fn(u64, u64) -> bool) -> io::Result<()> {
        let middle = self.geometry.size / self.geometry.block / 2;
        for (block, bytes) in self.blocks.iter().filter(|(block, _)| wanted(**block, middle)) {
            drive.write_all_at(bytes, block * self.geometry.block)?;
        }
        drive.sync_all()
    }

    /// Reads the image back past the page cache and compares every block.
    pub fn check(&self, drive: &File) -> Result<(), MarkError> {
        let again = reopen_direct(drive)?;
        for (block, bytes) in &self.blocks {
            if read_aligned(&again, block * self.geometry.block, bytes.len())? != *bytes {
                return Err(MarkError::ReadBack(*block));
            }
        }
        Ok(())
    }

    /// Its sectors, by block number.
    #[cfg(feature = "fuzzing")]
    pub fn blocks(&self) -> &BTreeMap<u64, Vec<u8>> {
        &self.blocks
    }

    /// The drive as it would look without this image: what a crash of our own writing left reads as zeros.
    pub fn hide_from<'a>(&'a self, drive: &'a File) -> WithoutMark<'a> {
        WithoutMark { image: self, drive }
    }
}

/// A drive on which every block that is exactly the image's is taken for zeros; any other byte stays visible.
pub(super) struct WithoutMark<'a> {
    image: &'a MarkImage,
    drive: &'a File,
}

impl Source for WithoutMark<'_> {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let size = self.image.geometry.block;
        FileExt::read_exact_at(self.drive, buffer, offset)?;
        let end = offset + buffer.len() as u64;
        for (block, bytes) in self.image.blocks.range(offset / size..end.div_ceil(size)) {
            let mut there = vec![0; bytes.len()];
            FileExt::read_exact_at(self.drive, &mut there, block * size)?;
            if there != *bytes {
                continue;
            }
            let from = usize::try_from((block * size).saturating_sub(offset)).map_err(io::Error::other)?;
            let to = usize::try_from((block * size + size).min(end) - offset).map_err(io::Error::other)?;
            if let Some(part) = buffer.get_mut(from..to) {
                part.fill(0);
            }
        }
        Ok(())
    }
}

/// Reads the mark of a drive; `Ok(None)`: there is a table and it is not ours, or there is none at all.
pub(super) fn read(drive: &File, geometry: Geometry) -> Result<Option<FoundMark>, MarkError> {
    let config = gpt::GptConfig::new().logical_block_size(block_size(geometry)?);
    let table = match config.open_from_device(MemoryDrive::new(geometry, Some(drive.try_clone()?))) {
        Ok(table) => table,
        Err(gpt::GptError::Io(error)) => return Err(error.into()),
        Err(gpt::GptError::Header(gpt::header::HeaderError::Io(error))) => return Err(error.into()),
        Err(_) => return Ok(None),
    };
    let mut used = table
        .partitions()
        .values()
        .filter(|partition| partition.is_used());
    let (Some(partition), None) = (used.next(), used.next()) else {
        return Ok(None);
    };
    let released = partition.part_type_guid.guid == member_type(RELEASED_PARTITION_TYPE).guid;
    if !released && partition.part_type_guid.guid != member_type(MEMBER_PARTITION_TYPE).guid {
        return Ok(None);
    }
    let Some(member) = MemberId::parse(&partition.part_guid.to_string()) else {
        return Ok(None);
    };
    let start = partition.first_lba.saturating_mul(geometry.block);
    let length = (partition.last_lba + 1)
        .saturating_sub(partition.first_lba)
        .saturating_mul(geometry.block);
    let inside = start
        .checked_add(length)
        .is_some_and(|end| length > 0 && end <= geometry.size);
    Ok(inside.then_some(FoundMark {
        member,
        released,
        start,
        length,
    }))
}

fn member_type(guid: &str) -> Type {
    Type {
        guid: Uuid::parse_str(guid).unwrap_or(Uuid::nil()),
        os: OperatingSystem::None,
    }
}

fn block_size(geometry: Geometry) -> Result<LogicalBlockSize, MarkError> {
    LogicalBlockSize::try_from(geometry.block).map_err(|_| MarkError::BlockSize(geometry.block))
}

/// The same device once more, read-only and past the page cache.
fn reopen_direct(drive: &File) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", drive.as_raw_fd());
    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    let again = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if again.metadata()?.rdev() == drive.metadata()?.rdev() {
        Ok(again)
    } else {
        Err(io::Error::other("the device was exchanged while it was open"))
    }
}

/// Reads through a buffer whose address, offset and length suit direct I/O on any drive.
fn read_aligned(drive: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    const PAGE: usize = 4096;
    let start = offset / PAGE as u64 * PAGE as u64;
    let skip = usize::try_from(offset - start).map_err(io::Error::other)?;
    let span = (skip + length).div_ceil(PAGE) * PAGE;
    let mut buffer = vec![0u8; span + PAGE];
    let shift = buffer.as_ptr().align_offset(PAGE);
    let aligned = buffer
        .get_mut(shift..shift + span)
        .ok_or_else(|| io::Error::other("no aligned buffer"))?;
    let mut filled = 0;
    while filled < skip + length {
        let rest = aligned.get_mut(filled..).unwrap_or_default();
        match drive.read_at(rest, start + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    aligned
        .get(skip..skip + length)
        .map(<[u8]>::to_vec)
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// A drive in memory: reads what is below (nothing: zeros), keeps what is written for itself.
#[derive(Debug)]
struct MemoryDrive {
    geometry: Geometry,
    below: Option<File>,
    position: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl MemoryDrive {
    fn new(geometry: Geometry, below: Option<File>) -> Self {
        Self {
            geometry,
            below,
            position: 0,
            blocks: BTreeMap::new(),
        }
    }

    fn load(&self, block: u64) -> io::Result<Vec<u8>> {
        if let Some(bytes) = self.blocks.get(&block) {
            return Ok(bytes.clone());
        }
        let mut bytes = vec![0; usize::try_from(self.geometry.block).map_err(io::Error::other)?];
        if let Some(below) = &self.below {
            FileExt::read_exact_at(below, &mut bytes, block * self.geometry.block)?;
        }
        Ok(bytes)
    }

    /// The block under the position, the offset in it, and how much of `wanted` it can serve.
    fn window(&self, wanted: usize) -> io::Result<(u64, usize, usize)> {
        let left = self.geometry.size.saturating_sub(self.position);
        let block = self.position / self.geometry.block;
        let offset = self.position % self.geometry.block;
        let room = (self.geometry.block - offset).min(left).min(wanted as u64);
        Ok((
            block,
            usize::try_from(offset).map_err(io::Error::other)?,
            usize::try_from(room).map_err(io::Error::other)?,
        ))
    }
}

impl Read for MemoryDrive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (block, offset, room) = self.window(buffer.len())?;
        if room == 0 {
            return Ok(0);
        }
        let bytes = self.load(block)?;
        if let (Some(to), Some(from)) = (buffer.get_mut(..room), bytes.get(offset..offset + room)) {
            to.copy_from_slice(from);
        }
        self.position += room as u64;
        Ok(room)
    }
}

impl Write for MemoryDrive {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let (block, offset, room) = self.window(buffer.len())?;
        if room == 0 {
            return Ok(0);
        }
        let mut bytes = self.load(block)?;
        if let (Some(to), Some(from)) = (bytes.get_mut(offset..offset + room), buffer.get(..room)) {
            to.copy_from_slice(from);
        }
        self.blocks.insert(block, bytes);
        self.position += room as u64;
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for MemoryDrive {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.geometry.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::signatures::examine;

    const MEMBER: &str = "3f0c2b9e-6a52-4b8e-9d57-0a3f5c1e7d21";

    fn member() -> MemberId {
        MemberId::parse(MEMBER).unwrap()
    }

    fn drive(size: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        file
    }

    fn image(geometry: Geometry) -> MarkImage {
        MarkImage::new(
            geometry,
            Uuid::from_u128(7),
            member(),
            &label("0123456789", "fast"),
        )
        .unwrap()
    }

    #[test]
    fn a_written_mark_is_read_back_from_either_copy() {
        for block in [512, 4096] {
            let geometry = Geometry {
                size: 64 << 20,
                block,
            };
            let file = drive(geometry.size);
            image(geometry).write_backup(&file).unwrap();
            let from_backup = read(&file, geometry).unwrap().unwrap();
            image(geometry).write_primary(&file).unwrap();
            let found = read(&file, geometry).unwrap().unwrap();
            assert_eq!(found, from_backup);
            assert_eq!(
                (found.member, found.released, found.start),
                (member(), false, ALIGNMENT)
            );
            assert_eq!(found.length % ALIGNMENT, 0);
            assert!(found.start + found.length <= geometry.size);
        }
    }

    #[test]
    fn the_same_order_always_gives_the_same_bytes() {
        let geometry = Geometry {
            size: 2 << 30,
            block: 512,
        };
        assert_eq!(image(geometry), image(geometry));
    }

    #[test]
    fn what_a_crash_left_of_our_mark_is_hidden_and_nothing_else_is() {
        for block in [512, 4096] {
            let geometry = Geometry {
                size: 64 << 20,
                block,
            };
            let file = drive(geometry.size);
            let image = image(geometry);
            let blank = || examine(&image.hide_from(&file), geometry.size).blank();
            assert_eq!(blank(), Some(true));
            image.write_backup(&file).unwrap();
            assert_eq!(
                (blank(), examine(&file, geometry.size).blank()),
                (Some(true), Some(false))
            );
            image.write_primary(&file).unwrap();
            assert_eq!(blank(), Some(true));
            file.write_all_at(&[1], 600).unwrap();
            assert_eq!(blank(), Some(false));
        }
    }

    #[test]
    fn the_examination_sees_our_mark() {
        let geometry = Geometry {
            size: 64 << 20,
            block: 512,
        };
        let file = drive(geometry.size);
        image(geometry).write_backup(&file).unwrap();
        image(geometry).write_primary(&file).unwrap();
        let mark = examine(&file, geometry.size).mark.unwrap();
        assert_eq!(
            (mark.member_id.as_str(), mark.label.as_str(), mark.released),
            (MEMBER, "01234567/fast", false)
        );
        let released = MarkImage::released(&file, geometry, member()).unwrap();
        released.write_backup(&file).unwrap();
        released.write_primary(&file).unwrap();
        assert!(examine(&file, geometry.size).mark.unwrap().released);
    }

    #[test]
    fn a_released_mark_says_so_in_both_copies_and_keeps_the_id() {
        let geometry = Geometry {
            size: 64 << 20,
            block: 512,
        };
        let file = drive(geometry.size);
        image(geometry).write_backup(&file).unwrap();
        image(geometry).write_primary(&file).unwrap();
        let released = MarkImage::released(&file, geometry, member()).unwrap();
        released.write_backup(&file).unwrap();
        assert!(
            !read(&file, geometry).unwrap().unwrap().released,
            "the primary copy leads"
        );
        released.write_primary(&file).unwrap();
        assert!(read(&file, geometry).unwrap().unwrap().released);
        file.write_all_at(&[0; 512], 512).unwrap();
        let from_backup = read(&file, geometry).unwrap().unwrap();
        assert_eq!((from_backup.member, from_backup.released), (member(), true));
        assert!(matches!(
            MarkImage::released(&file, geometry, member()),
            Err(MarkError::NotOurs(_))
        ));
    }

    #[test]
    fn a_foreign_table_is_not_a_mark() {
        let geometry = Geometry {
            size: 64 << 20,
            block: 512,
        };
        let mut foreign = gpt::GptConfig::new()
            .writable(true)
            .create_from_device(MemoryDrive::new(geometry, None), None)
            .unwrap();
        foreign
            .add_partition("data", 8 << 20, gpt::partition_types::LINUX_FS, 0, None)
            .unwrap();
        let file = drive(geometry.size);
        let image = MarkImage {
            geometry,
            blocks: foreign.write().unwrap().blocks,
        };
        image.write_backup(&file).unwrap();
        image.write_primary(&file).unwrap();
        assert_eq!(read(&file, geometry).unwrap(), None);
        assert_eq!(read(&drive(geometry.size), geometry).unwrap(), None);
    }

    #[test]
    fn a_label_never_exceeds_a_partition_name() {
        assert_eq!(label("0123456789abcdef", "fast"), "01234567/fast");
        assert_eq!(label("01234567", &"x".repeat(60)).encode_utf16().count(), 36);
        assert!(label("01234567", &"𝒙".repeat(60)).encode_utf16().count() <= 36);
    }

    #[test]
    fn a_drive_without_room_is_refused() {
        let geometry = Geometry {
            size: 1 << 20,
            block: 512,
        };
        assert!(MarkImage::new(geometry, Uuid::nil(), member(), "x").is_err());
    }
}
