//! Compiles the contract with protox: no `protoc` is needed on the machine.
use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "smartstorage/agent/v1/agent.proto",
        "smartstorage/v1/storage.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_build::configure()
        .codec_path("crate::codec::Bounded")
        .compile_fds(descriptors)?;
    Ok(())
}
