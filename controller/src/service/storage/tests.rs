use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use kube::api::DeleteParams;
use serde_json::json;

use super::*;
use crate::crd::{LABEL_ID, class::ReclaimPolicy};
use crate::service::{
    CreateDraft,
    bed::{Bed, until},
};

fn grow(bytes: u64) -> ExpandStorage {
    ExpandStorage {
        capacity_bytes: bytes,
    }
}

const GIB: u64 = 1 << 30;

#[tokio::test]
async fn creating_the_claim_is_the_acknowledgement() {
    let bed = Bed::new().await;
    let body = json!({"name": "my-volume", "storage_type": "block", "capacity_bytes": 107_374_182_400_u64,
                      "tier": "hot", "labels": {"app": "x"}});
    let created = bed
        .service
        .create_storage(&Bed::parsed(body), None)
        .await
        .unwrap();
    assert!(created.new);
    let storage = created.storage;
    assert!(
        storage.id.starts_with("uv-") && storage.id.len() == 39,
        "{}",
        storage.id
    );
    let claim = bed.claims().get("my-volume").await.unwrap();
    assert_eq!(claim.spec.volume_name.as_ref(), Some(&storage.id));
    assert_eq!(claim.labels()[LABEL_ID], storage.id);
    assert_eq!(claim.spec.capacity, "107374182400");
    assert_eq!(
        (storage.phase, storage.capacity_bytes),
        (ClaimPhase::Pending, 107_374_182_400)
    );
    assert_eq!(bed.service.get_storage(&storage.id).await.unwrap(), storage);
    bed.close().await;
}

