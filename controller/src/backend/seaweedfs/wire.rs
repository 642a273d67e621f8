//! The generated messages and clients of SeaweedFS's public gRPC, as far as they are used. No behaviour.

/// The filer.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod filer {
    tonic::include_proto!("filer_pb");
}

/// The master.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod master {
    tonic::include_proto!("master_pb");
}

/// S3 identities, served by the filer.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod iam {
    tonic::include_proto!("iam_pb");
}
