//! The agent's identity: how it is got with a join token, renewed, and kept in `<data-dir>/identity/`.
//!
//! The token carries the hash of the CA, so the first connection already trusts nobody else (or, with `--ca-file`,
//! that CA). Keys are made here and never leave their file but into rustls; neither key nor token is ever logged.

mod pinned;

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
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use smart_storage_proto::{
    agent::v1::{
        self as pb, agent_service_client::AgentServiceClient,
        enrolment_service_client::EnrolmentServiceClient,
    },
    tls::{self, ALPN_H2, Identity, TlsError},
};
use tonic::transport::Channel;
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub use self::pinned::pinned;
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

    /// SHA-256 of the CA certificate that signed it, where it is one of those that are trusted.
    #[must_use]
    pub fn issuer_sha256(&self) -> Option<Vec<u8>> {
        let (_, leaf) = X509Certificate::from_der(self.identity.chain.first()?).ok()?;
        let signed = |ca: &&CertificateDer<'static>| {
            X509Certificate::from_der(ca)
                .is_ok_and(|(_, ca)| leaf.verify_signature(Some(ca.public_key())).is_ok())
        };
        self.ca.iter().find(signed).map(|ca| sha256(ca))
    }

    /// Whether it is what the controller wants nodes to have: exactly these CAs trusted, and the first of them signed
    /// its certificate.
    #[must_use]
    pub fn fits(&self, trust: &[Vec<u8>]) -> bool {
        let trusted: Vec<_> = self.ca.iter().map(|ca| sha256(ca)).collect();
        trusted == trust && self.issuer_sha256().as_ref() == trust.first()
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

fn sha256(bytes: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, bytes)
        .as_ref()
        .to_vec()
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

/// Whether an error came about because one side does not accept the other's certificate: a new enrolment may help.
#[must_use]
pub fn is_certificate_problem(error: &(dyn Error + 'static)) -> bool {
    certificate_problem(error).is_some()
}

/// What TLS says where one side does not accept the other's certificate.
#[must_use]
pub fn certificate_problem(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let rustls = error
            .downcast_ref::<rustls::Error>()
            .or_else(|| inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()));
        match rustls {
            Some(problem @ (rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))) => {
                return Some(problem.to_string());
            }
            _ => next = error.source(),
        }
        // An io::Error that wraps another error does not show it as its source, but shows that one's source; and HTTP/2
        // keeps nothing but the text.
        if let Some(inner) = inner {
            let words = inner.to_string();
            if words.starts_with("received fatal alert") {
                return Some(words);
            }
            if let Some(problem) = certificate_problem(inner) {
                return Some(problem);
            }
        }
    }
    None
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
