//! The only door to the machine.
//!
//! Everything the agent knows about drives comes through [`Hardware`]: bytes of the kernel go in, plain structs
//! come out. [`linux::Linux`] asks a real kernel, or a [`bundle`] of what one answered; [`sim::Sim`] reads a JSON file. An observation never fails as a
//! whole: a probe answers the facts it could find, and a [`Fault`] for each one it could not.
//!
//! It never writes to a drive, never decides what a drive is good for, and never names one: the controller draws
//! the conclusions, and only `member` writes.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

pub mod bundle;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod holders;
mod host;
pub mod ioctl;
mod kernel_log;
pub mod linux;
mod mounts;
mod nvme;
mod nvme_cli;
mod program;
pub mod signatures;
pub mod sim;
mod smart;
pub(crate) mod sysfs;
mod udev;
pub mod uevent;
mod work;

pub use kernel_log::IoErrors;
pub use work::Work;

/// One whole block device as the kernel shows it now: never a partition, never a hidden multipath path.
///
/// An absent field means "not observed"; it is never to be read as zero, good or blank.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Device {
    /// Kernel name, `nvme0n1`: where the device is now, never who it is.
    pub name: String,
    /// Path of its node on the host, `/dev/nvme0n1` (below `--host-root`, where that is not `/`).
    pub dev_path: String,
    /// Device number, major part.
    pub major: u32,
    /// Device number, minor part.
    pub minor: u32,
    /// The kernel's disk sequence number: another one means another medium under the same name.
    pub disk_sequence: Option<u64>,
    /// Capacity in bytes.
    pub size_bytes: Option<u64>,
    /// Smallest unit the device can address, in bytes.
    pub logical_block_bytes: Option<u32>,
    /// Smallest unit it writes without reading first, in bytes.
    pub physical_block_bytes: Option<u32>,
    /// What the kernel says of its medium; has no meaning for virtio and loop devices.
    pub rotational: Option<bool>,
    /// The kernel refuses writes.
    pub read_only: Option<bool>,
    /// Marked removable by its driver.
    pub removable: Option<bool>,
    /// Zone model.
    pub zoned: Zoned,
    /// How it is attached.
    pub transport: Transport,
    /// What its driver says it is.
    pub kind: Kind,
    /// Vendor as the device tells it.
    pub vendor: Option<String>,
    /// Model as the device tells it.
    pub model: Option<String>,
    /// Firmware revision as the device tells it.
    pub firmware: Option<String>,
    /// Everything that may say who the drive is.
    pub evidence: Evidence,
    /// What is on it and above it.
    pub usage: Usage,
    /// What it says of its health; absent where it was not asked or could not answer.
    pub health: Option<Health>,
    /// What it did lately; absent where it did nothing yet, or was not watched long enough.
    pub work: Option<Work>,
    /// What the kernel could not read or write on it since it appeared; absent where that never happened.
    pub io_errors: Option<IoErrors>,
    /// NVMe only.
    pub nvme: Option<NvmeFacts>,
    /// What could not be observed, and why.
    pub faults: Vec<Fault>,
    /// Sibling paths of the same drive on this node, kernel names.
    pub paths: Vec<String>,
}

/// Zone model of a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Zoned {
    /// Not observed.
    #[default]
    Unspecified,
    /// A regular device.
    None,
    /// Zones are advice.
    HostAware,
    /// Zones must be written in sequence.
    HostManaged,
}

/// How a device is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Not known.
    #[default]
    Unspecified,
    /// NVMe on PCI Express.
    Pcie,
    /// Serial attached SCSI.
    Sas,
    /// Serial ATA.
    Sata,
    /// virtio-blk.
    Virtio,
    /// USB storage.
    Usb,
    /// A loop device over a file.
    Loop,
    /// Persistent memory.
    Nvdimm,
    /// Fibre Channel.
    Fc,
    /// iSCSI.
    Iscsi,
    /// NVMe over TCP, RDMA or Fibre Channel.
    NvmeFabrics,
    /// SCSI over something the kernel does not name (virtio-scsi, RAID controllers).
    Scsi,
}

/// What the driver says a device is; unspecified where it cannot say (virtio, loop, RAID volumes).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The kernel cannot say.
    #[default]
    Unspecified,
    /// An NVMe namespace.
    Nvme,
    /// Flash behind ATA or SCSI.
    Ssd,
    /// Spinning disk behind ATA or SCSI.
    Hdd,
    /// Persistent memory.
    Pmem,
}

/// Everything that may say who a drive is. All-zero ids and texts such as "unknown" are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evidence {
    /// Namespace globally unique id, lower-case hex.
    pub nguid: Option<String>,
    /// IEEE extended unique id, lower-case hex.
    pub eui64: Option<String>,
    /// Namespace UUID, lower-case with dashes.
    pub nvme_uuid: Option<String>,
    /// As the kernel names it: `naa.5000...`, `eui.0025...`, `t10....`; the UUID of a namespace of persistent memory.
    pub wwn: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Our own mark on the drive.
    pub mark: Option<Mark>,
    /// GPT disk GUID (lower-case with dashes) or MBR disk signature (8 hex digits).
    pub partition_table_uuid: Option<String>,
    /// File system UUIDs on the drive and on its partitions, sorted.
    pub filesystem_uuids: Vec<String>,
    /// `/sys` path of the port it sits in; none for devices that sit in no port (loop).
    pub bus_path: Option<String>,
    /// Loop devices: the backing file.
    pub backing_file: Option<String>,
    /// Loop devices: `<device number>:<inode>` of the backing file.
    pub backing_file_inode: Option<String>,
    /// NVMe namespace number.
    pub nvme_namespace: Option<u32>,
}

