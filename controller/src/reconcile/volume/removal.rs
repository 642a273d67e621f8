//! A volume that goes: its bytes deleted and seen to be gone, or, with Retain, kept and nobody's any more.
//!
//! Bytes are called deleted only where every member that may hold some was seen without them; what cannot be seen
//! waits and says for whom. Forgetting a Retain volume ends its keys, and marks and counts what stays.

use jiff::Timestamp;
use kube::{Api, ResourceExt as _, api::ListParams, runtime::controller::Action};
use smart_storage_core::decide::volume::{BackendTrouble, MEMBER_AWAY};

use super::{
    ASSERT_AGAIN, Context, Error, Made, backends, claim_is_gone, credentials, finalizer, pool_of,
    publish_volume, well_since,
};
use crate::{
    backend::seaweedfs::{SeaweedFs, Topology},
    crd::{ANNOTATION_ABANDON, PoolMember, UnifiedVolume, class::ReclaimPolicy, member::MemberPhase},
    reconcile::Change,
};

/// Takes a volume away that is being deleted, as far as that is possible now.
pub(super) async fn remove(
    api: &Api<UnifiedVolume>,
    volume: &UnifiedVolume,
    context: &Context,
) -> Result<Action, Error> {
    if !finalizer::has(volume) {
        return Ok(Action::await_change());
    }
    let name = volume.name_any();
    // Its own: what was wrong with making it says nothing of deleting it.
    let key = format!("backend/{name}/removal");
    let generation = volume.metadata.generation;
    // A member that is back is no matter of patience.
    let waits = context
        .waits(&key, generation, well_since(volume, context))
        .filter(|(trouble, _)| trouble.reason != MEMBER_AWAY);
    if let Some((trouble, after)) = waits {
        let made = Made {
            trouble: Some(trouble),
            ..Made::default()
        };
        publish_volume(api, volume, true, &made, context).await?;
        return Ok(Action::requeue(after));
    }
    let trouble = match volume.spec.reclaim_policy {
        ReclaimPolicy::Retain => forget(volume, context).await?,
        ReclaimPolicy::Delete if claim_is_gone(volume, context).await? => delete(volume, context).await?,
        ReclaimPolicy::Delete => {
            let owner = &volume.spec.claim_ref;
            let words = format!(
                "it is to be deleted, and claim {}/{} still uses it: its data goes once the claim is gone",
                owner.namespace, owner.name
            );
            publish_volume(api, volume, false, &Made::unable("ClaimLives", words), context).await?;
            return Ok(Action::requeue(ASSERT_AGAIN));
        }
    };
    if let Some(trouble) = trouble {
        let after = context.troubled(&key, &trouble, generation);
        let made = Made {
            trouble: Some(trouble),
            ..Made::default()
        };
        publish_volume(api, volume, true, &made, context).await?;
        return Ok(Action::requeue(after));
    }
    credentials::remove(&context.client, volume).await?;
    crate::fault::point("secret-removed");
    context.succeeded(&format!("backend/{name}"));
    context.succeeded(&key);
    let pool = &volume.spec.placement.pool;
    if volume.spec.reclaim_policy == ReclaimPolicy::Retain {
        // Its bytes are counted as retained before they are no promise any more, and by no look from before.
        context.backends.look_again();
        context
            .allocator
            .retain(pool, volume.spec.placement.promised_bytes)
            .await?;
        crate::fault::point("bytes-retained");
    }
    finalizer::remove(api, volume).await?;
    crate::fault::point("after-volume-gone");
    // Only now is it true that the bytes are free.
    context.allocator.recount_soon(pool);
    if volume.spec.reclaim_policy == ReclaimPolicy::Retain {
        context.backends.look_again();
        context.tell(Change::Leftovers(pool.clone()));
    }
    Ok(Action::await_change())
}

