//! udevd's database, `/run/udev/data/b<major>:<minor>`: only a second opinion, and missing on machines without
//! udevd. The kernel's own attributes go first.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// `/run/udev` of one machine.
#[derive(Debug, Clone)]
pub(super) struct Udev {
    root: PathBuf,
}

impl Udev {
    pub(super) fn new(host_root: &Path) -> Self {
        Self {
            root: host_root.join("run/udev"),
        }
    }

    /// Properties of a device; empty where udevd has none.
    pub(super) fn properties(&self, major: u32, minor: u32) -> BTreeMap<String, String> {
        fs::read(self.file(major, minor))
            .map(|bytes| parse(&String::from_utf8_lossy(&bytes)))
            .unwrap_or_default()
    }

    /// udevd has filed this device and is not working on anything; true where no udevd runs.
    pub(super) fn settled(&self, major: u32, minor: u32) -> bool {
        !self.root.join("control").exists()
            || (self.file(major, minor).exists() && !self.root.join("queue").exists())
    }

    fn file(&self, major: u32, minor: u32) -> PathBuf {
        self.root.join(format!("data/b{major}:{minor}"))
    }
}

/// Lines `E:KEY=VALUE` of a database file.
pub(super) fn parse(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("E:")?.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_read_and_other_lines_are_not() {
        let text = "S:disk/by-id/x\nI:456\nE:ID_SERIAL_SHORT=S1=2\nE:ID_MODEL=M\nE:broken\n";
        let found = parse(text);
        assert_eq!(found.get("ID_SERIAL_SHORT").map(String::as_str), Some("S1=2"));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn without_udevd_everything_is_settled() {
        let root = tempfile::tempdir().unwrap();
        let udev = Udev::new(root.path());
        assert!(udev.settled(8, 0));
        fs::create_dir_all(root.path().join("run/udev/data")).unwrap();
        fs::write(root.path().join("run/udev/control"), "").unwrap();
        assert!(!udev.settled(8, 0), "udevd runs and has not filed it");
        fs::write(root.path().join("run/udev/data/b8:0"), "E:A=1").unwrap();
        assert!(udev.settled(8, 0));
        fs::write(root.path().join("run/udev/queue"), "").unwrap();
        assert!(!udev.settled(8, 0), "udevd is at work");
    }
}
