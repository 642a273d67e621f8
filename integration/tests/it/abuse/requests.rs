//! Wrong requests, one at a time: tokens, paths, heads, bodies.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use reqwest::{Client, Method, Response, StatusCode, header::HeaderMap};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use super::target::{ANSWER, Raw, Target};

pub const CLAIMS: &str = "/apis/storage.billyronks.io/v1/namespaces/default/unifiedstorageclaims";
const CREATE: &str = "/smartstorage.v1.StorageService/CreateStorage";

/// A client that speaks HTTP/2 or 1.1 to any port and trusts the instance's CA.
pub fn client(target: &Target, http2: bool) -> Result<Client> {
    let ca = reqwest::Certificate::from_der(&target.ca)?;
    let builder = Client::builder().tls_certs_only([ca]).timeout(ANSWER);
    Ok(if http2 {
        builder.http2_prior_knowledge()
    } else {
        builder
    }
    .build()?)
}

/// A message with gRPC's frame around it.
pub fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[flag][..], &length.to_be_bytes(), message].concat()
}

/// A field of protobuf that holds bytes.
pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 127 {
        out.push((length & 127) as u8 | 128);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

/// Calls a gRPC method with any bytes; answers code and message.
pub async fn grpc(
    client: &Client,
    url: &str,
    token: Option<&str>,
    extra: HeaderMap,
    body: Vec<u8>,
) -> Result<(u32, HeaderMap)> {
    let mut request = client
        .post(url)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .headers(extra)
        .body(body);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await?;
    let headers = response.headers().clone();
    let code = headers.get("grpc-status").context("no grpc-status in the head")?;
    Ok((code.to_str()?.parse()?, headers))
}

/// Whether a refusal is one: 4xx, as a problem or a Status, with words.
async fn is_refusal(what: &str, response: Response) -> Result<(StatusCode, Value)> {
    let status = response.status();
    let media_type = response.headers().get("content-type").cloned();
    let text = response.text().await?;
    let shown: String = text.chars().take(300).collect();
    expect!(status.is_client_error(), "{what}: {status}: {shown}");
    let body: Value = serde_json::from_str(&text).with_context(|| format!("{what}: {status}: {shown}"))?;
    let says = |name: &str| {
        body.get(name)
            .and_then(Value::as_str)
            .is_some_and(|t| !t.is_empty())
    };
    let problem = media_type
        .as_ref()
        .is_some_and(|t| t == "application/problem+json");
    expect!(
        (problem && says("detail")) || (body.get("kind") == Some(&"Status".into()) && says("message")),
        "{what}: {status}: {shown}"
    );
    Ok((status, body))
}

/// Nobody gets in without the token, all wrong ones get the same answer, and guessing is counted but hardly logged.
pub async fn tokens(target: &Target) -> Result<()> {
    let right = &target.token;
    let wrong = [
        format!("Bearer {}", &right[..right.len() - 1]),
        format!("Bearer {right}0"),
        format!("Bearer 0{right}"),
        format!("Bearer {}", right.to_uppercase() + "x"),
        format!("Bearer {right} {right}"),
        format!("Bearer {right},{right}"),
        format!("Bearer {}", "a".repeat(16_000)),
        "Bearer \u{e4}\u{f6}".to_owned(),
        "Bearer 0".to_owned(),
    ];
    let missing = [
        "",
        "Bearer",
        "Basic abc",
        &format!("Basic {right}"),
        right,
        "Bear",
    ];
    for (door, path) in [("api", "/v1/nodes"), ("kube-api", CLAIMS)] {
        let mut answers = BTreeSet::new();
        for header in &wrong {
            let request = format!(
                "GET {path} HTTP/1.1\r\nhost: x\r\nx-request-id: same\r\nauthorization: {header}\r\n\r\n"
            );
            let raw = target.exchange(door, request.as_bytes()).await?;
            expect!(raw.status() == Some(401), "{door}: {header:.40}: {}", raw.text());
            let told: Vec<_> = raw
                .text()
                .lines()
                .filter(|l| !l.starts_with("date:"))
                .map(str::to_owned)
                .collect();
            answers.insert(told);
        }
        expect!(
            answers.len() == 1,
            "{door}: wrong tokens are told apart: {answers:?}"
        );
        for header in missing {
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {header}\r\n\r\n");
            let raw = target.exchange(door, request.as_bytes()).await?;
            expect!(raw.status() == Some(401), "{door}: {header}: {}", raw.text());
        }
        let twice = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {right}\r\nauthorization: Bearer x\r\n\r\n"
        );
        for request in [
            twice,
            format!("GET {path}?access_token={right}&token={right} HTTP/1.1\r\nhost: x\r\n\r\n"),
            format!(
                "GET {path} HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 127.0.0.1\r\ncookie: token={right}\r\n\r\n"
            ),
        ] {
            let raw = target.exchange(door, request.as_bytes()).await?;
            expect!(raw.status() == Some(401), "{door}: {request:.60}: {}", raw.text());
        }
        let long = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
            "a".repeat(1 << 20)
        );
        let raw = target.exchange(door, long.as_bytes()).await?;
        expect!(
            raw.status() == Some(431),
            "{door}: a token of a mebibyte: {:.200}",
            raw.text()
        );
    }
    let http = client(target, true)?;
    let url = target.url("http", "grpc", CREATE)?;
    for token in [None, Some("0"), Some(&right[1..])] {
        let (code, _) = grpc(&http, &url, token, HeaderMap::new(), framed(0, &[])).await?;
        expect!(code == 16, "{token:?}: {code}");
    }
    guesses(target).await
}

