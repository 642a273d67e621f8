use std::sync::Mutex;

use axum::body::Body;
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::service::bed::Bed;

const TOKEN: &str = "t0ken";

type Seen = (String, &'static str, u16);

struct Rest {
    bed: Bed,
    router: Router,
    seen: Arc<Mutex<Vec<Seen>>>,
}

struct Answered {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answered {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map(|v| v.to_str().unwrap())
            .unwrap_or_default()
    }

    #[track_caller]
    fn is_problem(&self, status: u16, slug: &str) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["status"], status);
        assert_eq!(
            self.body["type"],
            format!("https://storage.billyronks.io/problems/{slug}")
        );
        assert_eq!(self.body["request_id"], self.header("x-request-id"));
        assert!(!self.body["request_id"].as_str().unwrap().is_empty());
        assert!(!self.body["detail"].as_str().unwrap().is_empty());
    }
}

impl Rest {
    async fn new() -> Self {
        let bed = Bed::new().await;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        let metrics: Metrics = Arc::new(move |done| {
            told.lock()
                .unwrap()
                .push((done.route.to_owned(), done.method, done.status));
        });
        let router = rest_router(Arc::clone(&bed.service), Bearer::new(TOKEN).unwrap(), metrics);
        Self { bed, router, seen }
    }

