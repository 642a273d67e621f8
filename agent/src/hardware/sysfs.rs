//! What the kernel says of block devices under `/sys`: small text files, each of which may be missing.
//!
//! Reading them touches no medium and wakes no drive. It never opens a device.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::host::Host;
use super::work::Counts;
use super::{Device, Evidence, Kind, NvmeFacts, Transport, Zoned};

/// Names that are no drives of this node: memory, devices above others, removable media, network block devices.
const NO_DRIVES: &[&str] = &[
    "ram", "zram", "dm-", "md", "sr", "fd", "bcache", "nbd", "rbd", "drbd", "mtdblock", "zd", "nullb",
    "ublkb",
];

mod loops;

/// `/sys` of one machine.
#[derive(Debug, Clone)]
pub(super) struct Sysfs {
    host: Arc<dyn Host>,
}

impl Sysfs {
    pub(super) fn new(host: Arc<dyn Host>) -> Self {
        Self { host }
    }

    /// Kernel names of the whole devices that may be drives, hidden paths left out, sorted. Loop devices only where
    /// their backing file lies under `loops`.
    pub(super) fn drives(&self, loops: Option<&Path>) -> io::Result<Vec<String>> {
        let mut names = self.host.names("/sys/block", "")?;
        names.retain(|name| self.is_drive(name, loops));
        Ok(names)
    }

    /// Whether this whole device may be a drive.
    pub(super) fn is_drive(&self, name: &str, loops: Option<&Path>) -> bool {
        let rest_is_number = |prefix: &str| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        if name.is_empty()
            || name.contains('/')
            || NO_DRIVES.iter().any(|prefix| rest_is_number(prefix))
            || name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"))
        {
            return false;
        }
        // Most loop devices are nothing: nothing else is asked of them.
        let counts = !name.starts_with("loop")
            || loops.is_some_and(|folder| {
                self.loop_file(name)
                    .is_some_and(|file| self.host.lies_under(&file, folder))
            });
        counts
            && self.host.inode(&format!("/sys/block/{name}")).is_some()
            && self.attr(name, "hidden").as_deref() != Some("1")
    }

    /// One attribute of a block device (whole or partition), trimmed; none where it is missing or empty.
    pub(super) fn attr(&self, name: &str, attr: &str) -> Option<String> {
        self.text(&format!("{}/{attr}", class(name)))
    }

