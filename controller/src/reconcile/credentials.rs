//! Each volume's own keys, once the volume itself is there and is the claim's: a Secret first, then the backend's
//! identity, so that a crash in between heals.
//!
//! The Secret lies in the claim's namespace under the volume's name; keys are never anywhere else: no status, no event,
//! no log.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use futures::future::BoxFuture;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use tokio::sync::broadcast;

use super::{Backends, Change, Error, Stores, backends::backend, is_already_there, is_not_found};
use crate::{
    backend::{
        Backend, Credentials,
        seaweedfs::{Part, PartHealth},
    },
    crd::{LABEL_ID, UnifiedPool, UnifiedVolume},
    service::{CredentialRotation, NewCredentials, RotateError},
};

const ACCESS_KEY: &str = "access_key";
const SECRET_KEY: &str = "secret_key";
const FILER_TOKEN: &str = "filer_token";

fn secret_of(volume: &UnifiedVolume, keys: &Credentials, token: Option<&str>) -> Secret {
    let data = [
        (ACCESS_KEY, Some(keys.access_key.as_str())),
        (SECRET_KEY, Some(keys.secret_key.as_str())),
        (FILER_TOKEN, token),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(volume.name_any()),
            namespace: Some(volume.spec.claim_ref.namespace.clone()),
            labels: Some(BTreeMap::from([(LABEL_ID.to_owned(), volume.name_any())])),
            ..ObjectMeta::default()
        },
        data: Some(
            data.into_iter()
                .filter_map(|(k, v)| Some((k.to_owned(), ByteString(v?.as_bytes().to_vec()))))
                .collect(),
        ),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone())
        .ok()
        .filter(|t| !t.is_empty())
}

fn keys_of(secret: &Secret) -> Option<Credentials> {
    Some(Credentials {
        access_key: text(secret, ACCESS_KEY)?,
        secret_key: text(secret, SECRET_KEY)?,
    })
}

/// The volume's keys from its Secret, which is made where it is missing or holds none. Its filer token is renewed there
/// long before it ends.
pub(super) async fn ensure(
    client: &Client,
    volume: &UnifiedVolume,
    backend: &Backend,
    now: SystemTime,
) -> Result<Credentials, Error> {
    let api = Api::<Secret>::namespaced(client.clone(), &volume.spec.claim_ref.namespace);
    let name = volume.name_any();
    let found = api.get_opt(&name).await?;
    let old = found.as_ref().and_then(|secret| text(secret, FILER_TOKEN));
    let token = backend.filer_token(&name, old.as_deref(), now);
    let keys = match found.as_ref().and_then(keys_of) {
        Some(keys) if token == old => return Ok(keys),
        Some(keys) => keys,
        None => Credentials::generate().map_err(|error| Error::Backend(error.to_string()))?,
    };
    let mut secret = secret_of(volume, &keys, token.as_deref());
    let written = match found {
        Some(found) => {
            secret.metadata.resource_version = found.metadata.resource_version;
            api.replace(&name, &PostParams::default(), &secret).await
        }
        None => api.create(&PostParams::default(), &secret).await,
    };
    match written {
        Ok(_) => Ok(keys),
        Err(error) if is_already_there(&error) => Err(Error::Conflict),
        Err(error) => Err(error.into()),
    }
}

