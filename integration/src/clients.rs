//! The doors of an instance, as its users open them: REST, SeaweedFS's filer and S3.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::{Client, Method, StatusCode, Url};
use rusty_s3::{Bucket, Credentials, S3Action as _, UrlStyle};
use serde_json::Value;

use crate::tokens::Keys;

const SIGNATURE_LIVES: Duration = Duration::from_secs(60);

/// A status and the body as JSON (`Null` where there is none).
pub type Answer = (StatusCode, Value);

/// The REST API with the instance's token.
#[derive(Debug, Clone)]
pub struct Rest {
    http: Client,
    base: String,
    token: String,
}

impl Rest {
    /// `base` is `SMART_STORAGE_URL`, `token` `SMART_STORAGE_TOKEN`.
    #[must_use]
    pub fn new(http: Client, base: &str, token: &str) -> Self {
        Self {
            http,
            base: base.to_owned(),
            token: token.to_owned(),
        }
    }

    /// The same door with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// One call; any status is an answer.
    ///
    /// # Errors
    /// Nobody answers, or with something that is no JSON.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let bytes = response.bytes().await?;
        if bytes.is_empty() {
            return Ok((status, Value::Null));
        }
        let value = serde_json::from_slice(&bytes)
            .with_context(|| format!("{path}: {status}: {}", String::from_utf8_lossy(&bytes)))?;
        Ok((status, value))
    }

    /// GET that has to answer 200.
    ///
    /// # Errors
    /// Any other status.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.call(Method::GET, path, None).await?;
        ensure!(status == StatusCode::OK, "GET {path}: {status}: {body}");
        Ok(body)
    }

    /// POST that has to succeed.
    ///
    /// # Errors
    /// Any status but 200 and 201.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let (status, answer) = self.call(Method::POST, path, Some(body)).await?;
        ensure!(
            status == StatusCode::OK || status == StatusCode::CREATED,
            "POST {path}: {status}: {answer}"
        );
        Ok(answer)
    }

    /// DELETE that has to succeed.
    ///
    /// # Errors
    /// Any status but 200, 202, 204 and 404.
    pub async fn delete(&self, path: &str) -> Result<StatusCode> {
        let (status, answer) = self.call(Method::DELETE, path, None).await?;
        ensure!(
            status.is_success() || status == StatusCode::NOT_FOUND,
            "DELETE {path}: {status}: {answer}"
        );
        Ok(status)
    }
}

/// SeaweedFS's filer over HTTP.
#[derive(Debug, Clone)]
pub struct Filer {
    http: Client,
    base: String,
    bearer: Bearer,
}

/// What a filer's client shows.
#[derive(Debug, Clone)]
enum Bearer {
    /// Tokens of its own, signed with the instance's keys: for everything.
    Keys(Box<Keys>),
    /// A token that was given to it.
    Token(String),
    Nothing,
}

impl Filer {
    /// `base` is `WEED_FILER_URL`; with the instance's keys everything is open.
    #[must_use]
    pub fn new(http: Client, base: &str, keys: Keys) -> Self {
        Self {
            http,
            base: base.to_owned(),
            bearer: Bearer::Keys(Box::new(keys)),
        }
    }

    /// The same door with a claim's token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            bearer: Bearer::Token(token.to_owned()),
            ..self.clone()
        }
    }

    /// The same door with nothing to show.
    #[must_use]
    pub fn without_token(&self) -> Self {
        Self {
            bearer: Bearer::Nothing,
            ..self.clone()
        }
    }

    /// A request for a path (with its query), with the token that fits.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let reads = method == Method::GET || method == Method::HEAD;
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.bearer {
            Bearer::Keys(keys) => request.bearer_auth(if reads { keys.reading() } else { keys.writing() }),
            Bearer::Token(token) => request.bearer_auth(token),
            Bearer::Nothing => request,
        }
    }

    /// Writes a file; any status is an answer.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<StatusCode> {
        let request = self.request(Method::PUT, path).body(bytes);
        Ok(request.send().await?.status())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Nobody answers, or any other status than 200.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>> {
        let response = self.request(Method::GET, path).send().await?;
        ensure!(
            response.status() == StatusCode::OK,
            "filer GET {path}: {}",
            response.status()
        );
        Ok(response.bytes().await?.to_vec())
    }

    /// The names in a folder, sorted; empty where there is no such folder.
    ///
    /// # Errors
    /// Nobody answers, or something that is no listing.
    pub async fn list(&self, path: &str) -> Result<Vec<String>> {
        let entries = self.entries(path).await?;
        let mut names: Vec<String> = entries
            .iter()
            .filter_map(|entry| entry.get("FullPath").and_then(Value::as_str))
            .filter_map(|path| path.rsplit('/').next().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// The entries of a folder as the filer shows them; none where there is no such folder.
    ///
    /// # Errors
    /// Nobody answers, or something that is no listing.
    pub async fn entries(&self, path: &str) -> Result<Vec<Value>> {
        let path = format!("{}/?limit=100000", path.trim_end_matches('/'));
        let response = self
            .request(Method::GET, &path)
            .header("Accept", "application/json")
            .send()
            .await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let listing: Value = response.error_for_status()?.json().await?;
        let entries = listing.get("Entries").and_then(Value::as_array);
        Ok(entries.cloned().unwrap_or_default())
    }
}

/// One bucket with credentials.
#[derive(Debug)]
pub struct S3 {
    http: Client,
    bucket: Bucket,
    credentials: Credentials,
}

impl S3 {
    /// A bucket of the gateway at `endpoint`, with one pair of keys.
    ///
    /// # Errors
    /// `endpoint` is no URL.
    pub fn new(http: Client, endpoint: &str, bucket: &str, key: &str, secret: &str) -> Result<Self> {
        let endpoint: Url = endpoint.parse().context("the S3 endpoint")?;
        let bucket = Bucket::new(endpoint, UrlStyle::Path, bucket.to_owned(), "us-east-1")?;
        Ok(Self {
            http,
            bucket,
            credentials: Credentials::new(key, secret),
        })
    }

    /// Writes an object; any status is an answer.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<StatusCode> {
        let url = self
            .bucket
            .put_object(Some(&self.credentials), key)
            .sign(SIGNATURE_LIVES);
        Ok(self.http.put(url).body(bytes).send().await?.status())
    }

    /// Reads an object; any status is an answer.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn get(&self, key: &str) -> Result<(StatusCode, Vec<u8>)> {
        let url = self
            .bucket
            .get_object(Some(&self.credentials), key)
            .sign(SIGNATURE_LIVES);
        let response = self.http.get(url).send().await?;
        let status = response.status();
        Ok((status, response.bytes().await?.to_vec()))
    }
}