#[tokio::test]
async fn the_same_request_again_is_the_same_object_and_another_one_a_conflict() {
    let bed = Bed::new().await;
    let request = Bed::parsed(Bed::request("a"));
    let outcomes = join_all((0..16).map(|_| bed.service.create_storage(&request, None))).await;
    let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    assert_eq!(outcomes.iter().filter(|o| o.new).count(), 1);
    assert_eq!(
        outcomes
            .iter()
            .map(|o| &o.storage.id)
            .collect::<BTreeSet<_>>()
            .len(),
        1
    );

    let id = &outcomes[0].storage.id;
    bed.service.expand_storage(id, grow(2 * GIB)).await.unwrap();
    let again = bed.service.create_storage(&request, None).await.unwrap();
    assert_eq!(
        (again.new, &again.storage.id, again.storage.capacity_bytes),
        (false, id, 2 * GIB)
    );

    let mut other = Bed::request("a");
    other["tier"] = json!("cold");
    let error = bed
        .service
        .create_storage(&Bed::parsed(other), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    bed.close().await;
}

#[tokio::test]
async fn a_claim_of_kubectl_is_the_same_request_when_it_says_the_same() {
    let bed = Bed::new().await;
    let claim = json!({"apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedStorageClaim",
                       "metadata": {"name": "k"}, "spec": {"storageType": "file", "capacity": "1Gi"}});
    let claim: UnifiedStorageClaim = bed.made(bed.claims(), claim).await;
    let id = format!("uv-{}", claim.uid().unwrap());
    let again = bed
        .service
        .create_storage(&Bed::parsed(Bed::request("k")), None)
        .await
        .unwrap();
    assert_eq!((again.new, &again.storage.id), (false, &id));
    assert_eq!(bed.service.get_storage(&id).await.unwrap().name, "k");

    bed.volume(&claim, "custom", "Delete").await;
    bed.status(
        bed.claims(),
        "k",
        json!({"phase": "Ready", "volumeName": "custom"}),
    )
    .await;
    assert_eq!(bed.service.get_storage("custom").await.unwrap().id, "custom");
    assert_eq!(bed.service.get_storage(&id).await.unwrap().id, "custom");
    bed.close().await;
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_named() {
    let bed = Bed::new().await;
    let mut body = Bed::request("a");
    body["namespace"] = json!("nowhere");
    let request = Bed::parsed(body);
    for error in [
        bed.service.create_storage(&request, None).await.unwrap_err(),
        bed.service.dry_run_storage(&request).await.unwrap_err(),
    ] {
        assert_eq!(
            (error.kind, error.errors[0].field.as_str()),
            (ErrorKind::Invalid, "namespace")
        );
    }
    bed.close().await;
}

#[tokio::test]
async fn a_dry_run_makes_nothing() {
    let bed = Bed::new().await;
    let request = Bed::parsed(Bed::request("a"));
    let answer = bed.service.dry_run_storage(&request).await.unwrap();
    assert_eq!(
        (answer.placed, answer.placement.unwrap().pool),
        (true, "p".to_owned())
    );
    *bed.neighbours.refusals.lock().unwrap() = vec!["sda: in use".to_owned()];
    let answer = bed.service.dry_run_storage(&request).await.unwrap();
    assert_eq!(
        (answer.placed, answer.reasons),
        (false, vec!["sda: in use".to_owned()])
    );
    assert!(bed.claims().get_opt("a").await.unwrap().is_none());
    bed.close().await;
}

#[tokio::test]
async fn waiting_ends_when_it_is_ready_or_the_time_is_up() {
    let bed = Bed::new().await;
    let request = Bed::parsed(Bed::request("slow"));
    let early = bed
        .service
        .create_storage(&request, Some(Duration::from_millis(50)))
        .await
        .unwrap();
    assert_eq!((early.new, early.storage.phase), (true, ClaimPhase::Pending));

    let waiting = bed
        .service
        .create_storage(&request, Some(Duration::from_secs(60)));
    let reconciling = async {
        bed.status(bed.claims(), "slow", json!({"phase": "Provisioning"}))
            .await;
        bed.status(bed.claims(), "slow", json!({"phase": "Ready", "pool": "p"}))
            .await;
    };
    let (waited, ()) = tokio::join!(waiting, reconciling);
    let waited = waited.unwrap();
    assert_eq!((waited.new, waited.storage.phase), (false, ClaimPhase::Ready));
    assert_eq!(waited.storage.id, early.storage.id);
    bed.close().await;
}

#[tokio::test]
async fn parts_of_a_filtered_list_have_everything_once() {
    let bed = Bed::new().await;
    let mut wanted = BTreeSet::new();
    for n in 0..23 {
        let mut body = Bed::request(&format!("c{n:02}"));
        if n % 3 == 0 {
            wanted.insert(format!("c{n:02}"));
        } else {
            body["storage_type"] = json!("object");
        }
        body["labels"] = json!({"n": (n % 2).to_string()});
        bed.service
            .create_storage(&Bed::parsed(body), None)
            .await
            .unwrap();
    }
    let filter = StorageFilter::parse(None, Some("file"), None, &[]).unwrap();
    for limit in [1, 2, 3, 8, 100] {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let page = PageRequest::new(Some(limit), Some(token)).unwrap();
            let page = bed.service.list_storage(&filter, &page).await.unwrap();
            assert!(page.items.len() <= limit as usize);
            seen.extend(page.items.into_iter().map(|s| s.name));
            token = page.continue_;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(seen.len(), wanted.len(), "limit {limit}");
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), wanted, "limit {limit}");
    }
    let count = async |filter: StorageFilter| {
        bed.service
            .list_storage(&filter, &PageRequest::default())
            .await
            .unwrap()
            .items
            .len()
    };
    assert_eq!(
        count(StorageFilter::parse(None, None, None, &["n=1".to_owned()]).unwrap()).await,
        11
    );
    assert_eq!(
        count(StorageFilter::parse(Some("other".to_owned()), None, None, &[]).unwrap()).await,
        0
    );
    assert_eq!(
        count(StorageFilter::parse(None, None, Some("Ready"), &[]).unwrap()).await,
        0
    );
    let endless = PageRequest::new(None, Some("eyJ2I\u{fffd}".repeat(1000))).unwrap_err();
    assert_eq!(endless.errors[0].field, "continue");
    let many: Vec<String> = (0..65).map(|n| format!("k{n}=v")).collect();
    let many = StorageFilter::parse(None, None, None, &many).unwrap_err();
    assert_eq!(many.errors[0].field, "label");
    let rubbish = PageRequest::new(None, Some("rubbish".to_owned())).unwrap();
    let error = bed.service.list_storage(&filter, &rubbish).await.unwrap_err();
    assert_eq!(
        (error.kind, error.errors[0].field.as_str()),
        (ErrorKind::Invalid, "continue")
    );
    bed.close().await;
}

