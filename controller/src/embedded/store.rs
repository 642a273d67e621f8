//! The objects: durable in redb, served from memory with a short history.
//!
//! One thread writes. It drains what is waiting, runs each write against the state as the ones before it
//! leave it, puts everything into one redb transaction and commits; only then it publishes the new state,
//! wakes the watches and answers the writers. So what was answered is on the disk, readers never see what is
//! not, and many writers share one fsync. Every change gets a revision of its own (`resourceVersion`),
//! monotone over restarts.
//!
//! The history (for watches that resume and for paging over one snapshot) is bounded in count, bytes and
//! age, lives in memory only, and is empty after a restart: older revisions are then expired.
//!
//! It never looks into an object beyond `metadata`, and never retries a write whose outcome is in doubt:
//! the writer is told that it failed, and the truth on disk wins when the file is opened again.

mod disk;
mod history;
#[cfg(test)]
mod laws;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use disk::Disk;
pub use disk::Place;
use history::State;
pub use history::{Change, Limits, Snapshot};

/// Writes that share one commit at most.
const BATCH: usize = 512;

/// The bytes of an object at most; etcd takes as many in one request.
pub const LARGEST: usize = 1536 << 10;
/// Levels of an object at most: patches could otherwise nest what no reader takes again.
const DEEPEST: usize = 100;

/// Where an object lives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Storage name of the resource, `unifiedpools.storage.billyronks.io`.
    pub resource: Arc<str>,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// An object as it is served: its JSON, with `metadata.resourceVersion` in it.
#[derive(Debug)]
pub struct Object {
    /// Where it lives.
    pub key: Key,
    /// The revision that made it so.
    pub revision: u64,
    /// The whole object as JSON.
    pub json: Bytes,
    /// `metadata.labels`, taken out for selectors.
    pub labels: BTreeMap<String, String>,
    /// `metadata.uid`.
    pub uid: String,
    /// The uids in `metadata.ownerReferences`.
    pub owners: Vec<String>,
}

impl Object {
    fn new(key: Key, revision: u64, mut value: Value) -> Result<Self, StoreError> {
        let text = |e: serde_json::Error| StoreError::Encoding(e.to_string());
        let metadata = value
            .get_mut("metadata")
            .and_then(Value::as_object_mut)
            .ok_or_else(|| StoreError::Encoding("the object has no metadata".to_owned()))?;
        metadata.insert("resourceVersion".to_owned(), Value::String(revision.to_string()));
        let labels = labels_of(metadata.get("labels"));
        let uid = text_of(metadata.get("uid"));
        let owners = owners_of(metadata.get("ownerReferences"));
        if deeper_than(&value, DEEPEST) {
            return Err(StoreError::Encoding(format!(
                "it is nested deeper than {DEEPEST}"
            )));
        }
        let json = Bytes::from(serde_json::to_vec(&value).map_err(text)?);
        if json.len() > LARGEST {
            return Err(StoreError::TooLarge);
        }
        Ok(Self {
            key,
            revision,
            json,
            labels,
            uid,
            owners,
        })
    }

    fn from_disk(key: Key, json: Vec<u8>) -> Result<Self, StoreError> {
        let corrupt = |what: &str| StoreError::Corrupt(format!("{}/{}: {what}", key.namespace, key.name));
        let value: Value = serde_json::from_slice(&json).map_err(|e| corrupt(&e.to_string()))?;
        let metadata = value.get("metadata").ok_or_else(|| corrupt("no metadata"))?;
        let revision = metadata
            .get("resourceVersion")
            .and_then(Value::as_str)
            .and_then(|v| v.parse().ok())
            .ok_or_else(|| corrupt("no resourceVersion"))?;
        let labels = labels_of(metadata.get("labels"));
        let uid = text_of(metadata.get("uid"));
        let owners = owners_of(metadata.get("ownerReferences"));
        Ok(Self {
            key,
            revision,
            json: Bytes::from(json),
            labels,
            uid,
            owners,
        })
    }

