//! What survives, and what the conformance list does not ask: our own promises beyond a real server's.

use k8s_openapi::api::core::v1::{ConfigMap, Event, Secret};
use kube::Resource;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind, ObjectMeta};
use kube::runtime::events::{EventType, Recorder, Reporter};
use serde_json::json;

use super::{Bed, Limits, Vessel, refused, vessel};

fn merge(patch: serde_json::Value) -> Patch<serde_json::Value> {
    Patch::Merge(patch)
}

fn rv(object: &impl Resource) -> u64 {
    object.meta().resource_version.as_ref().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_page_of_a_forgotten_snapshot_is_410() {
    let bed = Bed::with(Limits {
        changes: 3,
        ..Limits::default()
    })
    .await;
    for index in 0..5 {
        bed.create(&format!("v{index}")).await;
    }
    let page = bed.vessels().list(&ListParams::default().limit(2)).await.unwrap();
    let token = page.metadata.continue_.unwrap();
    for index in 5..12 {
        bed.create(&format!("v{index}")).await;
    }
    let next = ListParams::default().limit(2).continue_token(&token);
    let status = refused(bed.vessels().list(&next).await.map(|_| ()));
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    assert!(status.metadata.unwrap().continue_.is_some());
}

#[tokio::test]
async fn what_was_answered_is_there_after_reopening() {
    let bed = Bed::new().await;
    let writes = (0..100).map(|i| {
        let api = bed.vessels();
        async move {
            api.create(&PostParams::default(), &vessel(&format!("v{i}")))
                .await
                .unwrap()
        }
    });
    let made = futures::future::join_all(writes).await;
    bed.vessels()
        .delete("v7", &DeleteParams::default())
        .await
        .unwrap();
    let before = bed.vessels().list(&ListParams::default()).await.unwrap();
    let bed = bed.reopened().await;
    let after = bed.vessels().list(&ListParams::default()).await.unwrap();
    assert_eq!(after.items, before.items);
    assert_eq!(after.items.len(), 99);
    let next = bed.create("later").await;
    assert!(made.iter().all(|m| rv(m) < rv(&next)), "revisions go on");
}

#[tokio::test]
async fn reopening_with_nothing_changed_writes_nothing() {
    let bed = Bed::new().await;
    bed.create("a").await;
    let before = bed
        .vessels()
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version;
    let bed = bed.reopened().await;
    let after = bed
        .vessels()
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version;
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_second_process_is_kept_out_and_the_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let bed = Bed::new().await;
    let error = super::Embedded::open(&bed.file(), vec![]).await.unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    assert_eq!(
        std::fs::metadata(bed.file()).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[tokio::test]
async fn concurrent_patches_all_count() {
    let bed = Bed::new().await;
    bed.create("a").await;
    let patches = (0..40).map(|i| {
        let api = bed.vessels();
        async move {
            let patch = merge(json!({"metadata": {"annotations": {format!("n{i}"): "x"}}}));
            api.patch("a", &PatchParams::default(), &patch).await.unwrap()
        }
    });
    futures::future::join_all(patches).await;
    let end = bed.vessels().get("a").await.unwrap();
    assert_eq!(end.metadata.annotations.unwrap().len(), 40);
}

#[tokio::test]
async fn of_many_creators_of_one_name_one_wins() {
    let bed = Bed::new().await;
    let tries = (0..20).map(|_| {
        let api = bed.vessels();
        async move { api.create(&PostParams::default(), &vessel("one")).await.is_ok() }
    });
    let won = futures::future::join_all(tries)
        .await
        .into_iter()
        .filter(|won| *won)
        .count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn secrets_and_config_maps_behave() {
    let bed = Bed::new().await;
    let secrets: Api<Secret> = Api::default_namespaced(bed.client.clone());
    let given = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": "value"},
    });
    let made = secrets
        .create(&PostParams::default(), &serde_json::from_value(given).unwrap())
        .await
        .unwrap();
    assert_eq!(made.type_.as_deref(), Some("Opaque"));
    assert_eq!(made.data.unwrap()["key"].0, b"value");
    assert!(made.string_data.is_none() && made.metadata.generation.is_none());
    let strategic = Patch::Strategic(json!({"metadata": {"finalizers": ["a.b/c"]}}));
    let patched = secrets
        .patch("s", &PatchParams::default(), &strategic)
        .await
        .unwrap();
    assert_eq!(patched.metadata.finalizers.unwrap(), ["a.b/c"]);
    let maps: Api<ConfigMap> = Api::default_namespaced(bed.client.clone());
    let given = json!({"metadata": {"name": "m"}, "data": {"a": "1"}, "immutable": true});
    maps.create(&PostParams::default(), &serde_json::from_value(given).unwrap())
        .await
        .unwrap();
    let change = merge(json!({"data": {"a": "2"}}));
    assert_eq!(
        refused(maps.patch("m", &PatchParams::default(), &change).await).code,
        422
    );
}

#[tokio::test]
async fn events_of_the_recorder_are_found_as_core_events() {
    let bed = Bed::new().await;
    let made = bed.create("a").await;
    let reporter = Reporter {
        controller: "test".into(),
        instance: None,
    };
    let recorder = Recorder::new(bed.client.clone(), reporter);
    let event = kube::runtime::events::Event {
        type_: EventType::Normal,
        reason: "Launched".into(),
        note: Some("off it goes".into()),
        action: "Launch".into(),
        secondary: None,
    };
    recorder.publish(&event, &made.object_ref(&())).await.unwrap();
    recorder.publish(&event, &made.object_ref(&())).await.unwrap();
    let events: Api<Event> = Api::default_namespaced(bed.client.clone());
    let of_it = ListParams::default().fields("involvedObject.name=a,involvedObject.kind=Vessel");
    let found = events.list(&of_it).await.unwrap().items;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].message.as_deref(), Some("off it goes"));
    assert_eq!(found[0].reason.as_deref(), Some("Launched"));
}

