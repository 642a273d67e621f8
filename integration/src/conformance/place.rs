//! Where a case works: a namespace of its own, and words for asking and for judging answers.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{AsyncBufReadExt as _, StreamExt as _, stream::BoxStream};
use http::{Method, Request, header};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::{Forget, Server};

/// Our cluster-scoped kind that nothing follows from.
pub const CLASSES: &str = "/apis/storage.billyronks.io/v1/unifiedstorageclasses";
/// Namespaces.
pub const NAMESPACES: &str = "/api/v1/namespaces";
/// On everything that a case makes outside of its namespace.
const MARK: &str = "conformance.storage.billyronks.io/case";
/// For one answer; the slowest is a real server's wait for a revision from the future, 3 s.
const SOON: Duration = Duration::from_secs(30);

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// The namespace of a case, and the way to the server.
pub struct Place {
    client: Client,
    /// The name of the namespace, and the beginning of all other names.
    pub name: String,
    /// Makes the server forget its history, where there is a way.
    pub forget: Option<Forget>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Ask {
    method: Method,
    path: String,
    accept: String,
    content: String,
    body: Vec<u8>,
}

impl Ask {
    /// Without a body, for JSON.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            accept: "application/json".to_owned(),
            content: String::new(),
            body: Vec::new(),
        }
    }

    /// With this `Accept`.
    #[must_use]
    pub fn accept(mut self, media_type: &str) -> Self {
        media_type.clone_into(&mut self.accept);
        self
    }

    /// With a body of this type.
    #[must_use]
    pub fn body(mut self, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        media_type.clone_into(&mut self.content);
        self.body = body.into();
        self
    }
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP's code.
    pub code: u16,
    /// `Content-Type`.
    pub media_type: String,
    /// The `Warning` headers.
    pub warnings: Vec<String>,
    /// The body as it came.
    pub text: String,
    /// The body, where it is JSON.
    pub body: Value,
    asked: String,
}

impl Answer {
    /// The body, if the code is this one.
    ///
    /// # Errors
    /// It is another one.
    pub fn is(self, code: u16) -> Result<Value> {
        ensure!(
            self.code == code,
            "{}: {} instead of {code}: {}",
            self.asked,
            self.code,
            self.text
        );
        Ok(self.body)
    }

    /// The `Status` of a refusal with this code and reason; its whole shape is judged.
    ///
    /// # Errors
    /// It is no such refusal.
    pub fn refused(self, code: u16, reason: &str) -> Result<Value> {
        let asked = self.asked.clone();
        let status = self.is(code)?;
        let told = |field: &str| status.get(field).and_then(Value::as_str).unwrap_or_default();
        ensure!(
            told("kind") == "Status" && told("apiVersion") == "v1" && told("status") == "Failure",
            "{asked}: no Status of a failure: {status}"
        );
        ensure!(
            status.get("metadata").is_some_and(Value::is_object)
                && status.get("code") == Some(&json!(code))
                && told("reason") == reason,
            "{asked}: not {code} {reason}: {status}"
        );
        ensure!(!told("message").is_empty(), "{asked}: no message: {status}");
        Ok(status)
    }
}

/// The cause of a refusal that names this field.
pub fn cause<'a>(status: &'a Value, field: &str) -> Result<&'a Value> {
    let causes = status.pointer("/details/causes").and_then(Value::as_array);
    causes
        .into_iter()
        .flatten()
        .find(|cause| cause.get("field").and_then(Value::as_str) == Some(field))
        .with_context(|| format!("no cause names {field}: {status}"))
}

