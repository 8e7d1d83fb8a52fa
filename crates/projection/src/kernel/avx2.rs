//! Kernels of 8 weights at a time for AVX2.

use std::arch::x86_64::*;

use super::scalar::{self, MAGIC, MAGIC_LIMIT};
use crate::dropout::{MULTIPLIER_1, MULTIPLIER_2, WEYL};
use crate::{Dropout, FixedPoint};

const LANES: usize = 8;

#[target_feature(enable = "avx2")]
pub(super) fn max_id(ids: &[u32]) -> u32 {
    // In this function the compiler makes vector code of the portable loop.
    scalar::max_id(ids)
}

#[target_feature(enable = "avx2")]
pub(super) fn fill_mask(dropout: &Dropout, first_pair: u64, out: &mut [f32]) {
    const PAIRS: u64 = LANES as u64 / 2;
    let factor = _mm256_set1_ps(dropout.factor);
    let threshold = _mm256_set1_epi32(dropout.threshold as i32);
    let stride = _mm256_set1_epi64x(WEYL.wrapping_mul(PAIRS) as i64);
    let counter_of = |step| dropout.counter(first_pair.wrapping_add(step)) as i64;
    let mut counter = _mm256_set_epi64x(counter_of(3), counter_of(2), counter_of(1), counter_of(0));
    let key = _mm256_set1_epi64x(dropout.key[1] as i64);
    let mut blocks = out.chunks_exact_mut(LANES);
    let mut pair = first_pair;
    for block in &mut blocks {
        let bits = finalize(counter, key);
        // Unsigned bits ≥ threshold, of which AVX2 has no comparison: the larger of the two is `bits`.
        let keep = _mm256_cmpeq_epi32(_mm256_max_epu32(bits, threshold), bits);
        let multiplier = _mm256_and_ps(_mm256_castsi256_ps(keep), factor);
        // SAFETY: `block` has 8 numbers of 4 bytes, and the store needs no alignment.
        unsafe { _mm256_storeu_ps(block.as_mut_ptr(), multiplier) };
        counter = _mm256_add_epi64(counter, stride);
        pair = pair.wrapping_add(PAIRS);
    }
    scalar::fill_mask(dropout, pair, blocks.into_remainder());
}

/// The finalizer of [`Dropout::word`], in 4 lanes.
#[target_feature(enable = "avx2")]
fn finalize(z: __m256i, key: __m256i) -> __m256i {
    let z = _mm256_xor_si256(z, _mm256_srli_epi64::<33>(z));
    let z = multiply::<MULTIPLIER_1>(z);
    let z = _mm256_xor_si256(_mm256_xor_si256(z, _mm256_srli_epi64::<33>(z)), key);
    let z = multiply::<MULTIPLIER_2>(z);
    _mm256_xor_si256(z, _mm256_srli_epi64::<33>(z))
}

/// The low 64 bits of a product, from three 32-bit products.
#[target_feature(enable = "avx2")]
fn multiply<const BY: u64>(z: __m256i) -> __m256i {
    let (by_low, by_high) = (_mm256_set1_epi64x(BY as i64), _mm256_set1_epi64x((BY >> 32) as i64));
    let low = _mm256_mul_epu32(z, by_low);
    let cross =
        _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64::<32>(z), by_low), _mm256_mul_epu32(z, by_high));
    _mm256_add_epi64(low, _mm256_slli_epi64::<32>(cross))
}

/// # Safety
/// As for [`super::apply`], and theta has fewer than 2^31 entries.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn apply<const BASE: bool, const MASK: bool>(
    theta: &[f32],
    ids: &[u32],
    base: &[f32],
    mask: &[f32],
    out: &mut [f32],
) {
    let whole = out.len() / LANES * LANES;
    for k in (0..whole).step_by(LANES) {
        // SAFETY: k + 8 is at most the length of all arrays, ids are in bounds of theta, and no access needs more
        // than the alignment of its element.
        unsafe {
            let id = _mm256_loadu_si256(ids.as_ptr().add(k).cast());
            let mut value = _mm256_i32gather_ps::<4>(theta.as_ptr(), id);
            if MASK {
                value = _mm256_mul_ps(value, _mm256_loadu_ps(mask.as_ptr().add(k)));
            }
            if BASE {
                value = _mm256_add_ps(value, _mm256_loadu_ps(base.as_ptr().add(k)));
            }
            _mm256_storeu_ps(out.as_mut_ptr().add(k), value);
        }
    }
    let (base, mask) = (base.get(whole..).unwrap_or(&[]), mask.get(whole..).unwrap_or(&[]));
    // SAFETY: the caller's promise holds for the ends of the arrays too.
    unsafe { scalar::apply::<BASE, MASK>(theta, &ids[whole..], base, mask, &mut out[whole..]) }
}

/// # Safety
/// As for [`super::quantize`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn quantize<const MASK: bool>(
    grad: &[f32],
    mask: &[f32],
    fixed: &FixedPoint,
    terms: &mut [i64],
) -> bool {
    let (limit, unit) = (_mm256_set1_ps(fixed.limit()), _mm256_set1_ps(fixed.unit()));
    let sign = _mm256_set1_ps(-0.0);
    let whole = grad.len() / LANES * LANES;
    let mut all_fit = !0;
    for k in (0..whole).step_by(LANES) {
        // SAFETY: k + 8 is at most the length of all arrays, and no access needs more than the alignment of its
        // element.
        unsafe {
            let mut value = _mm256_loadu_ps(grad.as_ptr().add(k));
            if MASK {
                value = _mm256_mul_ps(value, _mm256_loadu_ps(mask.as_ptr().add(k)));
            }
            // False for NaN.
            let fits = _mm256_cmp_ps::<_CMP_LT_OQ>(_mm256_andnot_ps(sign, value), limit);
            all_fit &= _mm256_movemask_ps(fits);
            let value = _mm256_mul_ps(_mm256_and_ps(value, fits), unit);
            let large =
                _mm256_cmp_ps::<_CMP_GE_OQ>(_mm256_andnot_ps(sign, value), _mm256_set1_ps(MAGIC_LIMIT));
            if _mm256_movemask_ps(large) == 0 {
                let low = round(_mm256_castps256_ps128(value));
                let high = round(_mm256_extractf128_ps::<1>(value));
                _mm256_storeu_si256(terms.as_mut_ptr().add(k).cast(), low);
                _mm256_storeu_si256(terms.as_mut_ptr().add(k + LANES / 2).cast(), high);
            } else {
                let mut values = [0.0; LANES];
                _mm256_storeu_ps(values.as_mut_ptr(), value);
                for (term, value) in terms[k..k + LANES].iter_mut().zip(values) {
                    *term = scalar::round(value);
                }
            }
        }
    }
    let mask = mask.get(whole..).unwrap_or(&[]);
    scalar::quantize::<MASK>(&grad[whole..], mask, fixed, &mut terms[whole..]) | (all_fit & 0xFF != 0xFF)
}

/// To the nearest integer, half to even, for numbers below 2^51 in size.
#[target_feature(enable = "avx2")]
fn round(value: __m128) -> __m256i {
    let magic = _mm256_set1_pd(MAGIC);
    let sum = _mm256_add_pd(_mm256_cvtps_pd(value), magic);
    _mm256_sub_epi64(_mm256_castpd_si256(sum), _mm256_castpd_si256(magic))
}
