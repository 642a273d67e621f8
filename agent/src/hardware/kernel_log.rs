//! I/O errors that the kernel writes into its log (`/dev/kmsg`): the only place where every driver says them.
//!
//! What they mean is not decided here. Errors of the way to a drive, of commands that it does not know and of drives
//! that were pulled are no word on the drive and are passed over. Nothing is written to the log, and of what is read
//! nothing but the name of the drive, the time and a few fixed words is kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::libc;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::sysfs::head_of_path;

/// One record is never longer (`CONSOLE_EXT_LOG_MAX` of the kernel).
const RECORD_BYTES: usize = 8192;
/// Errors of one drive that are remembered; more make no difference.
const REMEMBERED: usize = 1000;
/// Records that are read at a time, so that a storm in the log holds nothing else up.
const AT_ONCE: usize = 4096;

/// How often reading or writing failed since the drive appeared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IoErrors {
    /// How many; from ten on, the largest power of ten that it reached.
    pub count: u64,
    /// What came last when the count reached that: "critical medium error, READ at sector 2048".
    pub last: String,
}

/// One error of one drive.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    /// Kernel name of the drive.
    drive: String,
    /// Microseconds since the machine started.
    at_us: u64,
    words: String,
}

/// The errors of one drive.
#[derive(Debug, Default)]
struct Errors {
    at_us: VecDeque<u64>,
    told: IoErrors,
    last: String,
}

/// The kernel's log, read as far as it goes.
#[derive(Debug)]
pub(super) struct KernelLog {
    file: File,
    errors: Mutex<BTreeMap<String, Errors>>,
}

