//! The embedded Kubernetes API: requests of every sort, patches, lists with selectors and tokens. What is refused has
//! changed nothing; what was accepted passes the checks that it passed when it was made.

use axum::body::Body;
use http::Request;
use serde_json::{Map, Value};
use smart_storage_core::bytes::parse_quantity;

use super::none;
use crate::{
    Format, Target,
    http::{Answered, Bed, Door, objects, parse, split, with_bed},
    outcome,
};

const WORDS: &[&str] = &[
    "GET",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "/status",
    "/apis/storage.billyronks.io/v1/",
    "/api/v1/",
    "namespaces/default/",
    "unifiedpools",
    "unifiedstorageclaims",
    "unifiedstorageclasses",
    "storagenodes",
    "poolmembers",
    "unifiedvolumes",
    "configmaps",
    "secrets",
    "events",
    "dryRun=All",
    "fieldValidation=Strict",
    "fieldManager=x",
    "resourceVersion",
    "metadata",
    "spec",
    "status",
    "name",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "generateName",
    "ownerReferences",
    "uid",
    "generation",
    "deletionTimestamp",
    "creationTimestamp",
    "managedFields",
    "kind",
    "apiVersion",
    "application/json",
    "application/yaml",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
    "application/vnd.kubernetes.protobuf",
    "op",
    "path",
    "value",
    "from",
    "copy",
    "move",
    "replace",
    "test",
    "add",
    "remove",
    "/-",
    "~1",
    "~0",
    "/metadata/labels",
    "1Gi",
    "1e20",
    "-1",
    "0",
    "100Ei",
    "capacity",
    "storageType",
    "file",
    "poolType",
    "driveSelector",
    "backend",
    "config",
    "conditions",
    "immutable",
    "data",
    "stringData",
    "$patch",
    "null",
    "propagationPolicy",
    "preconditions",
    "gracePeriodSeconds",
];

const QUERY: &[&str] = &[
    "labelSelector=",
    "fieldSelector=",
    "limit=",
    "continue=",
    "resourceVersion=",
    "resourceVersionMatch=",
    "Exact",
    "NotOlderThan",
    "watch=true",
    "allowWatchBookmarks=true",
    "sendInitialEvents=true",
    "timeoutSeconds=",
    "includeObject=",
    "in (",
    "notin (",
    "!",
    "==",
    "!=",
    ">",
    "<",
    "(",
    ")",
    ",",
    "app",
    "metadata.name=",
    "spec.nodeName=",
    "%2C",
    "%28",
    "%29",
    "%20",
    "%00",
    "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIvIn0",
    "18446744073709551615",
    "9223372036854775807",
    "&",
    "accept: application/json;as=Table;v=v1;g=meta.k8s.io",
    "accept: application/yaml",
];

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "kube",
        format: Format::Http,
        run,
        seeds: creations,
        words: WORDS,
        short: 300,
    },
    Target {
        name: "patch",
        format: Format::Http,
        run,
        seeds: none,
        words: WORDS,
        short: 400,
    },
    Target {
        name: "list",
        format: Format::Http,
        run,
        seeds: none,
        words: QUERY,
        short: 500,
    },
];

fn creations() -> Vec<Vec<u8>> {
    objects()
        .into_iter()
        .map(|(path, mut object)| {
            if let Some(name) = object.pointer_mut("/metadata/name") {
                *name = Value::from("new");
            }
            format!("POST {path}\ncontent-type: application/json\n\n{object}").into_bytes()
        })
        .collect()
}

fn run(data: &[u8]) -> u64 {
    with_bed(|bed| {
        let mut answers = Vec::new();
        let begun = bed.revision();
        for request in split(data).into_iter().take(5) {
            if let Some(request) = parse(&request) {
                answers.push(one(bed, request));
            }
        }
        if bed.revision() != begun {
            for (path, _) in objects() {
                let list = bed.get(path);
                assert_eq!(list.status, 200, "{path} cannot be listed any more");
            }
        }
        outcome(answers)
    })
}

