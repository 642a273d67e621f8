//! One drive as it was observed: facts, parsed once at the border, and nothing concluded from them.
//!
//! The shapes follow the wire's `Device` one to one. A fact that could not be had is [`Observed::Unsupported`]
//! or [`Observed::Failed`]; it is never a zero, an empty text or a default.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A fact that may be missing, and why it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Observed<T> {
    /// It was read.
    Known(T),
    /// The device, the driver or the tool cannot say; also whatever was not told at all.
    #[default]
    Unsupported,
    /// It could not be read now; the text says what came of it.
    Failed(String),
}

impl<T> Observed<T> {
    /// The fact, where it is known.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unsupported | Self::Failed(_) => None,
        }
    }

    /// Whether the fact is known to be exactly `value`: false for everything not known.
    pub fn is(&self, value: &T) -> bool
    where
        T: PartialEq,
    {
        self.known() == Some(value)
    }

    /// The absent fact in words, `None` where it is known.
    pub fn why_not(&self) -> Option<&str> {
        match self {
            Self::Known(_) => None,
            Self::Unsupported => Some("not supported"),
            Self::Failed(detail) => Some(detail),
        }
    }
}

/// An optional field of the wire: absent is [`Observed::Unsupported`] until a fault says that it failed.
impl<T> From<Option<T>> for Observed<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Unsupported, Self::Known)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name as it stands.
            pub fn new(name: impl Into<String>) -> Self {
                Self(name.into())
            }

            /// The name as a text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// Who a drive is, for ever: made once by [`crate::identity`], at most 63 of `[a-z0-9.-]`.
    DriveId
}
name! {
    /// A node's name, as Kubernetes has it.
    NodeName
}
name! {
    /// The name of a UnifiedPool.
    PoolName
}
name! {
    /// A pool member's UUID, lower-case: the partition GUID of the mark on its drive.
    MemberId
}

impl DriveId {
    /// The name of the PoolMember object that claims this drive.
    #[must_use]
    pub fn member_object_name(&self) -> String {
        format!("pm-{}", self.0)
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that users see and write.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }

            /// The value of a word, where it is one.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == word)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// What a drive is, as far as the kernel can say.
    DriveType {
        /// A namespace on an NVMe controller.
        Nvme = "nvme",
        /// Flash behind SATA or SAS.
        Ssd = "ssd",
        /// Spinning.
        Hdd = "hdd",
        /// Persistent memory.
        Pmem = "pmem",
        /// The kernel cannot say what is behind (virtio, loop).
        Unknown = "unknown",
    }
}

words! {
    /// How a drive is attached.
    Transport {
        /// NVMe over PCIe.
        Pcie = "pcie",
        /// Serial-attached SCSI.
        Sas = "sas",
        /// Serial ATA.
        Sata = "sata",
        /// A paravirtual disk.
        Virtio = "virtio",
        /// USB.
        Usb = "usb",
        /// A file through the loop driver.
        Loop = "loop",
        /// A memory slot.
        Nvdimm = "nvdimm",
        /// Fibre Channel.
        Fc = "fc",
        /// iSCSI.
        Iscsi = "iscsi",
        /// NVMe over a network.
        NvmeFabrics = "nvme-fabrics",
        /// SCSI of no known transport.
        Scsi = "scsi",
        /// Not said.
        Unknown = "unknown",
    }
}

words! {
    /// Whether writes must go zone by zone.
    Zoned {
        /// Not zoned.
        None = "none",
        /// Zoned, any write is taken.
        HostAware = "host-aware",
        /// Zoned, only sequential writes are taken.
        HostManaged = "host-managed",
        /// Not said.
        Unknown = "unknown",
    }
}

