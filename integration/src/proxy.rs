//! A proxy in front of one door of SeaweedFS: it counts requests by their paths, and spoils them on demand.
//!
//! With a role's folder it ends TLS on both sides (gRPC), without one it is plain HTTP. What is spoiled are requests
//! that begin while the fault holds; streams that are open go on. Dropped, it is gone with all its connections.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::credulous;

type Body = BoxBody<Bytes, io::Error>;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It goes through.
    None,
    /// The stream is reset without an answer.
    Reset,
    /// There is no answer as long as this holds, and then a reset.
    Hang,
    /// It goes through, so much later.
    Slow(Duration),
    /// A status of HTTP with a page of words, as from something in between.
    Status(u16),
    /// 200, and a page for people.
    Page,
    /// 200, the right type, and bytes that mean nothing.
    Garbage,
    /// An answer that ends in the middle.
    Truncated,
    /// Look-ups find nothing, in the filer's own words; everything else goes through.
    Forgets,
}

/// The proxy. Its address is `127.0.0.1:<port>`.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    upstream: String,
    connector: Option<TlsConnector>,
    fault: watch::Sender<Fault>,
    counts: Mutex<BTreeMap<String, u64>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
    }
}

impl Proxy {
    /// A proxy to `upstream` (`host:port`); `role` is the folder with the certificate that it shows to both sides.
    ///
    /// # Errors
    /// The certificate cannot be used, or no port is free.
    pub async fn start(upstream: String, role: Option<&Path>) -> Result<Self> {
        let acceptor = role.map(acceptor).transpose()?;
        let shared = Arc::new(Shared {
            upstream,
            connector: role
                .map(|folder| credulous::connector(Some(folder)))
                .transpose()?,
            fault: watch::Sender::new(Fault::None),
            counts: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let mut tasks = JoinSet::new();
        let accepting = Arc::clone(&shared);
        tasks.spawn(async move {
            // Dropped with this task.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, acceptor) = (Arc::clone(&accepting), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        // Who cannot shake hands is not served.
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                shared.serve(TokioIo::new(stream)).await;
                            }
                        }
                        None => shared.serve(TokioIo::new(stream)).await,
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            port,
            shared,
            _tasks: tasks,
        })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on, this happens to requests.
    pub fn spoil(&self, fault: Fault) {
        self.shared.fault.send_replace(fault);
    }

    /// How many requests came so far, by path.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.shared
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many came so far to paths that `counts_in` takes.
    #[must_use]
    pub fn count(&self, counts_in: impl Fn(&str) -> bool) -> u64 {
        self.counts()
            .iter()
            .filter(|(path, _)| counts_in(path))
            .map(|(_, count)| count)
            .sum()
    }
}

fn acceptor(folder: &Path) -> Result<TlsAcceptor> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(folder.join("tls.crt"))?],
            PrivateKeyDer::from_pem_file(folder.join("tls.key"))?,
        )?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Shared {
    async fn serve<I>(self: Arc<Self>, io: TokioIo<I>)
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let service = hyper::service::service_fn(move |request| Arc::clone(&self).answer(request));
        // Its end, whatever it was, is the connection's.
        let _ = auto::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await;
    }

    /// An error of this ends the stream.
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Body>> {
        *self
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(request.uri().path().to_owned())
            .or_insert(0) += 1;
        let fault = *self.fault.borrow();
        let page = "<html><body>502 Bad Gateway</body></html>";
        let made = match fault {
            Fault::None => return self.forward(request).await,
            Fault::Forgets if !request.uri().path().ends_with("LookupDirectoryEntry") => {
                return self.forward(request).await;
            }
            Fault::Forgets => {
                let mut answer = answer_of(200, "application/grpc", whole(""));
                for (name, value) in [
                    ("grpc-status", "5"),
                    ("grpc-message", "filer: no entry is found in filer store"),
                ] {
                    answer.headers_mut().insert(name, HeaderValue::from_static(value));
                }
                answer
            }
            Fault::Slow(pause) => {
                tokio::time::sleep(pause).await;
                return self.forward(request).await;
            }
            Fault::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            Fault::Hang => {
                let mut seen = self.fault.subscribe();
                // The proxy is gone: so is everything.
                let _ = seen.wait_for(|now| *now != Fault::Hang).await;
                return Err(io::ErrorKind::TimedOut.into());
            }
            Fault::Status(code) => answer_of(code, "text/html", whole(page)),
            Fault::Page => answer_of(200, "text/html", whole(page)),
            Fault::Garbage => answer_of(
                200,
                "application/grpc",
                whole("\u{0}\u{0}\u{0}\u{0}\u{9}garbage!!"),
            ),
            Fault::Truncated => {
                let beginning = Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 1, 0, 10])));
                let end = Err(io::ErrorKind::ConnectionReset.into());
                let stream = StreamBody::new(futures::stream::iter([beginning, end]));
                answer_of(200, "application/grpc", BodyExt::boxed(stream))
            }
        };
        Ok(made)
    }

    async fn forward(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        self.try_forward(request).await.map_err(io::Error::other)
    }

    async fn try_forward(&self, request: Request<Incoming>) -> Result<Response<Body>> {
        let stream = TcpStream::connect(&self.upstream).await?;
        let (mut parts, body) = request.into_parts();
        let path = parts
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        let response = match &self.connector {
            Some(connector) => {
                parts.uri = format!("https://{}{path}", self.upstream).parse::<Uri>()?;
                let stream = connector
                    .connect(ServerName::try_from("localhost")?, stream)
                    .await?;
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender.send_request(Request::from_parts(parts, body)).await?
            }
            None => {
                parts.uri = path.parse().context("a path")?;
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender.send_request(Request::from_parts(parts, body)).await?
            }
        };
        Ok(response.map(|body| body.map_err(io::Error::other).boxed()))
    }
}

fn whole(text: &'static str) -> Body {
    Full::new(Bytes::from_static(text.as_bytes()))
        .map_err(|error: Infallible| match error {})
        .boxed()
}

fn answer_of(code: u16, kind: &'static str, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
