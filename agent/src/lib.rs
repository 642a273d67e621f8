//! The agent as a library: the binary and the tests use the same pieces.
//!
//! Facts come in through [`hardware`], are kept true by [`watcher`], become a picture ([`inventory`]) and go to the
//! controller ([`session`]); orders come back and are carried out by [`member`], the only code that writes to a
//! drive. The agent never draws conclusions: no tier, no score, no drive id.

pub mod config;
pub mod enrol;
pub mod hardware;
pub mod inventory;
pub mod machine;
pub mod member;
pub mod session;
pub mod telemetry;
pub mod watcher;
pub mod wire;
