//! The requests: from method, path and body to an answer.
//!
//! Bodies are judged outside the writer, against the object as it was read; the writer only checks that it
//! is still that one, and otherwise the request is judged anew. So the writer stays quick.

mod delete;
mod read;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::discovery;
use super::kinds::Kind;
use super::objects::Part;
use super::openapi;
use super::request::{Form, GroupVersion, Place, Query, Target, accepted, media_type, target};
use super::status::ApiError;
use super::store::{Key, LARGEST, Object, Store, StoreError};
pub(super) use delete::FIXED_NAMESPACES;
pub(super) use read::rows;

/// Tells the time; a parameter, so that tests decide what it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The bytes of a body at most, as in the real server.
pub const LARGEST_BODY: usize = 3 << 20;

/// The API over one store.
pub struct Service {
    pub(super) store: Store,
    kinds: BTreeMap<GroupVersion, Vec<Arc<Kind>>>,
    clock: Clock,
}

/// One request for objects, read as far as its path and headers go.
struct Call {
    kind: Arc<Kind>,
    method: Method,
    namespace: Option<String>,
    name: Option<String>,
    part: Part,
    query: Query,
    form: Form,
    media_type: String,
    body: Bytes,
}

impl Call {
    fn key(&self, name: &str) -> Key {
        Key {
            resource: Arc::clone(&self.kind.resource),
            namespace: self.namespace.clone().unwrap_or_default(),
            name: name.to_owned(),
        }
    }
}

/// An answer with what to warn about.
struct Answer {
    code: StatusCode,
    body: Body,
    media_type: &'static str,
    warnings: Vec<String>,
}

impl Answer {
    fn json(code: StatusCode, value: &Value) -> Self {
        Self {
            code,
            body: Body::from(value.to_string()),
            media_type: "application/json",
            warnings: Vec::new(),
        }
    }

    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.code;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media_type));
        for warning in self.warnings {
            let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
        response
    }
}

/// A refusal as a response.
pub fn refusal(error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Answer::json(code, &error.to_json()).into_response()
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Expired { asked, oldest } => {
                Self::expired(format!("too old resource version: {asked} ({oldest})"))
            }
            StoreError::TooLarge => Self::too_large(LARGEST),
            StoreError::Encoding(why) => Self::bad_request(why),
            StoreError::Closed => Self::unavailable("the store is closed"),
            StoreError::NoSpace => Self::no_space(),
            other => Self::internal(other.to_string()),
        }
    }
}

impl Service {
    /// Serves these kinds from a store.
    pub fn new(store: Store, kinds: Vec<Kind>, clock: Clock) -> Self {
        let mut by_version: BTreeMap<GroupVersion, Vec<Arc<Kind>>> = BTreeMap::new();
        for kind in kinds {
            let api = GroupVersion {
                group: kind.group.clone(),
                version: kind.version.clone(),
            };
            by_version.entry(api).or_default().push(Arc::new(kind));
        }
        Self {
            store,
            kinds: by_version,
            clock,
        }
    }

    /// Every kind that is served.
    pub(super) fn kinds(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.values().flatten()
    }

    fn all_kinds(&self) -> Vec<Arc<Kind>> {
        self.kinds().cloned().collect()
    }

    pub(super) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    fn kind(&self, api: &GroupVersion, plural: &str) -> Result<Arc<Kind>, ApiError> {
        let kinds = self.kinds.get(api).ok_or_else(ApiError::no_such_path)?;
        kinds
            .iter()
            .find(|k| k.plural == plural)
            .cloned()
            .ok_or_else(ApiError::no_such_path)
    }

    /// Answers one request.
    pub async fn handle(self: &Arc<Self>, parts: Parts, body: Bytes) -> Response<Body> {
        match self.answer(&parts, body).await {
            Ok(answer) => answer.into_response(),
            Err(error) => refusal(&error),
        }
    }

