use std::{net::Ipv4Addr, time::SystemTime};

use axum::{Extension, routing::get};
use smart_storage_proto::tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::*;
use crate::pki::Pki;

fn router() -> Router {
    Router::new().route(
        "/",
        get(|Extension(peer): Extension<Peer>| async move { format!("tls={}", peer.tls) }),
    )
}

struct Served {
    addr: SocketAddr,
    pki: Pki,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

async fn start(limits: Limits, mode: impl FnOnce(&Pki) -> Mode) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &[], SystemTime::now()).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve_with(
        listener,
        router(),
        mode(&pki),
        limits,
        shutdown.clone(),
    ));
    Served {
        addr,
        pki,
        shutdown,
        task,
        _dir: dir,
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    stream.write_all(REQUEST).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn over_tls(served: &Served) -> String {
    let ca = [served.pki.authority().certificate().clone()];
    let client = tls::client(&ca, None, &[tls::ALPN_HTTP11]).unwrap();
    let stream = TcpStream::connect(served.addr).await.unwrap();
    let name = "localhost".try_into().unwrap();
    exchange(
        TlsConnector::from(Arc::new(client))
            .connect(name, stream)
            .await
            .unwrap(),
    )
    .await
}

#[tokio::test]
async fn one_port_answers_tls_and_on_loopback_plain_http() {
    let served = start(Limits::default(), |pki| Mode::TlsOrLoopbackPlain(pki.public())).await;
    let plain = exchange(TcpStream::connect(served.addr).await.unwrap()).await;
    assert!(
        plain.starts_with("HTTP/1.1 200") && plain.ends_with("tls=false"),
        "{plain}"
    );
    let encrypted = over_tls(&served).await;
    assert!(
        encrypted.starts_with("HTTP/1.1 200") && encrypted.ends_with("tls=true"),
        "{encrypted}"
    );
    served.shutdown.cancel();
    served.task.await.unwrap();
}

#[tokio::test]
async fn a_plain_request_from_elsewhere_is_told_to_use_tls() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &[], SystemTime::now()).unwrap();
    let peer = "192.0.2.7".parse().unwrap();
    let open = Arc::new(Connections::new(1)).admit(peer, Instant::now()).unwrap();
    let connection = Connection {
        addr: "192.0.2.7:4711".parse().unwrap(),
        router: router(),
        limits: Limits::default(),
        shutdown: CancellationToken::new(),
        activity: Arc::clone(&open.activity),
    };
    let server = tokio::spawn(connection.run(stream, Mode::TlsOrLoopbackPlain(pki.public())));
    let answer = exchange(client).await;
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
    assert!(answer.contains("TLS required"), "{answer}");
    let _ = server.await.unwrap();
}

#[tokio::test]
async fn a_tls_port_serves_nobody_in_plain_and_says_so() {
    let served = start(Limits::default(), |pki| Mode::Tls(pki.public())).await;
    let plain = exchange(TcpStream::connect(served.addr).await.unwrap()).await;
    assert!(plain.starts_with("HTTP/1.1 426"), "{plain}");
    served.shutdown.cancel();
    served.task.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_ended_and_frees_its_place() {
    let limits = Limits {
        connections: 1,
        handshake: Duration::from_millis(50),
        header_read: Duration::from_millis(50),
        ..Limits::default()
    };
    let served = start(limits, |pki| Mode::TlsOrLoopbackPlain(pki.public())).await;
    let mut silent = TcpStream::connect(served.addr).await.unwrap();
    let answer = exchange(TcpStream::connect(served.addr).await.unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap_or(0), 0);
    served.shutdown.cancel();
    served.task.await.unwrap();
}

#[tokio::test]
async fn one_too_many_is_turned_away_and_counted_where_all_are_at_work() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (refusals, shutdown) = (RefusalMetrics::default().of("test"), CancellationToken::new());
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let never = Router::new().route("/", get(std::future::pending::<StatusCode>));
    let served = tokio::spawn(serve_watched(
        listener,
        never,
        Mode::Plain,
        limits,
        refusals.clone(),
        shutdown.clone(),
    ));
    let mut at_work = Vec::new();
    for count in 1..=6 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let _ = stream.write_all(REQUEST).await;
        if count <= limits.connections {
            // Its request has to be under way before the next one comes.
            let answer = timeout(Duration::from_millis(300), stream.read(&mut [0])).await;
            assert!(answer.is_err(), "{answer:?}");
        } else {
            assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "it is taken");
        }
        at_work.push(stream);
    }
    assert_eq!((refusals.count("full"), refusals.count("idle_when_full")), (4, 0));
    shutdown.cancel();
    served.abort();
}

#[tokio::test]
async fn shutdown_ends_idle_connections_at_once() {
    let served = start(Limits::default(), |_| Mode::Plain).await;
    let idle = TcpStream::connect(served.addr).await.unwrap();
    assert!(
        exchange(TcpStream::connect(served.addr).await.unwrap())
            .await
            .contains("200")
    );
    served.shutdown.cancel();
    timeout(Limits::default().drain, served.task)
        .await
        .unwrap()
        .unwrap();
    drop(idle);
}
