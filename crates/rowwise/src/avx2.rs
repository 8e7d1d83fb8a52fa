//! Sixteen lanes in two registers.

use std::arch::x86_64::{
    __m256, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehl_ps, _mm_shuffle_ps, _mm256_add_ps,
    _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps,
};

use crate::lanes::{self, Lanes};

#[derive(Clone, Copy)]
struct Pair(__m256, __m256);

impl Lanes for Pair {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: AVX is there.
        unsafe { Self(_mm256_setzero_ps(), _mm256_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: AVX is there, and sixteen numbers are at `from`.
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: FMA is there.
        unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: AVX is there.
        unsafe { sum_of_eight(_mm256_add_ps(self.0, self.1)) }
    }
}

/// The sum over eight lanes, by halves.
///
/// # Safety
/// The processor has AVX.
#[inline(always)]
pub(crate) unsafe fn sum_of_eight(lanes: __m256) -> f32 {
    // SAFETY: as promised.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// See [`lanes::product`].
///
/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn product(x: &[f32], w: &[f32], k: usize, put: &mut dyn FnMut(usize, usize, f32)) {
    // SAFETY: as promised.
    unsafe { lanes::product::<Pair>(x, w, k, put) }
}
