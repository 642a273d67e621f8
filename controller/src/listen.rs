//! The one way every port is served: accept, bound the handshake, hand HTTP/1.1 and HTTP/2 to an axum router.
//!
//! Whoever comes may be hostile, so everything is bounded: connections, the time for a handshake, a request's head, an
//! answer that nobody takes, and silence; the sizes of heads, frames and windows. When a port is full, connections
//! without a request make room for new ones, those of the peer with the most of them first. How many requests are
//! under way at once ([`Room`]) and how long a body may take ([`Timely`]) the routers say, because they know how to
//! refuse.
//!
//! gRPC services come in as a router too (`tonic::service::Routes::into_axum_router`), so TLS, limits, the
//! [`Peer`] extension and the graceful end are the same on all ports. Nothing here reads a configuration, picks a
//! certificate or decides who may do what: a router sees the [`Peer`] and judges for itself.

mod bodies;
mod connections;
mod lingering;
mod refusals;
mod room;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, info, warn};

pub use self::{
    bodies::Timely,
    refusals::{RefusalMetrics, Refusals},
    room::{Place, Room},
};
use self::{
    bodies::Watched,
    connections::{Activity, Connections, Open, Patience},
    lingering::Lingering,
};
use crate::tally::Tally;

/// The TLS configuration of a port. Connections made after a swap use the new one; older ones live on.
pub type TlsSource = Arc<ArcSwap<ServerConfig>>;

/// What a port speaks.
#[derive(Clone)]
pub enum Mode {
    /// Plain HTTP for everybody (health and metrics).
    Plain,
    /// TLS for everybody; a clear 426 for any plain request.
    Tls(TlsSource),
    /// TLS for everybody; plain HTTP for peers on loopback, a clear 426 for any other plain request.
    TlsOrLoopbackPlain(TlsSource),
}

/// Bounds of one port.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time. For one more an idle one is ended; where none is idle, the new one.
    pub connections: usize,
    /// Requests at a time in one HTTP/2 connection.
    pub streams: u32,
    /// From accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// For the first request of a connection, and for each request's head.
    pub header_read: Duration,
    /// Without a request, once there was one.
    pub idle: Duration,
    /// For an answer that the client does not take.
    pub untaken: Duration,
    /// Silence of an HTTP/2 connection before it is asked whether it lives, and then the time for its answer.
    pub keep_alive: Duration,
    /// For open requests once the shutdown began; then they are cut.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            streams: 128,
            handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(30),
            idle: Duration::from_secs(120),
            untaken: Duration::from_secs(60),
            keep_alive: Duration::from_secs(10),
            drain: Duration::from_secs(5),
        }
    }
}

impl Limits {
    const fn patience(&self) -> Patience {
        Patience {
            first: self.header_read,
            idle: self.idle,
            untaken: self.untaken,
        }
    }
}

/// A request's head at most, over HTTP/1 in bytes, over HTTP/2 as the sum of its fields.
const HEAD: usize = 32 << 10;
/// Bytes of one HTTP/2 stream, and of all of a connection, that may be on their way without being read.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Requests that a client may begin and take back before they were looked at; then it is cut.
const RESETS: usize = 64;
/// Requests of one connection that were answered before their body was read (no token, no such method) or broke the
/// protocol; then it is cut, and a client that means well connects again.
const CUT_SHORT: usize = 1024;
/// How long, and how many bytes, a client that was refused may go on sending before the connection is cut under it:
/// cut earlier, many would never see why.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 << 20;

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

/// Whom an address stands for: an IPv6 peer owns a /64, and would otherwise be as many peers as it likes.
#[must_use]
pub fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
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
    serve_watched(listener, router, mode, limits, Refusals::default(), shutdown).await;
}

/// [`serve_with`], and every refusal is counted.
pub async fn serve_watched(
    listener: TcpListener,
    router: Router,
    mode: Mode,
    limits: Limits,
    refusals: Refusals,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Connections::new(limits.connections));
    let failed = Tally::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &slots, &failed) => accepted,
        };
        let Some((stream, addr)) = accepted else {
            continue;
        };
        let Some(open) = slots.admit(network(addr.ip()), Instant::now()) else {
            refusals.note(addr, &ConnectionError::Full(limits.connections));
            continue;
        };
        let connection = Connection {
            addr,
            router: router.clone(),
            limits,
            shutdown: shutdown.clone(),
            activity: Arc::clone(&open.activity),
        };
        connections.spawn(attend(connection, stream, mode.clone(), open, refusals.clone()));
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

async fn attend(connection: Connection, stream: TcpStream, mode: Mode, open: Open, refusals: Refusals) {
    let (peer, evicted) = (connection.addr, open.activity.evicted.clone());
    let ended = tokio::select! {
        ended = connection.run(stream, mode) => ended,
        () = evicted.cancelled() => Err(ConnectionError::Evicted),
    };
    if let Err(error) = ended {
        refusals.note(peer, &error);
    }
    drop(open);
}

