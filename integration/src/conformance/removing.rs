//! Delete: objects, collections, namespaces; finalizers, preconditions, owners.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    Case, laws,
    place::{NAMESPACES, Place, cause, claim, labelled, merge, names, revision, same, secret, text},
};

pub(super) fn laws() -> Vec<Case> {
    laws![
        "a deletion answers a Status of success with the uid, and then 404" => deleted,
        "a finalizer holds an object, marked, until it is taken away" => finalized,
        "an object that is going takes no new finalizer and still takes labels" => going,
        "preconditions of a deletion are kept" => preconditions,
        "a collection is deleted by label and by field" => collection,
        "what the last owner leaves goes with it, and stays when it is orphaned" => owners,
        "a namespace goes with all that is in it, and stays Terminating while a finalizer holds something" => namespace,
        "nothing new comes into a namespace that is going" => closing_namespace,
        "the fixed namespaces stay" => fixed,
    ]
}

async fn deleted(at: &Place) -> Result<()> {
    for (path, item, given, kind) in [
        (at.claims(), at.claim("a"), claim("a"), "unifiedstorageclaims"),
        (at.secrets(), at.secret("a"), secret("a"), "secrets"),
    ] {
        let made = at.post(&path, &given).await?.is(201)?;
        let status = at.delete(&item).await?.is(200)?;
        ensure!(
            text(&status, "/kind") == "Status" && text(&status, "/status") == "Success",
            "{status}"
        );
        ensure!(
            text(&status, "/details/name") == "a"
                && text(&status, "/details/kind") == kind
                && text(&status, "/details/uid") == text(&made, "/metadata/uid"),
            "{status}"
        );
        at.get(&item).await?.refused(404, "NotFound")?;
        let status = at.delete(&item).await?.refused(404, "NotFound")?;
        ensure!(text(&status, "/details/name") == "a", "{status}");
        let again = at.post(&path, &given).await?.is(201)?;
        ensure!(
            text(&again, "/metadata/uid") != text(&made, "/metadata/uid"),
            "the same name is another object"
        );
    }
    Ok(())
}

fn held(mut object: Value) -> Value {
    merge(&mut object, &json!({"metadata": {"finalizers": ["x.io/hold"]}}));
    object
}

async fn finalized(at: &Place) -> Result<()> {
    for (path, item, given) in [
        (at.claims(), at.claim("a"), claim("a")),
        (at.secrets(), at.secret("a"), secret("a")),
    ] {
        let made = at.post(&path, &held(given)).await?.is(201)?;
        let going = at.delete(&item).await?.is(200)?;
        ensure!(!text(&going, "/metadata/deletionTimestamp").is_empty(), "{going}");
        ensure!(
            going.pointer("/metadata/deletionGracePeriodSeconds") == Some(&json!(0)),
            "{going}"
        );
        ensure!(revision(&going)? > revision(&made)?, "{going}");
        let again = at.delete(&item).await?.is(200)?;
        same(
            "deleted again",
            &again["metadata"]["deletionTimestamp"],
            &going["metadata"]["deletionTimestamp"],
        )?;
        let free = at
            .merge(&item, &json!({"metadata": {"finalizers": null}}))
            .await?
            .is(200)?;
        ensure!(text(&free, "/metadata/name") == "a", "{free}");
        at.get(&item).await?.refused(404, "NotFound")?;
    }
    Ok(())
}

async fn going(at: &Place) -> Result<()> {
    at.post(&at.secrets(), &held(secret("a"))).await?.is(201)?;
    let path = at.secret("a");
    at.delete(&path).await?.is(200)?;
    let more = json!({"metadata": {"finalizers": ["x.io/hold", "x.io/more"]}});
    let status = at.merge(&path, &more).await?.refused(422, "Invalid")?;
    let cause = cause(&status, "metadata.finalizers")?;
    ensure!(text(cause, "/reason") == "FieldValueForbidden", "{status}");
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let labelled = at.merge(&path, &label).await?.is(200)?;
    ensure!(
        !text(&labelled, "/metadata/deletionTimestamp").is_empty(),
        "{labelled}"
    );
    let alive = json!({"metadata": {"deletionTimestamp": null, "labels": {"a": "c"}}});
    let still = at.merge(&path, &alive).await?.is(200)?;
    ensure!(!text(&still, "/metadata/deletionTimestamp").is_empty(), "{still}");
    at.merge(&path, &json!({"metadata": {"finalizers": []}}))
        .await?
        .is(200)?;
    at.get(&path).await?.refused(404, "NotFound")?;
    Ok(())
}

async fn preconditions(at: &Place) -> Result<()> {
    let made = at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    let path = at.secret("a");
    let only = |field: &str, value: &str| json!({"preconditions": {field: value}});
    let another = only("uid", "00000000-0000-4000-8000-000000000000");
    let status = at.delete_with(&path, &another).await?.refused(409, "Conflict")?;
    ensure!(
        text(&status, "/message").contains("Precondition failed"),
        "{status}"
    );
    at.delete_with(&path, &only("resourceVersion", "1"))
        .await?
        .refused(409, "Conflict")?;
    at.get(&path).await?.is(200)?;
    let right = json!({"preconditions": {
        "uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"],
    }});
    at.delete_with(&path, &right).await?.is(200)?;
    at.delete_with(&path, &right).await?.refused(404, "NotFound")?;
    Ok(())
}

