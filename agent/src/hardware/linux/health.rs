//! Asks one drive for its health: NVMe by ioctl with `nvme` beside it, ATA and SCSI by `smartctl`.
//!
//! It is called at first sight of a drive, when the drive says that something changed, and at a slow interval; never
//! while nothing happens.

use std::time::Instant;

use super::sleep::ASLEEP;
use super::{Asked, Linux};
use crate::hardware::ioctl::NvmeRead;
use crate::hardware::{Device, Fault, Health, Probe, Transport, nvme, nvme_cli, smart};

/// Why this sort of device is never asked.
pub(super) fn cannot_say(device: &Device) -> Option<Fault> {
    let why = match device.transport {
        Transport::Virtio => "a virtio disk does not tell the health of what is behind it",
        Transport::Loop => "a loop device has no health of its own",
        Transport::Nvdimm => "persistent memory is not asked for its health",
        _ => return None,
    };
    Some(Fault::unsupported(Probe::Smartctl, &device.name, why))
}

impl Linux {
    pub(super) fn ask(&self, device: &Device, now: Instant) -> Asked {
        let mut asked = Asked {
            at: now,
            disk_sequence: device.disk_sequence,
            health: None,
            namespaces: None,
            total_bytes: None,
            faults: Vec::new(),
        };
        if cannot_say(device).is_some() {
            return asked;
        }
        match &device.nvme {
            Some(facts) if !facts.controller.is_empty() => {
                self.ask_nvme(device, &facts.controller, &mut asked)
            }
            _ => self.ask_smartctl(device, &mut asked),
        }
        asked
    }

    fn ask_nvme(&self, device: &Device, controller: &str, asked: &mut Asked) {
        let path = format!("/dev/{controller}");
        let mut fault = |detail: String| {
            asked
                .faults
                .push(Fault::failed(Probe::Nvme, &device.name, detail));
        };
        match self.host.nvme(&path, [NvmeRead::Controller, NvmeRead::SmartLog]) {
            Ok([identify, log]) => {
                match identify {
                    Ok(bytes) => {
                        let found = nvme::controller(&bytes);
                        asked.namespaces = found.namespaces;
                        asked.total_bytes = found.total_bytes;
                    }
                    Err(error) => fault(format!("Identify Controller of {controller}: {error}")),
                }
                match log {
                    Ok(bytes) => asked.health = nvme::health(&bytes),
                    Err(error) => fault(format!("SMART log of {controller}: {error}")),
                }
            }
            Err(error) => fault(format!("opening {path}: {error}")),
        }
        match self.run_nvme_cli(&path) {
            Ok(log) => match &asked.health {
                Some(health) => asked.faults.extend(
                    nvme_cli::disagreements(health, &log)
                        .into_iter()
                        .map(|detail| Fault::failed(Probe::NvmeCli, &device.name, detail)),
                ),
                None => asked.health = Some(log),
            },
            Err(mut fault) => {
                fault.device.clone_from(&device.name);
                asked.faults.push(fault);
            }
        }
    }

    fn ask_smartctl(&self, device: &Device, asked: &mut Asked) {
        let answer = match self.host.run("smartctl", &smart::everything(device)) {
            Ok(output) => match output.status {
                Some(status) => smart::parse(status, &output.stdout),
                None => smart::Answer::Failed("smartctl was ended by a signal".to_owned()),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                smart::Answer::Unsupported(error.to_string())
            }
            Err(error) => smart::Answer::Failed(format!("running smartctl: {error}")),
        };
        match answer {
            smart::Answer::Told(health) => asked.health = Some(health),
            smart::Answer::Unsupported(why) => {
                asked
                    .faults
                    .push(Fault::unsupported(Probe::Smartctl, &device.name, why));
            }
            smart::Answer::Failed(why) => {
                asked
                    .faults
                    .push(Fault::failed(Probe::Smartctl, &device.name, why));
            }
            smart::Answer::Asleep => self.as_before(device, asked, ASLEEP, false),
            smart::Answer::NotReady(why) => self.as_before(device, asked, &why, true),
        }
    }

    /// What it said last stays; `why` it says nothing now is told where it never said anything, or `always`.
    fn as_before(&self, device: &Device, asked: &mut Asked, why: &str, always: bool) {
        let memory = self.memory.lock();
        let before = memory.get(&device.name).and_then(|memory| memory.asked.clone());
        if let Some(before) = before.filter(|before| before.disk_sequence == device.disk_sequence) {
            *asked = Asked {
                at: asked.at,
                ..before
            };
        }
        if always || asked.health.is_none() {
            asked.faults.retain(|fault| fault.detail != why);
            asked
                .faults
                .push(Fault::failed(Probe::Smartctl, &device.name, why));
        }
    }

    /// What it said last, with what it could not say.
    pub(super) fn add_health(&self, device: &mut Device) {
        if let Some(fault) = cannot_say(device) {
            device.faults.push(fault);
            return;
        }
        let memory = self.memory.lock();
        let asked = memory
            .get(&device.name)
            .and_then(|memory| memory.asked.as_ref())
            .filter(|asked| asked.disk_sequence == device.disk_sequence);
        let Some(asked) = asked else {
            if self.sys.suspended(&device.name) {
                device
                    .faults
                    .push(Fault::failed(Probe::Smartctl, &device.name, ASLEEP));
            }
            return;
        };
        device.health = asked.health.clone();
        device.faults.extend(asked.faults.iter().cloned());
        if let Some(nvme) = &mut device.nvme {
            nvme.namespace_count = asked.namespaces;
            nvme.total_capacity_bytes = asked.total_bytes;
        }
    }

    fn run_nvme_cli(&self, path: &str) -> Result<Health, Fault> {
        let output = self
            .host
            .run("nvme", &["smart-log", path, "-o", "json"])
            .map_err(|error| {
                if error.kind() == std::io::ErrorKind::NotFound {
                    Fault::unsupported(Probe::NvmeCli, "", "nvme is not installed: only the ioctl speaks")
                } else {
                    Fault::failed(Probe::NvmeCli, "", format!("running nvme smart-log: {error}"))
                }
            })?;
        nvme_cli::smart_log(&output.stdout).ok_or_else(|| {
            let detail = format!(
                "nvme smart-log answered nothing usable (exit status {:?})",
                output.status
            );
            Fault::failed(Probe::NvmeCli, "", detail)
        })
    }
}
