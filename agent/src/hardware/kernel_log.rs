//! I/O errors that the kernel writes into its log (`/dev/kmsg`): the only place where every driver says them.
//!
//! What they mean is not decided here. Errors of the way to a drive, of commands that it does not know and of drives
//! that were pulled are no word on the drive and are passed over. A bad place that is read again and again is one bad
//! place. Nothing is written to the log, and of what is read nothing but the name of the drive, the place, the time and
//! a few fixed words is kept.
//!
//! The log has a clock of its own, which drifts away from the one of udevd within weeks: what is heard as it comes is
//! timed here, and what was logged before only counts where the doubt makes no difference.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::sysfs::head_of_path;

/// One record is never longer (`CONSOLE_EXT_LOG_MAX` of the kernel).
const RECORD_BYTES: usize = 8192;
/// What is remembered of one drive, and of how many; more make no difference.
const PLACES: usize = 64;
const FAILURES: usize = 1000;
const DRIVES: usize = 1024;
/// Records that are read at a time, so that a storm in the log holds nothing else up.
const AT_ONCE: usize = 4096;
/// A place is a MiB: one bad sector fails whole requests around it.
const PLACE_SECTORS: u64 = 2048;
/// How far the two clocks may be apart: 20 millionths over half a year.
const DOUBT_US: u64 = 300_000_000;
/// A drive that was there so early was there before anything else had its name.
const BOOT_US: u64 = 180_000_000;

/// What could not be read or written since the drive appeared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IoErrors {
    /// Places of a MiB in which the medium failed; no more than 64 are counted.
    pub bad_places: u64,
    /// Other reads and writes that failed; from ten on, the largest power of ten that was reached.
    pub failures: u64,
    /// What came last when these numbers came to be: "critical medium error, READ at sector 2048".
    pub last: String,
}

/// One error of one drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Kernel name of the drive.
    pub(super) drive: String,
    at_us: u64,
    /// Where, if it was the medium.
    pub(super) bad_place: Option<u64>,
    pub(super) words: String,
}

/// When it was: by the log's clock, and no earlier than, by udevd's. Microseconds since the machine started.
#[derive(Debug, Clone, Copy)]
struct When {
    logged: u64,
    earliest: u64,
}

impl When {
    const fn is_since(self, appeared: u64) -> bool {
        self.earliest >= appeared || (appeared < BOOT_US && self.logged >= appeared)
    }
}

/// The errors of one drive.
#[derive(Debug, Default)]
struct Errors {
    places: BTreeMap<u64, When>,
    failures: VecDeque<When>,
    told: IoErrors,
    last: String,
}

/// The kernel's log, read as far as it goes.
#[derive(Debug)]
pub(super) struct KernelLog {
    file: File,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    drives: BTreeMap<String, Errors>,
    /// All that was logged before was read: what comes now comes now.
    live: bool,
}

/// The clock of udevd's times.
pub(super) fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |number: i64, factor: u64| u64::try_from(number).unwrap_or_default().saturating_mul(factor);
    part(now.tv_sec, 1_000_000).saturating_add(part(now.tv_nsec, 1) / 1000)
}

