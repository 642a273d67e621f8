//! What lies on a pool's backend and belongs to no volume: looked for now and then, told in the pool's status, and
//! counted, so that its room is not promised. It is never touched.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use kube::{Api, ResourceExt as _, api::ListParams};

use super::{Context, Error};
use crate::{
    backend::seaweedfs::{Kept, Leftover, SeaweedFs},
    crd::{
        UnifiedPool, UnifiedVolume,
        pool::{OrphanKind, PoolOrphan, PoolOrphans},
    },
};

const LOOKED_FOR_EVERY: Duration = Duration::from_secs(600);
const SHOWN: usize = 16;

/// What belongs to no volume on one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Finding {
    /// For the pool's status; none where there is nothing.
    pub(super) orphans: Option<PoolOrphans>,
    /// Bytes of the slots that it takes.
    pub(super) bytes: u64,
    /// By which look; what one from before the last forgotten volume found must not lower what is counted.
    pub(super) look: u64,
}

/// What is there now, from a look that is at most ten minutes old; none where the backend cannot be looked at.
pub(super) async fn look(
    pool: &UnifiedPool,
    adapter: &SeaweedFs,
    slot_bytes: u64,
    context: &Context,
) -> Option<Finding> {
    let endpoints = context.backends.endpoints(pool);
    let number = context.backends.look();
    let found = match context
        .backends
        .leftovers_seen(&endpoints, context.now(), LOOKED_FOR_EVERY)
    {
        Some(found) => found,
        None => match search(adapter, context).await {
            Ok(found) => context
                .backends
                .saw_leftovers(endpoints.clone(), context.now(), number, found),
            Err(error) => {
                tracing::debug!(%error, pool = %pool.name_any(), "orphans not looked for");
                return None;
            }
        },
    };
    let pools = context.stores.pools.state();
    let neighbours: BTreeSet<String> = pools
        .iter()
        .filter(|other| context.backends.endpoints(other) == endpoints)
        .map(|other| other.name_any())
        .collect();
    let volumes: HashSet<String> = context
        .stores
        .volumes
        .state()
        .iter()
        .map(|v| v.name_any())
        .collect();
    Some(Finding {
        look: number,
        ..finding(&pool.name_any(), &neighbours, &volumes, slot_bytes, &found)
    })
}

/// A volume that goes or comes while the backend is looked at is known before or after. What is marked as kept is
/// nobody's, also while a volume of its name is still there, or another claim has asked for one.
async fn search(adapter: &SeaweedFs, context: &Context) -> Result<Vec<Leftover>, Error> {
    let volumes = Api::<UnifiedVolume>::all(context.client.clone());
    let names = async || -> Result<HashSet<String>, Error> {
        let all = volumes.list(&ListParams::default()).await?;
        Ok(all.iter().map(|volume| volume.name_any()).collect())
    };
    let mut known = names().await?;
    let found = adapter
        .leftovers(&context.cluster_id, &known)
        .await
        .map_err(|error| Error::Backend(error.to_string()))?;
    known.extend(names().await?);
    Ok(found
        .into_iter()
        .filter(|left| left.kept == Kept::Retained || !known.contains(&left.name))
        .collect())
}

/// The part of one pool. What bears the tag of no pool there is told by the first one. Pure.
fn finding(
    pool: &str,
    neighbours: &BTreeSet<String>,
    volumes: &HashSet<String>,
    slot_bytes: u64,
    found: &[Leftover],
) -> Finding {
    let mine: Vec<&Leftover> = found
        .iter()
        .filter(|left| left.kept == Kept::Retained || !volumes.contains(&left.name))
        .filter(|left| {
            let tags = tags(left);
            let stray = !tags.iter().any(|tag| neighbours.contains(*tag));
            tags.contains(pool) || (stray && neighbours.first().is_some_and(|first| first == pool))
        })
        .collect();
    let slots = mine
        .iter()
        .map(|left| left.slots.get(pool).copied().unwrap_or(0))
        .fold(0, u64::saturating_add);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let retained = mine.iter().filter(|left| left.kept == Kept::Retained).count();
    let orphans = (!mine.is_empty()).then(|| PoolOrphans {
        count: count(mine.len()),
        retained: count(retained),
        items: mine.iter().take(SHOWN).map(|left| told(left)).collect(),
    });
    Finding {
        orphans,
        bytes: slots.saturating_mul(slot_bytes),
        look: 0,
    }
}

