//! The suites over whole instances: one module for each behaviour, one function for each law. They need root, loop
//! devices and weed; where one is missing they say SKIPPED. Run them with `integration/test`, one at a time.

#![allow(
    clippy::print_stdout,
    reason = "what a suite measured is read from its output"
)]

mod abuse;
mod backend_faults;
mod chaos;
mod conformance;
mod crash;
mod dead_filesystem;
mod doors;
mod every_step;
mod file_claim;
mod first_request;
mod first_steps;
mod full_disk;
mod hardware;
mod hotplug;
mod in_use;
mod journey;
mod left_behind;
mod member_lost;
mod no_byte_twice;
mod public_contract;
mod reading;
mod restart;
mod separate;
mod strangers;
mod trust;