async fn collection(at: &Place) -> Result<()> {
    for (name, side) in [("a", "go"), ("b", "go"), ("c", "keep"), ("d", "keep")] {
        at.post(&at.secrets(), &labelled(name, &json!({"side": side})))
            .await?
            .is(201)?;
    }
    let left = async || -> Result<String> {
        let list = at.get(&at.secrets()).await?.is(200)?;
        Ok(names(&list).join(","))
    };
    let gone = at
        .delete(&format!("{}?labelSelector=side%20in%20(go)", at.secrets()))
        .await?
        .is(200)?;
    ensure!(names(&gone) == ["a", "b"], "{gone}");
    ensure!(left().await? == "c,d", "{}", left().await?);
    at.delete(&format!("{}?fieldSelector=metadata.name%3Dc", at.secrets()))
        .await?
        .is(200)?;
    ensure!(left().await? == "d", "{}", left().await?);
    at.post(&at.secrets(), &held(secret("e"))).await?.is(201)?;
    at.delete(&at.secrets()).await?.is(200)?;
    let marked = at.get(&at.secret("e")).await?.is(200)?;
    ensure!(
        !text(&marked, "/metadata/deletionTimestamp").is_empty(),
        "{marked}"
    );
    ensure!(left().await? == "e", "{}", left().await?);
    at.merge(&at.secret("e"), &json!({"metadata": {"finalizers": null}}))
        .await?
        .is(200)?;
    Ok(())
}

fn owned(name: &str, owners: &[&Value]) -> Value {
    let owners: Vec<Value> = owners
        .iter()
        .map(|owner| {
            json!({
                "apiVersion": "v1", "kind": "Secret", "name": text(owner, "/metadata/name"),
                "uid": text(owner, "/metadata/uid"),
            })
        })
        .collect();
    let mut object = secret(name);
    merge(&mut object, &json!({"metadata": {"ownerReferences": owners}}));
    object
}

async fn owners(at: &Place) -> Result<()> {
    let a = at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    let b = at.post(&at.secrets(), &secret("b")).await?.is(201)?;
    let of_a = at.post(&at.secrets(), &owned("of-a", &[&a])).await?.is(201)?;
    at.post(&at.secrets(), &owned("of-both", &[&a, &b]))
        .await?
        .is(201)?;
    at.post(&at.secrets(), &owned("of-of-a", &[&of_a]))
        .await?
        .is(201)?;
    let background = json!({"propagationPolicy": "Background"});
    at.delete_with(&at.secret("a"), &background).await?.is(200)?;
    at.gone(&at.secret("of-a")).await?;
    at.gone(&at.secret("of-of-a")).await?;
    at.get(&at.secret("of-both")).await?.is(200)?;
    let orphan = json!({"propagationPolicy": "Orphan"});
    at.delete_with(&at.secret("b"), &orphan).await?.is(200)?;
    at.gone(&at.secret("b")).await?;
    at.get(&at.secret("of-both")).await?.is(200)?;
    Ok(())
}

async fn made_namespace(at: &Place, name: &str) -> Result<String> {
    let name = at.own(name);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let made = at.post(NAMESPACES, &namespace).await?.is(201)?;
    ensure!(text(&made, "/status/phase") == "Active", "{made}");
    ensure!(
        text(&made, "/metadata/labels/kubernetes.io~1metadata.name") == name,
        "{made}"
    );
    Ok(format!("{NAMESPACES}/{name}"))
}

async fn namespace(at: &Place) -> Result<()> {
    let free = made_namespace(at, "free").await?;
    at.post(&format!("{free}/secrets"), &secret("a")).await?.is(201)?;
    let claims = free.replace("/api/v1", "/apis/storage.billyronks.io/v1") + "/unifiedstorageclaims";
    at.post(&claims, &claim("a")).await?.is(201)?;
    at.delete(&free).await?.is(200)?;
    at.gone(&free).await?;
    let left = at.get(&claims).await?.is(200)?;
    ensure!(names(&left).is_empty(), "{left}");

    let kept = made_namespace(at, "kept").await?;
    at.post(&format!("{kept}/secrets"), &held(secret("a")))
        .await?
        .is(201)?;
    at.delete(&kept).await?.is(200)?;
    let waiting = at.get(&kept).await?.is(200)?;
    ensure!(text(&waiting, "/status/phase") == "Terminating", "{waiting}");
    let item = format!("{kept}/secrets/a");
    // A real server's controller deletes a moment later, and only marks what a finalizer holds.
    for _ in 0..600 {
        let held = at.get(&item).await?.is(200)?;
        if !text(&held, "/metadata/deletionTimestamp").is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    at.merge(&item, &json!({"metadata": {"finalizers": null}}))
        .await?
        .is(200)?;
    at.gone(&kept).await
}

async fn closing_namespace(at: &Place) -> Result<()> {
    let path = made_namespace(at, "closing").await?;
    at.post(&format!("{path}/secrets"), &held(secret("a")))
        .await?
        .is(201)?;
    at.delete(&path).await?.is(200)?;
    let status = at
        .post(&format!("{path}/secrets"), &secret("b"))
        .await?
        .refused(403, "Forbidden")?;
    let cause = cause(&status, "metadata.namespace")?;
    ensure!(text(cause, "/reason") == "NamespaceTerminating", "{status}");
    at.merge(
        &format!("{path}/secrets/a"),
        &json!({"metadata": {"finalizers": null}}),
    )
    .await?
    .is(200)?;
    at.gone(&path).await
}

async fn fixed(at: &Place) -> Result<()> {
    for name in ["default", "kube-system"] {
        at.get(&format!("{NAMESPACES}/{name}")).await?.is(200)?;
        at.delete(&format!("{NAMESPACES}/{name}"))
            .await?
            .refused(403, "Forbidden")?;
    }
    Ok(())
}
