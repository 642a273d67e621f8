//! How clients find out what is served: discovery, OpenAPI, definitions, health.

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::{Value, json};

use super::{
    Case, laws,
    place::{Ask, Place, items, text},
};

const GROUP: &str = "storage.billyronks.io";
/// Plural, kind, short name, namespaced.
const KINDS: [(&str, &str, &str, bool); 6] = [
    ("unifiedstorageclasses", "UnifiedStorageClass", "usc", false),
    ("storagenodes", "StorageNode", "sn", false),
    ("unifiedpools", "UnifiedPool", "up", false),
    ("poolmembers", "PoolMember", "pm", false),
    ("unifiedstorageclaims", "UnifiedStorageClaim", "uclaim", true),
    ("unifiedvolumes", "UnifiedVolume", "uv", false),
];

pub(super) fn laws() -> Vec<Case> {
    laws![
        "groups and versions are listed" => groups,
        "every kind is listed with its names, scope, verbs and status" => resources,
        "aggregated discovery says the same in one answer" => aggregated,
        "OpenAPI v3 describes every kind" => openapi,
        "definitions are read, established, and have printer columns" => definitions,
        "version and health are answered" => health,
        "kube-rs discovers the kinds by itself" => by_client,
    ]
}

async fn groups(at: &Place) -> Result<()> {
    let core = at.get("/api").await?.is(200)?;
    ensure!(
        text(&core, "/kind") == "APIVersions" && core["versions"] == json!(["v1"]),
        "{core}"
    );
    let groups = at.get("/apis").await?.is(200)?;
    ensure!(text(&groups, "/kind") == "APIGroupList", "{groups}");
    let ours = groups["groups"].as_array().into_iter().flatten();
    let ours = ours
        .into_iter()
        .find(|group| text(group, "/name") == GROUP)
        .with_context(|| groups.to_string())?;
    ensure!(
        text(ours, "/preferredVersion/groupVersion") == "storage.billyronks.io/v1",
        "{ours}"
    );
    let one = at.get(&format!("/apis/{GROUP}")).await?.is(200)?;
    ensure!(
        text(&one, "/kind") == "APIGroup" && one["versions"] == ours["versions"],
        "{one}"
    );
    at.get("/apis/no.such.group").await?.is(404)?;
    Ok(())
}

fn find<'a>(list: &'a Value, name: &str) -> Result<&'a Value> {
    list["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|resource| text(resource, "/name") == name)
        .with_context(|| format!("{name} is not in {list}"))
}

