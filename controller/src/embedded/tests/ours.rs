//! The six kinds of the operator, served as they are.

use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::{Bed, refused};

fn api(bed: &Bed, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("storage.billyronks.io", "v1", kind));
    match kind {
        "UnifiedStorageClaim" => Api::default_namespaced_with(bed.client.clone(), &resource),
        _ => Api::all_with(bed.client.clone(), &resource),
    }
}

async fn create(bed: &Bed, kind: &str, name: &str, spec: Value) -> Result<DynamicObject, kube::Error> {
    let body = json!({
        "apiVersion": "storage.billyronks.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec,
    });
    api(bed, kind)
        .create(&PostParams::default(), &serde_json::from_value(body).unwrap())
        .await
}

async fn change(bed: &Bed, kind: &str, name: &str, spec: Value) -> Result<DynamicObject, kube::Error> {
    let patch = Patch::Merge(json!({"spec": spec}));
    api(bed, kind).patch(name, &PatchParams::default(), &patch).await
}

#[tokio::test]
async fn a_claim_may_grow_and_keeps_the_rest() {
    let bed = Bed::new().await;
    let kind = "UnifiedStorageClaim";
    create(&bed, kind, "c", json!({"storageType": "file", "capacity": "1Gi"}))
        .await
        .unwrap();
    change(&bed, kind, "c", json!({"capacity": "2Gi"})).await.unwrap();
    let status = refused(change(&bed, kind, "c", json!({"storageType": "object"})).await);
    assert_eq!(status.code, 422);
    assert!(
        status.message.contains("storageType cannot be changed"),
        "{}",
        status.message
    );
    for (field, value) in [
        ("volumeName", "uv-1"),
        ("tier", "hot"),
        ("reclaimPolicy", "Retain"),
    ] {
        let status = refused(change(&bed, kind, "c", json!({field: value})).await);
        let words = format!("{field} cannot be changed");
        assert!(status.message.contains(&words), "{}", status.message);
    }
    let status = refused(change(&bed, kind, "c", json!({"capacity": "lots"})).await);
    assert!(status.message.contains("spec.capacity"), "{}", status.message);
}

#[tokio::test]
async fn a_pool_fits_its_backend() {
    let bed = Bed::new().await;
    let pool = |kind: &str, backend: &str| json!({"poolType": kind, "backend": {"type": backend}, "driveSelector": {"driveTypes": ["unknown"]}});
    let made = create(&bed, "UnifiedPool", "p", pool("file", "seaweedfs"))
        .await
        .unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    let status = refused(create(&bed, "UnifiedPool", "q", pool("block", "seaweedfs")).await);
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    let status = refused(change(&bed, "UnifiedPool", "p", pool("object", "seaweedfs")).await);
    assert_eq!(status.code, 422);
}

#[tokio::test]
async fn a_members_drive_is_for_ever() {
    let bed = Bed::new().await;
    let spec = json!({
        "pool": "p", "driveId": "d", "memberId": "00000000-0000-4000-8000-000000000000", "nodeName": "n",
        "driveBytes": 4_000_000_000_u64,
    });
    create(&bed, "PoolMember", "pm-d", spec.clone()).await.unwrap();
    assert_eq!(
        refused(create(&bed, "PoolMember", "pm-d", spec).await).reason,
        "AlreadyExists"
    );
    assert_eq!(
        refused(change(&bed, "PoolMember", "pm-d", json!({"pool": "q"})).await).code,
        422
    );
    change(&bed, "PoolMember", "pm-d", json!({"nodeName": "m"}))
        .await
        .unwrap();
}
