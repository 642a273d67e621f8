//! What an id stands for: a claim, or a volume whose claim is gone. The volume's own word decides; a label never
//! takes an id over.

use kube::ResourceExt as _;

use super::{
    Service,
    error::ServiceError,
    listing::list_all,
    names::{is_dns_label, is_subdomain},
    view::{claim_id, id_by_uid},
};
use crate::crd::{LABEL_ID, UnifiedStorageClaim, UnifiedVolume, class::ReclaimPolicy};

pub(super) enum Found {
    /// A claim, with its volume where there is one.
    Claim(Box<UnifiedStorageClaim>, Option<Box<UnifiedVolume>>),
    /// A volume whose claim is gone.
    Leaving(Box<UnifiedVolume>),
    /// Neither; in words.
    Nothing(String),
}

impl Service {
    pub(super) async fn find(&self, id: &str) -> Result<Found, ServiceError> {
        let nothing = || Found::Nothing(format!("There is no storage {:?}.", shown(id)));
        if !is_subdomain(id) {
            return Ok(nothing());
        }
        let volume = self.volumes().get_opt(id).await?;
        if let Some(owner) = self.owner(volume.as_ref()).await? {
            return Ok(Found::Claim(Box::new(owner), volume.map(Box::new)));
        }
        if let Some(claim) = self.minted(id).await? {
            return Ok(Found::Claim(Box::new(claim), None));
        }
        match volume {
            Some(volume) if volume.spec.reclaim_policy == ReclaimPolicy::Retain => {
                Ok(Found::Nothing(format!(
                    "Storage {id:?} was deleted; its data is retained as the UnifiedVolume of that name."
                )))
            }
            Some(volume) => Ok(Found::Leaving(Box::new(volume))),
            None => Ok(self
                .unminted(id)
                .await?
                .map_or_else(nothing, |claim| Found::Claim(Box::new(claim), None))),
        }
    }

    /// The claim that a volume says it belongs to; another claim of that name is not it.
    async fn owner(
        &self,
        volume: Option<&UnifiedVolume>,
    ) -> Result<Option<UnifiedStorageClaim>, ServiceError> {
        let Some(volume) = volume else { return Ok(None) };
        let reference = &volume.spec.claim_ref;
        if !is_dns_label(&reference.namespace) || !is_subdomain(&reference.name) {
            return Ok(None);
        }
        let claim = self
            .claims(Some(&reference.namespace))
            .get_opt(&reference.name)
            .await?;
        Ok(claim.filter(|claim| claim.uid().as_deref() == Some(&reference.uid)))
    }

    /// The claim whose id was minted with the request. A label alone is no proof; the oldest is the one.
    async fn minted(&self, id: &str) -> Result<Option<UnifiedStorageClaim>, ServiceError> {
        if !is_dns_label(id) {
            return Ok(None);
        }
        let claims = list_all(&self.claims(None), &format!("{LABEL_ID}={id}")).await?;
        Ok(claims
            .into_iter()
            .filter(|claim| claim_id(claim) == id)
            .min_by_key(|claim| claim.metadata.creation_timestamp.as_ref().map(|t| t.0)))
    }

    /// A claim that came through the Kubernetes API and has no volume yet, or lost it.
    async fn unminted(&self, id: &str) -> Result<Option<UnifiedStorageClaim>, ServiceError> {
        let Some((namespace, name)) = self.parts.finder.claim_of(id).await else {
            return Ok(None);
        };
        let claim = self.claims(Some(&namespace)).get_opt(&name).await?;
        Ok(claim.filter(|claim| goes_by(claim, id)))
    }
}

/// Whether `id` stands for the claim.
pub(crate) fn goes_by(claim: &UnifiedStorageClaim, id: &str) -> bool {
    claim_id(claim) == id || id_by_uid(claim) == id
}

fn shown(id: &str) -> String {
    id.chars().take(80).collect()
}
