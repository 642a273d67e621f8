//! Watches: a stream of events that resumes from a revision and ends by itself.
//!
//! A watch reads the store's log from where it stands whenever something was published, so a slow reader
//! costs nothing but its own delay; one that falls behind the history gets `ERROR` 410 and lists again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::json::set;
use super::kinds::Kind;
use super::request::Form;
use super::selectors::Selector;
use super::service::{Service, metadata_only, rendered, rows};
use super::status::ApiError;
use super::store::{Change, Object};

/// Between bookmarks, as in the real server.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch without a timeout of its own.
const LONGEST: u64 = 1800;

/// What is watched, and how it is told.
pub struct Watch {
    /// The kind.
    pub kind: Arc<Kind>,
    /// One namespace, or all.
    pub namespace: Option<String>,
    /// Which objects.
    pub selector: Selector,
    /// In which form.
    pub form: Form,
    /// Whether bookmarks are wanted.
    pub bookmarks: bool,
    /// Whether it begins with what is there.
    pub initial: bool,
    /// Whether the end of that is marked.
    pub mark_initial: bool,
    /// The revision after which it begins; none is now.
    pub after: Option<u64>,
    /// Seconds after which it ends.
    pub timeout: Option<u64>,
    /// `includeObject` of tables.
    pub include: String,
}

struct Running {
    service: Arc<Service>,
    watch: Watch,
    revisions: tokio::sync::watch::Receiver<u64>,
    position: u64,
    pending: Vec<u8>,
    headed: bool,
    ended: bool,
    end: Instant,
    bookmark: Instant,
}

/// Starts a watch. What is there at the start is collected now.
pub fn stream(
    service: Arc<Service>,
    watch: Watch,
) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + Send + use<>, ApiError> {
    let revisions = service.store.revisions();
    let seconds = watch.timeout.filter(|t| *t > 0).unwrap_or(LONGEST).min(86_400);
    let now = Instant::now();
    let mut running = Running {
        position: 0,
        pending: Vec::new(),
        headed: false,
        ended: false,
        end: now + Duration::from_secs(seconds),
        bookmark: now + BOOKMARK_EVERY,
        revisions,
        service,
        watch,
    };
    running.begin()?;
    Ok(futures::stream::unfold(running, |mut running| async move {
        let chunk = running.next().await?;
        Some((Ok(chunk), running))
    }))
}

impl Running {
    fn begin(&mut self) -> Result<(), ApiError> {
        let watch = &self.watch;
        if let (Some(after), false) = (watch.after, watch.initial) {
            // What is expired is told as an event, as the real server does: the request itself was fine.
            self.position = after;
            return Ok(());
        }
        let snapshot = self
            .service
            .store
            .snapshot(&watch.kind.resource, watch.namespace.as_deref(), None)?;
        self.position = snapshot.revision;
        if !watch.initial {
            return Ok(());
        }
        for object in &snapshot.objects {
            if self.watch.selector.fits(object, &self.watch.kind) {
                self.tell("ADDED", object)?;
            }
        }
        if self.watch.mark_initial && self.watch.bookmarks {
            self.tell_bookmark(true);
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.pending.is_empty() {
                return Some(Bytes::from(std::mem::take(&mut self.pending)));
            }
            if self.ended {
                return None;
            }
            // Seen before reading, so that what is published meanwhile wakes the wait below.
            self.revisions.borrow_and_update();
            if let Err(error) = self.catch_up() {
                self.tell_error(&error);
                continue;
            }
            if !self.pending.is_empty() {
                continue;
            }
            tokio::select! {
                changed = self.revisions.changed() => self.ended |= changed.is_err(),
                () = tokio::time::sleep_until(self.end) => {
                    self.ended = true;
                    if self.watch.bookmarks {
                        self.tell_bookmark(false);
                    }
                }
                () = tokio::time::sleep_until(self.bookmark), if self.watch.bookmarks => {
                    self.bookmark = Instant::now() + BOOKMARK_EVERY;
                    self.tell_bookmark(false);
                }
            }
        }
    }

    fn catch_up(&mut self) -> Result<(), ApiError> {
        let (changes, reached) = self
            .service
            .store
            .changes(&self.watch.kind.resource, self.position)?;
        for change in &changes {
            self.tell_change(change)?;
        }
        self.position = reached;
        Ok(())
    }

    fn tell_change(&mut self, change: &Change) -> Result<(), ApiError> {
        let Watch {
            kind,
            namespace,
            selector,
            ..
        } = &self.watch;
        if namespace
            .as_ref()
            .is_some_and(|n| *n != change.object.key.namespace)
        {
            return Ok(());
        }
        let before = change.before.as_ref().filter(|o| selector.fits(o, kind)).cloned();
        let after = !change.removed && selector.fits(&change.object, kind);
        match (before, after) {
            (None, false) => Ok(()),
            (None, true) => self.tell("ADDED", &change.object),
            (Some(_), true) => self.tell("MODIFIED", &change.object),
            (Some(_), false) if change.removed => self.tell("DELETED", &change.object),
            (Some(before), false) => {
                // It left the selection: its last state in it, at the revision of the change.
                let left = before.at(change.revision)?;
                self.tell("DELETED", &left)
            }
        }
    }

    fn tell(&mut self, event: &str, object: &Object) -> Result<(), ApiError> {
        let kind = &self.watch.kind;
        let body = match self.watch.form {
            Form::Table => {
                let first = !self.headed;
                self.headed = true;
                let now = self.service.now();
                let table = rows(kind, std::iter::once(object), now, &self.watch.include, first)?;
                Bytes::from(table.to_string())
            }
            Form::Metadata => Bytes::from(metadata_only(kind, &object.value()?).to_string()),
            _ => rendered(kind, object)?,
        };
        self.push(event, &body);
        Ok(())
    }

    fn tell_bookmark(&mut self, initial_ends: bool) {
        let kind = &self.watch.kind;
        let mut metadata = json!({"resourceVersion": self.position.to_string(), "creationTimestamp": null});
        if initial_ends {
            set(
                &mut metadata,
                &["annotations"],
                json!({"k8s.io/initial-events-end": "true"}),
            );
        }
        let object = match self.watch.form {
            Form::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "columnDefinitions": [], "rows": [],
            }),
            Form::Metadata => json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            }),
            _ => bookmark(kind, &metadata),
        };
        self.push("BOOKMARK", &Bytes::from(object.to_string()));
    }

    fn tell_error(&mut self, error: &ApiError) {
        self.push("ERROR", &Bytes::from(error.to_json().to_string()));
        self.ended = true;
    }

    fn push(&mut self, event: &str, object: &Bytes) {
        self.pending.extend_from_slice(b"{\"type\":\"");
        self.pending.extend_from_slice(event.as_bytes());
        self.pending.extend_from_slice(b"\",\"object\":");
        self.pending.extend_from_slice(object);
        self.pending.extend_from_slice(b"}\n");
    }
}

fn bookmark(kind: &Kind, metadata: &Value) -> Value {
    json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata})
}
