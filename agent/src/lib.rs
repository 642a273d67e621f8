//! Being built.

pub mod hardware;
pub mod inventory;
pub mod member;
pub mod watcher;