/// Removes the volume's Secret.
pub(super) async fn remove(client: &Client, volume: &UnifiedVolume) -> Result<(), Error> {
    let api = Api::<Secret>::namespaced(client.clone(), &volume.spec.claim_ref.namespace);
    match api.delete(&volume.name_any(), &DeleteParams::default()).await {
        Err(error) if !is_not_found(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Makes new keys of a volume and revokes the old ones.
pub struct Rotation {
    client: Client,
    stores: Stores,
    backends: Arc<Backends>,
    changes: broadcast::Sender<Change>,
    /// One at a time: the Secret and the identity must end with the same keys.
    turn: tokio::sync::Mutex<()>,
}

impl Rotation {
    /// Rotation over these backends.
    #[must_use]
    pub fn new(
        client: Client,
        stores: Stores,
        backends: Arc<Backends>,
        changes: broadcast::Sender<Change>,
    ) -> Self {
        Self {
            client,
            stores,
            backends,
            changes,
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// Whether the volume is the claim's and stays: only then are there keys for it.
    async fn is_whole(&self, volume: &UnifiedVolume) -> Result<(), RotateError> {
        let api = Api::<UnifiedVolume>::all(self.client.clone());
        let live = api
            .get_opt(&volume.name_any())
            .await
            .map_err(|error| RotateError::Unavailable(error.to_string()))?
            .filter(|live| live.uid() == volume.uid() && live.metadata.deletion_timestamp.is_none());
        let Some(live) = live else {
            return Err(RotateError::NotReady("it is being deleted".to_owned()));
        };
        let provisioned = live.status.is_some_and(|status| status.handle.is_some());
        provisioned.then_some(()).ok_or_else(|| {
            RotateError::NotReady("it has no credentials yet: wait until it is Ready".to_owned())
        })
    }

    async fn renew(&self, volume: &UnifiedVolume) -> Result<NewCredentials, RotateError> {
        let unavailable = |error: &dyn std::fmt::Display| RotateError::Unavailable(error.to_string());
        let pool: Option<Arc<UnifiedPool>> = self
            .stores
            .pools
            .state()
            .into_iter()
            .find(|pool| pool.name_any() == volume.spec.placement.pool);
        let pool = pool.ok_or_else(|| RotateError::NotReady("its pool does not exist".to_owned()))?;
        let adapter = self
            .backends
            .of_pool(&pool)
            .map_err(|(_, words)| RotateError::NotSupported(words))?;
        // Nothing is changed for somebody who cannot be told: the old keys go on, in the Secret as well.
        if let PartHealth::Failing(reason) = adapter.filer_health().await {
            let words = format!(
                "{} at {}: {reason}; the present credentials go on, ask again once it answers",
                Part::Filer,
                adapter.endpoints().filer
            );
            return Err(RotateError::Unavailable(words));
        }
        let _turn = self.turn.lock().await;
        self.is_whole(volume).await?;
        let backend = backend(adapter.clone());
        let api = Api::<Secret>::namespaced(self.client.clone(), &volume.spec.claim_ref.namespace);
        let found = api
            .get_opt(&volume.name_any())
            .await
            .map_err(|error| unavailable(&error))?
            .ok_or_else(|| {
                RotateError::NotReady("it has no credentials yet: wait until it is Ready".to_owned())
            })?;
        let keys = Credentials::generate().map_err(|error| unavailable(&error))?;
        let token = backend.filer_token(&volume.name_any(), None, SystemTime::now());
        let mut secret = secret_of(volume, &keys, token.as_deref());
        secret.metadata.resource_version = found.metadata.resource_version;
        api.replace(&volume.name_any(), &PostParams::default(), &secret)
            .await
            .map_err(|error| unavailable(&error))?;
        crate::fault::point("after-secret");
        let made = backend.ensure_identity(&volume.name_any(), &keys).await;
        // Its status goes on showing the old key until it is looked at; and where the backend failed, the old keys
        // are good until then.
        let _ = self.changes.send(Change::Rotated(volume.name_any()));
        made.map_err(|error| unavailable(&error))?;
        crate::fault::point("rotated-identity-written");
        // Removal revokes keys first: those that came after it would be good for ever.
        if let Err(going) = self.is_whole(volume).await {
            let revoked = adapter.delete_identity(&volume.name_any()).await;
            // Where only the look failed, the volume gets its identity back out of the Secret.
            let _ = self.changes.send(Change::Rotated(volume.name_any()));
            revoked.map_err(|error| unavailable(&error))?;
            return Err(going);
        }
        let access = backend.access(&volume.name_any());
        let s3 = access
            .s3
            .ok_or_else(|| RotateError::NotSupported("it is not reached through S3".to_owned()))?;
        Ok(NewCredentials {
            access_key: keys.access_key,
            secret_key: keys.secret_key,
            endpoint: s3.endpoint,
            bucket: s3.bucket,
            filer_token: token,
        })
    }
}

impl CredentialRotation for Rotation {
    fn rotate<'a>(&'a self, volume: &'a UnifiedVolume) -> BoxFuture<'a, Result<NewCredentials, RotateError>> {
        Box::pin(self.renew(volume))
    }
}
