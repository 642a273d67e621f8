//! The test bed: one whole instance on this machine, made by the very `deploy/standalone/up` that users run, with
//! its own state folder, ports and loop drives, and clients for every door it has.
//!
//! It knows no type of the controller or the agent: a suite sees what a user sees. It never touches a drive of the
//! machine, only loop devices over files that it made, and takes everything away again when a [`Cluster`] is
//! dropped, also after a panic.

#![allow(
    clippy::print_stdout,
    reason = "what a suite measured is read from its output"
)]

pub mod checker;
pub mod clients;
pub mod cluster;
pub mod component;
pub mod conformance;
pub mod credulous;
pub mod drives;
pub mod eventually;
pub mod guest;
pub mod needs;
pub mod proxy;
pub mod raw;
pub mod solo;
pub mod tokens;

pub use clients::{Filer, Rest, S3};
pub use cluster::{Cluster, Setup};
pub use component::Component;
pub use drives::LoopDrive;
pub use eventually::{eventually, quietly, within};
pub use guest::{Disk, Guest, Kernel, Machine};
pub use needs::{Need, skipped};
pub use solo::{SmallDisk, Solo};

/// One mebibyte in bytes.
pub const MIB: u64 = 1 << 20;
/// One gibibyte in bytes.
pub const GIB: u64 = 1 << 30;
