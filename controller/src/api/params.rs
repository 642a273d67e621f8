//! Query parameters: every one is known and right, or the answer names it. A misspelt `dry_run` must not create
//! anything.

use axum::extract::Query;
use http::Uri;

use crate::service::{FieldError, PageRequest, ServiceError};

pub(super) struct Params {
    pairs: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

impl Params {
    pub(super) fn of(uri: &Uri) -> Result<Self, ServiceError> {
        let Query(pairs) = Query::try_from_uri(uri)
            .map_err(|_| ServiceError::field("(query)", "cannot be read as name=value pairs"))?;
        Ok(Self {
            pairs,
            errors: Vec::new(),
        })
    }

    /// A call that takes none.
    pub(super) fn none(uri: &Uri) -> Result<(), ServiceError> {
        Self::of(uri)?.finish()
    }

    pub(super) fn all(&mut self, name: &str) -> Vec<String> {
        self.pairs
            .extract_if(.., |(key, _)| key == name)
            .map(|(_, value)| value)
            .collect()
    }

    pub(super) fn one(&mut self, name: &str) -> Option<String> {
        let mut values = self.all(name);
        if values.len() > 1 {
            self.errors.push(FieldError::new(name, "is given more than once"));
        }
        values.pop()
    }

    pub(super) fn flag(&mut self, name: &str) -> bool {
        match self.one(name).as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                self.errors.push(FieldError::new(name, "must be true or false"));
                false
            }
        }
    }

    /// What `parse` makes of a parameter; its errors are kept.
    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, ServiceError>,
    ) -> Option<T> {
        let text = self.one(name)?;
        parse(&text)
            .map_err(|error| self.errors.extend(error.errors))
            .ok()
    }

    pub(super) fn page(&mut self) -> PageRequest {
        let limit = self.parsed("limit", |text| {
            text.parse::<u32>()
                .map_err(|_| ServiceError::field("limit", "must be a whole number from 1 to 500"))
        });
        let token = self.one("continue");
        self.keep(PageRequest::new(limit, token)).unwrap_or_default()
    }

    pub(super) fn keep<T>(&mut self, outcome: Result<T, ServiceError>) -> Option<T> {
        outcome.map_err(|error| self.errors.extend(error.errors)).ok()
    }

    /// Whatever was not asked for is a parameter that does not exist.
    pub(super) fn finish(self) -> Result<(), ServiceError> {
        let mut errors = self.errors;
        errors.extend(self.pairs.iter().map(|(name, _)| {
            FieldError::new(
                name.chars().take(64).collect::<String>(),
                "there is no such parameter",
            )
        }));
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ServiceError::invalid(errors))
        }
    }
}
