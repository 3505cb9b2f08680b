//! Generates messages, client and server from `proto/tidegate/v1`, in Rust alone: protox compiles, no system protoc is
//! needed. Beside them it writes the descriptor set that gRPC reflection serves.

use std::path::PathBuf;
use std::{env, error::Error, fs};

use prost::Message as _;

const PROTOS: [&str; 2] = ["tidegate/v1/limiter.proto", "tidegate/v1/admin.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", root.display());

    let mut descriptors = protox::compile(PROTOS, [&root])?;
    tonic_prost_build::configure().emit_rerun_if_changed(false).compile_fds(descriptors.clone())?;

    // The comments served the generator; reflection clients read names and types.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("tidegate.v1.bin"), descriptors.encode_to_vec())?;
    Ok(())
}
