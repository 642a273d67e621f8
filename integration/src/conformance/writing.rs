//! Create, replace, patch.

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use http::Method;
use serde_json::{Value, json};

use super::{
    Case, laws,
    place::{Ask, NAMESPACES, Place, cause, claim, merge, names, revision, same, secret, text},
};

pub(super) fn laws() -> Vec<Case> {
    laws![
        "a new object has what the server owns, and no status of the client's" => created,
        "what the server owns is not taken from a client at creation" => owned,
        "a taken name is 409 AlreadyExists and says of what" => taken,
        "a namespace that is not there is 404 and named" => nowhere,
        "a generated name is unique, begins as asked and gives way to a name" => generated,
        "an object without a name is 422 and the field is named" => nameless,
        "a body for another name, namespace, kind or version is refused" => misplaced,
        "a replacement raises the revision, an equal one writes nothing" => replaced,
        "a stale replacement is 409 Conflict and changes nothing" => stale,
        "a replacement of a custom object needs a resourceVersion, one of a Secret does not" => unconditional,
        "another uid is 409 in a replacement and 422 in a patch" => another_uid,
        "a merge patch changes, removes with null, and replaces lists whole" => merge_patch,
        "a merge patch with a stale resourceVersion is 409, with the newest it holds" => merge_patch_stale,
        "a JSON patch does all of its operations or none" => json_patch,
        "a JSON patch whose test or path fails is 422" => json_patch_fails,
        "a strategic merge patch unites finalizers of a Secret and is 415 for custom objects" => strategic,
        "generation rises with the spec only" => generation,
        "spec and status are written apart" => apart,
        "a status is replaced under the same rules as an object" => status_replaced,
        "name, uid, creation and deletion cannot be patched" => immutable,
        "a dry run answers as if and leaves nothing" => dry_run,
        "of concurrent writers with resourceVersion each change counts once" => concurrent,
        "concurrent patches without resourceVersion all hold" => concurrent_patches,
        "stringData becomes data, and an immutable Secret stays as it is" => secrets,
        "YAML is read and written" => yaml,
    ]
}

async fn created(at: &Place) -> Result<()> {
    let given = at.class("a", &json!({"storageType": "file"}));
    let mut with_status = given.clone();
    merge(&mut with_status, &json!({"status": {"volumeCount": 77}}));
    let made = at.post(super::place::CLASSES, &with_status).await?.is(201)?;
    ensure!(
        text(&made, "/metadata/uid").len() == 36 && revision(&made)? > 0,
        "{made}"
    );
    ensure!(
        text(&made, "/metadata/creationTimestamp").ends_with('Z'),
        "{made}"
    );
    same(
        "generation",
        made.pointer("/metadata/generation").unwrap_or(&Value::Null),
        &json!(1),
    )?;
    ensure!(made.get("status").is_none(), "{made}");
    let claim = at.post(&at.claims(), &claim("c")).await?.is(201)?;
    ensure!(text(&claim, "/metadata/namespace") == at.name, "{claim}");
    let secret = at.post(&at.secrets(), &secret("s")).await?.is(201)?;
    ensure!(secret.pointer("/metadata/generation").is_none(), "{secret}");
    let read = at.get(&at.secret("s")).await?.is(200)?;
    same("what was answered is what is read", &secret, &read)
}

async fn owned(at: &Place) -> Result<()> {
    let mut given = claim("a");
    merge(
        &mut given,
        &json!({"metadata": {
            "uid": "00000000-0000-4000-8000-000000000000", "creationTimestamp": "2001-01-01T00:00:00Z",
            "generation": 7, "deletionTimestamp": "2001-01-01T00:00:00Z",
        }}),
    );
    let made = at.post(&at.claims(), &given).await?.is(201)?;
    ensure!(
        text(&made, "/metadata/uid") != "00000000-0000-4000-8000-000000000000",
        "{made}"
    );
    ensure!(
        !text(&made, "/metadata/creationTimestamp").starts_with("2001"),
        "{made}"
    );
    ensure!(made.pointer("/metadata/generation") == Some(&json!(1)), "{made}");
    ensure!(made.pointer("/metadata/deletionTimestamp").is_none(), "{made}");
    let mut given = claim("b");
    merge(&mut given, &json!({"metadata": {"resourceVersion": "5"}}));
    let answer = at.post(&at.claims(), &given).await?;
    ensure!(
        answer.code >= 400,
        "a resourceVersion at creation: {}",
        answer.text
    );
    ensure!(
        answer
            .text
            .contains("resourceVersion should not be set on objects to be created"),
        "{}",
        answer.text
    );
    Ok(())
}

