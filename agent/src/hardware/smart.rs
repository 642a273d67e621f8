//! What `smartctl --json -a -n standby` says of ATA and SCSI drives.
//!
//! Its exit status is a bit mask, and most bits are news about the drive, not errors of the program. A drive that
//! sleeps is left asleep, and what it said last stays.

use std::io;

use serde_json::Value;

use super::Health;
use super::program::Output;

/// What became of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It told something.
    Told(Health),
    /// The drive (or what stands before it) has no SMART: in words.
    Unsupported(String),
    /// It sleeps and was not woken.
    Asleep,
    /// It could not be read now: in words.
    Failed(String),
}

/// The arguments for one device.
pub(super) const ARGUMENTS: [&str; 4] = ["--json", "-a", "-n", "standby"];

const BAD_ARGUMENTS: i32 = 1 << 0;
const OPEN_FAILED: i32 = 1 << 1;
const DISK_FAILING: i32 = 1 << 3;

/// Reads an answer with its exit status.
pub(super) fn parse(status: i32, json: &[u8]) -> Answer {
    let Ok(root) = serde_json::from_slice::<Value>(json) else {
        return Answer::Failed(format!("smartctl answered no JSON (exit status {status})"));
    };
    let message = messages(&root);
    if status & OPEN_FAILED != 0 {
        return if message.contains("STANDBY") || message.contains("SLEEP") {
            Answer::Asleep
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

fn health(root: &Value, status: i32) -> Health {
    let number = |path: &str| root.pointer(path).and_then(Value::as_u64);
    let small = |path: &str| number(path).and_then(|n| u32::try_from(n).ok());
    let attribute = |id: u64| {
        let table = root.pointer("/ata_smart_attributes/table")?.as_array()?;
        table
            .iter()
            .find(|row| row.get("id").and_then(Value::as_u64) == Some(id))?
            .pointer("/raw/value")?
            .as_u64()
    };
    let passed = root.pointer("/smart_status/passed").and_then(Value::as_bool);
    let uncorrected = ["read", "write", "verify"]
        .iter()
        .filter_map(|op| number(&format!("/scsi_error_counter_log/{op}/total_uncorrected_errors")))
        .reduce(u64::saturating_add);
    Health {
        self_assessment_passed: if status & DISK_FAILING != 0 {
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
        temperature_celsius: small("/temperature/current"),
        power_on_hours: number("/power_on_time/hours"),
        source: "smartctl".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_ata_drive_is_read() {
        let json = br#"{"smartctl":{"exit_status":0},"smart_status":{"passed":true},
            "ata_smart_attributes":{"table":[{"id":5,"raw":{"value":8}},{"id":197,"raw":{"value":1}},
              {"id":187,"raw":{"value":3}},{"id":198,"raw":{"value":2}}]},
            "power_on_time":{"hours":100},"temperature":{"current":31}}"#;
        let Answer::Told(health) = parse(0, json) else {
            panic!("told nothing")
        };
        assert_eq!(health.self_assessment_passed, Some(true));
        assert_eq!(
            (health.reallocated_sectors, health.pending_sectors),
            (Some(8), Some(1))
        );
        assert_eq!(health.uncorrectable_errors, Some(3));
        assert_eq!(
            (health.temperature_celsius, health.power_on_hours),
            (Some(31), Some(100))
        );
    }

    #[test]
    fn the_exit_status_is_a_mask() {
        let json = br#"{"temperature":{"current":38},"scsi_grown_defect_list":0}"#;
        assert!(
            matches!(parse(4, json), Answer::Told(_)),
            "a command that a SAS drive lacks is no error"
        );
        let Answer::Told(failing) = parse(8 | 64, json) else {
            panic!("told nothing")
        };
        assert_eq!(failing.self_assessment_passed, Some(false));
    }

    #[test]
    fn a_sleeping_drive_is_told_from_one_that_cannot_be_opened() {
        let asleep = br#"{"smartctl":{"messages":[{"string":"Device is in STANDBY mode, exit(2)"}]}}"#;
        assert_eq!(parse(2, asleep), Answer::Asleep);
        assert!(matches!(parse(2, b"{}"), Answer::Failed(_)));
    }

    #[test]
    fn only_a_disk_that_is_awake_may_be_read_by_who_must_not_wake_it() {
        let answered = |status, stdout: &str| {
            asleep(&Ok(Output {
                status,
                stdout: stdout.into(),
            }))
        };
        assert_eq!(answered(Some(4), r#"{"temperature":{"current":38}}"#), None);
        let sas = r#"{"smart_support":{"available":false}}"#;
        assert_eq!(answered(Some(4), sas), None, "asked, and awake");
        let standby = r#"{"smartctl":{"messages":[{"string":"Device is in STANDBY mode, exit(2)"}]}}"#;
        assert!(answered(Some(2), standby).unwrap().starts_with("it sleeps"));
        for (status, stdout) in [(Some(1), "{}"), (Some(2), "{}"), (Some(0), "<html>"), (None, "")] {
            let why = answered(status, stdout).unwrap();
            assert!(why.starts_with("nobody can say"), "{why}");
        }
        assert!(asleep(&Err(io::ErrorKind::NotFound.into())).is_some());
    }

    #[test]
    fn silence_is_unsupported_and_never_good() {
        let sas = br#"{"smart_support":{"available":false}}"#;
        assert_eq!(
            parse(4, sas),
            Answer::Unsupported("the device has no SMART support".into())
        );
        assert!(matches!(parse(1, b"{}"), Answer::Unsupported(_)));
        assert!(matches!(parse(0, b"<html>"), Answer::Failed(_)));
    }

    proptest! {
        #[test]
        fn no_answer_panics(status in any::<i32>(), text in "[ -~]{0,300}") {
            let _ = parse(status, text.as_bytes());
        }
    }
}
