//! How others speak to the watcher: messages through a channel, and an eventfd that wakes its `poll`.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::hardware::Device;

/// What the watcher has done since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Announcements of the kernel.
    pub events: u64,
    /// Times that the kernel dropped announcements.
    pub lost: u64,
    /// Probes of single drives.
    pub probes: u64,
    /// Full rescans.
    pub rescans: u64,
    /// Probes that did not come back in time.
    pub stuck: u64,
}

#[derive(Debug, Default)]
pub(super) struct SharedCounters {
    pub(super) events: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) probes: AtomicU64,
    pub(super) rescans: AtomicU64,
    pub(super) stuck: AtomicU64,
}

/// The watcher has ended.
#[derive(Debug, thiserror::Error)]
#[error("the watcher of drives has ended")]
pub struct WatcherGone;

/// Speaks to the watcher; when the last handle is dropped, the watcher ends.
#[derive(Debug, Clone)]
pub struct WatcherHandle {
    line: Arc<Line>,
    counters: Arc<SharedCounters>,
}

impl WatcherHandle {
    pub(super) fn new(sender: Sender, counters: Arc<SharedCounters>) -> Self {
        Self {
            line: Arc::new(Line(sender)),
            counters,
        }
    }

    /// Probes everything anew and answers when the new picture has been published.
    ///
    /// # Errors
    /// Where the watcher has ended.
    pub async fn probe_now(&self) -> Result<(), WatcherGone> {
        let (done, answer) = oneshot::channel();
        self.line.send(Message::ProbeNow(done))?;
        answer.await.map_err(|_| WatcherGone)
    }

    /// Changes the time between rescans.
    ///
    /// # Errors
    /// Where the watcher has ended.
    pub fn set_discover_interval(&self, interval: Duration) -> Result<(), WatcherGone> {
        self.line.send(Message::Interval(interval))
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            events: read(&self.counters.events),
            lost: read(&self.counters.lost),
            probes: read(&self.counters.probes),
            rescans: read(&self.counters.rescans),
            stuck: read(&self.counters.stuck),
        }
    }
}

/// A way to the watcher that wakes it.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) wake: Arc<OwnedFd>,
}

impl Sender {
    pub(super) fn send(&self, message: Message) -> Result<(), WatcherGone> {
        self.messages.send(message).map_err(|_| WatcherGone)?;
        // The counter of an eventfd is full after 2^64 wakes.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        Ok(())
    }
}

/// The handles' common end: dropping it ends the watcher.
#[derive(Debug)]
struct Line(Sender);

impl Line {
    fn send(&self, message: Message) -> Result<(), WatcherGone> {
        self.0.send(message)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.0.send(Message::End);
    }
}

#[derive(Debug)]
pub(super) enum Message {
    ProbeNow(oneshot::Sender<()>),
    Interval(Duration),
    Probed(String, Option<Box<Device>>),
    End,
}
