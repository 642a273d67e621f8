//! Schema, rules, unknown fields, names.

use http::Request;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::{Bed, Port, refused, vessel};

async fn post(bed: &Bed, query: &str, body: &Value) -> (u16, Value, Vec<String>) {
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    let request = Request::post(format!(
        "/apis/test.example.io/v1/namespaces/default/vessels{query}"
    ))
    .header("content-type", "application/json")
    .body(axum::body::Body::from(body.to_string()))
    .unwrap();
    let response = bed.api.router().oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings.map(|w| w.to_str().unwrap().to_owned()).collect();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap(), warnings)
}

fn with_spec(spec: &Value) -> Value {
    json!({"apiVersion": "test.example.io/v1", "kind": "Vessel", "metadata": {"name": "a"}, "spec": spec})
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let bed = Bed::new().await;
    let check = async |spec: Value, field: &str, reason: &str, words: &str| {
        let (code, status, _) = post(&bed, "", &with_spec(&spec)).await;
        assert_eq!(
            (code, status["reason"].as_str()),
            (422, Some("Invalid")),
            "{status}"
        );
        let causes = status["details"]["causes"].as_array().unwrap();
        let found = causes
            .iter()
            .find(|c| c["field"] == field)
            .unwrap_or_else(|| panic!("{status}"));
        assert_eq!(found["reason"], reason, "{status}");
        assert!(found["message"].as_str().unwrap().contains(words), "{found}");
    };
    check(json!({}), "spec.cargo", "FieldValueRequired", "Required value").await;
    check(
        json!({"cargo": 5}),
        "spec.cargo",
        "FieldValueTypeInvalid",
        "must be of type string",
    )
    .await;
    check(
        json!({"cargo": ""}),
        "spec.cargo",
        "FieldValueInvalid",
        "at least 1 chars long",
    )
    .await;
    check(
        json!({"cargo": "x".repeat(13)}),
        "spec.cargo",
        "FieldValueTooLong",
        "Too long",
    )
    .await;
    check(
        json!({"cargo": "x", "crew": 9}),
        "spec.crew",
        "FieldValueInvalid",
        "less than or equal to 5",
    )
    .await;
    check(
        json!({"cargo": "x", "flag": "green"}),
        "spec.flag",
        "FieldValueNotSupported",
        "\"red\"",
    )
    .await;
    check(
        json!({"cargo": "x", "ports": [{"name": "a"}]}),
        "spec.ports[0].days",
        "FieldValueRequired",
        "Required",
    )
    .await;
    check(
        json!({"cargo": "x", "hold": "-1"}),
        "spec.hold",
        "FieldValueInvalid",
        "positive quantity",
    )
    .await;
}

#[tokio::test]
async fn one_wrong_field_reads_like_the_real_server() {
    let bed = Bed::new().await;
    let (_, status, _) = post(&bed, "", &with_spec(&json!({"cargo": "tea", "crew": 0}))).await;
    assert_eq!(
        status["message"],
        "Vessel.test.example.io \"a\" is invalid: spec.crew: Invalid value: 0: spec.crew in body should be \
         greater than or equal to 1"
    );
}

#[tokio::test]
async fn defaults_are_filled_in_and_rules_see_the_name() {
    let bed = Bed::new().await;
    let (code, made, _) = post(&bed, "", &with_spec(&json!({"cargo": "tea"}))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        (&made["spec"]["crew"], &made["spec"]["flag"]),
        (&json!(1), &json!("red"))
    );
    let long = refused(
        bed.vessels()
            .create(&PostParams::default(), &vessel("a-name-of-over-twenty"))
            .await,
    );
    assert!(
        long.message.contains("names are at most 20 long"),
        "{}",
        long.message
    );
}

#[tokio::test]
async fn transitions_are_judged_only_where_there_was_a_value() {
    let bed = Bed::new().await;
    bed.create("a").await;
    let hold = async |quantity: Value| {
        let patch = Patch::Merge(json!({"spec": {"hold": quantity}}));
        bed.vessels().patch("a", &PatchParams::default(), &patch).await
    };
    hold(json!("10Gi")).await.unwrap();
    hold(json!("10240Mi")).await.unwrap();
    let status = refused(hold(json!("9Gi")).await);
    assert_eq!(status.code, 422);
    assert_eq!(status.details.unwrap().causes[0].field, "spec.hold");
    assert!(
        status.message.ends_with("a hold cannot shrink"),
        "{}",
        status.message
    );
    hold(json!("1.5Ti")).await.unwrap();
}

#[tokio::test]
async fn what_was_not_changed_is_not_judged_again() {
    let bed = Bed::new().await;
    let mut given = vessel("a");
    given.spec.ports = vec![Port {
        name: "cork".into(),
        days: 1,
    }];
    bed.vessels()
        .create(&PostParams::default(), &given)
        .await
        .unwrap();
    let patch = Patch::Merge(json!({"spec": {"crew": 5}}));
    bed.vessels()
        .patch("a", &PatchParams::default(), &patch)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_rule_that_does_not_compile_is_known_at_the_start() {
    use kube::CustomResourceExt;
    let mut crd = super::Vessel::crd();
    let text = serde_json::to_string(&crd)
        .unwrap()
        .replace("sign(quantity(self)) > 0", "quantity(self >");
    crd = serde_json::from_str(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let error = super::Embedded::open(&folder.path().join("s"), vec![crd])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("vessels.test.example.io"), "{error}");
    assert!(error.to_string().contains("spec.hold"), "{error}");
}

#[tokio::test]
async fn defaults_that_came_later_reach_older_objects() {
    use kube::CustomResourceExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let without = serde_json::to_string(&super::Vessel::crd())
        .unwrap()
        .replace("\"default\":1,", "");
    let old = super::Embedded::open(&path, vec![serde_json::from_str(&without).unwrap()])
        .await
        .unwrap();
    let resource = kube::core::ApiResource::erase::<super::Vessel>(&());
    let api = |embedded: &super::Embedded| {
        kube::Api::<kube::api::DynamicObject>::default_namespaced_with(embedded.client(), &resource)
    };
    let given = serde_json::from_value(with_spec(&json!({"cargo": "tea"}))).unwrap();
    let made = api(&old).create(&PostParams::default(), &given).await.unwrap();
    assert!(made.data["spec"].get("crew").is_none(), "{made:?}");
    old.close().await;
    let new = super::Embedded::open(&path, vec![super::Vessel::crd()])
        .await
        .unwrap();
    assert_eq!(api(&new).get("a").await.unwrap().data["spec"]["crew"], json!(1));
}
