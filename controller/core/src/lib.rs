//! What the operator decides, as pure functions over what was seen.
//!
//! Facts come in ([`drive`], [`node`]), are given an identity ([`identity`]) and a judgement ([`classify`]),
//! are remembered ([`registry`]), and become plans: which drives a pool claims ([`pool`]), where a request for
//! storage goes ([`placement`]), which drive lags behind its peers ([`peers`]), what it costs ([`volume`]), when a failure is tried again ([`retry`]), and
//! what every object's status says ([`decide`]).
//!
//! It never does I/O, never reads a clock and never throws dice: time comes in as a parameter, and equal input
//! gives equal output. Whatever was not observed ([`drive::Observed`]) is never read as zero, good or blank.

pub mod bytes;
pub mod classify;
pub mod decide;
pub mod drive;
pub mod identity;
pub mod ledger;
pub mod node;
pub mod peers;
pub mod placement;
pub mod pool;
pub mod registry;
pub mod retry;
pub mod volume;