async fn delete(volume: &UnifiedVolume, context: &Context) -> Result<Option<BackendTrouble>, Error> {
    let adapter = match adapter(volume, context) {
        Ok(adapter) => adapter,
        Err(trouble) => return Ok(Some(trouble)),
    };
    let (name, backend) = (volume.name_any(), backends::backend(adapter.clone()));
    match backend.may_belong_to(&name, &volume.spec.claim_ref.uid).await {
        Ok(true) => {}
        // It was never made: what is there under its name is kept for somebody else.
        Ok(false) => return Ok(None),
        Err(error) => return Ok(Some(backends::trouble(&error))),
    }
    let deleted = backend.delete_volume(&name, &context.cluster_id).await;
    let trouble = match deleted {
        Ok(()) => is_still_held(&adapter, volume, context).await?,
        Err(error) => Some(backends::trouble(&error)),
    };
    if trouble.is_none() {
        crate::fault::point("after-backend-delete");
    }
    Ok(trouble)
}

/// Ends the keys and marks the data as kept on purpose. A pool that is gone has taken its backend with it.
async fn forget(volume: &UnifiedVolume, context: &Context) -> Result<Option<BackendTrouble>, Error> {
    if pool_of(volume, context).is_none() {
        return Ok(None);
    }
    let adapter = match adapter(volume, context) {
        Ok(adapter) => adapter,
        Err(trouble) => return Ok(Some(trouble)),
    };
    let retained = backends::backend(adapter)
        .retain_volume(&volume.name_any(), &context.cluster_id)
        .await;
    Ok(retained.err().map(|error| backends::trouble(&error)))
}

fn adapter(volume: &UnifiedVolume, context: &Context) -> Result<SeaweedFs, BackendTrouble> {
    let trouble = |reason: &str, message: String| BackendTrouble {
        reason: reason.to_owned(),
        message,
        transient: true,
    };
    let pool = pool_of(volume, context).ok_or_else(|| {
        let name = &volume.spec.placement.pool;
        trouble(
            "PoolGone",
            format!("its pool {name} does not exist: its data cannot be deleted"),
        )
    })?;
    context
        .backends
        .of_pool(&pool)
        .map_err(|(reason, message)| trouble(reason, message))
}

/// A master that has just started knows no volume server yet, and then calls every collection deleted: its word
/// counts only where it sees all servers of the pool that may hold something.
async fn is_still_held(
    adapter: &SeaweedFs,
    volume: &UnifiedVolume,
    context: &Context,
) -> Result<Option<BackendTrouble>, Error> {
    let trouble = |(reason, message): (&str, String)| BackendTrouble {
        reason: reason.to_owned(),
        message,
        transient: true,
    };
    let topology = match adapter.topology().await {
        Ok(topology) => topology,
        Err(error) => return Ok(Some(trouble((UNAVAILABLE, error.to_string())))),
    };
    // Which drives were away is asked live, after the backend: the store may lag behind one that is back.
    let members = Api::<PoolMember>::all(context.client.clone())
        .list(&ListParams::default())
        .await?;
    let servers: Vec<Server> = members
        .iter()
        .filter(|member| member.spec.pool == volume.spec.placement.pool)
        .filter_map(|member| server(member, context.is_missing_since(&member.spec.member_id)))
        .collect();
    let since = volume.creation_timestamp().map(|time| time.0);
    Ok(what_may_be_left(&volume.name_any(), since, &servers, &topology).map(trouble))
}

const UNAVAILABLE: &str = "BackendUnavailable";

/// A member that may hold bytes.
#[derive(Debug)]
struct Server {
    member: String,
    drive: String,
    node: String,
    endpoint: String,
    /// Since when its drive has been away without a break.
    missing_since: Option<Timestamp>,
}

/// `heard`: since when this process knows its drive to be away. What is on record may be of a time before it.
fn server(member: &PoolMember, heard: Option<Timestamp>) -> Option<Server> {
    let status = member.status.as_ref()?;
    let may_hold = status.prepared && status.phase != MemberPhase::Released && !status.endpoint.is_empty();
    may_hold.then(|| Server {
        member: member.name_any(),
        drive: member.spec.drive_id.clone(),
        node: status.node.clone(),
        endpoint: status.endpoint.clone(),
        missing_since: status.missing_since.and(heard),
    })
}

