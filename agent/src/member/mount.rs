//! Mount points and what is mounted there.
//!
//! A bare mount point is immutable, so that a program that starts too early or too late fails instead of filling
//! the node's root disk; the data lives in `<mount>/data`, a folder that exists only on the drive. Looking at a
//! member writes nothing.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::IFlags;
use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::partition::{Place, parse_number};
use super::{EnsureMember, FileSystem, MemberId, fault, store};

/// The folder of the storage process, below the mount point.
pub(super) const DATA: &str = "data";

/// Who the file system belongs to, below the mount point.
const IDENTITY: &str = "member.json";

/// The largest sensible identity file; more is not one.
const IDENTITY_LIMIT: u64 = 64 << 10;

/// What `member.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub member_id: MemberId,
    pub pool: String,
    pub cluster_id: String,
}

impl Identity {
    pub fn of(order: &EnsureMember) -> Self {
        Self {
            member_id: order.member_id,
            pool: order.pool.clone(),
            cluster_id: order.cluster_id.clone(),
        }
    }
}

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// The kernel's number of this mount: another one means that it was mounted anew.
    pub mount_id: u64,
    pub number: (u32, u32),
    pub read_only: bool,
    pub options: String,
}

/// What is mounted at exactly this path, topmost.
pub(super) fn mounted_at(path: &Path) -> io::Result<Option<Mounted>> {
    Ok(find_mount(&fs::read_to_string("/proc/self/mountinfo")?, path))
}

/// Pure part of [`mounted_at`]: reads the kernel's table.
fn find_mount(table: &str, path: &Path) -> Option<Mounted> {
    table
        .lines()
        .filter_map(|line| parse_line(line, path))
        .next_back()
}