async fn taken(at: &Place) -> Result<()> {
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    let status = at
        .post(&at.claims(), &claim("a"))
        .await?
        .refused(409, "AlreadyExists")?;
    same(
        "details",
        status.get("details").unwrap_or(&Value::Null),
        &json!({"name": "a", "group": "storage.billyronks.io", "kind": "unifiedstorageclaims"}),
    )?;
    ensure!(
        text(&status, "/message") == "unifiedstorageclaims.storage.billyronks.io \"a\" already exists",
        "{status}"
    );
    at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    let status = at
        .post(&at.secrets(), &secret("a"))
        .await?
        .refused(409, "AlreadyExists")?;
    same(
        "details",
        status.get("details").unwrap_or(&Value::Null),
        &json!({"name": "a", "kind": "secrets"}),
    )
}

async fn nowhere(at: &Place) -> Result<()> {
    let name = at.own("nowhere");
    let path = format!("/apis/storage.billyronks.io/v1/namespaces/{name}/unifiedstorageclaims");
    let status = at.post(&path, &claim("a")).await?.refused(404, "NotFound")?;
    ensure!(
        text(&status, "/message") == format!("namespaces \"{name}\" not found"),
        "{status}"
    );
    let status = at
        .post(&format!("{NAMESPACES}/{name}/secrets"), &secret("a"))
        .await?
        .refused(404, "NotFound")?;
    same(
        "details",
        status.get("details").unwrap_or(&Value::Null),
        &json!({"name": name, "kind": "namespaces"}),
    )?;
    // Reading is no question of existence.
    let list = at.get(&path).await?.is(200)?;
    ensure!(names(&list).is_empty(), "{list}");
    Ok(())
}

async fn generated(at: &Place) -> Result<()> {
    let mut given = secret("");
    given["metadata"] = json!({"generateName": "boat-"});
    let one = at.post(&at.secrets(), &given).await?.is(201)?;
    let two = at.post(&at.secrets(), &given).await?.is(201)?;
    let (one, two) = (text(&one, "/metadata/name"), text(&two, "/metadata/name"));
    ensure!(one != two, "{one} twice");
    for name in [one, two] {
        ensure!(name.starts_with("boat-") && name.len() == 10, "{name}");
    }
    given["metadata"] = json!({"generateName": "boat-", "name": "ship"});
    let named = at.post(&at.secrets(), &given).await?.is(201)?;
    ensure!(text(&named, "/metadata/name") == "ship", "{named}");
    given["metadata"] = json!({"generateName": "x".repeat(80)});
    let long = at.post(&at.secrets(), &given).await?.is(201)?;
    ensure!(text(&long, "/metadata/name").len() == 63, "{long}");
    Ok(())
}

async fn nameless(at: &Place) -> Result<()> {
    for (path, mut given) in [(at.claims(), claim("")), (at.secrets(), secret(""))] {
        given["metadata"] = json!({});
        let status = at.post(&path, &given).await?.refused(422, "Invalid")?;
        let cause = cause(&status, "metadata.name")?;
        ensure!(
            text(cause, "/reason") == "FieldValueRequired"
                && text(cause, "/message") == "Required value: name or generateName is required",
            "{status}"
        );
    }
    Ok(())
}

