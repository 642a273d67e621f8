//! Our finalizer: put on before the first effect, taken off after the last.

use std::fmt::Debug;

use kube::{
    Api, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Error, is_not_found};
use crate::crd::FINALIZER;

/// Whether the object bears it.
pub(super) fn has<K: Resource>(object: &K) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// Puts it on; nothing happens where it is there.
pub(super) async fn add<K>(api: &Api<K>, object: &K) -> Result<(), Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    if has(object) {
        return Ok(());
    }
    let mut finalizers = object.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    write(api, object, &finalizers).await?;
    crate::fault::point("finalizer-added");
    Ok(())
}

/// Takes it off: the object goes, if it is to be deleted.
pub(super) async fn remove<K>(api: &Api<K>, object: &K) -> Result<(), Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    if !has(object) {
        return Ok(());
    }
    let finalizers: Vec<String> = object
        .finalizers()
        .iter()
        .filter(|f| *f != FINALIZER)
        .cloned()
        .collect();
    match write(api, object, &finalizers).await {
        Ok(()) => {
            crate::fault::point("finalizer-removed");
            Ok(())
        }
        Err(Error::Kube(error)) if is_not_found(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn write<K>(api: &Api<K>, object: &K, finalizers: &[String]) -> Result<(), Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let version = object.resource_version();
    let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
    api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}
