//! The life of storage as its user sees it: asked for, looked at, grown, deleted.
//!
//! Creating the claim is the acknowledgement: the volume's name is in it before anybody hears of it. What follows is
//! the reconcilers' work.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams},
};
use serde_json::json;

use super::{NewCredentials, RotateError};
use super::{
    Service,
    error::{ErrorKind, ServiceError},
    listing::{PageRequest, list, list_all},
    lookup::Found,
    names::is_subdomain,
    request::{CreateStorage, ExpandStorage, StorageFilter},
    view::{DryRunAnswer, Page, Storage, claim_id, claimed_bytes, class_name},
};
use crate::crd::{ANNOTATION_REQUEST, UnifiedStorageClaim, UnifiedStorageClass, claim::ClaimPhase};

/// The answer to a request for storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// What was made, or was there already.
    pub storage: Storage,
    /// False where the same request had been made before.
    pub new: bool,
}

/// What became of a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Accepted, or under way.
    Going(Box<Storage>),
    /// Nothing is left, or there never was anything; in words.
    Gone(String),
}

/// How often something is tried again that somebody else changed in between.
const ATTEMPTS: usize = 5;

impl Service {
    /// Asks for storage. The same request again answers the same object.
    ///
    /// # Errors
    /// `AlreadyExists` where another request has that name, `Invalid` where the namespace does not exist,
    /// `Unavailable` where the claim could not be written. Never for lack of capacity.
    pub async fn create_storage(
        &self,
        request: &CreateStorage,
        wait: Option<Duration>,
    ) -> Result<Created, ServiceError> {
        let (mut claim, new) = self.ensure_claim(request).await?;
        claim = match wait {
            Some(wait) => self.wait_until(claim, wait, is_settled).await,
            // Long enough for the first verdict: an answer that says Pending also says why.
            None => self.wait_until(claim, self.parts.first_look, is_judged).await,
        };
        let class = self.class_of(&claim).await?;
        Ok(Created {
            storage: Storage::of_claim(&claim, class.as_ref(), None),
            new,
        })
    }

