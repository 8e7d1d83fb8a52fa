//! From a seed and a global index to a group: the partition that makes a model-sized update out of d numbers.
//!
//! A global index is a weight's position in the concatenation of all adapted weights. An [`Assignment`] says
//! which of the d groups an index belongs to, and [`build`] makes the one that a [`Spec`] describes; [`count()`]
//! and [`count_parallel`] give the group sizes and [`scales()`] the factors 1/sqrt(size) that make θ → ΔW an
//! isometry.
//!
//! Everything here is integers and f32: no file, no clock, no tensor library. The two random backends never hold an
//! array as long as the weights: ids are made [`CHUNK`] at a time, in a buffer that stays in the first-level cache.
//! [`SignedMagnitude`] is a table of 4 bytes a weight, as it sorts the weights.

mod assignment;
mod blocks;
mod count;
mod error;
mod isa;
mod materialized;
mod modulus;
mod scales;
mod seed;
mod signed_magnitude;
mod spec;
mod stateless;

pub use assignment::{Assignment, Cursor, HashedRange};
pub use blocks::Blocks;
pub use count::{count, count_parallel};
pub use error::PartitionError;
pub use isa::{Isa, IsaKind};
pub use materialized::Materialized;
pub use scales::scales;
pub use seed::Seed;
pub use signed_magnitude::SignedMagnitude;
pub use spec::{Backend, BlockRange, Footprint, Scope, Spec, build};
pub use stateless::Stateless;

/// How many ids the streaming loops make at a time: 2 KiB of ids, and the buffers beside them, fit in L1.
pub const CHUNK: usize = 512;

/// The largest legal end of a range of global indices, 2^63 − 1: indices are signed 64-bit in the file formats.
pub const MAX_INDEX: u64 = i64::MAX as u64;
