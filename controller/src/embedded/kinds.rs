//! The kinds that are served: what a CustomResourceDefinition says of one, and the few built-in ones.
//!
//! Data only. A CRD is served in its storage version; conversion between versions is not offered.

mod builtin;

use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::schema::{Schema, SchemaError};
use super::status::About;
use super::table::{Column, Source};
pub use builtin::built_in;

/// How an object's body becomes what is stored.
#[derive(Debug)]
pub enum Shape {
    /// By the schema of a CRD.
    Structural(Box<Schema>),
    /// By the type of `k8s-openapi`: read and written again, so that only known fields of the right types
    /// remain.
    Typed(fn(Value) -> Result<Value, serde_json::Error>),
}

/// A kind in one version.
#[derive(Debug)]
pub struct Kind {
    /// API group, empty for core.
    pub group: String,
    /// Version, `v1`.
    pub version: String,
    /// `UnifiedPool`.
    pub kind: String,
    /// `UnifiedPoolList`.
    pub list_kind: String,
    /// `unifiedpools`.
    pub plural: String,
    /// `unifiedpool`.
    pub singular: String,
    /// `up`.
    pub short_names: Vec<String>,
    /// `all`, `storage`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether there is a status subresource.
    pub status: bool,
    /// Where objects are stored: `plural.group` of the storage kind.
    pub resource: Arc<str>,
    /// How bodies are read.
    pub shape: Shape,
    /// The OpenAPI schema, for `kubectl explain`.
    pub openapi: Value,
    /// Printer columns, the name aside.
    pub columns: Vec<Column>,
    /// JSON paths by which `fieldSelector` may choose, `spec.pool`, beyond the name and namespace.
    pub selectable: Vec<String>,
    /// Writes by clients are refused.
    pub read_only: bool,
    /// `metadata.generation` counts changes of what is desired.
    pub generations: bool,
    /// A replacement may leave out `resourceVersion`.
    pub unconditional_update: bool,
    /// A replacement makes the object where there is none.
    pub create_on_update: bool,
    /// Fields that have other names in storage: (here, stored). See `events.k8s.io`.
    pub renamed: &'static [(&'static str, &'static str)],
}

/// Why a CRD cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KindError {
    /// It has no storage version, or no schema in it.
    #[error("{0}: no served storage version with a schema")]
    NoVersion(String),
    /// Its schema or one of its rules is wrong.
    #[error("{name}: {error}")]
    Schema {
        /// The CRD.
        name: String,
        /// What is wrong.
        error: SchemaError,
    },
    /// It cannot be written as JSON.
    #[error("{0}")]
    Encoding(String),
}

impl Kind {
    /// The kind that a CRD defines.
    pub fn from_crd(crd: &CustomResourceDefinition) -> Result<Self, KindError> {
        let crd = serde_json::to_value(crd).map_err(|e| KindError::Encoding(e.to_string()))?;
        let spec = crd.get("spec").cloned().unwrap_or_default();
        let names = spec.get("names").cloned().unwrap_or_default();
        let text = |of: &Value, name: &str| {
            of.get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let group = text(&spec, "group");
        let plural = text(&names, "plural");
        let name = format!("{plural}.{group}");
        let versions = spec
            .get("versions")
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        let is = |version: &&Value, flag: &str| version.get(flag).and_then(Value::as_bool).unwrap_or(false);
        let version = versions
            .iter()
            .find(|v| is(v, "storage") && is(v, "served"))
            .ok_or_else(|| KindError::NoVersion(name.clone()))?;
        let openapi = version
            .pointer("/schema/openAPIV3Schema")
            .cloned()
            .ok_or_else(|| KindError::NoVersion(name.clone()))?;
        let schema = Schema::parse(&openapi).map_err(|error| KindError::Schema {
            name: name.clone(),
            error,
        })?;
        let kind = text(&names, "kind");
        let or = |given: String, default: String| if given.is_empty() { default } else { given };
        Ok(Self {
            version: text(version, "name"),
            list_kind: or(text(&names, "listKind"), format!("{kind}List")),
            singular: or(text(&names, "singular"), kind.to_lowercase()),
            short_names: texts(&names, "shortNames"),
            categories: texts(&names, "categories"),
            namespaced: text(&spec, "scope") == "Namespaced",
            status: version
                .pointer("/subresources/status")
                .is_some_and(|s| !s.is_null()),
            resource: name.into(),
            shape: Shape::Structural(Box::new(schema)),
            columns: columns(version),
            selectable: selectable(version),
            openapi,
            group,
            kind,
            plural,
            read_only: false,
            generations: true,
            unconditional_update: false,
            create_on_update: false,
            renamed: &[],
        })
    }

    /// `group/version`, or `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// What an error is about.
    pub fn about<'a>(&'a self, name: &'a str) -> About<'a> {
        About {
            plural: &self.plural,
            group: &self.group,
            kind: &self.kind,
            name,
        }
    }

    /// From the form of the URL to the stored one.
    pub fn to_stored(&self, mut value: Value, stored_api_version: &str) -> Value {
        if !self.renamed.is_empty() {
            rename(
                &mut value,
                self.renamed.iter().map(|(here, stored)| (*here, *stored)),
            );
            set_api_version(&mut value, stored_api_version);
        }
        value
    }

    /// From the stored form to the one of the URL.
    pub fn presented(&self, mut value: Value) -> Value {
        if !self.renamed.is_empty() {
            rename(
                &mut value,
                self.renamed.iter().map(|(here, stored)| (*stored, *here)),
            );
            set_api_version(&mut value, &self.api_version());
        }
        value
    }
}

fn rename<'a>(value: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let Some(map) = value.as_object_mut() else { return };
    let moved: Vec<(&str, Value)> = names
        .filter_map(|(from, to)| Some((to, map.remove(from)?)))
        .collect();
    map.extend(moved.into_iter().map(|(name, value)| (name.to_owned(), value)));
}

fn set_api_version(value: &mut Value, api_version: &str) {
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), json!(api_version));
    }
}

fn texts(of: &Value, name: &str) -> Vec<String> {
    let list = of.get(name).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn selectable(version: &Value) -> Vec<String> {
    let fields = version
        .get("selectableFields")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let paths = fields.filter_map(|f| f.get("jsonPath").and_then(Value::as_str));
    paths.map(|p| p.trim_start_matches('.').to_owned()).collect()
}

fn columns(version: &Value) -> Vec<Column> {
    let given = version.get("additionalPrinterColumns").and_then(Value::as_array);
    let text = |column: &Value, name: &str| {
        column
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    match given {
        Some(given) if !given.is_empty() => given
            .iter()
            .map(|column| Column {
                name: text(column, "name"),
                kind: text(column, "type"),
                format: text(column, "format"),
                description: text(column, "description"),
                priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
                source: Source::path(&text(column, "jsonPath")),
            })
            .collect(),
        _ => vec![Column::age()],
    }
}
