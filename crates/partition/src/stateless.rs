//! The stateless backend: SplitMix64 of (seed + index), reduced modulo d.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::assignment::check_range;
use crate::modulus::Modulus;
#[cfg(target_arch = "x86_64")]
use crate::modulus::Plan;
use crate::{Assignment, Cursor, HashedRange, Isa, IsaKind, MAX_INDEX, PartitionError, Seed};

// The constants of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
const MULTIPLIER_1: u64 = 0xBF58_476D_1CE4_E5B9;
const MULTIPLIER_2: u64 = 0x94D0_49BB_1331_11EB;

/// A partition that is a hash of the global index: no table, no state, any slice at any time.
///
/// g(i) = mix(seed + i + gamma mod 2^64) mod d, where mix is the finalizer of SplitMix64 and its result is read as
/// unsigned. The golden gamma is added once, not i times: a seed one higher shifts the stream by one index.
#[derive(Debug, Clone, Copy)]
pub struct Stateless {
    seed: Seed,
    d: u64,
    modulus: Modulus,
    isa: Isa,
}

impl Stateless {
    /// The partition into `d` groups that `seed` draws.
    ///
    /// # Errors
    /// [`PartitionError::GroupCount`] unless d is between 1 and 2^63 − 1.
    pub fn new(seed: impl Into<Seed>, d: u64) -> Result<Self, PartitionError> {
        if d == 0 || d > MAX_INDEX {
            return Err(PartitionError::GroupCount { d });
        }
        Ok(Self { seed: seed.into(), d, modulus: Modulus::new(d), isa: Isa::best() })
    }

    /// The same partition, computed with another instruction set.
    #[must_use]
    pub fn with_isa(mut self, isa: Isa) -> Self {
        self.isa = isa;
        self
    }

    /// The seed, modulo 2^64.
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// The group of one global index.
    pub fn group(&self, index: u64) -> u64 {
        self.modulus.reduce(mix(self.state(index)))
    }

    /// Writes the groups of the indices `start .. start + out.len()`, for any legal d.
    ///
    /// # Errors
    /// [`PartitionError::Range`] when the range ends above 2^63 − 1.
    pub fn ids_u64(&self, start: u64, out: &mut [u64]) -> Result<(), PartitionError> {
        check_range(start, out.len() as u64)?;
        for (index, id) in (start..).zip(out) {
            *id = self.group(index);
        }
        Ok(())
    }

    /// What is mixed for an index: seed + index + gamma modulo 2^64. The next index has the next state.
    pub fn state(&self, index: u64) -> u64 {
        index.wrapping_add(self.seed.get()).wrapping_add(GOLDEN_GAMMA)
    }
}

impl Assignment for Stateless {
    fn d(&self) -> u64 {
        self.d
    }

    fn cursor(&self) -> Box<dyn Cursor + '_> {
        Box::new(*self)
    }

    fn hashed(&self) -> Option<Vec<HashedRange>> {
        let Self { seed, d, .. } = *self;
        Some(vec![HashedRange { first_index: 0, numel: MAX_INDEX, seed, d, first_group: 0 }])
    }
}

/// A hash has no position to keep.
impl Cursor for Stateless {
    fn fill(&mut self, start: u64, out: &mut [u32]) -> Result<(), PartitionError> {
        if self.d > 1 << 32 {
            return Err(PartitionError::TooManyGroups { d: self.d });
        }
        check_range(start, out.len() as u64)?;
        let state = self.state(start);
        match self.isa.kind() {
            // SAFETY: an `Isa` of this kind exists only where detection found AVX-512 F and DQ.
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx512 => unsafe { avx512::fill(state, &self.modulus, out) },
            // SAFETY: an `Isa` of this kind exists only where detection found AVX2.
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx2 => unsafe { avx2::fill(state, &self.modulus, out) },
            _ => fill_scalar(state, &self.modulus, out),
        }
        Ok(())
    }
}

/// The finalizer of SplitMix64.
#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(MULTIPLIER_1);
    z = (z ^ (z >> 27)).wrapping_mul(MULTIPLIER_2);
    z ^ (z >> 31)
}

fn fill_scalar(state: u64, modulus: &Modulus, out: &mut [u32]) {
    let states = std::iter::successors(Some(state), |z| Some(z.wrapping_add(1)));
    if modulus.is_power_of_two() {
        let mask = modulus.d - 1;
        states.zip(out).for_each(|(z, id)| *id = (mix(z) & mask) as u32);
    } else {
        states.zip(out).for_each(|(z, id)| *id = modulus.reduce_odd(mix(z)) as u32);
    }
}

/// 2^52 as f64: adding it rounds a smaller f64 to the nearest integer, which then is the low bits of the sum.
#[cfg(target_arch = "x86_64")]
const TWO_TO_52: f64 = 4_503_599_627_370_496.0;

#[cfg(test)]
mod tests;
