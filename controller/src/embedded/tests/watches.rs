//! Watches and the end of the history, or of the API. The rest about watches is in the conformance list.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::api::{PostParams, WatchEvent, WatchParams};

use super::{Bed, Limits, vessel};

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
