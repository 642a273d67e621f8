//! Hostile input for everything that comes from outside: what a kernel, a drive, a program, an agent, a user or a
//! storage system may say.
//!
//! Each [`Target`] takes bytes, gives them to one parser or one door of the real code, and panics where a law is
//! broken: not only where that code panics itself, but where what it makes of the bytes contradicts what it promises
//! (a drive that is not zero is never blank; a refused request changes nothing; no request is answered 5xx). The same
//! functions serve the short runs in the tests, the long runs of the binary `fuzz`, and libFuzzer (`libfuzzer/`).
//!
//! It never touches a drive, never opens a port, and its files are in a folder of its own.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a target tells by a panic that a law is broken, and a run tells on the screen how far it is"
)]
#![allow(clippy::cast_possible_truncation, reason = "dice")]

pub mod http;
pub mod mutate;
pub mod rng;
pub mod run;
pub mod targets;

/// Counts what is allocated. More than 4 GiB ends the process rather than the machine.
#[global_allocator]
pub static MEMORY: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 4 << 30);

/// What a target reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Anything.
    Bytes,
    /// Lines.
    Text,
    /// JSON.
    Json,
    /// Requests, see [`http`].
    Http,
    /// Protobuf messages, see [`mutate::frames`].
    Frames,
    /// A drive, see [`mutate::drive`].
    Drive,
}

/// One door and its laws.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name; also that of its folders under `corpus/` and `regressions/`.
    pub name: &'static str,
    /// What it reads.
    pub format: Format,
    /// Gives it bytes; panics where a law is broken. What it answers says how the bytes were taken: inputs with a new
    /// answer are worth keeping.
    pub run: fn(&[u8]) -> u64,
    /// Inputs to begin with, beside those in `corpus/`.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of its language.
    pub words: &'static [&'static str],
    /// Inputs of a short run.
    pub short: u32,
}

/// The same number for the same parts: what a target answers.
#[must_use]
pub fn outcome(parts: impl std::hash::Hash) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}
