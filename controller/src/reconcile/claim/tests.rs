//! Claims and the line in which they wait, in one process with the API.

use kube::{
    ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::*;
use crate::{crd::condition, reconcile::bed::Bed};

const ROOM: usize = 12;
const ASKED: usize = 80;

fn phase(claim: &UnifiedStorageClaim) -> ClaimPhase {
    claim
        .status
        .as_ref()
        .map(|status| status.phase)
        .unwrap_or_default()
}

/// Changes what a claim says.
async fn say(bed: &Bed, claim: &str, what: &Value) {
    bed.claims()
        .patch_status(claim, &PatchParams::default(), &Patch::Merge(what))
        .await
        .unwrap();
}

fn reason(claim: &UnifiedStorageClaim) -> (String, String) {
    let status = claim.status.clone().unwrap_or_default();
    let placed = condition::get(&status.conditions, "Placed").cloned();
    placed
        .map(|placed| (placed.reason, placed.message))
        .unwrap_or_default()
}

/// Those that have a volume, and those that wait and say with numbers what for.
fn sides(claims: &[UnifiedStorageClaim]) -> (Vec<&UnifiedStorageClaim>, usize) {
    let bound = claims
        .iter()
        .filter(|claim| phase(claim) == ClaimPhase::Provisioning);
    let waits = |claim: &&UnifiedStorageClaim| {
        let (reason, words) = reason(claim);
        phase(claim) == ClaimPhase::Pending && reason == "NoPlace" && words.contains("0 B of ")
    };
    (bound.collect(), claims.iter().filter(waits).count())
}

async fn settled(bed: &Bed, bound: usize, waiting: usize) -> Vec<UnifiedStorageClaim> {
    bed.until(&format!("{bound} have room and {waiting} wait"), async || {
        let claims = bed.all_claims().await;
        let (has, waits) = sides(&claims);
        (has.len(), waits) == (bound, waiting)
    })
    .await;
    bed.until("what was reserved is written", async || {
        let status = bed.pools().get("p").await.unwrap().status.unwrap();
        status.reservations.is_empty()
    })
    .await;
    bed.all_claims().await
}

#[tokio::test(flavor = "multi_thread")]
async fn room_wakes_as_many_as_it_is_enough_for_and_writes_for_nobody_else() {
    let bed = Bed::new(ROOM as u64).await;
    bed.start();
    let before = bed.writes().await;
    let asked = (0..ASKED).map(|n| {
        let (bed, name) = (&bed, format!("c-{n}"));
        async move { bed.claim(&name, None).await }
    });
    futures::future::join_all(asked).await;
    let claims = settled(&bed, ROOM, ASKED - ROOM).await;
    let writes = bed.writes().await - before;
    // Object, status and event of each; for each that has room the promise, the volume and the event of placing.
    let (all, placed) = (ASKED as u64, ROOM as u64);
    assert!(
        writes <= 3 * all + 6 * placed + 30,
        "{writes} writes for {all} claims"
    );

    let before = bed.writes().await;
    let (bound, _) = sides(&claims);
    for claim in bound.iter().take(3) {
        bed.take_back(claim).await;
    }
    let after = settled(&bed, ROOM, ASKED - ROOM - 3).await;
    let writes = bed.writes().await - before;
    assert!(
        writes <= 3 * 12 + 15,
        "{writes} writes for three that went and three that came"
    );
    let kept = bound.iter().skip(3);
    let still = |claim: &UnifiedStorageClaim| {
        after
            .iter()
            .any(|now| now.uid() == claim.uid() && phase(now) == ClaimPhase::Provisioning)
    };
    assert!(
        kept.into_iter().all(|claim| still(claim)),
        "who has room keeps it"
    );
    let status = bed.pools().get("p").await.unwrap().status.unwrap();
    assert_eq!(status.promised_bytes, status.total_capacity_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_another_claim_has_is_free_once_that_is_gone() {
    let bed = Bed::new(4).await;
    bed.start();
    let first = bed.claim("first", Some("uv-wanted")).await;
    bed.until("the first has it", async || {
        let claim = bed.claims().get("first").await.unwrap();
        phase(&claim) == ClaimPhase::Provisioning
    })
    .await;
    bed.claim("second", Some("uv-wanted")).await;
    bed.until("the second is refused", async || {
        let claim = bed.claims().get("second").await.unwrap();
        phase(&claim) == ClaimPhase::Failed && reason(&claim).0 == "VolumeTaken"
    })
    .await;
    let volume = bed.volumes().get("uv-wanted").await.unwrap();
    assert_eq!(Some(volume.spec.claim_ref.uid), first.uid());
    bed.take_back(&bed.claims().get("first").await.unwrap()).await;
    bed.until("the second has it", async || {
        let claim = bed.claims().get("second").await.unwrap();
        phase(&claim) == ClaimPhase::Provisioning
    })
    .await;
    let second = bed.claims().get("second").await.unwrap();
    let volume = bed.volumes().get("uv-wanted").await.unwrap();
    assert_eq!(Some(volume.spec.claim_ref.uid), second.uid());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_has_a_volume_never_gets_a_second_one() {
    let bed = Bed::new(4).await;
    bed.claim("c", Some("uv-other")).await;
    say(
        &bed,
        "c",
        &json!({"status": {"phase": "Ready", "volumeName": "uv-first"}}),
    )
    .await;
    bed.start();
    bed.until("it is refused", async || {
        let claim = bed.claims().get("c").await.unwrap();
        let (reason, words) = reason(&claim);
        reason == "VolumeNameWrong" && words.contains("uv-first")
    })
    .await;
    let claim = bed.claims().get("c").await.unwrap();
    assert_eq!(claim.status.unwrap().volume_name.as_deref(), Some("uv-first"));
    assert!(bed.volumes().get_opt("uv-other").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_pool_goes_does_not_grow_and_its_claim_says_both_and_all_else_that_is_new() {
    let bed = Bed::new(40).await;
    bed.start();
    bed.claim("c", None).await;
    bed.until("it has a volume", async || {
        phase(&bed.claims().get("c").await.unwrap()) == ClaimPhase::Provisioning
    })
    .await;
    let keep = json!({"metadata": {"finalizers": [crate::crd::FINALIZER]}});
    bed.pools()
        .patch("p", &PatchParams::default(), &Patch::Merge(&keep))
        .await
        .unwrap();
    bed.pools().delete("p", &DeleteParams::default()).await.unwrap();
    let more = json!({"spec": {"capacity": "64Mi"}});
    bed.claims()
        .patch("c", &PatchParams::default(), &Patch::Merge(&more))
        .await
        .unwrap();
    let expanded = async || {
        let status = bed.claims().get("c").await.unwrap().status.unwrap();
        condition::get(&status.conditions, "Expanded").cloned()
    };
    bed.until("its growth is refused", async || {
        expanded().await.is_some_and(|said| {
            said.reason == "PoolDeleting" && said.message.contains("pool p is being deleted")
        })
    })
    .await;
    let claim = bed.claims().get("c").await.unwrap();
    let name = claim.status.unwrap().volume_name.unwrap();
    assert_eq!(
        bed.volumes().get(&name).await.unwrap().spec.capacity_bytes,
        4 << 20
    );
    let ready = json!({"status": {"phase": "Ready", "conditions": [{
        "type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]}});
    bed.volumes()
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(&ready))
        .await
        .unwrap();
    bed.until("its volume's state is told", async || {
        phase(&bed.claims().get("c").await.unwrap()) == ClaimPhase::Ready
    })
    .await;
    assert!(expanded().await.is_some_and(|said| said.reason == "PoolDeleting"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_claim_says_is_corrected_by_whoever_saw_it_before_it_said_so() {
    let bed = Bed::new(4).await;
    bed.claim("c", None).await;
    let look = async |claim: &UnifiedStorageClaim| {
        let looked = reconcile(Arc::new(claim.clone()), Arc::clone(&bed.context)).await;
        looked.unwrap();
        bed.claims().get("c").await.unwrap()
    };
    let right = look(&bed.claims().get("c").await.unwrap()).await;
    assert_eq!(phase(&right), ClaimPhase::Provisioning);
    say(&bed, "c", &json!({"status": {"phase": "Failed"}})).await;
    // As its watch may still show it.
    assert_eq!(look(&right).await.status, right.status);
}
