//! The real kernel: puts `/sys`, `/proc`, udevd's database, the devices' own bytes and their health together into
//! one [`Device`] each.
//!
//! Devices are only ever opened to read (`O_RDONLY | O_NONBLOCK`, for one look also `O_EXCL`), so that nothing it
//! does makes an event. What is written on a device is read again only when something says that it changed, and never
//! while the disk sleeps ([`sleep`]); nothing here is a promise: `member` proves everything anew before it writes.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::libc;
use parking_lot::Mutex;

use super::holders::{self, Node};
use super::host::{Host, Live};
use super::kernel_log::{self, IoErrors, KernelLog};
use super::signatures::Findings;
use super::sysfs::{Sysfs, meaningful};
use super::udev::Udev;
use super::work::{Counts, Window, Work};
use super::{
    Depth, Device, Evidence, Fault, Hardware, Health, Holder, HolderKind, Mount, Probe, Pulse, Surroundings,
    Transport, Usage, mounts,
};
use crate::inventory::are_ports_of_one;

mod health;
mod sleep;

/// As long as somebody who only looks at a drive may hold it.
const LOOKED_AT: Duration = Duration::from_millis(20);

/// Where the machine is, and what of it counts.
#[derive(Debug, Clone)]
pub struct LinuxConfig {
    /// Where the host's `/dev`, `/sys`, `/proc` and `/run/udev` are.
    pub host_root: PathBuf,
    /// Loop devices count as drives where their backing file lies under this folder.
    pub include_loop: Option<PathBuf>,
    /// How often a drive is asked for its health.
    pub health_interval: Duration,
}

impl Default for LinuxConfig {
    fn default() -> Self {
        Self {
            host_root: "/".into(),
            include_loop: None,
            health_interval: Duration::from_secs(3600),
        }
    }
}

/// The machine that this process runs on.
#[derive(Debug)]
pub struct Linux {
    include_loop: Option<PathBuf>,
    health_interval: Duration,
    host: Arc<dyn Host>,
    sys: Sysfs,
    udev: Udev,
    memory: Mutex<HashMap<String, Memory>>,
    log: Option<io::Result<KernelLog>>,
}

/// What is remembered of a drive between two probes.
#[derive(Debug, Clone, Default)]
struct Memory {
    content: Option<(ContentKey, Content)>,
    /// It was to be read again, and slept.
    owed: bool,
    /// Whether an exclusive open succeeded when one was tried last.
    exclusive: Option<bool>,
    asked: Option<Asked>,
    window: Option<(Option<u64>, Window)>,
    /// When it was first seen, microseconds since the machine started.
    first_seen: Option<(Option<u64>, u64)>,
}

/// Everything whose change means that the bytes may be others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ContentKey {
    disk_sequence: Option<u64>,
    size_bytes: Option<u64>,
    written: Option<[u64; 4]>,
    tree: Vec<Node>,
    mounts: Vec<Mount>,
    swaps: usize,
}

/// What was read on a drive.
#[derive(Debug, Clone, Default)]
struct Content {
    findings: Option<Findings>,
    loop_inode: Option<String>,
    faults: Vec<Fault>,
}

/// What a drive said when it was asked for its health.
#[derive(Debug, Clone)]
struct Asked {
    at: Instant,
    disk_sequence: Option<u64>,
    health: Option<Health>,
    namespaces: Option<u32>,
    total_bytes: Option<u64>,
    faults: Vec<Fault>,
}

impl Linux {
    /// Nothing is read before the first call.
    pub fn new(config: LinuxConfig) -> Self {
        let host = Arc::new(Live::new(&config.host_root));
        let log = KernelLog::open(&config.host_root.join("dev/kmsg"));
        Self {
            log: Some(log),
            ..Self::over(host, config)
        }
    }

    /// The same probes over another host; `host_root` is not looked at.
    pub(super) fn over(host: Arc<dyn Host>, config: LinuxConfig) -> Self {
        Self {
            include_loop: config.include_loop,
            health_interval: config.health_interval,
            sys: Sysfs::new(Arc::clone(&host)),
            udev: Udev::new(Arc::clone(&host)),
            host,
            memory: Mutex::default(),
            log: None,
        }
    }

    fn loops(&self) -> Option<&Path> {
        self.include_loop.as_deref()
    }

