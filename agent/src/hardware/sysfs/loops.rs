//! What `/sys` says of loop devices: the file behind one, and the loop devices that are laid over another device.

use std::io;

use super::Sysfs;
use crate::hardware::host::Inode;

impl Sysfs {
    /// The backing file of an attached loop device, if it still has a name.
    pub(in crate::hardware) fn loop_file(&self, name: &str) -> Option<String> {
        self.attr(name, "loop/backing_file")
            .filter(|file| !file.ends_with(" (deleted)"))
    }

    /// Loop devices that are laid over this one: they open it plainly, and the kernel names no holder for them.
    pub(in crate::hardware) fn loops_over(&self, name: &str) -> io::Result<Vec<String>> {
        let Some((major, minor)) = self.number_of(name) else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for upper in self.host.names("/sys/block", "loop")? {
            let Some(file) = self.loop_file(&upper).filter(|file| file.starts_with("/dev/")) else {
                continue;
            };
            let same_number = self.host.inode(&file) == Some(Inode::Block { major, minor });
            if same_number || file.strip_prefix("/dev/") == Some(name) {
                names.push(upper);
            }
        }
        Ok(names)
    }

    /// What speaks against a loop device of `size` bytes that begins at `offset` of its file: the file is shorter, or
    /// the device goes away with its last user.
    pub(in crate::hardware) fn loop_trouble(&self, name: &str, offset: u64, size: u64) -> Option<String> {
        if self.attr(name, "loop/autoclear").as_deref() == Some("1") {
            return Some("it was detached, and is gone as soon as nobody uses it".to_owned());
        }
        let file = self.loop_file(name)?;
        let Some(Inode::File { length }) = self.host.inode(&file) else {
            return None;
        };
        (length < offset.saturating_add(size))
            .then(|| format!("its backing file was truncated to {length} bytes, and the device has {size}"))
    }
}
