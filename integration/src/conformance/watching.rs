//! Watches: events, resumption, bookmarks, selectors, their end; and kube-runtime on top of them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    runtime::{WatchStreamExt as _, controller::Action, finalizer, reflector, watcher},
};
use serde_json::{Value, json};

use super::{
    Case, laws,
    place::{Place, Watched, claim, labelled, revision, secret, text},
};

const DEADLINE: Duration = Duration::from_secs(30);

pub(super) fn laws() -> Vec<Case> {
    laws![
        "a watch tells what is made, changed and removed, in order, under rising revisions" => told,
        "a watch resumes after the revision that it names and misses nothing" => resumed,
        "a watch from revision 0 begins with what is there" => from_zero,
        "a watch from a revision before the history ends with ERROR 410 Expired" => too_old,
        "a watch sees its own namespace only, one of all sees each" => scopes,
        "leaving a label selection looks like a deletion, entering it like a creation" => selection,
        "a watch by name sees one object" => by_name,
        "initial events are asked for and end with a marked bookmark" => initial,
        "initial events and match rules that do not go together are 422" => wrong_initial,
        "a timed watch ends by itself, with a bookmark to resume from where it was asked for" => bookmark,
        "without allowWatchBookmarks no bookmark comes" => no_bookmark,
        "a status is seen by watches like any change" => status_seen,
        "a reflector of kube-runtime follows by list and watch" => list_watch,
        "a reflector of kube-runtime follows by streaming list" => streaming_list,
        "the finalizer of kube-runtime runs through" => runs_finalizer,
        "a watch that many write under loses no event and doubles none" => busy,
    ]
}

async fn label(at: &Place, name: &str, side: &str) -> Result<Value> {
    at.merge(&at.secret(name), &json!({"metadata": {"labels": {"side": side}}}))
        .await?
        .is(200)
}

async fn make(at: &Place, name: &str) -> Result<Value> {
    at.post(&at.secrets(), &secret(name)).await?.is(201)
}

async fn now(at: &Place) -> Result<u64> {
    revision(&at.get(&at.secrets()).await?.is(200)?)
}

async fn since(at: &Place, revision: u64) -> Result<Watched> {
    at.watch(&format!("{}?resourceVersion={revision}", at.secrets()))
        .await
}

async fn told(at: &Place) -> Result<()> {
    let mut watch = since(at, now(at).await?).await?;
    let made = make(at, "a").await?;
    let seen = watch.sees("ADDED", "a").await?;
    ensure!(seen == made, "{seen} is not what was answered: {made}");
    let changed = label(at, "a", "port").await?;
    ensure!(watch.sees("MODIFIED", "a").await? == changed);
    at.delete(&at.secret("a")).await?.is(200)?;
    let gone = watch.sees("DELETED", "a").await?;
    ensure!(text(&gone, "/metadata/labels/side") == "port", "{gone}");
    let order = [revision(&made)?, revision(&changed)?, revision(&gone)?];
    ensure!(order.is_sorted_by(|a, b| a < b), "{order:?}");
    Ok(())
}

async fn resumed(at: &Place) -> Result<()> {
    let begin = now(at).await?;
    make(at, "a").await?;
    let mut expected = vec![("ADDED", "a")];
    make(at, "b").await?;
    label(at, "a", "port").await?;
    at.delete(&at.secret("b")).await?.is(200)?;
    make(at, "b").await?;
    expected.extend([
        ("ADDED", "b"),
        ("MODIFIED", "a"),
        ("DELETED", "b"),
        ("ADDED", "b"),
    ]);
    let mut watch = since(at, begin).await?;
    let mut revisions = vec![begin];
    for (kind, name) in &expected {
        revisions.push(revision(&watch.sees(kind, name).await?)?);
    }
    // From every revision on the way the rest is the same.
    for (skip, from) in revisions.iter().enumerate() {
        let mut again = since(at, *from).await?;
        for (kind, name) in expected.iter().skip(skip) {
            again.sees(kind, name).await?;
        }
    }
    make(at, "c").await?;
    watch.sees("ADDED", "c").await?;
    Ok(())
}

async fn from_zero(at: &Place) -> Result<()> {
    make(at, "a").await?;
    make(at, "b").await?;
    for query in ["resourceVersion=0", ""] {
        let mut watch = at.watch(&format!("{}?{query}", at.secrets())).await?;
        let mut there = Vec::new();
        for _ in 0..2 {
            let (kind, object) = watch.next().await?;
            ensure!(kind == "ADDED", "{kind}");
            there.push(text(&object, "/metadata/name").to_owned());
        }
        there.sort();
        ensure!(there == ["a", "b"], "{there:?}");
        let name = format!("c{}", query.len());
        make(at, &name).await?;
        watch.sees("ADDED", &name).await?;
        at.delete(&at.secret(&name)).await?.is(200)?;
    }
    Ok(())
}

