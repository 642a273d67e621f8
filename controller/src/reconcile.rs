//! The reconcilers: one file a kind. Each looks at what is wanted and what is seen, lets `smart-storage-core` decide,
//! and carries the decision out with effects that may be repeated.
//!
//! * Every reconciler is woken by its own objects, by the objects it looks at, and by the agents' news; nothing polls,
//!   but for the backends' health. What it writes into its own status does not wake it.
//! * A status is written only where it differs, always with the resourceVersion that was read.
//! * Intent before effect: a claim's placement is a UnifiedVolume before a backend is called, a drive's claim is a
//!   PoolMember before its agent is told.
//! * Nothing here writes to a drive, and nothing here decides.

mod allocator;
mod backends;
#[cfg(test)]
mod bed;
mod claim;
mod class;
mod context;
mod convert;
mod credentials;
mod finalizer;
mod leftovers;
mod member;
mod node;
mod plan;
mod pool;
mod volume;
mod waiting;

use std::{
    fmt::Debug,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt as _, future::BoxFuture};
use jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ObjectMeta, PostParams},
    runtime::{
        Controller, PredicateConfig, WatchStreamExt as _,
        controller::{self, Action},
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::{BroadcastStream, UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;

use self::context::Refusal;
pub use self::{
    allocator::Allocator,
    backends::Backends,
    context::{Context, Process},
    credentials::Rotation,
    plan::{Planner, Refused},
};
use crate::crd::{
    PoolMember, StorageNode, UnifiedPool, UnifiedStorageClaim, UnifiedStorageClass, UnifiedVolume,
};

/// What went wrong in a reconcile. Everything here is tried again, later each time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached.
    #[error("the API server: {0}")]
    Kube(#[source] Box<kube::Error>),
    /// Somebody else changed the object first: read again.
    #[error("changed meanwhile by somebody else")]
    Conflict,
    /// The backend could not do it.
    #[error("{0}")]
    Backend(String),
    /// Nothing is promised on a pool that goes, for ever: its deletion is never taken back.
    #[error("pool {0} is being deleted")]
    PoolGoes(String),
    /// An object misses what every object has.
    #[error("the object has no {0}")]
    Incomplete(&'static str),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict" => Self::Conflict,
            _ => Self::Kube(Box::new(error)),
        }
    }
}

/// Whether an API error says that the object is not there.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether an API error says that the object is there already.
pub(crate) fn is_already_there(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists")
}

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The objects of every kind, as last seen.
#[derive(Clone)]
pub struct Stores {
    /// Classes.
    pub classes: Store<UnifiedStorageClass>,
    /// Nodes.
    pub nodes: Store<StorageNode>,
    /// Pools.
    pub pools: Store<UnifiedPool>,
    /// Members.
    pub members: Store<PoolMember>,
    /// Claims.
    pub claims: Store<UnifiedStorageClaim>,
    /// Volumes.
    pub volumes: Store<UnifiedVolume>,
}

/// Which object changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A class.
    Class(String),
    /// A StorageNode object, by the node's name.
    Node(String),
    /// An agent's news, by node name.
    Agent(String),
    /// A pool.
    Pool(String),
    /// A member.
    Member {
        /// Its object name.
        name: String,
        /// Its pool.
        pool: String,
        /// Its node.
        node: String,
    },
    /// A claim.
    Claim {
        /// Its uid.
        uid: String,
        /// The volume it names, where it does.
        volume: Option<String>,
    },
    /// A volume.
    Volume {
        /// Its name.
        name: String,
        /// Its pool.
        pool: String,
        /// Namespace of its claim.
        namespace: String,
        /// Name of its claim.
        claim: String,
    },
    /// What is asked of a pool: its spec.
    Wishes(String),
    /// An order to a member's agent ended, by the member's object name.
    Order(String),
    /// On the backend of a pool something was left behind on purpose.
    Leftovers(String),
    /// New credentials were written for a volume.
    Rotated(String),
}

