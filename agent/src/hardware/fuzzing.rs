//! Doors to this module's private parsers for `integration/fuzz`: one function for each thing that is read. They do
//! nothing but call, and are never in a shipped binary.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use super::host::Live;
use super::sysfs::Sysfs;
use super::uevent::Event;
use super::{
    Depth, Device, Hardware as _, Health, Mount, Swap, bundle, kernel_log, mounts, nvme, nvme_cli, sim,
    smart, sysfs, udev, uevent,
};

/// Mounts of a mountinfo table.
#[must_use]
pub fn mountinfo(text: &str) -> Vec<Mount> {
    mounts::parse_mountinfo(text)
}

/// Swap areas of `/proc/swaps`.
#[must_use]
pub fn swaps(text: &str) -> Vec<Swap> {
    mounts::parse_swaps(text)
}

/// Properties in a file of udevd's database.
#[must_use]
pub fn udev_database(text: &str) -> BTreeMap<String, String> {
    udev::parse(text)
}

/// A record of the kernel's log: the drive that could not be read or written, the place, and the words that are kept.
#[must_use]
pub fn io_error(record: &str) -> Option<(String, Option<u64>, String)> {
    kernel_log::parse(record).map(|record| (record.drive, record.bad_place, record.words))
}

/// An announcement of the kernel: name, path, whether of a controller, of a partition, of health.
#[must_use]
pub fn announcement(name: &str, devpath: &str, of: (bool, bool, bool)) -> Event {
    uevent::translate(name, devpath, of.0, of.1, of.2)
}

/// Serial, model, firmware, namespaces and capacity of an Identify Controller structure.
#[must_use]
#[allow(clippy::type_complexity, reason = "five facts, for a test only")]
pub fn nvme_controller(
    bytes: &[u8],
) -> (
    Option<String>,
    Option<String>,
    Option<String>,
    Option<u32>,
    Option<u64>,
) {
    let found = nvme::controller(bytes);
    (
        found.serial,
        found.model,
        found.firmware,
        found.namespaces,
        found.total_bytes,
    )
}

/// A SMART / Health log page.
#[must_use]
pub fn nvme_health(bytes: &[u8]) -> Option<Health> {
    nvme::health(bytes)
}

/// What `nvme smart-log -o json` says, and in what it contradicts `ioctl`.
#[must_use]
pub fn nvme_cli(json: &[u8], ioctl: &Health) -> Option<(Health, Vec<String>)> {
    let found = nvme_cli::smart_log(json)?;
    let differences = nvme_cli::disagreements(ioctl, &found);
    Some((found, differences))
}

/// What `smartctl --json` says: health, or in words why there is none.
///
/// # Errors
/// Where it told nothing.
pub fn smartctl(status: i32, json: &[u8]) -> Result<Health, String> {
    match smart::parse(status, json) {
        smart::Answer::Told(health) => Ok(health),
        smart::Answer::Unsupported(why) | smart::Answer::Failed(why) | smart::Answer::NotReady(why) => {
            Err(why)
        }
        smart::Answer::Asleep => Err("asleep".to_owned()),
    }
}

/// Everything that a `/sys` says of one device; whether it counts as a drive; what lies below it.
#[must_use]
pub fn sys(host_root: &Path, name: &str) -> (Option<Device>, bool, Vec<String>) {
    let sys = Sysfs::new(std::sync::Arc::new(Live::new(host_root)));
    let drive = sys.is_drive(name, None);
    let _ = (sys.partitions(name), sys.counts(name), sys.describe_upper(name));
    (sys.device(name), drive, sys.below(name).into_iter().collect())
}

/// Whether a text of the hardware says anything.
#[must_use]
pub fn meaningful(text: &str) -> Option<String> {
    sysfs::meaningful(text)
}

/// How many devices a simulated machine has, in a description or a bundle.
///
/// # Errors
/// What is wrong with it.
pub fn simulation(bytes: &[u8]) -> Result<usize, String> {
    let Some(machine) = bundle::machine(bytes) else {
        return sim::parse(bytes).map(|picture| picture.devices.len());
    };
    let machine = machine?;
    let around = machine.surroundings();
    let names = machine.list().map_err(|fault| fault.detail)?;
    let devices = names
        .iter()
        .filter_map(|name| machine.probe(name, &around, Depth::default(), Instant::now()));
    Ok(devices.count())
}
