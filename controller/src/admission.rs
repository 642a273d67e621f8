//! Which nodes are taken in: those that a StorageNode names, and with `--auto-discover` every one that enrols.

use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
    runtime::reflector::Store,
};
use smart_storage_core::drive::NodeName;

use crate::{
    agents::Admission,
    crd::{StorageNode, StorageNodeSpec},
    reconcile::is_already_there,
};

/// Asks the StorageNode objects.
pub struct Nodes {
    client: Client,
    store: Store<StorageNode>,
    auto_discover: bool,
}

impl Nodes {
    /// An admission by these objects.
    #[must_use]
    pub fn new(client: Client, store: Store<StorageNode>, auto_discover: bool) -> Self {
        Self {
            client,
            store,
            auto_discover,
        }
    }

    async fn create(&self, node: &NodeName) -> Result<(), String> {
        let object = StorageNode {
            metadata: ObjectMeta {
                name: Some(node.to_string()),
                ..ObjectMeta::default()
            },
            spec: StorageNodeSpec {
                node_name: node.to_string(),
                auto_discover: true,
                fault_domain: None,
                labels: std::collections::BTreeMap::new(),
                discovery_interval_secs: None,
                excluded_drives: Vec::new(),
                drive_overrides: std::collections::BTreeMap::new(),
            },
            status: None,
        };
        let api = Api::<StorageNode>::all(self.client.clone());
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => {
                crate::fault::point("node-made");
                Ok(())
            }
            Err(error) if is_already_there(&error) => match api.get(node.as_str()).await {
                Ok(there) if there.spec.node_name == node.as_str() && there.spec.auto_discover => Ok(()),
                Ok(_) => Err(format!(
                    "StorageNode {node} names another node, or says autoDiscover: false"
                )),
                Err(error) => Err(format!("its StorageNode could not be read: {error}")),
            },
            Err(error) => Err(format!("its StorageNode could not be made: {error}")),
        }
    }
}

#[tonic::async_trait]
impl Admission for Nodes {
    async fn admit(&self, node: &NodeName) -> Result<(), String> {
        let named = self
            .store
            .state()
            .into_iter()
            .find(|object| object.spec.node_name == node.as_str());
        match named {
            Some(object) if object.spec.auto_discover => Ok(()),
            Some(object) => {
                let name = object.metadata.name.clone().unwrap_or_default();
                Err(format!(
                    "StorageNode {name} says autoDiscover: false; set it to true to take the node in"
                ))
            }
            None if self.auto_discover => self.create(node).await,
            None => Err(format!(
                "no StorageNode names it: create one with spec.nodeName {node}, or start the controller with --auto-discover"
            )),
        }
    }
}