/// One whole block device as an agent saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriveFacts {
    /// Kernel name, `nvme0n1`: where it is now, never who it is.
    pub name: String,
    /// Path of the device node on the host.
    pub dev_path: String,
    /// Device number, major.
    pub major: u32,
    /// Device number, minor.
    pub minor: u32,
    /// The kernel's disk sequence number: another one means another attachment.
    pub disk_sequence: Observed<u64>,
    /// Size in bytes.
    pub size_bytes: Observed<u64>,
    /// Logical block size in bytes.
    pub logical_block_bytes: Observed<u32>,
    /// Physical block size in bytes.
    pub physical_block_bytes: Observed<u32>,
    /// The kernel's word on rotation; virtio and loop make it up.
    pub rotational: Observed<bool>,
    /// Whether the kernel refuses writes.
    pub read_only: Observed<bool>,
    /// Whether the kernel takes it for a removable medium.
    pub removable: Observed<bool>,
    /// Zones.
    pub zoned: Zoned,
    /// How it is attached.
    pub transport: Transport,
    /// What its driver says it is.
    pub kind: DriveType,
    /// Vendor as the drive says.
    pub vendor: Observed<String>,
    /// Model as the drive says.
    pub model: Observed<String>,
    /// Firmware revision.
    pub firmware: Observed<String>,
    /// Everything that may say who it is.
    pub evidence: Evidence,
    /// Everything found on or above it.
    pub usage: Usage,
    /// What it says of its own health.
    pub health: HealthFacts,
    /// Only on NVMe.
    pub nvme: Option<NvmeFacts>,
    /// What could not be read.
    pub faults: Vec<Fault>,
    /// Kernel names of sibling paths on the same node.
    pub paths: Vec<String>,
    /// What it did lately, where that is known.
    pub work: Option<Work>,
    /// What the kernel could not read or write on it, where there was something.
    pub io_errors: Option<IoErrors>,
}

impl Default for DriveFacts {
    fn default() -> Self {
        Self {
            name: String::new(),
            dev_path: String::new(),
            major: 0,
            minor: 0,
            disk_sequence: Observed::Unsupported,
            size_bytes: Observed::Unsupported,
            logical_block_bytes: Observed::Unsupported,
            physical_block_bytes: Observed::Unsupported,
            rotational: Observed::Unsupported,
            read_only: Observed::Unsupported,
            removable: Observed::Unsupported,
            zoned: Zoned::Unknown,
            transport: Transport::Unknown,
            kind: DriveType::Unknown,
            vendor: Observed::Unsupported,
            model: Observed::Unsupported,
            firmware: Observed::Unsupported,
            evidence: Evidence::default(),
            usage: Usage::default(),
            health: HealthFacts::default(),
            nvme: None,
            faults: Vec::new(),
            paths: Vec::new(),
            work: None,
            io_errors: None,
        }
    }
}

/// Everything that may say who a drive is. What was not observed is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Evidence {
    /// NVMe namespace GUID, lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nguid: Option<String>,
    /// NVMe EUI-64, lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eui64: Option<String>,
    /// NVMe namespace UUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvme_uuid: Option<String>,
    /// World-wide name as the kernel has it: `naa.5000...`, `eui.0025...`, `nvme.8086-...`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Our own mark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// UUID of the partition table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_table_uuid: Option<String>,
    /// UUIDs of the file systems on it and its partitions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filesystem_uuids: Vec<String>,
    /// `/sys` path of the port it sits in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus_path: Option<String>,
    /// Loop devices: the file behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// Loop devices: device and inode of the file behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file_inode: Option<String>,
    /// NVMe namespace number: several namespaces have one serial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvme_namespace: Option<u32>,
}

/// Our mark on a drive: from then on it says whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mark {
    /// The member it belongs to.
    pub member_id: MemberId,
    /// `<cluster id, first 8>/<pool name>`, cut to 36 characters.
    pub label: String,
    /// The partition of the member's file system: 1.
    pub partition: u32,
    /// The member was released; its data is still there.
    pub released: bool,
}

/// What was found on or above a drive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Known and true only where every probe that could speak against it ran and found nothing.
    pub blank: Observed<bool>,
    /// Everything found.
    pub holders: Vec<Holder>,
    /// Whether an exclusive open succeeded.
    pub exclusive_open_ok: Observed<bool>,
}

/// One thing that uses a drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// What it is.
    pub kind: HolderKind,
    /// In words that a person recognises: `ext4 mounted on /`.
    pub description: String,
    /// The device or partition concerned, kernel name.
    pub device: String,
}

words! {
    /// What kind of thing uses a drive.
    HolderKind {
        /// A file system, RAID, LVM, swap, LUKS ... signature.
        Signature = "signature",
        /// A partition table.
        PartitionTable = "partition-table",
        /// A partition.
        Partition = "partition",
        /// A mount.
        Mount = "mount",
        /// Swap in use.
        Swap = "swap",
        /// A device above it (device mapper, md, bcache).
        Device = "device",
        /// Some process holds it exclusively.
        Exclusive = "exclusive",
        /// Bytes that are neither zero nor known.
        UnknownData = "unknown-data",
        /// Our own mark.
        Member = "member",
        /// Not said.
        Unknown = "unknown",
    }
}

