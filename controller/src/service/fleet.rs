//! Nodes, pools, classes and capacity: what there is, read from the objects.

use std::time::Duration;

use kube::{Api, ResourceExt as _};

use super::{
    Service,
    capacity::{Capacity, totals},
    error::ServiceError,
    listing::{PageRequest, list, list_all},
    names::is_subdomain,
    view::{Class, Node, Page, Pool, PoolMember},
};
use crate::crd::{self, StorageNode, UnifiedPool};

impl Service {
    /// Nodes with their drives, in parts.
    ///
    /// # Errors
    /// `Invalid` where the token is not one of this list, or too old.
    pub async fn list_nodes(&self, page: &PageRequest) -> Result<Page<Node>, ServiceError> {
        let (nodes, continue_) = list(&self.nodes(), "", page, |_| true).await?;
        Ok(Page {
            items: nodes.iter().map(Node::from).collect(),
            continue_,
        })
    }

    /// One node, by the node's name.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get_node(&self, name: &str) -> Result<Node, ServiceError> {
        self.storage_node(name).await.map(|node| Node::from(&node))
    }

    /// Lets the node's agent probe now, and answers what it found.
    ///
    /// # Errors
    /// `NotFound`, or `Unavailable` with the reason when the agent is away.
    pub async fn classify_node(&self, name: &str) -> Result<Node, ServiceError> {
        self.storage_node(name).await?;
        self.parts.agents.probe_now(name).await.map_err(|away| {
            ServiceError::unavailable(
                format!("The agent of node {name:?} is away."),
                vec![away.reason],
                Duration::from_secs(5),
            )
        })?;
        self.get_node(name).await
    }

    /// A StorageNode usually has its node's name; it need not.
    async fn storage_node(&self, name: &str) -> Result<StorageNode, ServiceError> {
        let not_found = || {
            let shown: String = name.chars().take(80).collect();
            ServiceError::not_found("node", &shown)
        };
        if !is_subdomain(name) {
            return Err(not_found());
        }
        if let Some(node) = self
            .nodes()
            .get_opt(name)
            .await?
            .filter(|n| n.spec.node_name == name)
        {
            return Ok(node);
        }
        let first = PageRequest::new(Some(1), None)?;
        let (mut nodes, _) = list(&self.nodes(), "", &first, |n| n.spec.node_name == name).await?;
        nodes.pop().ok_or_else(not_found)
    }

    /// Pools with their members, in parts.
    ///
    /// # Errors
    /// `Invalid` where the token is not one of this list, or too old.
    pub async fn list_pools(&self, page: &PageRequest) -> Result<Page<Pool>, ServiceError> {
        let (pools, continue_) = list(&self.pools(), "", page, |_| true).await?;
        let members = if pools.is_empty() {
            Vec::new()
        } else {
            list_all(&self.members(), "").await?
        };
        Ok(Page {
            items: pools.iter().map(|pool| with_members(pool, &members)).collect(),
            continue_,
        })
    }

    /// One pool with its members.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get_pool(&self, name: &str) -> Result<Pool, ServiceError> {
        let pool = if is_subdomain(name) {
            self.pools().get_opt(name).await?
        } else {
            None
        };
        let pool = pool.ok_or_else(|| {
            let shown: String = name.chars().take(80).collect();
            ServiceError::not_found("pool", &shown)
        })?;
        Ok(with_members(&pool, &list_all(&self.members(), "").await?))
    }

    /// Classes with the capacity that each can still give, in parts.
    ///
    /// # Errors
    /// `Invalid` where the token is not one of this list, or too old.
    pub async fn list_classes(&self, page: &PageRequest) -> Result<Page<Class>, ServiceError> {
        let (classes, continue_) = list(&self.classes(), "", page, |_| true).await?;
        Ok(Page {
            items: classes.iter().map(Class::from).collect(),
            continue_,
        })
    }

    /// Every class.
    ///
    /// # Errors
    /// `Unavailable` where the API could not be reached.
    pub async fn all_classes(&self) -> Result<Vec<Class>, ServiceError> {
        Ok(list_all(&self.classes(), "")
            .await?
            .iter()
            .map(Class::from)
            .collect())
    }

    /// Totals by node, tier, type and pool.
    ///
    /// # Errors
    /// `Unavailable` where the API could not be reached.
    pub async fn capacity(&self) -> Result<Capacity, ServiceError> {
        let nodes = self.nodes();
        let pools: Api<UnifiedPool> = self.pools();
        let members = self.members();
        let (nodes, pools, members) =
            tokio::try_join!(list_all(&nodes, ""), list_all(&pools, ""), list_all(&members, ""))?;
        Ok(totals(&nodes, &pools, &members))
    }
}

fn with_members(pool: &UnifiedPool, members: &[crd::PoolMember]) -> Pool {
    let name = pool.name_any();
    Pool::of(
        pool,
        members
            .iter()
            .filter(|m| m.spec.pool == name)
            .map(PoolMember::from)
            .collect(),
    )
}
