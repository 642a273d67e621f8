//! The one door through which the probes reach a host: its files, links, devices and programs, as bytes.
//!
//! Every path is the host's own (`/sys/block/sda/dev`). [`Live`] is the kernel that this process runs on;
//! [`super::bundle`] has one that remembers what it was answered, and one that answers from what was remembered. It
//! draws no conclusions, and it opens a device only to read.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use serde::{Deserialize, Serialize};

use super::ioctl::{self, LoopStatus, NvmeRead};
use super::program::{self, Output};
use super::signatures::{self, Findings};
use super::{Device, Transport, mounts};

/// What the probes ask a host.
pub(super) trait Host: fmt::Debug + Send + Sync {
    /// All bytes of a file.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;

    /// The names in a folder that begin with `prefix`, sorted.
    fn names(&self, folder: &str, prefix: &str) -> io::Result<Vec<String>>;

    /// The path with every link followed.
    fn resolve(&self, path: &str) -> io::Result<String>;

    /// What lies at a path, links followed; none where nothing does.
    fn inode(&self, path: &str) -> Option<Inode>;

    /// Whether a loop device's backing file lies under a folder; both as this process sees them.
    fn lies_under(&self, file: &str, folder: &Path) -> bool;

    /// Opens a device and looks at what is written on it.
    fn look(&self, device: &Device) -> Result<Look, Unread>;

    /// Opens a device exclusively and closes it again: `EBUSY` where somebody holds it.
    fn hold(&self, device: &Device) -> io::Result<()>;

    /// Asks an NVMe controller two things, opened once.
    fn nvme(&self, node: &str, questions: [NvmeRead; 2]) -> io::Result<[io::Result<Vec<u8>>; 2]>;

    /// Runs a program; arguments below `/dev/` are nodes of the host.
    fn run(&self, name: &str, arguments: &[&str]) -> io::Result<Output>;

    /// Shows every mount table, one after the other: those of the host, then one of each other mount namespace.
    fn mount_tables(&self, show: &mut dyn FnMut(MountTable));

    /// Files whose change the kernel announces to who polls them; none where there is no kernel.
    fn watched(&self) -> Vec<PathBuf>;

    /// Whether a kernel is behind it, which announces changes.
    fn is_live(&self) -> bool;
}

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Inode {
    /// A block device with this number.
    Block {
        /// Major part.
        major: u32,
        /// Minor part.
        minor: u32,
    },
    /// A file of this length.
    File {
        /// In bytes.
        length: u64,
    },
    /// Anything else.
    Other,
}

/// What one look at a device gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Look {
    /// What the open device says of its size.
    pub(super) size_bytes: u64,
    /// Of a loop device: what it is laid over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) loop_status: Option<LoopStatus>,
    /// What is written on it.
    pub(super) findings: Findings,
}

/// Why a device was not looked at.
#[derive(Debug)]
pub(super) struct Unread {
    /// What was tried: "opening".
    pub(super) doing: String,
    /// What came of it.
    pub(super) error: io::Error,
}

/// One mount table.
#[derive(Debug)]
pub(super) struct MountTable {
    /// Where it was read.
    pub(super) path: String,
    /// A process of the mount namespace, where that is not the host's.
    pub(super) foreign_pid: Option<u32>,
    /// Its text.
    pub(super) text: io::Result<Vec<u8>>,
}

/// The kernel that this process runs on.
#[derive(Debug)]
pub(super) struct Live {
    root: PathBuf,
    canonical: PathBuf,
}

impl Live {
    /// The host whose `/dev`, `/sys`, `/proc` and `/run/udev` are below `root`.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            canonical: root.canonicalize().unwrap_or_else(|_| root.to_owned()),
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Opens the device to read, and makes sure that it is this device and not only one of that name.
    fn open(&self, device: &Device, flags: i32) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | flags)
            .open(self.at(&device.dev_path))?;
        let number = file.metadata()?.rdev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        if (major, minor) == (device.major, device.minor) {
            Ok(file)
        } else {
            Err(io::Error::other(format!(
                "it is device {major}:{minor}, not {}:{}",
                device.major, device.minor
            )))
        }
    }
}

impl Host for Live {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        fs::read(self.at(path))
    }

    fn names(&self, folder: &str, prefix: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.at(folder))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(prefix) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn resolve(&self, path: &str) -> io::Result<String> {
        let found = self.at(path).canonicalize()?;
        let below = found
            .strip_prefix(&self.canonical)
            .map_err(|_| io::Error::other("it leads out of the host's root"))?;
        Ok(format!("/{}", below.to_string_lossy()))
    }

    fn inode(&self, path: &str) -> Option<Inode> {
        let about = fs::metadata(self.at(path)).ok()?;
        Some(if about.file_type().is_block_device() {
            Inode::Block {
                major: rustix::fs::major(about.rdev()),
                minor: rustix::fs::minor(about.rdev()),
            }
        } else if about.is_file() {
            Inode::File { length: about.len() }
        } else {
            Inode::Other
        })
    }

    fn lies_under(&self, file: &str, folder: &Path) -> bool {
        let Ok(folder) = folder.canonicalize() else {
            return false;
        };
        let file = Path::new(file)
            .canonicalize()
            .unwrap_or_else(|_| PathBuf::from(file));
        file.is_absolute() && file.starts_with(folder)
    }

    fn look(&self, device: &Device) -> Result<Look, Unread> {
        let unread = |doing: &str, error| Unread {
            doing: doing.to_owned(),
            error,
        };
        let file = self.open(device, 0).map_err(|error| unread("opening", error))?;
        let size_bytes =
            ioctl::size_bytes(file.as_fd()).map_err(|error| unread("asking the size of", error))?;
        let loop_status = (device.transport == Transport::Loop)
            .then(|| ioctl::loop_status(file.as_fd()).ok())
            .flatten();
        let findings = signatures::examine(&file, size_bytes);
        // The proof reads 33 MiB: not worth keeping in the page cache.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        Ok(Look {
            size_bytes,
            loop_status,
            findings,
        })
    }

    fn hold(&self, device: &Device) -> io::Result<()> {
        self.open(device, libc::O_EXCL).map(drop)
    }

    fn nvme(&self, node: &str, questions: [NvmeRead; 2]) -> io::Result<[io::Result<Vec<u8>>; 2]> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(self.at(node))?;
        Ok(questions.map(|question| ioctl::nvme_read(file.as_fd(), question)))
    }

    fn run(&self, name: &str, arguments: &[&str]) -> io::Result<Output> {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| match argument.starts_with("/dev/") {
                true => self.at(argument).to_string_lossy().into_owned(),
                false => (*argument).to_owned(),
            })
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        program::run(name, &arguments)
    }

    fn mount_tables(&self, show: &mut dyn FnMut(MountTable)) {
        mounts::show_tables(&self.root, show);
    }

    fn watched(&self) -> Vec<PathBuf> {
        mounts::watched(&self.root)
    }

    fn is_live(&self) -> bool {
        true
    }
}