async fn misplaced(at: &Place) -> Result<()> {
    let made = at.post(&at.claims(), &claim("a")).await?.is(201)?;
    for (what, other) in [
        ("another name", json!({"metadata": {"name": "b"}})),
        ("another namespace", json!({"metadata": {"namespace": "default"}})),
        (
            "another version",
            json!({"apiVersion": "storage.billyronks.io/v2"}),
        ),
        ("another group", json!({"apiVersion": "v1"})),
        ("no version", json!({"apiVersion": null})),
        ("no kind", json!({"kind": null})),
    ] {
        let mut given = made.clone();
        merge(&mut given, &other);
        let answer = at.put(&at.claim("a"), &given).await?;
        answer.refused(400, "BadRequest").map_err(|e| e.context(what))?;
    }
    let mut given = made;
    merge(&mut given, &json!({"kind": "UnifiedPool"}));
    let status = at.put(&at.claim("a"), &given).await?.refused(422, "Invalid")?;
    cause(&status, "kind")?;
    for other in [
        json!({"metadata": {"namespace": "default"}}),
        json!({"kind": "ConfigMap"}),
    ] {
        let mut given = secret("b");
        merge(&mut given, &other);
        at.post(&at.secrets(), &given).await?.refused(400, "BadRequest")?;
    }
    // Of a built-in kind the path says enough.
    let bare = json!({"metadata": {"name": "c"}});
    let made = at.post(&at.secrets(), &bare).await?.is(201)?;
    ensure!(text(&made, "/kind") == "Secret", "{made}");
    Ok(())
}

async fn replaced(at: &Place) -> Result<()> {
    let made = at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    let same_again = at.put(&at.secret("a"), &made).await?.is(200)?;
    same("an equal replacement", &same_again, &made)?;
    let mut changed = made.clone();
    merge(&mut changed, &json!({"data": {"k": "dg=="}}));
    let changed = at.put(&at.secret("a"), &changed).await?.is(200)?;
    ensure!(revision(&changed)? > revision(&made)?, "{changed}");
    ensure!(text(&changed, "/data/k") == "dg==", "{changed}");
    // What a replacement leaves out is gone.
    let mut without = changed.clone();
    without["data"] = Value::Null;
    let without = at.put(&at.secret("a"), &without).await?.is(200)?;
    ensure!(without.get("data").is_none_or(Value::is_null), "{without}");
    let status = at
        .put(&at.secret("b"), &secret("b"))
        .await?
        .refused(404, "NotFound")?;
    ensure!(text(&status, "/message") == "secrets \"b\" not found", "{status}");
    Ok(())
}

async fn stale(at: &Place) -> Result<()> {
    for (path, item, given, change) in [
        (
            at.claims(),
            at.claim("a"),
            claim("a"),
            json!({"spec": {"capacity": "2Gi"}}),
        ),
        (
            at.secrets(),
            at.secret("a"),
            secret("a"),
            json!({"data": {"k": "dg=="}}),
        ),
    ] {
        let made = at.post(&path, &given).await?.is(201)?;
        let newer = at.merge(&item, &change).await?.is(200)?;
        let mut late = made.clone();
        merge(&mut late, &json!({"metadata": {"labels": {"late": "yes"}}}));
        let status = at.put(&item, &late).await?.refused(409, "Conflict")?;
        let words =
            "the object has been modified; please apply your changes to the latest version and try again";
        ensure!(text(&status, "/message").ends_with(words), "{status}");
        ensure!(text(&status, "/details/name") == "a", "{status}");
        let now = at.get(&item).await?.is(200)?;
        ensure!(now.pointer("/metadata/labels").is_none(), "{now}");
        ensure!(revision(&now)? >= revision(&newer)?, "{now}");
    }
    Ok(())
}

async fn unconditional(at: &Place) -> Result<()> {
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    let status = at
        .put(&at.claim("a"), &claim("a"))
        .await?
        .refused(422, "Invalid")?;
    let cause = cause(&status, "metadata.resourceVersion")?;
    ensure!(
        text(cause, "/message").ends_with("must be specified for an update"),
        "{status}"
    );
    at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    let mut given = secret("a");
    merge(&mut given, &json!({"data": {"k": "dg=="}}));
    at.put(&at.secret("a"), &given).await?.is(200)?;
    Ok(())
}