    /// The drive, its partitions, and everything above them.
    fn tree(&self, name: &str) -> (Vec<Node>, Vec<Fault>) {
        let mut faults = Vec::new();
        let mut nodes = vec![Node {
            name: name.to_owned(),
            number: self.sys.number_of(name),
            ..Node::default()
        }];
        let partitions = self.sys.partitions(name).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                let detail = format!("listing partitions of {name}: {error}");
                faults.push(Fault::failed(Probe::Holders, name, detail));
            }
            Vec::new()
        });
        for (partition, number) in partitions {
            let device = self.sys.number_of(&partition);
            nodes.push(Node {
                name: partition,
                number: device,
                partition: Some(number),
                ..Node::default()
            });
        }
        let mut seen: BTreeSet<String> = nodes.iter().map(|node| node.name.clone()).collect();
        let mut queue: Vec<String> = seen.iter().cloned().collect();
        while let Some(below) = queue.pop() {
            let found = self.sys.holders(&below).and_then(|mut above| {
                above.extend(self.sys.loops_over(&below)?);
                Ok(above)
            });
            let above = match found {
                Ok(above) => above,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    faults.push(Fault::failed(
                        Probe::Holders,
                        name,
                        format!("reading holders of {below}: {error}"),
                    ));
                    continue;
                }
            };
            for upper in above {
                if seen.insert(upper.clone()) {
                    nodes.push(Node {
                        number: self.sys.number_of(&upper),
                        upper: Some(self.sys.describe_upper(&upper)),
                        mapped: self.sys.attr(&upper, "dm/name"),
                        name: upper.clone(),
                        partition: None,
                    });
                    queue.push(upper);
                }
            }
        }
        (nodes, faults)
    }

    fn content_key(
        device: &Device,
        tree: &[Node],
        around: &Surroundings,
        counts: Option<&Counts>,
    ) -> ContentKey {
        let concerns = |mount: &&Mount| tree.iter().any(|node| holders::concerns(mount, node));
        ContentKey {
            disk_sequence: device.disk_sequence,
            size_bytes: device.size_bytes,
            written: counts.map(|counts| counts.written()),
            tree: tree.to_vec(),
            mounts: around.mounts.iter().filter(concerns).cloned().collect(),
            swaps: around.swaps.len(),
        }
    }

    /// What is on the drive: remembered, or read now.
    fn content(&self, device: &Device, key: ContentKey, depth: Depth) -> Content {
        let memory = self.memory.lock().get(&device.name).cloned().unwrap_or_default();
        let reread = depth.reread || memory.owed;
        match memory.content {
            Some((was, content)) if !reread && was == key => return content,
            remembered if self.sleeps(device, depth) => return self.unread(device, remembered, &key, depth),
            _ => {}
        }
        let content = self.read(device);
        // What could not be read is tried again at the next probe.
        let keep = content.faults.is_empty().then(|| (key, content.clone()));
        let mut memory = self.memory.lock();
        let memory = memory.entry(device.name.clone()).or_default();
        (memory.content, memory.owed) = (keep, false);
        content
    }

    fn read(&self, device: &Device) -> Content {
        let mut content = Content::default();
        let look = match self.host.look(device) {
            Ok(look) => look,
            Err(unread) => {
                content.faults.push(fault(device, &unread.doing, &unread.error));
                return content;
            }
        };
        let size = look.size_bytes;
        if Some(size) != device.size_bytes {
            let detail = format!(
                "the device has {size} bytes, and /sys says {:?}",
                device.size_bytes
            );
            content
                .faults
                .push(Fault::failed(Probe::Sysfs, &device.name, detail));
        }
        if device.transport == Transport::Loop {
            let status = look.loop_status;
            content.loop_inode = status.map(|s| format!("{}:{}", s.backing_device, s.backing_inode));
            let offset = status.map_or(0, |status| status.offset);
            if let Some(trouble) = self.sys.loop_trouble(&device.name, offset, size) {
                content
                    .faults
                    .push(Fault::failed(Probe::Sysfs, &device.name, trouble));
            }
        }
        content.faults.extend(
            look.findings
                .errors
                .iter()
                .map(|error| Fault::failed(Probe::Signatures, &device.name, error.clone())),
        );
        content.findings = Some(look.findings);
        content
    }

    /// Whether nobody else holds it. Never remembered: a holder comes and goes without an event and without a write.
    /// It reads no medium, and closing what was opened to read makes no event.
    fn hold(&self, device: &Device) -> Result<bool, Fault> {
        let mut held = self.host.hold(device);
        if matches!(&held, Err(error) if error.raw_os_error() == Some(libc::EBUSY)) {
            // Somebody else who only looks, a capture for example, holds it for a moment.
            std::thread::sleep(LOOKED_AT);
            held = self.host.hold(device);
        }
        match held {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
            Err(error) => Err(fault(device, "opening exclusively", &error)),
        }
    }

    /// udevd knows some serials that `/sys` does not show (USB bridges, old kernels).
    fn second_opinion(&self, device: &mut Device) {
        let scsi = matches!(
            device.transport,
            Transport::Sas | Transport::Scsi | Transport::Fc | Transport::Iscsi
        );
        let properties = self
            .udev
            .properties(device.major, device.minor, device.disk_sequence);
        let property = |key: &str| properties.get(key).and_then(|text| meaningful(text));
        if device.evidence.serial.is_none() {
            // For SCSI and SAS, ID_SERIAL_SHORT is the WWN and no serial.
            let key = if scsi { "ID_SCSI_SERIAL" } else { "ID_SERIAL_SHORT" };
            device.evidence.serial = property(key);
        }
        if device.model.is_none() {
            device.model = property("ID_MODEL");
        }
    }

    /// What it did lately.
    fn work(&self, device: &Device, counts: Counts, now: Instant) -> Option<Work> {
        let mut memory = self.memory.lock();
        let window = &mut memory.entry(device.name.clone()).or_default().window;
        match window {
            Some((of, window)) if *of == device.disk_sequence => window.look(counts, now),
            _ => {
                *window = Some((device.disk_sequence, Window::open(counts, now)));
                None
            }
        }
    }

    fn io_errors(&self, device: &Device) -> Option<IoErrors> {
        let log = self.log.as_ref()?.as_ref().ok()?;
        // Its file may be full or gone: that says nothing of a medium.
        if device.transport == Transport::Loop {
            return None;
        }
        let first_seen = {
            let mut memory = self.memory.lock();
            let seen = &mut memory.entry(device.name.clone()).or_default().first_seen;
            match seen {
                Some((of, at)) if *of == device.disk_sequence => *at,
                _ => seen.insert((device.disk_sequence, kernel_log::now_us())).1,
            }
        };
        let filed = self
            .udev
            .appeared_us(device.major, device.minor, device.disk_sequence);
        log.of(&device.name, filed.unwrap_or(first_seen))
    }

    fn judge_use(
        &self,
        device: &mut Device,
        tree: &[Node],
        tree_ok: bool,
        content: &Content,
        exclusive: Option<bool>,
        around: &Surroundings,
    ) {
        let mut found = holders::holders(&device.name, tree, content.findings.as_ref(), around);
        if exclusive == Some(false) && found.is_empty() {
            let description = "held exclusively by another program or by the kernel".to_owned();
            found.push(Holder {
                kind: HolderKind::Exclusive,
                description,
                device: device.name.clone(),
            });
        }
        let every_probe_ran = tree_ok && around.faults.is_empty() && content.faults.is_empty();
        let blank = content.findings.as_ref().and_then(Findings::blank);
        device.usage.exclusive_open_ok = exclusive;
        device.usage.blank = match blank {
            _ if !found.is_empty() => Some(false),
            Some(true) if every_probe_ran && exclusive == Some(true) => Some(true),
            Some(false) => Some(false),
            _ => None,
        };
        device.usage.holders = found;
    }
}