async fn resources(at: &Place) -> Result<()> {
    let list = at.get(&format!("/apis/{GROUP}/v1")).await?.is(200)?;
    ensure!(
        text(&list, "/kind") == "APIResourceList"
            && text(&list, "/groupVersion") == "storage.billyronks.io/v1",
        "{list}"
    );
    for (plural, kind, short, namespaced) in KINDS {
        let one = find(&list, plural)?;
        ensure!(
            text(one, "/kind") == kind
                && one["namespaced"] == json!(namespaced)
                && one["shortNames"] == json!([short])
                && one["categories"] == json!(["smart-storage"])
                && text(one, "/singularName") == kind.to_lowercase(),
            "{one}"
        );
        let mut verbs: Vec<&str> = one["verbs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        verbs.sort_unstable();
        ensure!(
            verbs
                == [
                    "create",
                    "delete",
                    "deletecollection",
                    "get",
                    "list",
                    "patch",
                    "update",
                    "watch"
                ],
            "{verbs:?}"
        );
        let status = find(&list, &format!("{plural}/status"))?;
        let mut verbs: Vec<&str> = status["verbs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        verbs.sort_unstable();
        ensure!(verbs == ["get", "patch", "update"], "{status}");
        ensure!(find(&list, &format!("{plural}/scale")).is_err(), "{list}");
    }
    let core = at.get("/api/v1").await?.is(200)?;
    for plural in ["namespaces", "secrets", "configmaps", "events"] {
        find(&core, plural)?;
    }
    let leases = at.get("/apis/coordination.k8s.io/v1").await?.is(200)?;
    find(&leases, "leases")?;
    Ok(())
}

async fn aggregated(at: &Place) -> Result<()> {
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let answer = at.ask(Ask::new(Method::GET, "/apis").accept(accept)).await?;
    ensure!(
        answer.media_type.contains("as=APIGroupDiscoveryList"),
        "{}",
        answer.media_type
    );
    let list = answer.is(200)?;
    ensure!(text(&list, "/kind") == "APIGroupDiscoveryList", "{list}");
    let group = items(&list)
        .iter()
        .find(|group| text(group, "/metadata/name") == GROUP)
        .with_context(|| list.to_string())?;
    for (plural, kind, short, namespaced) in KINDS {
        let one = group["versions"][0]["resources"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|resource| text(resource, "/resource") == plural)
            .with_context(|| format!("{plural} is not in {group}"))?;
        ensure!(
            text(one, "/responseKind/kind") == kind
                && one["shortNames"] == json!([short])
                && (text(one, "/scope") == "Namespaced") == namespaced
                && text(one, "/subresources/0/subresource") == "status",
            "{one}"
        );
    }
    let core = at
        .ask(Ask::new(Method::GET, "/api").accept(accept))
        .await?
        .is(200)?;
    ensure!(text(&core, "/kind") == "APIGroupDiscoveryList", "{core}");
    Ok(())
}

async fn openapi(at: &Place) -> Result<()> {
    let index = at.get("/openapi/v3").await?.is(200)?;
    let ours = "apis/storage.billyronks.io/v1";
    let url = text(&index["paths"][ours], "/serverRelativeURL").to_owned();
    ensure!(!url.is_empty(), "{index}");
    let document = at.get(&url).await?.is(200)?;
    ensure!(text(&document, "/openapi").starts_with("3."), "{url}");
    for (plural, kind, _, namespaced) in KINDS {
        let schema = &document["components"]["schemas"][format!("io.billyronks.storage.v1.{kind}")];
        ensure!(
            schema["x-kubernetes-group-version-kind"][0]["kind"] == json!(kind)
                && !text(schema, "/description").is_empty()
                && schema.pointer("/properties/spec/properties").is_some(),
            "{kind}: {schema}"
        );
        let place = if namespaced { "namespaces/{namespace}/" } else { "" };
        let path = format!("/{ours}/{place}{plural}/{{name}}");
        let patch = &document["paths"][&path]["patch"];
        let parameters: Vec<&str> = patch["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|parameter| text(parameter, "/name"))
            .collect();
        // kubectl looks for these before it trusts a server with a dry run or with validation.
        for name in ["dryRun", "fieldValidation"] {
            ensure!(parameters.contains(&name), "{path}: {parameters:?}");
        }
    }
    Ok(())
}

async fn definitions(at: &Place) -> Result<()> {
    let base = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    for (plural, kind, _, _) in KINDS {
        let definition = at.get(&format!("{base}/{plural}.{GROUP}")).await?.is(200)?;
        ensure!(text(&definition, "/spec/names/kind") == kind, "{definition}");
        let established = definition["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| {
                text(condition, "/type") == "Established" && text(condition, "/status") == "True"
            });
        ensure!(established, "{plural} is not established");
        ensure!(
            definition
                .pointer("/spec/versions/0/additionalPrinterColumns/0")
                .is_some()
                && definition
                    .pointer("/spec/versions/0/subresources/status")
                    .is_some(),
            "{plural}"
        );
    }
    Ok(())
}

async fn health(at: &Place) -> Result<()> {
    for path in ["/healthz", "/livez", "/readyz"] {
        let answer = at.get(path).await?;
        ensure!(
            answer.code == 200 && answer.text == "ok",
            "{path}: {} {}",
            answer.code,
            answer.text
        );
    }
    let version = at.get("/version").await?.is(200)?;
    ensure!(
        text(&version, "/major") == "1" && text(&version, "/gitVersion").starts_with("v1."),
        "{version}"
    );
    Ok(())
}

async fn by_client(at: &Place) -> Result<()> {
    for aggregated in [false, true] {
        let discovery = kube::discovery::Discovery::new(at.client()).filter(&[GROUP]);
        let discovery = if aggregated {
            discovery.run_aggregated().await?
        } else {
            discovery.run().await?
        };
        let group = discovery.get(GROUP).context("our group")?;
        for (plural, kind, _, _) in KINDS {
            let (resource, _) = group.recommended_kind(kind).context(kind)?;
            ensure!(resource.plural == plural, "{resource:?}");
        }
    }
    Ok(())
}
