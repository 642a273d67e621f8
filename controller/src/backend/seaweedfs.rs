//! File volumes on SeaweedFS (4.48 and newer), driven over its public gRPC.
//!
//! A volume `uv-…` is four things of that one name: a **rule** in `filer.conf` that leads `/buckets/<name>/` to
//! the drives of its pool (by disk type tag), a **directory** with quota and our mark, its `data` folder that
//! users get, and an **S3 identity** that is good for that bucket alone. The rule comes first, so that no byte is
//! ever written elsewhere; the directory is made exclusively, as a plain create would wipe quota and mark. Then a
//! slot is taken and looked at: a volume is there when its first byte has a place on the right drives.
//!
//! What was seen with 4.48 on one filer, and is relied on (`live` has the tests):
//! * A rule is in force when the call that wrote it returns: the filer reloads before it answers. With several
//!   filers the others follow by subscription; that was not tried.
//! * The quota is enforced by the S3 gateway's 60 s loop, which sets `readOnly` on the rule (70 s after the
//!   overrun in the test). Growing lifts that at once here, where the master already counts less than the new
//!   quota; otherwise the loop does.
//! * Identities: `CreateUser`, `UpdateUser`, `DeleteUser` of the IAM gRPC on the **filer's** port take keys that
//!   the caller chose and are in force some milliseconds later. By its source the filer keeps each in one file
//!   (`/etc/iam/identities/<name>.json`, so a change is whole) and pushes it to the running gateways before it
//!   answers. They outlive a restart of the gateway, and live beside the identities of its `-config` file, which
//!   must have at least one: a gateway that starts without any lets everybody in.
//! * The filer removes folders that became empty, 150 s later, `data` as well, unless the bucket directory says
//!   `Seaweed-X-Amz-Allow-Empty-Folders: true`: ours does.
//! * An ensure takes 0.2 s with the slot, and the write after it 10 ms; sixty at once through two adapters whose
//!   locks do not know of each other take a second and lose no rule.
//! * Mounting `data` leaves the quota as it is; mounting `/buckets/<name>` itself would set it to 0.
//!
//! It never deletes the collection "" (everybody's data), never writes `filer.conf` over HTTP (the quota loop
//! would then lose all rules), never changes a directory that does not carry this cluster's mark, and never lets
//! a secret into an error.

mod address;
mod directory;
mod endpoints;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod health;
mod identity;
mod leftovers;
#[cfg(test)]
mod live;
mod rulebook;
mod rules;
mod security;
mod topology;
mod wire;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::RootCertStore;
use tonic::{service::interceptor::InterceptedService, transport::Channel};

pub use self::{
    address::{Address, AddressError},
    directory::Orphan,
    endpoints::{ConnectError, Endpoints},
    error::{
        CallError, DeleteVolumeError, EnsureVolumeError, Failure, IdentityError, Part, QuotaError, RuleError,
    },
    health::{Health, PartHealth},
    leftovers::{Kept, Leftover},
    rules::Rule,
    security::{Security, SecurityError, TOKEN_LIFE},
    topology::{Disk, TagCapacity, Topology},
};
use self::{
    endpoints::channel,
    rulebook::RuleBook,
    rules::Change,
    security::Signer,
    wire::{
        filer::seaweed_filer_client::SeaweedFilerClient,
        iam::seaweed_identity_access_management_client::SeaweedIdentityAccessManagementClient,
        master::{self as master_pb, seaweed_client::SeaweedClient},
    },
};
use super::{Access, FilerAccess, Handle, S3Access, VolumeSpec, http};

/// Where every bucket directory lies.
const BUCKETS: &str = "/buckets";
/// The disk type of every server that was given none.
pub(crate) const DEFAULT_DISKS: &str = "hdd";

/// What users get of a volume's directory.
const DATA: &str = "data";

const CONNECT: Duration = Duration::from_secs(2);
const CALL: Duration = Duration::from_secs(10);
/// Taking a slot waits up to 30 s inside the server when the copies cannot be spread.
const PATIENT: Duration = Duration::from_secs(35);
const HEALTH: Duration = Duration::from_secs(3);
/// A big cluster's volume list and `filer.conf` are more than gRPC's usual 4 MiB.
const LARGEST_ANSWER: usize = 64 << 20;

/// One SeaweedFS cluster. Cheap to clone; clones share connections and the lock on `filer.conf`.
#[derive(Clone)]
pub struct SeaweedFs {
    inner: Arc<Inner>,
}

struct Inner {
    endpoints: Endpoints,
    master: SeaweedClient<Channel>,
    filer: SeaweedFilerClient<Channel>,
    patient: SeaweedFilerClient<Channel>,
    iam: SeaweedIdentityAccessManagementClient<InterceptedService<Channel, Signer>>,
    http: reqwest::Client,
    rules: RuleBook,
    security: Security,
}