async fn too_old(at: &Place) -> Result<()> {
    let mut watch = since(at, 1).await?;
    let (kind, status) = watch.next().await?;
    ensure!(kind == "ERROR", "{kind} {status}");
    ensure!(
        text(&status, "/kind") == "Status"
            && status.get("code") == Some(&json!(410))
            && text(&status, "/reason") == "Expired"
            && text(&status, "/message").starts_with("too old resource version: 1"),
        "{status}"
    );
    let end = watch.maybe().await?;
    ensure!(end.is_none(), "{end:?}");
    Ok(())
}

async fn scopes(at: &Place) -> Result<()> {
    let begin = now(at).await?;
    let claims = "/apis/storage.billyronks.io/v1/unifiedstorageclaims";
    let all = format!(
        "{claims}?fieldSelector=metadata.namespace%3D{}&resourceVersion={begin}",
        at.name
    );
    let mut all = at.watch(&all).await?;
    let mut here = at
        .watch(&format!("{}?resourceVersion={begin}", at.claims()))
        .await?;
    let mut elsewhere = at
        .watch(&format!(
            "/apis/storage.billyronks.io/v1/namespaces/kube-system/unifiedstorageclaims?\
             resourceVersion={begin}&timeoutSeconds=1"
        ))
        .await?;
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    all.sees("ADDED", "a").await?;
    here.sees("ADDED", "a").await?;
    let event = elsewhere.maybe().await?;
    ensure!(event.is_none(), "{event:?}");
    Ok(())
}

async fn selection(at: &Place) -> Result<()> {
    let begin = revision(&make(at, "a").await?)?;
    let path = format!(
        "{}?labelSelector=side%3Dport&resourceVersion={begin}",
        at.secrets()
    );
    let mut watch = at.watch(&path).await?;
    label(at, "a", "port").await?;
    watch.sees("ADDED", "a").await?;
    let left = label(at, "a", "starboard").await?;
    let gone = watch.sees("DELETED", "a").await?;
    ensure!(text(&gone, "/metadata/labels/side") == "port", "{gone}");
    ensure!(revision(&gone)? == revision(&left)?, "{gone} at {left}");
    label(at, "a", "astern").await?;
    label(at, "a", "port").await?;
    watch.sees("ADDED", "a").await?;
    at.delete(&at.secret("a")).await?.is(200)?;
    watch.sees("DELETED", "a").await?;
    at.post(&at.secrets(), &labelled("b", &json!({"side": "port"})))
        .await?
        .is(201)?;
    watch.sees("ADDED", "b").await?;
    // The same from the history.
    let mut again = at.watch(&path).await?;
    for (kind, name) in [
        ("ADDED", "a"),
        ("DELETED", "a"),
        ("ADDED", "a"),
        ("DELETED", "a"),
        ("ADDED", "b"),
    ] {
        again.sees(kind, name).await?;
    }
    Ok(())
}

async fn by_name(at: &Place) -> Result<()> {
    let begin = now(at).await?;
    let path = format!(
        "{}?fieldSelector=metadata.name%3Db&resourceVersion={begin}",
        at.secrets()
    );
    let mut watch = at.watch(&path).await?;
    make(at, "a").await?;
    make(at, "b").await?;
    watch.sees("ADDED", "b").await?;
    Ok(())
}

async fn initial(at: &Place) -> Result<()> {
    make(at, "a").await?;
    let path = format!(
        "{}?sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=0",
        at.secrets()
    );
    let mut watch = at.watch(&path).await?;
    watch.sees("ADDED", "a").await?;
    let (kind, bookmark) = watch.next().await?;
    ensure!(kind == "BOOKMARK", "{kind} {bookmark}");
    ensure!(
        text(&bookmark, "/metadata/annotations/k8s.io~1initial-events-end") == "true"
            && text(&bookmark, "/kind") == "Secret",
        "{bookmark}"
    );
    make(at, "b").await?;
    watch.sees("ADDED", "b").await?;
    let mut resumed = since(at, revision(&bookmark)?).await?;
    resumed.sees("ADDED", "b").await?;
    Ok(())
}

async fn wrong_initial(at: &Place) -> Result<()> {
    for query in [
        "sendInitialEvents=true",
        "sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=5",
        "resourceVersionMatch=NotOlderThan&resourceVersion=5",
    ] {
        at.get(&format!("{}?watch=true&{query}", at.secrets()))
            .await?
            .refused(422, "Invalid")
            .map_err(|e| e.context(query))?;
    }
    Ok(())
}

async fn bookmark(at: &Place) -> Result<()> {
    let begin = now(at).await?;
    let path = format!(
        "{}?resourceVersion={begin}&allowWatchBookmarks=true&timeoutSeconds=4",
        at.secrets()
    );
    let mut watch = at.watch(&path).await?;
    let made = make(at, "a").await?;
    watch.sees("ADDED", "a").await?;
    let mut last = None;
    while let Some((kind, object)) = watch.maybe().await? {
        ensure!(kind == "BOOKMARK", "{kind} {object}");
        ensure!(
            text(&object, "/kind") == "Secret" && text(&object, "/metadata/name").is_empty(),
            "{object}"
        );
        last = Some(object);
    }
    let last = last.context("no bookmark came")?;
    ensure!(revision(&last)? >= revision(&made)?, "{last}");
    make(at, "b").await?;
    let mut resumed = since(at, revision(&last)?).await?;
    resumed.sees("ADDED", "b").await?;
    Ok(())
}

