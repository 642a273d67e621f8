//! The agent's identity: how it is got with a join token, renewed, and kept in `<data-dir>/identity/`.
//!
//! The token carries the hash of the CA, so the first connection already trusts nobody else (or, with `--ca-file`,
//! that CA). Keys are made here and never leave their file but into rustls; neither key nor token is ever logged.

use std::{
    error::Error,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject as _,
};
use smart_storage_proto::{
    agent::v1::{
        self as pb, agent_service_client::AgentServiceClient,
        enrolment_service_client::EnrolmentServiceClient,
    },
    tls::{self, ALPN_H2, Identity, TlsError},
};
use tonic::transport::Channel;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    member::fault,
    session::connect::{self, ConnectError},
};

const IDENTITY: &str = "identity.pem";
const CA: &str = "ca.pem";

/// Why there is no (new) identity.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The token's text is broken.
    #[error("the join token is malformed: it reads <node>.<secret>.<sha256 of the CA, hex>")]
    Token,
    /// The token, the CA file or the identity cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no join token to enrol with.
    #[error("no --join-token-file to enrol with")]
    NoToken,
    /// Certificates that make no sense.
    #[error("{0}")]
    Certificate(String),
    /// No TLS from this material.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No connection to the enrolment port.
    #[error("enrolment: {0}")]
    Connect(#[from] ConnectError),
    /// The controller refused, or broke off.
    #[error("enrolment refused: {}", .0.message())]
    Refused(#[source] Box<tonic::Status>),
}

/// A join token, taken apart.
#[derive(Clone)]
pub struct JoinToken {
    text: String,
    node: String,
    ca_hash: [u8; 32],
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl JoinToken {
    /// Reads `<node>.<secret>.<hash>`.
    ///
    /// # Errors
    /// [`EnrolError::Token`].
    pub fn parse(text: &str) -> Result<Self, EnrolError> {
        let text = text.trim();
        // Node names have dots; secret and hash have none.
        let (rest, hash) = text.rsplit_once('.').ok_or(EnrolError::Token)?;
        let (node, secret) = rest.rsplit_once('.').ok_or(EnrolError::Token)?;
        if node.is_empty() || secret.is_empty() {
            return Err(EnrolError::Token);
        }
        Ok(Self {
            text: text.to_owned(),
            node: node.to_owned(),
            ca_hash: unhex(hash).ok_or(EnrolError::Token)?,
        })
    }

    /// The node that it was made for.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0_u8; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// The node's certificate and key, the CAs it trusts, and how long it is good.
#[derive(Debug, Clone)]
pub struct NodeIdentity {
    /// Chain and key.
    pub identity: Identity,
    /// The CAs to trust.
    pub ca: Vec<CertificateDer<'static>>,
    /// Begin of its life.
    pub not_before: SystemTime,
    /// End of its life.
    pub not_after: SystemTime,
}

impl NodeIdentity {
    /// Whether it can be shown at `now`.
    #[must_use]
    pub fn is_valid(&self, now: SystemTime) -> bool {
        (self.not_before..self.not_after).contains(&now)
    }

    /// When it is to be renewed: at half of its life.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life / 2
    }

    /// The client's side of mTLS with it.
    ///
    /// # Errors
    /// [`TlsError`] where the material is refused.
    pub fn client(&self) -> Result<Arc<ClientConfig>, TlsError> {
        Ok(Arc::new(tls::client(&self.ca, Some(&self.identity), &[ALPN_H2])?))
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        ca: Vec<CertificateDer<'static>>,
        key: Vec<u8>,
    ) -> Result<Self, EnrolError> {
        let wrong = |what: &str| EnrolError::Certificate(what.to_owned());
        let pair =
            KeyPair::try_from(key.as_slice()).map_err(|e| EnrolError::Certificate(format!("key: {e}")))?;
        let leaf = chain.first().ok_or_else(|| wrong("no certificate"))?;
        let (_, leaf) =
            X509Certificate::from_der(leaf).map_err(|_| wrong("the certificate cannot be read"))?;
        if leaf.public_key().subject_public_key.data.as_ref() != rcgen::PublicKeyData::der_bytes(&pair) {
            return Err(wrong("the certificate is for another key"));
        }
        if ca.is_empty() {
            return Err(wrong("no CA certificate"));
        }
        let (not_before, not_after) = (
            time(leaf.validity().not_before.timestamp()),
            time(leaf.validity().not_after.timestamp()),
        );
        Ok(Self {
            identity: Identity {
                chain,
                key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)),
            },
            ca,
            not_before,
            not_after,
        })
    }

    fn from_answer(answer: pb::EnrolResponse, pair: &KeyPair) -> Result<Self, EnrolError> {
        let der = |all: Vec<Vec<u8>>| all.into_iter().map(CertificateDer::from).collect();
        Self::new(
            der(answer.certificate_chain),
            der(answer.ca_certificates),
            pair.serialize_der(),
        )
    }

    /// Writes it into `<data_dir>/identity/`, each file whole or not at all, mode 0600.
    ///
    /// # Errors
    /// [`EnrolError::File`].
    pub fn store(&self, data_dir: &Path) -> Result<(), EnrolError> {
        let folder = data_dir.join("identity");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|source| EnrolError::File {
                path: folder.clone(),
                source,
            })?;
        let pair = KeyPair::try_from(self.identity.key.secret_der())
            .map_err(|e| EnrolError::Certificate(format!("key: {e}")))?;
        let pem = |all: &[CertificateDer<'_>]| all.iter().map(tls::certificate_pem).collect::<String>();
        // The CA first: an identity is never there without what it trusts.
        write_private(&folder.join(CA), &pem(&self.ca))?;
        fault::point("identity-ca-written");
        write_private(
            &folder.join(IDENTITY),
            &(pair.serialize_pem() + &pem(&self.identity.chain)),
        )?;
        fault::point("identity-written");
        Ok(())
    }

    /// Reads it from `<data_dir>/identity/`; `None` where the node was never enrolled.
    ///
    /// # Errors
    /// [`EnrolError`] where the files are there and cannot be used.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, EnrolError> {
        if !is_enrolled(data_dir) {
            return Ok(None);
        }
        let folder = data_dir.join("identity");
        let identity = read(&folder.join(IDENTITY))?;
        let key = PrivateKeyDer::from_pem_slice(identity.as_bytes())
            .map_err(|e| EnrolError::Certificate(format!("{IDENTITY}: {e}")))?;
        let chain = certificates(&identity)?;
        let ca = certificates(&read(&folder.join(CA))?)?;
        Self::new(chain, ca, key.secret_der().to_vec()).map(Some)
    }
}

