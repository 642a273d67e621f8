//! The use cases behind REST and gRPC, once for both: ask for storage, list, grow and delete it, renew its
//! credentials; look at nodes, pools, classes and capacity; watch.
//!
//! A request becomes an object before it is acknowledged, and everything that is answered is read from objects. This
//! module never places, never provisions and never talks to a storage system or an agent itself: what it needs of
//! them comes in as [`DryRun`], [`CredentialRotation`] and [`Agents`].

#[cfg(test)]
pub(crate) mod bed;
pub mod capacity;
pub mod error;
mod fields;
mod fleet;
mod listing;
pub(crate) mod lookup;
mod names;
pub mod request;
mod storage;
pub mod view;
pub mod watch;

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::{
    error::{ErrorKind, FieldError, ServiceError},
    listing::PageRequest,
    request::{CreateDraft, CreateStorage, StorageFilter},
    storage::{Created, Deletion},
};
use crate::crd::{
    PoolMember, StorageNode, UnifiedPool, UnifiedStorageClaim, UnifiedStorageClaimSpec, UnifiedStorageClass,
    UnifiedVolume,
};

/// Where a request would be placed now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DryRunPlacement {
    /// The class; empty where a pool was found without one.
    pub class: String,
    /// mayastor, seaweedfs or rustfs.
    pub backend: String,
    /// The pool.
    pub pool: String,
}

/// Asks placement without promising anything.
pub trait DryRun: Send + Sync {
    /// Where `claim` would go now, or every reason why it would wait.
    fn dry_run<'a>(
        &'a self,
        claim: &'a UnifiedStorageClaimSpec,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<DryRunPlacement, Vec<String>>>;
}

/// Fresh credentials of one volume. Shown once, never logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "Credentials")]
pub struct NewCredentials {
    /// The S3 access key.
    pub access_key: String,
    /// The S3 secret key; this answer is the only one that ever holds it.
    pub secret_key: String,
    /// URL of the S3 endpoint.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// Bearer token for reading the volume through the filer's HTTP, good for twelve hours; missing where the filer
    /// asks for none. One that was given before is good until its own end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filer_token: Option<String>,
}

impl std::fmt::Debug for NewCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewCredentials")
            .field("access_key", &self.access_key)
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

/// Why credentials were not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// This type of storage, or its backend, has no credentials of its own.
    #[error("{0}")]
    NotSupported(String),
    /// Not yet: the volume has no identity on its backend so far.
    #[error("{0}")]
    NotReady(String),
    /// The backend did not do it; the old credentials may still hold.
    #[error("{0}")]
    Unavailable(String),
}

/// Makes new credentials of a volume on its backend and revokes the old ones.
pub trait CredentialRotation: Send + Sync {
    /// The new credentials; when this returns, the old ones no longer work.
    fn rotate<'a>(&'a self, volume: &'a UnifiedVolume) -> BoxFuture<'a, Result<NewCredentials, RotateError>>;
}

/// The node's agent has no live stream, or did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct AgentAway {
    /// What is known of it, in words.
    pub reason: String,
}

/// The agents' streams.
pub trait Agents: Send + Sync {
    /// Lets the node's agent probe every drive now; returns when the result is in the StorageNode's status.
    fn probe_now<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), AgentAway>>;
}

/// Which claim an id may stand for, known without reading them all. What it answers may be a moment old.
pub trait ClaimFinder: Send + Sync {
    /// Namespace and name.
    fn claim_of<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Option<(String, String)>>;
}

/// Whether this process can serve, as `/readyz` says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Health {
    /// Whether requests are served well now.
    pub ready: bool,
    /// Where not: every reason in words.
    pub reasons: Vec<String>,
}

/// What a [`Service`] is made of.
#[derive(Clone)]
pub struct Parts {
    /// The Kubernetes API, or the embedded one.
    pub client: Client,
    /// Placement without a promise.
    pub dry_run: Arc<dyn DryRun>,
    /// Credentials on the backends.
    pub credentials: Arc<dyn CredentialRotation>,
    /// The agents' streams.
    pub agents: Arc<dyn Agents>,
    /// The claims by their ids.
    pub finder: Arc<dyn ClaimFinder>,
    /// The time, for the ids that are minted.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// How long the answer to a request waits for the first verdict on it, so that a Pending one says why.
    pub first_look: Duration,
    /// Readiness.
    pub health: Arc<dyn Fn() -> Health + Send + Sync>,
    /// Cancelled when the process goes down: waits and watches end.
    pub shutdown: CancellationToken,
}

/// The use cases. Cheap to share behind an `Arc`.
pub struct Service {
    parts: Parts,
}

impl Service {
    /// A service over `parts`.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts }
    }

    /// Readiness of this process, with the reasons.
    #[must_use]
    pub fn health(&self) -> Health {
        (self.parts.health)()
    }

    /// Cancelled when the process goes down.
    #[must_use]
    pub fn shutdown(&self) -> &CancellationToken {
        &self.parts.shutdown
    }

    fn claims(&self, namespace: Option<&str>) -> Api<UnifiedStorageClaim> {
        let client = self.parts.client.clone();
        namespace.map_or_else(
            || Api::all(client.clone()),
            |namespace| Api::namespaced(client.clone(), namespace),
        )
    }

    fn volumes(&self) -> Api<UnifiedVolume> {
        Api::all(self.parts.client.clone())
    }

    fn classes(&self) -> Api<UnifiedStorageClass> {
        Api::all(self.parts.client.clone())
    }

    fn nodes(&self) -> Api<StorageNode> {
        Api::all(self.parts.client.clone())
    }

    fn pools(&self) -> Api<UnifiedPool> {
        Api::all(self.parts.client.clone())
    }

    fn members(&self) -> Api<PoolMember> {
        Api::all(self.parts.client.clone())
    }

    /// A volume's name that sorts by the time at which it was made.
    fn mint_id(&self) -> String {
        let now = (self.parts.clock)();
        let since_epoch = Duration::from_millis(u64::try_from(now.as_millisecond()).unwrap_or_default());
        let time =
            uuid::Timestamp::from_unix(uuid::NoContext, since_epoch.as_secs(), since_epoch.subsec_nanos());
        format!("uv-{}", Uuid::new_v7(time))
    }
}
