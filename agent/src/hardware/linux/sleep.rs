//! A disk that sleeps is left asleep: what was known of it stays, and what was never known is said to be unknown.
//!
//! There are two sorts of sleep. The kernel's (runtime power management) is seen under `/sys`; the first command to
//! such a disk ends it, one of `smartctl -n standby` too, so nothing is opened at all. The drive's own (its standby
//! timer, `hdparm -y`) is known to the drive alone: before a spinning disk is read it is asked CHECK POWER MODE, which
//! wakes nobody. A disk that falls asleep between the question and the opening is woken once. Nothing here wakes a
//! disk; an order that is about to write to one does ([`Depth::wake`]).

use super::{Content, ContentKey, Linux};
use crate::hardware::program::Output;
use crate::hardware::{Depth, Device, Fault, Probe, Transport, smart};

/// Why something is not known of a disk, and what helps.
pub(super) const ASLEEP: &str = "the disk sleeps, and is not woken to be looked at; once something has woken it (reading a block does), the \
     next rescan tells";

impl Linux {
    /// Whether the disk must not be opened now.
    pub(super) fn rests(&self, name: &str, depth: Depth) -> bool {
        !depth.wake && self.sys.suspended(name)
    }

    /// Whether reading the disk now would wake it.
    pub(super) fn sleeps(&self, device: &Device, depth: Depth) -> bool {
        self.rests(&device.name, depth) || (!depth.wake && self.stands_by(device))
    }

    /// Whether the drive itself says that it stands by. One that cannot be asked is taken for awake.
    fn stands_by(&self, device: &Device) -> bool {
        let spins = matches!(
            device.transport,
            Transport::Sata | Transport::Sas | Transport::Scsi
        );
        if !spins || device.rotational == Some(false) {
            return false;
        }
        let answer = self.host.run("smartctl", &smart::power(device));
        matches!(
            answer,
            Ok(Output { status: Some(status), stdout }) if smart::parse(status, &stdout) == smart::Answer::Asleep
        )
    }

    /// What is on a disk that is not read now, from what was read before.
    pub(super) fn unread(
        &self,
        device: &Device,
        remembered: Option<(ContentKey, Content)>,
        key: &ContentKey,
        depth: Depth,
    ) -> Content {
        let same =
            |was: &ContentKey| was.disk_sequence == key.disk_sequence && was.size_bytes == key.size_bytes;
        let Some((was, mut content)) = remembered.filter(|(was, _)| same(was)) else {
            let fault = Fault::failed(Probe::Signatures, &device.name, ASLEEP);
            return Content {
                faults: vec![fault],
                ..Content::default()
            };
        };
        if was.written != key.written {
            let detail = format!("it was written to since it was read; {ASLEEP}");
            content
                .faults
                .push(Fault::failed(Probe::Signatures, &device.name, detail));
        }
        if depth.reread {
            let mut memory = self.memory.lock();
            memory.entry(device.name.clone()).or_default().owed = true;
        }
        content
    }

    /// Whether nobody else holds it; of a disk that sleeps, what was found last.
    pub(super) fn exclusive(&self, device: &Device, depth: Depth) -> Result<bool, Fault> {
        if self.rests(&device.name, depth) {
            let memory = self.memory.lock();
            let last = memory.get(&device.name).and_then(|memory| memory.exclusive);
            return last.ok_or_else(|| Fault::failed(Probe::Signatures, &device.name, ASLEEP));
        }
        let found = self.hold(device);
        let mut memory = self.memory.lock();
        memory.entry(device.name.clone()).or_default().exclusive = found.as_ref().ok().copied();
        found
    }
}

#[cfg(test)]
mod tests;
