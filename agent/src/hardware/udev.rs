//! udevd's database, `/run/udev/data/b<major>:<minor>`: only a second opinion, and missing on machines without
//! udevd. The kernel's own attributes go first. A number is given to one device after another, and udevd needs a
//! while to file the new one: an entry that names the disk sequence number of another device is passed over.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::host::Host;

/// `/run/udev` of one machine.
#[derive(Debug, Clone)]
pub(super) struct Udev {
    host: Arc<dyn Host>,
}

impl Udev {
    pub(super) fn new(host: Arc<dyn Host>) -> Self {
        Self { host }
    }

    /// Properties of the device with this disk sequence number; empty where udevd has none.
    pub(super) fn properties(
        &self,
        major: u32,
        minor: u32,
        sequence: Option<u64>,
    ) -> BTreeMap<String, String> {
        self.entry(major, minor, sequence)
            .map(|text| parse(&text))
            .unwrap_or_default()
    }

    /// When udevd first saw the device, microseconds since the machine started.
    pub(super) fn appeared_us(&self, major: u32, minor: u32, sequence: Option<u64>) -> Option<u64> {
        let entry = self.entry(major, minor, sequence)?;
        entry
            .lines()
            .find_map(|line| line.strip_prefix("I:")?.parse().ok())
    }

    /// udevd has filed this device and is not working on anything; true where no udevd runs.
    pub(super) fn settled(&self, major: u32, minor: u32, sequence: Option<u64>) -> bool {
        let exists = |path| self.host.inode(path).is_some();
        !exists("/run/udev/control")
            || (self.entry(major, minor, sequence).is_some() && !exists("/run/udev/queue"))
    }

    fn entry(&self, major: u32, minor: u32, sequence: Option<u64>) -> Option<String> {
        let bytes = self.host.read(&format!("/run/udev/data/b{major}:{minor}")).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| is_of(text, sequence))
    }
}

/// No line `S:disk/by-diskseq/N` names another device; an older udevd writes none.
fn is_of(text: &str, sequence: Option<u64>) -> bool {
    text.lines()
        .filter_map(|line| line.strip_prefix("S:disk/by-diskseq/"))
        .all(|named| named.parse().ok() == sequence)
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
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::hardware::host::Live;

    fn udev(root: &Path) -> Udev {
        Udev::new(Arc::new(Live::new(root)))
    }

    #[test]
    fn properties_are_read_and_other_lines_are_not() {
        let text = "S:disk/by-id/x\nI:456\nE:ID_SERIAL_SHORT=S1=2\nE:ID_MODEL=M\nE:broken\n";
        let found = parse(text);
        assert_eq!(found.get("ID_SERIAL_SHORT").map(String::as_str), Some("S1=2"));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn an_entry_of_the_device_before_is_not_believed() {
        let root = tempfile::tempdir().unwrap();
        let udev = udev(root.path());
        fs::create_dir_all(root.path().join("run/udev/data")).unwrap();
        fs::write(root.path().join("run/udev/control"), "").unwrap();
        let file = |text: &str| fs::write(root.path().join("run/udev/data/b8:0"), text).unwrap();
        let known = |sequence| {
            let serial = udev.properties(8, 0, sequence).contains_key("ID_SERIAL_SHORT");
            (serial, udev.settled(8, 0, sequence))
        };
        file("S:disk/by-id/usb-x\nS:disk/by-diskseq/12\nI:456\nE:ID_SERIAL_SHORT=S1\n");
        assert_eq!(known(Some(12)), (true, true));
        assert_eq!(known(Some(13)), (false, false));
        assert_eq!(known(Some(1)), (false, false));
        assert_eq!(known(None), (false, false));
        file("S:disk/by-id/usb-x\nI:456\nE:ID_SERIAL_SHORT=S1\n");
        assert_eq!(known(Some(13)), (true, true), "an older udevd does not say");
        assert_eq!(known(None), (true, true));
    }

    #[test]
    fn without_udevd_everything_is_settled() {
        let root = tempfile::tempdir().unwrap();
        let udev = udev(root.path());
        assert!(udev.settled(8, 0, None));
        fs::create_dir_all(root.path().join("run/udev/data")).unwrap();
        fs::write(root.path().join("run/udev/control"), "").unwrap();
        assert!(!udev.settled(8, 0, None), "udevd runs and has not filed it");
        fs::write(root.path().join("run/udev/data/b8:0"), "E:A=1").unwrap();
        assert!(udev.settled(8, 0, None));
        fs::write(root.path().join("run/udev/queue"), "").unwrap();
        assert!(!udev.settled(8, 0, None), "udevd is at work");
    }
}
