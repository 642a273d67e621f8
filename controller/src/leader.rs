//! Who leads. Only the leader reconciles and takes the agents' streams.
//!
//! Standalone there is one process: the store's lock on its file keeps a second one out, and taking the lead is a
//! higher `leaseTransitions` in the Lease. That number is the epoch which commands carry and agents hold against an
//! older leader. Electing one of several replicas comes with running in a cluster.

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

const LEASE: &str = "smart-storage-controller";
const NAMESPACE: &str = "kube-system";

/// Takes the lead for this process and answers its epoch, greater than any before.
///
/// # Errors
/// Where the Lease cannot be read or written.
pub async fn take(client: &Client, identity: &str, now: Timestamp) -> Result<u64, kube::Error> {
    let api = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    let found = api.get_opt(LEASE).await?;
    let before = found
        .as_ref()
        .and_then(|lease| lease.spec.as_ref()?.lease_transitions)
        .unwrap_or(0);
    let epoch = before.saturating_add(1);
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(LEASE.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            resource_version: found
                .as_ref()
                .and_then(|lease| lease.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_transitions: Some(epoch),
            acquire_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    };
    if found.is_some() {
        api.replace(LEASE, &PostParams::default(), &lease).await?;
    } else {
        api.create(&PostParams::default(), &lease).await?;
    }
    Ok(u64::try_from(epoch).unwrap_or(1))
}
