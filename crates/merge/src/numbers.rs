//! The arithmetic on a piece of a tensor, and the sums of the report.

use crate::Dtype;

/// Sums over adapted numbers, from which the report is made. All in f64; W° is W as the output's dtype holds it,
/// which is W itself unless a narrower dtype was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sums {
    /// Numbers in all.
    pub numbers: u64,
    /// Numbers whose ΔW is not 0.
    pub moved: u64,
    /// Numbers of those that came out other than W°.
    pub changed: u64,
    /// Σ ΔW².
    pub delta_sq: f64,
    /// Σ (W' − W°)².
    pub kept_sq: f64,
    /// Σ (W' − W°) · ΔW.
    pub dot: f64,
    /// Σ (W' − (W + ΔW))².
    pub error_sq: f64,
}

impl Sums {
    /// Adds the sums of the numbers that follow. Sums of f64 depend on their order: it is that of the tensors.
    pub(crate) fn add(&mut self, next: &Self) {
        self.numbers += next.numbers;
        self.moved += next.moved;
        self.changed += next.changed;
        self.delta_sq += next.delta_sq;
        self.kept_sq += next.kept_sq;
        self.dot += next.dot;
        self.error_sq += next.error_sq;
    }
}

/// Replaces every ΔW in `delta` by round(W + ΔW), the sum rounded to f32 first. Returns the sums, and the place of
/// the first result that is not finite. `from` and `to` are the types of W and of the result; the arrays are
/// equally long.
pub(crate) fn merge(from: Dtype, to: Dtype, base: &[f32], delta: &mut [f32]) -> (Sums, Option<usize>) {
    let narrows = !from.fits_in(to);
    match (to, narrows) {
        (Dtype::Float32, _) => combine(base, delta, |x| x, |x| x),
        (Dtype::Bfloat16, false) => combine(base, delta, |x| Dtype::Bfloat16.round(x), |x| x),
        (Dtype::Bfloat16, true) => {
            combine(base, delta, |x| Dtype::Bfloat16.round(x), |x| Dtype::Bfloat16.round(x))
        }
        (Dtype::Float16, false) => combine(base, delta, |x| Dtype::Float16.round(x), |x| x),
        (Dtype::Float16, true) => {
            combine(base, delta, |x| Dtype::Float16.round(x), |x| Dtype::Float16.round(x))
        }
    }
}

/// Independent partial sums, so that a sum need not wait for the one before; part of the result's definition.
const LANES: usize = 8;

fn combine(
    base: &[f32],
    delta: &mut [f32],
    round: impl Fn(f32) -> f32,
    round_base: impl Fn(f32) -> f32,
) -> (Sums, Option<usize>) {
    let numbers = delta.len() as u64;
    let mut lanes = [Sums::default(); LANES];
    let mut all_finite = true;
    for (base, delta) in base.chunks(LANES).zip(delta.chunks_mut(LANES)) {
        for ((base, delta), sums) in base.iter().zip(delta).zip(&mut lanes) {
            let (before, exact_delta) = (round_base(*base), f64::from(*delta));
            let merged = round(base + *delta);
            let kept = f64::from(merged) - f64::from(before);
            let error = f64::from(merged) - (f64::from(*base) + exact_delta);
            sums.moved += u64::from(*delta != 0.0);
            sums.changed += u64::from(*delta != 0.0 && merged != before);
            sums.delta_sq += exact_delta * exact_delta;
            sums.kept_sq += kept * kept;
            sums.dot += kept * exact_delta;
            sums.error_sq += error * error;
            all_finite &= merged.is_finite();
            *delta = merged;
        }
    }
    let mut total = Sums { numbers, ..Sums::default() };
    lanes.iter().for_each(|lane| total.add(lane));
    let first_bad = if all_finite { None } else { delta.iter().position(|x| !x.is_finite()) };
    (total, first_bad)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::{Sums, merge};
    use crate::Dtype;

    /// Steps of bfloat16 are 2^-7 at 1 and 2^-6 at 2.
    #[test]
    fn sums_of_a_case_by_hand() {
        let base = [1.0, 1.0, 2.0, 3.0];
        let mut delta = [0.0078125, 0.001, 0.02, 0.0];
        let exact = delta.map(f64::from);
        let (sums, bad) = merge(Dtype::Bfloat16, Dtype::Bfloat16, &base, &mut delta);
        assert_eq!((delta, bad), ([1.0078125, 1.0, 2.015625, 3.0], None));
        assert_eq!((sums.numbers, sums.moved, sums.changed), (4, 3, 2));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-15, "{a} {b}");
        close(sums.delta_sq, exact.iter().map(|d| d * d).sum());
        close(sums.kept_sq, 0.0078125 * 0.0078125 + 0.015625 * 0.015625);
        close(sums.dot, 0.0078125 * 0.0078125 + 0.015625 * exact[2]);
        close(sums.error_sq, exact[1] * exact[1] + (0.015625 - exact[2]).powi(2));
    }

    /// A narrower output rounds the base as well; that is not the adapter's doing.
    #[test]
    fn the_base_is_compared_as_the_output_holds_it() {
        let mut delta = [0.0, 0.25];
        let (sums, _) = merge(Dtype::Float32, Dtype::Bfloat16, &[1.001, 1.001], &mut delta);
        assert_eq!(delta, [1.0, 1.25]);
        assert_eq!((sums.moved, sums.changed, sums.kept_sq, sums.dot), (1, 1, 0.0625, 0.0625));
    }

    #[test]
    fn the_first_number_that_is_not_finite_is_found() {
        let base = [1.0, 65504.0, f32::NAN, 65504.0];
        let mut delta = [1.0, 10.0, 0.0, 16.0];
        let (_, bad) = merge(Dtype::Float16, Dtype::Float16, &base, &mut delta);
        assert_eq!(bad, Some(2));
        let mut delta = [1.0, 16.0, 0.0, 16.0];
        let (_, bad) = merge(Dtype::Float32, Dtype::Float16, &base, &mut delta);
        assert_eq!(bad, Some(1));
    }

    proptest! {
        #[test]
        fn every_result_is_the_rounded_sum(
            numbers in proptest::collection::vec((-4.0_f32..4.0, -0.1_f32..0.1), 1..40),
            to in prop_oneof![Just(Dtype::Float32), Just(Dtype::Bfloat16), Just(Dtype::Float16)],
        ) {
            let base: Vec<f32> = numbers.iter().map(|n| n.0).collect();
            let mut merged: Vec<f32> = numbers.iter().map(|n| n.1).collect();
            let (sums, bad) = merge(Dtype::Float32, to, &base, &mut merged);
            prop_assert_eq!(bad, None);
            let mut plain = Sums { numbers: numbers.len() as u64, ..Sums::default() };
            for ((base, delta), merged) in numbers.iter().zip(&merged) {
                prop_assert_eq!(*merged, to.round(base + delta));
                let kept = f64::from(*merged) - f64::from(to.round(*base));
                plain.moved += u64::from(*delta != 0.0);
                plain.changed += u64::from(kept != 0.0);
                plain.kept_sq += kept * kept;
            }
            prop_assert_eq!((sums.numbers, sums.moved, sums.changed), (plain.numbers, plain.moved, plain.changed));
            prop_assert!((sums.kept_sq - plain.kept_sq).abs() <= 1e-12 * plain.kept_sq);
        }
    }
}
