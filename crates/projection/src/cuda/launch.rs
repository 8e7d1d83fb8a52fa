//! What is launched, with which parameters and in which shape; the counterpart of `kernels.cu`.

use std::fmt;

use partition::Stateless;

use super::device::Limits;
use crate::{Dropout, FixedPoint};

/// Threads of a block at most; as `PLAIN` in the source.
pub const PLAIN_THREADS: u32 = 256;
/// Threads of a block that keeps sums in shared memory, at most; as `SHARING` in the source.
pub const SHARED_THREADS: u32 = 1024;
/// Weights that a thread has under way.
const WEIGHTS_PER_THREAD: u64 = 8;
/// Blocks without sums of their own that a multiprocessor runs at a time: 2048 threads.
const PLAIN_BLOCKS: u32 = 8;
/// Blocks with sums of their own that a multiprocessor is given at most.
const SHARED_BLOCKS: u32 = 2;
/// What the system takes of shared memory for every block.
const SHARED_RESERVED: u64 = 1024;
/// Up to so many bytes, a block keeps several sums a group.
const COPIES_BYTES: u64 = 32 << 10;
/// A warp's 32 threads have a sum each at most.
const MOST_COPIES: u32 = 5;

/// A format of numbers in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE binary16.
    F16,
}

impl Element {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// Bytes of a number.
    pub const fn size(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// As in the kernels' names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// Where a kernel has its groups from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A hash of the index.
    Hashed,
    /// An array on the device.
    Stored,
}

/// Where a kernel adds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sums {
    /// In global memory.
    Global,
    /// In each block's shared memory first.
    Shared,
}

/// A kernel of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// θ → ΔW, with `base` W + ΔW (in f32 alone).
    Apply {
        /// Where groups come from.
        source: Source,
        /// Whether there is a dropout mask.
        masked: bool,
        /// Whether W is added.
        base: bool,
        /// The format of what is written.
        out: Element,
    },
    /// dL/dW → sums.
    Reduce {
        /// Where groups come from.
        source: Source,
        /// Whether there is a dropout mask.
        masked: bool,
        /// The format of the gradients.
        grad: Element,
        /// Where sums are kept.
        sums: Sums,
    },
    /// Weights a group.
    Count {
        /// Where groups come from.
        source: Source,
        /// Where sums are kept.
        sums: Sums,
    },
}

impl Kernel {
    /// Every kernel of the source.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for source in [Source::Hashed, Source::Stored] {
            for masked in [false, true] {
                all.push(Self::Apply { source, masked, base: true, out: Element::F32 });
                all.extend(Element::ALL.map(|out| Self::Apply { source, masked, base: false, out }));
                for sums in [Sums::Global, Sums::Shared] {
                    all.extend(Element::ALL.map(|grad| Self::Reduce { source, masked, grad, sums }));
                }
            }
            all.extend([Sums::Global, Sums::Shared].map(|sums| Self::Count { source, sums }));
        }
        all
    }

    /// Whether it keeps sums in shared memory.
    pub fn shares(self) -> bool {
        matches!(self, Self::Reduce { sums: Sums::Shared, .. } | Self::Count { sums: Sums::Shared, .. })
    }
}

/// The name of its function.
impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = |source| if source == Source::Hashed { "hashed" } else { "stored" };
        let masked = |masked| if masked { "_masked" } else { "" };
        let to = |sums| if sums == Sums::Global { "global" } else { "shared" };
        match *self {
            Self::Apply { source, masked: mask, base, out } => {
                let base = if base { "_base" } else { "" };
                write!(f, "apply_{}{}{base}_{}", from(source), masked(mask), out.name())
            }
            Self::Reduce { source, masked: mask, grad, sums } => {
                write!(f, "reduce_{}{}_{}_{}", from(source), masked(mask), grad.name(), to(sums))
            }
            Self::Count { source, sums } => write!(f, "count_{}_{}", from(source), to(sums)),
        }
    }
}

/// `Modulus` of the source.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Modulus {
    d: u64,
    reciprocal: u64,
    kind: u32,
    padding: u32,
}

impl Modulus {
    /// Of 1 ≤ d ≤ 2^32 (a d of 0 is taken as 1).
    pub fn new(d: u64) -> Self {
        let d = d.max(1);
        let kind = match d {
            d if d.is_power_of_two() => 0,
            d if d <= 1 << 31 => 1,
            _ => 2,
        };
        Self { d, reciprocal: u64::MAX / d, kind, padding: 0 }
    }
}

/// `Mask` of the source.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Mask {
    key: [u64; 2],
    first_index: u64,
    threshold: u32,
    factor: f32,
}

impl Mask {
    /// The mask of the weights from `first_index` on.
    pub fn new(dropout: &Dropout, first_index: u64) -> Self {
        let Dropout { key, threshold, factor } = *dropout;
        Self { key, first_index, threshold, factor }
    }
}

/// `Format` of the source.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Format {
    limit: f32,
    unit: f32,
}

impl Format {
    /// As the CPU has it.
    pub fn new(fixed: &FixedPoint) -> Self {
        Self { limit: fixed.limit(), unit: fixed.unit() }
    }
}

/// `Groups` of the source.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Groups {
    modulus: Modulus,
    state: u64,
    stored: u64,
}

impl Groups {
    /// Hashed, from this index of a stateless partition on.
    pub fn hashed(partition: &Stateless, index: u64) -> Self {
        let d = partition::Assignment::d(partition);
        Self { modulus: Modulus::new(d), state: partition.state(index), stored: 0 }
    }

