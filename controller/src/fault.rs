//! Named places where a test may kill the process: after a write, before the next one.
//!
//! Compiled in only with the feature `fault-points`; a shipped binary has none of them.

/// Aborts the process here if the environment's `SMART_STORAGE_FAULT` names this place.
#[inline]
pub fn point(name: &'static str) {
    #[cfg(feature = "fault-points")]
    if std::env::var("SMART_STORAGE_FAULT").is_ok_and(|wanted| wanted == name) {
        std::process::abort();
    }
    #[cfg(not(feature = "fault-points"))]
    let _ = name;
}
