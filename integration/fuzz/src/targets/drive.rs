//! A hostile drive: whatever bytes it holds, nothing panics or reads without end, and what is not zero is never blank.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
};

use smart_storage_agent::{
    hardware::signatures::{EDGE_BYTES, Findings, Source, examine},
    member::{MemberId, fuzzing as member},
};

use crate::{Format, Target, mutate::drive::Image, outcome};

pub(super) const TARGETS: &[Target] = &[Target {
    name: "drive",
    format: Format::Drive,
    run,
    seeds,
    words: &[
        "EFI PART", "XFSB", "_BHRfS_M", "LABELONE", "LVM2 001", " LVM2 x[5A%r0N*>", "SWAPSPACE2", "SPDKBLOB",
        "bluestore block device\n", "hsqs", "NTFS    ", "FAT32   ", "CD001", "JFS1", "NXSB", "ReIsEr", "HM\u{1}",
        "Intel Raid ISM Cfg Sig. ", "U\u{aa}", "\u{0}\u{0}\u{0}\u{0}", "\u{7f}\u{7f}",
    ],
    short: 160,
}];

/// A partition table may make the examination look into so many bytes.
const MOST_READ: u64 = 160 << 20;
const PAGE: u64 = 4096;

const MEMBER: &str = "3f0c2b9e-6a52-4b8e-9d57-0a3f5c1e7d21";

fn id() -> MemberId {
    MemberId::parse(MEMBER).unwrap()
}

/// Pages that are not zero.
#[derive(Default)]
struct Sparse {
    size: u64,
    fails_from: Option<u64>,
    pages: BTreeMap<u64, Vec<u8>>,
    read: Cell<u64>,
    reads: Cell<u64>,
}

impl Sparse {
    fn put(&mut self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..self.size).zip(bytes) {
            let page = self.pages.entry(at / PAGE).or_insert_with(|| vec![0; PAGE as usize]);
            if let Some(slot) = page.get_mut((at % PAGE) as usize) {
                *slot = *byte;
            }
        }
    }

    fn peek(&self, offset: u64, count: usize) -> Option<Vec<u8>> {
        let end = offset.checked_add(count as u64).filter(|end| *end <= self.size)?;
        let mut bytes = vec![0; count];
        for (number, page) in self.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let start = number * PAGE;
            let from = start.max(offset);
            let to = (start + PAGE).min(end);
            let source = page.get((from - start) as usize..(to - start) as usize)?;
            bytes
                .get_mut((from - offset) as usize..(to - offset) as usize)?
                .copy_from_slice(source);
        }
        Some(bytes)
    }

    fn number<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        self.peek(offset, N)?.try_into().ok()
    }

    /// Makes the checksums of a GPT copy right, so that what its numbers say counts.
    fn mend(&mut self, block: u64, at: u64) -> Option<()> {
        if self.peek(at, 8)? != b"EFI PART" {
            return None;
        }
        let entries = u64::from_le_bytes(self.number(at + 72)?).checked_mul(block)?;
        let count = u64::from(u32::from_le_bytes(self.number(at + 80)?));
        let length = u64::from(u32::from_le_bytes(self.number(at + 84)?));
        if let Some(array) = usize::try_from((count * length).min(1 << 20)).ok().and_then(|n| self.peek(entries, n)) {
            self.put(at + 88, &crc32(&array).to_le_bytes());
        }
        self.put(at + 24, &(at / block).to_le_bytes());
        self.put(at + 16, &[0; 4]);
        let header = match u32::from_le_bytes(self.number(at + 12)?) {
            length @ 92..=512 => length as usize,
            _ => 92,
        };
        let sum = crc32(&self.peek(at, header)?);
        self.put(at + 16, &sum.to_le_bytes());
        Some(())
    }

    fn file(&self) -> io::Result<File> {
        let file = tempfile::tempfile_in(scratch())?;
        file.set_len(self.size)?;
        for (number, page) in &self.pages {
            let start = number * PAGE;
            let keep = (self.size - start).min(PAGE) as usize;
            file.write_all_at(page.get(..keep).unwrap_or_default(), start)?;
        }
        Ok(file)
    }

    fn set_bytes(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.iter().flat_map(|(number, page)| {
            let set = page.iter().enumerate().filter(|(_, byte)| **byte != 0);
            set.map(move |(at, _)| number * PAGE + at as u64)
        })
    }
}

/// Memory, where the machine has a file system in it.
fn scratch() -> &'static str {
    if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }
}