    /// The same object under another revision.
    pub fn at(&self, revision: u64) -> Result<Self, StoreError> {
        Self::new(self.key.clone(), revision, self.value()?)
    }

    /// The object parsed again.
    pub fn value(&self) -> Result<Value, StoreError> {
        serde_json::from_slice(&self.json).map_err(|e| StoreError::Corrupt(e.to_string()))
    }
}

fn deeper_than(value: &Value, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else {
        return true;
    };
    match value {
        Value::Array(list) => list.iter().any(|item| deeper_than(item, below)),
        Value::Object(map) => map.values().any(|item| deeper_than(item, below)),
        _ => false,
    }
}

fn text_of(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn owners_of(owners: Option<&Value>) -> Vec<String> {
    let list = owners.and_then(Value::as_array).into_iter().flatten();
    list.map(|owner| text_of(owner.get("uid"))).collect()
}

fn labels_of(labels: Option<&Value>) -> BTreeMap<String, String> {
    let entries = labels.and_then(Value::as_object).into_iter().flatten();
    entries
        .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
        .collect()
}

/// Why the store could not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or made.
    #[error("cannot open {path}: {cause}")]
    Open {
        /// The file.
        path: String,
        /// The system's words.
        cause: String,
    },
    /// Another process has the file open.
    #[error("{0} is in use by another process")]
    InUse(String),
    /// The device is full; nothing was lost, and writing goes on when there is space again.
    #[error("no space left on the device that holds the store")]
    NoSpace,
    /// Writing failed otherwise.
    #[error("the store cannot write: {0}")]
    Write(String),
    /// What is on the disk cannot be understood.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// An object that cannot be written down.
    #[error("the object cannot be encoded: {0}")]
    Encoding(String),
    /// The object has more than [`LARGEST`] bytes.
    #[error("the object is larger than {LARGEST} bytes")]
    TooLarge,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The revision is older than the history.
    #[error("the revision {asked} is older than the history, which begins at {oldest}")]
    Expired {
        /// The revision asked for.
        asked: u64,
        /// The oldest one that is still known.
        oldest: u64,
    },
}

type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type Job = Box<dyn FnOnce(&mut Transaction<'_>) -> Finish + Send>;

enum Message {
    Run(Job),
    Close(oneshot::Sender<()>),
}

/// The store. Cheap to clone through an `Arc`; closing it ends the writer thread and all watches.
pub struct Store {
    state: Arc<RwLock<State>>,
    queue: mpsc::Sender<Message>,
    revisions: watch::Receiver<u64>,
    writable: Arc<AtomicBool>,
}

impl Store {
    /// Opens or makes the file, reads every object into memory and starts the writer.
    pub fn open(place: Place, limits: Limits) -> Result<Self, StoreError> {
        let disk = Disk::open(&place)?;
        let (revision, objects) = disk.load()?;
        let state = Arc::new(RwLock::new(State::new(revision, objects, limits)));
        let (queue, inbox) = mpsc::channel(BATCH * 2);
        let (published, revisions) = watch::channel(revision);
        let writable = Arc::new(AtomicBool::new(true));
        let writer = Writer {
            place,
            disk: Some(disk),
            in_doubt: Vec::new(),
            state: Arc::clone(&state),
            published,
            writable: Arc::clone(&writable),
        };
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(inbox))
            .map_err(|e| StoreError::Write(e.to_string()))?;
        Ok(Self {
            state,
            queue,
            revisions,
            writable,
        })
    }

    /// Runs `job` in the writer, and answers when what it changed is durable (or, with `dry_run`, without
    /// changing anything).
    pub async fn write<T, E, F>(&self, dry_run: bool, job: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T, E> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let run: Job = Box::new(move |transaction| {
            let outcome = job(transaction);
            if dry_run || outcome.is_err() {
                transaction.discard();
            }
            Box::new(move |committed| {
                // A refusal may rest on what others of the batch wrote: it falls with them.
                let outcome = committed.map_err(E::from).and(outcome);
                // The caller may have gone; the write stands.
                let _ = answer.send(outcome);
            })
        });
        self.queue
            .send(Message::Run(run))
            .await
            .map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// One object as it is now.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.state.read().get(key)
    }

    /// The objects of a resource (in one namespace, or all) as they are now, or were at a revision.
    pub fn snapshot(
        &self,
        resource: &str,
        namespace: Option<&str>,
        at: Option<u64>,
    ) -> Result<Snapshot, StoreError> {
        self.state.read().snapshot(resource, namespace, at)
    }

    /// What changed in a resource after a revision, and the revision up to which this is complete.
    pub fn changes(&self, resource: &str, after: u64) -> Result<(Vec<Change>, u64), StoreError> {
        self.state.read().changes(resource, after)
    }

    /// The newest published revision, to wait on. It ends when the store closes.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revisions.clone()
    }

    /// The newest published revision.
    pub fn revision(&self) -> u64 {
        // Not the watched number: it follows a moment later, and a list may have told this one already.
        self.state.read().revision()
    }

    /// Forgets the history: every revision before the present one is expired.
    pub fn forget(&self) {
        self.state.write().forget_all();
    }

    /// Whether the last write reached the disk.
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// Ends the writer after what it has begun, and closes the file.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Message::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

