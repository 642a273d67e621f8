//! Requests that are wrong in themselves, and the departures that are meant.

use anyhow::{Result, ensure};
use http::Method;
use serde_json::{Value, json};

use super::{
    Case, laws,
    place::{Ask, CLASSES, NAMESPACES, Place, claim, merge, secret, text},
};

pub(super) fn laws() -> Vec<Case> {
    laws![
        "a path, group, version, kind or subresource that nobody serves is 404" => paths,
        "an object that is not there is 404 and named with its kind" => missing,
        "a verb that a path does not have is 405" => verbs,
        "a scope that a kind does not have is no path" => scopes,
        "a body that is no object is 400" => broken_bodies,
        "a body in an unknown format is 415, for objects and for patches" => media_types,
        "an answer in an unknown format is 406" => not_acceptable,
        "a body of more than 3 MiB is 413" => too_large,
        "an object that grows too large is refused, and the old one stays" => grows,
        "JSON that is nested without end is 400" => deep,
        "scaling is refused where a kind has no scale" => scale,
        "every refusal is a whole Status" => shapes,
    ]
}

pub(super) fn departures() -> Vec<Case> {
    laws![
        "server-side apply is 415 and says what to use instead" => no_apply,
        "objects carry no managedFields" => no_managed_fields,
        "definitions come with the program: writing them is 405" => no_definitions,
        "only our kinds and those that they need are served" => no_pods,
    ]
}

async fn paths(at: &Place) -> Result<()> {
    for path in [
        "/apis/no.such.group/v1/things",
        "/apis/storage.billyronks.io/v9/unifiedpools",
        "/apis/storage.billyronks.io/v1/boats",
        "/api/v1/boats",
        "/api/v2/secrets",
        "/apis/storage.billyronks.io/v1/unifiedpools/a/boats",
    ] {
        let answer = at.get(path).await?;
        ensure!(answer.code == 404, "{path}: {} {}", answer.code, answer.text);
    }
    Ok(())
}

async fn missing(at: &Place) -> Result<()> {
    let status = at.get(&at.claim("a")).await?.refused(404, "NotFound")?;
    ensure!(
        text(&status, "/message") == "unifiedstorageclaims.storage.billyronks.io \"a\" not found",
        "{status}"
    );
    super::place::same(
        "details",
        &status["details"],
        &json!({"name": "a", "group": "storage.billyronks.io", "kind": "unifiedstorageclaims"}),
    )?;
    let status = at.get(&at.secret("a")).await?.refused(404, "NotFound")?;
    super::place::same(
        "details",
        &status["details"],
        &json!({"name": "a", "kind": "secrets"}),
    )?;
    for path in [at.claim("a"), at.secret("a")] {
        at.merge(&path, &json!({})).await?.refused(404, "NotFound")?;
        at.delete(&path).await?.refused(404, "NotFound")?;
    }
    Ok(())
}

async fn verbs(at: &Place) -> Result<()> {
    at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    for (method, path) in [
        (Method::PUT, at.secrets()),
        (Method::PATCH, at.secrets()),
        (Method::POST, at.secret("a")),
        (Method::PUT, at.claims()),
        (Method::PATCH, at.claims()),
        (Method::POST, at.claim("a")),
        (Method::POST, format!("{}/status", at.claim("a"))),
        (Method::DELETE, format!("{}/status", at.claim("a"))),
        (Method::POST, "/api/v1/secrets".to_owned()),
        (
            Method::POST,
            "/apis/storage.billyronks.io/v1/unifiedstorageclaims".to_owned(),
        ),
        (Method::DELETE, NAMESPACES.to_owned()),
    ] {
        let ask = Ask::new(method.clone(), &path).body("application/json", "{}");
        let answer = at.ask(ask).await?;
        answer
            .refused(405, "MethodNotAllowed")
            .map_err(|e| e.context(format!("{method} {path}")))?;
    }
    Ok(())
}

async fn scopes(at: &Place) -> Result<()> {
    let path = format!(
        "/apis/storage.billyronks.io/v1/namespaces/{}/unifiedstorageclasses",
        at.name
    );
    let answer = at.get(&path).await?;
    ensure!(answer.code == 404, "{} {}", answer.code, answer.text);
    let answer = at
        .get("/apis/storage.billyronks.io/v1/unifiedstorageclaims/a")
        .await?;
    ensure!(answer.code == 404, "{} {}", answer.code, answer.text);
    Ok(())
}

async fn broken_bodies(at: &Place) -> Result<()> {
    for path in [at.claims(), at.secrets()] {
        for body in ["", "{", "[]", "5", "\"text\"", "null", "\u{0}"] {
            let ask = Ask::new(Method::POST, &path).body("application/json", body);
            at.ask(ask)
                .await?
                .refused(400, "BadRequest")
                .map_err(|e| e.context(format!("{path} {body:?}")))?;
        }
    }
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    for body in ["", "{", "[]", "5"] {
        let ask = Ask::new(Method::PATCH, at.claim("a")).body("application/merge-patch+json", body);
        at.ask(ask)
            .await?
            .refused(400, "BadRequest")
            .map_err(|e| e.context(format!("patch {body:?}")))?;
    }
    let mut wrong = claim("b");
    wrong["metadata"] = json!("text");
    at.post(&at.claims(), &wrong).await?.refused(400, "BadRequest")?;
    let mut wrong = secret("b");
    wrong["data"] = json!(5);
    at.post(&at.secrets(), &wrong).await?.refused(400, "BadRequest")?;
    Ok(())
}

