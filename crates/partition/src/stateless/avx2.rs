//! SplitMix64 and the reduction modulo d, 8 indices at a time.

use std::arch::x86_64::*;

use super::{MULTIPLIER_1, MULTIPLIER_2, Modulus, Plan, TWO_TO_52, fill_scalar};

const LANES: usize = 8;
const TWO_TO_84: f64 = TWO_TO_52 * 4_294_967_296.0;

/// Writes the ids of the states `state, state + 1, …`. The same ids as [`fill_scalar`].
#[target_feature(enable = "avx2")]
pub(super) fn fill(state: u64, modulus: &Modulus, out: &mut [u32]) {
    match modulus.plan() {
        Some(Plan::Mask) => fill_plan::<{ Plan::Mask as u8 }>(state, modulus, out),
        Some(Plan::Fold) => fill_plan::<{ Plan::Fold as u8 }>(state, modulus, out),
        Some(Plan::Direct) => fill_plan::<{ Plan::Direct as u8 }>(state, modulus, out),
        None => fill_scalar(state, modulus, out),
    }
}

#[target_feature(enable = "avx2")]
fn fill_plan<const PLAN: u8>(state: u64, modulus: &Modulus, out: &mut [u32]) {
    let (four, eight) = (_mm256_set1_epi64x(4), _mm256_set1_epi64x(8));
    let d32 = _mm256_set1_epi32(modulus.d as i32);
    let mask = _mm256_set1_epi32(modulus.d.wrapping_sub(1) as i32);
    let mut z = _mm256_add_epi64(_mm256_set1_epi64x(state as i64), _mm256_set_epi64x(3, 2, 1, 0));
    let mut blocks = out.chunks_exact_mut(LANES);
    let mut done = 0;
    for block in &mut blocks {
        let low = mix(z);
        let high = mix(_mm256_add_epi64(z, four));
        z = _mm256_add_epi64(z, eight);
        let ids = if PLAN == Plan::Mask as u8 {
            _mm256_and_si256(low_halves(low, high), mask)
        } else {
            let r = low_halves(remainder::<PLAN>(low, modulus), remainder::<PLAN>(high, modulus));
            // A negative remainder is huge as unsigned, so the smaller of the two is the one in 0 .. d.
            _mm256_min_epu32(r, _mm256_add_epi32(r, d32))
        };
        // SAFETY: `block` has 8 ids of 4 bytes, and the store needs no alignment.
        unsafe { _mm256_storeu_si256(block.as_mut_ptr().cast(), ids) };
        done += LANES as u64;
    }
    fill_scalar(state.wrapping_add(done), modulus, blocks.into_remainder());
}

/// The low 32 bits of the four lanes of `low`, then of `high`.
#[target_feature(enable = "avx2")]
fn low_halves(low: __m256i, high: __m256i) -> __m256i {
    let mixed = _mm256_shuffle_ps::<0b10_00_10_00>(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high));
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_castps_si256(mixed))
}

/// z − q·d in the low 32 bits of each lane, with q an integer nearest to z/d; the high bits are left undefined.
#[target_feature(enable = "avx2")]
fn remainder<const PLAN: u8>(z: __m256i, modulus: &Modulus) -> __m256i {
    let z = if PLAN == Plan::Fold as u8 {
        let folded =
            _mm256_mul_epu32(_mm256_srli_epi64::<32>(z), _mm256_set1_epi64x(modulus.two_to_32 as i64));
        _mm256_add_epi64(folded, _mm256_and_si256(z, _mm256_set1_epi64x(0xFFFF_FFFF)))
    } else {
        z
    };
    let quotient = _mm256_mul_pd(to_f64(z), _mm256_set1_pd(modulus.inverse));
    let q = _mm256_castpd_si256(_mm256_add_pd(quotient, _mm256_set1_pd(TWO_TO_52)));
    _mm256_sub_epi64(z, _mm256_mul_epu32(q, _mm256_set1_epi64x(modulus.d as i64)))
}

/// Unsigned 64-bit to f64, rounded once: each half is put into the mantissa of a power of two.
#[target_feature(enable = "avx2")]
fn to_f64(z: __m256i) -> __m256d {
    let exponent_84 = _mm256_castpd_si256(_mm256_set1_pd(TWO_TO_84));
    let exponent_52 = _mm256_castpd_si256(_mm256_set1_pd(TWO_TO_52));
    let high = _mm256_castsi256_pd(_mm256_or_si256(_mm256_srli_epi64::<32>(z), exponent_84));
    let low = _mm256_castsi256_pd(_mm256_blend_epi32::<0b1010_1010>(z, exponent_52));
    _mm256_add_pd(_mm256_sub_pd(high, _mm256_set1_pd(TWO_TO_84 + TWO_TO_52)), low)
}

#[target_feature(enable = "avx2")]
fn mix(z: __m256i) -> __m256i {
    let z = _mm256_xor_si256(z, _mm256_srli_epi64::<30>(z));
    let z = multiply::<MULTIPLIER_1>(z);
    let z = _mm256_xor_si256(z, _mm256_srli_epi64::<27>(z));
    let z = multiply::<MULTIPLIER_2>(z);
    _mm256_xor_si256(z, _mm256_srli_epi64::<31>(z))
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
