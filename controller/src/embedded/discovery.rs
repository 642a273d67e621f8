//! What is served, in the words of discovery.

use std::sync::Arc;

use serde_json::{Value, json};

use super::json::set;
use super::kinds::Kind;
use super::request::GroupVersion;

/// `/version`: the API's level, not ours.
pub fn version() -> Value {
    json!({
        "major": "1",
        "minor": "33",
        "gitVersion": concat!("v1.33.0+smart-storage.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": concat!("linux/", "any"),
    })
}

/// `/api`.
pub fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

fn group_names(kinds: &[Arc<Kind>]) -> Vec<&str> {
    let mut names: Vec<&str> = kinds
        .iter()
        .map(|k| k.group.as_str())
        .filter(|g| !g.is_empty())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn versions<'k>(kinds: &'k [Arc<Kind>], group: &str) -> Vec<&'k str> {
    let mut versions: Vec<&str> = kinds
        .iter()
        .filter(|k| k.group == group)
        .map(|k| k.version.as_str())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    versions
}

/// `/apis`.
pub fn groups(kinds: &[Arc<Kind>]) -> Value {
    let groups: Vec<Value> = group_names(kinds)
        .into_iter()
        .filter_map(|g| described(kinds, g))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn described(kinds: &[Arc<Kind>], group: &str) -> Option<Value> {
    let versions: Vec<Value> = versions(kinds, group)
        .into_iter()
        .map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": group, "versions": versions, "preferredVersion": preferred}))
}

/// `/apis/<group>`.
pub fn group(kinds: &[Arc<Kind>], group: &str) -> Option<Value> {
    let mut described = described(kinds, group)?;
    set(&mut described, &["kind"], json!("APIGroup"));
    set(&mut described, &["apiVersion"], json!("v1"));
    Some(described)
}

fn verbs(kind: &Kind) -> Vec<&'static str> {
    if kind.read_only {
        return vec!["get", "list", "watch"];
    }
    let mut verbs = vec![
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "update",
        "watch",
    ];
    if kind.kind == "Namespace" {
        verbs.retain(|v| *v != "deletecollection");
    }
    verbs
}

const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

/// `/api/v1`, `/apis/<group>/<version>`.
pub fn resources(api: &GroupVersion, kinds: &[Arc<Kind>]) -> Value {
    let resources: Vec<Value> = kinds
        .iter()
        .flat_map(|kind| {
            let mut main = json!({
                "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
                "kind": kind.kind, "verbs": verbs(kind),
            });
            if !kind.short_names.is_empty() {
                set(&mut main, &["shortNames"], json!(kind.short_names));
            }
            if !kind.categories.is_empty() {
                set(&mut main, &["categories"], json!(kind.categories));
            }
            let status = kind.status.then(|| json!({
            "name": format!("{}/status", kind.plural), "singularName": "", "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": STATUS_VERBS,
        }));
            std::iter::once(main).chain(status)
        })
        .collect();
    let name = if api.group.is_empty() {
        api.version.clone()
    } else {
        format!("{}/{}", api.group, api.version)
    };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": resources})
}

/// Everything at once, for `/api` (core) or `/apis`.
pub fn aggregated(kinds: &[Arc<Kind>], core: bool) -> Value {
    let names = if core { vec![""] } else { group_names(kinds) };
    let items: Vec<Value> = names
        .into_iter()
        .map(|group| {
            let versions: Vec<Value> = versions(kinds, group)
                .into_iter()
                .map(|version| {
                    let of = kinds.iter().filter(|k| k.group == group && k.version == version);
                    let resources: Vec<Value> = of.map(|kind| aggregated_kind(kind)).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {}, "items": items,
    })
}

fn aggregated_kind(kind: &Kind) -> Value {
    let response = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let mut value = json!({
        "resource": kind.plural,
        "responseKind": response,
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": verbs(kind),
    });
    if !kind.short_names.is_empty() {
        set(&mut value, &["shortNames"], json!(kind.short_names));
    }
    if !kind.categories.is_empty() {
        set(&mut value, &["categories"], json!(kind.categories));
    }
    if kind.status {
        set(
            &mut value,
            &["subresources"],
            json!([{
                "subresource": "status", "responseKind": response, "verbs": STATUS_VERBS,
            }]),
        );
    }
    value
}
