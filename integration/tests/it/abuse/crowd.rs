//! Connections in great numbers, and slow ones: whoever comes to stay without a request has to go in the end, and for
//! others if need be at once.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use smart_storage_proto::tls;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    frames::{a_byte_of_data, half_a_call, hello},
    target::{Raw, Target, Wire, is_tls_only},
};

const CROWD: usize = 10_000;
/// Half a minute is granted, and a machine under load may be late.
const PATIENCE: Duration = Duration::from_secs(60);
const ALL: [&str; 7] = ["api", "grpc", "agent", "enrol", "kube-api", "health", "metrics"];

/// Ten thousand connections that say nothing, from many addresses, the witness's own among them.
pub async fn idle(target: &Target) -> Result<Vec<TcpStream>> {
    let shares = [
        ("api", CROWD * 4 / 10),
        ("grpc", CROWD * 2 / 10),
        ("kube-api", CROWD * 2 / 10),
        ("enrol", CROWD / 10),
        ("health", CROWD / 20),
        ("metrics", CROWD / 20),
    ];
    let mut crowd = Vec::with_capacity(CROWD);
    for (door, count) in shares {
        for number in 0..count {
            let [.., third, fourth] = u32::try_from(number / 100)?.to_be_bytes();
            let from = Ipv4Addr::new(127, 0, third, fourth.saturating_add(1));
            crowd.push(target.connect(door, from).await?);
        }
    }
    Ok(crowd)
}

/// Somebody who sends a byte a second, and how many seconds the server bore it.
async fn dribble(mut wire: Box<dyn Wire>, first: Vec<u8>, piece: Vec<u8>) -> Result<(Duration, Raw)> {
    let begin = Instant::now();
    wire.write_all(&first).await.ok();
    let mut answer = Vec::new();
    let mut part = vec![0; 4096];
    while begin.elapsed() < PATIENCE {
        match timeout(Duration::from_secs(1), wire.read(&mut part)).await {
            Ok(Ok(0) | Err(_)) => return Ok((begin.elapsed(), Raw { bytes: answer })),
            Ok(Ok(read)) => answer.extend_from_slice(&part[..read]),
            Err(_) => {
                if wire.write_all(&piece).await.is_err() {
                    return Ok((begin.elapsed(), Raw { bytes: answer }));
                }
            }
        }
    }
    anyhow::bail!("still there after {PATIENCE:?}")
}

type Slow = (String, Box<dyn Wire>, Vec<u8>, Vec<u8>, Option<u16>);

/// Every way to be slow at every port. The last is the status that has to be answered.
async fn slow(target: &Target) -> Result<Vec<Slow>> {
    let mut all: Vec<Slow> = Vec::new();
    let plain = async |door: &str| -> Result<Box<dyn Wire>> {
        Ok(Box::new(target.connect(door, Ipv4Addr::LOCALHOST).await?))
    };
    let preface = hello(&[])[..10].to_vec();
    for door in ALL {
        all.push((
            format!("{door}: silence"),
            plain(door).await?,
            vec![],
            vec![],
            None,
        ));
        if !matches!(door, "health" | "metrics") {
            let hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1];
            all.push((
                format!("{door}: TLS hello"),
                plain(door).await?,
                hello,
                vec![0],
                None,
            ));
        }
        if door == "agent" {
            // Nobody gets further without a certificate.
            continue;
        }
        let wire = async |protocol: &[u8]| target.wire(door, protocol).await;
        let head = b"GET / HTTP/1.1\r\nhost: x\r\nx: ".to_vec();
        all.push((
            format!("{door}: head"),
            wire(tls::ALPN_HTTP11).await?,
            head,
            b"y".to_vec(),
            None,
        ));
        let lines = b"GET / HTTP/1.1\r\n".to_vec();
        all.push((
            format!("{door}: lines"),
            wire(tls::ALPN_HTTP11).await?,
            lines,
            b"x: y\r\n".to_vec(),
            None,
        ));
        all.push((
            format!("{door}: preface"),
            wire(tls::ALPN_H2).await?,
            preface.clone(),
            vec![],
            None,
        ));
        if is_tls_only(door) {
            all.push((
                format!("{door}: silence in TLS"),
                wire(tls::ALPN_H2).await?,
                vec![],
                vec![],
                None,
            ));
        }
        all.push((
            format!("{door}: no stream"),
            wire(tls::ALPN_H2).await?,
            hello(&[]),
            vec![],
            None,
        ));
    }
    let token = &target.token;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             content-length: 1000\r\n\r\n"
        )
        .into_bytes()
    };
    let claims = "/apis/storage.billyronks.io/v1/namespaces/default/unifiedstorageclaims";
    for (door, path) in [("api", "/v1/storage"), ("kube-api", claims)] {
        let wire = target.wire(door, tls::ALPN_HTTP11).await?;
        all.push((
            format!("{door}: body"),
            wire,
            head(path),
            b" ".to_vec(),
            Some(408),
        ));
    }
    for (door, path) in [
        ("grpc", "/smartstorage.v1.StorageService/CreateStorage"),
        (
            "grpc",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ),
        ("enrol", "/smartstorage.agent.v1.EnrolmentService/Enrol"),
    ] {
        let wire = target.wire(door, tls::ALPN_H2).await?;
        // Its call ends after half a minute; the connection without one may stay a little longer.
        all.push((
            format!("{door}: body of {path}"),
            wire,
            half_a_call(path, token),
            a_byte_of_data(),
            None,
        ));
    }
    Ok(all)
}

/// All of them at once; each has to be ended by the server.
pub async fn slow_loris(target: &Target) -> Result<()> {
    let mut running = JoinSet::new();
    for (what, wire, first, piece, status) in slow(target).await? {
        running.spawn(async move {
            let (took, raw) = dribble(wire, first, piece).await.with_context(|| what.clone())?;
            if status.is_some() {
                ensure!(
                    raw.status() == status,
                    "{what}: {:?}: {}",
                    raw.status(),
                    raw.text()
                );
            }
            anyhow::Ok((what, took))
        });
    }
    let mut slowest = (String::new(), Duration::ZERO);
    let mut count = 0;
    while let Some(done) = running.join_next().await {
        let (what, took) = done??;
        count += 1;
        if took > slowest.1 {
            slowest = (what, took);
        }
    }
    println!(
        "    {count} slow connections were ended, the last after {:.1?}: {}",
        slowest.1, slowest.0
    );
    Ok(())
}

/// How many of the crowd the server still keeps.
pub async fn standing(crowd: &mut [TcpStream]) -> usize {
    let mut standing = 0;
    for stream in crowd {
        let mut byte = [0; 1];
        if timeout(Duration::from_micros(1), stream.read(&mut byte))
            .await
            .is_err()
        {
            standing += 1;
        }
    }
    standing
}

/// Until the server has let go of what it had opened for them.
pub async fn dispersed(target: &Target, before: usize) -> Result<()> {
    let begin = Instant::now();
    while target.descriptors()? > before + 100 {
        ensure!(
            begin.elapsed() < PATIENCE,
            "{} open files, {before} before",
            target.descriptors()?
        );
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
