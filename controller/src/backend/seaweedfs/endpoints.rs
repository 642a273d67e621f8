//! Where a SeaweedFS listens, and the channels to it.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::{
    CONNECT,
    address::{Address, AddressError},
    data_path,
    security::{Security, SecurityError},
};
use crate::backend::http;

/// Where one SeaweedFS cluster listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The master.
    pub master: Address,
    /// The filer; the S3 identities are served there too.
    pub filer: Address,
    /// URL of the S3 gateway, `http://host:port`: no roots for its certificate can be given yet.
    pub s3: String,
}

/// Why no adapter could be made; nothing was asked yet.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not an address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Not a URL of an S3 gateway.
    #[error("{0:?} is no URL of an S3 gateway: it must be http://host:port")]
    S3(String),
    /// No gRPC channel can be made to it.
    #[error("gRPC: {0}")]
    Channel(#[from] tonic::transport::Error),
    /// The certificates or keys cannot be used.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The HTTP side could not be set up.
    #[error(transparent)]
    Http(#[from] http::ClientError),
}

impl Endpoints {
    /// From what pools and flags say.
    ///
    /// # Errors
    /// When one of them is no address, naming it.
    pub fn parse(master: &str, filer: &str, s3: &str) -> Result<Self, ConnectError> {
        let s3 = s3.trim_end_matches('/');
        let host = s3.strip_prefix("http://").unwrap_or_default();
        if host.is_empty() || host.contains(['/', '?', '#', '@', ' ']) {
            return Err(ConnectError::S3(s3.to_owned()));
        }
        Ok(Self {
            master: master.parse()?,
            filer: filer.parse()?,
            s3: s3.to_owned(),
        })
    }

    /// The command that mounts a volume without touching its quota; `<DIRECTORY>` is the user's.
    ///
    /// Where gRPC asks for certificates, `<SECURITY>` is the folder with the `security.toml` of a host that may
    /// mount. Who can read that folder can read and write every volume: SeaweedFS cannot limit a mount to one.
    #[must_use]
    pub fn mount_command(&self, volume: &str, certificates: bool) -> String {
        let security = if certificates {
            "-config_dir=<SECURITY> "
        } else {
            ""
        };
        format!(
            "weed {security}mount -filer={} -filer.path={} -dir=<DIRECTORY>",
            self.filer,
            data_path(volume)
        )
    }
}

pub(super) fn channel(
    address: &Address,
    deadline: Duration,
    security: &Security,
) -> Result<Channel, tonic::transport::Error> {
    let endpoint = match security.tls() {
        Some(tls) => Endpoint::from_shared(address.grpc_tls_url())?.tls_config(tls)?,
        None => Endpoint::from_shared(address.grpc_url())?,
    };
    Ok(endpoint
        .connect_timeout(CONNECT)
        .timeout(deadline)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(5))
        .connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_form_takes_the_data_folder_as_the_root_would_lose_the_quota() {
        let endpoints = Endpoints::parse("h:1.2", "h:8888.18888", "http://h:8333/").unwrap();
        assert_eq!(
            endpoints.mount_command("uv-1", false),
            "weed mount -filer=h:8888.18888 -filer.path=/buckets/uv-1/data -dir=<DIRECTORY>"
        );
        assert_eq!(
            endpoints.mount_command("uv-1", true),
            "weed -config_dir=<SECURITY> mount -filer=h:8888.18888 -filer.path=/buckets/uv-1/data -dir=<DIRECTORY>"
        );
        assert_eq!(endpoints.s3, "http://h:8333");
        for s3 in ["h:8333", "https://h:8333", "http://h:8333/path", "http://"] {
            assert!(Endpoints::parse("h:1.2", "h:3.4", s3).is_err(), "{s3}");
        }
        assert!(Endpoints::parse("h", "h:3.4", "http://h:8333").is_err());
    }
}
