//! Which node a verified certificate speaks for.
//!
//! The TLS layer has proven that the certificate is ours and valid; here only its name is read, from the URI that
//! [`crate::pki`] wrote. Nothing else in a request ever names the sender.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::{
    listen::Peer,
    pki::{NODE_URI, TOKEN_URI},
};

/// Why a peer is no node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The connection has no client certificate.
    #[error("no client certificate")]
    Missing,
    /// The certificate names no node, or several.
    #[error("the client certificate names no single node")]
    Nameless,
}

/// The node that the peer's certificate was made for.
///
/// # Errors
/// [`IdentityError`] where there is none.
pub fn node_of(peer: &Peer) -> Result<String, IdentityError> {
    node_of_certificate(leaf_of(peer)?)
}

/// The peer's certificate.
///
/// # Errors
/// [`IdentityError::Missing`] where it showed none.
pub fn leaf_of(peer: &Peer) -> Result<&CertificateDer<'static>, IdentityError> {
    peer.certificates
        .as_ref()
        .and_then(|chain| chain.first())
        .ok_or(IdentityError::Missing)
}

/// The node that a certificate was made for.
///
/// # Errors
/// [`IdentityError::Nameless`] where it names none, or more than one.
pub fn node_of_certificate(leaf: &CertificateDer<'_>) -> Result<String, IdentityError> {
    single_uri(leaf, NODE_URI)
        .filter(|node| is_node_name(node))
        .ok_or(IdentityError::Nameless)
}

/// The id of the join token that a certificate goes back to, through however many renewals.
#[must_use]
pub fn token_of_certificate(leaf: &CertificateDer<'_>) -> Option<String> {
    single_uri(leaf, TOKEN_URI)
}

/// What follows `prefix` in the one URI that begins with it.
fn single_uri(leaf: &CertificateDer<'_>, prefix: &str) -> Option<String> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let names = leaf.subject_alternative_name().ok()??;
    let mut found = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(prefix),
        _ => None,
    });
    match (found.next(), found.next()) {
        (Some(one), None) => Some(one.to_owned()),
        _ => None,
    }
}

/// Whether `name` can be a node's name: a DNS subdomain as Kubernetes takes it, at most 253 of `[a-z0-9.-]`.
#[must_use]
pub fn is_node_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_dns_subdomains() {
        for good in ["worker-1", "a.b.c", "0"] {
            assert!(is_node_name(good), "{good}");
        }
        for bad in [
            "",
            "A",
            "a_b",
            "-a",
            "a-",
            "a..b",
            ".a",
            "../x",
            "a/b",
            &"a".repeat(254),
        ] {
            assert!(!is_node_name(bad), "{bad}");
        }
    }
}
