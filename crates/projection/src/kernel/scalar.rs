//! Portable kernels; they also finish what is left over by the vector kernels.

use crate::{Dropout, FixedPoint};

/// 2^52 + 2^51 as f64: adding it to a number below 2^51 in size rounds that to the nearest integer, half to even,
/// and leaves it in the low bits of the sum.
pub(super) const MAGIC: f64 = 6_755_399_441_055_744.0;

/// Up to here [`MAGIC`] rounds; from here on every f32 is an integer.
pub(super) const MAGIC_LIMIT: f32 = 2_251_799_813_685_248.0;

pub(super) fn max_id(ids: &[u32]) -> u32 {
    ids.iter().copied().max().unwrap_or(0)
}

pub(super) fn fill_mask(dropout: &Dropout, first_pair: u64, out: &mut [f32]) {
    let mut pair = first_pair;
    for weights in out.chunks_mut(2) {
        let word = dropout.word(pair);
        for (weight, bits) in weights.iter_mut().zip([word as u32, (word >> 32) as u32]) {
            *weight = dropout.choose(bits);
        }
        pair = pair.wrapping_add(1);
    }
}

/// # Safety
/// As for [`super::apply`].
pub(super) unsafe fn apply<const BASE: bool, const MASK: bool>(
    theta: &[f32],
    ids: &[u32],
    base: &[f32],
    mask: &[f32],
    out: &mut [f32],
) {
    for (k, (out, &id)) in out.iter_mut().zip(ids).enumerate() {
        // SAFETY: the caller promises that the id is in bounds.
        let mut value = unsafe { *theta.get_unchecked(id as usize) };
        if MASK {
            value *= mask[k];
        }
        if BASE {
            value += base[k];
        }
        *out = value;
    }
}

pub(super) fn quantize<const MASK: bool>(
    grad: &[f32],
    mask: &[f32],
    fixed: &FixedPoint,
    terms: &mut [i64],
) -> bool {
    let (limit, unit) = (fixed.limit(), fixed.unit());
    let mut overflow = false;
    for (k, (term, &grad)) in terms.iter_mut().zip(grad).enumerate() {
        let grad = if MASK { grad * mask[k] } else { grad };
        // Also false for NaN.
        let fits = grad.abs() < limit;
        overflow |= !fits;
        *term = if fits { round(grad * unit) } else { 0 };
    }
    overflow
}

/// Rounds to the nearest integer, half to even, for |value| ≤ 2^62.
///
/// The multiplication by 2^e before is exact, as a result that f32 cannot hold in full is far below 1/2.
#[inline]
pub(super) fn round(value: f32) -> i64 {
    if value.abs() < MAGIC_LIMIT {
        (f64::from(value) + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i64
    } else {
        value as i64
    }
}
