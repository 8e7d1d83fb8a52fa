//! From a seed and a global index to a group: the partition that makes a model-sized update out of d numbers.
//!
//! A global index is a weight's position in the concatenation of all adapted weights. An [`Assignment`] says
//! which of the d groups an index belongs to; [`count()`] and [`count_parallel`] give the group sizes and
//! [`scales()`] the factors 1/sqrt(size) that make θ → ΔW an isometry.
//!
//! Everything here is integers and f32: no file, no clock, no tensor library. Nothing ever holds an array as long
//! as the weights: ids are made [`CHUNK`] at a time, in a buffer that stays in the first-level cache.

mod count;
mod error;
mod isa;
mod scales;
mod seed;
mod stateless;

pub use count::{count, count_parallel};
pub use error::PartitionError;
pub use isa::{Isa, IsaKind};
pub use scales::scales;
pub use seed::Seed;
pub use stateless::Stateless;

/// How many ids the streaming loops make at a time: 2 KiB of ids, and the buffers beside them, fit in L1.
pub const CHUNK: usize = 512;

/// The largest legal end of a range of global indices, 2^63 − 1: indices are signed 64-bit in the file formats.
pub const MAX_INDEX: u64 = i64::MAX as u64;

/// Which group every global index belongs to; the seam between the backends and the loops that use them.
///
/// An implementation must be a pure function of the index: asking for the same index twice, alone or inside any
/// range, gives the same group. That is what makes slices of a partition equal the whole.
pub trait Assignment: Sync {
    /// The number of groups; every id is below it.
    fn d(&self) -> u64;

    /// Writes the groups of the indices `start .. start + out.len()` into `out`.
    ///
    /// # Errors
    /// When an index of the range has no group, or d does not fit ids of 32 bits.
    fn fill(&self, start: u64, out: &mut [u32]) -> Result<(), PartitionError>;
}
