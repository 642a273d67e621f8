//! The member's partition as the kernel shows it: found by number, start and length below the very disk that is
//! open, told to the kernel where it does not read partition tables by itself.
//!
//! Nothing here is found by the name of a partition, and nothing is written.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use thiserror::Error;

use super::mark::{self, FoundMark, Geometry, MarkError};
use super::{MemberConfig, MemberId};
use crate::hardware::{ioctl, sysfs::head_of_path};

/// The number of the member's partition.
const NUMBER: u32 = 1;

/// `/sys` counts in blocks of this size, whatever the drive's own blocks are.
const SYSFS_BLOCK: u64 = 512;

/// How long the kernel may take to show a partition that it was told of.
const APPEARANCE: Duration = Duration::from_secs(5);

/// Where a member is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Kernel name of the whole drive.
    pub disk: String,
    /// Path of the partition's node.
    pub node: PathBuf,
    /// Device number of the partition: major, minor.
    pub number: (u32, u32),
    pub mark: FoundMark,
}

/// Why a member's partition could not be reached.
#[derive(Debug, Error)]
pub(super) enum PartitionError {
    #[error("{0} cannot be opened: {1}")]
    Open(PathBuf, io::Error),
    #[error("{0} is not a whole block device")]
    NotADrive(PathBuf),
    #[error("the mark on {0} cannot be read: {1}")]
    Mark(String, MarkError),
    #[error("{0} does not carry the mark of member {1}")]
    NotOurs(String, MemberId),
    #[error("the kernel shows another partition {1} of {0} than the mark does; detach and attach the drive")]
    Differs(String, u32),
    #[error("the kernel did not take partition {1} of {0}: {2}")]
    Add(String, u32, io::Error),
    #[error("the node of partition {1} of {0} did not appear under /dev")]
    NoNode(String, u32),
}

/// An open whole drive with what the kernel says of it.
#[derive(Debug)]
pub(super) struct OpenDrive {
    pub file: File,
    pub number: (u32, u32),
    pub geometry: Geometry,
}

/// Opens a whole block device to write to it, alone. A look of ours or of udevd's holds it for moments: so long it is tried.
pub(super) fn open_alone(path: &Path, patience: Duration) -> Result<OpenDrive, PartitionError> {
    let deadline = Instant::now() + patience;
    loop {
        match open(path, true, OFlags::EXCL | OFlags::CLOEXEC) {
            Err(PartitionError::Open(_, error))
                if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(50));
            }
            done => return done,
        }
    }
}

/// Opens a whole block device with these extra flags and reads its numbers from the descriptor.
pub(super) fn open(path: &Path, write: bool, flags: OFlags) -> Result<OpenDrive, PartitionError> {
    let failed = |error| PartitionError::Open(path.to_owned(), error);
    let flags = i32::try_from(flags.bits())
        .map_err(io::Error::other)
        .map_err(failed)?;
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(flags)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.file_type().is_block_device() {
        return Err(PartitionError::NotADrive(path.to_owned()));
    }
    let size = ioctl::size_bytes(file.as_fd()).map_err(failed)?;
    let block = rustix::fs::ioctl_blksszget(&file).map_err(|error| failed(error.into()))?;
    let number = (
        rustix::fs::major(metadata.rdev()),
        rustix::fs::minor(metadata.rdev()),
    );
    Ok(OpenDrive {
        file,
        number,
        geometry: Geometry {
            size,
            block: u64::from(block),
        },
    })
}

/// Finds the member on this disk: reads the mark, and makes sure that the kernel has the partition.
pub(super) fn locate(config: &MemberConfig, disk: &str, id: MemberId) -> Result<Place, PartitionError> {
    let drive = open(
        &config.host(&format!("/dev/{disk}")),
        false,
        rustix::fs::OFlags::CLOEXEC,
    )?;
    // A loop device from which its file was detached is still there, and has no size.
    if drive.geometry.size == 0 {
        return Err(PartitionError::NotOurs(disk.to_owned(), id));
    }
    let mark = mark::read(&drive.file, drive.geometry)
        .map_err(|error| PartitionError::Mark(disk.to_owned(), error))?;
    match mark {
        Some(mark) if mark.member == id => attach(config, disk, &drive, mark),
        _ => Err(PartitionError::NotOurs(disk.to_owned(), id)),
    }
}

