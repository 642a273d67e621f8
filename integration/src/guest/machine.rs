//! What a guest is made of, in QEMU's words.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::MIB;

/// The kernel of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Debian 12's.
    Linux6_1,
    /// Debian 13's.
    Linux6_12,
}

impl Kernel {
    /// Every one that guests are made with.
    pub const ALL: [Self; 2] = [Self::Linux6_1, Self::Linux6_12];

    /// Its line of versions, the name of the folder with its image.
    #[must_use]
    pub fn line(self) -> &'static str {
        match self {
            Self::Linux6_1 => "6.1",
            Self::Linux6_12 => "6.12",
        }
    }
}

/// What is stored on a drive: a sparse file. Like a real drive it can be in one machine at a time only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// QEMU's name of it.
    pub name: String,
    /// The file.
    pub file: PathBuf,
}

impl Disk {
    /// A new blank one.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn blank(folder: &Path, name: &str, bytes: u64) -> Result<Self> {
        let file = folder.join(format!("{name}.raw"));
        File::create(&file)?.set_len(bytes)?;
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }

    /// A copy, byte by byte, under another name.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn clone_to(&self, name: &str) -> Result<Self> {
        let file = self.file.with_file_name(format!("{name}.raw"));
        crate::drives::run(
            std::process::Command::new("cp")
                .arg("--sparse=always")
                .arg(&self.file)
                .arg(&file),
        )?;
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }

    /// For `-blockdev` and `blockdev-add`.
    #[must_use]
    pub fn node(&self) -> Value {
        json!({
            "driver": "raw",
            "node-name": self.name,
            "discard": "unmap",
            "file": {"driver": "file", "filename": self.file, "discard": "unmap"},
        })
    }
}

/// An NVMe namespace.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// What is stored on it.
    pub disk: Disk,
    /// Everything else, as QEMU's `nvme-ns` takes it: `nsid`, `eui64`, `uuid`, `nguid`, `logical_block_size`, `zoned`.
    pub properties: Value,
}

/// How a disk behind ATA or SCSI turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spindle {
    /// It is flash.
    Flash,
    /// Rounds a minute.
    Rpm(u16),
}

impl Spindle {
    fn rate(self) -> u16 {
        match self {
            Self::Flash => 1,
            Self::Rpm(rpm) => rpm,
        }
    }
}

/// A machine that can be switched on.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its host name.
    pub name: String,
    kernel: Kernel,
    mebibytes: u32,
    words: Vec<String>,
    /// Behind QEMU's own options, in this order.
    arguments: Vec<String>,
    ports: u8,
    sata: u8,
    sas: bool,
    usb: bool,
    nvdimms: u8,
    native_hotplug: bool,
}

impl Machine {
    /// A machine without drives.
    #[must_use]
    pub fn new(name: &str, kernel: Kernel) -> Self {
        Self {
            name: name.to_owned(),
            kernel,
            mebibytes: 512,
            words: Vec::new(),
            arguments: Vec::new(),
            ports: 0,
            sata: 0,
            sas: false,
            usb: false,
            nvdimms: 0,
            native_hotplug: false,
        }
    }

    /// A word of the kernel's command line.
    pub fn word(&mut self, word: &str) {
        self.words.push(word.to_owned());
    }

    /// PCI slots answer as native pciehp, not as ACPI.
    pub fn native_hotplug(&mut self) {
        self.native_hotplug = true;
    }

    /// The host's instance on these ports of its loopback is found on the guest's.
    pub fn host_ports(&mut self, first: u16, last: u16) {
        self.word(&format!("guest.ports={first}-{last}"));
    }

    fn device(&mut self, properties: &Value) {
        self.arguments
            .extend(["-device".to_owned(), properties.to_string()]);
    }

    fn disk(&mut self, disk: &Disk) {
        self.arguments
            .extend(["-blockdev".to_owned(), disk.node().to_string()]);
    }

    /// An empty slot for a PCI device.
    pub fn slot(&mut self, id: &str) {
        self.ports += 1;
        self.device(&json!({
            "driver": "pcie-root-port", "id": id, "bus": "pcie.0", "chassis": self.ports, "slot": self.ports,
        }));
    }

    /// A file as a read-only or writable disk of the machine itself: `programs` and `state` are mounted.
    pub fn own_disk(&mut self, serial: &str, file: &Path, writable: bool) {
        let node = json!({
            "driver": "raw", "node-name": serial, "read-only": !writable,
            "file": {"driver": "file", "filename": file, "read-only": !writable},
        });
        self.arguments.extend(["-blockdev".to_owned(), node.to_string()]);
        self.device(&json!({"driver": "virtio-blk-pci", "drive": serial, "serial": serial, "id": serial}));
    }

