//! Frames of HTTP/2 made by hand, and what can be done with them that no client would do.

use std::time::Duration;

use anyhow::{Context as _, Result};
use smart_storage_proto::tls;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    requests::{CLAIMS, client, framed},
    target::{Target, Wire},
};

const GET_CAPACITY: &str = "/smartstorage.v1.StorageService/GetCapacity";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// How long one attack may go on sending. What the server has to say to it, it has said by then.
const ATTACK: Duration = Duration::from_secs(4);

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A header field of HPACK, literal, not indexed, short.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        let mut length = text.len();
        if length < 127 {
            out.push(length as u8);
        } else {
            out.push(127);
            length -= 127;
            while length > 127 {
                out.push((length & 127) as u8 | 128);
                length >>= 7;
            }
            out.push(length as u8);
        }
        out.extend_from_slice(text.as_bytes());
    }
    out
}

/// A request's head.
pub fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
    ];
    fields
        .iter()
        .chain(more)
        .flat_map(|(name, value)| literal(name, value))
        .collect()
}

/// Preface and settings.
pub fn hello(settings: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()
}

/// A request whose body does not come.
pub fn half_a_call(path: &str, token: &str) -> Vec<u8> {
    let bearer = format!("Bearer {token}");
    let more = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", bearer.as_str()),
    ];
    [
        hello(&[]),
        frame(HEADERS, END_HEADERS, 1, &head("POST", path, &more)),
    ]
    .concat()
}

/// One byte of a body.
pub fn a_byte_of_data() -> Vec<u8> {
    frame(DATA, 0, 1, b"\0")
}

/// Sends pieces until they end, the server closes, or the time is up; meanwhile what comes is read and forgotten.
async fn send(wire: Box<dyn Wire>, first: Vec<u8>, mut next: impl FnMut(u32) -> Option<Vec<u8>>) -> bool {
    let (mut read, mut write) = tokio::io::split(wire);
    let mut reading = tokio::spawn(async move {
        let mut piece = vec![0; 64 << 10];
        while matches!(read.read(&mut piece).await, Ok(count) if count > 0) {}
    });
    let sending = async {
        write.write_all(&first).await?;
        let mut number = 0;
        while let Some(bytes) = next(number) {
            write.write_all(&bytes).await?;
            number += 1;
        }
        write.flush().await
    };
    let sent = timeout(ATTACK, sending).await;
    // What closes, closes soon.
    let closed = timeout(Duration::from_secs(2), &mut reading).await.is_ok() || matches!(sent, Ok(Err(_)));
    reading.abort();
    closed
}

type Next = Box<dyn FnMut(u32) -> Option<Vec<u8>> + Send>;

