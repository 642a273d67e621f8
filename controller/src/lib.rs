//! The control plane as a library: the binary, the tests and the benches use the same pieces.
pub mod agents;
pub mod listen;
pub mod pki;
pub mod telemetry;