    /// An NVMe controller in a slot of its own (`slot-<id>`) with its namespaces.
    pub fn nvme(&mut self, id: &str, serial: &str, namespaces: &[Namespace]) {
        self.slot(&format!("slot-{id}"));
        let subsystem = format!("subsystem-{id}");
        self.device(&json!({"driver": "nvme-subsys", "id": subsystem, "nqn": id}));
        let bus = format!("slot-{id}");
        self.device(&json!({"driver": "nvme", "id": id, "bus": bus, "subsys": subsystem, "serial": serial}));
        for namespace in namespaces {
            self.namespace(id, namespace);
        }
    }

    /// An NVMe controller with one namespace in a slot of its own, of the sort that can be pulled: QEMU pulls none with
    /// several.
    pub fn nvme_drive(&mut self, disk: &Disk, serial: &str) {
        let slot = format!("slot-{}", disk.name);
        self.slot(&slot);
        self.disk(disk);
        self.device(&json!({
            "driver": "nvme", "id": disk.name, "bus": slot, "serial": serial, "drive": disk.name,
        }));
    }

    /// Two controllers of one subsystem (`<id>-a`, `<id>-b`) that lead to one namespace.
    pub fn nvme_pair(&mut self, id: &str, serial: &str, namespace: &Namespace) {
        let subsystem = format!("subsystem-{id}");
        self.device(&json!({"driver": "nvme-subsys", "id": subsystem, "nqn": id}));
        for side in ["a", "b"] {
            let (controller, bus) = (format!("{id}-{side}"), format!("slot-{id}-{side}"));
            self.slot(&bus);
            self.device(&json!({
                "driver": "nvme", "id": controller, "bus": bus, "subsys": subsystem, "serial": serial,
            }));
        }
        let mut shared = namespace.clone();
        if let Some(properties) = shared.properties.as_object_mut() {
            properties.insert("shared".to_owned(), true.into());
        }
        self.namespace(&format!("{id}-a"), &shared);
    }

    fn namespace(&mut self, controller: &str, namespace: &Namespace) {
        self.disk(&namespace.disk);
        let mut device = json!({
            "driver": "nvme-ns", "id": format!("ns-{}", namespace.disk.name), "drive": namespace.disk.name,
            "bus": controller,
        });
        if let (Some(device), Some(properties)) = (device.as_object_mut(), namespace.properties.as_object()) {
            device.extend(properties.clone());
        }
        self.device(&device);
    }

    /// A disk on the AHCI controller.
    pub fn sata(&mut self, disk: &Disk, serial: &str, wwn: Option<u64>, spindle: Spindle) {
        self.disk(disk);
        let mut device = json!({
            "driver": "ide-hd", "id": disk.name, "bus": format!("ide.{}", self.sata), "drive": disk.name,
            "serial": serial, "model": "TESTCORP SATA", "rotation_rate": spindle.rate(),
        });
        put(&mut device, "wwn", wwn);
        self.device(&device);
        self.sata += 1;
    }

    /// A disk behind a SAS controller.
    pub fn sas(&mut self, disk: &Disk, serial: &str, wwn: Option<u64>, spindle: Spindle) {
        if !self.sas {
            self.device(&json!({"driver": "mptsas1068", "id": "sas-bus"}));
            self.word("guest.mptsas");
            self.sas = true;
        }
        self.scsi("sas-bus.0", disk, Some(serial), wwn, spindle);
    }

    /// A disk on virtio-scsi.
    pub fn virtio_scsi(&mut self, disk: &Disk, serial: Option<&str>, wwn: Option<u64>, spindle: Spindle) {
        self.scsi("scsi0.0", disk, serial, wwn, spindle);
    }

    fn scsi(&mut self, bus: &str, disk: &Disk, serial: Option<&str>, wwn: Option<u64>, spindle: Spindle) {
        self.disk(disk);
        let device = scsi_disk(bus, disk, serial, wwn, spindle);
        self.device(&device);
    }

    /// A disk on virtio-blk.
    pub fn virtio_blk(&mut self, disk: &Disk, serial: Option<&str>) {
        self.disk(disk);
        let mut device = json!({"driver": "virtio-blk-pci", "id": disk.name, "drive": disk.name});
        put(&mut device, "serial", serial);
        self.device(&device);
    }

    /// A stick.
    pub fn usb(&mut self, disk: &Disk, serial: &str) {
        if !self.usb {
            self.device(&json!({"driver": "qemu-xhci", "id": "usb-bus"}));
            for module in ["guest.xhci_pci", "guest.usb_storage", "guest.uas"] {
                self.word(module);
            }
            self.usb = true;
        }
        self.disk(disk);
        self.device(&json!({
            "driver": "usb-storage", "id": disk.name, "drive": disk.name, "bus": "usb-bus.0", "serial": serial,
        }));
    }

