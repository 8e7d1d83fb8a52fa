//! A literal number, in the three forms that the evaluators need.

use super::exact::PRIMES;

/// Python refuses to read longer ones.
const MOST_DIGITS: usize = 4300;

/// A decimal number without a sign.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Number {
    /// Rounded; infinite where it is beyond floats.
    pub(crate) value: f64,
    /// Of the exact number, modulo each of [`PRIMES`].
    pub(crate) residues: [u64; PRIMES.len()],
    /// The exact number, if it is an integer of 63 bits.
    pub(crate) integer: Option<i64>,
}

impl Number {
    /// Of decimal digits, of which the last `decimals` are behind the point.
    pub(crate) fn new(digits: &str, decimals: usize) -> Option<Self> {
        if digits.is_empty() || digits.len() > MOST_DIGITS {
            return None;
        }
        let residues = PRIMES.map(|field| {
            let ten = field.reduce(10);
            let of_digits = digits.bytes().fold(0, |sum, digit| {
                field.add(field.multiply(sum, ten), field.reduce(u64::from(digit - b'0')))
            });
            field.multiply(of_digits, field.power(field.inverse(ten), decimals as u64))
        });
        let value = format!("{digits}e-{decimals}").parse().ok()?;
        let integer = if decimals == 0 { digits.parse().ok() } else { None };
        Some(Self { value, residues, integer })
    }
}

impl From<u32> for Number {
    fn from(integer: u32) -> Self {
        Self {
            value: f64::from(integer),
            residues: PRIMES.map(|field| field.reduce(u64::from(integer))),
            integer: Some(i64::from(integer)),
        }
    }
}

impl Number {
    pub(crate) fn negate(&mut self) {
        self.value = -self.value;
        for (residue, field) in self.residues.iter_mut().zip(PRIMES) {
            *residue = field.negative(*residue);
        }
        // An integer of 63 bits has a negative.
        self.integer = self.integer.map(|value| -value);
    }
}
