//! Every change of claims or nodes as a stream: what is there first, then what happens, each with a token (the
//! object's resourceVersion) from which a broken stream goes on.
//!
//! While the first list is told the token is empty: a stream that broke there starts again. A token that the API no
//! longer knows ends the stream with `Expired`.

use std::{fmt::Debug, time::Duration};

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use kube::{
    Api, Resource,
    api::{WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    Service,
    error::{ErrorKind, ServiceError},
    listing::list_with_version,
    names::is_dns_label,
    view::{Node, Storage},
};
use crate::crd::{StorageNode, UnifiedStorageClaim};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It is there, or came to be.
    Added,
    /// It changed.
    Modified,
    /// It is gone.
    Deleted,
    /// Nothing: only the token moved on.
    Bookmark,
}

impl EventKind {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Modified => "modified",
            Self::Deleted => "deleted",
            Self::Bookmark => "bookmark",
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<T> {
    /// What happened.
    pub kind: EventKind,
    /// To what; none for a bookmark.
    pub item: Option<T>,
    /// Goes on after this event; empty while the first list is told.
    pub resume_token: String,
}

/// A stream of events that ends with the first error.
pub type Events<T> = std::pin::Pin<Box<dyn Stream<Item = Result<Event<T>, ServiceError>> + Send>>;

/// Events that wait for a slow reader before the API's own stream waits.
const BUFFER: usize = 64;
/// Failures in a row after which the reader is told.
const PATIENCE: u32 = 5;

impl Service {
    /// Every change of claims, in one namespace or in all.
    ///
    /// # Errors
    /// `Invalid` where namespace or token cannot be any.
    pub fn watch_storage(
        &self,
        namespace: Option<&str>,
        resume_token: &str,
    ) -> Result<Events<Storage>, ServiceError> {
        if namespace.is_some_and(|n| !is_dns_label(n)) {
            return Err(ServiceError::field("namespace", "must be a namespace's name"));
        }
        let api = self.claims(namespace);
        self.watch(api, resume_token, |claim: &UnifiedStorageClaim| {
            Storage::of_claim(claim, None, None)
        })
    }

    /// Every change of nodes.
    ///
    /// # Errors
    /// `Invalid` where the token cannot be any.
    pub fn watch_nodes(&self, resume_token: &str) -> Result<Events<Node>, ServiceError> {
        self.watch(self.nodes(), resume_token, |node: &StorageNode| Node::from(node))
    }

    fn watch<K, T>(
        &self,
        api: Api<K>,
        resume_token: &str,
        view: fn(&K) -> T,
    ) -> Result<Events<T>, ServiceError>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
        T: Send + 'static,
    {
        if resume_token.len() > 20 || !resume_token.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ServiceError::field("resume_token", "is not a token of an event"));
        }
        let (events, receiver) = mpsc::channel(BUFFER);
        let mut follower = Follower {
            api,
            view,
            events,
            version: resume_token.to_owned(),
        };
        let shutdown = self.shutdown().clone();
        tokio::spawn(async move { follower.run(&shutdown).await });
        Ok(ReceiverStream::new(receiver).boxed())
    }
}

/// Nobody listens any more.
struct Gone;

struct Follower<K, T> {
    api: Api<K>,
    view: fn(&K) -> T,
    events: mpsc::Sender<Result<Event<T>, ServiceError>>,
    version: String,
}

impl<K, T> Follower<K, T>
where
    K: Resource + Clone + Debug + DeserializeOwned,
    T: Send,
{
    async fn run(&mut self, shutdown: &CancellationToken) {
        let events = self.events.clone();
        tokio::select! {
            () = self.follow() => {}
            () = events.closed() => {}
            () = shutdown.cancelled() => {
                let error = ServiceError::unavailable("The server goes down.", Vec::new(), Duration::from_secs(1));
                // A reader that does not read is not waited for.
                let _ = events.try_send(Err(error));
            }
        }
    }

    async fn follow(&mut self) {
        let mut failures = 0;
        loop {
            let before = self.version.clone();
            let outcome = if self.version.is_empty() {
                self.tell_first().await
            } else {
                self.tell_changes().await
            };
            match outcome {
                Ok(Ok(())) => failures = 0,
                Ok(Err(Gone)) => return,
                Err(error) if error.kind == ErrorKind::Unavailable && failures < PATIENCE => {
                    failures = if self.version == before { failures + 1 } else { 0 };
                    tokio::time::sleep(Duration::from_millis(200) * 2_u32.pow(failures)).await;
                }
                Err(error) => {
                    // The reader may be gone already: then nobody has to know.
                    let _ = self.events.send(Err(error)).await;
                    return;
                }
            }
        }
    }

    async fn send(&self, kind: EventKind, item: Option<T>, token: &str) -> Result<(), Gone> {
        let event = Event {
            kind,
            item,
            resume_token: token.to_owned(),
        };
        self.events.send(Ok(event)).await.map_err(|_| Gone)
    }

    async fn tell_first(&mut self) -> Result<Result<(), Gone>, ServiceError> {
        let (items, version) = list_with_version(&self.api, "").await?;
        for item in &items {
            if self
                .send(EventKind::Added, Some((self.view)(item)), "")
                .await
                .is_err()
            {
                return Ok(Err(Gone));
            }
        }
        let told = self.send(EventKind::Bookmark, None, &version).await;
        self.version = version;
        Ok(told)
    }

    async fn tell_changes(&mut self) -> Result<Result<(), Gone>, ServiceError> {
        let params = WatchParams::default().timeout(280);
        let mut changes = self.api.watch(&params, &self.version).await?.boxed();
        while let Some(change) = changes.try_next().await? {
            let (kind, item) = match change {
                WatchEvent::Added(item) => (EventKind::Added, item),
                WatchEvent::Modified(item) => (EventKind::Modified, item),
                WatchEvent::Deleted(item) => (EventKind::Deleted, item),
                WatchEvent::Bookmark(bookmark) => {
                    self.version = bookmark.metadata.resource_version;
                    if self.send(EventKind::Bookmark, None, &self.version).await.is_err() {
                        return Ok(Err(Gone));
                    }
                    continue;
                }
                WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
            };
            self.version = item.meta().resource_version.clone().unwrap_or_default();
            let told = self.send(kind, Some((self.view)(&item)), &self.version).await;
            if told.is_err() {
                return Ok(Err(Gone));
            }
        }
        Ok(Ok(()))
    }
}