    /// Stored at this address, all below d.
    pub(super) fn stored(d: u64, address: u64) -> Self {
        Self { modulus: Modulus::new(d), state: 0, stored: address }
    }

    pub(super) fn source(&self) -> Source {
        if self.stored == 0 { Source::Hashed } else { Source::Stored }
    }

    /// The groups that there are.
    pub(super) fn d(&self) -> u64 {
        self.modulus.d
    }
}

/// `ApplyParameters` of the source. Addresses are of the device.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct ApplyParameters {
    pub(super) groups: Groups,
    pub(super) mask: Mask,
    pub(super) numel: u64,
    pub(super) theta: u64,
    pub(super) base: u64,
    pub(super) out: u64,
}

/// `ReduceParameters` of the source, for counting as well. Addresses are of the device.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct ReduceParameters {
    pub(super) groups: Groups,
    pub(super) mask: Mask,
    pub(super) numel: u64,
    pub(super) grad: u64,
    pub(super) sums: u64,
    pub(super) flag: u64,
    pub(super) factor: f32,
    pub(super) format: Format,
    pub(super) copies: u32,
}

const _: () = assert!(size_of::<Groups>() == 40);
const _: () = assert!(size_of::<ApplyParameters>() == 104);
const _: () = assert!(size_of::<ReduceParameters>() == 120);

/// The one parameter of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Parameters {
    /// Of [`Kernel::Apply`].
    Apply(ApplyParameters),
    /// Of the others.
    Reduce(ReduceParameters),
}

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Blocks, in one dimension.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory of a block.
    pub shared: u32,
}

impl Shape {
    fn new(threads: u32, most_blocks: u32, numel: u64, shared: u64) -> Self {
        let tiles = numel.div_ceil(WEIGHTS_PER_THREAD * u64::from(threads)).max(1);
        let blocks = tiles.min(u64::from(most_blocks.max(1))) as u32;
        Self { blocks, threads, shared: shared as u32 }
    }

    /// For `numel` weights, without shared memory.
    pub(super) fn plain(limits: &Limits, numel: u64) -> Self {
        let most = limits.multiprocessors.saturating_mul(PLAIN_BLOCKS);
        Self::new(PLAIN_THREADS.min(limits.threads), most, numel, 0)
    }

    /// For `numel` weights into `d` sums: where they are kept, the shape, and the binary logarithm of how many sums a
    /// group has.
    ///
    /// Additions in shared memory are many times cheaper than in global memory, but every block adds its sums there in
    /// the end: worth it from twice as many weights on.
    pub(super) fn sums(limits: &Limits, d: u64, numel: u64) -> (Sums, Self, u32) {
        let copies = (0..=MOST_COPIES).rev().find(|copies| (8 * d) << copies <= COPIES_BYTES).unwrap_or(0);
        let bytes = d.saturating_mul(8 << copies);
        let plain = (Sums::Global, Self::plain(limits, numel), 0);
        if bytes > limits.shared_per_block {
            return plain;
        }
        let at_a_time = (limits.shared_per_multiprocessor / (bytes + SHARED_RESERVED)).max(1);
        let blocks = limits.multiprocessors * (at_a_time as u32).min(SHARED_BLOCKS);
        let shape = Self::new(SHARED_THREADS.min(limits.threads), blocks, numel, bytes);
        if numel < 2 * d * u64::from(shape.blocks) { plain } else { (Sums::Shared, shape, copies) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An H100's.
    const LIMITS: Limits = Limits {
        multiprocessors: 132,
        shared_per_block: 227 << 10,
        shared_per_multiprocessor: 228 << 10,
        threads: 1024,
    };

    #[test]
    fn the_source_has_every_kernel_by_its_name() {
        let mut names: Vec<String> = Kernel::all().iter().map(Kernel::to_string).collect();
        assert_eq!(names.len(), 44);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 44);
        assert!(names.contains(&"apply_hashed_masked_base_f32".to_owned()));
        assert!(names.contains(&"reduce_stored_bf16_shared".to_owned()));
    }

    #[test]
    fn sums_are_shared_where_that_pays() {
        let check = |d, numel, sums, blocks, shared, copies| {
            let (found, shape, found_copies) = Shape::sums(&LIMITS, d, numel);
            assert_eq!((found, shape.blocks, shape.shared, found_copies), (sums, blocks, shared, copies));
            assert!(shape.blocks >= 1 && u64::from(shape.shared) <= LIMITS.shared_per_block);
        };
        check(1, 1 << 24, Sums::Shared, 264, 256, 5);
        check(100, 1 << 24, Sums::Shared, 264, 25_600, 5);
        check(4096, 1 << 24, Sums::Shared, 264, 32_768, 0);
        check(4097, 1 << 24, Sums::Shared, 264, 32_776, 0);
        check(20_000, 1 << 24, Sums::Shared, 132, 160_000, 0);
        check(29_056, 1 << 24, Sums::Shared, 132, 232_448, 0);
        check(29_057, 1 << 24, Sums::Global, 1056, 0, 0);
        check(524_288, 1 << 24, Sums::Global, 1056, 0, 0);
        check(20_000, 1 << 20, Sums::Global, 512, 0, 0);
        check(100, 4096, Sums::Shared, 1, 25_600, 5);
        check(1 << 32, 1, Sums::Global, 1, 0, 0);
        check(1, 0, Sums::Global, 1, 0, 0);
    }
}
