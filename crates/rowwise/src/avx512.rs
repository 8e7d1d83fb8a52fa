//! Sixteen lanes in one register.

use std::arch::x86_64::{
    __m512, _mm256_add_ps, _mm512_castps512_ps256, _mm512_extractf32x8_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_setzero_ps,
};

use crate::lanes::{self, Lanes};

#[derive(Clone, Copy)]
struct Wide(__m512);

impl Lanes for Wide {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: AVX-512 is there.
        Self(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: AVX-512 is there, and sixteen numbers are at `from`.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: AVX-512 is there.
        Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: AVX-512 is there, with its parts F and DQ, and AVX with it.
        unsafe {
            let halves = _mm256_add_ps(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0));
            crate::avx2::sum_of_eight(halves)
        }
    }
}

/// See [`lanes::product`].
///
/// # Safety
/// The processor has AVX-512 F and DQ, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
pub(crate) unsafe fn product(x: &[f32], w: &[f32], k: usize, put: &mut dyn FnMut(usize, usize, f32)) {
    // SAFETY: as promised.
    unsafe { lanes::product::<Wide>(x, w, k, put) }
}