impl Source for Sparse {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.reads.set(self.reads.get() + 1);
        self.read.set(self.read.get() + buffer.len() as u64);
        let end = offset
            .checked_add(buffer.len() as u64)
            .filter(|end| *end <= self.size)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        if self.fails_from.is_some_and(|from| end > from) {
            return Err(io::Error::other("medium error"));
        }
        buffer.copy_from_slice(&self.peek(offset, buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// CRC-32 once more, so that a mistake in the agent's own is not made here too.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
        crc
    })
}

fn run(data: &[u8]) -> u64 {
    let image = Image::parse(data);
    let block: u64 = if image.flags & 1 == 1 { 4096 } else { 512 };
    let mut drive = Sparse {
        size: image.size,
        ..Sparse::default()
    };
    for (offset, bytes) in &image.stretches {
        drive.put(*offset, bytes);
    }
    if image.flags & 2 != 0 {
        let _ = drive.mend(block, block);
    }
    if image.flags & 4 != 0
        && let Some(last) = (drive.size / block).checked_sub(1)
    {
        let _ = drive.mend(block, last * block);
    }
    drive.fails_from = (image.flags & 8 != 0).then_some(drive.size / 2);

    let found = examine(&drive, drive.size);
    never_blank_unless_zero(&drive, &found);
    assert!(
        drive.read.get() <= MOST_READ && drive.reads.get() < 200_000,
        "{} bytes were read in {} pieces",
        drive.read.get(),
        drive.reads.get()
    );
    let marked = if drive.fails_from.is_none() && (1..1 << 40).contains(&drive.size) {
        members_view(&drive, block, &found)
    } else {
        0
    };
    let mut words: Vec<&str> = found
        .signatures
        .iter()
        .filter_map(|signature| signature.description.split(' ').next())
        .collect();
    words.sort_unstable();
    words.dedup();
    let table = found.table.as_ref();
    outcome((
        words,
        found.blank(),
        found.errors.is_empty(),
        marked,
        found.mark.as_ref().map(|mark| mark.released),
        table.map(|table| (table.primary_valid, table.backup_valid, table.entries.len().min(6))),
    ))
}

fn never_blank_unless_zero(drive: &Sparse, found: &Findings) {
    let blank = found.blank();
    let tail = drive.size.saturating_sub(EDGE_BYTES);
    if let Some(at) = drive.set_bytes().find(|at| *at < EDGE_BYTES || *at >= tail) {
        assert_ne!(blank, Some(true), "byte {at} of {} is not zero: {found:?}", drive.size);
    }
    if drive.fails_from.is_some() {
        assert_ne!(blank, Some(true), "half of it cannot be read: {found:?}");
    }
    if blank == Some(true) {
        assert!(found.mark.is_none() && found.table.is_none() && found.signatures.is_empty(), "{found:?}");
        assert!(drive.size > 0, "a drive of no size is blank");
    }
    if found.mark.is_some() {
        let table = found.table.as_ref().expect("a mark without a table");
        assert!(table.primary_valid || table.backup_valid, "a mark in a damaged table: {table:?}");
    }
    for line in [found.summary()] {
        assert!(!line.chars().any(|c| c.is_control()), "control characters in {line:?}");
    }
}

/// What the member's code makes of the same drive.
fn members_view(drive: &Sparse, block: u64, found: &Findings) -> u64 {
    let Ok(file) = drive.file() else { return 0 };
    let size = drive.size;
    let mark = member::mark(&file, size, block);
    if let Ok(Some((member, released, start, length))) = &mark {
        let end = start.checked_add(*length);
        assert!(*length > 0 && end.is_some_and(|end| end <= size), "a mark outside of the drive: {mark:?}");
        let other = if block == 512 { 4096 } else { 512 };
        let two_tables = drive.peek(other, 8).is_some_and(|magic| magic == b"EFI PART");
        if !two_tables {
            let seen = found.mark.as_ref().map(|mark| (mark.member_id.clone(), mark.released));
            assert_eq!(seen, Some((member.to_string(), *released)), "the two readers of the mark differ: {found:?}");
        }
        if !released {
            let blocks = member::released(&file, size, block, *member).expect("its own mark");
            for (number, bytes) in blocks {
                assert!(
                    number.checked_mul(block).and_then(|at| at.checked_add(bytes.len() as u64)).is_some_and(|end| end <= size),
                    "block {number} lies outside of the drive"
                );
            }
        }
    }
    let _ = member::released(&file, size, block, id());
    if size < 256 << 20
        && let Some(seen) = member::examine_without_mark(&file, size, block, id(), "01234567/fast")
        && seen.blank() == Some(true)
    {
        let ours = member::image(size, block, id(), "01234567/fast").unwrap_or_default();
        let tail = size.saturating_sub(EDGE_BYTES);
        for at in drive.set_bytes().filter(|at| *at < EDGE_BYTES || *at >= tail) {
            let there = drive.peek(at / block * block, block as usize);
            assert_eq!(there.as_ref(), ours.get(&(at / block)), "byte {at} is not ours, and was taken for zero");
        }
    }
    outcome((mark.as_ref().map(|found| found.map(|mark| mark.1)).map_err(|error| error.len()),))
}

