//! The agent on real kernels: QEMU guests with every kind of drive, plugged, pulled, failing and slow, that talk to a
//! controller on this machine over mTLS.

mod asleep;
mod bed;
mod classes;
mod copies;
mod health;
mod hotplug;
mod keeping_up;
mod pod;
mod power_cut;
mod pull;
mod rig;
mod smart;
mod three_nodes;
mod vpd;
