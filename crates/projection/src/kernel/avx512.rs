//! Kernels of 16 weights at a time for AVX-512 F, DQ and VL.

use std::arch::x86_64::*;

use super::scalar;
use crate::dropout::{MULTIPLIER_1, MULTIPLIER_2, WEYL};
use crate::{Dropout, FixedPoint};

const LANES: usize = 16;

#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub(super) fn max_id(ids: &[u32]) -> u32 {
    let blocks = ids.chunks_exact(LANES);
    let rest = scalar::max_id(blocks.remainder());
    let mut max = _mm512_setzero_si512();
    for block in blocks {
        // SAFETY: `block` has 16 ids of 4 bytes, and the load needs no alignment.
        max = _mm512_max_epu32(max, unsafe { _mm512_loadu_si512(block.as_ptr().cast()) });
    }
    _mm512_reduce_max_epu32(max).max(rest)
}

#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub(super) fn fill_mask(dropout: &Dropout, first_pair: u64, out: &mut [f32]) {
    const PAIRS: u64 = LANES as u64 / 2;
    let factor = _mm512_set1_ps(dropout.factor);
    let threshold = _mm512_set1_epi32(dropout.threshold as i32);
    let stride = _mm512_set1_epi64(WEYL.wrapping_mul(PAIRS) as i64);
    let steps = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    let mut counter = _mm512_add_epi64(
        _mm512_set1_epi64(dropout.counter(first_pair) as i64),
        _mm512_mullo_epi64(steps, _mm512_set1_epi64(WEYL as i64)),
    );
    let key = _mm512_set1_epi64(dropout.key[1] as i64);
    let mut blocks = out.chunks_exact_mut(LANES);
    let mut pair = first_pair;
    for block in &mut blocks {
        let keep = _mm512_cmpge_epu32_mask(finalize(counter, key), threshold);
        // SAFETY: `block` has 16 numbers of 4 bytes, and the store needs no alignment.
        unsafe { _mm512_storeu_ps(block.as_mut_ptr(), _mm512_maskz_mov_ps(keep, factor)) };
        counter = _mm512_add_epi64(counter, stride);
        pair = pair.wrapping_add(PAIRS);
    }
    scalar::fill_mask(dropout, pair, blocks.into_remainder());
}

/// The finalizer of [`Dropout::word`], in 8 lanes.
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn finalize(z: __m512i, key: __m512i) -> __m512i {
    let z = _mm512_xor_si512(z, _mm512_srli_epi64::<33>(z));
    let z = _mm512_mullo_epi64(z, _mm512_set1_epi64(MULTIPLIER_1 as i64));
    let z = _mm512_xor_si512(_mm512_xor_si512(z, _mm512_srli_epi64::<33>(z)), key);
    let z = _mm512_mullo_epi64(z, _mm512_set1_epi64(MULTIPLIER_2 as i64));
    _mm512_xor_si512(z, _mm512_srli_epi64::<33>(z))
}

/// # Safety
/// As for [`super::apply`], and theta has fewer than 2^31 entries.
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub(super) unsafe fn apply<const BASE: bool, const MASK: bool>(
    theta: &[f32],
    ids: &[u32],
    base: &[f32],
    mask: &[f32],
    out: &mut [f32],
) {
    let whole = out.len() / LANES * LANES;
    for k in (0..whole).step_by(LANES) {
        // SAFETY: k + 16 is at most the length of all arrays, ids are in bounds of theta, and no access needs
        // more than the alignment of its element.
        unsafe {
            let id = _mm512_loadu_si512(ids.as_ptr().add(k).cast());
            let mut value = _mm512_i32gather_ps::<4>(id, theta.as_ptr());
            if MASK {
                value = _mm512_mul_ps(value, _mm512_loadu_ps(mask.as_ptr().add(k)));
            }
            if BASE {
                value = _mm512_add_ps(value, _mm512_loadu_ps(base.as_ptr().add(k)));
            }
            _mm512_storeu_ps(out.as_mut_ptr().add(k), value);
        }
    }
    let (base, mask) = (base.get(whole..).unwrap_or(&[]), mask.get(whole..).unwrap_or(&[]));
    // SAFETY: the caller's promise holds for the ends of the arrays too.
    unsafe { scalar::apply::<BASE, MASK>(theta, &ids[whole..], base, mask, &mut out[whole..]) }
}

/// # Safety
/// As for [`super::quantize`].
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub(super) unsafe fn quantize<const MASK: bool>(
    grad: &[f32],
    mask: &[f32],
    fixed: &FixedPoint,
    terms: &mut [i64],
) -> bool {
    let (limit, unit) = (_mm512_set1_ps(fixed.limit()), _mm512_set1_ps(fixed.unit()));
    let whole = grad.len() / LANES * LANES;
    let mut all_fit: __mmask16 = !0;
    for k in (0..whole).step_by(LANES) {
        // SAFETY: k + 16 is at most the length of all arrays, and no access needs more than the alignment of its
        // element.
        unsafe {
            let mut value = _mm512_loadu_ps(grad.as_ptr().add(k));
            if MASK {
                value = _mm512_mul_ps(value, _mm512_loadu_ps(mask.as_ptr().add(k)));
            }
            // False for NaN.
            let fits = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(value), limit);
            all_fit &= fits;
            let value = _mm512_maskz_mul_ps(fits, value, unit);
            let low = round(_mm512_castps512_ps256(value));
            let high = round(_mm512_extractf32x8_ps::<1>(value));
            _mm512_storeu_si512(terms.as_mut_ptr().add(k).cast(), low);
            _mm512_storeu_si512(terms.as_mut_ptr().add(k + LANES / 2).cast(), high);
        }
    }
    let mask = mask.get(whole..).unwrap_or(&[]);
    scalar::quantize::<MASK>(&grad[whole..], mask, fixed, &mut terms[whole..]) | (all_fit != !0)
}

/// To the nearest integer, half to even.
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn round(value: __m256) -> __m512i {
    _mm512_cvt_roundps_epi64::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value)
}