fn seeds() -> Vec<Vec<u8>> {
    const MIB: u64 = 1 << 20;
    let one = |size: u64, offset: u64, bytes: &[u8]| {
        Image {
            flags: 0,
            size,
            stretches: vec![(offset, bytes.to_vec())],
        }
        .print()
    };
    let mut seeds = vec![one(2 * MIB, 0, b""), one(40 * MIB, 0, b""), one(0, 0, b""), one(512, 0, b"")];
    let formats: &[(u64, &[u8])] = &[
        (0, b"XFSB"),
        (65600, b"_BHRfS_M"),
        (4086, b"SWAPSPACE2"),
        (0, b"LUKS\xba\xbe\x00\x02"),
        (0x4000, b"SKUL\xba\xbe"),
        (0, b"bluestore block device\n"),
        (0, b"SPDKBLOB"),
        (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
        (128 * 1024, b"\x0c\xb1\xba\0\0\0\0\0"),
        (1024 + 0x38, b"\x53\xef\x01\0"),
        (2 * MIB - 4096, b"\x83\x74\x02\x6b"),
        (2 * MIB - 512, b"\xde\x11\xde\x11"),
        (2 * MIB - 1024, b"Intel Raid ISM Cfg Sig. "),
        (1024, b"\x10\x20\xf5\xf2"),
        (1024, b"\x02\0\0\0\0\0\x34\x34"),
        (510, b"\x55\xaa"),
        (2 * MIB - 1, b"\x01"),
        (MIB, b"x"),
    ];
    seeds.extend(formats.iter().map(|(offset, bytes)| one(2 * MIB, *offset, bytes)));
    // LVM: a label, its lists, the metadata area and the text.
    let mut label = vec![0_u8; 512];
    label.splice(0..8, *b"LABELONE");
    label.splice(20..24, 32_u32.to_le_bytes());
    label.splice(24..32, *b"LVM2 001");
    label.splice(72..80, 4096_u64.to_le_bytes());
    label.splice(104..112, 4096_u64.to_le_bytes());
    let mut area = b"\0\0\0\0 LVM2 x[5A%r0N*>".to_vec();
    area.resize(40, 0);
    area.extend_from_slice(&512_u64.to_le_bytes());
    seeds.push(
        Image {
            flags: 0,
            size: 2 * MIB,
            stretches: vec![(512, label), (4096, area), (4608, b"vg0 {\nid = ".to_vec())],
        }
        .print(),
    );
    // MBR with an extended partition and a logical one in it.
    let mut sector = vec![0_u8; 512];
    sector.splice(440..444, *b"\x12\x34\x56\x78");
    sector.splice(446..462, *b"\x80\0\0\0\x83\0\0\0\x00\x08\0\0\x00\x04\0\0");
    sector.splice(462..478, *b"\0\0\0\0\x05\0\0\0\x00\x0c\0\0\x00\x04\0\0");
    sector.splice(510..512, *b"\x55\xaa");
    let mut logical = vec![0_u8; 512];
    logical.splice(446..462, *b"\0\0\0\0\x83\0\0\0\x01\0\0\0\x10\0\0\0");
    logical.splice(462..478, *b"\0\0\0\0\x05\0\0\0\x20\0\0\0\x10\0\0\0");
    logical.splice(510..512, *b"\x55\xaa");
    seeds.push(
        Image {
            flags: 0,
            size: 4 * MIB,
            stretches: vec![(0, sector), (0xc00 * 512, logical.clone()), (0xc20 * 512, logical)],
        }
        .print(),
    );
    // Our own mark, whole, and each half of it.
    for (flags, block, size) in [(6_u8, 512, 8 * MIB), (7, 4096, 8 * MIB), (6, 512, 40 * MIB)] {
        let blocks = member::image(size, block, id(), "01234567/fast").unwrap_or_default();
        let halves: [fn(u64, u64) -> bool; 3] = [|_, _| true, |at, half| at < half, |at, half| at >= half];
        for keep in halves {
            let stretches: Vec<(u64, Vec<u8>)> = blocks
                .iter()
                .filter(|(number, bytes)| keep(*number * block, size / 2) && bytes.iter().any(|byte| *byte != 0))
                .map(|(number, bytes)| (number * block, bytes.clone()))
                .collect();
            seeds.push(Image { flags, size, stretches }.print());
        }
    }
    seeds
}
