//! Which processes have a device open.
//!
//! The kernel refuses an exclusive open only while another exclusive one (a mount, swap, RAID) is there. A virtual
//! machine, a database or a storage server that was given a raw drive often opens it plainly, and a new one's drive is
//! still blank. It only reads `/proc`, and a process that ended meanwhile is no finding.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::MemberConfig;

/// "qemu-system-x86 (process 4711)" for every other process that has the block device with this number open.
///
/// # Errors
/// Where processes may not be looked into: then nothing may be concluded.
pub(super) fn others(config: &MemberConfig, number: (u32, u32)) -> io::Result<Vec<String>> {
    let proc = config.host("/proc");
    let own = fs::read_link(proc.join("self")).map_or_else(
        |_| std::process::id().to_string(),
        |link| link.to_string_lossy().into_owned(),
    );
    let wanted = rustix::fs::makedev(number.0, number.1);
    let mut found = Vec::new();
    for entry in fs::read_dir(&proc)? {
        let entry = entry?;
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid == own || !pid.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let descriptors = match fs::read_dir(entry.path().join("fd")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let why = "other processes may not be looked into (CAP_SYS_PTRACE is missing)";
                return Err(io::Error::new(error.kind(), why));
            }
            // It ended meanwhile.
            Err(_) => continue,
            Ok(descriptors) => descriptors,
        };
        let holds = descriptors.flatten().any(|descriptor| {
            fs::metadata(descriptor.path())
                .is_ok_and(|about| about.file_type().is_block_device() && about.rdev() == wanted)
        });
        if holds {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!("{} (process {pid})", name.trim()));
        }
    }
    Ok(found)
}
