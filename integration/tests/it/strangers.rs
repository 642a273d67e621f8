//! gRPC of every part of SeaweedFS: who is let in by which certificate.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use smart_storage_integration::{Cluster, Setup, drives::run, needs::INSTANCE, skipped};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Status,
    client::Grpc,
    codegen::http::{Uri, uri::PathAndQuery},
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::reading::{list, text};

const PATIENCE: Duration = Duration::from_secs(10);

/// What a caller shows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shows<'a> {
    /// Plain text.
    Plain,
    /// TLS, and no certificate.
    Nothing,
    /// The certificate of a role, from one of the folders that `up` made, or of another CA.
    Role(&'a Path),
}

/// Takes whatever certificate a server shows: here only the servers' judgement is looked at.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn tls(shows: Shows<'_>) -> Result<TlsConnector> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(provider)));
    let mut config = match shows {
        Shows::Role(folder) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_file(folder.join("tls.crt"))?],
            PrivateKeyDer::from_pem_file(folder.join("tls.key"))?,
        )?,
        Shows::Plain | Shows::Nothing => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn connect(address: &str, shows: Shows<'_>) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .timeout(PATIENCE)
        .connect_timeout(PATIENCE);
    if shows == Shows::Plain {
        return Ok(endpoint.connect().await?);
    }
    let (tls, address) = (tls(shows)?, address.to_owned());
    let connector = tower::service_fn(move |_: Uri| {
        let (tls, address) = (tls.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
        }
    });
    Ok(endpoint.connect_with_connector(connector).await?)
}

/// One call with an empty message. `Ok` where the server itself answered, whatever it said.
async fn call(address: &str, method: &'static str, shows: Shows<'_>) -> Result<Code> {
    let mut grpc = Grpc::new(connect(address, shows).await?);
    grpc.ready().await?;
    let codec = ProstCodec::<(), ()>::default();
    let path = PathAndQuery::from_static(method);
    let called = grpc.server_streaming(tonic::Request::new(()), path, codec).await;
    let status = match called {
        Ok(mut answers) => match answers.get_mut().message().await {
            Ok(_) => return Ok(Code::Ok),
            Err(status) => status,
        },
        Err(status) => status,
    };
    ensure!(!is_transports(&status), "{status}");
    Ok(status.code())
}

/// Said by our own side of a connection that was ended, not by the server.
fn is_transports(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
        || matches!(
            status.code(),
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded
        )
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_of_seaweedfs_answers_only_the_certificates_that_have_business_there() -> Result<()> {
    if skipped("strangers", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("strangers", Setup::DEMO).await?;
    let ours = cluster.security()?;
    // The very program that made ours makes a CA of somebody else.
    let theirs = tempfile::tempdir()?;
    let program = cluster.state().join("bin/smart-storage-controller");
    run(Command::new(program).arg("seaweedfs-security").arg(theirs.path()))?;

    let port = |name: &str| -> Result<String> { Ok(format!("127.0.0.1:{}", cluster.port(name)?)) };
    let members = cluster.object("poolmembers").await?;
    let member = list(&members, "/items").first().context("no member")?;
    let (host, http) = text(member, "/status/endpoint")?
        .rsplit_once(':')
        .context("no port")?;
    // A member's gRPC port follows its HTTP port.
    let member = format!("{host}:{}", http.parse::<u16>()? + 1);
    let volume = "/volume_server_pb.VolumeServer/VolumeServerStatus";
    let doors = [
        (
            "master",
            port("weed-master-grpc")?,
            "/master_pb.Seaweed/GetMasterConfiguration",
            &["core", "node", "controller"][..],
        ),
        (
            "master",
            port("weed-master-grpc")?,
            "/master_pb.Seaweed/VolumeList",
            &["core", "node", "controller"],
        ),
        (
            "filer",
            port("weed-filer-grpc")?,
            "/filer_pb.SeaweedFiler/GetFilerConfiguration",
            &["core", "mount", "controller"],
        ),
        (
            "filer",
            port("weed-filer-grpc")?,
            "/filer_pb.SeaweedFiler/ListEntries",
            &["core", "mount", "controller"],
        ),
        (
            "metadata volume server",
            port("weed-volume-grpc")?,
            volume,
            &["core", "node"],
        ),
        ("member", member, volume, &["core", "node"]),
        (
            "S3",
            port("weed-s3-grpc")?,
            "/messaging_pb.SeaweedS3IamCache/PutIdentity",
            &["core"],
        ),
    ];
    let mut wrong = Vec::new();
    let mut asked = 0;
    for (name, address, method, let_in) in &doors {
        for ca in [ours.as_path(), theirs.path()] {
            let foreign = ca != ours;
            for role in ["core", "node", "mount", "controller"] {
                let folder = ca.join(role);
                let answer = call(address, method, Shows::Role(&folder)).await;
                asked += 1;
                if answer.is_ok() != (!foreign && let_in.contains(&role)) {
                    wrong.push(format!(
                        "{name} {method}: {role} (foreign: {foreign}): {answer:?}"
                    ));
                }
            }
        }
        for shows in [Shows::Plain, Shows::Nothing] {
            let answer = call(address, method, shows).await;
            asked += 1;
            if answer.is_ok() {
                wrong.push(format!("{name} {method}: {shows:?}: {answer:?}"));
            }
        }
    }
    // What everybody does everywhere: a stream of it would tell every file's name.
    let filer = port("weed-filer-grpc")?;
    for shows in [
        Shows::Plain,
        Shows::Nothing,
        Shows::Role(&theirs.path().join("core")),
        Shows::Role(&ours.join("node")),
    ] {
        let answer = call(&filer, "/filer_pb.SeaweedFiler/SubscribeMetadata", shows).await;
        asked += 1;
        if answer.is_ok() {
            wrong.push(format!("SubscribeMetadata: {shows:?}: {answer:?}"));
        }
    }
    println!("  strangers: {asked} calls");
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
