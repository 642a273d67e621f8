//! Create, read, replace, patch, delete, page; and what survives.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Secret};
use kube::Resource;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use kube::core::{ApiResource, GroupVersionKind, ObjectMeta};
use kube::runtime::events::{EventType, Recorder, Reporter};
use serde_json::json;

use super::{Bed, Flag, Limits, Vessel, VesselStatus, refused, vessel};

fn merge(patch: serde_json::Value) -> Patch<serde_json::Value> {
    Patch::Merge(patch)
}

fn rv(object: &impl Resource) -> u64 {
    object.meta().resource_version.as_ref().unwrap().parse().unwrap()
}

#[tokio::test]
async fn creating_sets_what_the_server_owns() {
    let bed = Bed::new().await;
    let mut given = vessel("tea-clipper");
    given.status = Some(VesselStatus {
        phase: Some("Lying".into()),
        conditions: vec![],
    });
    let made = bed
        .vessels()
        .create(&PostParams::default(), &given)
        .await
        .unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(made.metadata.namespace.as_deref(), Some("default"));
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    assert!(made.status.is_none(), "status is not taken at creation");
    assert_eq!(made.spec.flag, Flag::Red);
    let again = refused(
        bed.vessels()
            .create(&PostParams::default(), &vessel("tea-clipper"))
            .await,
    );
    assert_eq!((again.code, again.reason.as_str()), (409, "AlreadyExists"));
    assert_eq!(
        again.message,
        "vessels.test.example.io \"tea-clipper\" already exists"
    );
}

#[tokio::test]
async fn generated_names_are_unique_and_dry_runs_leave_nothing() {
    let bed = Bed::new().await;
    let mut given = vessel("x");
    given.metadata = ObjectMeta {
        generate_name: Some("boat-".into()),
        ..ObjectMeta::default()
    };
    let first = bed
        .vessels()
        .create(&PostParams::default(), &given)
        .await
        .unwrap();
    let second = bed
        .vessels()
        .create(&PostParams::default(), &given)
        .await
        .unwrap();
    assert_ne!(first.metadata.name, second.metadata.name);
    assert!(first.metadata.name.unwrap().starts_with("boat-"));
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    bed.vessels().create(&dry, &vessel("ghost")).await.unwrap();
    assert!(bed.vessels().get_opt("ghost").await.unwrap().is_none());
}

#[tokio::test]
async fn a_missing_namespace_or_object_is_404() {
    let bed = Bed::new().await;
    let elsewhere: Api<Vessel> = Api::namespaced(bed.client.clone(), "nowhere");
    let status = refused(elsewhere.create(&PostParams::default(), &vessel("a")).await);
    assert_eq!(
        (status.code, status.message.as_str()),
        (404, "namespaces \"nowhere\" not found")
    );
    let status = refused(bed.vessels().get("a").await);
    assert_eq!(status.message, "vessels.test.example.io \"a\" not found");
    assert_eq!(status.details.unwrap().kind, "vessels");
}

#[tokio::test]
async fn a_stale_replacement_conflicts_and_an_equal_one_writes_nothing() {
    let bed = Bed::new().await;
    let made = bed.create("a").await;
    let same = bed
        .vessels()
        .replace("a", &PostParams::default(), &made)
        .await
        .unwrap();
    assert_eq!(rv(&same), rv(&made));
    let mut changed = made.clone();
    changed.spec.crew = 3;
    let changed = bed
        .vessels()
        .replace("a", &PostParams::default(), &changed)
        .await
        .unwrap();
    assert_eq!(changed.metadata.generation, Some(2));
    let status = refused(bed.vessels().replace("a", &PostParams::default(), &made).await);
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let mut without = changed.clone();
    without.metadata.resource_version = None;
    let status = refused(bed.vessels().replace("a", &PostParams::default(), &without).await);
    assert_eq!(status.code, 422);
    assert!(
        status.message.contains("must be specified for an update"),
        "{}",
        status.message
    );
    let mut other = changed;
    other.metadata.uid = Some("another".into());
    let status = refused(bed.vessels().replace("a", &PostParams::default(), &other).await);
    assert_eq!(status.code, 409);
}

