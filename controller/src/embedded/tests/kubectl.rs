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
}

const VESSEL: &str =
    "apiVersion: test.example.io/v1\nkind: Vessel\nmetadata: {name: a}\nspec: {cargo: tea}\n";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kubectl"]
async fn kubectl_works_as_against_a_real_server() {
    let s = served().await;
    let (success, text) = s.kubectl("get vs --user nobody", "").await;
    assert!(!success && text.contains("must be logged in"), "{text}");
    let (success, text) = s.kubectl("apply --server-side -f -", VESSEL).await;
    assert!(
        !success && text.contains("server-side apply is not offered"),
        "{text}"
    );
    if let Err(error) = smart_storage_integration::conformance::kubectl(&s.config).await {
        panic!("{error:#}");
    }
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
