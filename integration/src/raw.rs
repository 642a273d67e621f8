//! HTTP exactly as written: a request whose path no client library tidied up, and the same signed for S3 (SigV4).

use std::{io, time::Duration};

use anyhow::{Context as _, Result};
use ring::{digest, hmac};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const PATIENCE: Duration = Duration::from_secs(20);
const LONGEST: u64 = 64 << 20;
const ASKED: u32 = 5;

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `PUT`, ...
    pub method: String,
    /// Path and query, sent as they are.
    pub target: String,
    /// Header lines.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Everything after the headers.
    pub body: Vec<u8>,
}

impl Reply {
    /// Whether it succeeded.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Request {
    /// A request without headers and body.
    #[must_use]
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it to `address` (`host:port`), and reads until the other side is done. HTTP/1.0, so that nothing is
    /// chunked.
    ///
    /// A server that refuses before it has read everything resets the connection, and its answer may be lost with
    /// that: then it is asked again.
    ///
    /// # Errors
    /// Nobody answers, or with something that is no HTTP.
    pub async fn send(&self, address: &str) -> Result<Reply> {
        let mut last = None;
        for _ in 0..ASKED {
            let answer = self.exchange(address).await?;
            if let Some(reply) = parse(&answer) {
                return Ok(reply);
            }
            last = Some(answer);
        }
        let heard = String::from_utf8_lossy(&last.unwrap_or_default()).into_owned();
        anyhow::bail!(
            "{} {} at {address}: no HTTP answer, asked {ASKED} times: {heard:?}",
            self.method,
            self.target
        )
    }

    async fn exchange(&self, address: &str) -> Result<Vec<u8>> {
        let mut head = format!("{} {} HTTP/1.0\r\nHost: {address}\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", self.body.len()));
        let exchange = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(head.as_bytes()).await?;
            // A server that refuses may close before it has read everything.
            let _ = stream.write_all(&self.body).await;
            let mut answer = Vec::new();
            match stream.take(LONGEST).read_to_end(&mut answer).await {
                // What came before a reset is kept.
                Ok(_) => Ok(answer),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(answer),
                Err(error) => Err(error),
            }
        };
        let named = || format!("{} {} at {address}", self.method, self.target);
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .with_context(|| format!("{}: no answer", named()))?
            .with_context(named)
    }

    /// The same request signed for the S3 gateway at `address`, with its headers but not its body.
    #[must_use]
    pub fn signed(self, address: &str, key: &str, secret: &str) -> Self {
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = now.get(..8).unwrap_or_default().to_owned();
        let request = self
            .header("x-amz-date", &now)
            .header("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let mut parameters: Vec<(&str, &str)> = query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .collect();
        parameters.sort_unstable();
        let parameters: Vec<String> = parameters
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut headers: Vec<(String, String)> = request
            .headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        headers.push(("host".to_owned(), address.to_owned()));
        headers.sort_unstable();
        let lines: String = headers
            .iter()
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let canonical = format!(
            "{}\n{path}\n{}\n{lines}\n{names}\nUNSIGNED-PAYLOAD",
            request.method,
            parameters.join("&")
        );
        let scope = format!("{day}/us-east-1/s3/aws4_request");
        let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
        let to_sign = format!("AWS4-HMAC-SHA256\n{now}\n{scope}\n{hash}");
        let mut signing = format!("AWS4{secret}").into_bytes();
        for part in [day.as_str(), "us-east-1", "s3", "aws4_request", &to_sign] {
            let with = hmac::Key::new(hmac::HMAC_SHA256, &signing);
            signing = hmac::sign(&with, part.as_bytes()).as_ref().to_vec();
        }
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={names}, Signature={}",
            hex(&signing)
        );
        request.header("Authorization", &value)
    }
}

fn parse(answer: &[u8]) -> Option<Reply> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Reply {
        status,
        body: answer.get(end + 4..)?.to_vec(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
