//! Schemas, rules, defaults, unknown fields, names.

use anyhow::{Result, ensure};
use http::Method;
use serde_json::{Value, json};

use super::{
    Case, laws,
    place::{Ask, CLASSES, Place, cause, claim, merge, same, secret, text},
};

pub(super) fn laws() -> Vec<Case> {
    laws![
        "every wrong field is named in the causes with its reason" => wrong_fields,
        "several wrong fields are all named at once" => several,
        "one wrong field reads as one sentence" => sentence,
        "defaults are filled in, at every depth, also over null" => defaults,
        "rules judge an object and name the field and their message" => rules,
        "rules of transition judge changes only" => transitions,
        "a patch into an invalid object is 422 and changes nothing" => invalid_patch,
        "items of a keyed list are unique" => keyed_lists,
        "unknown fields are dropped with a warning, refused, or dropped silently, as asked" => unknown,
        "unknown fields of metadata and of built-in kinds are treated alike" => unknown_elsewhere,
        "a field given twice is warned of or refused" => twice,
        "fieldValidation and dryRun that nobody knows are refused" => unknown_options,
        "names keep their syntax" => object_names,
        "labels, annotations and finalizers keep their syntax and size" => metadata,
    ]
}

fn with(spec: &Value) -> Value {
    let mut given = claim("a");
    merge(&mut given, &json!({"spec": spec}));
    given
}

async fn wrong_fields(at: &Place) -> Result<()> {
    let mut missing = claim("a");
    missing["spec"] = json!({"storageType": "file"});
    let mut no_spec = claim("a");
    no_spec["spec"] = Value::Null;
    let twelve = "1".repeat(40);
    for (given, field, reason, words) in [
        (missing, "spec.capacity", "FieldValueRequired", "Required value"),
        (no_spec, "spec", "FieldValueRequired", "Required value"),
        (
            with(&json!({"capacity": 5})),
            "spec.capacity",
            "FieldValueTypeInvalid",
            "must be of type string",
        ),
        (
            with(&json!({"capacity": "lots"})),
            "spec.capacity",
            "FieldValueInvalid",
            "should match",
        ),
        (
            with(&json!({"capacity": twelve})),
            "spec.capacity",
            "FieldValueTooLong",
            "Too long",
        ),
        (
            with(&json!({"storageType": "tape"})),
            "spec.storageType",
            "FieldValueNotSupported",
            "\"object\"",
        ),
        (
            with(&json!({"redundancy": {"replicationFactor": 0}})),
            "spec.redundancy.replicationFactor",
            "FieldValueInvalid",
            "greater than or equal to 1",
        ),
        (
            with(&json!({"redundancy": {"replicationFactor": 11}})),
            "spec.redundancy.replicationFactor",
            "FieldValueInvalid",
            "less than or equal to 10",
        ),
        (
            with(&json!({"redundancy": {"replicationFactor": 1.5}})),
            "spec.redundancy.replicationFactor",
            "FieldValueTypeInvalid",
            "must be of type int",
        ),
        (
            with(&json!({"redundancy": []})),
            "spec.redundancy",
            "FieldValueTypeInvalid",
            "must be of type object",
        ),
    ] {
        let status = at.post(&at.claims(), &given).await?.refused(422, "Invalid")?;
        let cause = cause(&status, field)?;
        ensure!(
            text(cause, "/reason") == reason && text(cause, "/message").contains(words),
            "{reason} {words}: {status}"
        );
        ensure!(
            text(&status, "/details/kind") == "UnifiedStorageClaim"
                && text(&status, "/details/group") == "storage.billyronks.io",
            "{status}"
        );
    }
    Ok(())
}

async fn several(at: &Place) -> Result<()> {
    let given = with(&json!({"capacity": "lots", "storageType": "tape", "tier": "tepid"}));
    let status = at.post(&at.claims(), &given).await?.refused(422, "Invalid")?;
    for field in ["spec.capacity", "spec.storageType", "spec.tier"] {
        cause(&status, field)?;
    }
    Ok(())
}

async fn sentence(at: &Place) -> Result<()> {
    let mut given = with(&json!({}));
    given["spec"]["className"] = json!("x".repeat(254));
    let status = at.post(&at.claims(), &given).await?.refused(422, "Invalid")?;
    let begin = "UnifiedStorageClaim.storage.billyronks.io \"a\" is invalid: ";
    ensure!(text(&status, "/message").starts_with(begin), "{status}");
    let given = at.class("a", &json!({"hardwarePreference": {"minDriveCount": 0}}));
    let status = at.post(CLASSES, &given).await?.refused(422, "Invalid")?;
    let field = "spec.hardwarePreference.minDriveCount";
    let words = format!(
        "is invalid: {field}: Invalid value: 0: {field} in body should be greater than or equal to 1"
    );
    ensure!(text(&status, "/message").contains(&words), "{status}");
    Ok(())
}