async fn accept(
    listener: &TcpListener,
    slots: &Connections,
    failed: &Tally,
) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((stream, addr)) => {
            // Small answers should not wait for more of themselves.
            if let Err(error) = stream.set_nodelay(true) {
                debug!(error = %error, "TCP_NODELAY refused");
            }
            Some((stream, addr))
        }
        Err(error) => {
            // Out of descriptors is the usual cause: it passes only when connections end.
            let ended = slots.relieve();
            if let Some(count) = failed.note(Instant::now()) {
                warn!(count, %error, ended, "accept failed");
            }
            sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("no handshake in time")]
    HandshakeTime,
    #[error("silent for too long")]
    Idle,
    #[error("no TLS")]
    Plain,
    #[error("ended to make room")]
    Evicted,
    #[error("all {0} connections of this port are at work")]
    Full(usize),
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
    activity: Arc<Activity>,
}

/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

impl Connection {
    async fn run(self, stream: TcpStream, mode: Mode) -> Result<(), ConnectionError> {
        let (source, plain_too) = match mode {
            Mode::Plain => return self.plain(stream).await,
            Mode::Tls(source) => (source, false),
            Mode::TlsOrLoopbackPlain(source) => (source, self.addr.ip().to_canonical().is_loopback()),
        };
        match self.first_byte(&stream).await? {
            // It came and went.
            None => Ok(()),
            Some(TLS_HANDSHAKE) => Box::pin(self.tls(stream, &source)).await,
            Some(_) if plain_too => self.plain(stream).await,
            Some(_) => {
                let refusing = Self {
                    router: Router::new().fallback(refuse_plain),
                    ..self
                };
                // However that goes on: it is told what it did wrong, where it can be told.
                let _ = refusing.plain(stream).await;
                Err(ConnectionError::Plain)
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
        // Boxed, as below: those that say nothing should not take the room of those that are served.
        Box::pin(self.http(stream, peer)).await
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
        Box::pin(self.http(stream, peer)).await
    }

    async fn http<S>(self, stream: S, peer: Peer) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // hyper's version detection waits for the first byte without a bound of its own.
        // A small buffer: past the first bytes everything is read into hyper's.
        let mut stream = BufReader::with_capacity(64, stream);
        let first = tokio::select! {
            () = self.shutdown.cancelled() => return Ok(()),
            first = timeout(self.limits.header_read, stream.fill_buf()) => first,
        };
        if first.map_err(|_| ConnectionError::Idle)??.is_empty() {
            return Ok(());
        }
        let server = self.server();
        let (router, activity) = (self.router.clone(), Arc::clone(&self.activity));
        let service =
            service_fn(move |request| answer(router.clone(), peer.clone(), activity.begin(), request));
        let stream = Lingering::new(stream);
        let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            done = connection.as_mut() => return done.map_err(ConnectionError::Http),
            () = self.shutdown.cancelled() => {}
            () = silence(&self.activity, self.limits.patience()) => {
                // Told to go, a client that lives goes at once.
                connection.as_mut().graceful_shutdown();
                return match timeout(LINGER, connection).await {
                    Ok(done) => done.map_err(ConnectionError::Http),
                    Err(_) => Err(ConnectionError::Idle),
                };
            }
        }
        connection.as_mut().graceful_shutdown();
        connection.await.map_err(ConnectionError::Http)
    }

    fn server(&self) -> auto::Builder<TokioExecutor> {
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_read)
            .max_buf_size(HEAD);
        server
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams)
            .max_header_list_size(HEAD as u32)
            .max_frame_size(16 << 10)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(STREAM_WINDOW as usize)
            .max_pending_accept_reset_streams(RESETS)
            .max_local_error_reset_streams(CUT_SHORT)
            .keep_alive_interval(self.limits.keep_alive)
            .keep_alive_timeout(self.limits.keep_alive);
        server
    }
}

/// Comes back when the connection was silent for too long.
async fn silence(activity: &Activity, patience: Patience) {
    loop {
        match activity.deadline(patience) {
            Some(deadline) if deadline <= Instant::now() => return,
            Some(deadline) => sleep_until(deadline).await,
            None => sleep(patience.idle.min(patience.untaken)).await,
        }
    }
}

async fn answer(
    router: Router,
    peer: Peer,
    under_way: connections::Request,
    mut request: Request<Incoming>,
) -> Result<Response, Infallible> {
    request.extensions_mut().insert(peer);
    let response = if host_is_clear(request.version(), request.headers()) {
        router.oneshot(request.map(Body::new)).await?
    } else {
        refusal(
            StatusCode::BAD_REQUEST,
            "The request cannot be read",
            "an HTTP/1.1 request has exactly one Host header",
        )
    };
    Ok(response.map(|body| Body::new(Watched::new(body, under_way))))
}

/// RFC 9112, 3.2: two hosts, or none, and somebody on the way may have read another request than we do.
fn host_is_clear(version: Version, headers: &HeaderMap) -> bool {
    let hosts = headers.get_all(header::HOST).iter().count();
    match version {
        Version::HTTP_11 => hosts == 1,
        _ => hosts <= 1,
    }
}

/// A refusal in the name of the port.
fn refusal(status: StatusCode, title: &str, detail: &str) -> Response {
    let problem = serde_json::json!({
        "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail,
    });
    let media_type = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, media_type, problem.to_string()).into_response()
}

async fn refuse_plain() -> Response {
    let mut response = refusal(
        StatusCode::UPGRADE_REQUIRED,
        "TLS required",
        "this port speaks TLS; use https (plain HTTP is answered on the public ports to peers on loopback only)",
    );
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("TLS/1.3"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade, close"));
    response
}

#[cfg(test)]
mod tests;
