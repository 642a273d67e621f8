//! The planner over objects as they are in the API.

use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::*;
use crate::reconcile::bed::{Bed, SLOT};

fn planner(bed: &Bed) -> Planner {
    Planner::new(bed.context.stores.clone(), Arc::clone(&bed.context.registry))
}

fn asks(capacity: &str, kind: &str) -> UnifiedStorageClaimSpec {
    serde_json::from_value(json!({"storageType": kind, "capacity": capacity})).unwrap()
}

async fn promise(bed: &Bed, status: serde_json::Value) {
    let patch = json!({"status": status});
    bed.pools()
        .patch_status("p", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    let version = bed.pools().get("p").await.unwrap().metadata.resource_version;
    bed.until("the store has it", async || {
        let pools = bed.context.stores.pools.state();
        pools.iter().all(|pool| pool.metadata.resource_version == version)
    })
    .await;
}

#[tokio::test]
async fn a_claim_is_placed_where_there_is_room_and_told_with_numbers_where_there_is_none() {
    let bed = Bed::new(4).await;
    let planner = planner(&bed);
    let placed = planner.place(&asks("4Mi", "file"), "").unwrap();
    assert_eq!((placed.pool.as_str(), placed.cost.bytes), ("p", SLOT));
    let refused = planner.place(&asks("1Gi", "file"), "").unwrap_err();
    let line = refused[0].line();
    assert!(
        line.starts_with("pool p: needs 1.4 GB") && line.contains("134 MB of 134 MB are free"),
        "{line}"
    );
    let refused = planner.place(&asks("4Mi", "block"), "").unwrap_err();
    assert!(refused[0].line().contains("no UnifiedPool of type block exists"));
    assert!(
        planner.place(&asks("lots", "file"), "").unwrap_err()[0]
            .line()
            .contains("spec.capacity")
    );
}

#[tokio::test]
async fn what_is_reserved_for_a_volume_is_not_in_its_own_way_and_what_is_retained_is_in_everybodys() {
    let bed = Bed::new(4).await;
    let claim = json!({"namespace": "default", "name": "c", "uid": "u"});
    let reservation = json!({"volume": "uv-1", "bytes": 4 * SLOT, "by": "another", "claim": claim});
    promise(
        &bed,
        json!({"promisedBytes": 4 * SLOT, "reservations": [reservation]}),
    )
    .await;
    let planner = planner(&bed);
    assert!(planner.place(&asks("4Mi", "file"), "uv-2").is_err());
    assert!(planner.place(&asks("4Mi", "file"), "uv-1").is_ok());
    promise(
        &bed,
        json!({"promisedBytes": 0, "reservations": null, "retainedBytes": 3 * SLOT}),
    )
    .await;
    assert!(planner.place(&asks("4Mi", "file"), "").is_ok());
    assert!(planner.place(&asks("40Mi", "file"), "").is_err());
}

#[tokio::test]
async fn nothing_is_placed_on_a_member_that_stopped_serving_a_moment_ago() {
    let bed = Bed::new(4).await;
    let members = kube::Api::<PoolMember>::all(bed.context.client.clone());
    let patch = json!({"status": {"phase": "Missing"}});
    members
        .patch_status("pm-loop-d", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    bed.until("the store has it", async || {
        let members = bed.context.stores.members.state();
        members.iter().all(|member| {
            member
                .status
                .as_ref()
                .is_some_and(|s| s.phase == MemberPhase::Missing)
        })
    })
    .await;
    // The pool's own status does not know of it yet.
    let refused = planner(&bed).place(&asks("4Mi", "file"), "").unwrap_err();
    assert!(
        refused[0].line().contains("none of its members is online"),
        "{}",
        refused[0].line()
    );
}