/// Starts one watch a kind and keeps the stores current; every change is told on the channel after the store has it.
///
/// # Errors
/// Where the first lists do not arrive.
pub async fn watch(
    client: &Client,
    changes: &broadcast::Sender<Change>,
    stop: &CancellationToken,
) -> Result<Stores, Error> {
    let stores = Stores {
        classes: follow(client, changes, stop, |o: &UnifiedStorageClass| {
            Change::Class(o.name_any())
        }),
        nodes: follow(client, changes, stop, |o: &StorageNode| {
            Change::Node(o.spec.node_name.clone())
        }),
        pools: follow(client, changes, stop, |o: &UnifiedPool| {
            Change::Pool(o.name_any())
        }),
        members: follow(client, changes, stop, |o: &PoolMember| Change::Member {
            name: o.name_any(),
            pool: o.spec.pool.clone(),
            node: o.spec.node_name.clone(),
        }),
        claims: follow(client, changes, stop, |o: &UnifiedStorageClaim| Change::Claim {
            uid: o.uid().unwrap_or_default(),
            volume: o
                .status
                .as_ref()
                .and_then(|s| s.volume_name.clone())
                .or_else(|| o.spec.volume_name.clone()),
        }),
        volumes: follow(client, changes, stop, |o: &UnifiedVolume| Change::Volume {
            name: o.name_any(),
            pool: o.spec.placement.pool.clone(),
            namespace: o.spec.claim_ref.namespace.clone(),
            claim: o.spec.claim_ref.name.clone(),
        }),
    };
    let ready = async {
        stores.classes.wait_until_ready().await?;
        stores.nodes.wait_until_ready().await?;
        stores.pools.wait_until_ready().await?;
        stores.members.wait_until_ready().await?;
        stores.claims.wait_until_ready().await?;
        stores.volumes.wait_until_ready().await
    };
    ready
        .await
        .map_err(|_| Error::Incomplete("watch: it ended before its first list"))?;
    Ok(stores)
}

fn follow<K>(
    client: &Client,
    changes: &broadcast::Sender<Change>,
    stop: &CancellationToken,
    tell: impl Fn(&K) -> Change + Send + 'static,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let stream = watcher(Api::<K>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .touched_objects();
    let (changes, stop) = (changes.clone(), stop.clone());
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream.take_until(stop.cancelled_owned()));
        while let Some(item) = stream.next().await {
            match item {
                Ok(object) => {
                    // Nobody listening is no error: the stores are current all the same.
                    let _ = changes.send(tell(&object));
                }
                Err(error) => tracing::warn!(%error, kind = %K::kind(&()), "watch broken, will be resumed"),
            }
        }
    });
    reader
}

/// Runs every reconciler until `stop`.
pub async fn run(context: Arc<Context>, changes: &broadcast::Sender<Change>, stop: &CancellationToken) {
    let c = &context;
    let mut running: Vec<BoxFuture<'static, ()>> = vec![
        control("node", c, stop, node::reconcile, wake(changes, c, node::concerns)),
        control("pool", c, stop, pool::reconcile, wake(changes, c, pool::concerns)),
        control(
            "member",
            c,
            stop,
            member::reconcile,
            wake(changes, c, member::concerns),
        ),
        control(
            "class",
            c,
            stop,
            class::reconcile,
            wake(changes, c, class::concerns),
        ),
        control(
            "volume",
            c,
            stop,
            volume::reconcile,
            wake(changes, c, volume::concerns),
        ),
    ];
    running.extend(serve_claims(c, changes, stop));
    futures::future::join_all(running).await;
}

/// What gives claims their volumes: their reconciler, the line in which they wait, and the count of what is promised.
fn serve_claims(
    context: &Arc<Context>,
    changes: &broadcast::Sender<Change>,
    stop: &CancellationToken,
) -> [BoxFuture<'static, ()>; 3] {
    let (woken, line) = mpsc::unbounded_channel();
    let waiting = waiting::follow(Arc::clone(context), changes.subscribe(), woken, stop.clone());
    let wake = futures::stream::select(
        wake(changes, context, claim::concerns),
        UnboundedReceiverStream::new(line),
    );
    [
        control("claim", context, stop, claim::reconcile, wake),
        Box::pin(waiting),
        Box::pin(Arc::clone(&context.allocator).keep_counted(stop.clone())),
    ]
}

/// The objects that a reconciler has to look at again after a change. A reader that fell behind looks at everything.
fn wake<K>(
    changes: &broadcast::Sender<Change>,
    context: &Context,
    concerns: fn(Option<&Change>, &Stores) -> Vec<ObjectRef<K>>,
) -> impl Stream<Item = ObjectRef<K>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Send + 'static,
{
    let stores = context.stores.clone();
    BroadcastStream::new(changes.subscribe())
        .flat_map(move |change| futures::stream::iter(concerns(change.ok().as_ref(), &stores)))
}

