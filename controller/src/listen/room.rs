//! How many requests are under way at once: one more is turned away at once instead of waiting where nobody sees it.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bodies::Kept;

/// Places for requests.
#[derive(Debug, Clone)]
pub struct Room(Arc<Semaphore>);

impl Room {
    /// A room with so many places.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places)))
    }

    /// A place, if one is free.
    #[must_use]
    pub fn enter(&self) -> Option<Place> {
        Arc::clone(&self.0)
            .try_acquire_owned()
            .ok()
            .map(|permit| Place { _permit: permit })
    }
}

/// A place that is taken until it is dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Keeps the place until the whole answer has been handed over.
    #[must_use]
    pub fn until_the_end_of(self, response: Response) -> Response {
        response.map(|body| Body::new(Kept { body, _kept: self }))
    }
}