#[tokio::test]
async fn storage_grows_where_its_class_lets_it_and_never_shrinks() {
    let bed = Bed::new().await;
    let class = |name: &str, grows: bool| {
        json!({"apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedStorageClass", "metadata": {"name": name},
               "spec": {"storageType": "file", "tier": "warm", "reclaimPolicy": "Retain",
                        "capacity": {"allowExpansion": grows}}})
    };
    bed.made(bed.service.classes(), class("fixed", false)).await;
    let free = bed.create("free").await;
    assert_eq!(
        bed.service
            .expand_storage(&free.id, grow(GIB))
            .await
            .unwrap()
            .capacity_bytes,
        GIB
    );
    assert_eq!(
        bed.service
            .expand_storage(&free.id, grow(3 * GIB))
            .await
            .unwrap()
            .capacity_bytes,
        3 * GIB
    );
    assert_eq!(
        bed.claims().get("free").await.unwrap().spec.capacity,
        (3 * GIB).to_string()
    );
    let error = bed.service.expand_storage(&free.id, grow(GIB)).await.unwrap_err();
    assert_eq!(
        (error.kind, error.errors[0].field.as_str()),
        (ErrorKind::Invalid, "capacity_bytes")
    );

    let mut body = Bed::request("held");
    body["class"] = json!("fixed");
    let held = bed
        .service
        .create_storage(&Bed::parsed(body), None)
        .await
        .unwrap()
        .storage;
    assert_eq!(
        (held.tier, held.reclaim_policy),
        (crd_tier("warm"), ReclaimPolicy::Retain)
    );
    let error = bed
        .service
        .expand_storage(&held.id, grow(2 * GIB))
        .await
        .unwrap_err();
    assert_eq!((error.kind, error.reasons.len()), (ErrorKind::Refused, 1));
    let error = bed
        .service
        .expand_storage("uv-nothing", grow(2 * GIB))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    bed.close().await;
}

fn crd_tier(word: &str) -> crate::crd::class::ServiceTier {
    serde_json::from_value(json!(word)).unwrap()
}

#[tokio::test]
async fn deleting_is_under_way_until_the_bytes_are_gone() {
    let bed = Bed::new().await;
    let storage = bed.create("a").await;
    let claim = bed.claims().get("a").await.unwrap();
    bed.volume(&claim, &storage.id, "Delete").await;
    assert_eq!(
        bed.service
            .get_storage(&storage.id)
            .await
            .unwrap()
            .placement_reasons,
        ["the only pool of this type"]
    );
    for _ in 0..2 {
        let Deletion::Going(going) = bed.service.delete_storage(&storage.id).await.unwrap() else {
            panic!("gone too early")
        };
        assert_eq!((going.phase, &going.id), (ClaimPhase::Deleting, &storage.id));
    }
    assert!(bed.claims().get_opt("a").await.unwrap().is_none());
    let leaving = bed.service.get_storage(&storage.id).await.unwrap();
    assert_eq!(
        (leaving.phase, leaving.name.as_str()),
        (ClaimPhase::Deleting, "a")
    );
    let error = bed
        .service
        .expand_storage(&storage.id, grow(2 * GIB))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotReady);
    // The name is free again at once, and what is made under it is another storage.
    assert_ne!(bed.create("a").await.id, storage.id);

    bed.service
        .volumes()
        .delete(&storage.id, &DeleteParams::default())
        .await
        .unwrap();
    assert!(matches!(
        bed.service.delete_storage(&storage.id).await.unwrap(),
        Deletion::Gone(_)
    ));
    assert_eq!(
        bed.service.get_storage(&storage.id).await.unwrap_err().kind,
        ErrorKind::NotFound
    );
    bed.close().await;
}

#[tokio::test]
async fn what_is_retained_is_gone_as_storage() {
    let bed = Bed::new().await;
    let storage = bed.create("a").await;
    let claim = bed.claims().get("a").await.unwrap();
    bed.volume(&claim, &storage.id, "Retain").await;
    assert!(matches!(
        bed.service.delete_storage(&storage.id).await.unwrap(),
        Deletion::Going(_)
    ));
    let Deletion::Gone(detail) = bed.service.delete_storage(&storage.id).await.unwrap() else {
        panic!()
    };
    assert!(detail.contains("retained"), "{detail}");
    bed.close().await;
}

