//! What a request asks for: path, query, media types.

use std::collections::BTreeMap;

use http::{HeaderMap, Uri, header};
use serde_json::json;

use super::objects::Unknown;
use super::status::ApiError;

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/healthz`, `/livez`.
    Alive,
    /// `/readyz`.
    Ready,
    /// `/version`.
    Version,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/<group>`.
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`.
    Resources(GroupVersion),
    /// `/openapi/v3`.
    OpenApiIndex,
    /// `/openapi/v3/…`.
    OpenApi(GroupVersion),
    /// Objects.
    Objects(Place),
}

/// Group (empty for core) and version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupVersion {
    /// Group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
}

/// A collection, an object or a subresource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Group and version.
    pub api: GroupVersion,
    /// Plural of the kind.
    pub plural: String,
    /// Namespace in the path.
    pub namespace: Option<String>,
    /// Name in the path.
    pub name: Option<String>,
    /// `status`.
    pub subresource: Option<String>,
}

/// Reads a path; nothing where there is nothing.
pub fn target(path: &str) -> Option<Target> {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let core = || GroupVersion {
        group: String::new(),
        version: "v1".to_owned(),
    };
    let named = |group: &str, version: &str| GroupVersion {
        group: group.to_owned(),
        version: version.to_owned(),
    };
    Some(match segments.as_slice() {
        ["healthz" | "livez", ..] => Target::Alive,
        ["readyz", ..] => Target::Ready,
        ["version"] => Target::Version,
        ["api"] => Target::CoreVersions,
        ["apis"] => Target::Groups,
        ["apis", group] => Target::Group((*group).to_owned()),
        ["api", "v1"] => Target::Resources(core()),
        ["apis", group, version] => Target::Resources(named(group, version)),
        ["openapi", "v3"] => Target::OpenApiIndex,
        ["openapi", "v3", "api", "v1"] => Target::OpenApi(core()),
        ["openapi", "v3", "apis", group, version] => Target::OpenApi(named(group, version)),
        ["api", "v1", rest @ ..] => Target::Objects(place(core(), rest)?),
        ["apis", group, version, rest @ ..] => Target::Objects(place(named(group, version), rest)?),
        _ => return None,
    })
}

fn place(api: GroupVersion, rest: &[&str]) -> Option<Place> {
    let owned = |text: &&str| (*text).to_owned();
    let (namespace, plural, name, subresource) = match rest {
        // Namespaces themselves.
        ["namespaces", name, sub @ ("status" | "finalize")] => (None, "namespaces", Some(name), Some(sub)),
        ["namespaces", name] => (None, "namespaces", Some(name), None),
        ["namespaces", namespace, plural] => (Some(namespace), *plural, None, None),
        ["namespaces", namespace, plural, name] => (Some(namespace), *plural, Some(name), None),
        ["namespaces", namespace, plural, name, sub] => (Some(namespace), *plural, Some(name), Some(sub)),
        [plural] => (None, *plural, None, None),
        [plural, name] => (None, *plural, Some(name), None),
        [plural, name, sub] => (None, *plural, Some(name), Some(sub)),
        _ => return None,
    };
    Some(Place {
        api,
        plural: plural.to_owned(),
        namespace: namespace.map(owned),
        name: name.map(owned),
        subresource: subresource.map(owned),
    })
}

/// The query of a request.
#[derive(Debug, Default)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads it; of a name given twice the last counts.
    pub fn parse(uri: &Uri) -> Result<Self, ApiError> {
        axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|pairs| Self(pairs.0.into_iter().collect()))
            .map_err(|e| ApiError::bad_request(e.to_string()))
    }

    /// A parameter, empty where it is not given.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A flag: `true` or `1`.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1")
    }

    /// A flag, where it is given.
    pub fn optional_flag(&self, name: &str) -> Option<bool> {
        self.0.get(name).map(|v| matches!(v.as_str(), "true" | "1"))
    }

    /// A number, where it is given.
    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("invalid value for {name}: {text:?} is not a number"))
            }),
        }
    }

    /// `dryRun`: only `All` is known. `kind` is how the options of the request are called.
    pub fn dry_run(&self, kind: &'static str) -> Result<bool, ApiError> {
        match self.text("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(ApiError::wrong_option(
                kind,
                "dryRun",
                &json!(other),
                &[json!("All")],
            )),
        }
    }

    /// `fieldValidation`.
    pub fn unknown(&self, kind: &'static str) -> Result<Unknown, ApiError> {
        match self.text("fieldValidation") {
            "" | "Warn" => Ok(Unknown::Warn),
            "Ignore" => Ok(Unknown::Ignore),
            "Strict" => Ok(Unknown::Strict),
            other => {
                let supported = [json!("Ignore"), json!("Warn"), json!("Strict")];
                Err(ApiError::wrong_option(
                    kind,
                    "fieldValidation",
                    &json!(other),
                    &supported,
                ))
            }
        }
    }
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// `PartialObjectMetadata`.
    Metadata,
    /// Aggregated discovery, for `/api` and `/apis` only.
    Aggregated,
}

/// Chooses the first form of `Accept` that is offered.
pub fn accepted(headers: &HeaderMap, discovery: bool) -> Result<Form, ApiError> {
    let Some(accept) = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()) else {
        return Ok(Form::Json);
    };
    if accept.trim().is_empty() {
        return Ok(Form::Json);
    }
    let forms = accept.split(',').filter_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let media_type = parts.next()?;
        let parameters: BTreeMap<&str, &str> = parts.filter_map(|p| p.split_once('=')).collect();
        match (media_type, parameters.get("as").copied()) {
            ("application/json", Some("APIGroupDiscoveryList"))
                if discovery && parameters.get("v") == Some(&"v2") =>
            {
                Some(Form::Aggregated)
            }
            ("application/json", Some("Table")) if !discovery => Some(Form::Table),
            ("application/json", Some("PartialObjectMetadata" | "PartialObjectMetadataList"))
                if !discovery =>
            {
                Some(Form::Metadata)
            }
            ("application/json" | "application/*" | "*/*", None) => Some(Form::Json),
            ("application/yaml", None) => Some(Form::Yaml),
            _ => None,
        }
    });
    forms
        .into_iter()
        .next()
        .ok_or_else(|| ApiError::not_acceptable("application/json, application/yaml"))
}

/// The media type of the body, without parameters; JSON where none is given.
pub fn media_type(headers: &HeaderMap) -> String {
    let given = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let bare = given
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if bare.is_empty() {
        "application/json".to_owned()
    } else {
        bare
    }
}
