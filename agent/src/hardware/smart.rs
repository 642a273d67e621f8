//! What `smartctl --json -a -n standby` says of ATA and SCSI drives.
//!
//! Its exit status is a bit mask, and most bits are news about the drive, not errors of the program. A drive that
//! sleeps is left asleep, and what it said last stays. Looking for the sort of a device, smartctl sends IDENTIFY DEVICE
//! before it asks for the power state, which wakes some disks; of those on the kernel's own ATA it is told the sort.

use std::io;

use serde_json::Value;

use super::program::Output;
use super::{Device, Health, Transport};

/// What became of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It told something.
    Told(Health),
    /// The drive (or what stands before it) has no SMART: in words.
    Unsupported(String),
    /// It sleeps and was not woken.
    Asleep,
    /// It is there and cannot be used now, and nothing more was asked: in words.
    NotReady(String),
    /// It could not be read now: in words.
    Failed(String),
}

/// The arguments that ask everything of one device.
pub(super) fn everything(device: &Device) -> Vec<&str> {
    arguments("-a", device)
}

/// The arguments that ask a device no more than whether it is awake, and who it is.
pub(super) fn power(device: &Device) -> Vec<&str> {
    arguments("-i", device)
}

fn arguments<'a>(what: &'a str, device: &'a Device) -> Vec<&'a str> {
    let sort: &[&str] = match device.transport {
        Transport::Sata => &["-d", "sat"],
        _ => &[],
    };
    let mut all = vec!["--json", what, "-n", "standby"];
    all.extend_from_slice(sort);
    all.push(&device.dev_path);
    all
}

const BAD_ARGUMENTS: i32 = 1 << 0;
const OPEN_FAILED: i32 = 1 << 1;
const DISK_FAILING: i32 = 1 << 3;
/// An attribute by which the drive foretells its failure is below the drive's own threshold, whatever its summary says.
/// (The higher bits are of the past: the counters tell what is left of it.)
const PREFAIL_NOW: i32 = 1 << 4;

/// Reads an answer with its exit status.
pub(super) fn parse(status: i32, json: &[u8]) -> Answer {
    let Ok(root) = serde_json::from_slice::<Value>(json) else {
        return Answer::Failed(format!("smartctl answered no JSON (exit status {status})"));
    };
    let message = messages(&root);
    if status & OPEN_FAILED != 0 {
        // A SCSI disk that answers INQUIRY but not TEST UNIT READY: smartctl says no more in JSON than who it is.
        let there = root.pointer("/device/protocol").and_then(Value::as_str) == Some("SCSI")
            && root.get("user_capacity").is_some();
        return if message.contains("STANDBY") || message.contains("SLEEP") {
            Answer::Asleep
        } else if there && message.is_empty() {
            Answer::NotReady("the disk is not ready: it is stopped or starts, or it cannot start".to_owned())
        } else {
            Answer::Failed(format!("smartctl could not open the device: {message}"))
        };
    }
    if status & BAD_ARGUMENTS != 0 {
        return Answer::Unsupported(format!("smartctl does not know this sort of device: {message}"));
    }
    let health = health(&root, status);
    let silent = Health {
        source: health.source.clone(),
        ..Health::default()
    };
    if health == silent {
        let why = match root.pointer("/smart_support/available") {
            Some(Value::Bool(false)) => "the device has no SMART support",
            _ => "the device told nothing",
        };
        return Answer::Unsupported(why.to_owned());
    }
    Answer::Told(health)
}

/// Why a disk may not be read without the risk of waking it, from what `smartctl` answered; none where it is awake.
pub(super) fn asleep(answer: &io::Result<Output>) -> Option<String> {
    let unknown = |why: String| Some(format!("nobody can say whether it sleeps: {why}"));
    match answer {
        Ok(Output {
            status: Some(status),
            stdout,
        }) => match parse(*status, stdout) {
            Answer::Asleep => Some("it sleeps, and is not woken for this".to_owned()),
            Answer::NotReady(why) => Some(why),
            Answer::Failed(why) => unknown(why),
            Answer::Unsupported(why) if status & BAD_ARGUMENTS != 0 => unknown(why),
            Answer::Unsupported(_) | Answer::Told(_) => None,
        },
        Ok(Output { status: None, .. }) => unknown("smartctl was ended by a signal".to_owned()),
        Err(error) => unknown(error.to_string()),
    }
}

fn messages(root: &Value) -> String {
    let list = root.pointer("/smartctl/messages").and_then(Value::as_array);
    let texts: Vec<&str> = list
        .into_iter()
        .flatten()
        .filter_map(|message| message.get("string")?.as_str())
        .collect();
    texts.join("; ")
}

/// The number that an attribute counts. Of some the drive packs more into the same six bytes; smartctl knows which, and
/// writes that behind it, in brackets.
fn raw(row: &Value) -> Option<u64> {
    let text = row
        .pointer("/raw/string")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let digits = text
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap_or_default();
    match text.strip_prefix(digits) {
        Some("") => digits.parse().ok(),
        Some(rest) if rest.starts_with(' ') => digits.parse().ok(),
        _ => None,
    }
    .or_else(|| row.pointer("/raw/value")?.as_u64())
}

/// Of a SCSI disk without the page of temperatures smartctl prints 0 degrees, and 0 as the limit.
fn unmeasured(root: &Value, celsius: u32) -> bool {
    let limit = ["/temperature/drive_trip", "/scsi_temperature/drive_trip"];
    let limit = limit.iter().find_map(|path| root.pointer(path)?.as_u64());
    celsius == 0
        && limit.unwrap_or(0) == 0
        && root.pointer("/device/protocol").and_then(Value::as_str) == Some("SCSI")
}

fn health(root: &Value, status: i32) -> Health {
    let number = |path: &str| root.pointer(path).and_then(Value::as_u64);
    let small = |path: &str| number(path).and_then(|n| u32::try_from(n).ok());
    let attribute = |id: u64| {
        let table = root.pointer("/ata_smart_attributes/table")?.as_array()?;
        table
            .iter()
            .find(|row| row.get("id").and_then(Value::as_u64) == Some(id))
            .and_then(raw)
    };
    let passed = root.pointer("/smart_status/passed").and_then(Value::as_bool);
    let uncorrected = ["read", "write", "verify"]
        .iter()
        .filter_map(|op| number(&format!("/scsi_error_counter_log/{op}/total_uncorrected_errors")))
        .reduce(u64::saturating_add);
    Health {
        self_assessment_passed: if status & (DISK_FAILING | PREFAIL_NOW) != 0 {
            Some(false)
        } else {
            passed
        },
        critical_warning: small("/nvme_smart_health_information_log/critical_warning"),
        percentage_used: small("/nvme_smart_health_information_log/percentage_used")
            .or_else(|| small("/scsi_percentage_used_endurance_indicator"))
            .or_else(|| small("/endurance_used/current_percent")),
        available_spare_percent: small("/nvme_smart_health_information_log/available_spare"),
        available_spare_threshold_percent: small(
            "/nvme_smart_health_information_log/available_spare_threshold",
        ),
        media_errors: number("/nvme_smart_health_information_log/media_errors"),
        reallocated_sectors: attribute(5).or_else(|| number("/scsi_grown_defect_list")),
        pending_sectors: attribute(197),
        uncorrectable_errors: attribute(187).max(attribute(198)).max(uncorrected),
        temperature_celsius: small("/temperature/current").filter(|celsius| !unmeasured(root, *celsius)),
        power_on_hours: number("/power_on_time/hours"),
        source: "smartctl".into(),
    }
}

#[cfg(test)]
mod tests;