#[tokio::test]
async fn an_id_cannot_be_taken_over_by_a_label() {
    let bed = Bed::new().await;
    let storage = bed.create("mine").await;
    let claim = bed.claims().get("mine").await.unwrap();
    bed.volume(&claim, &storage.id, "Delete").await;
    let forged = json!({"apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedStorageClaim",
        "metadata": {"name": "forged", "labels": {LABEL_ID: storage.id}},
        "spec": {"storageType": "file", "capacity": "1Gi", "volumeName": storage.id}});
    let forged: UnifiedStorageClaim = bed.made(bed.claims(), forged).await;
    assert_eq!(forged.labels()[LABEL_ID], storage.id);
    assert_eq!(bed.service.get_storage(&storage.id).await.unwrap().name, "mine");
    bed.close().await;
}

#[tokio::test]
async fn credentials_are_renewed_once_there_are_any() {
    let bed = Bed::new().await;
    let storage = bed.create("a").await;
    let error = bed.service.rotate_credentials(&storage.id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotReady);
    let claim = bed.claims().get("a").await.unwrap();
    bed.volume(&claim, &storage.id, "Delete").await;
    let new = bed.service.rotate_credentials(&storage.id).await.unwrap();
    assert_eq!((new.secret_key.as_str(), &new.bucket), ("SK", &storage.id));
    assert_eq!(new.filer_token.as_deref(), Some("FT"));
    assert!(!format!("{new:?}").contains("SK") && !format!("{new:?}").contains("FT"));
    type Fails = fn(String) -> RotateError;
    let expected: [(Fails, ErrorKind); 3] = [
        (RotateError::NotSupported, ErrorKind::Refused),
        (RotateError::NotReady, ErrorKind::NotReady),
        (RotateError::Unavailable, ErrorKind::Unavailable),
    ];
    for (fails, kind) in expected {
        *bed.neighbours.rotate_fails.lock().unwrap() = Some(fails);
        let error = bed.service.rotate_credentials(&storage.id).await.unwrap_err();
        assert_eq!(
            (error.kind, error.reasons),
            (kind, vec!["the filer does not answer".to_owned()])
        );
    }
    bed.close().await;
}

#[tokio::test]
async fn nodes_are_found_by_the_nodes_name() {
    let bed = Bed::new().await;
    bed.node("object-a", "worker-1").await;
    bed.node("worker-2", "worker-2").await;
    assert_eq!(
        bed.service.get_node("worker-1").await.unwrap().drives[0].id,
        "loop-worker-1"
    );
    assert_eq!(bed.service.get_node("worker-2").await.unwrap().name, "worker-2");
    for nobody in ["object-a", "../nodes", "", "A"] {
        assert_eq!(
            bed.service.get_node(nobody).await.unwrap_err().kind,
            ErrorKind::NotFound,
            "{nobody}"
        );
    }
    assert_eq!(
        bed.service
            .list_nodes(&PageRequest::default())
            .await
            .unwrap()
            .items
            .len(),
        2
    );
    assert!(bed.service.classify_node("worker-1").await.unwrap().drives[0].claimable);
    *bed.neighbours.away.lock().unwrap() = Some("no stream since 12:00".to_owned());
    let error = bed.service.classify_node("worker-1").await.unwrap_err();
    assert_eq!(
        (error.kind, error.reasons[0].as_str()),
        (ErrorKind::Unavailable, "no stream since 12:00")
    );
    assert!(error.retry_after.is_some());
    assert_eq!(
        bed.service.classify_node("nobody").await.unwrap_err().kind,
        ErrorKind::NotFound
    );
    assert_eq!(bed.service.capacity().await.unwrap().by_node.len(), 2);
    bed.close().await;
}

