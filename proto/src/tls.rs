//! From certificates in memory to rustls configurations, the same way for both sides.
//!
//! One TLS provider: ring. Nothing here reads a clock, a file or the network; who rotates a certificate puts a new
//! configuration into an [`arc_swap::ArcSwap`], and connections made after that use it while older ones live on.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// ALPN identifier of HTTP/2.
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN identifier of HTTP/1.1.
pub const ALPN_HTTP11: &[u8] = b"http/1.1";

/// A certificate chain (leaf first) and the key of its leaf.
#[derive(Debug)]
pub struct Identity {
    /// DER certificates, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// What was wrong with the material of a TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A CA certificate cannot be used as a trust anchor.
    #[error("a CA certificate cannot be trusted: {0}")]
    Anchor(#[source] rustls::Error),
    /// No CA certificate was given where the other side has to be verified.
    #[error("no client verifier from these CA certificates: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// Chain and key do not fit each other, or the provider refuses them.
    #[error("certificate and key are refused: {0}")]
    Identity(#[source] rustls::Error),
}

/// A certificate as PEM.
#[must_use]
pub fn certificate_pem(certificate: &CertificateDer<'_>) -> String {
    let body = STANDARD.encode(certificate);
    let mut pem = String::with_capacity(body.len() + body.len() / 64 + 64);
    pem.push_str("-----BEGIN CERTIFICATE-----\n");
    for line in body.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// The workspace's only crypto provider.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Trust anchors from DER certificates.
///
/// # Errors
/// [`TlsError::Anchor`] where one of them is no usable CA certificate.
pub fn roots<'a>(
    ca: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in ca {
        store.add(certificate.clone()).map_err(TlsError::Anchor)?;
    }
    Ok(store)
}

/// A server that shows `identity` and asks nobody for a certificate (enrolment, REST, public gRPC).
///
/// # Errors
/// [`TlsError::Identity`] where chain and key do not fit.
pub fn server(identity: &Identity, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Identity)?
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(TlsError::Identity)?;
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(config)
}

/// A TLS 1.3 server that takes only clients with a certificate of one of `ca` (the agents' port).
///
/// # Errors
/// [`TlsError`] where the CA certificates or the identity cannot be used.
pub fn mutual_server(identity: &Identity, ca: &[CertificateDer<'static>]) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Identity)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(TlsError::Identity)?;
    // Without tickets every connection is checked anew: an expired or replaced certificate is never resumed.
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(config)
}

/// A TLS 1.3 client that trusts `ca` only, and shows `identity` where it has one.
///
/// # Errors
/// [`TlsError`] where the CA certificates or the identity cannot be used.
pub fn client(
    ca: &[CertificateDer<'static>],
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Identity)?
        .with_root_certificates(roots(ca)?);
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(TlsError::Identity)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(config)
}
