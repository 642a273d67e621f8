//! What the controller logs while a test runs. A test's tasks all run on its own thread, and so does the subscriber.

use std::{fmt::Write as _, sync::Arc};

use parking_lot::Mutex;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Layer,
    filter::filter_fn,
    layer::{Context, SubscriberExt as _},
};

/// The lines of the controller at `info` and above, until it is dropped.
pub(super) struct Heard {
    lines: Arc<Mutex<Vec<String>>>,
    _guard: DefaultGuard,
}

struct Ear(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.0, " {}={value}", field.name());
    }
}

impl<S: Subscriber> Layer<S> for Ear {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().push(line.0);
    }
}

impl Heard {
    pub(super) fn listen() -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let ours = filter_fn(|metadata| {
            *metadata.level() <= Level::INFO && metadata.target().starts_with("smart_storage_controller")
        });
        let ear = Ear(Arc::clone(&lines)).with_filter(ours);
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(ear));
        Self { lines, _guard: guard }
    }

    /// Lines in which all of these occur.
    pub(super) fn count(&self, words: &[&str]) -> usize {
        let lines = self.lines.lock();
        lines
            .iter()
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .count()
    }

    pub(super) fn all(&self) -> String {
        self.lines.lock().join("\n")
    }
}