impl KernelLog {
    /// Opens it at the oldest record that the kernel still has.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
            .open(path)?;
        let about = file.metadata()?;
        let number = about.rdev();
        // Some containers lay something else there, which would always be readable, or somebody else's to read.
        if !about.file_type().is_char_device()
            || (rustix::fs::major(number), rustix::fs::minor(number)) != (1, 11)
        {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it is not the kernel's log",
            ));
        }
        Ok(Self::over(file))
    }

    fn over(file: File) -> Self {
        Self {
            file,
            known: Mutex::default(),
        }
    }

    /// Reads what is new. Answers the kernel names of drives that had errors.
    ///
    /// # Errors
    /// It cannot be read any more: there is no use in trying again.
    pub(super) fn read(&self) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        let mut known = self.known.lock();
        let mut bytes = [0_u8; RECORD_BYTES];
        for _ in 0..AT_ONCE {
            match (&self.file).read(&mut bytes) {
                Ok(0) => return Err(io::Error::other("it ended")),
                Ok(length) => {
                    let record = bytes.get(..length).unwrap_or_default();
                    if let Some(record) = parse(&String::from_utf8_lossy(record)) {
                        names.insert(record.drive.clone());
                        known.note(record, now_us());
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        known.live = true;
                        break;
                    }
                    // Records were overwritten before they were read, or one was too long: it goes on with the next.
                    Some(libc::EPIPE | libc::EINTR | libc::EINVAL) => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(names)
    }

    /// The errors of a drive that appeared at that time.
    pub(super) fn of(&self, name: &str, appeared_us: u64) -> Option<IoErrors> {
        self.known.lock().of(name, appeared_us)
    }
}

impl Known {
    fn note(&mut self, record: Record, now_us: u64) {
        if self.drives.len() >= DRIVES && !self.drives.contains_key(&record.drive) {
            return;
        }
        let errors = self.drives.entry(record.drive).or_default();
        let when = When {
            logged: record.at_us,
            earliest: if self.live {
                now_us
            } else {
                record.at_us.saturating_sub(DOUBT_US)
            },
        };
        match record.bad_place {
            Some(place) if errors.places.len() < PLACES || errors.places.contains_key(&place) => {
                errors.places.insert(place, when);
            }
            Some(_) => {}
            None => {
                if errors.failures.len() == FAILURES {
                    errors.failures.pop_front();
                }
                errors.failures.push_back(when);
            }
        }
        errors.last = record.words;
    }

    fn of(&mut self, name: &str, appeared_us: u64) -> Option<IoErrors> {
        let errors = self.drives.get_mut(name)?;
        errors.places.retain(|_, when| when.is_since(appeared_us));
        errors.failures.retain(|when| when.is_since(appeared_us));
        let (bad_places, failures) = (errors.places.len() as u64, quantised(errors.failures.len()));
        if (bad_places, failures) == (0, 0) {
            self.drives.remove(name);
            return None;
        }
        if (bad_places, failures) != (errors.told.bad_places, errors.told.failures) {
            errors.told = IoErrors {
                bad_places,
                failures,
                last: errors.last.clone(),
            };
        }
        Some(errors.told.clone())
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
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

/// What the block layer (`blk_errors` in the kernel's `block/blk-core.c`) calls errors of the medium.
const MEDIUM: [&str; 2] = ["critical medium error", "protection error"];
/// Errors that may be the drive's, or its cable's, or come of a locked range.
const OTHER: [&str; 2] = ["I/O error", "timeout error"];
/// A drive that cannot discard is a good drive.
const OPERATIONS: [&str; 2] = ["READ", "WRITE"];

/// Reads one record: `4,1234,56789,-;critical medium error, dev sdb, sector 2048 op 0x0:(READ) flags 0x0 ...`, and
/// as kernels before 5.13 wrote it, after the name of a function. What does not say its operation is too old to be told
/// from a discard.
pub(super) fn parse(record: &str) -> Option<Record> {
    let (head, rest) = record.split_once(';')?;
    let mut head = head.split(',');
    // The low three bits are the severity, the others who wrote it: 0 is the kernel.
    let priority: u32 = head.next()?.parse().ok()?;
    let at_us = head.nth(1)?.parse().ok()?;
    let line = rest.lines().next()?;
    let line = line.strip_prefix("blk_update_request: ").unwrap_or(line);
    let (error, rest) = line.split_once(", dev ")?;
    let (name, rest) = rest.split_once(", sector ")?;
    let known = |of: &[&'static str]| of.iter().copied().find(|known| *known == error);
    let medium = known(&MEDIUM);
    let error = medium.or_else(|| known(&OTHER))?;
    if priority >> 3 != 0 || name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let sector: u64 = rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    let operation = rest.split_once(":(")?.1.split_once(')')?.0;
    let operation = OPERATIONS.iter().find(|known| **known == operation)?;
    Some(Record {
        drive: head_of_path(name).unwrap_or_else(|| name.to_owned()),
        at_us,
        bad_place: medium.map(|_| sector / PLACE_SECTORS),
        words: format!("{error}, {operation} at sector {sector}"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<(String, String, Option<u64>)> {
        parse(text).map(|record| (record.drive, record.words, record.bad_place))
    }

    fn some(drive: &str, words: &str, place: Option<u64>) -> Option<(String, String, Option<u64>)> {
        Some((drive.to_owned(), words.to_owned(), place))
    }

    #[test]
    fn errors_of_reading_and_writing_are_the_drives() {
        let lines = [
            (
                "3,906,1804289,-;I/O error, dev sdb, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2\n",
                some("sdb", "I/O error, READ at sector 2048", None),
            ),
            (
                "2,907,1804290,c;critical medium error, dev nvme1c1n1, sector 8 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 0\n SUBSYSTEM=block\n",
                some("nvme1n1", "critical medium error, WRITE at sector 8", Some(0)),
            ),
            (
                "3,1,2,-;blk_update_request: critical medium error, dev sda, sector 5000 op 0x0:(READ) flags 0x800 phys_seg 0 prio class 0\n",
                some("sda", "critical medium error, READ at sector 5000", Some(2)),
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
            "3,1,2,-;critical target error, dev sdb, sector 0 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2\n",
            "3,1,2,-;I/O error, dev sdb, sector 2048 op 0x3:(DISCARD) flags 0x800 phys_seg 1 prio class 2\n",
            "3,1,2,-;print_req_error: I/O error, dev sda, sector 77\n",
            "12,1,2,-;I/O error, dev sdb, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2\n",
            "3,1,2,-;Buffer I/O error on dev sdb, logical block 0, async page read\n",
            "3,1,2,-;I/O error, dev ../etc, sector 2048 op 0x0:(READ)\n",
            "3,1,2,-;EXT4-fs (sdb1): mounted filesystem\n",
            "nonsense",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    fn bad(known: &mut Known, drive: &str, sector: u64, logged_s: u64, now_s: u64) {
        let record = Record {
            drive: drive.to_owned(),
            at_us: logged_s * 1_000_000,
            bad_place: Some(sector / PLACE_SECTORS),
            words: format!("critical medium error, READ at sector {sector}"),
        };
        known.note(record, now_s * 1_000_000);
    }

    fn places(known: &mut Known, drive: &str, appeared_s: u64) -> u64 {
        known
            .of(drive, appeared_s * 1_000_000)
            .map_or(0, |errors| errors.bad_places)
    }

    #[test]
    fn one_bad_place_is_one_however_often_it_is_read() {
        let mut known = Known {
            live: true,
            ..Known::default()
        };
        for again in 0..100 {
            bad(&mut known, "sdb", 4096 + again, 1000 + again, 1000 + again);
        }
        let told = known.of("sdb", 0).unwrap();
        assert_eq!((told.bad_places, told.failures), (1, 0));
        assert_eq!(told.last, "critical medium error, READ at sector 4195");
        bad(&mut known, "sdb", 4096 + 7, 2000, 2000);
        assert_eq!(known.of("sdb", 0), Some(told), "nothing new, nothing else told");
        for place in 0..1000 {
            bad(&mut known, "sdb", place * PLACE_SECTORS, 2000, 2000);
        }
        assert_eq!(places(&mut known, "sdb", 0), PLACES as u64);
    }

    #[test]
    fn errors_of_who_had_the_name_before_are_not_this_drives() {
        let mut known = Known {
            live: true,
            ..Known::default()
        };
        bad(&mut known, "sdb", 0, 10, 1000);
        bad(&mut known, "sdb", 4096, 10, 1010);
        assert_eq!(
            places(&mut known, "sdb", 1005),
            1,
            "by the time when it was heard"
        );
        assert_eq!(places(&mut known, "sdb", 1011), 0);
        assert_eq!(places(&mut known, "sdb", 0), 0, "and it is forgotten");
        assert_eq!(places(&mut known, "sdc", 0), 0);
    }

    #[test]
    fn what_was_logged_before_counts_where_the_clocks_leave_no_doubt() {
        let logged = || {
            let mut known = Known::default();
            bad(&mut known, "sdb", 0, 10_000, 99_999);
            known
        };
        assert_eq!(places(&mut logged(), "sdb", 5), 1, "it was there from the start");
        assert_eq!(places(&mut logged(), "sdb", 9000), 1);
        assert_eq!(
            places(&mut logged(), "sdb", 9900),
            0,
            "the one before it may have been meant"
        );
        assert_eq!(places(&mut logged(), "sdb", 10_001), 0);
        let mut early = Known::default();
        bad(&mut early, "sdb", 0, 3, 99_999);
        assert_eq!(places(&mut early, "sdb", 5), 0, "before it appeared");
    }

    #[test]
    fn what_fails_all_the_time_is_told_in_powers_of_ten() {
        let mut known = Known {
            live: true,
            ..Known::default()
        };
        let mut told: Vec<u64> = Vec::new();
        for at_us in 0..5000 {
            let record = Record {
                drive: "sdb".to_owned(),
                at_us,
                bad_place: None,
                words: "I/O error".to_owned(),
            };
            known.note(record, at_us);
            let failures = known.of("sdb", 0).unwrap().failures;
            if told.last() != Some(&failures) {
                told.push(failures);
            }
        }
        assert_eq!(told, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100, 1000]);
    }

    #[test]
    fn only_the_kernels_log_is_read_and_its_end_is_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kmsg");
        std::fs::write(
            &path,
            "3,1,7,-;critical medium error, dev sdb, sector 1 op 0x0:(READ) flags 0x0\n",
        )
        .unwrap();
        assert!(KernelLog::open(&path).is_err());
        assert!(KernelLog::open(Path::new("/dev/null")).is_err());
        std::os::unix::fs::symlink("/dev/kmsg", folder.path().join("link")).unwrap();
        assert!(KernelLog::open(&folder.path().join("link")).is_err());
        // A file gives all of it at once, and then ends.
        let log = KernelLog::over(File::open(&path).unwrap());
        assert!(log.read().is_err());
        assert_eq!(log.of("sdb", 7).unwrap().bad_places, 1);
    }

    proptest! {
        #[test]
        fn no_record_panics(
            head in "([0-9]{1,30},){1,4}[-c]?;",
            error in "(I/O error|critical medium error|x)(, dev [a-z0-9]{0,9})?(, sector [0-9]{0,30})?",
            rest in "( op 0x0:)?(\\([A-Z]{0,5}\\)?)?[ -~]{0,20}",
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = parse(&format!("{head}{error}{rest}"));
            let _ = parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