async fn media_types(at: &Place) -> Result<()> {
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    for media_type in ["text/plain", "application/xml"] {
        let ask = Ask::new(Method::POST, at.claims()).body(media_type, claim("b").to_string());
        at.ask(ask).await?.refused(415, "UnsupportedMediaType")?;
        let ask = Ask::new(Method::PUT, at.claim("a")).body(media_type, claim("a").to_string());
        at.ask(ask).await?.refused(415, "UnsupportedMediaType")?;
    }
    for media_type in ["application/json", "text/plain", "application/merge-patch+yaml"] {
        let ask = Ask::new(Method::PATCH, at.claim("a")).body(media_type, "{}");
        at.ask(ask).await?.refused(415, "UnsupportedMediaType")?;
    }
    // Custom objects have no protobuf.
    let ask = Ask::new(Method::POST, at.claims()).body("application/vnd.kubernetes.protobuf", "k8s\0");
    at.ask(ask).await?.refused(415, "UnsupportedMediaType")?;
    Ok(())
}

async fn not_acceptable(at: &Place) -> Result<()> {
    for path in [at.claims(), at.secrets()] {
        for media_type in ["image/png", "text/html"] {
            let ask = Ask::new(Method::GET, &path).accept(media_type);
            at.ask(ask).await?.refused(406, "NotAcceptable")?;
        }
        for media_type in ["*/*", "application/*", "image/png, application/json", ""] {
            let answer = at.ask(Ask::new(Method::GET, &path).accept(media_type)).await?;
            ensure!(
                answer.code == 200 && answer.media_type.starts_with("application/json"),
                "{media_type:?}: {} {}",
                answer.code,
                answer.media_type
            );
        }
    }
    Ok(())
}

async fn too_large(at: &Place) -> Result<()> {
    let body = format!("{}{}", secret("a"), " ".repeat(4 << 20));
    let ask = Ask::new(Method::POST, at.secrets()).body("application/json", body);
    at.ask(ask).await?.refused(413, "RequestEntityTooLarge")?;
    at.get(&at.secret("a")).await?.refused(404, "NotFound")?;
    Ok(())
}

async fn grows(at: &Place) -> Result<()> {
    let mut given = claim("a");
    merge(
        &mut given,
        &json!({"metadata": {"annotations": {"a": "x".repeat(200 << 10)}}}),
    );
    let made = at.post(&at.claims(), &given).await?.is(201)?;
    let more = json!({"metadata": {"annotations": {"b": "x".repeat(200 << 10)}}});
    let answer = at.merge(&at.claim("a"), &more).await?;
    ensure!(
        answer.code == 413 || answer.code == 422,
        "{} {}",
        answer.code,
        answer.text
    );
    let now = at.get(&at.claim("a")).await?.is(200)?;
    ensure!(
        now["metadata"]["annotations"] == made["metadata"]["annotations"],
        "the old one stays"
    );
    Ok(())
}

async fn deep(at: &Place) -> Result<()> {
    let depth = 100_000;
    let body = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let ask = Ask::new(Method::POST, at.claims()).body("application/json", body);
    at.ask(ask).await?.refused(400, "BadRequest")?;
    Ok(())
}

async fn scale(at: &Place) -> Result<()> {
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    let path = format!("{}/scale", at.claim("a"));
    let answer = at.get(&path).await?;
    ensure!(answer.code == 404, "{} {}", answer.code, answer.text);
    let answer = at.merge(&path, &json!({"spec": {"replicas": 2}})).await?;
    ensure!(answer.code == 404, "{} {}", answer.code, answer.text);
    Ok(())
}

async fn shapes(at: &Place) -> Result<()> {
    let path = at.class_path("none");
    let status = at.get(&path).await?.refused(404, "NotFound")?;
    ensure!(status.pointer("/details/uid").is_none(), "{status}");
    let wrong = at.class("a", &json!({"tier": "tepid"}));
    let status = at.post(CLASSES, &wrong).await?.refused(422, "Invalid")?;
    let causes = status["details"]["causes"].as_array().map_or(0, Vec::len);
    ensure!(causes >= 1, "{status}");
    for cause in status["details"]["causes"].as_array().into_iter().flatten() {
        ensure!(
            ["reason", "message", "field"]
                .iter()
                .all(|part| cause.get(*part).is_some_and(Value::is_string)),
            "{cause}"
        );
    }
    Ok(())
}

async fn no_apply(at: &Place) -> Result<()> {
    let path = format!("{}?fieldManager=me", at.claim("a"));
    let ask = Ask::new(Method::PATCH, path).body("application/apply-patch+yaml", claim("a").to_string());
    let status = at.ask(ask).await?.refused(415, "UnsupportedMediaType")?;
    ensure!(text(&status, "/message").contains("merge patch"), "{status}");
    at.get(&at.claim("a")).await?.refused(404, "NotFound")?;
    Ok(())
}

async fn no_managed_fields(at: &Place) -> Result<()> {
    let made = at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    ensure!(made.pointer("/metadata/managedFields").is_none(), "{made}");
    Ok(())
}

async fn no_definitions(at: &Place) -> Result<()> {
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    at.post(&format!("{path}?dryRun=All"), &json!({}))
        .await?
        .refused(405, "MethodNotAllowed")?;
    Ok(())
}

async fn no_pods(at: &Place) -> Result<()> {
    at.get(&format!("{NAMESPACES}/{}/pods", at.name))
        .await?
        .refused(404, "NotFound")?;
    Ok(())
}