async fn guesses(target: &Target) -> Result<()> {
    const GUESSES: usize = 500;
    let http = client(target, false)?;
    let url = target.url("http", "api", "/v1/nodes")?;
    let refused = async || -> Result<f64> {
        let metrics = target.url("http", "metrics", "/metrics")?;
        let text = http.get(metrics).send().await?.text().await?;
        let lines = text
            .lines()
            .filter(|line| line.starts_with("smart_storage_token_refusals_total{"));
        Ok(lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    };
    let (before, lines) = (refused().await?, target.log()?.lines().count());
    for guess in 0..GUESSES {
        let answer = http.get(&url).bearer_auth(format!("{guess:064x}")).send().await?;
        expect!(
            answer.status() == StatusCode::UNAUTHORIZED,
            "a guess: {}",
            answer.status()
        );
    }
    let counted = refused().await? - before;
    expect!(counted >= GUESSES as f64, "{GUESSES} guesses, {counted} counted");
    let log = target.log()?;
    let said: Vec<_> = log
        .lines()
        .skip(lines)
        .filter(|line| line.contains("tokens refused"))
        .collect();
    expect!(
        !said.is_empty() || log.contains("tokens refused"),
        "guessing is not logged"
    );
    expect!(said.len() < 20, "{GUESSES} guesses are {} lines", said.len());
    expect!(!log.contains(&target.token), "the token is in the log");
    Ok(())
}

/// Whatever is asked for, metrics name only what exists.
pub async fn labels(target: &Target) -> Result<()> {
    const MADE_UP: usize = 200;
    let (http, http2) = (client(target, false)?, client(target, true)?);
    let metrics = target.url("http", "metrics", "/metrics")?;
    let read = async || -> Result<String> { Ok(http.get(&metrics).send().await?.text().await?) };
    let before = read().await?.lines().count();
    for number in 0..MADE_UP {
        let token = (number % 2 == 0).then_some(target.token.as_str());
        for path in [
            "/smartstorage.v1.StorageService/",
            "/made.Up/",
            "/grpc.health.v1.Health/",
        ] {
            let url = target.url("http", "grpc", &format!("{path}Up{number}"))?;
            grpc(&http2, &url, token, HeaderMap::new(), framed(0, &[])).await?;
        }
        let method = Method::from_bytes(format!("UP{number}").as_bytes())?;
        for path in ["/v1/Up", "/v1/storage/up", "/Up"] {
            let url = target.url("http", "api", &format!("{path}{number}"))?;
            http.request(method.clone(), &url)
                .bearer_auth(&target.token)
                .send()
                .await?;
            http.get(&url)
                .bearer_auth(token.unwrap_or("wrong"))
                .header("x-up", number)
                .send()
                .await?;
        }
    }
    let after = read().await?;
    expect!(
        !after.to_lowercase().contains("up1"),
        "made-up names are labels of metrics"
    );
    // Every known route may have got one more status, with its histogram.
    let more = after.lines().count() - before;
    expect!(
        more < MADE_UP / 2,
        "{MADE_UP} made-up names became {more} lines of metrics"
    );
    Ok(())
}

/// Paths, methods, hosts and heads that nobody means well: no 5xx, nothing that is not there.
pub async fn paths(target: &Target) -> Result<()> {
    let bearer = format!("authorization: Bearer {}", target.token);
    let long = "a".repeat(60 << 10);
    let longer = "a".repeat(200 << 10);
    let request = |line: &str, more: &str| format!("{line}\r\n{bearer}\r\n{more}\r\n").into_bytes();
    let host = "host: x\r\n";
    // What is refused, by which status.
    let mut refused: Vec<(Vec<u8>, &[u16])> = Vec::new();
    for path in [
        "/v1/storage/..",
        "/v1/storage/../nodes",
        "/v1/%2e%2e/v1/nodes",
        "/v1/storage/%2e%2e%2fnodes",
        "//v1/nodes",
        "/v1//nodes",
        "/v1/nodes/",
        "/v1/NODES",
        "/V1/nodes",
        "/v1/storage/%00",
        "/v1/storage/a%00b",
        "/v1/storage/%c0%ae%c0%ae",
        "/v1/storage/%ff%fe",
        "/v1/storage/%2fetc%2fpasswd",
        "/v1/storage/a%0d%0ax:y",
        "/v1/storage/%",
        "/v1/storage/%zz",
        "/v1/nodes/%F0%9F%92%A9",
        "/v1/storage/;x=y",
        "/etc/passwd",
        "/v1/storage/x/credentials/",
        "/.env",
        "/v1",
        "/",
        "/metrics",
        "/apis",
    ] {
        refused.push((request(&format!("GET {path} HTTP/1.1"), host), &[400, 404, 422]));
    }
    for query in [
        "limit=-1",
        "limit=99999999999999999999",
        "continue=%00",
        "x=y",
        "label=%00",
        "namespace=..",
        "a=%ff",
        "%",
    ] {
        refused.push((
            request(&format!("GET /v1/storage?{query} HTTP/1.1"), host),
            &[422],
        ));
    }
    for method in ["PUT", "TRACE", "PROPFIND", "get", "X", "OPTIONS"] {
        refused.push((request(&format!("{method} /v1/storage HTTP/1.1"), host), &[405]));
    }
    refused.push((
        request("CONNECT evil.example:443 HTTP/1.1", host),
        &[400, 404, 405],
    ));
    refused.push((
        request(&format!("GET /v1/storage/{long} HTTP/1.1"), host),
        &[404, 414, 431],
    ));
    refused.push((
        request(&format!("GET /v1/storage/{longer} HTTP/1.1"), host),
        &[414, 431],
    ));
    refused.push((request("GET /v1/storage/a\0b HTTP/1.1", host), &[400]));
    refused.push((request("GET /v1/nodes HTTP/1.1", ""), &[400]));
    refused.push((
        request("GET /v1/nodes HTTP/1.1", "host: a\r\nhost: b\r\n"),
        &[400],
    ));
    refused.push((request("GET /v1/nodes HTTP/9.9", host), &[400, 505]));
    refused.push((request("GET  /v1/nodes  HTTP/1.1", host), &[400]));
    refused.push((request("GET /v1/nodes HTTP/1.1", "host: x\r\na b: c\r\n"), &[400]));
    refused.push((
        request("GET /v1/nodes HTTP/1.1", "host: x\r\nx: a\0b\r\n"),
        &[400],
    ));
    refused.push((
        request("GET /v1/nodes HTTP/1.1", &format!("{host}x: {long}\r\n")),
        &[431],
    ));
    let many: String = (0..5000).map(|n| format!("x-{n}: y\r\n")).collect();
    refused.push((
        request("GET /v1/nodes HTTP/1.1", &format!("{host}{many}")),
        &[431],
    ));
    refused.push((
        request(
            "POST /v1/storage HTTP/1.1",
            "host: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n",
        ),
        &[400],
    ));
    refused.push((
        request("POST /v1/storage HTTP/1.1", "host: x\r\ncontent-length: -1\r\n"),
        &[400],
    ));
    refused.push((
        request(
            "POST /v1/storage HTTP/1.1",
            "host: x\r\ntransfer-encoding: gzip\r\n",
        ),
        &[400],
    ));
    refused.push((
        request(
            "POST /v1/storage HTTP/1.1",
            "host: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        ),
        &[400],
    ));
    refused.push((b"\x00\x01\x02\x03\x04\r\n\r\n".to_vec(), &[400]));
    refused.push((vec![b'\n'; 100_000], &[400, 431]));
    for (bytes, statuses) in refused {
        let raw = target.exchange("api", &bytes).await?;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let status = raw.status().with_context(|| format!("{shown:?}: no answer"))?;
        expect!(
            statuses.contains(&status),
            "{shown:?}: {status}, not {statuses:?}: {:.300}",
            raw.text()
        );
        expect!(!raw.text().contains("\nx:y"), "{shown:?}: a header came in");
    }
    // What is odd and means the same; and a GET that says it is a DELETE stays a GET.
    for line in [
        "GET http://evil.example/v1/nodes HTTP/1.1",
        "GET /v1/nodes?limit=1 HTTP/1.1",
        "GET /v1/%6eodes HTTP/1.1",
    ] {
        let more = "host: evil.example\r\nx-http-method-override: DELETE\r\nx-original-url: /health\r\nexpect: 100-continue\r\n";
        let raw = target.exchange("api", &request(line, more)).await?;
        expect!(
            matches!(raw.status(), Some(200 | 404 | 417 | 100)),
            "{line}: {}",
            raw.text()
        );
    }
    let kubernetes = [
        "/apis/storage.billyronks.io/v1/../v1/unifiedpools",
        "/api/v1/namespaces/%2e%2e/secrets",
        "/api/v1/namespaces/a%00b/secrets",
        "/api/v1/nodes/x/proxy/",
        "/apis/x/y/z/a/b/c/d/e",
        "/debug/pprof",
        "/api/v1/namespaces/%ff/secrets",
        "/apis/storage.billyronks.io/v1/unifiedpools?limit=x",
        "/apis/storage.billyronks.io/v1/unifiedpools?continue=%ff",
        "/apis/storage.billyronks.io/v1/unifiedpools?labelSelector=%00%00",
        "/apis/storage.billyronks.io/v1/unifiedpools?fieldSelector=a",
    ];
    for path in kubernetes {
        let raw = target
            .exchange("kube-api", &request(&format!("GET {path} HTTP/1.1"), host))
            .await?;
        expect!(
            raw.status().is_some_and(|s| (400..500).contains(&s)),
            "{path}: {}",
            raw.text()
        );
        expect!(
            raw.text().contains("\"kind\":\"Status\""),
            "{path}: {}",
            raw.text()
        );
    }
    for port in ["health", "metrics"] {
        for line in [
            "GET /../etc HTTP/1.1",
            "POST /healthz HTTP/1.1",
            "POST /metrics HTTP/1.1",
            "GET //metrics/ HTTP/1.1",
        ] {
            let raw = target.exchange(port, &request(line, host)).await?;
            expect!(
                raw.status().is_some_and(|s| (400..500).contains(&s)),
                "{port} {line}: {}",
                raw.text()
            );
        }
    }
    Ok(())
}

/// Deep and broken bodies through every door.
pub async fn depths(target: &Target) -> Result<()> {
    const LEVELS: usize = 100_000;
    let open = "[".repeat(LEVELS);
    let lists = format!("{open}{}", "]".repeat(LEVELS));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(LEVELS), "}".repeat(LEVELS));
    let inside = format!(r#"{{"name":"deep","storage_type":"file","capacity_bytes":1,"labels":{lists}}}"#);
    let http = client(target, false)?;
    let api = target.url("http", "api", "/v1/storage")?;
    for body in [&open, &lists, &objects, &inside] {
        let request = http
            .post(&api)
            .bearer_auth(&target.token)
            .header("content-type", "application/json");
        is_refusal("deep JSON to REST", request.body(body.clone()).send().await?).await?;
        let request = http.patch(format!("{api}/uv-x")).bearer_auth(&target.token);
        let request = request.header("content-type", "application/merge-patch+json");
        is_refusal("a deep patch to REST", request.body(body.clone()).send().await?).await?;
    }
    let kube = target.url("https", "kube-api", CLAIMS)?;
    let bombs = (1..30).fold("a: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
        let before = format!("*a{}", n - 1);
        text + &format!("b{n}: &a{n} [{}]\n", vec![before; 9].join(","))
    });
    for (method, media_type, body) in [
        (Method::POST, "application/json", &lists),
        (Method::POST, "application/json", &objects),
        (Method::POST, "application/yaml", &lists),
        (Method::POST, "application/yaml", &open),
        (Method::POST, "application/yaml", &objects),
        (Method::POST, "application/yaml", &bombs),
        (Method::PATCH, "application/merge-patch+json", &objects),
        (Method::PATCH, "application/json-patch+json", &lists),
        (Method::PATCH, "application/apply-patch+yaml", &objects),
        (Method::PUT, "application/json", &objects),
        (Method::POST, "application/vnd.kubernetes.protobuf", &lists),
    ] {
        let what = format!("{method} {media_type} {body:.12} to Kubernetes' API");
        let url = if method == Method::POST {
            kube.clone()
        } else {
            format!("{kube}/demo")
        };
        let request = http
            .request(method, url)
            .bearer_auth(&target.token)
            .header("content-type", media_type);
        is_refusal(&what, request.body(body.clone()).send().await?).await?;
    }
    let grpc_url = target.url("http", "grpc", CREATE)?;
    let http2 = client(target, true)?;
    let nested = (0..50_000).fold(Vec::new(), |inner: Vec<u8>, _| {
        // Lengths need not be right for what the reader never reaches.
        if inner.len() < 60_000 {
            field(8, &inner)
        } else {
            inner
        }
    });
    let groups = vec![0x0b; 100_000];
    let mut named = field(1, b"deep");
    named.extend(field(2, lists.as_bytes()));
    let bodies = [
        ("deep JSON in a field", framed(0, &named), 3),
        ("nested messages", framed(0, &nested), 3),
        ("open groups", framed(0, &groups), 3),
        ("no UTF-8", framed(0, &field(1, &[0xff, 0xfe])), 3),
        ("a frame that breaks off", framed(0, &named)[..20].to_vec(), 3),
        (
            "a length of 4 GiB",
            [&[0, 255, 255, 255, 255][..], b"x"].concat(),
            8,
        ),
        ("a flag that is none", framed(9, &named), 3),
        ("compressed, without saying how", framed(1, &named), 3),
        ("nothing at all", Vec::new(), 3),
    ];
    for (what, body, wanted) in bodies {
        let (code, headers) = grpc(&http2, &grpc_url, Some(&target.token), HeaderMap::new(), body).await?;
        expect!(
            code == wanted,
            "{what}: {code}, not {wanted}: {:?}",
            headers.get("grpc-message")
        );
    }
    let mut gzip = HeaderMap::new();
    gzip.insert("grpc-encoding", "gzip".parse()?);
    let (code, _) = grpc(
        &http2,
        &grpc_url,
        Some(&target.token),
        gzip,
        framed(1, b"\x1f\x8b"),
    )
    .await?;
    expect!(code == 12, "gzip over gRPC: {code}");
    let enrol = target.url("https", "enrol", "/smartstorage.agent.v1.EnrolmentService/Enrol")?;
    for body in [
        framed(0, &groups),
        framed(0, &vec![b'x'; 1 << 20]),
        vec![0xff; 1000],
        framed(0, &field(1, b"x.y")),
    ] {
        let (code, headers) = grpc(&http2, &enrol, None, HeaderMap::new(), body).await?;
        expect!(
            matches!(code, 3 | 7 | 8),
            "enrolment: {code}: {:?}",
            headers.get("grpc-message")
        );
    }
    Ok(())
}

/// Bodies of 100 MiB, said and unsaid, plain and compressed: refused early, and the refusal can be read.
pub async fn giants(target: &Target) -> Result<()> {
    const GIANT: usize = 100 << 20;
    let head = |path: &str, token: &str, more: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n{more}\r\n\r\n"
        )
    };
    let said = format!("content-length: {GIANT}");
    for (door, path) in [("api", "/v1/storage"), ("kube-api", CLAIMS)] {
        for (token, status) in [(target.token.as_str(), 413), ("wrong", 401)] {
            for (more, chunked) in [(said.as_str(), false), ("transfer-encoding: chunked", true)] {
                let raw = pour(target, door, head(path, token, more), chunked, GIANT).await?;
                expect!(
                    raw.status() == Some(status),
                    "{door}, {more}: {:?}, not {status}: {:.300}",
                    raw.status(),
                    raw.text()
                );
            }
        }
    }
    // Nothing is decompressed anywhere, so a bomb is only a small body that cannot be read.
    let bomb = std::process::Command::new("bash")
        .args(["-c", "head -c 1073741824 /dev/zero | gzip -9"])
        .output()?
        .stdout;
    anyhow::ensure!(bomb.len() > 100_000, "no bomb: {} bytes", bomb.len());
    let http = client(target, false)?;
    for (scheme, door, path) in [("http", "api", "/v1/storage"), ("https", "kube-api", CLAIMS)] {
        let request = http
            .post(target.url(scheme, door, path)?)
            .bearer_auth(&target.token)
            .header("content-type", "application/json")
            .header("content-encoding", "gzip");
        is_refusal("a gzip bomb", request.body(bomb.clone()).send().await?).await?;
    }
    let http2 = client(target, true)?;
    for (door, scheme, path) in [
        ("grpc", "http", CREATE),
        ("enrol", "https", "/smartstorage.agent.v1.EnrolmentService/Enrol"),
    ] {
        let body = framed(0, &field(1, &vec![b'x'; GIANT]));
        let url = target.url(scheme, door, path)?;
        let (code, _) = grpc(&http2, &url, Some(&target.token), HeaderMap::new(), body).await?;
        expect!(code == 8, "100 MiB to {door}: {code}");
    }
    Ok(())
}

/// Sends a head and a giant body as far as the other end takes it, then reads the answer.
async fn pour(target: &Target, door: &str, head: String, chunked: bool, bytes: usize) -> Result<Raw> {
    let mut wire = target.wire(door, smart_storage_proto::tls::ALPN_HTTP11).await?;
    wire.write_all(head.as_bytes()).await?;
    let piece = vec![b' '; 64 << 10];
    let begin = format!("{:x}\r\n", piece.len());
    let pouring = async {
        for _ in 0..bytes / piece.len() {
            if chunked {
                wire.write_all(begin.as_bytes()).await?;
            }
            wire.write_all(&piece).await?;
            if chunked {
                wire.write_all(b"\r\n").await?;
            }
        }
        std::io::Result::Ok(())
    };
    // As most clients do: all of it first, the answer afterwards.
    let _ = tokio::time::timeout(Duration::from_secs(15), pouring).await;
    Raw::read(&mut wire).await
}
