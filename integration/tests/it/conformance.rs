//! The conformance list over TLS: of a whole standalone instance, and of a real kube-apiserver where there is one.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use smart_storage_integration::{
    Cluster, Need, Setup,
    conformance::{self, Forget, Server},
    needs::INSTANCE,
    skipped,
};

fn filter() -> String {
    std::env::var("CONFORMANCE").unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_instance_is_a_kubernetes_api() -> Result<()> {
    if skipped("conformance", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("conformance", Setup::BARE).await?;
    let server = Server {
        client: cluster.kube().await?,
        forget: None,
    };
    let mut cases = conformance::cases();
    cases.extend(conformance::departures());
    let verdicts = conformance::ask(&server, cases, &filter()).await;
    println!("  {} laws asked", verdicts.len());
    conformance::all_hold(&verdicts)?;
    if skipped("conformance: kubectl", &[Need::Kubectl])? {
        return Ok(());
    }
    conformance::kubectl(&PathBuf::from(cluster.variable("KUBECONFIG")?)).await
}

/// `SMART_STORAGE_CONFORMANCE_KUBECONFIG` leads to a server on which `deploy/crds` are established and controllers
/// for namespaces and garbage run. `SMART_STORAGE_CONFORMANCE_FORGET`, if set, is a command that compacts its history.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kube-apiserver: SMART_STORAGE_CONFORMANCE_KUBECONFIG"]
async fn a_real_kube_apiserver_gives_the_same_verdicts() -> Result<()> {
    let kubeconfig = std::env::var("SMART_STORAGE_CONFORMANCE_KUBECONFIG")
        .context("SMART_STORAGE_CONFORMANCE_KUBECONFIG is not set")?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let file = kube::config::Kubeconfig::read_from(&kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
    let command = std::env::var("SMART_STORAGE_CONFORMANCE_FORGET").ok();
    let forget = command.map(|command| -> Forget {
        Arc::new(move || {
            let mut bash = tokio::process::Command::new("bash");
            bash.args(["-c", &command]);
            Box::pin(async move {
                let status = bash.status().await?;
                ensure!(status.success(), "SMART_STORAGE_CONFORMANCE_FORGET: {status}");
                Ok(())
            })
        })
    });
    let server = Server {
        client: kube::Client::try_from(config)?,
        forget,
    };
    let verdicts = conformance::ask(&server, conformance::cases(), &filter()).await;
    println!("  {} laws asked", verdicts.len());
    let same = conformance::all_hold(&verdicts);
    // A departure that a real server shares is none.
    let departures = conformance::ask(&server, conformance::departures(), "").await;
    let shared: Vec<_> = departures
        .iter()
        .filter(|verdict| verdict.outcome.is_ok())
        .collect();
    same?;
    ensure!(shared.is_empty(), "no departures at all: {shared:?}");
    conformance::kubectl(&PathBuf::from(kubeconfig)).await
}
