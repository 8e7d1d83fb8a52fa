#![allow(clippy::unwrap_used)]

use projection::{Scoped, Serial};
use proptest::prelude::*;

use super::*;

fn kernels() -> Vec<Kernels> {
    let mut all = vec![Kernels::Scalar];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            all.push(Kernels::Avx2);
        }
        if Kernels::best() == Kernels::Avx512 {
            all.push(Kernels::Avx512);
        }
    }
    all
}

/// Numbers of both signs and several sizes.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let number = |i: usize| {
        let bits = (seed + i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        (bits as f32 / (1 << 23) as f32 - 1.0) * if i.is_multiple_of(7) { 100.0 } else { 1.0 }
    };
    (0..count).map(number).collect()
}

fn run(kernels: Kernels, x: &[f32], w: &[f32], k: usize, executor: &dyn Executor) -> Vec<u32> {
    let mut out = vec![f32::NAN; (x.len() / k) * (w.len() / k)];
    product_with(kernels, Operands { x, w, k }, &mut out, executor);
    out.into_iter().map(f32::to_bits).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The same bits for one row as for many, on every instruction set and any number of threads, and near the exact sum.
    #[test]
    fn a_row_is_by_itself(rows in 1_usize..11, outputs in 1_usize..150, k in 1_usize..100, seed in 0_u64..1000) {
        let (x, w) = (numbers(seed, rows * k), numbers(seed + 77, outputs * k));
        let expected = run(Kernels::Scalar, &x, &w, k, &Serial);
        for kernels in kernels() {
            prop_assert_eq!(&run(kernels, &x, &w, k, &Serial), &expected);
            prop_assert_eq!(&run(kernels, &x, &w, k, &Scoped(3)), &expected);
            for row in 0..rows {
                let alone = run(kernels, &x[row * k..(row + 1) * k], &w, k, &Serial);
                prop_assert_eq!(&alone[..], &expected[row * outputs..(row + 1) * outputs]);
            }
        }
        for (at, bits) in expected.iter().enumerate() {
            let (row, column) = (at / outputs, at % outputs);
            let terms = (0..k).map(|i| f64::from(x[row * k + i]) * f64::from(w[column * k + i]));
            let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            prop_assert!((f64::from(f32::from_bits(*bits)) - exact).abs() <= size * 1e-6);
        }
    }
}

#[test]
fn nothing_to_multiply_is_nothing() {
    let mut out = [];
    product(Operands { x: &[], w: &[1.0, 2.0], k: 2 }, &mut out, &Serial);
    product(Operands { x: &[1.0, 2.0], w: &[], k: 2 }, &mut out, &Serial);
}

#[test]
#[should_panic(expected = "a number for each of 1 x 2")]
fn too_little_room_is_refused() {
    product(Operands { x: &[1.0, 2.0], w: &[1.0; 4], k: 2 }, &mut [0.0], &Serial);
}
