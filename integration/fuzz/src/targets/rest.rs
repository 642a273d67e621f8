//! REST: whatever is asked, it is the caller's fault or it is done; a refusal names what is wrong and changes nothing.

use axum::body::Body;
use http::{HeaderValue, Request, header};
use serde_json::Value;

use super::none;
use crate::{
    Format, Target,
    http::{Answered, Bed, Door, TOKEN, parse, split, with_bed},
    outcome,
};

pub(super) const TARGETS: &[Target] = &[Target {
    name: "rest",
    format: Format::Http,
    run,
    seeds: none,
    words: &[
        "GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS", "TRACE", "/v1/storage", "/v1/nodes", "/v1/pools",
        "/v1/capacity", "/v1/classes", "/credentials", "/classify", "?", "&", "limit=", "continue=", "dry_run=true", "wait=1ms",
        "namespace=", "type=", "phase=", "label=", "%00", "%2e%2e%2f", "%ff", "..", "content-type: application/json",
        "accept: */*", "if-match: \"1\"", "content-encoding: gzip", "name", "storage_type", "capacity_bytes", "tier", "class",
        "namespace", "labels", "redundancy", "replication_factor", "ec_policy", "reclaim_policy", "block", "file", "object",
        "hot", "auto", "Delete", "Retain", "default", "replication", "4+2",
    ],
    short: 350,
}];

fn run(data: &[u8]) -> u64 {
    with_bed(|bed| {
        let mut answers = Vec::new();
        for request in split(data).into_iter().take(5) {
            let Some(mut request) = parse(&request) else { continue };
            let without = request.headers().contains_key("x-no-token");
            if !without {
                let bearer = HeaderValue::from_str(&format!("Bearer {TOKEN}")).expect("a header");
                request.headers_mut().insert(header::AUTHORIZATION, bearer);
            }
            answers.push(one(bed, request, without));
        }
        outcome(answers)
    })
}

fn one(bed: &Bed, request: Request<Body>, without_token: bool) -> u64 {
    let what = format!("{} {}", request.method(), request.uri());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let dry = request.uri().query().is_some_and(|query| query.contains("dry_run=true"));
    let before = bed.revision();
    let answer = bed.ask(Door::Rest, request);
    let shown = || String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status < 500, "{what} is answered {}: {}", answer.status, shown());
    let refused = answer.status >= 400;
    if refused || dry || !matches!(method.as_str(), "POST" | "PATCH" | "DELETE") {
        assert_eq!(before, bed.revision(), "{what}, answered {}, changed something", answer.status);
    }
    if without_token && path.starts_with("/v1/") {
        assert!(refused || answer.status == 0, "{what} without a token is answered {}", answer.status);
    }
    let mut fields = Vec::new();
    if refused && method != "HEAD" {
        fields = problem(&what, &answer);
    }
    outcome((answer.status, path.split('/').count(), fields))
}

/// A refusal says what is wrong.
fn problem(what: &str, answer: &Answered) -> Vec<String> {
    let body = answer.json();
    assert_eq!(answer.header("content-type"), "application/problem+json", "{what}: {body}");
    assert_eq!(body.get("status").and_then(Value::as_u64), Some(u64::from(answer.status)), "{what}: {body}");
    let detail = body.get("detail").and_then(Value::as_str).unwrap_or_default();
    assert!(!detail.is_empty(), "{what}: a refusal without words: {body}");
    let errors = body.get("errors").and_then(Value::as_array).cloned().unwrap_or_default();
    let fields: Vec<String> = errors
        .iter()
        .map(|error| error.get("field").and_then(Value::as_str).unwrap_or_default().to_owned())
        .collect();
    assert!(answer.status != 422 || !fields.is_empty(), "{what}: what is wrong is not named: {body}");
    fields
}