/// What a write sees and changes. Reads see everything written before, in this write and in the batch.
pub struct Transaction<'a> {
    state: &'a RwLock<State>,
    batch: &'a BTreeMap<Key, Option<Arc<Object>>>,
    own: BTreeMap<Key, Option<Arc<Object>>>,
    changes: Vec<Change>,
    revision: u64,
    discarded: bool,
}

impl Transaction<'_> {
    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        if let Some(staged) = self.own.get(key).or_else(|| self.batch.get(key)) {
            return staged.clone();
        }
        self.state.read().get(key)
    }

    /// The objects of a resource, in one namespace or all.
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let matches = |key: &Key| &*key.resource == resource && namespace.is_none_or(|n| key.namespace == n);
        let mut found: BTreeMap<Key, Arc<Object>> =
            match self.state.read().snapshot(resource, namespace, None) {
                Ok(snapshot) => snapshot.objects.into_iter().map(|o| (o.key.clone(), o)).collect(),
                Err(_) => BTreeMap::new(),
            };
        for (key, staged) in self.batch.iter().chain(&self.own).filter(|(key, _)| matches(key)) {
            match staged {
                Some(object) => found.insert(key.clone(), Arc::clone(object)),
                None => found.remove(key),
            };
        }
        found.into_values().collect()
    }

    /// The objects of every resource in one namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<Object>> {
        self.every(&|object| object.key.namespace == namespace)
    }

    /// The uids of what this write removed after its first `seen` changes, and how many changes it has made.
    pub fn removed_after(&self, seen: usize) -> (Vec<String>, usize) {
        let removed = self.changes.iter().skip(seen).filter(|change| change.removed);
        (
            removed.map(|change| change.object.uid.clone()).collect(),
            self.changes.len(),
        )
    }

    /// Every object that fits.
    pub fn every(&self, fits: &dyn Fn(&Object) -> bool) -> Vec<Arc<Object>> {
        let mut found = self.state.read().every(fits);
        for (key, staged) in self.batch.iter().chain(&self.own) {
            match staged {
                Some(object) if fits(object) => found.insert(key.clone(), Arc::clone(object)),
                _ => found.remove(key),
            };
        }
        found.into_values().collect()
    }

    /// Makes or replaces an object; its `resourceVersion` is set.
    pub fn put(&mut self, key: Key, value: Value) -> Result<Arc<Object>, StoreError> {
        let object = Arc::new(Object::new(key.clone(), self.revision + 1, value)?);
        self.record(key, Arc::clone(&object), false);
        Ok(object)
    }

    /// Removes an object whose last state is `last`; answers it, with the revision of the removal.
    pub fn remove(&mut self, key: Key, last: Value) -> Result<Arc<Object>, StoreError> {
        let last = Arc::new(Object::new(key.clone(), self.revision + 1, last)?);
        self.record(key, Arc::clone(&last), true);
        Ok(last)
    }

    fn record(&mut self, key: Key, object: Arc<Object>, removed: bool) {
        self.revision += 1;
        let before = self.get(&key);
        self.own.insert(key, (!removed).then(|| Arc::clone(&object)));
        self.changes.push(Change {
            revision: self.revision,
            before,
            object,
            removed,
        });
    }

    fn discard(&mut self) {
        self.discarded = true;
    }
}

