//! kubectl against the router on loopback; and a server to try by hand.

use std::process::Stdio;
use std::sync::Arc;

use axum::Router;
use base64::Engine;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::super::auth::require_token;
use super::Bed;
use crate::api::Bearer;

struct Served {
    bed: Bed,
    config: std::path::PathBuf,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// TLS in front of a listener: kubectl sends its token only over TLS.
struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, peer) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

async fn served() -> Served {
    let bed = Bed::new().await;
    let router: Router = require_token(bed.api.router(), Bearer::new("let-me-in").unwrap());
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listener = Tls {
        listener,
        acceptor: TlsAcceptor::from(Arc::new(tls)),
    };
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let config = bed.file().with_file_name("kubeconfig");
    let ca = base64::engine::general_purpose::STANDARD.encode(made.cert.pem());
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: 'https://{address}', certificate-authority-data: {ca}}}}}]\n\
         users: [{{name: u, user: {{token: let-me-in}}}}, {{name: nobody, user: {{token: wrong}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
    );
    std::fs::write(&config, text).unwrap();
    Served { bed, config, server }
}

impl Served {
    /// Runs kubectl; standard output and error together.
    async fn kubectl(&self, arguments: &str, input: &str) -> (bool, String) {
        let cache = self.config.with_file_name("cache");
        let mut child = Command::new("kubectl")
            .args(arguments.split_whitespace())
            .arg("--cache-dir")
            .arg(cache)
            .env("KUBECONFIG", &self.config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .await
            .unwrap();
        let output = child.wait_with_output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        println!("$ kubectl {arguments}\n{text}");
        (output.status.success(), text.into_owned())
    }

    async fn works(&self, arguments: &str, input: &str, words: &[&str]) {
        let (success, text) = self.kubectl(arguments, input).await;
        assert!(success, "kubectl {arguments}: {text}");
        for word in words {
            assert!(
                text.contains(word),
                "kubectl {arguments} does not say {word:?}: {text}"
            );
        }
    }
}

const VESSEL: &str =
    "apiVersion: test.example.io/v1\nkind: Vessel\nmetadata: {name: a}\nspec: {cargo: tea}\n";

const CLAIM: &str = "apiVersion: storage.billyronks.io/v1\nkind: UnifiedStorageClaim\nmetadata: {name: c}\n\
                     spec: {storageType: file, capacity: 1Gi}\n";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kubectl"]
async fn kubectl_works() {
    let s = served().await;
    s.works("version", "", &["Server Version: v1.33.0"]).await;
    let (success, text) = s.kubectl("get vs --user nobody", "").await;
    assert!(!success && text.contains("must be logged in"), "{text}");
    s.works("api-resources", "", &["vessels", "vs", "test.example.io/v1"])
        .await;
    s.works("apply -f -", VESSEL, &["vessel.test.example.io/a created"])
        .await;
    s.works("apply -f -", VESSEL, &["unchanged"]).await;
    s.works("apply -f -", &VESSEL.replace("tea", "rum"), &["configured"])
        .await;
    s.works("diff -f -", &VESSEL.replace("tea", "rum"), &[]).await;
    s.works("get vs", "", &["NAME", "CARGO", "READY", "AGE", "rum"])
        .await;
    s.works("get harbour -A -o wide", "", &["NAMESPACE", "rum"]).await;
    s.works("get vs a -o yaml", "", &["cargo: rum"]).await;
    s.works("get vs a -o jsonpath={.spec.cargo}", "", &["rum"]).await;
    s.works("describe vs a", "", &["Cargo:", "Events:"]).await;
    s.works("explain vs.spec.crew", "", &["Crew members"]).await;
    s.works("explain vs --recursive", "", &["ports", "conditions"])
        .await;
    s.works("label vs a side=port", "", &["labeled"]).await;
    s.works("annotate vs a note=x", "", &["annotated"]).await;
    s.works("get vs -l side=port --show-labels", "", &["side=port"])
        .await;
    s.works(
        "patch vs a --type merge -p {\"spec\":{\"crew\":3}}",
        "",
        &["patched"],
    )
    .await;
    s.works(
        "patch vs a --type json -p [{\"op\":\"replace\",\"path\":\"/spec/crew\",\"value\":4}]",
        "",
        &["patched"],
    )
    .await;
    let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    s.works(
        &format!("patch vs a --subresource status --type merge -p {ready}"),
        "",
        &["patched"],
    )
    .await;
    s.works(
        "wait --for=condition=Ready vs/a --timeout 5s",
        "",
        &["condition met"],
    )
    .await;
    let (success, text) = s.kubectl("apply -f -", &VESSEL.replace("cargo", "kargo")).await;
    assert!(
        !success && text.contains("unknown field \"spec.kargo\""),
        "{text}"
    );
    let (success, text) = s.kubectl("apply --server-side -f -", VESSEL).await;
    assert!(
        !success && text.contains("server-side apply is not offered"),
        "{text}"
    );
    s.works(
        "apply --dry-run=server -f -",
        &VESSEL.replace("name: a", "name: b"),
        &["created (server dry run)"],
    )
    .await;
    s.works("get usc,sn,up,pm,uclaim,uv", "", &["No resources found"])
        .await;
    s.works(
        "explain unifiedpool.spec.driveSelector",
        "",
        &["Which drives", "requireZns", "minTier"],
    )
    .await;
    s.works("apply -f -", CLAIM, &["created"]).await;
    s.works("apply -f -", &CLAIM.replace("1Gi", "2Gi"), &["configured"])
        .await;
    s.works("get smart-storage -A", "", &["2Gi", "CAPACITY"]).await;
    s.works("create namespace dock", "", &["created"]).await;
    s.works(
        "create secret generic s --from-literal=k=v -n dock",
        "",
        &["created"],
    )
    .await;
    s.works("create configmap m --from-literal=k=v -n dock", "", &["created"])
        .await;
    s.works(
        "get secret,cm -n dock",
        "",
        &["Opaque", "secret/s", "configmap/m"],
    )
    .await;
    s.works("describe secret s -n dock", "", &["1 bytes"]).await;
    s.works("apply -n dock -f -", VESSEL, &["created"]).await;
    s.works("delete namespace dock --timeout 10s", "", &["deleted"])
        .await;
    s.works("get events", "", &[]).await;
    s.works("get crd", "", &["vessels.test.example.io"]).await;
    s.works("delete vs a --timeout 10s", "", &["deleted"]).await;
    s.works("get ns", "", &["default", "Active"]).await;
    s.works("delete vs --all", "", &[]).await;
}

/// `SERVE_UNTIL=<file>`: serves until the file is gone, for trying by hand.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "serves until a file is gone"]
async fn serve_by_hand() {
    let Ok(file) = std::env::var("SERVE_UNTIL") else {
        return;
    };
    let s = served().await;
    s.bed.create("hand").await;
    std::fs::copy(&s.config, &file).unwrap();
    while std::path::Path::new(&file).exists() {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}
