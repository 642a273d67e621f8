//! Mount tables and swap areas: what is in use now, in the host's mount namespace and in every other one.
//!
//! It only parses text of `/proc`. A table that cannot be read is a fault, never "nothing is mounted".

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::host::{Host, MountTable};
use super::{Fault, Mount, Probe, Surroundings, Swap};

/// Every mount of a block device and every swap area of the host.
pub(super) fn read(host: &dyn Host) -> Surroundings {
    let mut around = Surroundings::default();
    let mut mounts = BTreeSet::new();
    let mut known = BTreeSet::new();
    let mut hidden = false;
    host.mount_tables(&mut |table| match (table.text, table.foreign_pid) {
        (Ok(text), None) => {
            let found = parse_mountinfo(&String::from_utf8_lossy(&text));
            known.extend(found.iter().map(Mount::what));
            mounts.extend(found);
        }
        (Ok(text), foreign_pid) => {
            for mount in parse_mountinfo(&String::from_utf8_lossy(&text)) {
                // Containers see copies of the host's mounts: only what nobody else shows is news.
                if known.insert(mount.what()) {
                    mounts.insert(Mount { foreign_pid, ..mount });
                }
            }
        }
        (Err(error), None) => around.faults.push(Fault::failed(
            Probe::Mounts,
            "",
            format!("reading {}: {error}", table.path),
        )),
        // A process that ended meanwhile is no fault.
        (Err(error), Some(_)) => hidden |= error.kind() == io::ErrorKind::PermissionDenied,
    });
    if hidden {
        let detail = "mount namespaces of other processes may not be read (CAP_SYS_PTRACE is missing)";
        around.faults.push(Fault::failed(Probe::Mounts, "", detail));
    }
    around.mounts = mounts.into_iter().collect();
    match host.read("/proc/swaps") {
        Ok(bytes) => around.swaps = parse_swaps(&String::from_utf8_lossy(&bytes)),
        Err(error) => around
            .faults
            .push(Fault::failed(Probe::Swaps, "", format!("reading swaps: {error}"))),
    }
    around
}

impl Mount {
    /// Which file system it is, wherever it is seen.
    pub(super) fn what(&self) -> (u32, u32, String) {
        (self.major, self.minor, self.source.clone())
    }
}

/// Shows every mount table of the machine whose root is `host_root`, the host's own first.
pub(super) fn show_tables(host_root: &Path, show: &mut dyn FnMut(MountTable)) {
    let own = tables(host_root).into_iter().map(|path| (None, path));
    let mut read = |(foreign_pid, path): (Option<u32>, PathBuf)| {
        show(MountTable {
            foreign_pid,
            text: fs::read(&path),
            path: path.display().to_string(),
        });
    };
    own.for_each(&mut read);
    other_namespaces(&host_root.join("proc"))
        .into_iter()
        .map(|(pid, path)| (Some(pid), path))
        .for_each(read);
}

/// The mount tables that speak for the host: that of its first process, and our own where it is another.
fn tables(host_root: &Path) -> Vec<PathBuf> {
    let proc = host_root.join("proc");
    let namespace = |pid: &str| fs::read_link(proc.join(pid).join("ns/mnt")).ok();
    let first = proc.join("1/mountinfo");
    let own = PathBuf::from("/proc/self/mountinfo");
    if host_root == Path::new("/") {
        match (namespace("1"), namespace("self")) {
            (Some(a), Some(b)) if a == b => vec![own],
            _ if first.exists() => vec![first, own],
            _ => vec![own],
        }
    } else {
        vec![first]
    }
}

/// What can be polled for a change: the host's mount tables and its swap areas. Swap that is switched on or off is
/// announced by nothing else: no uevent, no mount.
pub(super) fn watched(host_root: &Path) -> Vec<PathBuf> {
    let mut watched = tables(host_root);
    watched.push(host_root.join("proc/swaps"));
    watched
}

/// One process of each other mount namespace, and its table.
fn other_namespaces(proc: &Path) -> Vec<(u32, PathBuf)> {
    let namespace = |pid: &str| fs::read_link(proc.join(pid).join("ns/mnt"));
    let mut seen: BTreeSet<PathBuf> = [namespace("1"), namespace("self")]
        .into_iter()
        .filter_map(Result::ok)
        .collect();
    let mut pids: Vec<u32> = fs::read_dir(proc)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let mut others = Vec::new();
    for pid in pids {
        match namespace(&pid.to_string()) {
            Ok(of) => {
                if seen.insert(of) {
                    others.push((pid, proc.join(pid.to_string()).join("mountinfo")));
                }
            }
            // The first process' table is read in any case; another's may be readable although its namespace is not.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && pid != 1 => {
                others.push((pid, proc.join(pid.to_string()).join("mountinfo")));
            }
            // It ended meanwhile, or is a thread of the kernel.
            Err(_) => {}
        }
    }
    others
}

/// Mounts of block devices in a mountinfo table; lines that make no sense are passed over.
pub(super) fn parse_mountinfo(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(parse_mount)
        .filter(|m| m.major != 0 || m.source.starts_with("/dev/"))
        .collect()
}

fn parse_mount(line: &str) -> Option<Mount> {
    // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let (major, minor) = left.nth(2)?.split_once(':')?;
    let (root, mount_point) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    Some(Mount {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        fstype: unescape(right.next()?),
        source: unescape(right.next()?),
        mount_point: unescape(mount_point),
        root: unescape(root),
        foreign_pid: None,
    })
}

/// Swap areas in a `/proc/swaps` table.
pub(super) fn parse_swaps(text: &str) -> Vec<Swap> {
    let mut swaps: Vec<Swap> = text
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some(Swap {
                path: unescape(fields.next()?),
                kind: fields.next()?.to_owned(),
            })
        })
        .collect();
    swaps.sort();
    swaps
}

/// The kernel writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn block_mounts_are_read_and_others_are_not() {
        let text = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
            90 27 254:0 /var/lib/x /mnt/a\\040b rw,relatime shared:1 master:2 - ext4 /dev/vda rw\n\
            91 27 0:44 / /data rw - btrfs /dev/sdb1 rw,subvol=/\n\
            nonsense\n";
        let mounts = parse_mountinfo(text);
        assert_eq!(mounts.len(), 3);
        assert_eq!((mounts[0].major, mounts[0].mount_point.as_str()), (254, "/"));
        assert_eq!(
            (mounts[1].root.as_str(), mounts[1].mount_point.as_str()),
            ("/var/lib/x", "/mnt/a b")
        );
        assert_eq!((mounts[2].major, mounts[2].source.as_str()), (0, "/dev/sdb1"));
    }

    #[test]
    fn swaps_are_read() {
        let text = "Filename\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/vdb    partition\t65532\t0\t-2\n";
        assert_eq!(
            parse_swaps(text),
            [Swap {
                path: "/dev/vdb".into(),
                kind: "partition".into()
            }]
        );
        assert!(parse_swaps("").is_empty());
    }

    #[test]
    fn a_mount_table_that_is_missing_is_a_fault() {
        let empty = tempfile::tempdir().unwrap();
        let around = read(&super::super::host::Live::new(empty.path()));
        let probes: Vec<_> = around.faults.iter().map(|fault| fault.probe).collect();
        assert_eq!(probes, [Probe::Mounts, Probe::Swaps]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~\\n\\\\]{0,400}") {
            let _ = (parse_mountinfo(&text), parse_swaps(&text), unescape(&text));
        }
    }
}