impl KernelLog {
    /// Opens it at the oldest record that the kernel still has.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        Ok(Self {
            file,
            errors: Mutex::default(),
        })
    }

    /// Reads what is new. Answers the kernel names of drives that had errors.
    pub(super) fn read(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut bytes = [0_u8; RECORD_BYTES];
        for _ in 0..AT_ONCE {
            match (&self.file).read(&mut bytes) {
                Ok(0) => break,
                Ok(length) => {
                    let record = bytes.get(..length).unwrap_or_default();
                    if let Some(record) = parse(&String::from_utf8_lossy(record)) {
                        names.insert(record.drive.clone());
                        note(&mut self.errors.lock(), record);
                    }
                }
                // Records were overwritten before they were read: it goes on with the oldest that is left.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing new (EAGAIN); whatever else it is, the next record is another try.
                Err(_) => break,
            }
        }
        names
    }

    /// The errors of a drive that appeared at that time (microseconds since the machine started).
    pub(super) fn of(&self, name: &str, appeared_us: u64) -> Option<IoErrors> {
        let mut all = self.errors.lock();
        let errors = all.get_mut(name)?;
        errors.at_us.retain(|at| *at >= appeared_us);
        let count = quantised(errors.at_us.len());
        if count != errors.told.count {
            errors.told = IoErrors {
                count,
                last: errors.last.clone(),
            };
        }
        (count > 0).then(|| errors.told.clone())
    }

    /// A drive is gone: another one may come under its name.
    pub(super) fn forget(&self, name: &str) {
        self.errors.lock().remove(name);
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn note(errors: &mut BTreeMap<String, Errors>, record: Record) {
    let errors = errors.entry(record.drive).or_default();
    if errors.at_us.len() == REMEMBERED {
        errors.at_us.pop_front();
    }
    errors.at_us.push_back(record.at_us);
    errors.last = record.words;
}

/// A drive that fails all the time is not told all the time.
fn quantised(count: usize) -> u64 {
    match count {
        0..10 => count as u64,
        10..100 => 10,
        100..1000 => 100,
        _ => 1000,
    }
}

/// What the block layer calls errors that are the drive's own (`blk_errors` in the kernel's `block/blk-core.c`).
const ERRORS: [&str; 5] = [
    "I/O error",
    "critical medium error",
    "critical target error",
    "timeout error",
    "protection error",
];
/// What reads and writes data. A drive that cannot discard is a good drive.
const OPERATIONS: [&str; 3] = ["READ", "WRITE", "FLUSH"];

/// Reads one record: `4,1234,56789,-;critical medium error, dev sdb, sector 2048 op 0x0:(READ) flags 0x0 ...`, and
/// as kernels before 5.13 wrote it, after the name of a function.
fn parse(record: &str) -> Option<Record> {
    let (head, rest) = record.split_once(';')?;
    let mut head = head.split(',');
    // The low three bits are the severity, the others who wrote it: 0 is the kernel.
    let priority: u32 = head.next()?.parse().ok()?;
    let at_us = head.nth(1)?.parse().ok()?;
    let line = rest.lines().next()?;
    let line = ["blk_update_request: ", "print_req_error: "]
        .iter()
        .find_map(|function| line.strip_prefix(function))
        .unwrap_or(line);
    let (error, rest) = line.split_once(", dev ")?;
    let (name, rest) = rest.split_once(", sector ")?;
    let error = ERRORS.iter().find(|known| **known == error)?;
    if priority >> 3 != 0 || name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let sector: u64 = rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    let operation = rest
        .split_once(":(")
        .and_then(|(_, rest)| Some(rest.split_once(')')?.0));
    let words = match operation {
        Some(operation) => {
            let operation = OPERATIONS.iter().find(|known| **known == operation)?;
            format!("{error}, {operation} at sector {sector}")
        }
        None => format!("{error} at sector {sector}"),
    };
    Some(Record {
        drive: head_of_path(name).unwrap_or_else(|| name.to_owned()),
        at_us,
        words,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<(String, String)> {
        parse(text).map(|record| (record.drive, record.words))
    }

    fn some(drive: &str, words: &str) -> Option<(String, String)> {
        Some((drive.to_owned(), words.to_owned()))
    }

    #[test]
    fn errors_of_reading_and_writing_are_the_drives() {
        let lines = [
            (
                "3,906,1804289,-;I/O error, dev sdb, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2\n",
                some("sdb", "I/O error, READ at sector 2048"),
            ),
            (
                "2,907,1804290,c;critical medium error, dev nvme1c1n1, sector 8 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 0\n SUBSYSTEM=block\n",
                some("nvme1n1", "critical medium error, WRITE at sector 8"),
            ),
            (
                "3,1,2,-;blk_update_request: I/O error, dev vda, sector 0 op 0x1:(FLUSH) flags 0x800 phys_seg 0 prio class 0\n",
                some("vda", "I/O error, FLUSH at sector 0"),
            ),
            (
                "3,1,2,-;print_req_error: critical target error, dev sda, sector 77\n",
                some("sda", "critical target error at sector 77"),
            ),
        ];
        for (line, expected) in lines {
            assert_eq!(read(line), expected, "{line}");
        }
    }

    #[test]
    fn the_way_to_a_drive_a_discard_a_pulled_drive_and_what_a_program_wrote_are_not() {
        for line in [
            "3,1,2,-;recoverable transport error, dev sdb, sector 2048 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2\n",
            "3,1,2,-;device offline error, dev sdb, sector 2048 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 2\n",
            "3,1,2,-;critical target error, dev sdb, sector 2048 op 0x3:(DISCARD) flags 0x800 phys_seg 1 prio class 2\n",
            "12,1,2,-;I/O error, dev sdb, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2\n",
            "3,1,2,-;Buffer I/O error on dev sdb, logical block 0, async page read\n",
            "3,1,2,-;I/O error, dev ../etc, sector 2048 op 0x0:(READ)\n",
            "3,1,2,-;EXT4-fs (sdb1): mounted filesystem\n",
            "nonsense",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    fn log_of(lines: &[(u64, &str)]) -> KernelLog {
        let mut errors = BTreeMap::new();
        for (at_us, drive) in lines {
            note(
                &mut errors,
                Record {
                    drive: (*drive).to_owned(),
                    at_us: *at_us,
                    words: format!("I/O error, READ at sector {at_us}"),
                },
            );
        }
        KernelLog {
            file: File::open("/dev/null").unwrap(),
            errors: Mutex::new(errors),
        }
    }

    #[test]
    fn errors_of_who_had_the_name_before_are_not_this_drives() {
        let log = log_of(&[(10, "sdb"), (20, "sdb"), (30, "sdb"), (40, "sdc")]);
        assert_eq!(log.of("sdb", 15).unwrap().count, 2);
        assert_eq!(log.of("sdb", 31), None);
        assert_eq!(log.of("sdd", 0), None);
        log.forget("sdc");
        assert_eq!(log.of("sdc", 0), None);
    }

    #[test]
    fn what_fails_all_the_time_is_told_in_powers_of_ten() {
        let mut told = Vec::new();
        let log = log_of(&[]);
        for at_us in 0..5000 {
            let words = format!("I/O error, READ at sector {at_us}");
            note(
                &mut log.errors.lock(),
                Record {
                    drive: "sdb".to_owned(),
                    at_us,
                    words,
                },
            );
            let errors = log.of("sdb", 0).unwrap();
            if told.last() != Some(&errors) {
                told.push(errors);
            }
        }
        let counts: Vec<u64> = told.iter().map(|told| told.count).collect();
        assert_eq!(counts, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100, 1000]);
        assert_eq!(told.last().unwrap().last, "I/O error, READ at sector 999");
    }

    #[test]
    fn a_log_is_read_record_by_record_until_there_is_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kmsg");
        // A file gives all of it at once, as one record: only its first line is one.
        std::fs::write(
            &path,
            "3,1,7,-;I/O error, dev sdb, sector 1 op 0x0:(READ) flags 0x0\n",
        )
        .unwrap();
        let log = KernelLog::open(&path).unwrap();
        assert_eq!(log.read(), BTreeSet::from(["sdb".to_owned()]));
        assert!(log.read().is_empty());
        let errors = log.of("sdb", 7).unwrap();
        assert_eq!(
            (errors.count, errors.last.as_str()),
            (1, "I/O error, READ at sector 1")
        );
        assert!(KernelLog::open(&folder.path().join("none")).is_err());
    }

    proptest! {
        #[test]
        fn no_record_panics(text in "([0-9]{1,3},){3}-;[ -~]{0,120}", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&text);
            let _ = parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
