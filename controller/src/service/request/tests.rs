use serde_json::json;

use super::*;

fn faults(body: Value) -> Vec<String> {
    let error = CreateDraft::from_json(body).parse().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    let mut fields: Vec<_> = error.errors.into_iter().map(|e| e.field).collect();
    fields.sort();
    fields
}

#[test]
fn every_wrong_field_is_named_once() {
    let body = json!({
        "name": "Not_A_Name", "storage_type": "tape", "capacity_bytes": 0, "tier": 7, "class": "a..b",
        "namespace": "-", "labels": {"storage.billyronks.io/id": "x", "ok": "not ok", "": "v"},
        "redundancy": {"type": "raid", "replication_factor": 99, "ec_policy": "4-2", "spare": 1},
        "reclaim_policy": "keep", "capacity": "10Gi",
    });
    assert_eq!(
        faults(body),
        [
            "capacity",
            "capacity_bytes",
            "class",
            "labels.",
            "labels.ok",
            "labels.storage.billyronks.io/id",
            "name",
            "namespace",
            "reclaim_policy",
            "redundancy.ec_policy",
            "redundancy.replication_factor",
            "redundancy.spare",
            "redundancy.type",
            "storage_type",
            "tier",
        ]
    );
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(faults(json!({})), ["capacity_bytes", "name", "storage_type"]);
    assert_eq!(
        faults(json!([])),
        ["(body)", "capacity_bytes", "name", "storage_type"]
    );
    assert_eq!(
        faults(
            json!({"name": null, "storage_type": "file", "capacity_bytes": 1, "namespace": null, "labels": null})
        ),
        ["labels", "name", "namespace"]
    );
}

#[test]
fn sizes_are_whole_numbers_in_range() {
    let with = |size: Value| {
        CreateDraft::from_json(json!({"name": "a", "storage_type": "file", "capacity_bytes": size}))
            .parse()
            .map(|request| request.capacity_bytes)
    };
    assert_eq!(with(json!(1)).unwrap(), 1);
    assert_eq!(with(json!(2.0)).unwrap(), 2);
    assert_eq!(with(json!(MAX_CAPACITY_BYTES)).unwrap(), MAX_CAPACITY_BYTES);
    for wrong in [
        json!(0),
        json!(-1),
        json!(1.5),
        json!("1"),
        json!(MAX_CAPACITY_BYTES + 1),
        json!(1e300),
        json!([]),
    ] {
        assert_eq!(
            with(wrong.clone()).unwrap_err().errors[0].field,
            "capacity_bytes",
            "{wrong}"
        );
    }
}

#[test]
fn equal_requests_have_equal_digests() {
    let digest = |body| CreateDraft::from_json(body).parse().unwrap().digest();
    let one = digest(json!({"name": "a", "storage_type": "file", "capacity_bytes": 5}));
    assert_eq!(one.len(), 64);
    assert_eq!(
        one,
        digest(
            json!({"capacity_bytes": 5.0, "namespace": "default", "storage_type": "file", "name": "a", "tier": null})
        )
    );
    assert_ne!(
        one,
        digest(json!({"name": "a", "storage_type": "file", "capacity_bytes": 6}))
    );
}

#[test]
fn waits_are_bounded() {
    let wait = |text| parse_wait("wait", text).ok();
    assert_eq!(wait("30s"), Some(Duration::from_secs(30)));
    assert_eq!(wait("1500ms"), Some(Duration::from_millis(1500)));
    assert_eq!(wait("999999m"), Some(Duration::from_secs(60)));
    for wrong in ["", "s", "30", "-1s", "1h", "1.5s", "1234567s", "30 s", "٣s"] {
        assert_eq!(wait(wrong), None, "{wrong}");
    }
}

#[test]
fn deep_json_is_refused_and_not_followed() {
    let deep = "[".repeat(100_000);
    assert_eq!(
        parse_json(deep.as_bytes()).unwrap_err().kind,
        ErrorKind::Malformed
    );
    assert_eq!(parse_json(b"{\"a\": 1").unwrap_err().kind, ErrorKind::Malformed);
    assert_eq!(parse_json(b"\xff").unwrap_err().kind, ErrorKind::Malformed);
}
