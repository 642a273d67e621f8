//! The kernel's announcements of block and NVMe devices.
//!
//! It listens to the kernel's own netlink group, never to udevd's: udevd's messages do not reach other network
//! namespaces. Messages that the kernel had to drop are told as lost, never silently missed. libudev's types belong
//! to one thread: a [`Monitor`] is made where it is used.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Room for a few ten thousand messages, so that a storm is not lost while a probe is running.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// One announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Kernel name of the device that the kernel spoke of.
    pub name: String,
    /// Kernel name of the whole disk, where that was one of its partitions.
    pub disk: String,
    /// It is an NVMe controller and no block device.
    pub controller: bool,
    /// The drive itself says that its health changed (NVMe asynchronous event).
    pub health: bool,
}

/// A socket on the kernel's announcements.
pub struct Monitor {
    socket: udev::MonitorSocket,
}

impl Monitor {
    /// Listens from now on.
    ///
    /// # Errors
    /// Where the socket cannot be made (no netlink in this sandbox).
    pub fn listen() -> io::Result<Self> {
        Self::listen_with(RECEIVE_BUFFER_BYTES)
    }

    fn listen_with(buffer_bytes: usize) -> io::Result<Self> {
        let socket = udev::MonitorBuilder::new_kernel()?
            .match_subsystem("block")?
            .match_subsystem("nvme")?
            .listen()?;
        // Without CAP_NET_ADMIN only as much as the system allows everybody; losses are noticed anyhow.
        use nix::sys::socket::{setsockopt, sockopt};
        if let Err(error) = setsockopt(&socket, sockopt::RcvBufForce, &buffer_bytes)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &buffer_bytes))
        {
            tracing::debug!(%error, "receive buffer of kernel events stays small");
        }
        Ok(Self { socket })
    }

    /// Everything that was announced since the last call, and whether some of it was lost.
    pub fn drain(&self) -> (Vec<Event>, bool) {
        let mut events = Vec::new();
        let mut lost = false;
        loop {
            if let Some(event) = self.socket.iter().next() {
                events.push(translate(
                    &event.sysname().to_string_lossy(),
                    &event.devpath().to_string_lossy(),
                    event
                        .property_value("SUBSYSTEM")
                        .is_some_and(|value| value == "nvme"),
                    event
                        .property_value("DEVTYPE")
                        .is_some_and(|value| value == "partition"),
                    event.property_value("NVME_AEN").is_some(),
                ));
                continue;
            }
            // libudev leaves the reason in errno. ENOBUFS is told once, and what still fits comes after it.
            if io::Error::last_os_error().raw_os_error() != Some(nix::libc::ENOBUFS) {
                return (events, lost);
            }
            if lost {
                return (events, lost);
            }
            lost = true;
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

pub(super) fn translate(name: &str, devpath: &str, controller: bool, partition: bool, health: bool) -> Event {
    // The kernel writes '/' in names as '!'.
    let mut pieces = devpath.rsplit('/');
    let own = pieces.next().filter(|piece| !piece.is_empty()).unwrap_or(name);
    let disk = if partition {
        pieces.next().unwrap_or(own)
    } else {
        own
    };
    Event {
        name: own.to_owned(),
        disk: disk.to_owned(),
        controller,
        health,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root and loop devices"]
    fn dropped_announcements_are_told_as_lost_and_listening_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lost");
        std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let output = std::process::Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&path)
            .output()
            .unwrap();
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let uevent = format!("/sys/block/{}/uevent", device.strip_prefix("/dev/").unwrap());
        let monitor = Monitor::listen_with(4096).unwrap();
        for _ in 0..1000 {
            std::fs::write(&uevent, "change").unwrap();
        }
        let (events, lost) = monitor.drain();
        std::fs::write(&uevent, "change").unwrap();
        let (after, lost_again) = monitor.drain();
        std::process::Command::new("losetup")
            .args(["--detach", &device])
            .status()
            .unwrap();
        assert!(
            lost && events.len() < 1000,
            "{} events, lost: {lost}",
            events.len()
        );
        assert!(!lost_again && !after.is_empty());
    }

    #[test]
    fn a_partitions_event_concerns_its_disk() {
        let event = translate(
            "sda1",
            "/devices/pci0000:00/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1",
            false,
            true,
            false,
        );
        assert_eq!((event.name.as_str(), event.disk.as_str()), ("sda1", "sda"));
        let whole = translate("loop1", "/devices/virtual/block/loop1", false, false, false);
        assert_eq!((whole.name.as_str(), whole.disk.as_str()), ("loop1", "loop1"));
    }
}
