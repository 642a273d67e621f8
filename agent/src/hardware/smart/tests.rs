use super::*;
use proptest::prelude::*;

/// What smartctl said of real drives, cut down to what is read, with other names; status and answer are in each file.
fn said(file: &str) -> Answer {
    let path = format!("{}/fixtures/smartctl/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let json = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let root: Value = serde_json::from_slice(&json).unwrap();
    let status = root.pointer("/smartctl/exit_status").unwrap().as_i64().unwrap();
    parse(i32::try_from(status).unwrap(), &json)
}

/// `Health` with these numbers, all others absent.
fn told(passed: bool, numbers: [Option<u64>; 5], celsius: u32, hours: u64) -> Answer {
    let [used, media, reallocated, pending, uncorrectable] = numbers;
    Answer::Told(Health {
        self_assessment_passed: Some(passed),
        percentage_used: used.map(|used| u32::try_from(used).unwrap()),
        media_errors: media,
        reallocated_sectors: reallocated,
        pending_sectors: pending,
        uncorrectable_errors: uncorrectable,
        temperature_celsius: Some(celsius),
        power_on_hours: Some(hours),
        source: "smartctl".into(),
        ..Health::default()
    })
}

/// What the controller makes of these numbers is in the table of its health judgement.
#[test]
fn every_bit_of_the_status_is_read_as_news_of_the_drive() {
    let n = Some;
    for (file, expected) in [
        (
            "ata-failing-now",
            told(false, [None, None, n(1975), n(8), n(0)], 25, 65_592),
        ),
        (
            "ata-prefail-now",
            told(false, [None, None, n(250), None, n(1)], 41, 8760),
        ),
        (
            "ata-failed-once",
            told(true, [None, None, n(0), n(0), None], 38, 21_004),
        ),
        (
            "ata-error-log",
            told(true, [None, None, n(304), n(0), n(98)], 34, 100_161),
        ),
        (
            "ata-self-test-failed",
            told(true, [None, None, n(0), n(16), n(16)], 33, 43_210),
        ),
        (
            "ata-packed-raw",
            told(true, [None, None, n(11), n(0), None], 41, 28_104),
        ),
        (
            "ata-ssd-worn",
            told(true, [n(97), None, n(0), None, None], 29, 31_000),
        ),
        (
            "sas-uncorrected",
            told(true, [None, None, n(17), None, n(4)], 32, 12_437),
        ),
        (
            "sas-failing",
            told(false, [None, None, n(2211), None, n(0)], 48, 60_112),
        ),
        (
            "sas-ssd-worn",
            told(true, [n(104), None, n(0), None, n(0)], 35, 26_195),
        ),
        ("ata-standby", Answer::Asleep),
        (
            "scsi-without-smart",
            Answer::Unsupported("the device has no SMART support".into()),
        ),
    ] {
        assert_eq!(said(file), expected, "{file}");
    }
    assert!(matches!(said("sas-stopped"), Answer::NotReady(_)));
    let bridge = said("usb-unknown-bridge");
    assert!(
        matches!(&bridge, Answer::Unsupported(why) if why.contains("USB bridge")),
        "{bridge:?}"
    );
}

#[test]
fn the_log_of_an_nvme_drive_is_read_through_smartctl_too() {
    let health = |file| match said(file) {
        Answer::Told(health) => health,
        other => panic!("{other:?}"),
    };
    let worn = health("nvme-worn-out");
    assert_eq!(
        (worn.self_assessment_passed, worn.critical_warning),
        (Some(false), Some(5))
    );
    assert_eq!(
        (
            worn.available_spare_percent,
            worn.available_spare_threshold_percent
        ),
        (Some(8), Some(10))
    );
    assert_eq!((worn.percentage_used, worn.media_errors), (Some(121), Some(41)));
    let erring = health("nvme-media-errors");
    assert_eq!(
        (erring.self_assessment_passed, erring.media_errors),
        (Some(true), Some(7))
    );
}

#[test]
fn a_raw_value_is_what_stands_before_the_brackets() {
    for (string, value, expected) in [
        ("11 (0 3)", 12_884_901_899_u64, Some(11)),
        ("0", 0, Some(0)),
        ("0x00000000000b", 11, Some(11)),
        ("12345h+07m", 44_444, Some(44_444)),
        ("", 7, Some(7)),
    ] {
        let row = serde_json::json!({"raw": {"value": value, "string": string}});
        assert_eq!(raw(&row), expected, "{string}");
    }
    assert_eq!(raw(&serde_json::json!({})), None);
}

#[test]
fn nought_degrees_is_no_temperature_where_nothing_measures_it() {
    let of = |json: &str| match parse(0, json.as_bytes()) {
        Answer::Told(health) => health.temperature_celsius,
        _ => None,
    };
    let scsi = r#""device":{"protocol":"SCSI"},"smart_status":{"passed":true}"#;
    assert_eq!(of(&format!(r#"{{{scsi},"temperature":{{"current":0}}}}"#)), None);
    assert_eq!(
        of(&format!(
            r#"{{{scsi},"temperature":{{"current":0,"drive_trip":65}}}}"#
        )),
        Some(0)
    );
    assert_eq!(
        of(r#"{"device":{"protocol":"ATA"},"temperature":{"current":0}}"#),
        Some(0)
    );
}

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
