//! The one way every port is served: accept, bound the handshake, hand HTTP/1.1 and HTTP/2 to an axum router.
//!
//! gRPC services come in as a router too (`tonic::service::Routes::into_axum_router`), so TLS, limits, the
//! [`Peer`] extension and the graceful end are the same on all ports. Nothing here reads a configuration, picks a
//! certificate or decides who may do what: a router sees the [`Peer`] and judges for itself.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{Extension, Router, response::IntoResponse};
use http::{StatusCode, header};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// The TLS configuration of a port. Connections made after a swap use the new one; older ones live on.
pub type TlsSource = Arc<ArcSwap<ServerConfig>>;

/// What a port speaks.
#[derive(Clone)]
pub enum Mode {
    /// Plain HTTP for everybody (health and metrics).
    Plain,
    /// TLS and nothing else.
    Tls(TlsSource),
    /// TLS for everybody; plain HTTP for peers on loopback, a clear 426 for any other plain request.
    TlsOrLoopbackPlain(TlsSource),
}

/// Bounds of one port.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// For the first byte of a connection, and for each request's head.
    pub header_read: Duration,
    /// For open requests once the shutdown began; then they are cut.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}

/// Who sent a request; in the extensions of every request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Address of the other end.
    pub addr: SocketAddr,
    /// The client's certificate chain, leaf first, already verified by the port's TLS configuration. `None` where
    /// the port asks for none, or the connection is plain.
    pub certificates: Option<Arc<Vec<CertificateDer<'static>>>>,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

impl Peer {
    /// Whether the other end is on this machine's loopback (IPv4-mapped addresses included).
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.addr.ip().to_canonical().is_loopback()
    }
}

/// Serves `router` until `shutdown`, with the default [`Limits`]; returns when all connections have ended.
pub async fn serve(listener: TcpListener, router: Router, mode: Mode, shutdown: CancellationToken) {
    serve_with(listener, router, mode, Limits::default(), shutdown).await;
}

/// [`serve`] with other limits.
pub async fn serve_with(
    listener: TcpListener,
    router: Router,
    mode: Mode,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, addr, slot)) = accepted else {
            continue;
        };
        let connection = Connection {
            addr,
            router: router.clone(),
            limits,
            shutdown: shutdown.clone(),
        };
        let mode = mode.clone();
        connections.spawn(async move {
            if let Err(error) = connection.run(stream, mode).await {
                debug!(peer = %addr, error = %error, "connection ended");
            }
            drop(slot);
        });
    }
    drop(listener);
    let drained = timeout(limits.drain, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    if drained.is_err() {
        info!(open = connections.len(), "connections cut at shutdown");
        connections.shutdown().await;
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, addr)) => {
            // Small answers should not wait for more of themselves.
            if let Err(error) = stream.set_nodelay(true) {
                debug!(error = %error, "TCP_NODELAY refused");
            }
            Some((stream, addr, slot))
        }
        Err(error) => {
            warn!(error = %error, "accept failed");
            // Out of descriptors is the usual cause: it passes only when connections end.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("no handshake in time")]
    HandshakeTime,
    #[error("no request in time")]
    Idle,
    #[error("TLS handshake: {0}")]
    Handshake(#[source] io::Error),
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    #[error("HTTP: {0}")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
}

struct Connection {
    addr: SocketAddr,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
}

/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

impl Connection {
    async fn run(self, stream: TcpStream, mode: Mode) -> Result<(), ConnectionError> {
        match mode {
            Mode::Plain => self.plain(stream).await,
            Mode::Tls(source) => self.tls(stream, &source).await,
            Mode::TlsOrLoopbackPlain(source) => {
                if self.first_byte(&stream).await? == Some(TLS_HANDSHAKE) {
                    self.tls(stream, &source).await
                } else if self.addr.ip().to_canonical().is_loopback() {
                    self.plain(stream).await
                } else {
                    let refusing = Self {
                        router: Router::new().fallback(refuse_plain),
                        ..self
                    };
                    refusing.plain(stream).await
                }
            }
        }
    }

    async fn first_byte(&self, stream: &TcpStream) -> Result<Option<u8>, ConnectionError> {
        let mut first = [0_u8; 1];
        let read = timeout(self.limits.handshake, stream.peek(&mut first))
            .await
            .map_err(|_| ConnectionError::HandshakeTime)??;
        Ok((read > 0).then_some(first[0]))
    }

    async fn plain(self, stream: TcpStream) -> Result<(), ConnectionError> {
        let peer = Peer {
            addr: self.addr,
            certificates: None,
            tls: false,
        };
        self.http(stream, peer).await
    }

    async fn tls(self, stream: TcpStream, source: &TlsSource) -> Result<(), ConnectionError> {
        let acceptor = TlsAcceptor::from(source.load_full());
        let stream = timeout(self.limits.handshake, acceptor.accept(stream))
            .await
            .map_err(|_| ConnectionError::HandshakeTime)?
            .map_err(ConnectionError::Handshake)?;
        let certificates = stream
            .get_ref()
            .1
            .peer_certificates()
            .map(|chain| Arc::new(chain.iter().map(|c| c.clone().into_owned()).collect()));
        let peer = Peer {
            addr: self.addr,
            certificates,
            tls: true,
        };
        self.http(stream, peer).await
    }

    async fn http<S>(self, stream: S, peer: Peer) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // hyper's version detection waits for the first byte without a bound of its own.
        let mut stream = BufReader::new(stream);
        let first = tokio::select! {
            () = self.shutdown.cancelled() => return Ok(()),
            first = timeout(self.limits.header_read, stream.fill_buf()) => first,
        };
        if first.map_err(|_| ConnectionError::Idle)??.is_empty() {
            return Ok(());
        }
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_read);
        server
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(256)
            .keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10));
        let service = TowerToHyperService::new(self.router.layer(Extension(peer)));
        let mut connection = pin!(server.serve_connection_with_upgrades(TokioIo::new(stream), service));
        tokio::select! {
            done = connection.as_mut() => return done.map_err(ConnectionError::Http),
            () = self.shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await.map_err(ConnectionError::Http)
    }
}

async fn refuse_plain() -> impl IntoResponse {
    (
        StatusCode::UPGRADE_REQUIRED,
        [
            (header::CONTENT_TYPE, "application/problem+json"),
            (header::UPGRADE, "TLS/1.3"),
            (header::CONNECTION, "upgrade, close"),
        ],
        r#"{"type":"about:blank","title":"TLS required","status":426,"detail":"this port answers plain HTTP to peers on loopback only; use https"}"#,
    )
}

#[cfg(test)]
mod tests;