/// Name, first bytes, and what follows; `path` is one that the port has.
fn attacks(path: &'static str) -> Vec<(&'static str, Vec<u8>, Next)> {
    let get = move || head("GET", path, &[]);
    let id = |number: u32| number * 2 + 1;
    let garbage: Vec<u8> = crate::reading::noise(9, 64 << 10);
    vec![
        (
            "rapid reset",
            hello(&[]),
            Box::new(move |n| {
                (n < 20_000).then(|| {
                    let mut both = frame(HEADERS, END_HEADERS | END_STREAM, id(n), &get());
                    both.extend(frame(RST_STREAM, 0, id(n), &8_u32.to_be_bytes()));
                    both
                })
            }),
        ),
        (
            "a head that never ends",
            [hello(&[]), frame(HEADERS, 0, 1, &get())].concat(),
            Box::new(|n| (n < 50_000).then(|| frame(CONTINUATION, 0, 1, &literal("x", &"y".repeat(1000))))),
        ),
        (
            "empty pieces of a head",
            [hello(&[]), frame(HEADERS, 0, 1, &get())].concat(),
            Box::new(|n| (n < 200_000).then(|| frame(CONTINUATION, 0, 1, &[]))),
        ),
        (
            "giant heads",
            hello(&[]),
            Box::new(move |n| {
                let pieces = 16_000;
                (n < 2000).then(|| {
                    let mut out = frame(HEADERS, END_STREAM, id(n), &get());
                    for last in [false, false, true] {
                        let flags = if last { END_HEADERS } else { 0 };
                        out.extend(frame(
                            CONTINUATION,
                            flags,
                            id(n),
                            &literal("x", &"y".repeat(pieces)),
                        ));
                    }
                    out
                })
            }),
        ),
        (
            "a small head that unpacks to a large one",
            hello(&[]),
            Box::new(move |n| {
                // The first puts 4 KB into the table, the others name it a thousand times.
                let mut block = get();
                if n == 0 {
                    let mut stored = literal("x", &"y".repeat(3900));
                    stored[0] = 0x40;
                    block.extend(stored);
                }
                block.extend(vec![0xbe; 1000]);
                (n < 500).then(|| frame(HEADERS, END_HEADERS | END_STREAM, id(n), &block))
            }),
        ),
        (
            "settings",
            hello(&[]),
            Box::new(|n| (n < 200_000).then(|| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]))),
        ),
        (
            "pings",
            hello(&[]),
            Box::new(|n| (n < 200_000).then(|| frame(PING, 0, 0, &[0; 8]))),
        ),
        (
            "priorities",
            hello(&[]),
            Box::new(move |n| (n < 200_000).then(|| frame(PRIORITY, 0, id(n), &[0, 0, 0, 0, 1]))),
        ),
        (
            "empty data",
            half_a_call(path, "x"),
            Box::new(|n| (n < 200_000).then(|| frame(DATA, 0, 1, &[]))),
        ),
        (
            "windows that overflow",
            hello(&[]),
            Box::new(|n| (n < 1000).then(|| frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()))),
        ),
        (
            "too many streams",
            hello(&[0, 4, 0, 0, 0, 0]),
            Box::new(move |n| (n < 20_000).then(|| frame(HEADERS, END_HEADERS, id(n), &get()))),
        ),
        (
            "a frame of 16 MiB",
            hello(&[]),
            Box::new(|n| (n < 1).then(|| frame(DATA, 0, 1, &vec![0; (16 << 20) - 1]))),
        ),
        (
            "garbage after the preface",
            hello(&[]),
            Box::new(move |n| (n < 100).then(|| garbage.clone())),
        ),
        (
            "a preface in a preface",
            hello(&[]),
            Box::new(|n| (n < 1000).then(|| PREFACE.to_vec())),
        ),
        (
            "answers that nobody takes",
            // No byte of a body may be sent, and every request has an answer.
            hello(&[0, 4, 0, 0, 0, 0]),
            Box::new(move |n| (n < 120).then(|| frame(HEADERS, END_HEADERS | END_STREAM, id(n), &get()))),
        ),
    ]
}

/// Every attack against every port that speaks HTTP.
pub async fn http2(target: &Target) -> Result<()> {
    let doors = [
        ("api", "/openapi.json"),
        ("grpc", "/grpc.health.v1.Health/Check"),
        ("kube-api", "/healthz"),
        ("enrol", "/smartstorage.agent.v1.EnrolmentService/Enrol"),
        ("health", "/healthz"),
        ("metrics", "/metrics"),
    ];
    for (door, path) in doors {
        let mut running = Vec::new();
        for (name, first, next) in attacks(path) {
            let wire = target.wire(door, tls::ALPN_H2).await.context(name)?;
            running.push((name, tokio::spawn(send(wire, first, next))));
        }
        let mut closed = Vec::new();
        for (name, attack) in running {
            if attack.await? {
                closed.push(name);
            }
        }
        println!("    {door}: closed on {}", closed.join(", "));
        for name in [
            "rapid reset",
            "a head that never ends",
            "windows that overflow",
            "a frame of 16 MiB",
            "garbage after the preface",
        ] {
            expect!(closed.contains(&name), "{door} bears {name}");
        }
    }
    Ok(())
}

