//! The API over plain HTTP: codes, media types, tokens.

use axum::Router;
use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::super::auth::require_token;
use super::Bed;
use crate::api::Bearer;

const VESSELS: &str = "/apis/test.example.io/v1/namespaces/default/vessels";

struct Reply {
    code: u16,
    media_type: String,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
}

async fn ask(router: &Router, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router
        .clone()
        .oneshot(request.body(Body::from(body)).unwrap())
        .await
        .unwrap();
    let code = response.status().as_u16();
    let media_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Reply {
        code,
        media_type,
        text: String::from_utf8_lossy(&bytes).into_owned(),
    }
}

async fn get(router: &Router, path: &str, accept: &str) -> Reply {
    ask(router, Method::GET, path, &[("accept", accept)], vec![]).await
}

fn vessel(name: &str) -> Value {
    json!({"apiVersion": "test.example.io/v1", "kind": "Vessel", "metadata": {"name": name}, "spec": {"cargo": "tea"}})
}

#[tokio::test]
async fn without_the_token_only_health_answers() {
    let bed = Bed::new().await;
    let router = require_token(bed.api.router(), Bearer::new("secret").unwrap());
    for header in [
        None,
        Some("Bearer wrong"),
        Some("Basic secret"),
        Some("Bearer"),
        Some("Bearer secret2"),
    ] {
        let headers: Vec<_> = header.map(|h| ("authorization", h)).into_iter().collect();
        let reply = ask(&router, Method::GET, VESSELS, &headers, vec![]).await;
        assert_eq!(
            (reply.code, reply.json()["reason"].as_str()),
            (401, Some("Unauthorized")),
            "{header:?}"
        );
    }
    assert_eq!(
        ask(&router, Method::GET, "/healthz", &[], vec![]).await.text,
        "ok"
    );
    let right = [("authorization", "Bearer secret")];
    assert_eq!(ask(&router, Method::GET, VESSELS, &right, vec![]).await.code, 200);
}

#[tokio::test]
async fn wrong_requests_get_the_code_of_their_fault() {
    let bed = Bed::new().await;
    let router = bed.api.router();
    let check = async |method: Method, path: &str, headers: &[(&str, &str)], body: &[u8], code: u16| {
        let reply = ask(&router, method, path, headers, body.to_vec()).await;
        assert_eq!(reply.code, code, "{path} {}", reply.text);
        assert_eq!(reply.json()["kind"], "Status");
    };
    let json = [("content-type", "application/json")];
    let good = vessel("a").to_string().into_bytes();
    check(Method::GET, "/nothing", &[], b"", 404).await;
    check(Method::GET, "/apis/test.example.io/v1/boats", &[], b"", 404).await;
    check(
        Method::GET,
        "/apis/test.example.io/v1/namespaces/default/vessels/a/scale",
        &[],
        b"",
        404,
    )
    .await;
    check(Method::POST, VESSELS, &json, b"{", 400).await;
    check(Method::POST, VESSELS, &json, b"[]", 400).await;
    check(Method::POST, VESSELS, &json, "[".repeat(9999).as_bytes(), 400).await;
    check(
        Method::POST,
        VESSELS,
        &[("content-type", "text/plain")],
        &good,
        415,
    )
    .await;
    check(
        Method::POST,
        VESSELS,
        &[("content-type", "application/vnd.kubernetes.protobuf")],
        &good,
        415,
    )
    .await;
    check(Method::POST, VESSELS, &json, &vec![b' '; 4 << 20], 413).await;
    check(
        Method::POST,
        "/apis/test.example.io/v1/vessels",
        &json,
        &good,
        405,
    )
    .await;
    check(Method::PUT, VESSELS, &json, &good, 405).await;
    check(Method::PUT, &format!("{VESSELS}/b"), &json, &good, 400).await;
    check(Method::POST, &format!("{VESSELS}?dryRun=Some"), &json, &good, 422).await;
    check(Method::GET, VESSELS, &[("accept", "image/png")], b"", 406).await;
    check(Method::GET, &format!("{VESSELS}?continue=abc"), &[], b"", 400).await;
    check(Method::GET, &format!("{VESSELS}?limit=x"), &[], b"", 400).await;
    check(
        Method::GET,
        &format!("{VESSELS}?labelSelector=a%20b"),
        &[],
        b"",
        400,
    )
    .await;
    check(
        Method::GET,
        &format!("{VESSELS}?resourceVersion=999999"),
        &[],
        b"",
        504,
    )
    .await;
    check(
        Method::GET,
        &format!("{VESSELS}?resourceVersionMatch=Exact"),
        &[],
        b"",
        422,
    )
    .await;
}