impl Hardware for Linux {
    fn list(&self) -> Result<Vec<String>, Fault> {
        self.sys
            .drives(self.loops())
            .map_err(|error| Fault::failed(Probe::Sysfs, "", format!("listing block devices: {error}")))
    }

    fn surroundings(&self) -> Surroundings {
        mounts::read(self.host.as_ref())
    }

    fn probe(&self, name: &str, around: &Surroundings, depth: Depth, now: Instant) -> Option<Device> {
        if !self.sys.is_drive(name, self.loops()) {
            self.memory.lock().remove(name);
            return None;
        }
        let mut device = self.sys.device(name)?;
        self.second_opinion(&mut device);
        // Before anything that a dying drive may never answer.
        let counts = self.sys.counts(name);
        (device.work, device.io_errors) = (
            counts.and_then(|counts| self.work(&device, counts, now)),
            self.io_errors(&device),
        );
        let (tree, tree_faults) = self.tree(name);
        let tree_ok = tree_faults.is_empty();
        device.faults.extend(tree_faults);
        for (missing, what) in [
            (device.size_bytes.is_none(), "size"),
            (device.logical_block_bytes.is_none(), "queue/logical_block_size"),
        ] {
            if missing {
                device.faults.push(Fault::failed(
                    Probe::Sysfs,
                    name,
                    format!("{what} cannot be read"),
                ));
            }
        }
        let key = Self::content_key(&device, &tree, around, counts.as_ref());
        let free = key.mounts.is_empty()
            && holders::holders(name, &tree, None, around).is_empty()
            && device.size_bytes.is_some_and(|size| size > 0);
        let mut content = self.content(&device, key, depth);
        if let Some(findings) = &content.findings {
            device.evidence.mark = findings.mark.clone();
            device.evidence.partition_table_uuid =
                findings.table.as_ref().and_then(|table| table.uuid.clone());
            device.evidence.filesystem_uuids = findings
                .signatures
                .iter()
                .filter_map(|s| s.filesystem_uuid.clone())
                .collect();
        }
        device.evidence.backing_file_inode = content.loop_inode.clone();
        let looks_free = free && content.findings.as_ref().and_then(Findings::blank) == Some(true);
        let exclusive = match looks_free.then(|| self.exclusive(&device, depth)) {
            Some(Err(fault)) => {
                content.faults.push(fault);
                None
            }
            tried => tried.and_then(Result::ok),
        };
        self.judge_use(&mut device, &tree, tree_ok, &content, exclusive, around);
        device.faults.extend(content.faults);
        if depth.health && !self.rests(name, depth) {
            let asked = self.ask(&device, now);
            self.memory.lock().entry(name.to_owned()).or_default().asked = Some(asked);
        }
        self.add_health(&mut device);
        // Another medium may have come under the name meanwhile: then this is a mixture of two drives, of which
        // nothing may be believed or remembered together; its event is on the way.
        if self.sys.disk_sequence(name) != device.disk_sequence {
            self.memory.lock().remove(name);
            device.evidence = Evidence::default();
            device.usage = Usage::default();
            device.health = None;
            device.work = None;
            device.io_errors = None;
            device.faults.push(Fault::failed(
                Probe::Sysfs,
                name,
                "the medium was exchanged during the probe",
            ));
        }
        Some(device)
    }

