//! Being built.

pub mod hardware;
pub mod inventory;
pub mod watcher;
