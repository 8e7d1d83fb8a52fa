//! Counts that may be anything a file claims: products and sums that stop at the largest number.

/// The product, at most `u64::MAX`.
pub(crate) fn product<const N: usize>(factors: [u64; N]) -> u64 {
    if factors.contains(&0) {
        return 0;
    }
    factors.into_iter().fold(1, u64::saturating_mul)
}

/// The sum, at most `u64::MAX`.
pub(crate) fn sum(terms: impl IntoIterator<Item = u64>) -> u64 {
    terms.into_iter().fold(0, u64::saturating_add)
}

/// `numerator / denominator`, 0 where there is nothing to divide by.
pub(crate) fn ratio(numerator: u64, denominator: u64) -> f64 {
    match denominator {
        0 => 0.0,
        _ => numerator as f64 / denominator as f64,
    }
}