async fn another_uid(at: &Place) -> Result<()> {
    let mut made = at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    let uid = json!({"metadata": {"uid": "00000000-0000-4000-8000-000000000000"}});
    merge(&mut made, &uid);
    at.put(&at.secret("a"), &made).await?.refused(409, "Conflict")?;
    let status = at.merge(&at.secret("a"), &uid).await?.refused(422, "Invalid")?;
    cause(&status, "metadata.uid")?;
    Ok(())
}

async fn merge_patch(at: &Place) -> Result<()> {
    let mut given = claim("a");
    merge(
        &mut given,
        &json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x.io/a", "x.io/b"]}}),
    );
    let made = at.post(&at.claims(), &given).await?.is(201)?;
    let patch = json!({"metadata": {"labels": {"a": null, "c": "3"}, "finalizers": ["x.io/c"]}, "spec": {"capacity": "2Gi"}});
    let patched = at.merge(&at.claim("a"), &patch).await?.is(200)?;
    same(
        "labels",
        &patched["metadata"]["labels"],
        &json!({"b": "2", "c": "3"}),
    )?;
    same(
        "finalizers",
        &patched["metadata"]["finalizers"],
        &json!(["x.io/c"]),
    )?;
    ensure!(
        text(&patched, "/spec/capacity") == "2Gi" && text(&patched, "/spec/storageType") == "file",
        "{patched}"
    );
    ensure!(revision(&patched)? > revision(&made)?, "{patched}");
    let none = json!({"metadata": {"finalizers": null}});
    let free = at.merge(&at.claim("a"), &none).await?.is(200)?;
    ensure!(free.pointer("/metadata/finalizers").is_none(), "{free}");
    at.merge(&at.claim("b"), &none).await?.refused(404, "NotFound")?;
    Ok(())
}

async fn merge_patch_stale(at: &Place) -> Result<()> {
    let made = at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    let first = text(&made, "/metadata/resourceVersion");
    let with = |revision: &str, value: &str| json!({"metadata": {"resourceVersion": revision, "labels": {"a": value}}});
    let next = at.merge(&at.secret("a"), &with(first, "1")).await?.is(200)?;
    at.merge(&at.secret("a"), &with(first, "2"))
        .await?
        .refused(409, "Conflict")?;
    let newest = text(&next, "/metadata/resourceVersion");
    let last = at.merge(&at.secret("a"), &with(newest, "3")).await?.is(200)?;
    ensure!(text(&last, "/metadata/labels/a") == "3", "{last}");
    // A patch that changes nothing writes nothing.
    let idle = at
        .merge(&at.secret("a"), &json!({"metadata": {"labels": {"a": "3"}}}))
        .await?
        .is(200)?;
    same("an idle patch", &idle, &last)
}

async fn json_patch(at: &Place) -> Result<()> {
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    let good = json!([
        {"op": "test", "path": "/spec/capacity", "value": "1Gi"},
        {"op": "replace", "path": "/spec/capacity", "value": "2Gi"},
        {"op": "add", "path": "/metadata/labels", "value": {"a": "1"}},
        {"op": "copy", "from": "/metadata/labels/a", "path": "/metadata/labels/b"},
        {"op": "move", "from": "/metadata/labels/a", "path": "/metadata/labels/c~1d"},
    ]);
    let patched = at.json_patch(&at.claim("a"), &good).await?.is(200)?;
    ensure!(text(&patched, "/spec/capacity") == "2Gi", "{patched}");
    same(
        "labels",
        &patched["metadata"]["labels"],
        &json!({"b": "1", "c/d": "1"}),
    )?;
    let half = json!([
        {"op": "replace", "path": "/spec/capacity", "value": "3Gi"},
        {"op": "test", "path": "/spec/storageType", "value": "block"},
    ]);
    at.json_patch(&at.claim("a"), &half)
        .await?
        .refused(422, "Invalid")?;
    let now = at.get(&at.claim("a")).await?.is(200)?;
    ensure!(text(&now, "/spec/capacity") == "2Gi", "{now}");
    Ok(())
}

