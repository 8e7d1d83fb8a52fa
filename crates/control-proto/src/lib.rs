//! The control plane's messages and services as generated from `proto/gpart/control/v1/control.proto`.
//!
//! Only `control-plane` uses them; everything else uses its types.

/// Package `gpart.control.v1`.
#[allow(missing_docs, reason = "comments come from the .proto file, where every message has one")]
#[allow(clippy::all, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("gpart.control.v1");
}

/// The encoded `FileDescriptorSet` of the package, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/control.descriptors.bin"));
