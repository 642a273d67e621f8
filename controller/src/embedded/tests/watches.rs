//! Watches, reflectors and finalizers, as kube-rs drives them.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::controller::Action;
use kube::runtime::{WatchStreamExt, finalizer, reflector, watcher};
use serde_json::json;

use super::{Bed, Limits, Vessel, vessel};

async fn next<S: Stream<Item = Result<WatchEvent<Vessel>, kube::Error>> + Unpin>(events: &mut S) -> String {
    let event = tokio::time::timeout(Duration::from_secs(20), events.next())
        .await
        .expect("an event");
    match event.expect("a stream that goes on").expect("no error") {
        WatchEvent::Added(v) => format!("ADDED {}", v.metadata.name.unwrap()),
        WatchEvent::Modified(v) => format!("MODIFIED {}", v.metadata.name.unwrap()),
        WatchEvent::Deleted(v) => format!("DELETED {}", v.metadata.name.unwrap()),
        WatchEvent::Bookmark(b) => {
            let end = b.metadata.annotations.contains_key("k8s.io/initial-events-end");
            format!("BOOKMARK {end}")
        }
        WatchEvent::Error(status) => format!("ERROR {} {}", status.code, status.reason),
    }
}

async fn label(bed: &Bed, name: &str, side: &str) {
    let patch = Patch::Merge(json!({"metadata": {"labels": {"side": side}}}));
    bed.vessels()
        .patch(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_watch_resumes_after_the_revision_it_names() {
    let bed = Bed::new().await;
    bed.create("a").await;
    let list = bed.vessels().list(&ListParams::default()).await.unwrap();
    let revision = list.metadata.resource_version.unwrap();
    bed.create("b").await;
    label(&bed, "a", "port").await;
    bed.vessels().delete("b", &DeleteParams::default()).await.unwrap();
    let events = bed
        .vessels()
        .watch(&WatchParams::default(), &revision)
        .await
        .unwrap();
    let mut events = std::pin::pin!(events);
    assert_eq!(next(&mut events).await, "ADDED b");
    assert_eq!(next(&mut events).await, "MODIFIED a");
    assert_eq!(next(&mut events).await, "DELETED b");
    bed.create("c").await;
    assert_eq!(next(&mut events).await, "ADDED c");
}

#[tokio::test]
async fn leaving_a_selection_looks_like_a_deletion() {
    let bed = Bed::new().await;
    bed.create("a").await;
    let params = WatchParams::default().labels("side=port");
    let revision = bed
        .vessels()
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    let events = bed.vessels().watch(&params, &revision).await.unwrap();
    let mut events = std::pin::pin!(events);
    label(&bed, "a", "port").await;
    assert_eq!(next(&mut events).await, "ADDED a");
    label(&bed, "a", "starboard").await;
    assert_eq!(next(&mut events).await, "DELETED a");
    label(&bed, "a", "port").await;
    bed.vessels().delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(next(&mut events).await, "ADDED a");
    assert_eq!(next(&mut events).await, "DELETED a");
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let bed = Bed::new().await;
    bed.create("a").await;
    let params = WatchParams::default().initial_events();
    let events = bed.vessels().watch(&params, "0").await.unwrap();
    let mut events = std::pin::pin!(events);
    assert_eq!(next(&mut events).await, "ADDED a");
    assert_eq!(next(&mut events).await, "BOOKMARK true");
    bed.create("b").await;
    assert_eq!(next(&mut events).await, "ADDED b");
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_up_with_a_bookmark() {
    let bed = Bed::new().await;
    let params = WatchParams::default().timeout(1);
    let events = bed.vessels().watch(&params, "0").await.unwrap();
    let all: Vec<_> = tokio::time::timeout(Duration::from_secs(20), events.try_collect())
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(all.as_slice(), [WatchEvent::Bookmark(_)]), "{all:?}");
}

#[tokio::test]
async fn forgotten_revisions_are_410_also_after_a_restart() {
    let bed = Bed::with(Limits {
        changes: 2,
        ..Limits::default()
    })
    .await;
    let revision = bed.create("a").await.metadata.resource_version.unwrap();
    for name in ["b", "c", "d", "e"] {
        bed.create(name).await;
    }
    let expired = async |bed: &Bed, revision: &str| {
        let outcome = bed.vessels().watch(&WatchParams::default(), revision).await;
        match outcome {
            Err(kube::Error::Api(status)) => (status.code, status.reason.clone()),
            Ok(events) => match std::pin::pin!(events).next().await {
                Some(Ok(WatchEvent::Error(status))) => (status.code, status.reason.clone()),
                Some(Err(kube::Error::Api(status))) => (status.code, status.reason.clone()),
                other => panic!("{other:?}"),
            },
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(expired(&bed, &revision).await, (410, "Expired".to_owned()));
    let recent = bed.create("f").await.metadata.resource_version.unwrap();
    bed.create("g").await;
    let bed = bed.reopened().await;
    assert_eq!(expired(&bed, &recent).await, (410, "Expired".to_owned()));
}

#[tokio::test]
async fn closing_ends_watches_and_refuses_writes() {
    let bed = Bed::new().await;
    let events = bed.vessels().watch(&WatchParams::default(), "0").await.unwrap();
    bed.api.close().await;
    let rest: Vec<_> = tokio::time::timeout(Duration::from_secs(20), events.try_collect())
        .await
        .unwrap()
        .unwrap();
    assert!(rest.is_empty());
    let status = super::refused(
        bed.vessels()
            .create(&PostParams::default(), &vessel("late"))
            .await,
    );
    assert_eq!(status.code, 503);
}

async fn reflected(config: watcher::Config) {
    let bed = Bed::new().await;
    bed.create("a").await;
    let (reader, writer) = reflector::store();
    let stream = reflector(writer, watcher(bed.vessels(), config))
        .default_backoff()
        .touched_objects();
    let driver = tokio::spawn(stream.for_each(|_| futures::future::ready(())));
    reader.wait_until_ready().await.unwrap();
    bed.create("b").await;
    bed.vessels().delete("a", &DeleteParams::default()).await.unwrap();
    let settled = async {
        loop {
            let names: Vec<_> = reader
                .state()
                .iter()
                .map(|v| v.metadata.name.clone().unwrap())
                .collect();
            if names == ["b"] {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), settled)
        .await
        .unwrap();
    driver.abort();
}

#[tokio::test]
async fn a_reflector_follows_by_list_and_watch() {
    reflected(watcher::Config::default().page_size(1)).await;
}

#[tokio::test]
async fn a_reflector_follows_by_streaming_list() {
    reflected(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn the_finalizer_of_kube_runtime_runs_through() {
    let bed = Bed::new().await;
    let api = bed.vessels();
    bed.create("a").await;
    let run = async || {
        let object = Arc::new(api.get("a").await.unwrap());
        let heard = Arc::new(std::sync::Mutex::new("nothing"));
        let told = Arc::clone(&heard);
        finalizer(&api, "test.example.io/hold", object, |event| async move {
            *told.lock().unwrap() = match event {
                finalizer::Event::Apply(_) => "apply",
                finalizer::Event::Cleanup(_) => "cleanup",
            };
            Ok::<_, std::io::Error>(Action::await_change())
        })
        .await
        .unwrap();
        *heard.lock().unwrap()
    };
    assert_eq!(run().await, "nothing", "first it adds itself");
    assert_eq!(run().await, "apply");
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(run().await, "cleanup");
    assert!(api.get_opt("a").await.unwrap().is_none());
}