    async fn answer(self: &Arc<Self>, parts: &Parts, body: Bytes) -> Result<Answer, ApiError> {
        if body.len() > LARGEST_BODY {
            return Err(ApiError::too_large(LARGEST_BODY));
        }
        let target = target(parts.uri.path()).ok_or_else(ApiError::no_such_path)?;
        let Target::Objects(place) = target else {
            return self.describe(parts, &target);
        };
        let call = self.call(parts, place, body)?;
        match (&parts.method, &call.name, call.part) {
            (&Method::GET, _, _) if call.query.flag("watch") => self.watch(call),
            (&Method::GET, None, _) => self.list(&call),
            (&Method::GET, Some(name), _) => self.get(&call, name),
            (&Method::POST | &Method::PUT | &Method::PATCH | &Method::DELETE, _, _)
                if call.kind.read_only =>
            {
                Err(ApiError::method_not_allowed())
            }
            (&Method::POST, None, Part::Main) => self.create(call).await,
            (&Method::PUT, Some(_), _) => self.replace(call).await,
            (&Method::PATCH, Some(_), _) => self.patch(call).await,
            (&Method::DELETE, Some(_), Part::Main) => self.delete(call).await,
            (&Method::DELETE, None, Part::Main) => self.delete_collection(call).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn call(&self, parts: &Parts, place: Place, body: Bytes) -> Result<Call, ApiError> {
        let kind = self.kind(&place.api, &place.plural)?;
        if place.namespace.is_some()
            != (kind.namespaced && (place.namespace.is_some() || place.name.is_some()))
        {
            return Err(ApiError::no_such_path());
        }
        let part = match place.subresource.as_deref() {
            None => Part::Main,
            Some("status") if kind.status => Part::Status,
            Some(_) => return Err(ApiError::no_such_path()),
        };
        Ok(Call {
            kind,
            method: parts.method.clone(),
            namespace: place.namespace,
            name: place.name,
            part,
            query: Query::parse(&parts.uri)?,
            form: accepted(&parts.headers, false)?,
            media_type: media_type(&parts.headers),
            body,
        })
    }

    fn describe(&self, parts: &Parts, target: &Target) -> Result<Answer, ApiError> {
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return Err(ApiError::method_not_allowed());
        }
        let kinds: Vec<Arc<Kind>> = self.kinds().cloned().collect();
        let of = |api: &GroupVersion| self.kinds.get(api).ok_or_else(ApiError::no_such_path);
        let value = match target {
            Target::Alive => return Ok(plain(StatusCode::OK, "ok")),
            Target::Ready => {
                return Ok(if self.store.is_writable() {
                    plain(StatusCode::OK, "ok")
                } else {
                    plain(StatusCode::INTERNAL_SERVER_ERROR, "the store cannot write")
                });
            }
            Target::Version => discovery::version(),
            Target::CoreVersions | Target::Groups => {
                let core = *target == Target::CoreVersions;
                if accepted(&parts.headers, true)? == Form::Aggregated {
                    let mut answer = Answer::json(StatusCode::OK, &discovery::aggregated(&kinds, core));
                    answer.media_type =
                        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
                    return Ok(answer);
                }
                if core {
                    discovery::core_versions()
                } else {
                    discovery::groups(&kinds)
                }
            }
            Target::Group(group) => discovery::group(&kinds, group).ok_or_else(ApiError::no_such_path)?,
            Target::Resources(api) => discovery::resources(api, of(api)?),
            Target::OpenApiIndex => openapi::index(self.kinds.keys()),
            Target::OpenApi(api) => openapi::document(api, of(api)?),
            Target::Objects(_) => return Err(ApiError::no_such_path()),
        };
        Ok(Answer::json(StatusCode::OK, &value))
    }

    /// One object in the form that was asked for.
    fn object_answer(&self, call: &Call, code: StatusCode, object: &Object) -> Result<Answer, ApiError> {
        let kind = &call.kind;
        let body = match call.form {
            Form::Json | Form::Aggregated => rendered(kind, object)?,
            Form::Yaml => {
                let value = kind.presented(object.value()?);
                let text = serde_saphyr::to_string(&value).map_err(|e| ApiError::internal(e.to_string()))?;
                Bytes::from(text)
            }
            Form::Metadata => Bytes::from(metadata_only(kind, &object.value()?).to_string()),
            Form::Table => {
                let table = read::table(kind, std::slice::from_ref(object), self.now(), &call.query, true)?;
                Bytes::from(table.to_string())
            }
        };
        let media_type = if call.form == Form::Yaml {
            "application/yaml"
        } else {
            "application/json"
        };
        Ok(Answer {
            code,
            body: Body::from(body),
            media_type,
            warnings: Vec::new(),
        })
    }
}

fn plain(code: StatusCode, text: &'static str) -> Answer {
    Answer {
        code,
        body: Body::from(text),
        media_type: "text/plain; charset=utf-8",
        warnings: Vec::new(),
    }
}

/// The object's JSON under the names of this kind.
pub(super) fn rendered(kind: &Kind, object: &Object) -> Result<Bytes, ApiError> {
    if kind.renamed.is_empty() {
        return Ok(object.json.clone());
    }
    Ok(Bytes::from(kind.presented(object.value()?).to_string()))
}

/// `PartialObjectMetadata` of an object.
pub(super) fn metadata_only(_kind: &Kind, value: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": value.get("metadata"),
    })
}