#[tokio::test]
async fn status_and_spec_are_written_apart_and_only_spec_counts_generations() {
    let bed = Bed::new().await;
    bed.create("a").await;
    let both = json!({"spec": {"crew": 4}, "status": {"phase": "Sailing"}});
    let api = bed.vessels();
    let params = PatchParams::default();
    let by_status = api
        .patch_status("a", &params, &merge(both.clone()))
        .await
        .unwrap();
    assert_eq!((by_status.spec.crew, by_status.metadata.generation), (2, Some(1)));
    assert_eq!(by_status.status.unwrap().phase.as_deref(), Some("Sailing"));
    let other = json!({"spec": {"crew": 4}, "status": {"phase": "Sunk"}});
    let by_spec = api.patch("a", &params, &merge(other)).await.unwrap();
    assert_eq!((by_spec.spec.crew, by_spec.metadata.generation), (4, Some(2)));
    assert_eq!(by_spec.status.clone().unwrap().phase.as_deref(), Some("Sailing"));
    let labelled = api
        .patch("a", &params, &merge(json!({"metadata": {"labels": {"a": "b"}}})))
        .await
        .unwrap();
    assert_eq!(labelled.metadata.generation, Some(2));
    assert!(rv(&labelled) > rv(&by_spec));
}

#[tokio::test]
async fn json_patch_tests_before_it_changes() {
    let bed = Bed::new().await;
    bed.create("a").await;
    let patch = |from: &str| {
        let operations = json!([
            {"op": "test", "path": "/spec/cargo", "value": from},
            {"op": "replace", "path": "/spec/cargo", "value": "rum"},
        ]);
        Patch::Json::<()>(serde_json::from_value(operations).unwrap())
    };
    let status = refused(
        bed.vessels()
            .patch("a", &PatchParams::default(), &patch("salt"))
            .await,
    );
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    let patched = bed
        .vessels()
        .patch("a", &PatchParams::default(), &patch("tea"))
        .await
        .unwrap();
    assert_eq!(patched.spec.cargo, "rum");
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"cargo": "silk"}});
    let status = refused(
        bed.vessels()
            .patch("a", &PatchParams::default(), &merge(stale))
            .await,
    );
    assert_eq!(status.code, 409);
}