fn tags(left: &Leftover) -> BTreeSet<&str> {
    let slots = left.slots.keys().map(String::as_str);
    slots.chain(left.tag.as_deref()).collect()
}

fn told(left: &Leftover) -> PoolOrphan {
    PoolOrphan {
        name: left.name.clone(),
        kind: match left.kept {
            Kept::Retained => OrphanKind::Retained,
            Kept::Orphan => OrphanKind::Orphan,
            Kept::Unmarked => OrphanKind::Unmarked,
        },
        parts: left.parts.iter().map(ToString::to_string).collect(),
        claim: left.claim.clone().unwrap_or_default(),
    }
}

/// What the condition says: how many, and which for example.
pub(super) fn words(orphans: &PoolOrphans) -> String {
    let mut by_kind: BTreeMap<&str, u32> = BTreeMap::new();
    *by_kind.entry("kept by reclaim policy Retain").or_default() += orphans.retained;
    *by_kind.entry("left over").or_default() += orphans.count.saturating_sub(orphans.retained);
    let counts: Vec<String> = by_kind
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let first: Vec<String> = orphans
        .items
        .iter()
        .take(3)
        .map(|item| format!("{} ({})", item.name, item.parts.join(", ")))
        .collect();
    format!(
        "{} on its backend belong to no volume, for example {}; they are never removed by themselves",
        counts.join(" and "),
        first.join("; ")
    )
}

/// Something that lies there, as the adapter keeps it for the pools that share a backend.
pub(super) type Found = Arc<Vec<Leftover>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn left(name: &str, kept: Kept, tag: Option<&str>, slots: &[(&str, u64)]) -> Leftover {
        Leftover {
            name: name.to_owned(),
            kept,
            claim: None,
            parts: vec!["directory"],
            slots: slots
                .iter()
                .map(|(tag, count)| ((*tag).to_owned(), *count))
                .collect(),
            tag: tag.map(str::to_owned),
        }
    }

    fn names(finding: &Finding) -> Vec<&str> {
        let items = finding.orphans.iter().flat_map(|orphans| &orphans.items);
        items.map(|item| item.name.as_str()).collect()
    }

    #[test]
    fn each_leftover_is_told_by_one_pool_and_its_slots_are_counted_where_they_are() {
        let neighbours = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let found = [
            left("uv-1", Kept::Retained, Some("a"), &[("a", 3)]),
            left("uv-2", Kept::Orphan, None, &[("b", 1)]),
            left("uv-3", Kept::Orphan, Some("gone"), &[("gone", 5)]),
            left("uv-4", Kept::Unmarked, None, &[]),
            left("uv-5", Kept::Orphan, Some("a"), &[("a", 9)]),
        ];
        // A volume with the name of what is kept does not make it its own.
        let volumes = HashSet::from(["uv-5".to_owned(), "uv-1".to_owned()]);
        let of = |pool: &str| finding(pool, &neighbours, &volumes, 10, &found);
        let (a, b) = (of("a"), of("b"));
        assert_eq!((names(&a), a.bytes), (vec!["uv-1", "uv-3", "uv-4"], 30));
        assert_eq!((names(&b), b.bytes), (vec!["uv-2"], 10));
        let orphans = a.orphans.unwrap();
        assert_eq!((orphans.count, orphans.retained), (3, 1));
        assert!(
            words(&orphans).starts_with("1 kept by reclaim policy Retain and 2 left over on its backend")
        );
        assert_eq!(finding("a", &neighbours, &volumes, 10, &[]), Finding::default());
    }

    #[test]
    fn the_list_is_bounded_and_the_count_is_not() {
        let found: Vec<Leftover> = (0..100)
            .map(|n| left(&format!("uv-{n}"), Kept::Orphan, Some("a"), &[]))
            .collect();
        let neighbours = BTreeSet::from(["a".to_owned()]);
        let orphans = finding("a", &neighbours, &HashSet::new(), 1, &found)
            .orphans
            .unwrap();
        assert_eq!((orphans.count, orphans.items.len()), (100, SHOWN));
    }
}
