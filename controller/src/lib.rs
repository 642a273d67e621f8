//! Being built.
pub mod embedded;