#[tokio::test]
async fn bodies_and_answers_may_be_yaml() {
    let bed = Bed::new().await;
    let router = bed.api.router();
    let body = "apiVersion: test.example.io/v1\nkind: Vessel\nmetadata:\n  name: y\nspec:\n  cargo: tea\n";
    let headers = [
        ("content-type", "application/yaml"),
        ("accept", "application/yaml"),
    ];
    let reply = ask(&router, Method::POST, VESSELS, &headers, body.into()).await;
    assert_eq!(
        (reply.code, reply.media_type.as_str()),
        (201, "application/yaml"),
        "{}",
        reply.text
    );
    assert!(reply.text.contains("crew: 1"), "{}", reply.text);
    let reply = get(
        &router,
        VESSELS,
        "application/vnd.kubernetes.protobuf,application/json",
    )
    .await;
    assert_eq!(reply.media_type, "application/json");
}

#[tokio::test]
async fn tables_have_the_columns_of_the_definition() {
    let bed = Bed::new().await;
    bed.create("a").await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = get(&bed.api.router(), VESSELS, accept).await.json();
    let names: Vec<_> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].clone())
        .collect();
    assert_eq!(names, ["Name", "Cargo", "Ready", "Age"]);
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..3], [json!("a"), json!("tea"), Value::Null]);
    assert!(cells[3].as_str().unwrap().ends_with('s'));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[tokio::test]
async fn discovery_and_openapi_name_our_kinds() {
    let bed = Bed::new().await;
    let router = bed.api.router();
    let plain = get(&router, "/apis/test.example.io/v1", "application/json")
        .await
        .json();
    let resources = plain["resources"].as_array().unwrap();
    assert_eq!(resources[0]["shortNames"], json!(["vs"]));
    assert_eq!(resources[1]["name"], "vessels/status");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = get(&router, "/apis", accept).await;
    assert!(aggregated.media_type.contains("as=APIGroupDiscoveryList"));
    assert!(aggregated.text.contains("\"resource\":\"vessels\""));
    let index = get(&router, "/openapi/v3", "*/*").await.json();
    let url = index["paths"]["apis/test.example.io/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_owned();
    let document = get(&router, &url, "*/*").await.json();
    let crew = "/components/schemas/io.example.test.v1.Vessel/properties/spec/properties/crew/description";
    assert_eq!(document.pointer(crew).unwrap(), "Crew members, between 1 and 5.");
}

#[tokio::test]
async fn an_object_that_grows_too_large_or_too_deep_is_refused() {
    let bed = Bed::new().await;
    let router = bed.api.router();
    let json = [("content-type", "application/json")];
    let maps = "/api/v1/namespaces/default/configmaps";
    let made = json!({"metadata": {"name": "m"}, "data": {"a": "x".repeat(1 << 20)}}).to_string();
    assert_eq!(
        ask(&router, Method::POST, maps, &json, made.into()).await.code,
        201
    );
    let more = json!({"data": {"b": "x".repeat(1 << 20)}}).to_string();
    let merge = [("content-type", "application/merge-patch+json")];
    let reply = ask(&router, Method::PATCH, &format!("{maps}/m"), &merge, more.into()).await;
    assert_eq!(reply.code, 413, "{}", reply.text);
}