async fn defaults(at: &Place) -> Result<()> {
    let given = at.class("a", &json!({"tier": null, "capacity": {"maxIOPS": 5}}));
    let made = at.post(CLASSES, &given).await?.is(201)?;
    let expected = json!({
        "storageType": "auto", "tier": "auto", "reclaimPolicy": "Delete", "isDefault": false,
        "capacity": {"allowExpansion": true, "maxIOPS": 5},
        "hardwarePreference": {"driveType": "auto", "preferZns": false},
        "platformOverrides": {}, "poolSelector": {}, "redundancy": {"type": "none"},
    });
    same("spec", &made["spec"], &expected)?;
    let removed = json!({"spec": {"reclaimPolicy": null}});
    let patched = at.merge(&at.class_path("a"), &removed).await?.is(200)?;
    same("spec", &patched["spec"], &expected)?;
    ensure!(
        patched.pointer("/metadata/generation") == Some(&json!(1)),
        "{patched}"
    );
    let status = json!({"status": {"volumeCount": 5}});
    let path = format!("{}/status", at.class_path("a"));
    let written = at.merge(&path, &status).await?.is(200)?;
    ensure!(!text(&written, "/status/phase").is_empty(), "{written}");
    Ok(())
}

async fn rules(at: &Place) -> Result<()> {
    let given = at.class("a", &json!({"storageType": "file", "backend": "mayastor"}));
    let status = at.post(CLASSES, &given).await?.refused(422, "Invalid")?;
    let broken = cause(&status, "spec")?;
    ensure!(
        text(broken, "/reason") == "FieldValueInvalid"
            && text(broken, "/message")
                .ends_with("mayastor serves block, seaweedfs and rustfs serve file and object"),
        "{status}"
    );
    let given = with(&json!({"redundancy": {"type": "none", "ecPolicy": "4+2"}}));
    let status = at.post(&at.claims(), &given).await?.refused(422, "Invalid")?;
    let broken = cause(&status, "spec.redundancy")?;
    ensure!(
        text(broken, "/message").ends_with("ecPolicy goes with type erasureCoding"),
        "{status}"
    );
    let right = with(&json!({"redundancy": {"type": "erasureCoding", "ecPolicy": "4+2"}}));
    at.post(&at.claims(), &right).await?.is(201)?;
    Ok(())
}

async fn transitions(at: &Place) -> Result<()> {
    at.post(&at.claims(), &with(&json!({}))).await?.is(201)?;
    let path = at.claim("a");
    let status = at
        .merge(&path, &json!({"spec": {"storageType": "object"}}))
        .await?
        .refused(422, "Invalid")?;
    let broken = cause(&status, "spec")?;
    ensure!(
        text(broken, "/message").ends_with("storageType cannot be changed: make another claim"),
        "{status}"
    );
    for patch in [
        json!({"spec": {"volumeName": "uv-2"}}),
        json!({"spec": {"className": "other"}}),
        json!({"spec": {"tier": "hot"}}),
        json!({"spec": {"reclaimPolicy": "Retain"}}),
        json!({"spec": {"redundancy": {"type": "none"}}}),
    ] {
        let status = at.merge(&path, &patch).await?.refused(422, "Invalid")?;
        cause(&status, "spec")?;
    }
    let mut named = claim("named");
    let spec = json!({
        "volumeName": "uv-1", "redundancy": {"type": "replication", "replicationFactor": 2}, "reclaimPolicy": "Retain",
    });
    merge(&mut named, &json!({"spec": spec}));
    at.post(&at.claims(), &named).await?.is(201)?;
    let named = at.claim("named");
    for patch in [
        json!({"spec": {"volumeName": null}}),
        json!({"spec": {"reclaimPolicy": null}}),
        json!({"spec": {"redundancy": {"replicationFactor": 3}}}),
        json!({"spec": {"redundancy": null}}),
    ] {
        let status = at.merge(&named, &patch).await?.refused(422, "Invalid")?;
        cause(&status, "spec")?;
    }
    at.merge(&named, &json!({"spec": {"redundancy": {"replicationFactor": 2}}}))
        .await?
        .is(200)?;
    at.merge(&path, &json!({"spec": {"capacity": "2Gi"}}))
        .await?
        .is(200)?;
    Ok(())
}