/// Tells the kernel of the marked partition where it does not know it yet, and waits for its node.
pub(super) fn attach(
    config: &MemberConfig,
    disk: &str,
    drive: &OpenDrive,
    mark: FoundMark,
) -> Result<Place, PartitionError> {
    let failed = |error| PartitionError::Add(disk.to_owned(), NUMBER, error);
    if known(config, drive.number).map_err(failed)?.is_none() {
        match ioctl::add_partition(drive.file.as_fd(), NUMBER, mark.start, mark.length) {
            // The kernel may have read the table in this moment.
            Err(error) if known(config, drive.number).map_err(failed)?.is_none() => {
                return Err(failed(error));
            }
            _ => {}
        }
    }
    let deadline = Instant::now() + APPEARANCE;
    loop {
        if let Some(partition) = known(config, drive.number).map_err(failed)? {
            if (partition.start, partition.length) != (mark.start, mark.length) {
                return Err(PartitionError::Differs(disk.to_owned(), NUMBER));
            }
            let node = config.host(&format!("/dev/{}", partition.name));
            if is_node(&node, partition.number) {
                return Ok(Place {
                    disk: disk.to_owned(),
                    node,
                    number: partition.number,
                    mark,
                });
            }
        }
        if Instant::now() >= deadline {
            return Err(PartitionError::NoNode(disk.to_owned(), NUMBER));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Makes the kernel forget the partition of a loop device, which would otherwise outlive its detaching.
pub(super) fn forget(config: &MemberConfig, disk: &str) {
    if !disk.starts_with("loop") {
        return;
    }
    let Ok(drive) = open(
        &config.host(&format!("/dev/{disk}")),
        false,
        rustix::fs::OFlags::CLOEXEC,
    ) else {
        return;
    };
    if let Err(error) = ioctl::delete_partition(drive.file.as_fd(), NUMBER) {
        tracing::debug!(disk, %error, "the loop device keeps its partition");
    }
}

/// Has the kernel announce that a drive changed, so that everybody who watches it reads it again: without udevd
/// nobody does that when a writer closes it. Not being able to is no fault of the member's: rescans see it too.
pub(super) fn announce(config: &MemberConfig, disk: &str) {
    if let Err(error) = fs::write(config.host(&format!("/sys/class/block/{disk}/uevent")), "change") {
        tracing::debug!(disk, %error, "the change of the drive is not announced");
    }
}

/// A partition as `/sys` shows it.
pub(super) struct Known {
    name: String,
    pub number: (u32, u32),
    pub start: u64,
    pub length: u64,
}

fn sysfs(config: &MemberConfig, number: (u32, u32)) -> PathBuf {
    config.host(&format!("/sys/dev/block/{}:{}", number.0, number.1))
}

/// Names of all partitions that the kernel shows below a disk.
pub(super) fn children(config: &MemberConfig, disk: (u32, u32)) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(sysfs(config, disk))? {
        let entry = entry?;
        if entry.path().join("partition").exists() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// Whether this device number is a partition itself.
pub(super) fn is_partition(config: &MemberConfig, number: (u32, u32)) -> bool {
    sysfs(config, number).join("partition").exists()
}

/// Whether the kernel still has this device.
pub(super) fn exists(config: &MemberConfig, number: (u32, u32)) -> bool {
    sysfs(config, number).exists()
}

/// What the kernel counted of writes to a whole device: sectors written, and sectors discarded. They move whoever it was
/// that wrote, by whatever path on this node; only with `queue/iostats` switched off they stand still. (Requests are not
/// counted: a flush is one of them and changes nothing.)
pub(super) type WriteCounters = [u64; 2];

/// The counters as they are now. What others wrote and the kernel still holds back is counted only when it reaches the
/// device: sync it before. Before Linux 6.5 the kernel counts what is written to an NVMe namespace only on its hidden
/// paths, so they are counted with it.
pub(super) fn write_counters(config: &MemberConfig, disk: (u32, u32)) -> io::Result<WriteCounters> {
    write_counters_below(&config.host("/"), disk)
}

fn write_counters_below(root: &Path, (major, minor): (u32, u32)) -> io::Result<WriteCounters> {
    let own = root.join(format!("sys/dev/block/{major}:{minor}"));
    let mut sum = counted(&own)?;
    let whole = fs::canonicalize(&own)?;
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("nvme") {
        let block = root.join("sys/block");
        for entry in fs::read_dir(&block)? {
            let path = entry?.file_name().to_string_lossy().into_owned();
            if head_of_path(&path).as_deref() != Some(&*name) {
                continue;
            }
            for (sum, counted) in sum.iter_mut().zip(counted(&block.join(path))?) {
                *sum = sum.saturating_add(counted);
            }
        }
    }
    Ok(sum)
}

fn counted(device: &Path) -> io::Result<WriteCounters> {
    let stat = fs::read_to_string(device.join("stat"))?;
    let fields: Vec<u64> = stat
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    let field = |index: usize| {
        fields
            .get(index)
            .copied()
            .ok_or_else(|| io::Error::other("the kernel counts no writes"))
    };
    // Kernels before 4.18 count no discards.
    Ok([field(6)?, field(13).unwrap_or(0)])
}

/// Devices above this one.
pub(super) fn holders(config: &MemberConfig, number: (u32, u32)) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(sysfs(config, number).join("holders"))?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Kernel name of the disk on which the partition with this number is.
pub(super) fn disk_of(config: &MemberConfig, number: (u32, u32)) -> Option<String> {
    let path = fs::canonicalize(sysfs(config, number)).ok()?;
    Some(path.parent()?.file_name()?.to_string_lossy().into_owned())
}

/// The node of the device with this number.
pub(super) fn node_of(config: &MemberConfig, number: (u32, u32)) -> io::Result<PathBuf> {
    let path = fs::canonicalize(sysfs(config, number))?;
    let name = path
        .file_name()
        .ok_or(io::ErrorKind::NotFound)?
        .to_string_lossy()
        .into_owned();
    let node = config.host(&format!("/dev/{name}"));
    if is_node(&node, number) {
        Ok(node)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// The member's partition as the kernel has it below this disk.
pub(super) fn known(config: &MemberConfig, disk: (u32, u32)) -> io::Result<Option<Known>> {
    for name in children(config, disk)? {
        let folder = sysfs(config, disk).join(&name);
        let read = |file: &str| fs::read_to_string(folder.join(file)).map(|text| text.trim().to_owned());
        let count = |file: &str| read(file)?.parse::<u64>().map_err(io::Error::other);
        if count("partition")? == u64::from(NUMBER) {
            let number = parse_number(&read("dev")?).ok_or_else(|| io::Error::other("no device number"))?;
            let bytes = |file: &str| {
                let blocks = count(file)?.checked_mul(SYSFS_BLOCK);
                blocks.ok_or_else(|| io::Error::other(format!("{file} is no number of blocks")))
            };
            let (start, length) = (bytes("start")?, bytes("size")?);
            return Ok(Some(Known {
                name,
                number,
                start,
                length,
            }));
        }
    }
    Ok(None)
}

/// `major:minor`.
pub(super) fn parse_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn is_node(path: &Path, number: (u32, u32)) -> bool {
    fs::metadata(path).is_ok_and(|metadata| {
        metadata.file_type().is_block_device()
            && (
                rustix::fs::major(metadata.rdev()),
                rustix::fs::minor(metadata.rdev()),
            ) == number
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_number("259:12"), Some((259, 12)));
        assert_eq!(parse_number("259"), None);
        assert_eq!(parse_number("a:b"), None);
    }

    #[test]
    fn what_the_kernel_counts_on_the_hidden_paths_of_a_namespace_was_written_to_it() {
        let root = tempfile::tempdir().unwrap();
        let block = root.path().join("sys/block");
        let counted = |name: &str, written: u64| {
            std::fs::create_dir_all(block.join(name)).unwrap();
            let stat = format!("0 0 0 0 1 0 {written} 0 0 0 0 0 0 {written} 0");
            std::fs::write(block.join(name).join("stat"), stat).unwrap();
        };
        let all = [
            ("nvme0n1", 0),
            ("nvme0c0n1", 8),
            ("nvme0c1n1", 16),
            ("nvme0c1n2", 32),
            ("nvme1c0n1", 64),
        ];
        for (name, written) in all {
            counted(name, written);
        }
        let numbers = root.path().join("sys/dev/block");
        std::fs::create_dir_all(&numbers).unwrap();
        std::os::unix::fs::symlink("../../block/nvme0n1", numbers.join("259:1")).unwrap();
        assert_eq!(write_counters_below(root.path(), (259, 1)).unwrap(), [24, 24]);
    }
}