fn parse_line(line: &str, path: &Path) -> Option<Mounted> {
    let (front, back) = line.split_once(" - ")?;
    let mut fields = front.split(' ');
    let mount_id = fields.next()?.parse().ok()?;
    let number = parse_number(fields.nth(1)?)?;
    let mount_point = fields.nth(1)?;
    if Path::new(&unescape(mount_point)) != path {
        return None;
    }
    let options = fields.next()?;
    let super_options = back.split(' ').nth(2).unwrap_or_default();
    let read_only = [options, super_options]
        .iter()
        .any(|list| list.split(',').any(|option| option == "ro"));
    Some(Mounted {
        mount_id,
        number,
        read_only,
        options: super_options.to_owned(),
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Makes the bare mount point and makes it immutable.
pub(super) fn make_mount_point(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    set_immutable(path, true)
}

/// Removes a bare mount point; nothing to remove is no error.
pub(super) fn remove_mount_point(path: &Path) -> io::Result<()> {
    match set_immutable(path, false).and_then(|()| fs::remove_dir(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn set_immutable(path: &Path, wanted: bool) -> io::Result<()> {
    let folder = File::open(path)?;
    let flags = match rustix::fs::ioctl_getflags(&folder) {
        Ok(flags) => flags,
        // tmpfs and overlays of some kernels have no such flag: the folder on the drive protects alone there.
        Err(rustix::io::Errno::NOTTY | rustix::io::Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if flags.contains(IFlags::IMMUTABLE) == wanted {
        return Ok(());
    }
    let mut changed = flags;
    changed.set(IFlags::IMMUTABLE, wanted);
    match rustix::fs::ioctl_setflags(&folder, changed) {
        Err(rustix::io::Errno::NOTTY | rustix::io::Errno::NOTSUP) => Ok(()),
        other => Ok(other?),
    }
}

/// Mounts a member's partition; the folder below is immutable.
pub(super) fn mount(place: &Place, path: &Path, file_system: FileSystem) -> io::Result<()> {
    make_mount_point(path)?;
    fault::point("member-mount-point-made");
    let flags = MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    let options = match file_system {
        FileSystem::Xfs => None,
        FileSystem::Ext4 => Some(CString::from(c"errors=remount-ro")),
    };
    rustix::mount::mount(&place.node, path, file_system.name(), flags, options.as_deref())?;
    match mounted_at(path)? {
        Some(mounted) if mounted.number == place.number => Ok(()),
        _ => Err(io::Error::other(
            "another device was mounted than the one that was meant",
        )),
    }
}

/// Takes everything off a mount point; waits up to `patience` for those who still use it, then fails with `EBUSY`,
/// or detaches it (`lazily`) and lets the last of them go by himself.
pub(super) fn unmount(path: &Path, lazily: bool, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    while mounted_at(path)?.is_some() {
        match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::BUSY) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(_) if lazily => {
                rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Which file system is on a block device, by its superblock.
pub(super) fn superblock(device: &Path) -> io::Result<Option<(FileSystem, Uuid)>> {
    let file = File::open(device)?;
    let mut head = vec![0; 4096];
    file.read_exact_at(&mut head, 0)?;
    Ok(parse_superblock(&head))
}

fn parse_superblock(head: &[u8]) -> Option<(FileSystem, Uuid)> {
    let uuid = |at: usize| {
        head.get(at..at + 16)
            .and_then(|bytes| Uuid::from_slice(bytes).ok())
    };
    if head.get(..4) == Some(b"XFSB") {
        return Some((FileSystem::Xfs, uuid(32)?));
    }
    if head.get(1024 + 56..1024 + 58) == Some(&[0x53, 0xef]) {
        return Some((FileSystem::Ext4, uuid(1024 + 104)?));
    }
    None
}

/// Writes who the file system belongs to, makes the data folder, and syncs both.
pub(super) fn write_identity(mount_point: &Path, identity: &Identity) -> io::Result<()> {
    let data = mount_point.join(DATA);
    if !data.is_dir() {
        fs::create_dir(&data)?;
    }
    let bytes = serde_json::to_vec_pretty(identity)?;
    store::write_atomically(&mount_point.join(IDENTITY), &bytes)?;
    rustix::fs::syncfs(File::open(mount_point)?).map_err(io::Error::from)
}

/// Reads who the file system belongs to. On a file system that is shut down the opening fails: so this is also
/// the sign of life, and it costs no write and, while the page is cached, no read of the drive.
pub(super) fn read_identity(mount_point: &Path) -> io::Result<Option<Identity>> {
    let file = match File::open(mount_point.join(IDENTITY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(IDENTITY_LIMIT).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes).ok())
}

/// The id that the storage process wrote into its folder; `None` before its first start.
pub(super) fn read_data_id(mount_point: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(mount_point.join(DATA).join("vol_dir.uuid")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => Ok(Some(other?.trim().to_owned()).filter(|text| !text.is_empty())),
    }
}

/// Capacity and used bytes of a mounted file system, the latter in whole percent of the former.
pub(super) fn space(mount_point: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(mount_point)?;
    let capacity = stat.f_blocks.saturating_mul(stat.f_frsize);
    let used = stat
        .f_blocks
        .saturating_sub(stat.f_bfree)
        .saturating_mul(stat.f_frsize);
    Ok((capacity, quantise(used, capacity)))
}

fn quantise(used: u64, capacity: u64) -> u64 {
    let step = (capacity / 100).max(1);
    used.div_ceil(step).saturating_mul(step).min(capacity)
}

/// Whether the data folder is there and is on the mounted file system itself.
pub(super) fn has_data_folder(mount_point: &Path) -> io::Result<bool> {
    let below = fs::symlink_metadata(mount_point.join(DATA));
    match below {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => {
            let below = other?;
            Ok(below.is_dir() && below.dev() == fs::metadata(mount_point)?.dev())
        }
    }
}

/// The folder of all mount points.
pub(super) fn mount_points(data_dir: &Path) -> io::Result<Vec<(MemberId, PathBuf)>> {
    let entries = match fs::read_dir(data_dir.join("mounts")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some(id) = MemberId::parse(&entry.file_name().to_string_lossy()) {
            found.push((id, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 259:3 / /var/lib/a\\040b/mounts/x rw,noatime shared:7 - xfs /dev/loop0p1 rw,attr2
41 22 259:4 / /var/lib/a\\040b/mounts/x rw,noatime - xfs /dev/loop1p1 ro,attr2
42 22 0:33 / /proc rw - proc proc rw";

    #[test]
    fn the_topmost_mount_at_exactly_the_path_counts() {
        let found = find_mount(TABLE, Path::new("/var/lib/a b/mounts/x")).unwrap();
        assert_eq!(
            (found.mount_id, found.number, found.read_only),
            (41, (259, 4), true)
        );
        assert!(!find_mount(TABLE, Path::new("/")).unwrap().read_only);
        assert_eq!(find_mount(TABLE, Path::new("/var/lib/a b/mounts")), None);
        assert_eq!(find_mount("rubbish\n1 2 3\n - \n", Path::new("/")), None);
    }

    #[test]
    fn superblocks_are_told_apart() {
        let id = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
        let mut xfs = vec![0; 4096];
        xfs[..4].copy_from_slice(b"XFSB");
        xfs[32..48].copy_from_slice(id.as_bytes());
        assert_eq!(parse_superblock(&xfs), Some((FileSystem::Xfs, id)));
        let mut ext4 = vec![0; 4096];
        ext4[1080..1082].copy_from_slice(&[0x53, 0xef]);
        ext4[1128..1144].copy_from_slice(id.as_bytes());
        assert_eq!(parse_superblock(&ext4), Some((FileSystem::Ext4, id)));
        assert_eq!(parse_superblock(&[0; 4096]), None);
        assert_eq!(parse_superblock(&[]), None);
    }

    #[test]
    fn used_bytes_move_in_whole_percents() {
        assert_eq!(quantise(0, 1000), 0);
        assert_eq!(quantise(1, 1000), 10);
        assert_eq!(quantise(10, 1000), 10);
        assert_eq!(quantise(1000, 1000), 1000);
        assert_eq!(quantise(5, 0), 0);
    }

    #[test]
    fn an_identity_is_read_back_and_rubbish_is_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_identity(folder.path()).unwrap(), None);
        let identity = Identity {
            member_id: MemberId::parse("3f0c2b9e-6a52-4b8e-9d57-0a3f5c1e7d21").unwrap(),
            pool: "fast".into(),
            cluster_id: "c".into(),
        };
        write_identity(folder.path(), &identity).unwrap();
        write_identity(folder.path(), &identity).unwrap();
        assert_eq!(read_identity(folder.path()).unwrap(), Some(identity));
        assert!(has_data_folder(folder.path()).unwrap());
        assert_eq!(read_data_id(folder.path()).unwrap(), None);
        fs::write(folder.path().join(IDENTITY), b"{}").unwrap();
        assert_eq!(read_identity(folder.path()).unwrap(), None);
    }
}