/// The text at a pointer, empty where there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of a list.
pub fn items(list: &Value) -> &[Value] {
    list.get("items")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The names of the items of a list, in its order.
pub fn names(list: &Value) -> Vec<&str> {
    items(list)
        .iter()
        .map(|item| text(item, "/metadata/name"))
        .collect()
}

/// `metadata.resourceVersion` as the number that etcd and the embedded API make of it.
pub fn revision(object: &Value) -> Result<u64> {
    let revision = text(object, "/metadata/resourceVersion");
    revision
        .parse()
        .with_context(|| format!("resourceVersion {revision:?} of {object}"))
}

/// That two values are the same.
pub fn same(what: &str, left: &Value, right: &Value) -> Result<()> {
    ensure!(left == right, "{what}: {left} and not {right}");
    Ok(())
}

/// A Secret: no reconciler ever touches one that it did not make.
pub fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "conformance/thing"})
}

/// A Secret with labels.
pub fn labelled(name: &str, labels: &Value) -> Value {
    let mut secret = secret(name);
    merge(&mut secret, &json!({"metadata": {"labels": labels}}));
    secret
}

/// A claim that no pool can ever serve.
pub fn claim(name: &str) -> Value {
    json!({
        "apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedStorageClaim", "metadata": {"name": name},
        "spec": {"storageType": "file", "capacity": "1Gi", "className": "no-such-class"},
    })
}

/// Puts the members of `more` into `value`, at every depth.
pub fn merge(value: &mut Value, more: &Value) {
    match (value, more) {
        (Value::Object(value), Value::Object(more)) => {
            for (name, member) in more {
                merge(value.entry(name.clone()).or_insert(Value::Null), member);
            }
        }
        (value, more) => *value = more.clone(),
    }
}

/// The events of a watch as they come.
pub struct Watched {
    lines: BoxStream<'static, std::io::Result<String>>,
}

impl Watched {
    /// The next event: its type and object.
    ///
    /// # Errors
    /// None comes soon, or the stream ends.
    pub async fn next(&mut self) -> Result<(String, Value)> {
        self.maybe().await?.context("the watch ended")
    }

    /// The next event, or nothing where the stream ends.
    ///
    /// # Errors
    /// Neither happens soon.
    pub async fn maybe(&mut self) -> Result<Option<(String, Value)>> {
        let line = tokio::time::timeout(SOON, self.lines.next()).await;
        let Some(line) = line.context("no event within 30 s")? else {
            return Ok(None);
        };
        let line = line?;
        let event: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        let kind = text(&event, "/type").to_owned();
        Ok(Some((kind, event.get("object").cloned().unwrap_or_default())))
    }

    /// That the next event is of this type and about the object of this name; answers the object.
    ///
    /// # Errors
    /// It is another one.
    pub async fn sees(&mut self, kind: &str, name: &str) -> Result<Value> {
        let (seen, object) = self.next().await?;
        ensure!(
            seen == kind && text(&object, "/metadata/name") == name,
            "{seen} {object} instead of {kind} {name}"
        );
        Ok(object)
    }
}