impl std::fmt::Debug for SeaweedFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SeaweedFs")
            .field("endpoints", &self.inner.endpoints)
            .finish_non_exhaustive()
    }
}

impl SeaweedFs {
    /// An adapter for the cluster at `endpoints`, spoken to as `security` says. Connections are made when they are
    /// needed and come back by themselves: the cluster need not be up.
    ///
    /// # Errors
    /// When no client can be made for these addresses and certificates.
    pub fn connect(endpoints: Endpoints, security: Security) -> Result<Self, ConnectError> {
        let filer = channel(&endpoints.filer, CALL, &security)?;
        let inner = Inner {
            master: SeaweedClient::new(channel(&endpoints.master, CALL, &security)?)
                .max_decoding_message_size(LARGEST_ANSWER),
            filer: SeaweedFilerClient::new(filer.clone())
                .max_decoding_message_size(LARGEST_ANSWER)
                .max_encoding_message_size(LARGEST_ANSWER),
            patient: SeaweedFilerClient::new(channel(&endpoints.filer, PATIENT, &security)?),
            iam: SeaweedIdentityAccessManagementClient::with_interceptor(filer, Signer(security.clone())),
            http: http::client(RootCertStore::empty(), CONNECT, HEALTH)?,
            rules: RuleBook::default(),
            security,
            endpoints,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Where the cluster is.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        &self.inner.endpoints
    }

    /// How a volume is reached. Nothing is asked.
    #[must_use]
    pub fn access(&self, volume: &str) -> Access {
        let endpoints = self.endpoints();
        Access {
            filer: Some(FilerAccess {
                url: endpoints.filer.http_url(),
                path: data_path(volume),
            }),
            s3: Some(S3Access {
                endpoint: endpoints.s3.clone(),
                bucket: volume.to_owned(),
            }),
            mount: Some(endpoints.mount_command(volume, self.inner.security.tls().is_some())),
        }
    }

    /// A token for reading the volume over the filer's HTTP, where the filer asks for one: `old` as long as half of
    /// its life is left.
    #[must_use]
    pub fn token(&self, volume: &str, old: Option<&str>, now: SystemTime) -> Option<String> {
        let (security, path) = (&self.inner.security, data_path(volume));
        match old {
            Some(old) if security.is_fresh(old, &path, now) => Some(old.to_owned()),
            _ => security.token(&path, now),
        }
    }

    /// Makes the volume be there as `spec` says, from whatever state a crash, a person or an older specification
    /// left it in. A quota that differs is set; data is never touched.
    ///
    /// # Errors
    /// What stands in the way; a directory that is not ours is left alone.
    pub async fn ensure_volume(&self, spec: &VolumeSpec) -> Result<Handle, EnsureVolumeError> {
        validate(spec)?;
        let path = format!("{BUCKETS}/{}", spec.name);
        // Not even a rule is written for a name that somebody else has.
        if let Some(entry) = self.look_up(BUCKETS, &spec.name).await? {
            directory::owned(&entry, &spec.name, &spec.cluster_id)
                .and_then(|()| directory::of_this_claim(&entry, spec))
                .map_err(|found| EnsureVolumeError::Foreign {
                    path: path.clone(),
                    found,
                })?;
        }
        let rule = Change::Put(Rule {
            prefix: prefix(&spec.name),
            disk_tag: spec.disk_tag.clone(),
            replication: spec.replication.clone(),
            growth_count: spec.growth_count,
        });
        self.change_rule(rule.clone()).await?;
        let grown = self.ensure_directory(spec).await?;
        self.ensure_data_folder(&spec.name).await?;
        if grown {
            self.unlock_if_below(&spec.name, spec.quota_bytes).await?;
        }
        // Others write filer.conf without asking: what they lost meanwhile is set again before the first byte.
        self.change_rule(rule).await?;
        let servers = self.take_first_slot(spec).await?;
        Ok(Handle {
            data_path: data_path(&spec.name),
            path,
            bucket: spec.name.clone(),
            quota_bytes: spec.quota_bytes,
            servers,
        })
    }

    /// Takes the first slots, so that a pool without room says so now and the first write is quick; says which
    /// servers hold the volume.
    async fn take_first_slot(&self, spec: &VolumeSpec) -> Result<Vec<String>, EnsureVolumeError> {
        let held = self.placement(&spec.name).await?;
        let held = if held.is_empty() {
            match self.assign(&spec.name).await {
                // Over its quota and empty at the same time: only when a quota of others' making is there.
                Err(error) if error.failure == Failure::ReadOnly => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    crate::fault::point("slot-taken");
                    self.placement(&spec.name).await?
                }
            }
        } else {
            held
        };
        if let Some(wrong) = held.iter().find(|disk| disk.tag != spec.disk_tag) {
            return Err(EnsureVolumeError::Misplaced {
                collection: spec.name.clone(),
                found: format!("{:?} of {}", wrong.tag, wrong.server),
                wanted: spec.disk_tag.clone(),
            });
        }
        Ok(held.into_iter().map(|disk| disk.server).collect())
    }

