//! The snapshot over which placement decides, made of the objects and the registry: the same for a claim that is
//! placed and for a dry run.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::BoxFuture;
use kube::ResourceExt as _;
use smart_storage_core::{
    bytes::parse_quantity,
    classify::Tier,
    drive::DriveType,
    placement::{Class, DriveView, Placed, Placement, Pool, Refusal, place},
    registry::Registry,
};

use super::{Stores, convert};
use crate::{
    crd::{
        PoolMember, UnifiedPool, UnifiedStorageClaimSpec, member::MemberPhase, node::StorageNode,
        pool::PoolPhase,
    },
    service::{DryRun, DryRunPlacement},
};

/// Places requests over what is there now, without promising anything.
#[derive(Clone)]
pub struct Planner {
    stores: Stores,
    registry: Arc<Registry>,
}

/// Why a request is not placed now.
pub type Refused = Vec<Refusal>;

impl Planner {
    /// A planner over these objects and what the agents say.
    #[must_use]
    pub fn new(stores: Stores, registry: Arc<Registry>) -> Self {
        Self { stores, registry }
    }

    /// Where a claim goes, or every reason why it waits. `volume` is the name that its volume will have; empty for a
    /// question only.
    ///
    /// # Errors
    /// The refusals, candidate by candidate.
    pub fn place(&self, spec: &UnifiedStorageClaimSpec, volume: &str) -> Result<Box<Placed>, Refused> {
        let refuse = |reason: String| {
            vec![Refusal {
                candidate: "the request".to_owned(),
                reasons: vec![reason],
            }]
        };
        let capacity =
            parse_quantity(&spec.capacity).map_err(|error| refuse(format!("spec.capacity: {error}")))?;
        let request = convert::request(spec, capacity, volume)
            .ok_or_else(|| refuse("spec.storageType: not known to this version".to_owned()))?;
        match place(&request, &self.classes(), &self.pools(), &self.drives()) {
            Placement::Placed(placed) => Ok(placed),
            Placement::Refused(refusals) => Err(refusals),
        }
    }

    /// Every class.
    #[must_use]
    pub fn classes(&self) -> Vec<Class> {
        self.stores
            .classes
            .state()
            .iter()
            .map(|class| convert::class(class))
            .collect()
    }

    /// Every pool.
    #[must_use]
    pub fn pools(&self) -> Vec<Pool> {
        let members = self.stores.members.state();
        let nodes = self.stores.nodes.state();
        self.stores
            .pools
            .state()
            .iter()
            .filter_map(|pool| pool_view(pool, &members, &nodes))
            .collect()
    }

    /// Every drive that an agent of a known node shows.
    #[must_use]
    pub fn drives(&self) -> Vec<DriveView> {
        let claims = convert::claims(&self.stores.members.state());
        let mut views = Vec::new();
        for node in self.stores.nodes.state() {
            let Some(record) = self.registry.get(&node.spec.node_name) else {
                continue;
            };
            for (drive, judgement) in convert::judge_node(&node, &record, &claims) {
                if !drive.identity.is_path() {
                    views.push(DriveView {
                        node: record.name.clone(),
                        device: drive.facts.name.clone(),
                        size_bytes: drive.facts.size_bytes.known().copied(),
                        judgement,
                    });
                }
            }
        }
        views
    }
}

impl DryRun for Planner {
    fn dry_run<'a>(
        &'a self,
        claim: &'a UnifiedStorageClaimSpec,
        _namespace: &'a str,
    ) -> BoxFuture<'a, Result<DryRunPlacement, Vec<String>>> {
        let answer = match self.place(claim, "") {
            Ok(placed) => Ok(DryRunPlacement {
                class: placed.class.name.clone(),
                backend: placed.backend.to_string(),
                pool: placed.pool.to_string(),
            }),
            Err(refusals) => Err(refusals.iter().map(Refusal::line).collect()),
        };
        Box::pin(std::future::ready(answer))
    }
}

fn pool_view(pool: &UnifiedPool, members: &[Arc<PoolMember>], nodes: &[Arc<StorageNode>]) -> Option<Pool> {
    let name = pool.name_any();
    let status = pool.status.clone().unwrap_or_default();
    let mine: Vec<&Arc<PoolMember>> = members.iter().filter(|member| member.spec.pool == name).collect();
    let online: Vec<&&Arc<PoolMember>> = mine
        .iter()
        .filter(|member| {
            member
                .status
                .as_ref()
                .is_some_and(|status| status.phase == MemberPhase::Online)
        })
        .collect();
    let serving = online
        .iter()
        .map(|member| u64::from(member.spec.slots).saturating_mul(member.spec.slot_bytes))
        .fold(0, u64::saturating_add)
        .saturating_sub(status.retained_bytes);
    let node_of = |member: &PoolMember| {
        let now = member.status.as_ref().map_or("", |status| status.node.as_str());
        let name = if now.is_empty() {
            member.spec.node_name.as_str()
        } else {
            now
        };
        nodes.iter().find(|node| node.spec.node_name == name)
    };
    let domains: BTreeSet<String> = online
        .iter()
        .filter_map(|member| node_of(member))
        .map(|node| convert::fault_domain(node))
        .collect();
    let drives: Vec<_> = mine
        .iter()
        .filter_map(|member| {
            let node = node_of(member)?;
            node.status
                .as_ref()?
                .drives
                .iter()
                .find(|drive| drive.id == member.spec.drive_id)
        })
        .collect();
    let tiers: Vec<Option<Tier>> = drives
        .iter()
        .map(|drive| drive.classification.tier.and_then(convert::word))
        .collect();
    let types: BTreeSet<DriveType> = drives
        .iter()
        .filter_map(|drive| DriveType::from_word(&drive.drive_type))
        .collect();
    let deleting = pool.metadata.deletion_timestamp.is_some();
    let accepting = !deleting
        && matches!(
            status.phase,
            PoolPhase::Ready | PoolPhase::Expanding | PoolPhase::Degraded
        );
    let reason =
        crate::crd::condition::get(&status.conditions, "Ready").map_or("", |ready| ready.message.as_str());
    Some(Pool {
        name: name.as_str().into(),
        pool_type: convert::word(pool.spec.pool_type)?,
        backend: convert::word(pool.spec.backend.type_)?,
        labels: pool.labels().clone(),
        accepting,
        not_accepting_because: if deleting {
            "it is being deleted".to_owned()
        } else {
            reason.to_owned()
        },
        drive_types: types.into_iter().collect(),
        slowest_tier: tiers.iter().copied().min().flatten(),
        members_online: u32::try_from(online.len()).unwrap_or(u32::MAX),
        fault_domains: u32::try_from(domains.len()).unwrap_or(u32::MAX),
        // The members' word is newer than their sum in the pool's status.
        capacity_bytes: super::pool::promisable(&status).min(serving),
        promised_bytes: status.promised_bytes,
        reserved: status
            .reservations
            .iter()
            .filter(|reservation| reservation.grows.is_none())
            .map(|reservation| (reservation.volume.clone(), reservation.bytes))
            .collect(),
        slot_bytes: status.slot_bytes.max(1),
    })
}

#[cfg(test)]
mod tests;