    fn health_due(&self, name: &str, now: Instant) -> bool {
        let Some(device) = self
            .sys
            .is_drive(name, self.loops())
            .then(|| self.sys.device(name))
            .flatten()
        else {
            return false;
        };
        if health::cannot_say(&device).is_some() || self.sys.suspended(name) {
            return false;
        }
        self.memory
            .lock()
            .get(name)
            .and_then(|memory| memory.asked.as_ref())
            .is_none_or(|asked| {
                asked.disk_sequence != device.disk_sequence
                    || now.saturating_duration_since(asked.at) >= self.health_interval
            })
    }

    fn drives_below(&self, name: &str) -> Vec<String> {
        self.sys.below(name).into_iter().collect()
    }

    fn drives_of_mount(&self, mount: &Mount) -> Vec<String> {
        let by_number = (mount.major != 0)
            .then(|| self.sys.name_of(mount.major, mount.minor))
            .flatten();
        let name = by_number.or_else(|| {
            let path = self.host.resolve(&mount.source).ok()?;
            Some(path.rsplit('/').next()?.to_owned())
        });
        name.map(|name| self.drives_below(&name)).unwrap_or_default()
    }

    fn settled(&self, name: &str) -> bool {
        match self.sys.number_of(name) {
            _ if !self.host.is_live() => true,
            Some((major, minor)) => self.udev.settled(major, minor, self.sys.disk_sequence(name)),
            None => true,
        }
    }

    fn has_events(&self) -> bool {
        self.host.is_live()
    }

    fn watched_tables(&self) -> Vec<PathBuf> {
        self.host.watched()
    }

    fn log(&self) -> Result<Option<BorrowedFd<'_>>, Fault> {
        let error = match &self.log {
            None => return Ok(None),
            Some(Ok(log)) => return Ok(Some(log.as_fd())),
            Some(Err(error)) => error,
        };
        let detail = format!("I/O errors are not counted: the kernel's log, /dev/kmsg: {error}");
        use io::ErrorKind::{NotFound, PermissionDenied, Unsupported};
        Err(match error.kind() {
            // As the administrator, or the container, wants it.
            NotFound | PermissionDenied | Unsupported => Fault::unsupported(Probe::KernelLog, "", detail),
            _ => Fault::failed(Probe::KernelLog, "", detail),
        })
    }

    fn read_log(&self) -> Result<BTreeSet<String>, Fault> {
        match &self.log {
            Some(Ok(log)) => log.read().map_err(|error| {
                let detail =
                    format!("I/O errors are not counted any more: the kernel's log, /dev/kmsg: {error}");
                Fault::failed(Probe::KernelLog, "", detail)
            }),
            _ => Ok(BTreeSet::new()),
        }
    }

    fn pulse(&self, device: &Device, now: Instant) -> Pulse {
        let counts = self.sys.counts(&device.name);
        Pulse {
            work: counts.and_then(|counts| self.work(device, counts, now)),
            io_errors: self.io_errors(device),
        }
    }

    fn other_ports(&self, device: &Device) -> Result<Vec<String>, Fault> {
        let mut ports = Vec::new();
        for name in self.list()?.into_iter().filter(|name| *name != device.name) {
            let Some(mut other) = self.sys.device(&name) else {
                continue;
            };
            self.second_opinion(&mut other);
            if are_ports_of_one(device, &other) {
                ports.push(name);
            }
        }
        Ok(ports)
    }
}

fn fault(device: &Device, what: &str, error: &io::Error) -> Fault {
    Fault::failed(
        Probe::Signatures,
        &device.name,
        format!("{what} {}: {error}", device.dev_path),
    )
}

#[cfg(test)]
mod tests;