struct Writer {
    place: Place,
    disk: Option<Disk>,
    /// Changes whose commit failed in a way that leaves open whether they are on the disk.
    in_doubt: Vec<Change>,
    state: Arc<RwLock<State>>,
    published: watch::Sender<u64>,
    writable: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        while let Some(first) = inbox.blocking_recv() {
            let mut jobs = Vec::new();
            let mut closing = None;
            let mut next = Some(first);
            while let Some(message) = next.take() {
                match message {
                    Message::Run(job) => jobs.push(job),
                    Message::Close(done) => closing = Some(done),
                }
                if closing.is_none() && jobs.len() < BATCH {
                    next = inbox.try_recv().ok();
                }
            }
            self.batch(jobs);
            if let Some(done) = closing {
                inbox.close();
                self.disk = None;
                drop(self);
                let _ = done.send(());
                return;
            }
        }
    }

    fn batch(&mut self, jobs: Vec<Job>) {
        // First, because a commit in doubt decides what the jobs must see.
        let opened = self.reopen();
        let mut staged = BTreeMap::new();
        let mut changes: Vec<Change> = Vec::new();
        let mut finishes = Vec::with_capacity(jobs.len());
        let mut revision = *self.published.borrow();
        for job in jobs {
            let mut transaction = Transaction {
                state: &self.state,
                batch: &staged,
                own: BTreeMap::new(),
                changes: Vec::new(),
                revision,
                discarded: false,
            };
            let finish = job(&mut transaction);
            let Transaction {
                own,
                changes: made,
                revision: reached,
                discarded,
                ..
            } = transaction;
            // What rests on others' changes is answered with their fate.
            let rests = !staged.is_empty();
            let changed = !discarded && !made.is_empty();
            if changed {
                staged.extend(own);
                changes.extend(made);
                revision = reached;
            }
            finishes.push((finish, changed || rests));
        }
        let committed = match opened {
            _ if changes.is_empty() => Ok(()),
            Ok(()) => self.commit(&changes, revision),
            Err(error) => Err(error),
        };
        if committed.is_ok() && !changes.is_empty() {
            self.publish(changes, revision);
        }
        for (finish, bound) in finishes {
            finish(if bound { committed.clone() } else { Ok(()) });
        }
    }

    fn commit(&mut self, changes: &[Change], revision: u64) -> Result<(), StoreError> {
        let Some(disk) = &self.disk else {
            return Err(StoreError::Closed);
        };
        let outcome = disk.commit(changes, revision);
        if let Err(error) = &outcome {
            tracing::error!(error = %error, store = self.place.name(), "store write failed");
            // redb refuses everything after a failed write until the file is opened again.
            self.disk = None;
            self.in_doubt = changes.to_vec();
            self.writable.store(false, Ordering::Relaxed);
        }
        outcome
    }

    fn publish(&mut self, changes: Vec<Change>, revision: u64) {
        self.state.write().publish(changes, revision);
        self.published.send_replace(revision);
        self.writable.store(true, Ordering::Relaxed);
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        if self.disk.is_some() {
            return Ok(());
        }
        let disk = Disk::open(&self.place)?;
        let on_disk = disk.revision()?;
        self.disk = Some(disk);
        let changes = std::mem::take(&mut self.in_doubt);
        if changes.last().is_some_and(|c| c.revision == on_disk) {
            self.publish(changes, on_disk);
        }
        Ok(())
    }
}
