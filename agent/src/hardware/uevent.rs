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
        let socket = udev::MonitorBuilder::new_kernel()?
            .match_subsystem("block")?
            .match_subsystem("nvme")?
            .listen()?;
        // Refused without CAP_NET_ADMIN: then the default is all there is, and losses are noticed.
        let _ = nix::sys::socket::setsockopt(
            &socket,
            nix::sys::socket::sockopt::RcvBufForce,
            &RECEIVE_BUFFER_BYTES,
        );
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

fn translate(name: &str, devpath: &str, controller: bool, partition: bool, health: bool) -> Event {
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