/// Our mark: a GPT partition of our type whose GUID is the member's id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mark {
    /// Partition GUID = member id, lower-case with dashes.
    pub member_id: String,
    /// Partition name: `<cluster id, first 8>/<pool>`.
    pub label: String,
    /// Partition number, from 1.
    pub partition: u32,
    /// The partition's type says that the member was released.
    pub released: bool,
}

/// What is on a drive and above it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Usage {
    /// True only where every probe that could speak against it was run and found nothing.
    pub blank: Option<bool>,
    /// Everything found on or above the drive. Empty together with `blank == Some(true)` means free.
    pub holders: Vec<Holder>,
    /// Whether an `O_EXCL` open succeeded at the last probe of a device that looked free.
    pub exclusive_open_ok: Option<bool>,
}

/// One thing that is on a drive or holds it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// What sort of thing.
    pub kind: HolderKind,
    /// In words that a person recognises: "ext4 mounted on /".
    pub description: String,
    /// The device or partition concerned, kernel name.
    #[serde(default)]
    pub device: String,
}

/// What sort of thing holds a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderKind {
    /// A file system, RAID, LVM, swap, LUKS ... signature.
    Signature,
    /// A partition table.
    PartitionTable,
    /// A partition.
    Partition,
    /// A mounted file system.
    Mount,
    /// Swap in use.
    Swap,
    /// A device above it (device mapper, md, bcache).
    Device,
    /// Some process holds it exclusively.
    Exclusive,
    /// Bytes that are neither zero nor known.
    UnknownData,
    /// Our own mark.
    Member,
}

/// What a drive says of its health.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// The drive's own verdict.
    pub self_assessment_passed: Option<bool>,
    /// NVMe critical warning bits.
    pub critical_warning: Option<u32>,
    /// Endurance used, percent; may exceed 100.
    pub percentage_used: Option<u32>,
    /// Spare blocks left, percent.
    pub available_spare_percent: Option<u32>,
    /// Below this the spare is exhausted, percent.
    pub available_spare_threshold_percent: Option<u32>,
    /// Media and data integrity errors.
    pub media_errors: Option<u64>,
    /// ATA attribute 5, or the SCSI grown defect list.
    pub reallocated_sectors: Option<u64>,
    /// ATA attribute 197.
    pub pending_sectors: Option<u64>,
    /// ATA attribute 187 or 198, or uncorrected SCSI errors.
    pub uncorrectable_errors: Option<u64>,
    /// Degrees Celsius; held still within a few degrees, so that an idle node is silent.
    pub temperature_celsius: Option<u32>,
    /// Hours; held still within a day, so that an idle node is silent.
    pub power_on_hours: Option<u64>,
    /// "nvme ioctl", "nvme-cli" or "smartctl".
    pub source: String,
}

/// What only NVMe devices have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NvmeFacts {
    /// Controller's kernel name, `nvme0`.
    pub controller: String,
    /// NQN of the subsystem.
    pub subsystem_nqn: Option<String>,
    /// Namespace number.
    pub namespace_id: Option<u32>,
    /// How many namespaces the controller can have.
    pub namespace_count: Option<u32>,
    /// Capacity of the whole controller in bytes, all namespaces and what is unallocated.
    pub total_capacity_bytes: Option<u64>,
    /// `0000:06:00.0`.
    pub pci_address: Option<String>,
}

/// A fact that is missing, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which probe.
    pub probe: Probe,
    /// Whether it can never be known or could not be read now.
    pub kind: FaultKind,
    /// What was being read, and what came of it.
    pub detail: String,
    /// Kernel name; empty for a fault of the node.
    #[serde(default)]
    pub device: String,
}

/// Why a fact is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The device or the tool cannot say: not an error, and said once.
    Unsupported,
    /// It could not be read now.
    Failed,
}

/// The probes that faults speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// Attributes under `/sys`.
    Sysfs,
    /// udevd's database.
    Udev,
    /// NVMe admin commands by ioctl.
    Nvme,
    /// The `nvme` program.
    NvmeCli,
    /// The `smartctl` program.
    Smartctl,
    /// What is written on the device.
    Signatures,
    /// Mount tables.
    Mounts,
    /// `/proc/swaps`.
    Swaps,
    /// Devices above this one.
    Holders,
    /// The kernel's event socket.
    Uevent,
    /// The kernel's log.
    KernelLog,
}

