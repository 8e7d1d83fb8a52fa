//! Sixteen lanes in plain numbers.

use crate::lanes::{self, Lanes, WIDTH};

#[derive(Clone, Copy)]
struct Numbers([f32; WIDTH]);

impl Lanes for Numbers {
    unsafe fn zero() -> Self {
        Self([0.0; WIDTH])
    }

    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: sixteen numbers are at `from`.
        Self(unsafe { from.cast::<[f32; WIDTH]>().read_unaligned() })
    }

    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|lane| a.0[lane].mul_add(b.0[lane], self.0[lane])))
    }

    unsafe fn sum(self) -> f32 {
        let mut lanes = self.0;
        let mut half = WIDTH / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
            half /= 2;
        }
        lanes[0]
    }
}

/// See [`lanes::product`].
pub(crate) fn product(x: &[f32], w: &[f32], k: usize, put: &mut dyn FnMut(usize, usize, f32)) {
    // SAFETY: plain numbers need no instruction set.
    unsafe { lanes::product::<Numbers>(x, w, k, put) }
}
