//! Remainders without a division.

/// Division-free reduction of 64-bit numbers modulo d.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only vector kernels divide in f64"))]
pub(crate) struct Modulus {
    pub(crate) d: u64,
    /// floor(2^64 / d) for a d that is no power of two.
    barrett: u64,
    /// 2^32 mod d.
    pub(crate) two_to_32: u64,
    /// 1/d rounded to f64.
    pub(crate) inverse: f64,
}

impl Modulus {
    pub(crate) fn new(d: u64) -> Self {
        // For a d that is no power of two, floor((2^64 - 1) / d) is floor(2^64 / d).
        Self { d, barrett: u64::MAX / d, two_to_32: (1 << 32) % d, inverse: 1.0 / d as f64 }
    }

    pub(crate) fn is_power_of_two(&self) -> bool {
        self.d.is_power_of_two()
    }

    #[inline]
    pub(crate) fn reduce(&self, z: u64) -> u64 {
        if self.is_power_of_two() { z & (self.d - 1) } else { self.reduce_odd(z) }
    }

    /// Barrett: with m = floor(2^64/d), q = floor(z·m / 2^64) is floor(z/d) or one less, because
    /// z·m/2^64 > z/d − z/2^64 > z/d − 1.
    #[inline]
    pub(crate) fn reduce_odd(&self, z: u64) -> u64 {
        let q = ((u128::from(z) * u128::from(self.barrett)) >> 64) as u64;
        let r = z - q * self.d;
        if r >= self.d { r - self.d } else { r }
    }

    /// How a vector kernel reduces; `None` where only [`Modulus::reduce`] does.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn plan(&self) -> Option<Plan> {
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
pub(crate) enum Plan {
    Mask,
    Fold,
    Direct,
}