/// Why bytes of a volume that was written down at `since` may be left, from one picture of the cluster. Pure.
fn what_may_be_left(
    volume: &str,
    since: Option<Timestamp>,
    servers: &[Server],
    topology: &Topology,
) -> Option<(&'static str, String)> {
    if let Some(disk) = topology.holding(volume).next() {
        return Some((UNAVAILABLE, format!("{} still holds a part of it", disk.server)));
    }
    let away: Vec<&Server> = servers
        .iter()
        .filter(|server| topology.server(&server.endpoint).next().is_none())
        // A drive that was gone before the volume was written down, and ever since, has nothing of it.
        .filter(|server| !matches!((server.missing_since, since), (Some(gone), Some(made)) if gone < made))
        .collect();
    let first = away.first()?;
    let named: Vec<String> = away
        .iter()
        .map(|server| format!("{} (drive {} on {})", server.member, server.drive, server.node))
        .collect();
    let words = format!(
        "the backend does not see {}: what is there of it cannot be deleted yet. Bring the drive back; if it is gone \
         for ever, annotate the member with {ANNOTATION_ABANDON}={} and delete it",
        named.join(", "),
        first.member
    );
    Some((MEMBER_AWAY, words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::seaweedfs::Disk;

    fn disk(server: &str, held: &[&str]) -> Disk {
        Disk {
            server: server.to_owned(),
            collections: held.iter().map(ToString::to_string).collect(),
            ..Disk::default()
        }
    }

    fn server(member: &str, endpoint: &str, missing_since: Option<i64>) -> Server {
        Server {
            member: member.to_owned(),
            drive: "d".to_owned(),
            node: "n".to_owned(),
            endpoint: endpoint.to_owned(),
            missing_since: missing_since.map(|at| Timestamp::from_second(at).unwrap()),
        }
    }

    fn left(servers: &[Server], made: i64, disks: Vec<Disk>) -> Option<(&'static str, String)> {
        let topology = Topology {
            disks,
            ..Topology::default()
        };
        let made = Timestamp::from_second(made).ok();
        what_may_be_left("uv-1", made, servers, &topology)
    }

    #[test]
    fn a_volume_is_gone_only_where_every_server_of_its_pool_was_seen_without_it() {
        let servers = [server("pm-a", "h:1", None), server("pm-b", "h:2", None)];
        let (reason, words) = left(&servers, 5, vec![]).unwrap();
        assert_eq!(reason, "MemberAway");
        assert!(
            words.contains("pm-a (drive d on n), pm-b (drive d on n)"),
            "{words}"
        );
        let (_, words) = left(&servers, 5, vec![disk("h:1", &[])]).unwrap();
        assert!(words.contains("pm-b (") && !words.contains("pm-a"), "{words}");
        let (reason, words) = left(&servers, 5, vec![disk("h:1", &[]), disk("h:2", &["uv-1"])]).unwrap();
        assert!(reason == "BackendUnavailable" && words.contains("h:2"), "{words}");
        assert_eq!(
            left(&servers, 5, vec![disk("h:1", &["uv-2"]), disk("h:2", &[])]),
            None
        );
    }

    #[test]
    fn a_drive_that_was_gone_before_the_volume_came_to_be_holds_nothing_of_it() {
        let servers = |since| [server("pm-a", "h:1", None), server("pm-b", "h:2", since)];
        let seen = || vec![disk("h:1", &[])];
        assert_eq!(left(&servers(Some(4)), 5, seen()), None);
        // The same second may have been before or after.
        assert!(left(&servers(Some(5)), 5, seen()).is_some());
        assert!(left(&servers(Some(6)), 5, seen()).is_some());
        assert!(left(&servers(None), 5, seen()).is_some());
        assert!(
            left(
                &servers(Some(4)),
                5,
                vec![disk("h:1", &[]), disk("h:2", &["uv-1"])]
            )
            .is_some(),
            "what the backend shows comes first"
        );
    }
}
