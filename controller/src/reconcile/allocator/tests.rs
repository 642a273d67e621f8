//! The allocator over the embedded API.

mod interleavings;

use futures::future::join_all;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use super::*;
use crate::{crd, embedded::Embedded};

/// A folder in memory where there is one: what disks do is tried elsewhere.
fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

struct Bed {
    allocator: Arc<Allocator>,
    embedded: Embedded,
    _folder: tempfile::TempDir,
}

impl Bed {
    async fn new(capacity: u64) -> Self {
        let folder = memory();
        let embedded = Embedded::open(&folder.path().join("store.redb"), crd::all())
            .await
            .unwrap();
        let allocator = Arc::new(Allocator::new(embedded.client()));
        let pool: UnifiedPool = serde_json::from_value(json!({
            "apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedPool",
            "metadata": {"name": "p", "finalizers": [crd::FINALIZER]},
            "spec": {"poolType": "file", "backend": {"type": "seaweedfs"}},
        }))
        .unwrap();
        allocator
            .pools
            .create(&PostParams::default(), &pool)
            .await
            .unwrap();
        let status = json!({"status": {"phase": "Ready", "totalCapacityBytes": capacity}});
        allocator
            .pools
            .patch_status("p", &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
        Self {
            allocator,
            embedded,
            _folder: folder,
        }
    }

    fn claims(&self) -> Api<UnifiedStorageClaim> {
        Api::default_namespaced(self.embedded.client())
    }

    /// A volume that a living claim asks for.
    async fn wanted(&self, name: &str, bytes: u64) -> UnifiedVolume {
        let claim: UnifiedStorageClaim = serde_json::from_value(json!({
            "apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedStorageClaim", "metadata": {"name": name},
            "spec": {"storageType": "file", "capacity": "1", "volumeName": name},
        }))
        .unwrap();
        let claim = self
            .claims()
            .create(&PostParams::default(), &claim)
            .await
            .unwrap();
        let mut volume = volume(name, bytes);
        volume.spec.claim_ref.uid = claim.uid().unwrap();
        volume
    }

    async fn promised(&self) -> u64 {
        let pool = self.allocator.pools.get("p").await.unwrap();
        pool.status.unwrap_or_default().promised_bytes
    }

    async fn held(&self) -> u64 {
        let volumes = self.allocator.volumes.list(&ListParams::default()).await.unwrap();
        volumes.iter().map(|v| v.spec.placement.promised_bytes).sum()
    }
}

fn volume(name: &str, bytes: u64) -> UnifiedVolume {
    serde_json::from_value(json!({
        "apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedVolume", "metadata": {"name": name},
        "spec": {
            "storageType": "file", "reclaimPolicy": "Delete", "capacityBytes": 1,
            "claimRef": {"namespace": "default", "name": name, "uid": name},
            "placement": {"backend": "seaweedfs", "pool": "p", "copies": 1, "promisedBytes": bytes,
                          "reasons": ["a test"]},
        },
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_at_once_get_no_more_than_there_is() {
    let bed = Bed::new(300).await;
    // A second allocator is a second leader: only the resourceVersion stands between them.
    let other = Arc::new(Allocator::new(bed.embedded.client()));
    let asked = (0..200).map(|n| {
        let allocator = if n % 2 == 0 { &bed.allocator } else { &other };
        let allocator = Arc::clone(allocator);
        async move { allocator.create(&volume(&format!("uv-{n}"), 10)).await.unwrap() }
    });
    let granted = join_all(asked).await;
    let written = granted
        .iter()
        .filter(|granted| matches!(granted, Granted::Written { existed: false, .. }))
        .count();
    assert_eq!(written, 30);
    assert_eq!((bed.promised().await, bed.held().await), (300, 300));
    bed.allocator.recount("p").await.unwrap();
    assert_eq!(bed.promised().await, 300);
}

/// Reserves as [`Allocator::create`] does, and dies before the volume is written.
async fn reserve_and_die(allocator: &Allocator, volume: &UnifiedVolume) {
    let ask = Reservation {
        volume: volume.name_any(),
        bytes: volume.spec.placement.promised_bytes,
        by: allocator.name.clone(),
        grows: None,
    };
    let reserved = allocator
        .reserve("p", &ask, 0, Some(&volume.spec.claim_ref))
        .await;
    assert!(reserved.unwrap().is_ok());
}

#[tokio::test]
async fn a_crash_between_reserve_and_create_is_forgotten_once_nobody_wants_the_volume() {
    let bed = Bed::new(100).await;
    bed.allocator.create(&volume("uv-a", 40)).await.unwrap();
    let wanted = bed.wanted("uv-b", 60).await;
    reserve_and_die(&bed.allocator, &wanted).await;
    for _ in 0..2 {
        assert!(matches!(
            bed.allocator.create(&volume("uv-c", 10)).await.unwrap(),
            Granted::Short(_)
        ));
        // Somebody may still be writing it.
        bed.allocator.recount("p").await.unwrap();
        assert_eq!(bed.promised().await, 100);
    }
    bed.claims()
        .delete("uv-b", &DeleteParams::default())
        .await
        .unwrap();
    bed.allocator.recount("p").await.unwrap();
    assert_eq!(bed.promised().await, 40);
    assert!(matches!(
        bed.allocator.create(&volume("uv-c", 60)).await.unwrap(),
        Granted::Written { existed: false, .. }
    ));
}

#[tokio::test]
async fn the_next_leader_takes_a_reservation_over() {
    let bed = Bed::new(100).await;
    let wanted = bed.wanted("uv-a", 100).await;
    reserve_and_die(&bed.allocator, &wanted).await;
    let next = Allocator::new(bed.embedded.client());
    assert!(matches!(
        next.create(&wanted).await.unwrap(),
        Granted::Written { existed: false, .. }
    ));
    next.recount("p").await.unwrap();
    assert_eq!((bed.promised().await, bed.held().await), (100, 100));
    let status = bed.allocator.pools.get("p").await.unwrap().status.unwrap();
    assert_eq!(status.reservations, []);
}

#[tokio::test]
async fn a_volume_that_the_api_refuses_costs_nothing() {
    let bed = Bed::new(100).await;
    let mut wrong = bed.wanted("uv-a", 40).await;
    wrong.metadata.labels = Some([("no label".to_owned(), "x".to_owned())].into());
    assert!(bed.allocator.create(&wrong).await.is_err());
    assert_eq!(bed.promised().await, 0);
}

#[tokio::test]
async fn what_is_retained_cannot_be_promised() {
    let bed = Bed::new(100).await;
    let status = json!({"status": {"retainedBytes": 70}});
    bed.allocator
        .pools
        .patch_status("p", &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
    let granted = bed.allocator.create(&volume("uv-a", 40)).await.unwrap();
    assert!(matches!(granted, Granted::Short(shortage) if shortage.free == 30));
    bed.allocator.create(&volume("uv-b", 30)).await.unwrap();
    assert_eq!(bed.promised().await, 30);
}

#[tokio::test]
async fn the_same_volume_again_costs_nothing() {
    let bed = Bed::new(100).await;
    for existed in [false, true, true] {
        let granted = bed.allocator.create(&volume("uv-a", 40)).await.unwrap();
        assert!(matches!(granted, Granted::Written { existed: was, .. } if was == existed));
        assert_eq!(bed.promised().await, 40);
    }
}

#[tokio::test]
async fn a_pool_that_is_being_deleted_promises_nothing_more() {
    let bed = Bed::new(100).await;
    bed.allocator.create(&volume("uv-a", 40)).await.unwrap();
    bed.allocator
        .pools
        .delete("p", &DeleteParams::default())
        .await
        .unwrap();
    let created = bed.allocator.create(&volume("uv-b", 10)).await;
    assert!(matches!(created, Err(Error::PoolGoes(pool)) if pool == "p"));
    let grown = bed.allocator.grow("uv-a", 2, 50).await;
    assert!(matches!(grown, Err(Error::PoolGoes(pool)) if pool == "p"));
    assert_eq!((bed.promised().await, bed.held().await), (40, 40));
    assert_eq!(bed.allocator.volumes_on("p").await.unwrap(), 1);
}
