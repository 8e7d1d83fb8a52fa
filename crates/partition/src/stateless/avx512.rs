//! SplitMix64 and the reduction modulo d, 16 indices at a time.

use std::arch::x86_64::*;

use super::{MULTIPLIER_1, MULTIPLIER_2, Modulus, Plan, TWO_TO_52, fill_scalar};

const LANES: usize = 16;

/// Writes the ids of the states `state, state + 1, …`. The same ids as [`fill_scalar`].
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn fill(state: u64, modulus: &Modulus, out: &mut [u32]) {
    match modulus.plan() {
        Some(Plan::Mask) => fill_plan::<{ Plan::Mask as u8 }>(state, modulus, out),
        Some(Plan::Fold) => fill_plan::<{ Plan::Fold as u8 }>(state, modulus, out),
        Some(Plan::Direct) => fill_plan::<{ Plan::Direct as u8 }>(state, modulus, out),
        None => fill_scalar(state, modulus, out),
    }
}

#[target_feature(enable = "avx512f,avx512dq")]
fn fill_plan<const PLAN: u8>(state: u64, modulus: &Modulus, out: &mut [u32]) {
    // The even 32-bit halves of two registers: the low halves of 16 numbers, in order.
    let low_halves = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    let (eight, sixteen) = (_mm512_set1_epi64(8), _mm512_set1_epi64(16));
    let d32 = _mm512_set1_epi32(modulus.d as i32);
    let mask = _mm512_set1_epi32(modulus.d.wrapping_sub(1) as i32);
    let mut z = _mm512_add_epi64(_mm512_set1_epi64(state as i64), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
    let mut blocks = out.chunks_exact_mut(LANES);
    let mut done = 0;
    for block in &mut blocks {
        let low = mix(z);
        let high = mix(_mm512_add_epi64(z, eight));
        z = _mm512_add_epi64(z, sixteen);
        let ids = if PLAN == Plan::Mask as u8 {
            _mm512_and_si512(_mm512_permutex2var_epi32(low, low_halves, high), mask)
        } else {
            let (low, high) = (remainder::<PLAN>(low, modulus), remainder::<PLAN>(high, modulus));
            let r = _mm512_permutex2var_epi32(low, low_halves, high);
            // A negative remainder is huge as unsigned, so the smaller of the two is the one in 0 .. d.
            _mm512_min_epu32(r, _mm512_add_epi32(r, d32))
        };
        // SAFETY: `block` has 16 ids of 4 bytes, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(block.as_mut_ptr().cast(), ids) };
        done += LANES as u64;
    }
    fill_scalar(state.wrapping_add(done), modulus, blocks.into_remainder());
}

/// z − q·d in the low 32 bits of each lane, with q an integer nearest to z/d; the high bits are left undefined.
#[target_feature(enable = "avx512f,avx512dq")]
fn remainder<const PLAN: u8>(z: __m512i, modulus: &Modulus) -> __m512i {
    let z = if PLAN == Plan::Fold as u8 {
        let folded =
            _mm512_mul_epu32(_mm512_srli_epi64::<32>(z), _mm512_set1_epi64(modulus.two_to_32 as i64));
        _mm512_add_epi64(folded, _mm512_and_si512(z, _mm512_set1_epi64(0xFFFF_FFFF)))
    } else {
        z
    };
    let quotient = _mm512_mul_pd(_mm512_cvtepu64_pd(z), _mm512_set1_pd(modulus.inverse));
    let q = _mm512_castpd_si512(_mm512_add_pd(quotient, _mm512_set1_pd(TWO_TO_52)));
    _mm512_sub_epi64(z, _mm512_mul_epu32(q, _mm512_set1_epi64(modulus.d as i64)))
}

#[target_feature(enable = "avx512f,avx512dq")]
fn mix(z: __m512i) -> __m512i {
    let z = _mm512_xor_si512(z, _mm512_srli_epi64::<30>(z));
    let z = _mm512_mullo_epi64(z, _mm512_set1_epi64(MULTIPLIER_1 as i64));
    let z = _mm512_xor_si512(z, _mm512_srli_epi64::<27>(z));
    let z = _mm512_mullo_epi64(z, _mm512_set1_epi64(MULTIPLIER_2 as i64));
    _mm512_xor_si512(z, _mm512_srli_epi64::<31>(z))
}