/// Whether the data folder holds an identity.
#[must_use]
pub fn is_enrolled(data_dir: &Path) -> bool {
    let folder = data_dir.join("identity");
    folder.join(IDENTITY).exists() && folder.join(CA).exists()
}

/// The certificates of a PEM text, at least one.
///
/// # Errors
/// [`EnrolError::Certificate`].
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, EnrolError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(EnrolError::Certificate("no certificate (PEM) in it".to_owned())),
        Err(error) => Err(EnrolError::Certificate(error.to_string())),
    }
}

/// Where and with what a node enrols.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// `host:port` of the enrolment port.
    pub addr: String,
    /// The node's name.
    pub node: String,
    /// Where the token is; read anew each time.
    pub token_file: Option<PathBuf>,
    /// The CA to trust, instead of the token's hash.
    pub ca_file: Option<PathBuf>,
}

impl Enrolment {
    /// Shows the token and gets a certificate.
    ///
    /// # Errors
    /// [`EnrolError`].
    pub async fn enrol(&self) -> Result<NodeIdentity, EnrolError> {
        let token = JoinToken::parse(&read(self.token_file.as_ref().ok_or(EnrolError::NoToken)?)?)?;
        let config = match &self.ca_file {
            Some(file) => tls::client(&certificates(&read(file)?)?, None, &[ALPN_H2])?,
            None => pinned(token.ca_hash)?,
        };
        let channel = connect::connect(&self.addr, Arc::new(config)).await?;
        let (pair, csr) = request(&self.node)?;
        let answer = EnrolmentServiceClient::new(channel)
            .enrol(with_timeout(pb::EnrolRequest {
                token: token.text,
                csr,
                node_name: self.node.clone(),
            }))
            .await
            .map_err(|status| EnrolError::Refused(Box::new(status)))?;
        NodeIdentity::from_answer(answer.into_inner(), &pair)
    }
}