    async fn send(&self, request: http::request::Builder, body: impl Into<Body>) -> Answered {
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap()
        };
        Answered {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answered {
        let request = authorized(method, path);
        match body {
            Some(body) => {
                self.send(
                    request.header("content-type", "application/json"),
                    body.to_string(),
                )
                .await
            }
            None => self.send(request, Body::empty()).await,
        }
    }
}

fn authorized(method: Method, path: &str) -> http::request::Builder {
    http::Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {TOKEN}"))
}

#[tokio::test]
async fn the_readmes_request_works_and_again() {
    let rest = Rest::new().await;
    let body = json!({"name": "my-volume", "storage_type": "block", "capacity_bytes": 107_374_182_400_u64,
                      "tier": "hot"});
    let made = rest.call(Method::POST, "/v1/storage", Some(body.clone())).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let id = made.body["id"].as_str().unwrap();
    assert_eq!(made.header("location"), format!("/v1/storage/{id}"));
    assert_eq!(made.body["phase"], "Pending");
    let again = rest.call(Method::POST, "/v1/storage", Some(body.clone())).await;
    assert_eq!((again.status, &again.body), (200, &made.body));
    let got = rest.call(Method::GET, made.header("location"), None).await;
    assert_eq!((got.status, &got.body), (200, &made.body));
    let mut other = body;
    other["capacity_bytes"] = json!(5);
    rest.call(Method::POST, "/v1/storage", Some(other))
        .await
        .is_problem(409, "already-exists");

    let path = format!("/v1/storage/{id}");
    let list = rest
        .call(Method::GET, "/v1/storage?type=block&phase=Pending&limit=1", None)
        .await;
    assert_eq!(
        (list.body["items"][0]["id"].as_str(), &list.body["continue"]),
        (Some(id), &json!(""))
    );
    let grown = rest
        .call(
            Method::PATCH,
            &path,
            Some(json!({"capacity_bytes": 107_374_182_401_u64})),
        )
        .await;
    assert_eq!(
        (grown.status, &grown.body["capacity_bytes"]),
        (200, &json!(107_374_182_401_u64))
    );
    let shrunk = rest
        .call(Method::PATCH, &path, Some(json!({"capacity_bytes": 1})))
        .await;
    shrunk.is_problem(422, "invalid");
    assert_eq!(shrunk.body["errors"][0]["field"], "capacity_bytes");
    let rotated = rest
        .call(Method::POST, &format!("{path}/credentials"), None)
        .await;
    rotated.is_problem(409, "not-ready");

    let deleted = rest.call(Method::DELETE, &path, None).await;
    assert_eq!(
        (deleted.status, &deleted.body["phase"]),
        (202, &json!("Deleting"))
    );
    rest.call(Method::DELETE, &path, None)
        .await
        .is_problem(404, "not-found");
    rest.call(Method::GET, &path, None)
        .await
        .is_problem(404, "not-found");
    let seen = rest.seen.lock().unwrap().clone();
    assert!(
        seen.contains(&("/v1/storage/{id}".to_owned(), "DELETE", 202)),
        "{seen:?}"
    );
    rest.bed.close().await;
}

#[tokio::test]
async fn without_the_token_only_health_and_the_document_are_answered() {
    let rest = Rest::new().await;
    for token in [None, Some("Bearer other"), Some("Basic dDA=")] {
        for path in ["/v1/storage", "/v1/nodes/x", "/v1/capacity"] {
            let mut request = http::Request::builder().uri(path);
            if let Some(token) = token {
                request = request.header("authorization", token);
            }
            let answer = rest.send(request, Body::empty()).await;
            answer.is_problem(401, "unauthorized");
            assert!(
                answer.header("www-authenticate").starts_with("Bearer realm="),
                "{path}"
            );
        }
    }
    let open = |path: &str| http::Request::builder().uri(path.to_owned());
    let health = rest.send(open("/health"), Body::empty()).await;
    assert_eq!((health.status, &health.body["ready"]), (200, &json!(true)));
    let document = rest.send(open("/openapi.json"), Body::empty()).await;
    assert_eq!(
        (document.status, &document.body["openapi"]),
        (200, &json!("3.1.0"))
    );
    *rest.bed.neighbours.unready.lock().unwrap() = vec!["not synced".to_owned()];
    let health = rest.send(open("/health"), Body::empty()).await;
    health.is_problem(503, "unavailable");
    assert_eq!(
        (health.body["reasons"][0].as_str(), health.header("retry-after")),
        (Some("not synced"), "2")
    );
    rest.bed.close().await;
}

#[tokio::test]
async fn what_http_itself_refuses_is_a_problem_too() {
    let rest = Rest::new().await;
    rest.call(Method::GET, "/v1/nothing", None)
        .await
        .is_problem(404, "not-found");
    let answer = rest.call(Method::PUT, "/v1/storage", None).await;
    answer.is_problem(405, "method-not-allowed");
    assert_eq!(answer.header("allow"), "GET,HEAD,POST");
    for path in [
        "/health",
        "/openapi.json",
        "/v1/storage/x/credentials",
        "/v1/nodes/n/classify",
    ] {
        let answer = rest.call(Method::TRACE, path, None).await;
        answer.is_problem(405, "method-not-allowed");
        assert!(!answer.header("allow").is_empty(), "{path}");
    }
    let picky = authorized(Method::GET, "/v1/storage").header("accept", "text/html");
    rest.send(picky, Body::empty())
        .await
        .is_problem(406, "not-acceptable");

    let post = || authorized(Method::POST, "/v1/storage");
    rest.send(post(), Body::empty())
        .await
        .is_problem(400, "malformed");
    rest.send(post(), "{}")
        .await
        .is_problem(415, "unsupported-media-type");
    let typed = |type_: &str| post().header("content-type", type_);
    let answer = rest.send(typed("text/plain"), "{}").await;
    answer.is_problem(415, "unsupported-media-type");
    assert_eq!(answer.header("accept-post"), "application/json");
    rest.send(typed("application/json; charset=latin1"), "{}")
        .await
        .is_problem(415, "unsupported-media-type");
    let zipped = typed("application/json").header("content-encoding", "gzip");
    rest.send(zipped, "{}")
        .await
        .is_problem(415, "unsupported-media-type");
    rest.send(typed("application/json; charset=UTF-8"), "{}")
        .await
        .is_problem(422, "invalid");
    for broken in ["{", "", " ", "{\"a\":}", "\u{0}", &"[".repeat(500_000)] {
        rest.send(typed("application/json"), broken.to_owned())
            .await
            .is_problem(400, "malformed");
    }
    let large = typed("application/json").header("content-length", "104857600");
    rest.send(large, "{").await.is_problem(413, "too-large");
    rest.send(typed("application/json"), " ".repeat((1 << 20) + 1))
        .await
        .is_problem(413, "too-large");
    rest.bed.close().await;
}

#[tokio::test]
async fn wrong_parameters_are_named_and_nothing_is_done() {
    let rest = Rest::new().await;
    for (query, field) in [
        ("dryrun=true", "dryrun"),
        ("dry_run=yes", "dry_run"),
        ("dry_run=true&dry_run=true", "dry_run"),
        ("wait=soon", "wait"),
    ] {
        let path = format!("/v1/storage?{query}");
        let answer = rest.call(Method::POST, &path, Some(Bed::request("a"))).await;
        answer.is_problem(422, "invalid");
        assert_eq!(answer.body["errors"][0]["field"], field);
    }
    for query in [
        "limit=0",
        "limit=501",
        "limit=x",
        "limit=-1",
        "type=tape",
        "phase=ready",
        "label=x",
        "namespace=",
    ] {
        let answer = rest
            .call(Method::GET, &format!("/v1/storage?{query}"), None)
            .await;
        answer.is_problem(422, "invalid");
        assert_eq!(
            answer.body["errors"][0]["field"],
            query.split('=').next().unwrap()
        );
    }
    let list = rest.call(Method::GET, "/v1/storage", None).await;
    assert_eq!(list.body["items"], json!([]));
    let answer = rest
        .call(Method::POST, "/v1/storage?dry_run=true", Some(Bed::request("a")))
        .await;
    assert_eq!((answer.status, &answer.body["placed"]), (200, &json!(true)));
    rest.bed.close().await;
}

#[tokio::test]
async fn tricks_with_paths_find_nothing() {
    let rest = Rest::new().await;
    rest.bed.create("a").await;
    for id in [
        "..%2f..%2fapi",
        "%2e%2e",
        "a%00b",
        "a%2Fb",
        "A",
        "%20",
        "a?limit",
        "uv-%0a",
        "x%3Flimit=1",
        &"a".repeat(300),
    ] {
        for prefix in ["/v1/storage/", "/v1/nodes/", "/v1/pools/"] {
            let answer = rest.call(Method::GET, &format!("{prefix}{id}"), None).await;
            assert!(
                matches!(answer.status, 404 | 422),
                "{prefix}{id}: {}",
                answer.status
            );
            assert_eq!(answer.header("content-type"), "application/problem+json");
        }
    }
    rest.call(Method::GET, "/v1/storage/%ff", None)
        .await
        .is_problem(400, "malformed");
    rest.bed.close().await;
}

#[tokio::test]
async fn the_callers_request_id_is_kept_where_it_is_sensible() {
    let rest = Rest::new().await;
    let with = |id: &str| authorized(Method::GET, "/v1/nodes/none").header("x-request-id", id);
    let answer = rest.send(with("abc-1.2_3"), Body::empty()).await;
    answer.is_problem(404, "not-found");
    assert_eq!(answer.header("x-request-id"), "abc-1.2_3");
    for silly in ["a b", "", &"x".repeat(65), "<script>"] {
        let answer = rest.send(with(silly), Body::empty()).await;
        assert_eq!(answer.header("x-request-id").len(), 36);
    }
    rest.bed.close().await;
}

#[tokio::test]
async fn a_fault_of_ours_is_one_500_and_nothing_more() {
    let rest = Rest::new().await;
    rest.bed.node("panics", "panics").await;
    rest.call(Method::POST, "/v1/nodes/panics/classify", None)
        .await
        .is_problem(500, "internal");
    assert_eq!(rest.call(Method::GET, "/v1/nodes/panics", None).await.status, 200);
    *rest.bed.neighbours.away.lock().unwrap() = Some("no stream".to_owned());
    rest.bed.node("away", "away").await;
    let answer = rest.call(Method::POST, "/v1/nodes/away/classify", None).await;
    answer.is_problem(503, "unavailable");
    assert_eq!(
        (answer.header("retry-after"), &answer.body["reasons"][0]),
        ("5", &json!("no stream"))
    );
    rest.bed.close().await;
}

#[tokio::test]
async fn every_documented_call_is_routed_and_every_route_documented() {
    let rest = Rest::new().await;
    let document = openapi::document();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let real = path.replace("{id}", "x").replace("{name}", "x");
        let answer = rest.call(Method::TRACE, &real, None).await;
        answer.is_problem(405, "method-not-allowed");
        let mut allowed: Vec<_> = answer
            .header("allow")
            .split(',')
            .filter(|m| *m != "HEAD")
            .map(str::to_lowercase)
            .collect();
        allowed.sort();
        let mut documented: Vec<_> = operations.as_object().unwrap().keys().cloned().collect();
        documented.sort();
        assert_eq!(allowed, documented, "{path}");
        for (method, operation) in operations.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let answer = rest.call(method.clone(), &real, Some(json!({}))).await;
            let responses = operation["responses"].as_object().unwrap();
            assert!(
                responses.contains_key(&answer.status.to_string()),
                "{method} {path}: {}",
                answer.status
            );
        }
    }
    let templates = rest.seen.lock().unwrap().clone();
    assert!(
        templates
            .iter()
            .all(|(route, ..)| document["paths"].get(route).is_some()),
        "{templates:?}"
    );
    rest.bed.close().await;
}

#[tokio::test]
async fn one_request_too_many_is_told_to_come_back() {
    let metrics: Metrics = Arc::new(|_| ());
    let router = Router::new()
        .route("/", get(|| async { "done" }))
        .layer(middleware::from_fn_with_state(
            Arc::new(Semaphore::new(0)),
            under_way,
        ))
        .layer(middleware::from_fn_with_state(metrics, observe::rest));
    let request = http::Request::builder().uri("/").body(Body::empty()).unwrap();
    let answer = router.oneshot(request).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (429, &HeaderValue::from(1))
    );
}
