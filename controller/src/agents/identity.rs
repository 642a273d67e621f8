//! Which node a verified certificate speaks for.
//!
//! The TLS layer has proven that the certificate is ours and valid; here only its name is read, from the URI that
//! [`crate::pki`] wrote. Nothing else in a request ever names the sender.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::{listen::Peer, pki::NODE_URI};

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
    let leaf = peer
        .certificates
        .as_ref()
        .and_then(|chain| chain.first())
        .ok_or(IdentityError::Missing)?;
    node_of_certificate(leaf)
}

/// The node that a certificate was made for.
///
/// # Errors
/// [`IdentityError::Nameless`] where it names none, or more than one.
pub fn node_of_certificate(leaf: &CertificateDer<'_>) -> Result<String, IdentityError> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| IdentityError::Nameless)?;
    let names = leaf
        .subject_alternative_name()
        .map_err(|_| IdentityError::Nameless)?
        .ok_or(IdentityError::Nameless)?;
    let mut nodes = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(NODE_URI),
        _ => None,
    });
    match (nodes.next(), nodes.next()) {
        (Some(node), None) if is_node_name(node) => Ok(node.to_owned()),
        _ => Err(IdentityError::Nameless),
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
