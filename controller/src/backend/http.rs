//! One way to make the HTTP clients that talk to backends: `ring`, deadlines, no redirects, no proxies from
//! the environment.
//!
//! It never trusts a certificate that the given roots do not vouch for.

use std::{sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS could not be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The client itself could not be made.
    #[error("HTTP client: {0}")]
    Build(#[from] reqwest::Error),
}

/// A client with a deadline for connecting and one for each whole request. `https` works for servers whose
/// certificates lead to `roots`.
///
/// # Errors
/// When TLS or the client cannot be set up.
pub fn client(
    roots: RootCertStore,
    connect: Duration,
    whole: Duration,
) -> Result<reqwest::Client, ClientError> {
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(connect)
        .timeout(whole)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()?)
}
