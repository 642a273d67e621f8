//! Addresses as SeaweedFS writes them: `host:http.grpc`, or `host:http` where gRPC is 10000 above.

use std::{fmt, str::FromStr};

/// Where a master or a filer listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    http: u16,
    grpc: u16,
}

/// What is wrong with an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no SeaweedFS address: it must be host:port or host:port.grpcport")]
pub struct AddressError {
    given: String,
}

impl Address {
    /// `http://host:port`.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http://{}:{}", self.host, self.http)
    }

    /// The URL that a gRPC channel dials.
    #[must_use]
    pub fn grpc_url(&self) -> String {
        format!("http://{}:{}", self.host, self.grpc)
    }

    /// The same for a channel with certificates.
    #[must_use]
    pub fn grpc_tls_url(&self) -> String {
        format!("https://{}:{}", self.host, self.grpc)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        parse(given).ok_or_else(|| AddressError {
            given: given.to_owned(),
        })
    }
}

fn parse(given: &str) -> Option<Address> {
    let (host, ports) = given.trim().rsplit_once(':')?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || host.contains(['/', '@', ' ']) || bare_v6 {
        return None;
    }
    let (http, grpc) = match ports.split_once('.') {
        Some((http, grpc)) => (http.parse().ok()?, grpc.parse().ok()?),
        None => {
            let http: u16 = ports.parse().ok()?;
            (http, http.checked_add(10_000)?)
        }
    };
    (http != 0 && grpc != 0).then(|| Address {
        host: host.to_owned(),
        http,
        grpc,
    })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}.{}", self.host, self.http, self.grpc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let full: Address = "127.0.0.1:21010.21011".parse().unwrap();
        assert_eq!(full.http_url(), "http://127.0.0.1:21010");
        assert_eq!(full.grpc_url(), "http://127.0.0.1:21011");
        let short: Address = "filer.storage:8888".parse().unwrap();
        assert_eq!(short.to_string(), "filer.storage:8888.18888");
        let v6: Address = "[::1]:8888".parse().unwrap();
        assert_eq!(v6.grpc_url(), "http://[::1]:18888");
    }

    #[test]
    fn what_is_no_address_is_said_so() {
        for wrong in [
            "",
            "host",
            ":80",
            "host:",
            "host:0",
            "host:60000",
            "host:80.",
            "http://host:80",
            "::1:80",
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
