//! The controller: takes the agents' streams, keeps the registry, classifies drives, plans pools, places requests,
//! reconciles the custom resources of `storage.billyronks.io/v1` and drives the storage systems.
//!
//! Decisions are made by `smart-storage-core`; this crate observes, asks it, and carries out what it says. It never
//! writes to a drive: agents do, after their own proof.

pub mod admission;
pub mod agents;
pub mod api;
pub mod app;
pub mod backend;
pub mod config;
pub mod crd;
pub mod embedded;
pub mod fault;
pub mod leader;
pub mod listen;
pub mod metrics;
pub mod pki;
pub mod reconcile;
pub mod service;
pub mod tally;
pub mod telemetry;