async fn no_bookmark(at: &Place) -> Result<()> {
    let begin = now(at).await?;
    let path = format!("{}?resourceVersion={begin}&timeoutSeconds=3", at.secrets());
    let event = at.watch(&path).await?.maybe().await?;
    ensure!(event.is_none(), "{event:?}");
    Ok(())
}

async fn status_seen(at: &Place) -> Result<()> {
    let made = at.post(&at.claims(), &claim("a")).await?.is(201)?;
    let path = format!("{}?resourceVersion={}", at.claims(), revision(&made)?);
    let mut watch = at.watch(&path).await?;
    let status = json!({"status": {"capacityBytes": 12_345}});
    at.merge(&format!("{}/status", at.claim("a")), &status)
        .await?
        .is(200)?;
    // A reconciler may write beside it.
    for _ in 0..10 {
        let seen = watch.sees("MODIFIED", "a").await?;
        if seen.pointer("/status/capacityBytes") == Some(&json!(12_345)) {
            return Ok(());
        }
    }
    bail!("the written status is not seen")
}

async fn follows(at: &Place, config: watcher::Config) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(at.client(), &at.name);
    make(at, "a").await?;
    make(at, "b").await?;
    let (reader, writer) = reflector::store();
    let stream = reflector(writer, watcher(api, config))
        .default_backoff()
        .touched_objects();
    let driver = tokio::spawn(stream.for_each(|_| std::future::ready(())));
    let settled = async {
        reader.wait_until_ready().await?;
        make(at, "c").await?;
        at.delete(&at.secret("a")).await?.is(200)?;
        loop {
            let mut names: Vec<String> = reader.state().iter().map(|secret| secret.name_any()).collect();
            names.sort();
            if names == ["b", "c"] {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let outcome = tokio::time::timeout(DEADLINE, settled).await;
    driver.abort();
    outcome.context("the reflector never showed what is there")?
}

async fn list_watch(at: &Place) -> Result<()> {
    follows(at, watcher::Config::default().page_size(1)).await
}

async fn streaming_list(at: &Place) -> Result<()> {
    follows(at, watcher::Config::default().streaming_lists()).await
}

async fn runs_finalizer(at: &Place) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(at.client(), &at.name);
    make(at, "a").await?;
    let run = async || -> Result<&'static str> {
        let object = Arc::new(api.get("a").await?);
        let heard = Arc::new(std::sync::Mutex::new("nothing"));
        let told = Arc::clone(&heard);
        finalizer(&api, "x.io/hold", object, |event| async move {
            if let Ok(mut told) = told.lock() {
                *told = match event {
                    finalizer::Event::Apply(_) => "apply",
                    finalizer::Event::Cleanup(_) => "cleanup",
                };
            }
            Ok::<_, std::io::Error>(Action::await_change())
        })
        .await?;
        let heard = heard.lock().map_or("poisoned", |heard| *heard);
        Ok(heard)
    };
    ensure!(run().await? == "nothing", "first it adds itself");
    ensure!(run().await? == "apply");
    at.delete(&at.secret("a")).await?.is(200)?;
    ensure!(run().await? == "cleanup");
    at.get(&at.secret("a")).await?.refused(404, "NotFound")?;
    Ok(())
}

async fn busy(at: &Place) -> Result<()> {
    const WRITERS: usize = 4;
    const CHANGES: usize = 12;
    for writer in 0..WRITERS {
        make(at, &format!("w{writer}")).await?;
    }
    let mut watch = since(at, now(at).await?).await?;
    let writes = (0..WRITERS).map(|writer| async move {
        let name = format!("w{writer}");
        for change in 0..CHANGES {
            label(at, &name, &change.to_string()).await?;
        }
        Ok::<_, anyhow::Error>(())
    });
    let reads = async {
        let mut next = [0_usize; WRITERS];
        let mut last = 0;
        for _ in 0..WRITERS * CHANGES {
            let (kind, object) = watch.next().await?;
            let writer: usize = text(&object, "/metadata/name").trim_start_matches('w').parse()?;
            let expected = next.get_mut(writer).context("a writer")?;
            ensure!(
                kind == "MODIFIED" && text(&object, "/metadata/labels/side") == expected.to_string(),
                "{kind} {object} instead of change {expected}"
            );
            *expected += 1;
            ensure!(revision(&object)? > last, "{object} after {last}");
            last = revision(&object)?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let (written, read) = futures::join!(futures::future::try_join_all(writes), reads);
    written?;
    read
}
