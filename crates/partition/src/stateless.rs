//! The stateless backend: SplitMix64 of (seed + index), reduced modulo d.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::{Assignment, Isa, IsaKind, MAX_INDEX, PartitionError, Seed};

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

    /// The state before mixing.
    fn state(&self, index: u64) -> u64 {
        index.wrapping_add(self.seed.get()).wrapping_add(GOLDEN_GAMMA)
    }
}

impl Assignment for Stateless {
    fn d(&self) -> u64 {
        self.d
    }

    fn fill(&self, start: u64, out: &mut [u32]) -> Result<(), PartitionError> {
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

/// Refuses a range that does not end at or below 2^63 − 1.
pub(crate) fn check_range(start: u64, len: u64) -> Result<(), PartitionError> {
    match start.checked_add(len) {
        Some(end) if end <= MAX_INDEX => Ok(()),
        _ => Err(PartitionError::Range { start, len }),
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

/// Division-free reduction of 64-bit numbers modulo d.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only vector kernels divide in f64"))]
struct Modulus {
    d: u64,
    /// floor(2^64 / d) for a d that is no power of two.
    barrett: u64,
    /// 2^32 mod d.
    two_to_32: u64,
    /// 1/d rounded to f64.
    inverse: f64,
}

impl Modulus {
    fn new(d: u64) -> Self {
        // For a d that is no power of two, floor((2^64 - 1) / d) is floor(2^64 / d).
        Self { d, barrett: u64::MAX / d, two_to_32: (1 << 32) % d, inverse: 1.0 / d as f64 }
    }

    fn is_power_of_two(&self) -> bool {
        self.d.is_power_of_two()
    }

    #[inline]
    fn reduce(&self, z: u64) -> u64 {
        if self.is_power_of_two() { z & (self.d - 1) } else { self.reduce_odd(z) }
    }

    /// Barrett: with m = floor(2^64/d), q = floor(z·m / 2^64) is floor(z/d) or one less, because
    /// z·m/2^64 > z/d − z/2^64 > z/d − 1.
    #[inline]
    fn reduce_odd(&self, z: u64) -> u64 {
        let q = ((u128::from(z) * u128::from(self.barrett)) >> 64) as u64;
        let r = z - q * self.d;
        if r >= self.d { r - self.d } else { r }
    }

    /// How a vector kernel reduces; `None` where only [`Modulus::reduce`] does.
    #[cfg(target_arch = "x86_64")]
    fn plan(&self) -> Option<Plan> {
        match self.d {
            d if d.is_power_of_two() => Some(Plan::Mask),
            d if d < 1 << 16 => Some(Plan::Fold),
            d if d <= 1 << 31 => Some(Plan::Direct),
            _ => None,
        }
    }
}

/// How the vector kernels reduce z modulo d.
///
/// Both divisions take the nearest integer q to an f64 estimate of z/d; the remainder z − q·d is then between
/// −0.6 d and 0.6 d, needs d added where it is negative, and is right in its low 32 bits alone as d ≤ 2^31. The
/// estimate must be within 0.1 of z/d:
///
/// - `Direct`: three roundings of relative size 2^−53 on a quotient below 2^48 (d ≥ 2^16).
/// - `Fold`: z = hi·2^32 + lo is first replaced by hi·(2^32 mod d) + lo, below 2^49, exact in f64, and congruent.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Mask,
    Fold,
    Direct,
}

/// 2^52 as f64: adding it rounds a smaller f64 to the nearest integer, which then is the low bits of the sum.
#[cfg(target_arch = "x86_64")]
const TWO_TO_52: f64 = 4_503_599_627_370_496.0;

#[cfg(test)]
mod tests;
