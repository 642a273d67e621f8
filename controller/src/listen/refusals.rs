//! Connections that were refused, or ended by a bound: each is counted by port and reason, and a line in the log says
//! so once an interval and reason.
//!
//! Reasons are a fixed list of words, whoever comes. A connection that its client simply ended is no refusal.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use rustls::CertificateError;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::ConnectionError;
use crate::tally::Tally;

type Refused = Family<[(&'static str, &'static str); 2], Counter>;

/// What is counted on all ports.
#[derive(Debug, Clone, Default)]
pub struct RefusalMetrics(Refused);

impl RefusalMetrics {
    /// The same, told to `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "connections_refused",
            "Connections that were refused or ended by a bound, by port and reason",
            metrics.0.clone(),
        );
        metrics
    }

    /// Those of one port.
    #[must_use]
    pub fn of(&self, port: &'static str) -> Refusals {
        Refusals {
            port,
            refused: self.0.clone(),
            said: Arc::default(),
        }
    }
}

/// The refusals of one port.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    port: &'static str,
    refused: Refused,
    said: Arc<Mutex<BTreeMap<&'static str, Tally>>>,
}

impl Refusals {
    pub(super) fn note(&self, peer: SocketAddr, error: &ConnectionError) {
        let Some((reason, help)) = reason(error) else {
            debug!(%peer, %error, "connection ended");
            return;
        };
        self.refused
            .get_or_create(&[("port", self.port), ("reason", reason)])
            .inc();
        let worth = self.said.lock().entry(reason).or_default().note(Instant::now());
        if let Some(count) = worth {
            warn!(count, port = self.port, reason, %peer, %error, help, "connections refused");
        }
    }

    /// How many there were for this reason.
    #[must_use]
    pub fn count(&self, reason: &'static str) -> u64 {
        self.refused
            .get_or_create(&[("port", self.port), ("reason", reason)])
            .get()
    }
}

/// One word, and what would help; none where the client just went away.
fn reason(error: &ConnectionError) -> Option<(&'static str, &'static str)> {
    Some(match error {
        ConnectionError::HandshakeTime => (
            "handshake_time",
            "the peer connected and said nothing: a port scanner, or a network that loses packets",
        ),
        ConnectionError::Idle => ("idle", "the peer asked for nothing: it may connect again"),
        ConnectionError::Plain => ("not_tls", "the peer does not speak TLS, which this port does"),
        ConnectionError::Evicted => (
            "idle_when_full",
            "the port has as many connections as it takes; this one did nothing",
        ),
        ConnectionError::Full(_) => (
            "full",
            "the port has as many connections as it takes; it may come again",
        ),
        ConnectionError::Handshake(error) => handshake(error)?,
        ConnectionError::Io(_) => return None,
        ConnectionError::Http(error) => http(error.as_ref())?,
    })
}

fn handshake(error: &io::Error) -> Option<(&'static str, &'static str)> {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())?;
    Some(match tls {
        rustls::Error::NoCertificatesPresented => (
            "no_certificate",
            "this port is for agents: enrol the node with a join token",
        ),
        rustls::Error::InvalidCertificate(problem) => certificate(problem),
        rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } => {
            ("not_tls", "the peer does not speak TLS")
        }
        rustls::Error::PeerIncompatible(_) => ("tls_version", "agents speak TLS 1.3: update the peer"),
        rustls::Error::AlertReceived(_) => (
            "peer_refused",
            "the peer does not accept our certificate: it knows another CA, or another name of this machine",
        ),
        _ => ("tls", "the handshake was broken off"),
    })
}

fn certificate(problem: &CertificateError) -> (&'static str, &'static str) {
    match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            "expired",
            "the node was off for more than a day, or a clock is wrong: it enrols again with its join token",
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ("not_yet_valid", "a clock is wrong: the node's or this machine's")
        }
        CertificateError::UnknownIssuer => (
            "unknown_ca",
            "the node was enrolled elsewhere, or the CA was rotated while it was away: give it a new join token",
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            "wrong_purpose",
            "the certificate was not made for a node: enrol the node with a join token",
        ),
        _ => ("certificate", "enrol the node again with a join token"),
    }
}

fn http(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<(&'static str, &'static str)> {
    let http = error.downcast_ref::<hyper::Error>()?;
    if http.is_timeout() {
        return Some((
            "unanswered",
            "the peer does not answer any more: its machine or the network is gone",
        ));
    }
    // What a peer that goes away leaves behind is no news.
    let mut next = std::error::Error::source(http);
    while let Some(cause) = next {
        if cause.is::<io::Error>() {
            return None;
        }
        next = cause.source();
    }
    if http.is_incomplete_message() || http.is_closed() || http.is_canceled() {
        return None;
    }
    Some(("http", "the peer does not speak HTTP/2 as this port does"))
}