/// What a drive says of its own health, raw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthFacts {
    /// The drive's own overall verdict.
    pub self_assessment_passed: Observed<bool>,
    /// NVMe critical warning bits.
    pub critical_warning: Observed<u32>,
    /// Rated endurance used, percent, may exceed 100.
    pub percentage_used: Observed<u32>,
    /// NVMe spare blocks left, percent.
    pub available_spare_percent: Observed<u32>,
    /// Percent of spare below which the drive warns.
    pub available_spare_threshold_percent: Observed<u32>,
    /// Media and data integrity errors.
    pub media_errors: Observed<u64>,
    /// SMART 5.
    pub reallocated_sectors: Observed<u64>,
    /// SMART 197.
    pub pending_sectors: Observed<u64>,
    /// SMART 187 or 198.
    pub uncorrectable_errors: Observed<u64>,
    /// Degrees Celsius.
    pub temperature_celsius: Observed<u32>,
    /// Hours under power.
    pub power_on_hours: Observed<u64>,
    /// Who told: `nvme ioctl`, `nvme-cli`, `smartctl`.
    pub source: String,
}

/// What a drive did in one stretch of time, as the kernel of its node counted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// How long it was.
    pub window_ms: u64,
    /// Reads and writes that ended in it.
    pub ios: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long they took together, each from when it was asked for until it ended.
    pub waited_ms: u64,
    /// How long at least one was under way.
    pub busy_ms: u64,
    /// How many were under way at its end.
    pub in_flight: u64,
}

/// What the kernel could not read or write on a drive since it appeared there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IoErrors {
    /// Places of a MiB in which the medium failed; no more than 64 are counted.
    pub bad_places: u64,
    /// Other reads and writes that failed; from ten on, the largest power of ten that was reached.
    pub failures: u64,
    /// What came last when these numbers came to be.
    pub last: String,
}

/// What only NVMe knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NvmeFacts {
    /// Kernel name of the controller.
    pub controller: String,
    /// NQN of the subsystem.
    pub subsystem_nqn: Option<String>,
    /// Number of this namespace.
    pub namespace_id: Option<u32>,
    /// Namespaces of the controller.
    pub namespace_count: Option<u32>,
    /// Total capacity of the controller in bytes.
    pub total_capacity_bytes: Option<u64>,
    /// PCI address.
    pub pci_address: Option<String>,
}

words! {
    /// Whether something cannot be had, or could not be had now.
    FaultKind {
        /// The device or the tool cannot say.
        Unsupported = "unsupported",
        /// It could not be read now.
        Failed = "failed",
    }
}

/// Something that could not be observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which probe: sysfs, udev, nvme, nvme-cli, smartctl, signatures, mounts ...
    pub probe: String,
    /// Cannot, or could not.
    pub kind: FaultKind,
    /// What was being read, and what came of it.
    pub detail: String,
    /// Kernel name; empty for a fault of the node.
    pub device: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_observed_is_no_value() {
        assert!(!Observed::<bool>::default().is(&true));
        assert!(!Observed::<bool>::default().is(&false));
        assert!(!Observed::Failed("EIO".to_owned()).is(&true));
        assert_eq!(Observed::Failed::<u64>("EIO".to_owned()).why_not(), Some("EIO"));
        assert_eq!(Observed::from(None::<u64>), Observed::Unsupported);
    }

    #[test]
    fn every_word_reads_back() {
        for value in Transport::ALL {
            assert_eq!(Transport::from_word(value.as_str()), Some(*value));
        }
        assert_eq!(DriveType::from_word("floppy"), None);
    }

    #[test]
    fn evidence_that_is_absent_takes_no_room() {
        let json = serde_json::to_string(&Evidence::default()).unwrap();
        assert_eq!(json, "{}");
        let evidence: Evidence = serde_json::from_str(r#"{"eui64":"0025385c21501234"}"#).unwrap();
        assert_eq!(evidence.eui64.as_deref(), Some("0025385c21501234"));
    }
}