impl Place {
    /// A new namespace on a server; whoever makes it clears it.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn make(server: &Server) -> Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let run = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("conformance-{:x}-{run}", since.as_millis());
        let place = Self {
            client: server.client.clone(),
            name,
            forget: server.forget.clone(),
        };
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.name}});
        place.post(NAMESPACES, &namespace).await?.is(201)?;
        Ok(place)
    }

    pub(super) async fn clear(&self) -> Result<()> {
        let marked = format!("{CLASSES}?labelSelector={MARK}%3D{}", self.name);
        self.delete(&marked).await?.is(200)?;
        self.delete(&format!("{NAMESPACES}/{}", self.name))
            .await?
            .is(200)?;
        Ok(())
    }

    /// The client, for what kube-rs does by itself.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The Secrets of this place.
    #[must_use]
    pub fn secrets(&self) -> String {
        format!("{NAMESPACES}/{}/secrets", self.name)
    }

    /// One of them.
    #[must_use]
    pub fn secret(&self, name: &str) -> String {
        format!("{}/{name}", self.secrets())
    }

    /// The claims of this place.
    #[must_use]
    pub fn claims(&self) -> String {
        format!(
            "/apis/storage.billyronks.io/v1/namespaces/{}/unifiedstorageclaims",
            self.name
        )
    }

    /// One of them.
    #[must_use]
    pub fn claim(&self, name: &str) -> String {
        format!("{}/{name}", self.claims())
    }

    /// A class of this place: `name` is made the server's own, and it is taken away at the end.
    #[must_use]
    pub fn class(&self, name: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedStorageClass",
            "metadata": {"name": self.own(name), "labels": {MARK: self.name}}, "spec": spec,
        })
    }

    /// A name outside of the namespace that nobody else has.
    #[must_use]
    pub fn own(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    /// The path of a class of this place.
    #[must_use]
    pub fn class_path(&self, name: &str) -> String {
        format!("{CLASSES}/{}", self.own(name))
    }

    /// One request and its answer.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn ask(&self, ask: Ask) -> Result<Answer> {
        let asked = format!("{} {}", ask.method, ask.path);
        let mut request = Request::builder()
            .method(ask.method)
            .uri(ask.path)
            .header(header::ACCEPT, ask.accept);
        if !ask.content.is_empty() {
            request = request.header(header::CONTENT_TYPE, ask.content);
        }
        let request = request.body(Body::from(ask.body))?;
        let answered = async {
            let response = self.client.send(request).await?;
            let (head, body) = response.into_parts();
            Ok::<_, anyhow::Error>((head, body.collect_bytes().await?))
        };
        let (head, bytes) = tokio::time::timeout(SOON, answered)
            .await
            .with_context(|| format!("{asked}: no answer within {SOON:?}"))?
            .with_context(|| asked.clone())?;
        let shown = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Ok(Answer {
            code: head.status.as_u16(),
            media_type: head
                .headers
                .get(header::CONTENT_TYPE)
                .map(shown)
                .unwrap_or_default(),
            warnings: head.headers.get_all(header::WARNING).iter().map(shown).collect(),
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
            text: String::from_utf8_lossy(&bytes).into_owned(),
            asked,
        })
    }

    /// GET.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.ask(Ask::new(Method::GET, path)).await
    }

    /// POST of JSON.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::POST, path, "application/json", body).await
    }

    /// PUT of JSON.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::PUT, path, "application/json", body).await
    }

    /// A merge patch.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn merge(&self, path: &str, patch: &Value) -> Result<Answer> {
        self.send(Method::PATCH, path, "application/merge-patch+json", patch)
            .await
    }

    /// A JSON patch.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn json_patch(&self, path: &str, operations: &Value) -> Result<Answer> {
        self.send(Method::PATCH, path, "application/json-patch+json", operations)
            .await
    }

    /// DELETE without options.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.ask(Ask::new(Method::DELETE, path)).await
    }

    /// DELETE with options in the body.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn delete_with(&self, path: &str, options: &Value) -> Result<Answer> {
        self.send(Method::DELETE, path, "application/json", options).await
    }

    async fn send(&self, method: Method, path: &str, media_type: &str, body: &Value) -> Result<Answer> {
        self.ask(Ask::new(method, path).body(media_type, body.to_string()))
            .await
    }

    /// Begins a watch; `path` carries the query without `watch`.
    ///
    /// # Errors
    /// It is refused.
    pub async fn watch(&self, path: &str) -> Result<Watched> {
        let joint = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{joint}watch=true");
        let request = Request::get(&path)
            .header(header::ACCEPT, "application/json")
            .body(Vec::new())?;
        let stream = tokio::time::timeout(SOON, self.client.request_stream(request)).await;
        let stream = stream.with_context(|| format!("GET {path}: no answer"))??;
        Ok(Watched {
            lines: Box::pin(stream).lines().boxed(),
        })
    }

    /// Waits until nothing is at `path`: a real server takes some things away a moment later.
    ///
    /// # Errors
    /// It is still there after a minute.
    pub async fn gone(&self, path: &str) -> Result<()> {
        for _ in 0..600 {
            if self.get(path).await?.code == 404 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("{path} is still there")
    }
}