fn control<K, F>(
    kind: &'static str,
    context: &Arc<Context>,
    stop: &CancellationToken,
    reconcile: impl Fn(Arc<K>, Arc<Context>) -> F + Clone + Send + Sync + 'static,
    wake: impl Stream<Item = ObjectRef<K>> + Send + 'static,
) -> BoxFuture<'static, ()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let stop = stop.clone().cancelled_owned();
    // Bursts of changes of one object are one look at it.
    let settings = controller::Config::default()
        .debounce(DEBOUNCE)
        .concurrency(AT_ONCE);
    let (reader, writer) = reflector::store();
    let own = watcher(Api::<K>::all(context.client.clone()), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .touched_objects()
        .predicate_filter(asked::<K>, PredicateConfig::default());
    let controller = Controller::for_stream(own, reader).with_config(settings);
    let measured = move |object: Arc<K>, context: Arc<Context>| {
        let (reconcile, started) = (reconcile.clone(), context.now());
        async move {
            let key = format!(
                "{kind}/{}/{}",
                object.namespace().unwrap_or_default(),
                object.name_any()
            );
            let result = reconcile(object, Arc::clone(&context)).await;
            let outcome = match &result {
                Ok(_) => "ok",
                Err(Error::Conflict) => "conflict",
                Err(_) => "error",
            };
            context
                .metrics
                .reconciled(kind, outcome, context.now().duration_since(started).as_secs_f64());
            match result {
                Ok(action) => {
                    context.succeeded(&key);
                    Ok(action)
                }
                Err(Error::Conflict) => Ok(Action::requeue(Duration::from_millis(50))),
                Err(error) => {
                    let after = context.back_off(&key);
                    tracing::warn!(%error, object = %key, retry_seconds = after.as_secs_f64(), "reconcile failed");
                    Ok(Action::requeue(after))
                }
            }
        }
    };
    Box::pin(
        controller
            .reconcile_on(wake)
            .graceful_shutdown_on(stop)
            .run(
                measured,
                |_, _: &std::convert::Infallible, _| Action::await_change(),
                Arc::clone(context),
            )
            .for_each(|_| async {}),
    )
}

/// What others ask of an object, as one number: its status, which is ours, is not in it.
fn asked<K: Resource>(object: &K) -> Option<u64> {
    let meta = object.meta();
    let mut hasher = DefaultHasher::new();
    meta.generation.hash(&mut hasher);
    meta.deletion_timestamp.is_some().hash(&mut hasher);
    meta.finalizers.hash(&mut hasher);
    meta.annotations.hash(&mut hasher);
    meta.labels.hash(&mut hasher);
    Some(hasher.finish())
}

/// Publishes a node's status now, for somebody who waits for it.
///
/// # Errors
/// Where the API cannot be reached, or others change the object all the time.
pub async fn publish_node(context: &Arc<Context>, name: &str) -> Result<(), Error> {
    let nodes = context.stores.nodes.state();
    let object = nodes.into_iter().find(|node| node.spec.node_name == name);
    let object = object.ok_or(Error::Incomplete("StorageNode"))?;
    for _ in 0..PUBLISH_TRIES {
        match node::reconcile(Arc::clone(&object), Arc::clone(context)).await {
            Err(Error::Conflict) => {}
            result => return result.map(|_| ()),
        }
    }
    Err(Error::Conflict)
}

const DEBOUNCE: Duration = Duration::from_millis(20);
/// Reconciles of one kind at the same time: a hundred claims do not ask the backend a hundred things at once.
const AT_ONCE: u16 = 16;
const PUBLISH_TRIES: usize = 5;

/// The object as it is now, where it is still there and still the one that was `seen`. What a watch has brought may be
/// older than our own last write, and a status that equals that older one would stay wrong for ever.
async fn live<K>(api: &Api<K>, seen: &K) -> Result<Option<K>, Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let live = api.get_opt(&seen.name_any()).await?;
    Ok(live.filter(|live| live.uid() == seen.uid()))
}

/// Writes a status where it differs, with the resourceVersion that was read.
async fn publish<K, S>(api: &Api<K>, object: &K, old: Option<&S>, new: &S) -> Result<bool, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
    S: Serialize + PartialEq,
{
    if old == Some(new) {
        return Ok(false);
    }
    let mut value =
        serde_json::to_value(object).map_err(|e| Error::Kube(Box::new(kube::Error::SerdeError(e))))?;
    let status = serde_json::to_value(new).map_err(|e| Error::Kube(Box::new(kube::Error::SerdeError(e))))?;
    if let Some(map) = value.as_object_mut() {
        map.insert("status".to_owned(), status);
    }
    let object: K =
        serde_json::from_value(value).map_err(|e| Error::Kube(Box::new(kube::Error::SerdeError(e))))?;
    api.replace_status(&object.name_any(), &PostParams::default(), &object)
        .await?;
    crate::fault::point("status-published");
    Ok(true)
}

/// Metadata of an object that the operator makes.
fn owned_meta(name: &str, labels: &[(&str, &str)], finalizer: bool) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(
            labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        ),
        finalizers: finalizer.then(|| vec![crate::crd::FINALIZER.to_owned()]),
        ..ObjectMeta::default()
    }
}

/// References to every object of a store.
fn every<K>(store: &Store<K>) -> Vec<ObjectRef<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
    K::DynamicType: Hash + Eq,
{
    store
        .state()
        .iter()
        .map(|object| ObjectRef::from_obj(object.as_ref()))
        .collect()
}
