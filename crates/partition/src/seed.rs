use std::fmt;

/// A partition's seed: any integer, reduced modulo 2^64.
///
/// Negative seeds and seeds above 2^63 are legal; −1 and 2^64 − 1 are the same seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seed(u64);

impl Seed {
    /// The seed as the unsigned number that enters the hash.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl From<i128> for Seed {
    /// Reduces modulo 2^64, which is what truncating two's complement does.
    fn from(value: i128) -> Self {
        Self(value as u64)
    }
}

macro_rules! from_integers {
    ($($integer:ty),*) => {
        $(impl From<$integer> for Seed {
            /// Reduces modulo 2^64.
            fn from(value: $integer) -> Self {
                Self::from(i128::from(value))
            }
        })*
    };
}

from_integers!(i32, i64, u64);

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::Seed;

    #[test]
    fn any_integer_is_reduced_modulo_two_to_the_64() {
        for (written, expect) in [
            (0, 0),
            (42_i128, 42),
            (-1, u64::MAX),
            (-3, u64::MAX - 2),
            ((1 << 63) + 5, (1 << 63) + 5),
            (1 << 64, 0),
            ((1 << 64) + 7, 7),
            (-(1_i128 << 64) - 2, u64::MAX - 1),
        ] {
            assert_eq!(Seed::from(written).get(), expect, "{written}");
        }
        assert_eq!(Seed::from(-1).to_string(), "18446744073709551615");
    }
}