#[tokio::test]
async fn dynamic_objects_and_definitions_are_served() {
    let bed = Bed::new().await;
    bed.create("a").await;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("test.example.io", "v1", "Vessel"));
    let api: Api<DynamicObject> = Api::default_namespaced_with(bed.client.clone(), &kind);
    assert_eq!(api.get("a").await.unwrap().data["spec"]["cargo"], json!("tea"));
    let discovery = kube::discovery::Discovery::new(bed.client.clone())
        .run()
        .await
        .unwrap();
    let group = discovery.get("test.example.io").unwrap();
    assert_eq!(group.recommended_kind("Vessel").unwrap().0.plural, "vessels");
    let crds: Api<
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    > = Api::all(bed.client.clone());
    let crd = crds.get("vessels.test.example.io").await.unwrap();
    assert!(
        crd.status
            .unwrap()
            .conditions
            .unwrap()
            .iter()
            .any(|c| c.type_ == "Established")
    );
    let status = refused(
        crds.delete("vessels.test.example.io", &DeleteParams::default())
            .await
            .map(|_| ()),
    );
    assert_eq!(status.code, 405);
    let metadata = api.get_metadata("a").await.unwrap();
    assert_eq!(metadata.metadata.name.as_deref(), Some("a"));
}

#[tokio::test]
async fn what_the_last_owner_leaves_goes_with_it() {
    let bed = Bed::new().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(bed.client.clone());
    let owned = async |name: &str, owners: &[&Vessel]| {
        let owners = owners.iter().map(|o| o.owner_ref(&()).unwrap()).collect();
        let metadata = ObjectMeta {
            name: Some(name.into()),
            owner_references: Some(owners),
            ..ObjectMeta::default()
        };
        maps.create(
            &PostParams::default(),
            &ConfigMap {
                metadata,
                ..ConfigMap::default()
            },
        )
        .await
        .unwrap()
    };
    let (a, b) = (bed.create("a").await, bed.create("b").await);
    owned("of-a", &[&a]).await;
    owned("of-both", &[&a, &b]).await;
    let chained = bed.create("c").await;
    let hold = json!({"metadata": {"ownerReferences": [a.owner_ref(&()).unwrap()]}});
    bed.vessels()
        .patch("c", &PatchParams::default(), &merge(hold))
        .await
        .unwrap();
    owned("of-c", &[&chained]).await;
    bed.vessels()
        .delete("a", &DeleteParams::background())
        .await
        .unwrap();
    let left = maps.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].metadata.name.as_deref(), Some("of-both"));
    assert!(bed.vessels().get_opt("c").await.unwrap().is_none());
    bed.vessels().delete("b", &DeleteParams::orphan()).await.unwrap();
    assert!(maps.get_opt("of-both").await.unwrap().is_some());
}