    fn text(&self, path: &str) -> Option<String> {
        let bytes = self.host.read(path).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn children(&self, folder: &str, prefix: &str) -> Vec<String> {
        self.host.names(folder, prefix).unwrap_or_default()
    }

    fn number<T: std::str::FromStr>(&self, name: &str, attr: &str) -> Option<T> {
        self.attr(name, attr)?.parse().ok()
    }

    /// Device number.
    pub(super) fn number_of(&self, name: &str) -> Option<(u32, u32)> {
        let text = self.attr(name, "dev")?;
        let (major, minor) = text.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }

    /// Kernel name of a device number.
    pub(super) fn name_of(&self, major: u32, minor: u32) -> Option<String> {
        let path = self
            .host
            .resolve(&format!("/sys/dev/block/{major}:{minor}"))
            .ok()?;
        Some(path.rsplit('/').next()?.to_owned())
    }

    /// The partitions that the kernel knows on a whole device, with their numbers; an error where they cannot be
    /// listed.
    pub(super) fn partitions(&self, name: &str) -> io::Result<Vec<(String, u32)>> {
        // A partition is named after its disk.
        let mut found: Vec<_> = self
            .host
            .names(&class(name), name)?
            .into_iter()
            .filter_map(|child| {
                let number = self.number(name, &format!("{child}/partition"))?;
                Some((child, number))
            })
            .collect();
        found.sort_by_key(|(_, number)| *number);
        Ok(found)
    }

    /// Devices directly above this one; an error where the folder cannot be read although the device is there.
    pub(super) fn holders(&self, name: &str) -> io::Result<Vec<String>> {
        self.host.names(&format!("{}/holders", class(name)), "")
    }

    /// What a device above others is, in words.
    pub(super) fn describe_upper(&self, name: &str) -> String {
        if let Some(mapped) = self.attr(name, "dm/name") {
            let uuid = self.attr(name, "dm/uuid").unwrap_or_default();
            let what = match uuid.split('-').next().unwrap_or_default() {
                "LVM" => "LVM logical volume",
                "CRYPT" => "encrypted volume",
                "mpath" => "multipath device",
                _ => "device mapper volume",
            };
            return format!("{what} {mapped}");
        }
        if let Some(level) = self.attr(name, "md/level") {
            return format!("MD array {name} ({level})");
        }
        if name.starts_with("loop") {
            return format!("loop device {name}");
        }
        if name.starts_with("bcache") {
            return format!("bcache device {name}");
        }
        format!("device {name}")
    }

    /// Whole devices at the bottom of this one: itself, the disk of a partition, the disks below a mapped device.
    pub(super) fn below(&self, name: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        self.descend(name, 0, &mut found);
        found
    }

    fn descend(&self, name: &str, depth: u32, found: &mut BTreeSet<String>) {
        let mut slaves = self.children(&format!("{}/slaves", class(name)), "");
        if name.starts_with("loop") {
            // One that is laid over a device, which the kernel does not tell.
            let file = self.loop_file(name).unwrap_or_default();
            slaves.extend(file.strip_prefix("/dev/").map(|device| device.replace('/', "!")));
        }
        if depth < 16 && !slaves.is_empty() {
            for slave in slaves {
                self.descend(&slave, depth + 1, found);
            }
        } else if self.attr(name, "partition").is_some() {
            let path = self.host.resolve(&class(name)).unwrap_or_default();
            found.extend(path.rsplit('/').nth(1).map(str::to_owned));
        } else {
            found.insert(head_of_path(name).unwrap_or_else(|| name.to_owned()));
        }
    }

    /// What the kernel counted of its I/O. Before Linux 6.5 it counts that of NVMe namespaces only on their hidden paths.
    pub(super) fn counts(&self, name: &str) -> Option<Counts> {
        let of = |name: &str| Counts::parse(&self.attr(name, "stat")?);
        let own = of(name)?;
        if !own.is_zero() {
            return Some(own);
        }
        let paths = self.hidden_paths(name);
        Some(paths.iter().filter_map(|path| of(path)).fold(own, Counts::with))
    }

    /// Whether the kernel has put a SCSI or ATA disk to sleep (runtime power management): the first command to it, even
    /// one of `smartctl -n standby`, would start its motor.
    ///
    /// Only these have that trap. NVMe drives save power by themselves (APST) and are not suspended while the machine
    /// runs: the PCI driver keeps its reference, so an open never leads out of D3cold. Memory cards (mmcblk) are
    /// suspended a few seconds after each access, by every kernel, and wake without wear: who left them alone would
    /// never see them.
    pub(super) fn suspended(&self, name: &str) -> bool {
        name.starts_with("sd")
            && matches!(
                self.attr(name, "device/power/runtime_status").as_deref(),
                Some("suspended" | "suspending")
            )
    }

    /// Another one means another medium under the same name; none before Linux 5.15.
    pub(super) fn disk_sequence(&self, name: &str) -> Option<u64> {
        self.number(name, "diskseq")
    }

    /// Everything that `/sys` says of a whole device; none where it is not there.
    pub(super) fn device(&self, name: &str) -> Option<Device> {
        let (major, minor) = self.number_of(name)?;
        let path = self.host.resolve(&class(name)).ok()?;
        let transport = self.transport(name, &path);
        let flag = |attr| self.attr(name, attr).map(|text| text != "0");
        let rotational = flag("queue/rotational");
        Some(Device {
            name: name.to_owned(),
            dev_path: format!("/dev/{}", name.replace('!', "/")),
            major,
            minor,
            disk_sequence: self.disk_sequence(name),
            size_bytes: self
                .number::<u64>(name, "size")
                .and_then(|sectors| sectors.checked_mul(512)),
            logical_block_bytes: self.number(name, "queue/logical_block_size"),
            physical_block_bytes: self.number(name, "queue/physical_block_size"),
            rotational,
            read_only: flag("ro"),
            removable: flag("removable"),
            zoned: match self.attr(name, "queue/zoned").as_deref() {
                Some("none") => Zoned::None,
                Some("host-aware") => Zoned::HostAware,
                Some("host-managed") => Zoned::HostManaged,
                _ => Zoned::Unspecified,
            },
            transport,
            kind: self.kind(name, transport, rotational),
            vendor: self
                .attr(name, "device/vendor")
                .filter(|text| !text.starts_with("0x")),
            model: self.attr(name, "device/model"),
            firmware: self
                .attr(name, "device/firmware_rev")
                .or_else(|| self.attr(name, "device/rev")),
            evidence: self.evidence(name, transport, &path),
            nvme: name.starts_with("nvme").then(|| self.nvme(name)),
            paths: self.hidden_paths(name),
            ..Device::default()
        })
    }

    fn transport(&self, name: &str, path: &str) -> Transport {
        let has = |part: &str| path.split('/').any(|piece| piece.starts_with(part));
        let is_numbered = |part: &str| {
            path.split('/').any(|piece| {
                piece
                    .strip_prefix(part)
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            })
        };
        if name.starts_with("loop") {
            Transport::Loop
        } else if name.starts_with("pmem") || is_numbered("ndbus") {
            Transport::Nvdimm
        } else if name.starts_with("nvme") {
            match self
                .controller(name)
                .and_then(|c| self.controller_attr(&c, "transport"))
                .as_deref()
            {
                Some("pcie") => Transport::Pcie,
                Some(_) => Transport::NvmeFabrics,
                None => Transport::Unspecified,
            }
        } else if is_numbered("usb") {
            Transport::Usb
        } else if is_numbered("ata") {
            Transport::Sata
        } else if has("end_device-") || has("sas_") {
            Transport::Sas
        } else if has("rport-") {
            Transport::Fc
        } else if is_numbered("session") {
            Transport::Iscsi
        } else if is_numbered("target") {
            Transport::Scsi
        } else if is_numbered("virtio") {
            Transport::Virtio
        } else {
            Transport::Unspecified
        }
    }

    fn kind(&self, name: &str, transport: Transport, rotational: Option<bool>) -> Kind {
        // VPD page B1 of a SCSI device: the medium's rotation rate. 0 says that it does not say.
        let rate = self
            .host
            .read(&format!("{}/device/vpd_pgb1", class(name)))
            .ok()
            .and_then(|page| {
                page.get(4..6)?
                    .first_chunk()
                    .map(|rate| u16::from_be_bytes(*rate))
            });
        match (transport, rate, rotational) {
            (Transport::Nvdimm, ..) => Kind::Pmem,
            (Transport::Pcie | Transport::NvmeFabrics, ..) => Kind::Nvme,
            _ if name.starts_with("nvme") => Kind::Nvme,
            (Transport::Sata | Transport::Sas | Transport::Scsi | Transport::Fc, Some(1), _) => Kind::Ssd,
            (Transport::Sata | Transport::Sas | Transport::Scsi | Transport::Fc, Some(2..), _) => Kind::Hdd,
            // Libata and SAS drives tell the kernel; volumes of RAID controllers and of hypervisors do not.
            (Transport::Sata | Transport::Sas, _, Some(true)) => Kind::Hdd,
            (Transport::Sata | Transport::Sas, _, Some(false)) => Kind::Ssd,
            _ => Kind::Unspecified,
        }
    }

    fn evidence(&self, name: &str, transport: Transport, path: &str) -> Evidence {
        let mut evidence = Evidence::default();
        if name.starts_with("nvme") {
            let id = |attr| {
                self.attr(name, attr)
                    .and_then(|text| meaningful(&text))
                    .and_then(|text| hex(&text))
            };
            evidence.nguid = id("nguid");
            evidence.eui64 = id("eui");
            // The kernel answers the NGUID here where there is no UUID.
            evidence.nvme_uuid = self
                .attr(name, "uuid")
                .and_then(|text| meaningful(&text))
                .map(|text| text.to_ascii_lowercase())
                .filter(|uuid| evidence.nguid.is_none() || evidence.nguid != hex(uuid));
            evidence.serial = self
                .attr(name, "device/serial")
                .and_then(|text| meaningful(&text));
            evidence.nvme_namespace = self.number(name, "nsid");
            // "nvme." ids are made of serial and model: they are no evidence of their own.
            evidence.wwn = self
                .attr(name, "wwid")
                .and_then(|text| meaningful(&text))
                .filter(|wwid| wwid.starts_with("eui.") || wwid.starts_with("naa."));
        } else {
            evidence.serial = self
                .attr(name, "serial")
                .or_else(|| self.scsi_serial(name))
                .and_then(|text| meaningful(&text));
            evidence.wwn = self
                .attr(name, "device/wwid")
                .and_then(|text| meaningful(&text))
                .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
            if transport == Transport::Nvdimm {
                // The namespace's own UUID, kept in the labels of its modules; one without labels has none.
                evidence.wwn = self.attr(name, "device/uuid").and_then(|text| hex(&text));
            }
        }
        if transport == Transport::Loop {
            evidence.backing_file = self.loop_file(name);
        } else {
            evidence.bus_path = self.bus_path(name, path);
        }
        evidence
    }

    /// VPD page 0x80: four bytes of header, then the unit's serial number.
    fn scsi_serial(&self, name: &str) -> Option<String> {
        let page = self.host.read(&format!("{}/device/vpd_pg80", class(name))).ok()?;
        let length = usize::from(u16::from_be_bytes(*page.get(2..4)?.first_chunk()?));
        let text = page.get(4..)?;
        let text = text.get(..length).unwrap_or(text);
        Some(String::from_utf8_lossy(text).trim_matches(['\0', ' ']).to_owned())
    }

    /// The `/sys` path of the device below `block/`, without the mount point of `/sys`.
    fn bus_path(&self, name: &str, path: &str) -> Option<String> {
        let device = match self.controller(name) {
            Some(controller) => self
                .host
                .resolve(&format!("/sys/class/nvme/{controller}/device"))
                .ok()?,
            None => path.rsplitn(3, '/').nth(2)?.to_owned(),
        };
        (device.starts_with("/sys/") && !device.starts_with("/sys/devices/virtual")).then_some(device)
    }

    /// The controller (the first one, where there are several) behind an NVMe namespace.
    pub(super) fn controller(&self, name: &str) -> Option<String> {
        name.strip_prefix("nvme")?;
        let device = self.host.resolve(&format!("{}/device", class(name))).ok()?;
        let own = device.rsplit('/').next()?;
        if !own.starts_with("nvme-subsys") {
            return Some(own.to_owned());
        }
        self.children(&device, "nvme").into_iter().find(|child| {
            child
                .strip_prefix("nvme")
                .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit()))
        })
    }

    fn controller_attr(&self, controller: &str, attr: &str) -> Option<String> {
        self.text(&format!("/sys/class/nvme/{controller}/{attr}"))
    }

    fn nvme(&self, name: &str) -> NvmeFacts {
        let controller = self.controller(name).unwrap_or_default();
        let attr = |attr| self.controller_attr(&controller, attr);
        let pcie = attr("transport").as_deref() == Some("pcie");
        NvmeFacts {
            subsystem_nqn: attr("subsysnqn"),
            namespace_id: self.number(name, "nsid"),
            pci_address: pcie.then(|| attr("address")).flatten(),
            controller,
            ..NvmeFacts::default()
        }
    }

    /// `nvme0c1n1` are the hidden paths of `nvme0n1`.
    fn hidden_paths(&self, name: &str) -> Vec<String> {
        if !name.starts_with("nvme") {
            return Vec::new();
        }
        let mut paths = self.children("/sys/block", "nvme");
        paths.retain(|path| head_of_path(path).as_deref() == Some(name));
        paths
    }
}

