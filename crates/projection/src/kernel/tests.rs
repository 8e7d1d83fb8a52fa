#![allow(clippy::unwrap_used)]

use partition::Isa;
use proptest::prelude::*;

use super::{fill_mask, max_id, quantize};
use crate::{Dropout, FixedPoint};

/// round-half-even(grad · 2^e) from the bits of the number, in integers; `None` where it does not fit.
fn exact(grad: f32, fixed: &FixedPoint) -> Option<i64> {
    if !grad.is_finite() || grad.abs() >= fixed.limit() {
        return None;
    }
    let bits = grad.to_bits();
    let field = (bits >> 23 & 0xFF) as i32;
    let fraction = i128::from(bits & 0x7F_FFFF);
    let mantissa = if field == 0 { fraction } else { fraction | 1 << 23 };
    let shift = field.max(1) - 150 + fixed.exponent();
    let magnitude = match shift {
        0.. => mantissa << shift,
        -100..0 => {
            let (floor, rest) = (mantissa >> -shift, mantissa & ((1 << -shift) - 1));
            let half = 1 << (-shift - 1);
            floor + i128::from(rest > half || (rest == half && floor % 2 == 1))
        }
        _ => 0,
    };
    Some(if grad < 0.0 { -magnitude as i64 } else { magnitude as i64 })
}

fn check(grads: &[f32], fixed: &FixedPoint) {
    let expect: Vec<Option<i64>> = grads.iter().map(|&grad| exact(grad, fixed)).collect();
    let overflow = expect.iter().any(Option::is_none);
    let expect: Vec<i64> = expect.into_iter().map(Option::unwrap_or_default).collect();
    for isa in Isa::available() {
        let mut terms = vec![-1; grads.len()];
        // SAFETY: both are equally long.
        let flag = unsafe { quantize(isa, grads, None, fixed, &mut terms) };
        assert_eq!(terms, expect, "{isa}: {grads:?}");
        assert_eq!(flag, overflow, "{isa}: {grads:?}");
    }
}

fn any_format() -> impl Strategy<Value = FixedPoint> {
    (0_u32..64, 1_u64..20).prop_map(|(bits, steps)| FixedPoint::new(1 << bits, steps))
}

/// Numbers of every size, ties, neighbours of the limit, and what is not a number.
fn any_grad() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => any::<u32>().prop_map(f32::from_bits),
        8 => (-1000_i32..1000, -60_i32..22).prop_map(|(m, e)| m as f32 * (e as f32).exp2()),
        8 => (-1.0_f32..1.0, -45_i32..22).prop_map(|(m, e)| m * (e as f32).exp2()),
        1 => prop::sample::select(vec![0.0, -0.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY,
            f32::MAX, f32::MIN_POSITIVE, f32::from_bits(1), -f32::from_bits(1)]),
    ]
}

#[test]
fn quantization_is_exact_at_the_edges() {
    for fixed in [1, 2, 1 << 19, 1 << 20, 1 << 40, 1 << 63].map(|group| FixedPoint::new(group, 1)) {
        let below = f32::from_bits(fixed.limit().to_bits() - 1);
        let half = (-(fixed.exponent() as f32) - 1.0).exp2();
        let magic = (51.0 - fixed.exponent() as f32).exp2();
        for edge in [
            0.0,
            half,
            3.0 * half,
            5.0 * half,
            f32::from_bits(half.to_bits() - 1),
            f32::from_bits(half.to_bits() + 1),
            magic,
            f32::from_bits(magic.to_bits() - 1),
            f32::from_bits(magic.to_bits() + 1),
            below,
            fixed.limit(),
            f32::MAX,
            f32::INFINITY,
            f32::NAN,
            f32::MIN_POSITIVE,
            f32::from_bits(1),
        ] {
            // Alone, at both ends of a vector, and among ordinary terms.
            for place in [0, 7, 8, 15, 16, 17] {
                let mut grads = vec![1e-3; 18];
                grads[place] = edge;
                check(&grads, &fixed);
                grads[place] = -edge;
                check(&grads, &fixed);
            }
            check(&[edge], &fixed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn quantization_is_exact(grads in prop::collection::vec(any_grad(), 0..70), fixed in any_format()) {
        check(&grads, &fixed);
    }

    #[test]
    fn masked_quantization_is_that_of_the_product(
        pairs in prop::collection::vec((any_grad(), any::<bool>()), 0..70), fixed in any_format(),
    ) {
        let factor = 1.0 / 0.95_f32;
        let (grads, mask): (Vec<f32>, Vec<f32>) =
            pairs.iter().map(|&(grad, keep)| (grad, if keep { factor } else { 0.0 })).unzip();
        let products: Vec<f32> = grads.iter().zip(&mask).map(|(grad, mask)| grad * mask).collect();
        let mut expect = vec![0; grads.len()];
        // SAFETY: both are equally long.
        let flag = unsafe { quantize(Isa::SCALAR, &products, None, &fixed, &mut expect) };
        for isa in Isa::available() {
            let mut terms = vec![-1; grads.len()];
            // SAFETY: all are equally long.
            prop_assert_eq!(unsafe { quantize(isa, &grads, Some(&mask), &fixed, &mut terms) }, flag);
            prop_assert_eq!(&terms, &expect);
        }
    }

    #[test]
    fn masks_are_the_multipliers(
        p in 0.001_f64..0.999, seed in any::<u64>(), step in any::<u64>(), micro_batch in any::<u64>(),
        first in any::<u64>(), len in 0_usize..100,
    ) {
        let first = first.min(u64::MAX - 200);
        let dropout = Dropout::new(p, seed, step, micro_batch).unwrap().unwrap();
        let expect: Vec<f32> = (first..first + len as u64).map(|index| dropout.multiplier(index)).collect();
        for isa in Isa::available() {
            let mut mask = vec![-1.0; len];
            fill_mask(isa, &dropout, first, &mut mask);
            prop_assert_eq!(&mask, &expect, "{}", isa);
        }
    }

    #[test]
    fn the_largest_id_is_found(ids in prop::collection::vec(any::<u32>(), 0..70)) {
        let expect = ids.iter().copied().max().unwrap_or(0);
        for isa in Isa::available() {
            prop_assert_eq!(max_id(isa, &ids), expect);
        }
    }
}
