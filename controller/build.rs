//! Compiles our subset of SeaweedFS's public gRPC messages with protox: no `protoc` is needed on the machine.
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["filer.proto", "master.proto", "iam.proto"];
    for file in files {
        println!("cargo::rerun-if-changed=proto/seaweedfs/{file}");
    }
    let descriptors = protox::compile(files, ["proto/seaweedfs"])?;
    tonic_build::configure()
        .build_server(false)
        .compile_fds(descriptors)?;
    Ok(())
}
