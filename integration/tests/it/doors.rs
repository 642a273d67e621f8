//! The doors of the controller: who is let in, and that all of them lead to the same things.

use anyhow::{Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::json;
use smart_storage_integration::{Cluster, Setup, cluster::NODE, needs::INSTANCE, skipped};
use smart_storage_proto::v1::{GetNodeRequest, GetStorageRequest, ListNodesRequest};

use crate::reading::{list, text};

#[tokio::test(flavor = "multi_thread")]
async fn without_the_token_only_health_metrics_and_openapi_answer() -> Result<()> {
    if skipped("doors", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("doors", Setup::BARE).await?;
    let url = cluster.variable("SMART_STORAGE_URL")?;
    let http = reqwest::Client::new();
    let status = async |path: String| -> Result<StatusCode> { Ok(http.get(path).send().await?.status()) };
    ensure!(status(format!("{url}/v1/nodes")).await? == StatusCode::UNAUTHORIZED);
    ensure!(status(format!("{url}/health")).await? == StatusCode::OK);
    ensure!(status(format!("{url}/openapi.json")).await? == StatusCode::OK);
    for path in ["healthz", "readyz"] {
        ensure!(
            status(format!(
                "{}/{path}",
                cluster.variable("SMART_STORAGE_HEALTH_URL")?
            ))
            .await?
                == StatusCode::OK
        );
    }
    let metrics = format!("{}/metrics", cluster.variable("SMART_STORAGE_METRICS_URL")?);
    let text = http.get(metrics).send().await?.text().await?;
    ensure!(text.contains("smart_storage_"), "{text}");

    let stranger = cluster.rest()?.with_token("0000");
    let (status, problem) = stranger.call(Method::GET, "/v1/nodes", None).await?;
    ensure!(status == StatusCode::UNAUTHORIZED, "{status}: {problem}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_over_tls_shows_a_certificate_of_the_instance_s_own_ca() -> Result<()> {
    if skipped("doors: tls", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("tls", Setup::BARE).await?;
    let ca = reqwest::Certificate::from_pem(&std::fs::read(cluster.variable("SMART_STORAGE_CA")?)?)?;
    let http = reqwest::Client::builder().tls_certs_only([ca]).build()?;
    let url = cluster
        .variable("SMART_STORAGE_URL")?
        .replace("http://", "https://");
    let token = cluster.variable("SMART_STORAGE_TOKEN")?;
    let answer = http
        .get(format!("{url}/v1/nodes"))
        .bearer_auth(token)
        .send()
        .await?;
    ensure!(answer.status() == StatusCode::OK, "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_grpc_and_kubernetes_show_the_same_things() -> Result<()> {
    if skipped("doors: same", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("same", Setup::DEMO).await?;
    let rest = cluster.rest()?;
    let mut grpc = cluster.grpc().await?;

    let by_rest = rest.get(&format!("/v1/nodes/{NODE}")).await?;
    let by_grpc = grpc
        .get_node(GetNodeRequest {
            name: NODE.to_owned(),
        })
        .await?
        .into_inner();
    let ids = |drives: &[serde_json::Value]| -> Vec<String> {
        drives
            .iter()
            .filter_map(|drive| text(drive, "/id").ok().map(str::to_owned))
            .collect()
    };
    let mut rest_ids = ids(list(&by_rest, "/drives"));
    let mut grpc_ids: Vec<_> = by_grpc.drives.into_iter().map(|drive| drive.id).collect();
    rest_ids.sort();
    grpc_ids.sort();
    ensure!(rest_ids == grpc_ids, "{rest_ids:?} and {grpc_ids:?}");
    let listed = grpc.list_nodes(ListNodesRequest::default()).await?.into_inner();
    ensure!(listed.items.len() == 1, "{listed:?}");

    let claim = cluster
        .object("namespaces/default/unifiedstorageclaims/demo")
        .await?;
    let id = text(&claim, "/status/volumeName")?;
    let by_rest = rest.get(&format!("/v1/storage/{id}")).await?;
    let by_grpc = grpc
        .get_storage(GetStorageRequest { id: id.to_owned() })
        .await?
        .into_inner();
    ensure!(
        text(&by_rest, "/name")? == "demo" && by_grpc.name == "demo",
        "{by_rest} {by_grpc:?}"
    );
    ensure!(text(&by_rest, "/pool")? == by_grpc.pool, "{by_rest} {by_grpc:?}");

    let ask = json!({"name": "demo", "storage_type": "file", "capacity_bytes": 1});
    let (status, answer) = rest.call(Method::POST, "/v1/storage", Some(&ask)).await?;
    ensure!(
        status == StatusCode::CONFLICT,
        "another request under that name: {status} {answer}"
    );
    let wrong = json!({"name": "UPPER", "storage_type": "tape", "capacity_bytes": 1});
    let (status, answer) = rest.call(Method::POST, "/v1/storage", Some(&wrong)).await?;
    ensure!(status == StatusCode::UNPROCESSABLE_ENTITY, "{status} {answer}");
    ensure!(
        !list(&answer, "/errors").is_empty(),
        "it names every wrong field: {answer}"
    );
    Ok(())
}