async fn json_patch_fails(at: &Place) -> Result<()> {
    at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    for operation in [
        json!({"op": "test", "path": "/type", "value": "other"}),
        json!({"op": "remove", "path": "/metadata/labels/none"}),
        json!({"op": "replace", "path": "/data/none", "value": "dg=="}),
        json!({"op": "add", "path": "/no/such/place", "value": 1}),
    ] {
        at.json_patch(&at.secret("a"), &json!([operation]))
            .await?
            .refused(422, "Invalid")
            .map_err(|e| e.context(operation.to_string()))?;
    }
    for broken in [json!({"op": "add"}), json!("text"), json!([5])] {
        at.json_patch(&at.secret("a"), &broken)
            .await?
            .refused(400, "BadRequest")
            .map_err(|e| e.context(broken.to_string()))?;
    }
    // A test for null holds where there is nothing: kube-runtime's finalizer relies on it.
    let nothing = json!([{"op": "test", "path": "/metadata/finalizers", "value": null}]);
    at.json_patch(&at.secret("a"), &nothing).await?.is(200)?;
    Ok(())
}

async fn strategic(at: &Place) -> Result<()> {
    let kind = "application/strategic-merge-patch+json";
    let patch =
        |path: String, patch: &Value| at.ask(Ask::new(Method::PATCH, path).body(kind, patch.to_string()));
    let mut given = secret("a");
    merge(&mut given, &json!({"metadata": {"finalizers": ["x.io/a"]}}));
    at.post(&at.secrets(), &given).await?.is(201)?;
    let more = json!({"metadata": {"finalizers": ["x.io/b"], "labels": {"a": "1"}}});
    let patched = patch(at.secret("a"), &more).await?.is(200)?;
    let mut held: Vec<_> = patched["metadata"]["finalizers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    held.sort_by_key(Value::to_string);
    same("finalizers", &json!(held), &json!(["x.io/a", "x.io/b"]))?;
    at.merge(&at.secret("a"), &json!({"metadata": {"finalizers": null}}))
        .await?
        .is(200)?;
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    patch(at.claim("a"), &json!({"spec": {"capacity": "2Gi"}}))
        .await?
        .refused(415, "UnsupportedMediaType")?;
    Ok(())
}

async fn generation(at: &Place) -> Result<()> {
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    let path = at.claim("a");
    let status = format!("{path}/status");
    for (path, patch, generation) in [
        (&path, json!({"metadata": {"labels": {"a": "b"}}}), 1),
        (&path, json!({"metadata": {"annotations": {"a": "b"}}}), 1),
        (&path, json!({"metadata": {"finalizers": ["x.io/a"]}}), 1),
        (
            &status,
            json!({"status": {"message": "x", "capacityBytes": 5}}),
            1,
        ),
        (&path, json!({"spec": {"capacity": "2Gi"}}), 2),
        (&path, json!({"spec": {"capacity": "2Gi"}}), 2),
        (
            &path,
            json!({"spec": {"capacity": "3Gi"}, "status": {"capacityBytes": 6}}),
            3,
        ),
        (
            &path,
            json!({"metadata": {"generation": 9, "finalizers": null}}),
            3,
        ),
    ] {
        let patched = at.merge(path, &patch).await?.is(200)?;
        ensure!(
            patched.pointer("/metadata/generation") == Some(&json!(generation)),
            "{generation} after {patch}: {patched}"
        );
    }
    Ok(())
}

async fn apart(at: &Place) -> Result<()> {
    let given = at.class("a", &json!({"storageType": "file", "tier": "cold"}));
    at.post(super::place::CLASSES, &given).await?.is(201)?;
    let path = at.class_path("a");
    let both = json!({
        "metadata": {"labels": {"by": "status"}}, "spec": {"tier": "hot"}, "status": {"volumeCount": 77},
    });
    let by_status = at.merge(&format!("{path}/status"), &both).await?.is(200)?;
    ensure!(text(&by_status, "/spec/tier") == "cold", "{by_status}");
    ensure!(
        by_status.pointer("/status/volumeCount") == Some(&json!(77)),
        "{by_status}"
    );
    ensure!(by_status.pointer("/metadata/labels/by").is_none(), "{by_status}");
    let both = json!({"spec": {"tier": "warm"}, "status": {"volumeCount": 78}});
    let by_spec = at.merge(&path, &both).await?.is(200)?;
    ensure!(text(&by_spec, "/spec/tier") == "warm", "{by_spec}");
    ensure!(
        by_spec.pointer("/status/volumeCount") != Some(&json!(78)),
        "{by_spec}"
    );
    let nothing = at.merge(&path, &json!({"status": null})).await?.is(200)?;
    ensure!(nothing.get("status").is_some(), "{nothing}");
    Ok(())
}

async fn status_replaced(at: &Place) -> Result<()> {
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    let path = format!("{}/status", at.claim("a"));
    let read = at.get(&path).await?.is(200)?;
    ensure!(text(&read, "/metadata/name") == "a", "{read}");
    // A reconciler may be quicker: then the newest is read again.
    for tries in 0.. {
        let mut newest = at.get(&path).await?.is(200)?;
        let before = newest.clone();
        merge(
            &mut newest,
            &json!({"spec": {"capacity": "9Gi"}, "status": {"capacityBytes": 7}}),
        );
        let answer = at.put(&path, &newest).await?;
        if answer.code == 409 && tries < 20 {
            continue;
        }
        let written = answer.is(200)?;
        ensure!(text(&written, "/spec/capacity") == "1Gi", "{written}");
        ensure!(
            written.pointer("/status/capacityBytes") == Some(&json!(7)),
            "{written}"
        );
        merge(
            &mut newest,
            &json!({"metadata": before["metadata"], "status": {"capacityBytes": 8}}),
        );
        at.put(&path, &newest).await?.refused(409, "Conflict")?;
        break;
    }
    let wrong = json!({"status": {"phase": "Sunk"}});
    let status = at.merge(&path, &wrong).await?.refused(422, "Invalid")?;
    cause(&status, "status.phase")?;
    at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    at.get(&format!("{}/status", at.secret("a")))
        .await?
        .refused(404, "NotFound")?;
    Ok(())
}

async fn immutable(at: &Place) -> Result<()> {
    let made = at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    let path = at.secret("a");
    let renamed = json!({"metadata": {"name": "b"}});
    at.merge(&path, &renamed).await?.refused(400, "BadRequest")?;
    let moved = json!({"metadata": {"namespace": "default"}});
    at.merge(&path, &moved).await?.refused(400, "BadRequest")?;
    // A wrong time of creation is overlooked.
    let older = json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z"}});
    let kept = at.merge(&path, &older).await?.is(200)?;
    same("the time of creation stays", &kept, &made)?;
    let doomed = json!({"metadata": {"deletionTimestamp": "2001-01-01T00:00:00Z"}});
    let status = at.merge(&path, &doomed).await?.refused(422, "Invalid")?;
    cause(&status, "metadata.deletionTimestamp")?;
    let now = at.get(&path).await?.is(200)?;
    same("nothing changed", &now, &made)
}

async fn dry_run(at: &Place) -> Result<()> {
    let dry = |path: &str| format!("{path}?dryRun=All");
    let made = at.post(&dry(&at.claims()), &claim("ghost")).await?.is(201)?;
    ensure!(!text(&made, "/metadata/uid").is_empty(), "{made}");
    at.get(&at.claim("ghost")).await?.refused(404, "NotFound")?;
    let mut wrong = claim("ghost");
    merge(&mut wrong, &json!({"spec": {"storageType": "tape"}}));
    at.post(&dry(&at.claims()), &wrong)
        .await?
        .refused(422, "Invalid")?;

    let made = at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    let path = at.secret("a");
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let patched = at.merge(&dry(&path), &label).await?.is(200)?;
    ensure!(text(&patched, "/metadata/labels/a") == "b", "{patched}");
    let mut changed = made.clone();
    merge(&mut changed, &label);
    at.put(&dry(&path), &changed).await?.is(200)?;
    at.delete(&dry(&path)).await?.is(200)?;
    at.delete_with(&path, &json!({"dryRun": ["All"]}))
        .await?
        .is(200)?;
    at.delete(&dry(&at.secrets())).await?.is(200)?;
    let now = at.get(&path).await?.is(200)?;
    same("nothing changed", &now, &made)?;
    let again = at.post(&dry(&at.secrets()), &secret("a")).await?;
    again.refused(409, "AlreadyExists")?;
    let status = at
        .post(&format!("{}?dryRun=Some", at.secrets()), &secret("b"))
        .await?;
    ensure!(status.code >= 400 && status.code < 500, "{}", status.text);
    Ok(())
}

async fn concurrent(at: &Place) -> Result<()> {
    const WRITERS: usize = 8;
    at.post(&at.secrets(), &labelled_zero()).await?.is(201)?;
    let path = at.secret("counter");
    let writers = (0..WRITERS).map(|_| async {
        for _ in 0..200 {
            let mut read = at.get(&path).await?.is(200)?;
            let count: u32 = text(&read, "/metadata/labels/count").parse()?;
            merge(
                &mut read,
                &json!({"metadata": {"labels": {"count": (count + 1).to_string()}}}),
            );
            let answer = at.put(&path, &read).await?;
            if answer.code == 200 {
                return Ok(());
            }
            answer.refused(409, "Conflict")?;
        }
        anyhow::bail!("200 conflicts in a row")
    });
    try_join_all(writers).await?;
    let read = at.get(&path).await?.is(200)?;
    ensure!(
        text(&read, "/metadata/labels/count") == WRITERS.to_string(),
        "{read}"
    );
    Ok(())
}

fn labelled_zero() -> Value {
    super::place::labelled("counter", &json!({"count": "0"}))
}

async fn concurrent_patches(at: &Place) -> Result<()> {
    at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    let path = at.secret("a");
    let path = path.as_str();
    let patches = (0..16).map(|number| async move {
        let label = json!({"metadata": {"labels": {format!("l{number}"): "x"}}});
        at.merge(path, &label).await?.is(200)
    });
    try_join_all(patches).await?;
    let read = at.get(path).await?.is(200)?;
    let labels = read["metadata"]["labels"]
        .as_object()
        .map_or(0, serde_json::Map::len);
    ensure!(labels == 16, "{read}");
    Ok(())
}

async fn secrets(at: &Place) -> Result<()> {
    let mut given = secret("a");
    merge(
        &mut given,
        &json!({"stringData": {"k": "value"}, "type": null, "immutable": true}),
    );
    let made = at.post(&at.secrets(), &given).await?.is(201)?;
    ensure!(text(&made, "/data/k") == "dmFsdWU=", "{made}");
    ensure!(
        text(&made, "/type") == "Opaque" && made.get("stringData").is_none(),
        "{made}"
    );
    let status = at
        .merge(&at.secret("a"), &json!({"data": {"k": "dg=="}}))
        .await?
        .refused(422, "Invalid")?;
    cause(&status, "data")?;
    at.merge(&at.secret("a"), &json!({"metadata": {"labels": {"a": "b"}}}))
        .await?
        .is(200)?;
    let status = at
        .merge(&at.secret("a"), &json!({"type": "other/type"}))
        .await?
        .refused(422, "Invalid")?;
    cause(&status, "type")?;
    let mut wrong = secret("b");
    merge(&mut wrong, &json!({"data": {"k": "not base64!"}}));
    at.post(&at.secrets(), &wrong).await?.refused(400, "BadRequest")?;
    Ok(())
}

async fn yaml(at: &Place) -> Result<()> {
    let body = "apiVersion: storage.billyronks.io/v1\nkind: UnifiedStorageClaim\nmetadata: {name: yacht}\n\
                spec: {storageType: file, capacity: 1Gi, className: no-such-class}\n";
    let ask = Ask::new(Method::POST, at.claims())
        .body("application/yaml", body)
        .accept("application/yaml");
    let answer = at.ask(ask).await?;
    ensure!(
        answer.code == 201 && answer.media_type == "application/yaml",
        "{} {}: {}",
        answer.code,
        answer.media_type,
        answer.text
    );
    ensure!(answer.text.contains("\n  capacity: 1Gi\n"), "{}", answer.text);
    let read = at.get(&at.claim("yacht")).await?.is(200)?;
    ensure!(text(&read, "/metadata/name") == "yacht", "{read}");
    Ok(())
}
