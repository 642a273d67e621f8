//! Being built.
pub mod backend;