fn one(bed: &Bed, request: Request<Body>) -> u64 {
    let what = format!("{} {}", request.method(), request.uri());
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let query = uri.query().unwrap_or_default().to_owned();
    let before = bed.revision();
    let answer = bed.ask(Door::Kube, request);
    // As a real server: a revision that was not reached yet is no fault of the caller's.
    let future = answer.status == 504 && query.contains("resourceVersion=") && !query.contains("continue=");
    let shown = || String::from_utf8_lossy(&answer.body).into_owned();
    assert!(
        answer.status < 500 || future,
        "{what} is answered {}: {}",
        answer.status,
        shown()
    );
    let refused = answer.status >= 400;
    let writes = matches!(method.as_str(), "POST" | "PUT" | "PATCH" | "DELETE");
    if refused || !writes || query.contains("dryRun=All") {
        assert_eq!(
            before,
            bed.revision(),
            "{what}, answered {}, changed something",
            answer.status
        );
    }
    let mut causes = Vec::new();
    if refused {
        causes = refusal(&what, &answer);
    } else if writes && method != "DELETE" {
        accepted(bed, &what, method == "POST", uri.path(), &answer);
    }
    outcome((
        answer.status,
        method.as_str().len(),
        uri.path().split('/').count(),
        causes,
    ))
}

fn refusal(what: &str, answer: &Answered) -> Vec<String> {
    let body = answer.json();
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    assert_eq!(text("kind"), "Status", "{what}: {body}");
    assert_eq!(
        body.get("code").and_then(Value::as_u64),
        Some(u64::from(answer.status)),
        "{what}: {body}"
    );
    assert!(
        !text("message").is_empty() && !text("reason").is_empty(),
        "{what}: {body}"
    );
    let causes = body
        .pointer("/details/causes")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let field = |cause: &Value| {
        cause
            .get("field")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut fields: Vec<String> = causes.iter().map(field).collect();
    fields.truncate(3);
    fields
}

/// What is stored now would be accepted if it were made now.
fn accepted(bed: &Bed, what: &str, created: bool, path: &str, answer: &Answered) {
    let object = answer.json();
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    if !text("/apiVersion").starts_with("storage.billyronks.io/") || text("/kind").ends_with("List") {
        return;
    }
    if text("/kind") == "UnifiedStorageClaim" {
        let capacity = parse_quantity(text("/spec/capacity"));
        assert!(
            capacity.is_ok_and(|bytes| bytes > 0),
            "{what}: a capacity that nobody can place: {object}"
        );
    }
    let mut again = Map::new();
    for name in ["apiVersion", "kind", "spec"] {
        again.insert(name.to_owned(), object.get(name).cloned().unwrap_or(Value::Null));
    }
    let mut metadata = object
        .get("metadata")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    metadata.retain(|name, _| {
        matches!(
            name.as_str(),
            "name" | "namespace" | "labels" | "annotations" | "finalizers" | "ownerReferences"
        )
    });
    again.insert("metadata".to_owned(), Value::Object(metadata));
    // Where the request named the object, the collection lies above it.
    let name = format!("/{}", text("/metadata/name"));
    let collection = path.trim_end_matches('/');
    let collection = if created {
        collection
    } else {
        let object = collection.trim_end_matches("/status");
        object.strip_suffix(&name).unwrap_or(object)
    };
    let request = Request::post(format!("{collection}?dryRun=All&fieldValidation=Strict"))
        .header("content-type", "application/json")
        .body(Body::from(Value::Object(again).to_string()));
    let Ok(request) = request else { return };
    let answer = bed.ask(Door::Kube, request);
    assert!(
        matches!(answer.status, 201 | 409 | 403),
        "{what} made something that could not be made ({}): {}",
        answer.status,
        String::from_utf8_lossy(&answer.body)
    );
    let read = bed.get(&format!("{collection}{name}"));
    assert!(
        matches!(read.status, 200 | 404),
        "{what}: what was stored is answered {}",
        read.status
    );
}