#[tokio::test]
async fn apply_and_strategic_patches_of_our_kinds_are_415() {
    let bed = Bed::new().await;
    bed.create("a").await;
    let apply = Patch::Apply(json!({"apiVersion": "test.example.io/v1", "kind": "Vessel"}));
    let status = refused(bed.vessels().patch("a", &PatchParams::apply("me"), &apply).await);
    assert_eq!(status.code, 415);
    assert!(status.message.contains("server-side apply"), "{}", status.message);
    let strategic = Patch::Strategic(json!({"spec": {"crew": 3}}));
    let status = refused(
        bed.vessels()
            .patch("a", &PatchParams::default(), &strategic)
            .await,
    );
    assert_eq!(status.code, 415);
}

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_taken_away() {
    let bed = Bed::new().await;
    bed.create("a").await;
    let api = bed.vessels();
    let hold = json!({"metadata": {"finalizers": ["test.example.io/hold"]}});
    let held = api
        .patch("a", &PatchParams::default(), &merge(hold))
        .await
        .unwrap();
    let going = api
        .delete("a", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert!(going.metadata.deletion_timestamp.is_some());
    assert!(rv(&going) > rv(&held));
    let again = api
        .delete("a", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(rv(&again), rv(&going), "deleting again changes nothing");
    let more = json!({"metadata": {"finalizers": ["test.example.io/hold", "test.example.io/more"]}});
    assert_eq!(
        refused(api.patch("a", &PatchParams::default(), &merge(more)).await).code,
        422
    );
    let free = json!({"metadata": {"finalizers": null}});
    api.patch("a", &PatchParams::default(), &merge(free))
        .await
        .unwrap();
    assert!(api.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn deletion_honours_preconditions() {
    let bed = Bed::new().await;
    let made = bed.create("a").await;
    let only = |uid: &str| DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::background()
    };
    let status = refused(bed.vessels().delete("a", &only("another")).await.map(|_| ()));
    assert_eq!(status.code, 409);
    let gone = bed
        .vessels()
        .delete("a", &only(made.metadata.uid.as_deref().unwrap()))
        .await
        .unwrap();
    assert!(gone.is_right());
    assert_eq!(
        refused(bed.vessels().delete("a", &only("x")).await.map(|_| ())).code,
        404
    );
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let bed = Bed::new().await;
    for name in ["a", "b", "c"] {
        let mut given = vessel(name);
        let side = if name == "c" { "keep" } else { "go" };
        given.metadata.labels = Some(BTreeMap::from([("side".into(), side.into())]));
        bed.vessels()
            .create(&PostParams::default(), &given)
            .await
            .unwrap();
    }
    let chosen = ListParams::default().labels("side in (go)");
    bed.vessels()
        .delete_collection(&DeleteParams::default(), &chosen)
        .await
        .unwrap();
    let left = bed.vessels().list(&ListParams::default()).await.unwrap();
    assert_eq!(left.items.len(), 1);
    assert_eq!(left.items[0].metadata.name.as_deref(), Some("c"));
}

#[tokio::test]
async fn selectors_choose_by_labels_and_fields() {
    let bed = Bed::new().await;
    for (name, labels) in [
        ("a", vec![("x", "1")]),
        ("b", vec![("x", "2"), ("y", "1")]),
        ("c", vec![]),
    ] {
        let mut given = vessel(name);
        given.metadata.labels = Some(
            labels
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
        );
        bed.vessels()
            .create(&PostParams::default(), &given)
            .await
            .unwrap();
    }
    let check = async |labels: &str, fields: &str, wanted: &str| {
        let params = ListParams::default().labels(labels).fields(fields);
        let found = bed.vessels().list(&params).await.unwrap().items;
        let names: Vec<String> = found.into_iter().map(|v| v.metadata.name.unwrap()).collect();
        assert_eq!(names.join(","), wanted, "{labels} {fields}");
    };
    check("x=1", "", "a").await;
    check("x!=1", "", "b,c").await;
    check("x in (1, 2),!y", "", "a").await;
    check("x notin (1)", "", "b,c").await;
    check("y", "", "b").await;
    check("x>1", "", "b").await;
    check("", "metadata.name=c", "c").await;
    check("", "metadata.name!=c,metadata.namespace=default", "a,b").await;
    let wrong = ListParams::default().fields("spec.cargo=tea");
    let status = refused(bed.vessels().list(&wrong).await.map(|_| ()));
    assert_eq!(
        (status.code, status.message.as_str()),
        (400, "field label not supported: spec.cargo")
    );
}

#[tokio::test]
async fn pages_show_one_snapshot_whatever_happens_meanwhile() {
    let bed = Bed::new().await;
    for index in 0..7 {
        bed.create(&format!("v{index}")).await;
    }
    let mut params = ListParams::default().limit(3);
    let mut seen = Vec::new();
    let mut revision = None;
    loop {
        let page = bed.vessels().list(&params).await.unwrap();
        let this = page.metadata.resource_version.clone();
        assert_eq!(*revision.get_or_insert(this.clone()), this);
        seen.extend(page.items.iter().map(|v| v.metadata.name.clone().unwrap()));
        let Some(token) = page.metadata.continue_.filter(|t| !t.is_empty()) else {
            break;
        };
        params = ListParams::default().limit(3).continue_token(&token);
        bed.vessels().delete("v5", &DeleteParams::default()).await.ok();
        bed.vessels()
            .create(&PostParams::default(), &vessel("v6a"))
            .await
            .ok();
    }
    assert_eq!(seen, ["v0", "v1", "v2", "v3", "v4", "v5", "v6"]);
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
async fn deleting_a_namespace_takes_its_objects_along() {
    let bed = Bed::new().await;
    let namespaces: Api<Namespace> = Api::all(bed.client.clone());
    let place = |name: &str| Namespace {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    namespaces
        .create(&PostParams::default(), &place("harbour"))
        .await
        .unwrap();
    let there: Api<Vessel> = Api::namespaced(bed.client.clone(), "harbour");
    there.create(&PostParams::default(), &vessel("a")).await.unwrap();
    namespaces
        .delete("harbour", &DeleteParams::default())
        .await
        .unwrap();
    assert!(namespaces.get_opt("harbour").await.unwrap().is_none());
    let all: Api<Vessel> = Api::all(bed.client.clone());
    assert!(all.list(&ListParams::default()).await.unwrap().items.is_empty());
    assert_eq!(
        refused(
            namespaces
                .delete("default", &DeleteParams::default())
                .await
                .map(|_| ())
        )
        .code,
        403
    );

    namespaces
        .create(&PostParams::default(), &place("dock"))
        .await
        .unwrap();
    let there: Api<Vessel> = Api::namespaced(bed.client.clone(), "dock");
    let mut held = vessel("b");
    held.metadata.finalizers = Some(vec!["test.example.io/hold".into()]);
    there.create(&PostParams::default(), &held).await.unwrap();
    namespaces.delete("dock", &DeleteParams::default()).await.unwrap();
    let waiting = namespaces.get("dock").await.unwrap();
    assert_eq!(waiting.status.unwrap().phase.as_deref(), Some("Terminating"));
    assert_eq!(
        refused(there.create(&PostParams::default(), &vessel("c")).await).code,
        403
    );
    there
        .patch(
            "b",
            &PatchParams::default(),
            &merge(json!({"metadata": {"finalizers": []}})),
        )
        .await
        .unwrap();
    assert!(namespaces.get_opt("dock").await.unwrap().is_none());
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
