//! What the `nvme` program says, as JSON: a second opinion beside the ioctl, and the fallback where that fails.
//! Numbers come as numbers, as strings or in an object with `value`, by version.

use serde_json::Value;

use super::Health;

/// Reads `nvme smart-log -o json`; none where it is no such answer.
pub(super) fn smart_log(json: &[u8]) -> Option<Health> {
    let log: Value = serde_json::from_slice(json).ok()?;
    let number = |key: &str| log.get(key).and_then(number);
    let small = |key: &str| number(key).and_then(|n| u32::try_from(n).ok());
    log.get("critical_warning")?;
    Some(Health {
        critical_warning: small("critical_warning"),
        // Kelvin.
        temperature_celsius: small("temperature").and_then(|kelvin| kelvin.checked_sub(273)),
        available_spare_percent: small("avail_spare"),
        available_spare_threshold_percent: small("spare_thresh"),
        percentage_used: small("percent_used").or_else(|| small("percentage_used")),
        power_on_hours: number("power_on_hours"),
        media_errors: number("media_errors"),
        source: "nvme-cli".into(),
        ..Health::default()
    })
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(n) => n
            .as_u64()
            .or_else(|| n.as_f64().filter(|f| *f >= 0.0).map(|f| f as u64)),
        Value::String(text) => text.replace(',', "").trim().parse().ok(),
        Value::Object(fields) => fields.get("value").and_then(number),
        _ => None,
    }
}

/// In which fields two answers of the same moment disagree. What moves by itself (temperature, hours) is not
/// compared, and a field that one of them lacks is no disagreement.
pub(super) fn disagreements(ioctl: &Health, program: &Health) -> Vec<String> {
    let fields = [
        (
            "critical_warning",
            ioctl.critical_warning.map(u64::from),
            program.critical_warning.map(u64::from),
        ),
        (
            "avail_spare",
            ioctl.available_spare_percent.map(u64::from),
            program.available_spare_percent.map(u64::from),
        ),
        (
            "spare_thresh",
            ioctl.available_spare_threshold_percent.map(u64::from),
            program.available_spare_threshold_percent.map(u64::from),
        ),
        (
            "percent_used",
            ioctl.percentage_used.map(u64::from),
            program.percentage_used.map(u64::from),
        ),
        ("media_errors", ioctl.media_errors, program.media_errors),
    ];
    fields
        .into_iter()
        .filter_map(|(name, a, b)| {
            let (a, b) = (a?, b?);
            (a != b).then(|| format!("{name} is {a} by ioctl and {b} by nvme-cli"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // nvme-cli 2.3 in a guest of facts/hardware.md, shortened.
    const ANSWER: &str = r#"{"critical_warning":13,"temperature":323,"avail_spare":0,"spare_thresh":0,
        "percent_used":0,"endurance_grp_critical_warning_summary":0,"power_on_hours":"12,345","media_errors":0}"#;

    #[test]
    fn a_real_answer_is_read() {
        let found = smart_log(ANSWER.as_bytes()).unwrap();
        assert_eq!(
            (found.critical_warning, found.temperature_celsius),
            (Some(13), Some(50))
        );
        assert_eq!(found.power_on_hours, Some(12345));
        let newer = smart_log(br#"{"critical_warning":{"value":4,"available_spare":0}}"#).unwrap();
        assert_eq!((newer.critical_warning, newer.media_errors), (Some(4), None));
    }

    #[test]
    fn only_what_both_say_can_disagree() {
        let ioctl = Health {
            critical_warning: Some(0),
            media_errors: Some(7),
            ..Health::default()
        };
        assert!(disagreements(&ioctl, &Health::default()).is_empty());
        let program = Health {
            critical_warning: Some(4),
            media_errors: Some(7),
            ..Health::default()
        };
        assert_eq!(
            disagreements(&ioctl, &program),
            ["critical_warning is 0 by ioctl and 4 by nvme-cli"]
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~]{0,300}", n in any::<f64>()) {
            let _ = smart_log(text.as_bytes());
            let _ = smart_log(format!("{{\"critical_warning\": {n}}}").as_bytes());
        }
    }
}