    /// Persistent memory: all of the file but its last mebibyte, where the labels are. The rest has to be a multiple of
    /// 16 MiB.
    ///
    /// # Errors
    /// The file's size cannot be read.
    pub fn nvdimm(&mut self, disk: &Disk) -> Result<()> {
        let bytes = disk.file.metadata()?.len();
        let memory = json!({
            "qom-type": "memory-backend-file", "id": format!("memory-{}", disk.name), "share": true,
            "mem-path": disk.file, "size": bytes,
        });
        self.arguments.extend(["-object".to_owned(), memory.to_string()]);
        self.device(&json!({
            "driver": "nvdimm", "id": disk.name, "memdev": format!("memory-{}", disk.name), "unarmed": false,
            "label-size": MIB,
        }));
        self.nvdimms += 1;
        for module in ["guest.nfit", "guest.nd_pmem"] {
            self.word(module);
        }
        Ok(())
    }

    pub(super) fn arguments(&self, images: &Path, folder: &Path) -> Result<Vec<String>> {
        let image = images.join(self.kernel.line());
        let path = |path: PathBuf| path.to_str().map(str::to_owned).context("a path that is no text");
        let mut words = format!(
            "console=ttyS0 quiet mitigations=off nokaslr tsc=reliable clocksource=tsc no_timer_check \
             random.trust_cpu=on audit=0 apparmor=0 init_on_alloc=0 cryptomgr.notests 8250.nr_uarts=1 nowatchdog \
             rcupdate.rcu_expedited=1 net.ifnames=0 panic=-1 guest.name={}",
            self.name
        );
        for word in &self.words {
            words.push(' ');
            words.push_str(word);
        }
        let machine = if self.nvdimms > 0 { "q35,nvdimm=on" } else { "q35" };
        let memory = match self.nvdimms {
            0 => format!("{}", self.mebibytes),
            n => format!(
                "{},slots={n},maxmem={}M",
                self.mebibytes,
                self.mebibytes + 1024 * u32::from(n)
            ),
        };
        let root = path(image.join("root.img"))?;
        let mut arguments: Vec<String> = [
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max,la57=off",
            "-smp",
            "2",
            "-netdev",
            "user,id=net0",
            "-device",
            "virtio-net-pci,netdev=net0,romfile=",
            "-device",
            "virtio-serial-pci",
            "-device",
            "virtserialport,chardev=door,name=org.qemu.guest_agent.0",
            "-serial",
            "chardev:console",
            "-device",
            "virtio-scsi-pci,id=scsi0",
        ]
        .map(str::to_owned)
        .to_vec();
        let socket = |name: &str| path(folder.join(name));
        arguments.extend([
            "-machine".to_owned(),
            format!("{machine},vmport=off,hpet=off,smbus=off"),
            "-m".to_owned(),
            memory,
            "-kernel".to_owned(),
            path(image.join("vmlinux"))?,
            "-initrd".to_owned(),
            path(image.join("boot.cpio"))?,
            "-append".to_owned(),
            words,
            "-chardev".to_owned(),
            format!("file,id=console,path={}", socket("console.log")?),
            "-chardev".to_owned(),
            format!("socket,id=door,path={},server=on,wait=off", socket("door.sock")?),
            "-qmp".to_owned(),
            format!("unix:{},server=on,wait=off", socket("qmp.sock")?),
            "-drive".to_owned(),
            format!("file={root},format=raw,if=none,id=root,snapshot=on"),
            "-device".to_owned(),
            "virtio-blk-pci,drive=root,serial=root".to_owned(),
        ]);
        if self.native_hotplug {
            arguments.push("-global".to_owned());
            arguments.push("ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off".to_owned());
        }
        arguments.extend(self.arguments.iter().cloned());
        Ok(arguments)
    }
}

/// A SCSI disk, as `device_add` takes it.
#[must_use]
pub fn scsi_disk(bus: &str, disk: &Disk, serial: Option<&str>, wwn: Option<u64>, spindle: Spindle) -> Value {
    let mut device = json!({
        "driver": "scsi-hd", "id": disk.name, "bus": bus, "drive": disk.name, "vendor": "TESTCORP",
        "product": "SCSI DISK", "ver": "N003", "rotation_rate": spindle.rate(),
    });
    put(&mut device, "serial", serial);
    put(&mut device, "device_id", serial);
    put(&mut device, "wwn", wwn);
    put(&mut device, "port_wwn", wwn.map(|wwn| wwn + 1));
    device
}

fn put<T: Into<Value>>(device: &mut Value, name: &str, value: Option<T>) {
    if let (Some(device), Some(value)) = (device.as_object_mut(), value) {
        device.insert(name.to_owned(), value.into());
    }
}
