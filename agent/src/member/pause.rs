//! For tests: something happens at a fault point, in the middle of the work that passes it.

use parking_lot::Mutex;

type Hook = Box<dyn FnMut(&str) + Send>;

static HOOK: Mutex<Option<(&'static str, Hook)>> = Mutex::new(None);

/// Has `hook` run each time when the point is passed, until the answer is dropped.
#[must_use]
pub fn when(point: &'static str, hook: impl FnMut(&str) + Send + 'static) -> Armed {
    *HOOK.lock() = Some((point, Box::new(hook)));
    Armed
}

/// An armed point.
pub struct Armed;

impl Drop for Armed {
    fn drop(&mut self) {
        *HOOK.lock() = None;
    }
}

/// Called by every fault point.
pub fn at(point: &str) {
    if let Some((wanted, hook)) = &mut *HOOK.lock()
        && *wanted == point
    {
        hook(point);
    }
}