/// Calls of gRPC, as a client makes them, to the ports that speak something else.
async fn calls_elsewhere(target: &Target) -> Result<()> {
    let http2 = client(target, true)?;
    for (scheme, door, path, status) in [
        ("http", "api", GET_CAPACITY, 404),
        ("https", "api", GET_CAPACITY, 404),
        ("http", "api", "/v1/storage", 415),
        ("https", "kube-api", GET_CAPACITY, 404),
        ("https", "kube-api", CLAIMS, 415),
        ("http", "health", GET_CAPACITY, 404),
        ("http", "metrics", "/metrics", 405),
        ("http", "metrics", GET_CAPACITY, 404),
    ] {
        let call = http2
            .post(target.url(scheme, door, path)?)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .bearer_auth(&target.token)
            .body(framed(0, &[]));
        let answer = call.send().await.with_context(|| format!("{door}{path}"))?;
        expect!(
            answer.status().as_u16() == status,
            "a call of gRPC to {scheme} {door}{path}: {}, not {status}",
            answer.status()
        );
    }
    Ok(())
}

/// HTTP/1 where HTTP/2 is spoken, plain where TLS is, and bytes that are neither.
pub async fn wrong_protocols(target: &Target) -> Result<()> {
    let get = b"GET /smartstorage.v1.StorageService/GetCapacity HTTP/1.1\r\nhost: x\r\n\r\n";
    let raw = target.exchange("grpc", get).await?;
    expect!(raw.status() == Some(415), "{}", raw.text());
    let bearer = &target.token;
    let call = format!(
        "POST /smartstorage.v1.StorageService/GetCapacity HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\n\
         te: trailers\r\nauthorization: Bearer {bearer}\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0"
    );
    let raw = target.exchange("grpc", call.as_bytes()).await?;
    expect!(raw.status() == Some(426), "{}", raw.text());
    for door in ["agent", "enrol", "kube-api"] {
        let mut wire = target.connect(door, std::net::Ipv4Addr::LOCALHOST).await?;
        let request = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {bearer}\r\n\r\n");
        wire.write_all(request.as_bytes()).await?;
        let raw = super::target::Raw::read(&mut wire).await?;
        expect!(raw.status() == Some(426), "{door}: {}", raw.text());
    }
    for door in ["grpc", "enrol"] {
        for line in [
            "GARBAGE",
            "GET / HTTP/9.9",
            "POST /smartstorage.v1.StorageService/GetCapacity HTTP/1.1\r\ncontent-length: x",
            "GET / HTTP/1.1\r\n\u{1}: \u{2}",
        ] {
            let raw = target
                .exchange(door, format!("{line}\r\n\r\n").as_bytes())
                .await?;
            expect!(
                raw.status() == Some(400),
                "{line:?} to {door}: {:?}: {}",
                raw.status(),
                raw.text()
            );
        }
    }
    calls_elsewhere(target).await?;
    let record = |length: u16, body: &[u8]| [&[0x16, 3, 1][..], &length.to_be_bytes(), body].concat();
    let noise = crate::reading::noise(4, 20_000);
    let hello = |length: u32| [&[1][..], &length.to_be_bytes()[1..], &[3, 3]].concat();
    for door in ["api", "grpc", "agent", "enrol", "kube-api", "health", "metrics"] {
        for bytes in [
            noise.clone(),
            record(512, &noise[..512]),
            record(0xffff, &noise),
            record(0, &[]),
            record(6, &hello(0x00ff_ffff)),
            [record(0, &[]), record(1, &[1]), record(1, &[0])].concat(),
            // An alert, an SSLv2 hello, SSH, SMTP.
            vec![0x15, 3, 1, 0, 2, 2, 40],
            b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10".to_vec(),
            b"SSH-2.0-x\r\n".to_vec(),
            b"EHLO x\r\n\r\n".to_vec(),
        ] {
            let mut wire = target.connect(door, std::net::Ipv4Addr::LOCALHOST).await?;
            wire.write_all(&bytes).await.ok();
            wire.shutdown().await.ok();
            let raw = super::target::Raw::read(&mut wire).await?;
            expect!(
                raw.status().is_none_or(|status| (400..500).contains(&status)),
                "{door}: {}",
                raw.text()
            );
        }
    }
    Ok(())
}
