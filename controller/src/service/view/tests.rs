use serde_json::json;

use super::*;

fn claim(body: serde_json::Value) -> UnifiedStorageClaim {
    serde_json::from_value(body).unwrap()
}

#[test]
fn a_file_claim_says_how_to_reach_its_data_and_no_secret() {
    let claim = claim(json!({
        "metadata": {"name": "a", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-02T03:04:05Z",
                     "labels": {"storage.billyronks.io/id": "uv-1"}},
        "spec": {"storageType": "file", "capacity": "10Gi", "className": "c", "volumeName": "uv-1", "tier": "hot"},
        "status": {"phase": "Ready", "volumeName": "uv-1", "pool": "p", "backend": "seaweedfs", "class": "c",
            "access": {
                "filer": {"url": "http://f", "path": "/buckets/uv-1/data"},
                "s3": {"endpoint": "http://s", "bucket": "uv-1", "accessKey": "AK",
                       "secretRef": {"namespace": "n", "name": "uv-1"}},
                "mount": "weed mount ...",
            },
            "conditions": [{"type": "Ready", "status": "True", "reason": "Done", "message": "m",
                            "lastTransitionTime": "2026-01-02T03:04:06Z", "observedGeneration": 1}]},
    }));
    let answer = serde_json::to_value(Storage::of_claim(&claim, None, None)).unwrap();
    assert_eq!(
        answer,
        json!({
            "id": "uv-1", "name": "a", "namespace": "n", "storage_type": "file", "capacity_bytes": 10_737_418_240_u64,
            "tier": "hot", "class": "c", "backend": "seaweedfs", "pool": "p", "phase": "Ready",
            "conditions": [{"type": "Ready", "status": "True", "reason": "Done", "message": "m",
                            "last_transition_time": "2026-01-02T03:04:06Z", "observed_generation": 1}],
            "access": {
                "filer": {"url": "http://f", "path": "/buckets/uv-1/data"},
                "s3": {"endpoint": "http://s", "bucket": "uv-1", "access_key": "AK",
                       "secret_ref": {"namespace": "n", "name": "uv-1"}},
                "mount": "weed mount ...",
            },
            "created_at": "2026-01-02T03:04:05Z", "labels": {"storage.billyronks.io/id": "uv-1"},
            "reclaim_policy": "Delete", "redundancy": null,
        })
    );
}

#[test]
fn the_id_is_minted_or_bound_or_made_from_the_uid() {
    let id = |labels: serde_json::Value, name: serde_json::Value, bound: serde_json::Value| {
        claim_id(&claim(json!({
            "metadata": {"name": "a", "uid": "u", "labels": labels},
            "spec": {"storageType": "file", "capacity": "1", "volumeName": name},
            "status": {"volumeName": bound},
        })))
    };
    let label = json!({"storage.billyronks.io/id": "uv-1"});
    assert_eq!(id(label.clone(), json!("uv-1"), json!(null)), "uv-1");
    assert_eq!(id(label, json!("other"), json!(null)), "uv-u");
    assert_eq!(id(json!({}), json!("other"), json!("other")), "other");
    assert_eq!(id(json!({}), json!(null), json!("")), "uv-u");
}
