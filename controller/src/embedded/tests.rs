//! Laws of the embedded API, asked through its public doors.

mod conformance;
mod http;
mod kubectl;
mod ours;
mod rules;
mod verbs;
mod watches;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Embedded, Limits};

/// A vessel with cargo.
#[derive(CustomResource, Clone, Debug, Serialize, Deserialize, KubeSchema, PartialEq)]
#[kube(
    group = "test.example.io",
    version = "v1",
    kind = "Vessel",
    namespaced,
    status = "VesselStatus",
    derive = "PartialEq",
    shortname = "vs",
    category = "harbour",
    printcolumn = r#"{"name":"Cargo","type":"string","jsonPath":".spec.cargo"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("self.metadata.name.size() <= 20").message("names are at most 20 long"),
)]
#[serde(rename_all = "camelCase")]
pub(super) struct VesselSpec {
    /// What it carries.
    #[schemars(length(min = 1, max = 12))]
    pub(super) cargo: String,
    /// Crew members, between 1 and 5.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 5))]
    pub(super) crew: u32,
    /// How much fits in, a quantity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("isQuantity(self) && sign(quantity(self)) > 0").message("must be a positive quantity"))]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity(oldSelf)) >= 0").message("a hold cannot shrink"))]
    pub(super) hold: Option<String>,
    /// The flag it sails under.
    #[serde(default)]
    pub(super) flag: Flag,
    /// Ports to call at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ports: Vec<Port>,
}

fn one() -> u32 {
    1
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) enum Flag {
    #[default]
    Red,
    Blue,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub(super) struct Port {
    /// Its name.
    pub(super) name: String,
    /// Days there.
    pub(super) days: i64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct VesselStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) phase: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
}

/// An API over a file of its own.
pub(super) struct Bed {
    pub(super) api: Embedded,
    pub(super) client: Client,
    folder: tempfile::TempDir,
}

impl Bed {
    pub(super) async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub(super) async fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::on(folder, limits).await
    }

    async fn on(folder: tempfile::TempDir, limits: Limits) -> Self {
        let path = folder.path().join("store.redb");
        let mut crds = crate::crd::all();
        crds.push(Vessel::crd());
        let api = Embedded::open_with(&path, crds, Arc::new(Timestamp::now), limits)
            .await
            .unwrap();
        Self {
            client: api.client(),
            api,
            folder,
        }
    }

    pub(super) async fn reopened(self) -> Self {
        self.api.close().await;
        Self::on(self.folder, Limits::default()).await
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join("store.redb")
    }

    pub(super) fn vessels(&self) -> Api<Vessel> {
        Api::default_namespaced(self.client.clone())
    }

    pub(super) async fn create(&self, name: &str) -> Vessel {
        self.vessels()
            .create(&PostParams::default(), &vessel(name))
            .await
            .unwrap()
    }
}

pub(super) fn vessel(name: &str) -> Vessel {
    let spec = VesselSpec {
        cargo: "tea".to_owned(),
        crew: 2,
        hold: None,
        flag: Flag::Red,
        ports: vec![],
    };
    Vessel::new(name, spec)
}

/// The status that a refused call was answered with.
pub(super) fn refused<T: std::fmt::Debug>(outcome: Result<T, kube::Error>) -> kube::core::Status {
    match outcome {
        Err(kube::Error::Api(status)) => *status,
        other => panic!("not refused: {other:?}"),
    }
}