#[tokio::test]
async fn pools_show_their_own_members() {
    let bed = Bed::new().await;
    for name in ["p", "q"] {
        let pool = json!({"apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedPool", "metadata": {"name": name},
                          "spec": {"poolType": "file", "backend": {"type": "seaweedfs"}}});
        bed.made(bed.service.pools(), pool).await;
    }
    let member = json!({"apiVersion": "storage.billyronks.io/v1", "kind": "PoolMember", "metadata": {"name": "pm-d"},
        "spec": {"pool": "p", "driveId": "d", "memberId": "c0a9d8f6-5b1e-4d57-9c1a-53e27b0f6a11", "nodeName": "n",
                 "driveBytes": 7}});
    bed.made(bed.service.members(), member).await;
    let pool = bed.service.get_pool("p").await.unwrap();
    assert_eq!(
        (pool.members[0].drive.as_str(), pool.members[0].capacity_bytes),
        ("d", 7)
    );
    let pools = bed
        .service
        .list_pools(&PageRequest::default())
        .await
        .unwrap()
        .items;
    assert_eq!(pools.iter().map(|p| p.members.len()).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(
        bed.service.get_pool("r").await.unwrap_err().kind,
        ErrorKind::NotFound
    );
    bed.close().await;
}

#[tokio::test]
async fn a_watch_tells_what_is_there_and_then_what_happens_and_goes_on_after_a_break() {
    use crate::service::watch::EventKind;

    let bed = Bed::new().await;
    bed.create("first").await;
    let mut events = bed.service.watch_storage(Some("default"), "").unwrap();
    let first = events.next().await.unwrap().unwrap();
    assert_eq!(
        (first.kind, first.item.unwrap().name.as_str()),
        (EventKind::Added, "first")
    );
    let told = events.next().await.unwrap().unwrap();
    assert_eq!(told.kind, EventKind::Bookmark);
    bed.create("second").await;
    let second = events.next().await.unwrap().unwrap();
    assert_eq!(
        (second.kind, second.item.unwrap().name.as_str()),
        (EventKind::Added, "second")
    );
    drop(events);

    bed.status(bed.claims(), "second", json!({"phase": "Ready"}))
        .await;
    bed.claims()
        .delete("first", &DeleteParams::default())
        .await
        .unwrap();
    let mut events = bed.service.watch_storage(None, &second.resume_token).unwrap();
    let changed = events.next().await.unwrap().unwrap();
    assert_eq!(
        (changed.kind, changed.item.unwrap().phase),
        (EventKind::Modified, ClaimPhase::Ready)
    );
    let gone = events.next().await.unwrap().unwrap();
    assert_eq!(
        (gone.kind, gone.item.unwrap().name.as_str()),
        (EventKind::Deleted, "first")
    );
    bed.service.shutdown().cancel();
    assert_eq!(
        events.next().await.unwrap().unwrap_err().kind,
        ErrorKind::Unavailable
    );
    assert!(events.next().await.is_none());
    assert!(bed.service.watch_nodes("not-a-number").is_err());
    bed.close().await;
}

#[tokio::test]
async fn a_waiting_caller_leaves_when_the_server_goes_down() {
    let bed = Bed::new().await;
    let request = Bed::parsed(Bed::request("a"));
    let waiting = bed
        .service
        .create_storage(&request, Some(Duration::from_secs(60)));
    let stopping = async {
        until("the claim", async || bed.claims().get_opt("a").await.unwrap()).await;
        bed.service.shutdown().cancel();
    };
    let (waited, ()) = tokio::join!(waiting, stopping);
    assert_eq!(waited.unwrap().storage.phase, ClaimPhase::Pending);
    bed.close().await;
}

#[test]
fn labels_of_the_request_have_to_be_there_to_be_a_repeat() {
    let request = CreateDraft {
        name: Some("a".to_owned()),
        storage_type: Some("file".to_owned()),
        capacity_bytes: Some(1024),
        labels: BTreeMap::from([("app".to_owned(), "x".to_owned())]),
        ..CreateDraft::default()
    }
    .parse()
    .unwrap();
    let mut claim = request.claim("uv-x");
    assert!(is_repeat(&request, &claim));
    claim.metadata.annotations = None;
    assert!(is_repeat(&request, &claim));
    claim.spec.capacity = "1Ki".to_owned();
    assert!(is_repeat(&request, &claim));
    claim.metadata.labels = None;
    assert!(!is_repeat(&request, &claim));
}
