//! One TLS connection with HTTP/2 on it, and how long to wait before the next try.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

/// For TCP and TLS together.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is none.
    #[error("{0:?} is no address")]
    Address(String),
    /// Nobody is there, or the handshake failed; the source says which.
    #[error("{addr}: {}", chain(.source))]
    Transport {
        /// Where to.
        addr: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// An error with its causes: tonic's own text says "transport error" and nothing else.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

/// Connects to `addr` (`host:port`).
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(addr: &str, config: Arc<ClientConfig>) -> Result<Channel, ConnectError> {
    let wrong = || ConnectError::Address(addr.to_owned());
    let (host, _) = addr.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|_| wrong())?;
    let target = addr.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (target, name, tls) = (
            target.clone(),
            name.clone(),
            TlsConnector::from(Arc::clone(&config)),
        );
        async move {
            let stream = TcpStream::connect(&target).await?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(TokioIo::new(tls.connect(name, stream).await?))
        }
    });
    // TLS is the connector's: for tonic the connection is a plain one.
    Endpoint::from_shared(format!("http://{addr}"))
        .map_err(|_| wrong())?
        .connect_timeout(PATIENCE)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Transport {
            addr: addr.to_owned(),
            source,
        })
}

/// Grows from a quarter of a second to fifteen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The shortest wait.
    const FIRST: Duration = Duration::from_millis(250);
    /// The longest wait.
    const MOST: Duration = Duration::from_secs(15);

    /// How long to wait now; `dice` between 0 and 255 takes up to half of it off, so that a fleet does not come back
    /// in one moment.
    #[must_use]
    pub fn next(&mut self, dice: u8) -> Duration {
        let whole = Self::FIRST
            .saturating_mul(1 << self.tries.min(10))
            .min(Self::MOST);
        self.tries = self.tries.saturating_add(1);
        whole - whole / 2 * u32::from(dice) / 255
    }

    /// The last try went well.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// A die for [`Backoff::next`].
#[must_use]
pub fn dice() -> u8 {
    let mut die = [0_u8; 1];
    // No randomness means no jitter.
    let _ = SystemRandom::new().fill(&mut die);
    die[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_are_bounded_and_start_anew() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..20).map(|_| backoff.next(0).as_millis()).collect();
        assert_eq!(&waits[..4], [250, 500, 1000, 2000]);
        assert_eq!(waits[19], 15_000);
        assert_eq!(Backoff::default().next(255).as_millis(), 125);
        backoff.reset();
        assert_eq!(backoff.next(0).as_millis(), 250);
    }
}