async fn invalid_patch(at: &Place) -> Result<()> {
    at.post(&at.claims(), &with(&json!({}))).await?.is(201)?;
    let path = at.claim("a");
    let status = at
        .merge(&path, &json!({"spec": {"capacity": "lots"}}))
        .await?
        .refused(422, "Invalid")?;
    cause(&status, "spec.capacity")?;
    at.merge(&path, &json!({"spec": {"capacity": null}}))
        .await?
        .refused(422, "Invalid")?;
    let remove = json!([{"op": "remove", "path": "/spec"}]);
    at.json_patch(&path, &remove).await?.refused(422, "Invalid")?;
    let now = at.get(&path).await?.is(200)?;
    ensure!(text(&now, "/spec/capacity") == "1Gi", "{now}");
    ensure!(now.pointer("/metadata/generation") == Some(&json!(1)), "{now}");
    Ok(())
}

async fn keyed_lists(at: &Place) -> Result<()> {
    at.post(&at.claims(), &with(&json!({}))).await?.is(201)?;
    let condition = json!({
        "type": "Ready", "status": "True", "reason": "R", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let path = format!("{}/status", at.claim("a"));
    let one = json!({"status": {"conditions": [condition]}});
    at.merge(&path, &one).await?.is(200)?;
    let two = json!({"status": {"conditions": [condition, condition]}});
    let status = at.merge(&path, &two).await?.refused(422, "Invalid")?;
    let broken = cause(&status, "status.conditions[1]")?;
    ensure!(text(broken, "/reason") == "FieldValueDuplicate", "{status}");
    let mut wrong = one;
    wrong["status"]["conditions"][0]["lastTransitionTime"] = json!("yesterday");
    let status = at.merge(&path, &wrong).await?.refused(422, "Invalid")?;
    cause(&status, "status.conditions[0].lastTransitionTime")?;
    Ok(())
}

async fn unknown(at: &Place) -> Result<()> {
    let given = with(&json!({"sails": 3, "redundancy": {"ropes": 1}}));
    let path = |mode: &str| format!("{}?fieldValidation={mode}", at.claims());
    let status = at
        .post(&path("Strict"), &given)
        .await?
        .refused(400, "BadRequest")?;
    for field in ["spec.sails", "spec.redundancy.ropes"] {
        let words = format!("unknown field \"{field}\"");
        ensure!(text(&status, "/message").contains(&words), "{status}");
    }
    ensure!(
        text(&status, "/message").contains("strict decoding error"),
        "{status}"
    );
    at.get(&at.claim("a")).await?.refused(404, "NotFound")?;
    for (number, (query, warnings)) in [("Warn", 2), ("", 2), ("Ignore", 0)].into_iter().enumerate() {
        let mut given = given.clone();
        given["metadata"]["name"] = json!(format!("w{number}"));
        let answer = at.post(&path(query), &given).await?;
        ensure!(
            answer.warnings.len() == warnings,
            "{query}: {:?}",
            answer.warnings
        );
        if warnings > 0 {
            let words = "299 - \"unknown field \\\"spec.sails\\\"\"";
            ensure!(
                answer.warnings.iter().any(|warning| warning == words),
                "{:?}",
                answer.warnings
            );
        }
        let made = answer.is(201)?;
        ensure!(made.pointer("/spec/sails").is_none(), "{made}");
        ensure!(made.pointer("/spec/redundancy/ropes").is_none(), "{made}");
    }
    let strict = format!("{}?fieldValidation=Strict", at.claim("w0"));
    let status = at
        .merge(&strict, &json!({"spec": {"sails": 3}}))
        .await?
        .refused(422, "Invalid")?;
    ensure!(text(&status, "/message").contains("sails"), "{status}");
    let warned = at.merge(&at.claim("w0"), &json!({"spec": {"sails": 3}})).await?;
    ensure!(warned.warnings.len() == 1, "{:?}", warned.warnings);
    warned.is(200)?;
    Ok(())
}

async fn unknown_elsewhere(at: &Place) -> Result<()> {
    let mut given = secret("a");
    merge(&mut given, &json!({"metadata": {"colour": "red"}, "sails": 3}));
    let path = format!("{}?fieldValidation=Strict", at.secrets());
    let status = at.post(&path, &given).await?.refused(400, "BadRequest")?;
    for field in ["metadata.colour", "sails"] {
        let words = format!("unknown field \"{field}\"");
        ensure!(text(&status, "/message").contains(&words), "{status}");
    }
    let answer = at.post(&at.secrets(), &given).await?;
    ensure!(answer.warnings.len() == 2, "{:?}", answer.warnings);
    let made = answer.is(201)?;
    ensure!(made.get("sails").is_none(), "{made}");
    let mut given = with(&json!({}));
    merge(&mut given, &json!({"metadata": {"colour": "red"}, "sails": 3}));
    let path = format!("{}?fieldValidation=Strict", at.claims());
    let status = at.post(&path, &given).await?.refused(400, "BadRequest")?;
    ensure!(
        text(&status, "/message").contains("unknown field \"sails\""),
        "{status}"
    );
    Ok(())
}

async fn twice(at: &Place) -> Result<()> {
    let body = format!(
        "{{\"apiVersion\":\"storage.billyronks.io/v1\",\"kind\":\"UnifiedStorageClaim\",\
         \"metadata\":{{\"name\":\"a\",\"namespace\":\"{}\"}},\
         \"spec\":{{\"storageType\":\"file\",\"capacity\":\"1Gi\",\"capacity\":\"2Gi\",\"className\":\"no-such-class\"}}}}",
        at.name
    );
    let ask = |query: &str| {
        let path = format!("{}{query}", at.claims());
        at.ask(Ask::new(Method::POST, path).body("application/json", body.clone()))
    };
    let status = ask("?fieldValidation=Strict").await?.refused(400, "BadRequest")?;
    ensure!(
        text(&status, "/message").contains("duplicate field \"spec.capacity\""),
        "{status}"
    );
    let answer = ask("").await?;
    ensure!(
        answer.warnings == ["299 - \"duplicate field \\\"spec.capacity\\\"\""],
        "{:?}",
        answer.warnings
    );
    let made = answer.is(201)?;
    ensure!(
        text(&made, "/spec/capacity") == "2Gi",
        "the last one counts: {made}"
    );
    Ok(())
}

async fn unknown_options(at: &Place) -> Result<()> {
    for query in ["fieldValidation=Sometimes", "dryRun=Some"] {
        let answer = at.post(&format!("{}?{query}", at.claims()), &claim("a")).await?;
        answer.refused(422, "Invalid").map_err(|e| e.context(query))?;
    }
    at.get(&at.claim("a")).await?.refused(404, "NotFound")?;
    Ok(())
}

async fn object_names(at: &Place) -> Result<()> {
    for name in ["UPPER", "under_score", "-a", "a-", "a..b", &"x".repeat(254)] {
        let status = at
            .post(&at.claims(), &claim(name))
            .await?
            .refused(422, "Invalid")
            .map_err(|e| e.context(name.to_owned()))?;
        cause(&status, "metadata.name")?;
    }
    let long = "x".repeat(253);
    for name in ["a.b-c.9", "0", long.as_str()] {
        at.post(&at.claims(), &claim(name)).await?.is(201)?;
    }
    let dotted = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a.b"}});
    let status = at
        .post(super::place::NAMESPACES, &dotted)
        .await?
        .refused(422, "Invalid")?;
    cause(&status, "metadata.name")?;
    Ok(())
}

async fn metadata(at: &Place) -> Result<()> {
    for (metadata, field) in [
        (json!({"labels": {"ok": "not ok"}}), "metadata.labels"),
        (json!({"labels": {"not ok": "ok"}}), "metadata.labels"),
        (json!({"labels": {"ok": "x".repeat(64)}}), "metadata.labels"),
        (json!({"annotations": {"not ok": "x"}}), "metadata.annotations"),
        (
            json!({"annotations": {"ok": "x".repeat(257 << 10)}}),
            "metadata.annotations",
        ),
        (json!({"finalizers": ["not ok/x"]}), "metadata.finalizers"),
    ] {
        let mut given = claim("a");
        merge(&mut given, &json!({"metadata": metadata}));
        let status = at.post(&at.claims(), &given).await?.refused(422, "Invalid")?;
        let causes = status["details"]["causes"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        ensure!(
            causes
                .iter()
                .any(|cause| text(cause, "/field").starts_with(field)),
            "{field}: {status}"
        );
    }
    let mut given = claim("a");
    merge(&mut given, &json!({"metadata": {"labels": {"a": 5}}}));
    at.post(&at.claims(), &given).await?.refused(400, "BadRequest")?;
    Ok(())
}
