//! The wire contract: what agents and controller say to each other ([`agent`]), what automation says to the
//! controller ([`v1`]), the descriptor set for gRPC reflection, how much of a message is read ([`codec`]), and the TLS
//! files all of it runs over ([`tls`]).
//!
//! It is the contract and nothing else: no opinion about a drive lives here, and neither side depends on the
//! other through it.

pub mod codec;
pub mod tls;

/// Agent and controller: enrolment and the node's stream.
pub mod agent {
    /// Version 1 of the stream.
    #[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("smartstorage.agent.v1");
    }
}

/// The public `StorageService`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("smartstorage.v1");
}

/// The protocol version that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The encoded `FileDescriptorSet` of both packages, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// GPT partition type of a member's partition: the first thing ever written to a drive that is taken.
pub const MEMBER_PARTITION_TYPE: &str = "c0a9d8f6-5b1e-4d57-9c1a-53e27b0f6a11";

/// GPT partition type of a member that was released: the data is still there, nobody serves it.
pub const RELEASED_PARTITION_TYPE: &str = "c0a9d8f6-5b1e-4d57-9c1a-53e27b0f6a12";