/// Gets a new certificate over a connection that shows the present one.
///
/// # Errors
/// [`EnrolError`].
pub async fn renew(channel: Channel, node: &str) -> Result<NodeIdentity, EnrolError> {
    let (pair, csr) = request(node)?;
    let answer = AgentServiceClient::new(channel)
        .renew(with_timeout(pb::RenewRequest { csr }))
        .await
        .map_err(|status| EnrolError::Refused(Box::new(status)))?;
    NodeIdentity::from_answer(answer.into_inner(), &pair)
}

fn with_timeout<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(Duration::from_secs(10));
    request
}

fn request(node: &str) -> Result<(KeyPair, Vec<u8>), EnrolError> {
    let made = |e: rcgen::Error| EnrolError::Certificate(format!("signing request: {e}"));
    let pair = KeyPair::generate().map_err(made)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(
        rcgen::DnType::CommonName,
        node.chars().take(64).collect::<String>(),
    );
    let csr = params.serialize_request(&pair).map_err(made)?;
    let der = csr.der().to_vec();
    Ok((pair, der))
}

fn time(unix: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix).unwrap_or(0))
}

fn read(path: &Path) -> Result<String, EnrolError> {
    fs::read_to_string(path).map_err(|source| EnrolError::File {
        path: path.to_owned(),
        source,
    })
}

fn write_private(path: &Path, content: &str) -> Result<(), EnrolError> {
    let temporary = path.with_extension("new");
    let written = (|| {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fault::point("identity-file-unnamed");
        fs::rename(&temporary, path)?;
        path.parent()
            .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    })();
    written.map_err(|source| EnrolError::File {
        path: path.to_owned(),
        source,
    })
}

/// A client that trusts the one CA whose certificate has this hash, wherever it gets to see it.
fn pinned(ca_hash: [u8; 32]) -> Result<ClientConfig, EnrolError> {
    let verifier = Arc::new(PinnedCa { ca_hash });
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Identity)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(config)
}

/// Looks for the pinned CA in the presented chain, then verifies as usual with it as the only anchor.
#[derive(Debug)]
struct PinnedCa {
    ca_hash: [u8; 32],
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates
            .iter()
            .find(|c| ring::digest::digest(&ring::digest::SHA256, c).as_ref() == self.ca_hash)
            .ok_or(rustls::Error::InvalidCertificate(
                rustls::CertificateError::UnknownIssuer,
            ))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = tls::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Whether an error came about because one side does not accept the other's certificate: a new enrolment may help.
#[must_use]
pub fn is_certificate_problem(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let rustls = error
            .downcast_ref::<rustls::Error>()
            .or_else(|| inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()));
        match rustls {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) => return true,
            _ => next = error.source(),
        }
        // An io::Error that wraps another error does not show it as its source, but shows that one's source; and HTTP/2
        // keeps nothing but the text.
        if let Some(inner) = inner
            && (inner.to_string().starts_with("received fatal alert") || is_certificate_problem(inner))
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_apart_from_the_right() {
        let hash = "0f".repeat(32);
        let token = JoinToken::parse(&format!(" rack-7.node-1.s3cret.{hash}\n")).unwrap();
        assert_eq!(token.node(), "rack-7.node-1");
        assert_eq!(token.ca_hash, [0x0f; 32]);
        for wrong in ["", "a.b", "a.b.c", &format!(".x.{hash}"), &format!("a..{hash}")] {
            assert!(JoinToken::parse(wrong).is_err(), "{wrong}");
        }
        assert!(!format!("{token:?}").contains("s3cret"));
    }

    #[test]
    fn a_refused_certificate_is_recognised_below_other_errors() {
        let refused = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, refused);
        assert!(is_certificate_problem(&wrapped));
        assert!(is_certificate_problem(&io::Error::other(wrapped)));
        assert!(is_certificate_problem(&io::Error::other(
            "received fatal alert: CertificateExpired"
        )));
        assert!(!is_certificate_problem(&io::Error::from(
            io::ErrorKind::ConnectionRefused
        )));
    }
}
