//! Who is trusted, on a running instance: the CA is rotated, a node is sent away and taken in again, and neither
//! costs a stream that should stay.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use smart_storage_integration::{
    Cluster, Setup, cluster::NODE, drives::run, eventually, needs::INSTANCE, skipped,
};

const SOON: Duration = Duration::from_secs(20);

/// The controller's own program.
fn controller(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    run(Command::new(cluster.state().join("bin/smart-storage-controller"))
        .args(arguments)
        .arg("--data-dir")
        .arg(cluster.state().join("controller")))
}

/// Status and text of a plain page of the agent.
async fn page(cluster: &Cluster, variable: &str, path: &str) -> Result<String> {
    let url = format!("{}{path}", cluster.variable(variable)?);
    Ok(reqwest::get(url).await?.text().await?)
}

/// One of the agent's counters; 0 where it was never counted.
pub async fn counted(cluster: &Cluster, line: &str) -> Result<u64> {
    let all = page(cluster, "SMART_STORAGE_AGENT_METRICS_URL", "/metrics").await?;
    let value = all
        .lines()
        .find_map(|told| told.strip_prefix(line)?.strip_prefix(' '));
    Ok(value.map_or(Ok(0), str::parse)?)
}

/// Another program's TLS (OpenSSL's), trusting these certificates and nothing else.
fn curl(cluster: &Cluster, ca: &Path) -> Result<String> {
    let url = cluster
        .variable("SMART_STORAGE_URL")?
        .replace("http://", "https://");
    run(Command::new("curl")
        .args(["-sS", "-m", "10", "--fail", "--cacert"])
        .arg(ca)
        .arg(format!("{url}/health")))
}

const RENEWALS: &str = r#"smart_storage_agent_certificates_total{by="renewal"}"#;
pub const WELCOMED: &str = r#"smart_storage_agent_streams_total{outcome="welcomed"}"#;
const RESCANS: &str = r#"smart_storage_agent_watched_total{what="rescan"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_is_rotated_and_a_node_sent_away_under_a_running_instance() -> Result<()> {
    if skipped("trust", &INSTANCE)? {
        return Ok(());
    }
    let mut cluster = Cluster::start("trust", Setup::BARE).await?;
    rotate(&mut cluster).await?;
    send_away(&cluster).await?;
    heed_the_interval(&cluster).await
}

/// What the program says when it does not do it.
fn refused(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    match controller(cluster, arguments) {
        Ok(said) => bail!("{arguments:?} was done: {said}"),
        Err(error) => Ok(error.to_string()),
    }
}

async fn rotate(cluster: &mut Cluster) -> Result<()> {
    let ca = cluster.state().join("controller/pki/ca.crt");
    let old = cluster.state().join("old-ca.crt");
    fs::copy(&ca, &old)?;
    let nothing = refused(cluster, &["rotate-ca", "--finish"])?;
    ensure!(
        nothing.contains("no rotation of the CA is under way"),
        "{nothing}"
    );

    let said = controller(cluster, &["rotate-ca"])?;
    ensure!(said.contains("rotate-ca --finish"), "{said}");
    eventually(SOON, "the agent has a certificate of the new CA", || async {
        Ok((counted(cluster, RENEWALS).await? == 1).then_some(()))
    })
    .await?;
    // Old clients, new clients, and Go's TLS with what a kubeconfig from before has in it.
    curl(cluster, &old).context("with the old CA only")?;
    curl(cluster, &ca).context("with both")?;
    cluster
        .kubectl(["get", "storagenodes"])
        .context("kubectl with the old CA")?;
    let again = refused(cluster, &["rotate-ca"])?;
    ensure!(again.contains("is under way"), "{again}");

    eventually(SOON, "the rotation can be finished", || async {
        controller(cluster, &["rotate-ca", "--finish"]).map(Some)
    })
    .await?;
    eventually(SOON, "the agent trusts the new CA only", || async {
        Ok((counted(cluster, RENEWALS).await? == 2).then_some(()))
    })
    .await?;
    curl(cluster, &ca).context("with the new CA")?;
    ensure!(curl(cluster, &old).is_err(), "the old CA is still good");
    ensure!(counted(cluster, WELCOMED).await? == 1, "the stream was dropped");

    // A restart knows nothing but the files; `up` writes the kubeconfig anew.
    cluster.kill9("controller").await?;
    cluster.up().await?;
    cluster
        .kubectl(["get", "storagenodes"])
        .context("kubectl with the new CA")?;
    eventually(SOON, "the agent is back", || async {
        Ok((counted(cluster, WELCOMED).await? == 2).then_some(()))
    })
    .await?;
    Ok(())
}

fn patch(cluster: &Cluster, spec: &str) -> Result<String> {
    cluster.kubectl([
        "patch",
        "storagenode",
        NODE,
        "--type=merge",
        "-p",
        &format!(r#"{{"spec":{spec}}}"#),
    ])
}

async fn send_away(cluster: &Cluster) -> Result<()> {
    patch(cluster, r#"{"autoDiscover":false}"#)?;
    eventually(SOON, "the agent hears why it is not wanted", || async {
        let ready = page(cluster, "SMART_STORAGE_AGENT_HEALTH_URL", "/readyz").await?;
        Ok(ready.contains("autoDiscover: false").then_some(()))
    })
    .await?;
    patch(cluster, r#"{"autoDiscover":true}"#)?;
    eventually(SOON, "the node is taken in again", || async {
        let ready = page(cluster, "SMART_STORAGE_AGENT_HEALTH_URL", "/readyz").await?;
        Ok((ready == "ok\n").then_some(()))
    })
    .await
}

async fn heed_the_interval(cluster: &Cluster) -> Result<()> {
    let before = counted(cluster, RESCANS).await?;
    // The shortest that there is; of itself the agent would rescan after five minutes.
    patch(cluster, r#"{"discoveryIntervalSecs":10}"#)?;
    eventually(2 * SOON, "the agent rescans every ten seconds", || async {
        Ok((counted(cluster, RESCANS).await? >= before + 2).then_some(()))
    })
    .await?;
    patch(cluster, r#"{"discoveryIntervalSecs":null}"#)?;
    Ok(())
}
