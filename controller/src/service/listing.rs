//! Reading lists in parts: limit and continue go through to the Kubernetes API, and a filter that the API does not
//! know still ends a part at exactly the item where the next one begins.

use std::fmt::Debug;

use kube::{Api, api::ListParams, core::ObjectList};
use serde::de::DeserializeOwned;

use super::error::{ErrorKind, ServiceError};

/// The most items of one answer, and what is answered where no limit is named.
pub const MAX_LIMIT: u32 = 500;

/// Longer than any token that a list gives: names have at most 253 characters. What is longer does not fit the address of
/// a request.
const LONGEST_TOKEN: usize = 4096;
const NO_TOKEN: &str = "is not a token of this list, or too old: begin again without it";

/// Which part of a list is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    limit: u32,
    continue_: String,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self {
            limit: MAX_LIMIT,
            continue_: String::new(),
        }
    }
}

impl PageRequest {
    /// At most `limit` items from where `continue_` says; absent or empty means the beginning.
    ///
    /// # Errors
    /// `Invalid` where the limit is not from 1 to 500, or the token is longer than any.
    pub fn new(limit: Option<u32>, continue_: Option<String>) -> Result<Self, ServiceError> {
        let limit = limit.unwrap_or(MAX_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(ServiceError::field(
                "limit",
                format!("must be from 1 to {MAX_LIMIT}"),
            ));
        }
        let continue_ = continue_.unwrap_or_default();
        if continue_.len() > LONGEST_TOKEN {
            return Err(ServiceError::field("continue", NO_TOKEN));
        }
        Ok(Self { limit, continue_ })
    }
}

/// What a list holds.
pub(super) trait Listed: Clone + DeserializeOwned + Debug {}
impl<K: Clone + DeserializeOwned + Debug> Listed for K {}

/// Up to `page.limit` items that are `wanted`, and where the next part begins.
pub(super) async fn list<K: Listed>(
    api: &Api<K>,
    selector: &str,
    page: &PageRequest,
    wanted: impl Fn(&K) -> bool,
) -> Result<(Vec<K>, String), ServiceError> {
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let (mut items, mut token, mut size) = (Vec::new(), page.continue_.clone(), page.limit);
    loop {
        let part = part(api, selector, size, &token).await?;
        let next = part.metadata.continue_.clone().unwrap_or_default();
        let room = limit - items.len();
        let last = part
            .items
            .iter()
            .enumerate()
            .filter(|(_, item)| wanted(item))
            .nth(room.saturating_sub(1));
        match last {
            // The part goes on past the last item that fits: read it again, only so far.
            Some((index, _)) if index + 1 < part.items.len() => {
                size = u32::try_from(index + 1).unwrap_or(MAX_LIMIT);
            }
            full => {
                let full = full.is_some();
                items.extend(part.items.into_iter().filter(|item| wanted(item)));
                if full || next.is_empty() {
                    return Ok((items, next));
                }
                token = next;
                size = MAX_LIMIT;
            }
        }
    }
}

/// Every item.
pub(super) async fn list_all<K: Listed>(api: &Api<K>, selector: &str) -> Result<Vec<K>, ServiceError> {
    list_with_version(api, selector).await.map(|(items, _)| items)
}

/// Every item, and the resourceVersion that the list is of.
pub(super) async fn list_with_version<K: Listed>(
    api: &Api<K>,
    selector: &str,
) -> Result<(Vec<K>, String), ServiceError> {
    let (mut items, mut token) = (Vec::new(), String::new());
    loop {
        let part = part(api, selector, MAX_LIMIT, &token).await?;
        let version = part.metadata.resource_version.clone().unwrap_or_default();
        token = part.metadata.continue_.clone().unwrap_or_default();
        items.extend(part.items);
        if token.is_empty() {
            return Ok((items, version));
        }
    }
}

async fn part<K: Listed>(
    api: &Api<K>,
    selector: &str,
    size: u32,
    token: &str,
) -> Result<ObjectList<K>, ServiceError> {
    let mut params = ListParams::default().limit(size);
    if !selector.is_empty() {
        params = params.labels(selector);
    }
    if !token.is_empty() {
        params = params.continue_token(token);
    }
    api.list(&params).await.map_err(|error| {
        let error = ServiceError::from(error);
        match error.kind {
            ErrorKind::Expired | ErrorKind::Invalid if !token.is_empty() => {
                ServiceError::field("continue", NO_TOKEN)
            }
            _ => error,
        }
    })
}
