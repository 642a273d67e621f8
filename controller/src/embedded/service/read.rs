//! Get, list and watch.

use std::borrow::Borrow;
use std::sync::Arc;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::json::set;
use super::super::kinds::Kind;
use super::super::request::{Form, Query};
use super::super::selectors::Selector;
use super::super::status::{About, ApiError, FieldError};
use super::super::store::{Object, StoreError};
use super::super::table;
use super::super::watching::{Watch, stream};
use super::{Answer, Call, Service, metadata_only, rendered};

/// Where the next page begins.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    v: String,
    rv: u64,
    /// `namespace/name` of the last object of the page before.
    start: String,
}

impl Continue {
    fn token(revision: u64, last: &Object) -> String {
        let start = format!("{}/{}", last.key.namespace, last.key.name);
        let token = Self {
            v: "meta.k8s.io/v1".to_owned(),
            rv: revision,
            start,
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    fn parse(token: &str) -> Result<Self, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok();
        let token: Option<Self> = bytes.and_then(|b| serde_json::from_slice(&b).ok());
        token
            .filter(|t| t.v == "meta.k8s.io/v1" && t.start.contains('/'))
            .ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

struct Page {
    revision: u64,
    objects: Vec<Arc<Object>>,
    next: Option<String>,
    remaining: Option<usize>,
}

impl Service {
    pub(super) fn get(&self, call: &Call, name: &str) -> Result<Answer, ApiError> {
        let asked = call.query.number("resourceVersion")?;
        self.check_reached(asked)?;
        let object = self
            .store
            .get(&call.key(name))
            .ok_or_else(|| ApiError::not_found(call.kind.about(name)))?;
        self.object_answer(call, StatusCode::OK, &object)
    }

    /// A revision from the future is refused; it may be another server's.
    fn check_reached(&self, asked: Option<u64>) -> Result<(), ApiError> {
        match asked.filter(|asked| *asked > self.store.revision()) {
            Some(asked) => Err(ApiError::too_large_revision(asked, self.store.revision())),
            None => Ok(()),
        }
    }

    pub(super) fn selector(call: &Call) -> Result<Selector, ApiError> {
        let (labels, fields) = (call.query.text("labelSelector"), call.query.text("fieldSelector"));
        Selector::parse(labels, fields, &call.kind).map_err(ApiError::bad_request)
    }

    pub(super) fn list(&self, call: &Call) -> Result<Answer, ApiError> {
        let selector = Self::selector(call)?;
        let page = self.page(call, &selector)?;
        let kind = &call.kind;
        let mut metadata = json!({"resourceVersion": page.revision.to_string()});
        if let Some(token) = &page.next {
            set(&mut metadata, &["continue"], json!(token));
        }
        if let Some(remaining) = page.remaining {
            set(&mut metadata, &["remainingItemCount"], json!(remaining));
        }
        let (body, media_type) = match call.form {
            Form::Table => {
                let mut table = table(kind, &page.objects, self.now(), &call.query, true)?;
                set(&mut table, &["metadata"], metadata);
                (Bytes::from(table.to_string()), "application/json")
            }
            Form::Metadata => {
                let items = page.objects.iter().map(|o| Ok(metadata_only(kind, &o.value()?)));
                let items = items.collect::<Result<Vec<_>, StoreError>>()?;
                let list = json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata, "items": items,
                });
                (Bytes::from(list.to_string()), "application/json")
            }
            Form::Json | Form::Aggregated => (list_body(kind, &metadata, &page.objects)?, "application/json"),
            Form::Yaml => {
                let bytes = list_body(kind, &metadata, &page.objects)?;
                let wrong = |e: String| ApiError::internal(e);
                let value: Value = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
                let text = serde_saphyr::to_string(&value).map_err(|e| wrong(e.to_string()))?;
                (Bytes::from(text), "application/yaml")
            }
        };
        Ok(Answer {
            code: StatusCode::OK,
            body: Body::from(body),
            media_type,
            warnings: Vec::new(),
        })
    }

    fn page(&self, call: &Call, selector: &Selector) -> Result<Page, ApiError> {
        let query = &call.query;
        let limit = query
            .number("limit")?
            .map_or(0, |l| usize::try_from(l).unwrap_or(usize::MAX));
        let token = query.text("continue");
        let begin = if token.is_empty() {
            None
        } else {
            Some(Continue::parse(token)?)
        };
        let at = self.list_revision(query, begin.as_ref())?;
        let snapshot = self
            .store
            .snapshot(&call.kind.resource, call.namespace.as_deref(), at)
            .map_err(|error| self.expired(error, begin.as_ref()))?;
        let after = |object: &Object| match &begin {
            None => true,
            Some(begin) => {
                let (namespace, name) = begin.start.split_once('/').unwrap_or_default();
                (object.key.namespace.as_str(), object.key.name.as_str()) > (namespace, name)
            }
        };
        let mut objects: Vec<Arc<Object>> = snapshot
            .objects
            .into_iter()
            .filter(|o| after(o) && selector.fits(o, &call.kind))
            .collect();
        let revision = snapshot.revision;
        let (mut next, mut remaining) = (None, None);
        if limit > 0 && objects.len() > limit {
            if selector.is_everything() {
                remaining = Some(objects.len() - limit);
            }
            objects.truncate(limit);
            next = objects.last().map(|last| Continue::token(revision, last));
        }
        Ok(Page {
            revision,
            objects,
            next,
            remaining,
        })
    }

    /// The revision at which to list; none is the newest.
    fn list_revision(&self, query: &Query, begin: Option<&Continue>) -> Result<Option<u64>, ApiError> {
        let asked = query.number("resourceVersion")?;
        let rule = query.text("resourceVersionMatch");
        if let Some(begin) = begin {
            if asked.is_some_and(|rv| rv != 0) {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            if !rule.is_empty() {
                return Err(options_refused(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            // No page of ours ends in the future: it is another server's token, or made up. Waiting does not help.
            if begin.rv > self.store.revision() {
                return Err(ApiError::expired(
                    "The provided continue parameter is not of a list of this server. Start a new list without it.",
                ));
            }
            return Ok(Some(begin.rv));
        }
        self.check_reached(asked)?;
        match (rule, asked) {
            ("", _) | ("NotOlderThan", Some(_)) => Ok(None),
            ("Exact", Some(rv)) if rv > 0 => Ok(Some(rv)),
            ("Exact", Some(_)) => Err(options_refused(
                "resourceVersionMatch",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            )),
            ("Exact" | "NotOlderThan", None) => Err(options_refused(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            )),
            (other, _) => {
                let supported = [json!("Exact"), json!("NotOlderThan"), json!("")];
                Err(options_invalid(FieldError::not_supported(
                    "resourceVersionMatch",
                    &json!(other),
                    &supported,
                )))
            }
        }
    }

    /// An expired page carries a token to go on with, at the newest revision and so inconsistently.
    fn expired(&self, error: StoreError, begin: Option<&Continue>) -> ApiError {
        let (StoreError::Expired { .. }, Some(begin)) = (&error, begin) else {
            return error.into();
        };
        let mut refusal = ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a \
             new list without the continue parameter, or use the continue token in this response to retrieve \
             the remainder of the results.",
        );
        let token = Continue {
            v: begin.v.clone(),
            rv: self.store.revision(),
            start: begin.start.clone(),
        };
        refusal.resume = serde_json::to_vec(&token)
            .ok()
            .map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        refusal
    }

    pub(super) fn watch(self: &Arc<Self>, call: Call) -> Result<Answer, ApiError> {
        let selector = Self::selector(&call)?;
        let query = &call.query;
        let asked = query.number("resourceVersion")?;
        self.check_reached(asked)?;
        let initial = query.optional_flag("sendInitialEvents");
        let rule = query.text("resourceVersionMatch");
        if initial.is_some() && rule != "NotOlderThan" {
            return Err(options_refused(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if initial.is_none() && !rule.is_empty() {
            return Err(options_refused(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        let anywhere = asked.unwrap_or(0) == 0;
        let watch = Watch {
            kind: Arc::clone(&call.kind),
            namespace: call.namespace.clone(),
            selector,
            form: call.form,
            bookmarks: query.flag("allowWatchBookmarks"),
            initial: initial.unwrap_or(anywhere),
            mark_initial: initial == Some(true),
            after: if anywhere { None } else { asked },
            timeout: query.number("timeoutSeconds")?,
            include: query.text("includeObject").to_owned(),
        };
        let body = Body::from_stream(stream(Arc::clone(self), watch)?);
        Ok(Answer {
            code: StatusCode::OK,
            body,
            media_type: "application/json",
            warnings: Vec::new(),
        })
    }
}

fn options_refused(field: &str, detail: &str) -> ApiError {
    options_invalid(FieldError::forbidden(field, detail))
}

fn options_invalid(error: FieldError) -> ApiError {
    let about = About {
        plural: "ListOptions",
        group: "meta.k8s.io",
        kind: "ListOptions",
        name: "",
    };
    ApiError::invalid(about, &[error])
}

fn list_body(kind: &Kind, metadata: &Value, objects: &[Arc<Object>]) -> Result<Bytes, ApiError> {
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
        json!(kind.list_kind),
        json!(kind.api_version())
    );
    let mut body = head.into_bytes();
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&rendered(kind, object)?);
    }
    body.extend_from_slice(b"]}");
    Ok(Bytes::from(body))
}

/// A table with one row for each object; what `includeObject` asks for beside the cells.
pub(in super::super) fn table<O: Borrow<Object>>(
    kind: &Kind,
    objects: &[O],
    now: Timestamp,
    query: &Query,
    with_columns: bool,
) -> Result<Value, ApiError> {
    rows(
        kind,
        objects.iter().map(Borrow::borrow),
        now,
        query.text("includeObject"),
        with_columns,
    )
}

/// As [`table`], of any objects.
pub(in super::super) fn rows<'o>(
    kind: &Kind,
    objects: impl Iterator<Item = &'o Object>,
    now: Timestamp,
    include: &str,
    with_columns: bool,
) -> Result<Value, ApiError> {
    let mut revision = 0;
    let rows = objects.map(|object| {
        revision = object.revision;
        let value = kind.presented(object.value()?);
        let cells = table::cells(&kind.columns, &value, now);
        let beside = match include {
            "None" => Value::Null,
            "Object" => value,
            _ => metadata_only(kind, &value),
        };
        Ok(json!({"cells": cells, "object": beside}))
    });
    let rows = rows.collect::<Result<Vec<_>, StoreError>>()?;
    let columns = if with_columns {
        table::definitions(&kind.columns)
    } else {
        json!([])
    };
    Ok(json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": revision.to_string()},
        "columnDefinitions": columns,
        "rows": rows,
    }))
}
