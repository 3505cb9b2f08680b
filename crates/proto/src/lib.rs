//! `tidegate.v1` on the wire.
//!
//! [`v1`] is generated from `proto/tidegate/v1`. [`convert`] is the only place where wire types become core types: what
//! leaves it is within its range, what is not is refused by the path of its field. [`error`] is the only place where a
//! failed call becomes a gRPC status. [`wire`] reads and writes the messages of a decision in place.
#![forbid(unsafe_code)]

pub mod convert;
pub mod error;
pub mod wire;

/// The messages, clients and servers of package `tidegate.v1`, generated; their comments are those of the proto files.
// The one place that exempts generated code from our lints: it is not ours to format, document or shorten.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/tidegate.v1.rs"));
}

/// The descriptors of package `tidegate.v1` and of what it imports, encoded as a `google.protobuf.FileDescriptorSet`
/// without comments; for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tidegate.v1.bin"));