    async fn placement(&self, volume: &str) -> Result<Vec<Disk>, CallError> {
        let topology = Topology::from_answer(self.volume_list(volume.to_owned()).await?);
        Ok(topology
            .disks
            .into_iter()
            .filter(|disk| disk.collections.iter().any(|held| held == volume))
            .collect())
    }

    /// Sets the quota of a volume that exists. Where the volume is closed because it was full, and holds less
    /// than the new quota, it is opened again at once; otherwise the server's loop decides within a minute.
    ///
    /// # Errors
    /// What stands in the way; a directory that is not ours is left alone.
    pub async fn set_quota(
        &self,
        volume: &str,
        cluster_id: &str,
        quota_bytes: u64,
    ) -> Result<(), QuotaError> {
        let path = format!("{BUCKETS}/{volume}");
        let quota = i64::try_from(quota_bytes).ok().filter(|quota| *quota > 0);
        let quota = quota.ok_or(QuotaError::Invalid(quota_bytes))?;
        let Some(mut entry) = self.look_up(BUCKETS, volume).await? else {
            return Err(QuotaError::Missing { path });
        };
        directory::owned(&entry, volume, cluster_id).map_err(|found| QuotaError::Foreign {
            path: path.clone(),
            found,
        })?;
        if entry.quota != quota {
            entry.quota = quota;
            self.update_owned(entry, volume, cluster_id).await?;
        }
        self.unlock_if_below(volume, quota_bytes).await?;
        Ok(())
    }

    /// The same condition as the server's loop has, only sooner.
    async fn unlock_if_below(&self, volume: &str, quota_bytes: u64) -> Result<(), RuleError> {
        let prefix = prefix(volume);
        if self.rule_is_read_only(&prefix).await? && self.usage(volume).await? < quota_bytes {
            self.change_rule(Change::Unlock(prefix)).await?;
        }
        Ok(())
    }

    /// Removes a volume: its keys, its directory with everything under it, its collection and its rule. What is
    /// not there is removed; the rest of the cluster is not touched.
    ///
    /// # Errors
    /// What stands in the way; a directory without this cluster's mark is left alone.
    pub async fn delete_volume(&self, volume: &str, cluster_id: &str) -> Result<(), DeleteVolumeError> {
        if !is_volume_name(volume) {
            return Err(DeleteVolumeError::Invalid(volume.to_owned()));
        }
        let entry = self.look_up(BUCKETS, volume).await?;
        if let Some(entry) = &entry {
            directory::owned(entry, volume, cluster_id).map_err(|found| DeleteVolumeError::Foreign {
                path: format!("{BUCKETS}/{volume}"),
                found,
            })?;
        }
        self.delete_identity(volume).await?;
        crate::fault::point("identity-deleted");
        if entry.is_some() {
            self.delete_directory(volume).await?;
            crate::fault::point("directory-deleted");
        }
        self.delete_collection(volume).await?;
        crate::fault::point("collection-deleted");
        self.change_rule(Change::Remove(prefix(volume))).await?;
        Ok(())
    }

