//! Generates the messages and services from `proto/`, without `protoc`.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    // Asked at run time: a script built in one checkout may run in another that shares its target folder.
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = protox::compile(["gpart/control/v1/control.proto"], [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // What server reflection answers with.
    std::fs::write(out.join("control.descriptors.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure().btree_map(".").compile_fds(files)?;
    Ok(())
}
