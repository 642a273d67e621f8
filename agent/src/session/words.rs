//! What a refused certificate means, and what would help, in words for whoever reads the agent's log or `/readyz`.
//!
//! TLS says no more than an alert's name. Pure: an error in, words out.

use std::error::Error;

use crate::enrol::certificate_problem;

/// An error's own words, and behind them what it means where certificates are the cause.
#[must_use]
pub fn with_help(error: &(dyn Error + 'static)) -> String {
    match of_certificates(error) {
        Some(help) => format!("{error}: {help}"),
        None => error.to_string(),
    }
}

/// What it means that one side does not accept the other's certificate, and what would help.
#[must_use]
pub fn of_certificates(error: &(dyn Error + 'static)) -> Option<&'static str> {
    certificate_problem(error).map(|problem| meaning(&problem))
}

fn meaning(problem: &str) -> &'static str {
    let theirs = problem.starts_with("invalid peer certificate");
    let says = |word: &str| problem.contains(word);
    match theirs {
        true if says("UnknownIssuer") => {
            "the controller's certificate is of a CA that this node does not know; is --controller-addr right? where the \
             controller was set up anew, or its CA rotated while this node was away, a new join token lets the node in"
        }
        true if says("xpired") || says("NotValidYet") || says("not valid yet") => {
            "the controller's certificate has run out or is not good yet; are the clocks of both machines right?"
        }
        true if says("not valid for") || says("NotValidForName") => {
            "the controller's certificate is for other names; connect to it by one of those"
        }
        true => "this node does not accept the controller's certificate",
        false if says("CertificateExpired") => {
            "the controller says that this node's certificate has run out or is not good yet; is the clock of this \
             machine right? a node that was off for more than a day enrols again with its --join-token-file"
        }
        false if says("UnknownCA") => {
            "the controller does not know the CA of this node's certificate; a node that was enrolled elsewhere, or was \
             away while the CA was rotated, needs a new join token"
        }
        false if says("CertificateRequired") => {
            "the controller's port wants a node's certificate; enrol first"
        }
        false if says("UnsupportedCertificate") => {
            "the certificate was not made for a node; enrol with a join token to get one that is"
        }
        false => {
            "the controller does not accept this node's certificate; a new join token gets it another one"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::{AlertDescription, CertificateError, Error as Tls};

    use super::*;

    #[test]
    fn what_tls_says_in_a_word_is_told_with_what_would_help() {
        for (error, help) in [
            (
                Tls::AlertReceived(AlertDescription::CertificateExpired),
                "clock of this",
            ),
            (
                Tls::AlertReceived(AlertDescription::UnknownCA),
                "needs a new join token",
            ),
            (
                Tls::AlertReceived(AlertDescription::CertificateRequired),
                "enrol first",
            ),
            (
                Tls::AlertReceived(AlertDescription::UnsupportedCertificate),
                "not made for a node",
            ),
            (
                Tls::InvalidCertificate(CertificateError::UnknownIssuer),
                "is --controller-addr right",
            ),
            (
                Tls::InvalidCertificate(CertificateError::Expired),
                "clocks of both",
            ),
            (
                Tls::InvalidCertificate(CertificateError::NotValidYet),
                "clocks of both",
            ),
        ] {
            let words = with_help(&io::Error::new(io::ErrorKind::InvalidData, error.clone()));
            assert!(words.contains(help), "{error}: {words}");
        }
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(with_help(&refused), refused.to_string());
    }
}