    /// The filer deletes it with the directory; this finishes what a crash or a server that was away left.
    async fn delete_collection(&self, volume: &str) -> Result<(), DeleteVolumeError> {
        const LOOKS: u32 = 10;
        for _ in 0..LOOKS {
            if !self.has_collection(volume).await? {
                return Ok(());
            }
            let mut master = self.inner.master.clone();
            let request = master_pb::CollectionDeleteRequest {
                name: volume.to_owned(),
            };
            if let Err(status) = master.collection_delete(request).await {
                return Err(CallError::from_status(Part::Master, "delete the collection", &status).into());
            }
            if !self.has_collection(volume).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Err(DeleteVolumeError::Lingering(volume.to_owned()))
    }

    async fn has_collection(&self, name: &str) -> Result<bool, CallError> {
        let mut master = self.inner.master.clone();
        let request = master_pb::CollectionListRequest {
            include_normal_volumes: true,
            include_ec_volumes: true,
        };
        match master.collection_list(request).await {
            Ok(answer) => Ok(answer
                .get_ref()
                .collections
                .iter()
                .any(|found| found.name == name)),
            Err(status) => Err(CallError::from_status(
                Part::Master,
                "list the collections",
                &status,
            )),
        }
    }
}

/// The rule's path of a volume.
fn prefix(volume: &str) -> String {
    format!("{BUCKETS}/{volume}/")
}

/// What users get of a volume.
fn data_path(volume: &str) -> String {
    format!("{BUCKETS}/{volume}/{DATA}")
}

/// A name that is ours to give, and legal as bucket and collection.
fn is_volume_name(name: &str) -> bool {
    let rest = name.strip_prefix("uv-").unwrap_or_default();
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !rest.is_empty() && name.len() <= 63 && !name.ends_with('-') && rest.bytes().all(legal)
}

fn validate(spec: &VolumeSpec) -> Result<(), EnsureVolumeError> {
    let wrong = |field, reason| Err(EnsureVolumeError::Invalid { field, reason });
    let tag = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    let copies: Option<u32> = spec.replication.chars().map(|c| c.to_digit(3)).sum();
    if !is_volume_name(&spec.name) {
        return wrong(
            "name",
            "it must be uv- and at most 60 lower-case letters, digits and dashes",
        );
    }
    if spec.disk_tag.is_empty() || !spec.disk_tag.bytes().all(tag) {
        return wrong(
            "disk tag",
            "it must be lower-case letters, digits, '-', '.' and '_'",
        );
    }
    if spec.disk_tag == DEFAULT_DISKS {
        return wrong("disk tag", "it means every disk without a tag");
    }
    if spec.quota_bytes == 0 || i64::try_from(spec.quota_bytes).is_err() {
        return wrong(
            "quota",
            "it must be more than zero and fit a signed 64-bit number",
        );
    }
    if spec.cluster_id.is_empty() {
        return wrong("cluster id", "it must not be empty");
    }
    match copies {
        Some(others) if spec.replication.len() == 3 => {
            if spec.growth_count == 0 || !spec.growth_count.is_multiple_of(others + 1) {
                return wrong("growth count", "it must be a multiple of the copies");
            }
        }
        _ => return wrong("replication", "it must be three digits from 0 to 2"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Owner;

    fn spec() -> VolumeSpec {
        VolumeSpec {
            name: "uv-0198c0de-0000-7000-8000-000000000001".into(),
            disk_tag: "pool-a".into(),
            quota_bytes: 1 << 30,
            replication: "000".into(),
            growth_count: 1,
            cluster_id: "c1".into(),
            owner: Owner {
                namespace: "default".into(),
                name: "data".into(),
                uid: "u1".into(),
            },
        }
    }

    #[test]
    fn a_specification_that_no_server_can_meet_names_the_field() {
        let check = |change: fn(&mut VolumeSpec), field: &str| {
            let mut wrong = spec();
            change(&mut wrong);
            let Err(EnsureVolumeError::Invalid { field: named, .. }) = validate(&wrong) else {
                panic!("{field} was accepted");
            };
            assert_eq!(named, field);
        };
        validate(&spec()).unwrap();
        check(|spec| spec.name = "data".into(), "name");
        check(|spec| spec.name = "uv-A".into(), "name");
        check(|spec| spec.name = format!("uv-{}", "a".repeat(61)), "name");
        check(|spec| spec.disk_tag = "A,b".into(), "disk tag");
        check(|spec| spec.disk_tag = String::new(), "disk tag");
        check(|spec| spec.disk_tag = DEFAULT_DISKS.into(), "disk tag");
        check(|spec| spec.quota_bytes = 0, "quota");
        check(|spec| spec.quota_bytes = u64::MAX, "quota");
        check(|spec| spec.replication = "0x0".into(), "replication");
        check(|spec| spec.replication = "0000".into(), "replication");
        check(|spec| spec.replication = "001".into(), "growth count");
        check(|spec| spec.cluster_id = String::new(), "cluster id");
    }

    #[tokio::test]
    async fn a_cluster_that_is_away_is_said_so_part_by_part() {
        let weed = SeaweedFs::connect(
            Endpoints::parse("127.0.0.1:1.1", "127.0.0.1:1.1", "http://127.0.0.1:1").unwrap(),
            Security::default(),
        );
        let weed = weed.unwrap();
        let health = weed.health().await;
        assert!(!health.is_serving());
        let faults = health.faults(weed.endpoints());
        assert_eq!(faults.len(), 3, "{health:?}");
        assert!(
            faults[1].starts_with("SeaweedFS filer at 127.0.0.1:1.1: "),
            "{faults:?}"
        );
        let EnsureVolumeError::Call(error) = weed.ensure_volume(&spec()).await.unwrap_err() else {
            panic!("no call error");
        };
        assert_eq!(
            (error.part, error.failure),
            (Part::Filer, Failure::Unreachable),
            "{error}"
        );
    }
}