impl Probe {
    /// The name on the wire and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sysfs => "sysfs",
            Self::Udev => "udev",
            Self::Nvme => "nvme",
            Self::NvmeCli => "nvme-cli",
            Self::Smartctl => "smartctl",
            Self::Signatures => "signatures",
            Self::Mounts => "mounts",
            Self::Swaps => "swaps",
            Self::Holders => "holders",
            Self::Uevent => "uevent",
            Self::KernelLog => "kernel-log",
        }
    }
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Fault {
    /// A fault of one device that could not be read now.
    pub fn failed(probe: Probe, device: &str, detail: impl Into<String>) -> Self {
        Self {
            probe,
            kind: FaultKind::Failed,
            detail: detail.into(),
            device: device.to_owned(),
        }
    }

    /// A fault of one device that cannot say.
    pub fn unsupported(probe: Probe, device: &str, detail: impl Into<String>) -> Self {
        Self {
            probe,
            kind: FaultKind::Unsupported,
            detail: detail.into(),
            device: device.to_owned(),
        }
    }
}

/// How deep one probe goes. Facts that cost nothing are always read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Read what is written on the device even if nothing says that it changed.
    pub reread: bool,
    /// Ask the device for its health (this may run an outside program).
    pub health: bool,
    /// Open the device even where that wakes it: only for orders that are about to write to it.
    pub wake: bool,
}

/// What surrounds the drives at one moment: mounts of every mount namespace, and swap. Read once for many probes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Mounts, sorted, without duplicates.
    pub mounts: Vec<Mount>,
    /// Swap areas in use.
    pub swaps: Vec<Swap>,
    /// What could not be read.
    pub faults: Vec<Fault>,
}

/// One mounted file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mount {
    /// Device number of the file system (0 as major: not a block device, or btrfs).
    pub major: u32,
    /// Minor part.
    pub minor: u32,
    /// File system type.
    pub fstype: String,
    /// What was mounted, `/dev/sda1`.
    pub source: String,
    /// Where.
    pub mount_point: String,
    /// Which directory of the file system is seen there: not `/` for bind mounts.
    pub root: String,
    /// Seen only in another mount namespace than the host's, by this process.
    pub foreign_pid: Option<u32>,
}

/// One swap area in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Swap {
    /// Path as the kernel shows it.
    pub path: String,
    /// "partition" (any block device) or "file".
    pub kind: String,
}

/// The machine, at the level of data.
///
/// Implementations keep what they need to avoid work (what was read last, and under which circumstances), and may
/// be called from many threads for different devices at once.
pub trait Hardware: Send + Sync + 'static {
    /// Kernel names of the drives that are there now, sorted.
    ///
    /// # Errors
    /// A fault of the node where the list cannot be read: then nothing may be concluded from an absence.
    fn list(&self) -> Result<Vec<String>, Fault>;

    /// Mounts and swaps as they are now.
    fn surroundings(&self) -> Surroundings;

    /// Everything about one drive; `None` where it is gone or is no drive. `now` is for what is asked at intervals
    /// only.
    fn probe(
        &self,
        name: &str,
        around: &Surroundings,
        depth: Depth,
        now: std::time::Instant,
    ) -> Option<Device>;

    /// Whether the drive should be asked for its health now.
    fn health_due(&self, name: &str, now: std::time::Instant) -> bool;

    /// The drives that a change of this block device concerns: itself, the disk that a partition lies on, the disks
    /// below a mapped device.
    fn drives_below(&self, name: &str) -> Vec<String>;

    /// The drives that carry this mount.
    fn drives_of_mount(&self, mount: &Mount) -> Vec<String>;

    /// Whether udevd has finished with this device; always true where no udevd runs.
    fn settled(&self, name: &str) -> bool;

    /// Whether the kernel announces changes of this hardware (a simulation has no kernel).
    fn has_events(&self) -> bool;

    /// Tables of what is in use, mounts and swap areas, whose change the kernel announces to who polls them.
    fn watched_tables(&self) -> Vec<std::path::PathBuf>;

    /// The kernel's log, which is readable when [`Self::read_log`] has news; none where there is no kernel.
    ///
    /// # Errors
    /// A fault of the node where it cannot be read: then I/O errors are not known.
    fn log(&self) -> Result<Option<BorrowedFd<'_>>, Fault>;

    /// Reads what is new in the kernel's log. Answers the kernel names of drives that had I/O errors.
    ///
    /// # Errors
    /// A fault of the node where it cannot be read any more.
    fn read_log(&self) -> Result<BTreeSet<String>, Fault>;

    /// What the kernel counted of a drive since it was last asked: opens nothing, and waits for no drive.
    fn pulse(&self, device: &Device, now: std::time::Instant) -> Pulse;

    /// The other ports on this node of the drive that a device is a port of: opens nothing, and waits for no drive.
    ///
    /// # Errors
    /// A fault of the node where the devices cannot be listed.
    fn other_ports(&self, device: &Device) -> Result<Vec<String>, Fault>;
}

/// What the kernel counted of a drive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulse {
    /// What it did lately.
    pub work: Option<Work>,
    /// What could not be read or written.
    pub io_errors: Option<IoErrors>,
}