fn class(name: &str) -> String {
    format!("/sys/class/block/{name}")
}

/// `nvme0c1n2` -> `nvme0n2`.
pub(crate) fn head_of_path(name: &str) -> Option<String> {
    let (subsystem, rest) = name.strip_prefix("nvme")?.split_once('c')?;
    let (controller, namespace) = rest.split_once('n')?;
    let number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    (number(subsystem) && number(controller) && number(namespace))
        .then(|| format!("nvme{subsystem}n{namespace}"))
}

/// The text, unless it is one of those that say nothing: empty, all zero, "unknown" and their like.
pub(super) fn meaningful(text: &str) -> Option<String> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    let bare = ["naa.", "eui.", "uuid.", "t10.", "0x"]
        .iter()
        .fold(text, |t, p| t.strip_prefix(p).unwrap_or(t));
    let nothing = bare.chars().all(|c| matches!(c, '0' | '-' | ':' | ' ' | '.'))
        || [
            "unknown",
            "none",
            "n/a",
            "null",
            "(null)",
            "default string",
            "not specified",
            "to be filled by o.e.m.",
        ]
        .iter()
        .any(|word| bare.eq_ignore_ascii_case(word));
    (!nothing).then(|| text.to_owned())
}

/// An id as lower-case hex digits, whatever stands between them; none where it holds anything else.
fn hex(text: &str) -> Option<String> {
    let digits = text.chars().filter(|c| !matches!(c, ' ' | '-' | ':'));
    digits
        .map(|c| c.is_ascii_hexdigit().then(|| c.to_ascii_lowercase()))
        .collect()
}

#[cfg(test)]
mod tests;
