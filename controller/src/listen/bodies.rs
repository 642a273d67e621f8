//! Bodies with something around them: answers that are watched until they are handed over, answers that keep a place
//! occupied, requests that have to come to their end.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{BoxError, body::Body};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::connections::Request;

/// An answer of a connection: the connection knows whether it is the server or the client that lets wait.
pub(super) struct Watched {
    body: Body,
    request: Request,
}

impl Watched {
    pub(super) fn new(body: Body, request: Request) -> Self {
        // The head is ready. Whoever does not take it never gets as far as the first look at the body.
        request.offered(Instant::now());
        Self { body, request }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Pending => self.request.taken(),
            Poll::Ready(_) => self.request.offered(Instant::now()),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer that keeps something (a permit) until it has been handed over.
pub(super) struct Kept<K> {
    pub(super) body: Body,
    pub(super) _kept: K,
}

impl<K: Unpin> http_body::Body for Kept<K> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request's body that has to be there, whole, within a time; past it reading it is an error.
pub struct Timely<E> {
    body: Body,
    end: Pin<Box<Sleep>>,
    late: Option<E>,
}

impl<E> Timely<E> {
    /// `body`, which fails with `late` where it takes longer than `time`.
    pub fn new(body: Body, time: Duration, late: E) -> Self {
        Self {
            body,
            end: Box::pin(sleep(time)),
            late: Some(late),
        }
    }
}

impl<E> fmt::Debug for Timely<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timely").finish_non_exhaustive()
    }
}

impl<E: Into<BoxError> + Unpin> http_body::Body for Timely<E> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.end.as_mut().poll(cx));
        Poll::Ready(self.late.take().map(|late| Err(late.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
