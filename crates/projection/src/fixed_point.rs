use crate::ProjectionError;

/// The fixed-point format in which gradients are summed exactly, in any order.
///
/// A term g becomes the integer round-half-even(g · 2^e). With b = ceil(log2(n)), where n is the largest number of
/// terms that one group gets in a step, e is 40 and a term must be below 2^(22−b) in size; for b > 19, e is 59 − b
/// and the limit 8. Either way a sum stays within 2^62 and cannot wrap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FixedPoint {
    bits: u32,
    exponent: i32,
    limit: f32,
}

impl FixedPoint {
    /// The format for groups of at most `largest_group` weights and steps of `micro_batches`, over all ranks.
    pub fn new(largest_group: u64, micro_batches: u64) -> Self {
        let terms = u128::from(largest_group) * u128::from(micro_batches);
        // ceil(log2(terms)): the bits of terms − 1.
        let bits = u128::BITS - terms.saturating_sub(1).leading_zeros();
        let (exponent, limit) =
            if bits > 19 { (59 - bits as i32, 8.0) } else { (40, power_of_two(22 - bits as i32)) };
        Self { bits, exponent, limit }
    }

    /// b, the binary logarithm of the number of terms, rounded up.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// e: sums are in units of 2^−e.
    pub fn exponent(&self) -> i32 {
        self.exponent
    }

    /// Terms must be smaller than this in size.
    pub fn limit(&self) -> f32 {
        self.limit
    }

    /// 2^e, exact in f32.
    pub(crate) fn unit(&self) -> f32 {
        power_of_two(self.exponent)
    }

    /// Turns the sums over all ranks into the gradient of θ: out_j = s_j · sum_j · 2^−e.
    ///
    /// Computed in f64, where an integer above 2^53 and the product are each rounded, then rounded once to f32.
    /// Every rank does the same operations on the same bits, so every rank gets the same gradient.
    ///
    /// # Errors
    /// When the three do not have the same length.
    pub fn finish(&self, sums: &[i64], scales: &[f32], out: &mut [f32]) -> Result<(), ProjectionError> {
        ProjectionError::check_length("the vector of scales", sums.len(), scales.len())?;
        ProjectionError::check_length("the gradient of theta", sums.len(), out.len())?;
        let unit = f64::from(power_of_two(-self.exponent));
        for ((out, &sum), &scale) in out.iter_mut().zip(sums).zip(scales) {
            *out = (f64::from(scale) * (sum as f64 * unit)) as f32;
        }
        Ok(())
    }
}

/// 2^exponent for −126 ≤ exponent ≤ 127; here it lies between −69 and 69.
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::FixedPoint;

    #[test]
    fn format_follows_the_number_of_terms() {
        let check = |largest_group, micro_batches, bits, exponent, limit: f32| {
            let fixed = FixedPoint::new(largest_group, micro_batches);
            assert_eq!((fixed.bits(), fixed.exponent(), fixed.limit()), (bits, exponent, limit));
            assert_eq!(f64::from(fixed.unit()), f64::from(exponent).exp2());
            // A full group of terms just below the limit stays within 2^62.
            let terms = largest_group as f64 * micro_batches as f64;
            assert!(terms * f64::from(limit) * f64::from(fixed.unit()) <= 62_f64.exp2());
        };
        check(0, 0, 0, 40, 4_194_304.0);
        check(1, 1, 0, 40, 4_194_304.0);
        check(1, 2, 1, 40, 2_097_152.0);
        check(3, 1, 2, 40, 1_048_576.0);
        check(2560, 8, 15, 40, 128.0);
        check(1 << 16, 8, 19, 40, 8.0);
        check((1 << 16) + 1, 8, 20, 39, 8.0);
        check(1 << 20, 1 << 20, 40, 19, 8.0);
        check(u64::MAX, u64::MAX, 128, -69, 8.0);
    }

    #[test]
    fn finish_scales_sums() {
        let fixed = FixedPoint::new(4, 2);
        let mut out = [0.0; 4];
        fixed.finish(&[1 << 40, -(1 << 41), 0, 1], &[0.5, 1.0, 1.0, 1.0], &mut out).unwrap();
        assert_eq!(out, [0.5, -2.0, 0.0, (-40_f32).exp2()]);
        assert!(fixed.finish(&[1], &[1.0, 1.0], &mut [0.0]).is_err());
        assert!(fixed.finish(&[1], &[1.0], &mut [0.0, 0.0]).is_err());
    }
}