    async fn ensure_claim(
        &self,
        request: &CreateStorage,
    ) -> Result<(UnifiedStorageClaim, bool), ServiceError> {
        let api = self.claims(Some(&request.namespace));
        for _ in 0..ATTEMPTS {
            let error = match api
                .create(&PostParams::default(), &request.claim(&self.mint_id()))
                .await
            {
                Ok(claim) => {
                    crate::fault::point("claim-made");
                    return Ok((claim, true));
                }
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                    match api.get_opt(&request.name).await? {
                        Some(claim) if is_repeat(request, &claim) => return Ok((claim, false)),
                        Some(claim) => return Err(name_taken(request, &claim)),
                        // Deleted between the two calls.
                        None => continue,
                    }
                }
                Err(error) => error,
            };
            return Err(create_refused(request, error));
        }
        Err(ServiceError::new(
            ErrorKind::Aborted,
            format!(
                "{:?} is made and deleted by somebody else all the time.",
                request.name
            ),
        ))
    }

    /// Whether a request would be placed now. Nothing is made, nothing is promised.
    ///
    /// # Errors
    /// `Invalid` where the namespace does not exist.
    pub async fn dry_run_storage(&self, request: &CreateStorage) -> Result<DryRunAnswer, ServiceError> {
        let api = self.claims(Some(&request.namespace));
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        match api.create(&params, &request.claim(&self.mint_id())).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
            Err(error) => return Err(create_refused(request, error)),
        }
        Ok(
            match self
                .parts
                .dry_run
                .dry_run(&request.claim_spec(), &request.namespace)
                .await
            {
                Ok(placement) => DryRunAnswer {
                    placed: true,
                    placement: Some(placement),
                    reasons: Vec::new(),
                },
                Err(reasons) => DryRunAnswer {
                    placed: false,
                    placement: None,
                    reasons,
                },
            },
        )
    }

    /// One.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get_storage(&self, id: &str) -> Result<Storage, ServiceError> {
        match self.find(id).await? {
            Found::Claim(claim, volume) => {
                let class = self.class_of(&claim).await?;
                Ok(Storage::of_claim(&claim, class.as_ref(), volume.as_deref()))
            }
            Found::Leaving(volume) => Ok(Storage::of_leaving_volume(&volume)),
            Found::Nothing(detail) => Err(ServiceError::new(ErrorKind::NotFound, detail)),
        }
    }

    /// Those that the filter names, in parts.
    ///
    /// # Errors
    /// `Invalid` where the token is not one of this list, or too old.
    pub async fn list_storage(
        &self,
        filter: &StorageFilter,
        page: &PageRequest,
    ) -> Result<Page<Storage>, ServiceError> {
        let api = self.claims(filter.namespace.as_deref());
        let (claims, continue_) = list(&api, &filter.selector(), page, |c| filter.matches(c)).await?;
        let classes = if claims.is_empty() {
            Vec::new()
        } else {
            list_all(&self.classes(), "").await?
        };
        let items = claims
            .iter()
            .map(|claim| {
                let class = class_name(claim).and_then(|name| classes.iter().find(|c| c.name_any() == name));
                Storage::of_claim(claim, class, None)
            })
            .collect();
        Ok(Page { items, continue_ })
    }

    /// Grows. The size that it has already is no change.
    ///
    /// # Errors
    /// `Invalid` for a smaller size, `Refused` where the class does not allow it, `NotReady` while it goes.
    pub async fn expand_storage(&self, id: &str, request: ExpandStorage) -> Result<Storage, ServiceError> {
        for _ in 0..ATTEMPTS {
            let (claim, volume) = match self.find(id).await? {
                Found::Claim(claim, volume) => (claim, volume),
                Found::Leaving(_) => {
                    return Err(ServiceError::new(
                        ErrorKind::NotReady,
                        format!("{id:?} is being deleted."),
                    ));
                }
                Found::Nothing(detail) => return Err(ServiceError::new(ErrorKind::NotFound, detail)),
            };
            let class = self.class_of(&claim).await?;
            let current = claimed_bytes(&claim);
            if request.capacity_bytes == current {
                return Ok(Storage::of_claim(&claim, class.as_ref(), volume.as_deref()));
            }
            may_grow(&claim, class.as_ref(), current, request.capacity_bytes)?;
            let patch = json!({
                "metadata": {"resourceVersion": claim.resource_version()},
                "spec": {"capacity": request.capacity_bytes.to_string()},
            });
            let api = self.claims(claim.namespace().as_deref());
            match api
                .patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
                .await
            {
                Ok(claim) => {
                    crate::fault::point("claim-grown");
                    return Ok(Storage::of_claim(&claim, class.as_ref(), volume.as_deref()));
                }
                // Somebody changed or deleted it meanwhile: look again.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ServiceError::new(
            ErrorKind::Aborted,
            format!("{id:?} is changed by somebody else all the time."),
        ))
    }

    /// Deletes the request; what happens to the data is the reclaim policy's.
    ///
    /// # Errors
    /// `Unavailable` where the API could not be reached.
    pub async fn delete_storage(&self, id: &str) -> Result<Deletion, ServiceError> {
        for _ in 0..ATTEMPTS {
            let claim = match self.find(id).await? {
                Found::Claim(claim, _) => claim,
                Found::Leaving(volume) => {
                    return Ok(Deletion::Going(Box::new(Storage::of_leaving_volume(&volume))));
                }
                Found::Nothing(detail) => return Ok(Deletion::Gone(detail)),
            };
            let class = self.class_of(&claim).await?;
            let only_this = Preconditions {
                uid: claim.uid(),
                resource_version: None,
            };
            let params = DeleteParams::default().preconditions(only_this);
            let api = self.claims(claim.namespace().as_deref());
            match api.delete(&claim.name_any(), &params).await {
                Ok(_) => {
                    crate::fault::point("claim-deleted");
                    let mut storage = Storage::of_claim(&claim, class.as_ref(), None);
                    storage.phase = ClaimPhase::Deleting;
                    return Ok(Deletion::Going(Box::new(storage)));
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ServiceError::new(
            ErrorKind::Aborted,
            format!("{id:?} is changed by somebody else all the time."),
        ))
    }

    /// New credentials; the old ones are revoked.
    ///
    /// # Errors
    /// `NotReady` where there are none to renew yet, `Refused` where there never will be, `Unavailable` where the
    /// backend did not do it.
    pub async fn rotate_credentials(&self, id: &str) -> Result<NewCredentials, ServiceError> {
        let volume = match self.find(id).await? {
            Found::Claim(_, Some(volume)) => volume,
            Found::Claim(claim, None) => {
                let phase = claim.status.as_ref().map(|s| s.phase).unwrap_or_default();
                return Err(ServiceError::new(
                    ErrorKind::NotReady,
                    format!("{id:?} is {phase:?}: it has no volume yet, and so no credentials."),
                ));
            }
            Found::Leaving(_) => {
                return Err(ServiceError::new(
                    ErrorKind::NotReady,
                    format!("{id:?} is being deleted."),
                ));
            }
            Found::Nothing(detail) => return Err(ServiceError::new(ErrorKind::NotFound, detail)),
        };
        self.parts.credentials.rotate(&volume).await.map_err(|error| {
            let reasons = vec![error.to_string()];
            let detail = format!("The credentials of {id:?} were not renewed.");
            match error {
                RotateError::NotSupported(_) => {
                    ServiceError::new(ErrorKind::Refused, detail).because(reasons)
                }
                RotateError::NotReady(_) => ServiceError::new(ErrorKind::NotReady, detail).because(reasons),
                RotateError::Unavailable(_) => {
                    ServiceError::unavailable(detail, reasons, Duration::from_secs(5))
                }
            }
        })
    }

    async fn class_of(
        &self,
        claim: &UnifiedStorageClaim,
    ) -> Result<Option<UnifiedStorageClass>, ServiceError> {
        match class_name(claim).filter(|name| is_subdomain(name)) {
            Some(name) => Ok(self.classes().get_opt(name).await?),
            None => Ok(None),
        }
    }

    /// Waits until the claim is Ready, Failed or Lost, or the time is up; answers it as it was last seen.
    async fn wait_until(
        &self,
        claim: UnifiedStorageClaim,
        limit: Duration,
        enough: fn(&UnifiedStorageClaim) -> bool,
    ) -> UnifiedStorageClaim {
        let mut latest = claim;
        let wait = async {
            while !enough(&latest) {
                if self.follow(&mut latest, enough).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                    let api = self.claims(latest.namespace().as_deref());
                    match api.get_opt(&latest.name_any()).await {
                        Ok(Some(claim)) if claim.uid() == latest.uid() => latest = claim,
                        Ok(_) => return,
                        Err(error) => tracing::debug!(%error, "claim not read while waiting"),
                    }
                }
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(limit, wait) => {}
            () = self.shutdown().cancelled() => {}
        }
        latest
    }

    /// Follows one claim until that is enough or the stream ends.
    async fn follow(
        &self,
        latest: &mut UnifiedStorageClaim,
        enough: fn(&UnifiedStorageClaim) -> bool,
    ) -> Result<(), kube::Error> {
        let api = self.claims(latest.namespace().as_deref());
        let params = WatchParams::default()
            .fields(&format!("metadata.name={}", latest.name_any()))
            .timeout(60);
        let version = latest.resource_version().unwrap_or_default();
        let mut events = api.watch(&params, &version).await?.boxed();
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(claim) | WatchEvent::Modified(claim) if claim.uid() == latest.uid() => {
                    *latest = claim;
                    if enough(latest) {
                        return Ok(());
                    }
                }
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_judged(claim: &UnifiedStorageClaim) -> bool {
    claim.status.is_some()
}

fn is_settled(claim: &UnifiedStorageClaim) -> bool {
    let phase = claim.status.as_ref().map(|s| s.phase).unwrap_or_default();
    matches!(phase, ClaimPhase::Ready | ClaimPhase::Failed | ClaimPhase::Lost)
}

/// Whether `claim` is what `request` asked for: by the digest of the request that made it, or, where it was made
/// otherwise, by what it says.
fn is_repeat(request: &CreateStorage, claim: &UnifiedStorageClaim) -> bool {
    if let Some(digest) = claim.annotations().get(ANNOTATION_REQUEST) {
        return *digest == request.digest();
    }
    let mut spec = claim.spec.clone();
    spec.volume_name = None;
    spec.capacity = claimed_bytes(claim).to_string();
    spec == request.claim_spec()
        && request
            .labels
            .iter()
            .all(|(key, value)| claim.labels().get(key) == Some(value))
}

fn name_taken(request: &CreateStorage, claim: &UnifiedStorageClaim) -> ServiceError {
    ServiceError::new(
        ErrorKind::AlreadyExists,
        format!(
            "{:?} in namespace {:?} was asked for with other words; it is {}.",
            request.name,
            request.namespace,
            claim_id(claim)
        ),
    )
}

/// Why a claim was not created: a namespace that does not exist or goes is the caller's, all else is not.
fn create_refused(request: &CreateStorage, error: kube::Error) -> ServiceError {
    let kube::Error::Api(status) = &error else {
        return error.into();
    };
    let details = status.details.as_ref();
    let names_namespace =
        details.is_some_and(|d| d.kind == "namespaces") || status.message.contains("namespaces \"");
    let terminating = details.is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"));
    match status.code {
        404 if names_namespace => ServiceError::field(
            "namespace",
            format!("there is no namespace {:?}", request.namespace),
        ),
        403 if terminating => ServiceError::field(
            "namespace",
            format!("namespace {:?} is being deleted", request.namespace),
        ),
        404 => ServiceError::unavailable(
            "The Kubernetes API does not know claims: the CRDs are not installed.",
            vec![status.message.clone()],
            Duration::from_secs(5),
        ),
        _ => error.into(),
    }
}

fn may_grow(
    claim: &UnifiedStorageClaim,
    class: Option<&UnifiedStorageClass>,
    current: u64,
    wanted: u64,
) -> Result<(), ServiceError> {
    if wanted < current {
        return Err(ServiceError::field(
            "capacity_bytes",
            format!("must be at least {current}: storage grows and never shrinks"),
        ));
    }
    match class {
        Some(class) if !class.spec.capacity.allow_expansion => {
            Err(
                ServiceError::new(ErrorKind::Refused, format!("{} cannot grow.", claim_id(claim))).because(
                    vec![format!("class {:?} does not allow expansion", class.name_any())],
                ),
            )
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
