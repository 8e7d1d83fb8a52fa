#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{SignedMagnitude, negative_groups, round_quotient};
use crate::{Assignment, PartitionError};

fn ids(d: u64, values: &[f32]) -> Vec<u32> {
    SignedMagnitude::new(d, values).unwrap().ids().to_vec()
}

#[test]
fn golden_ids() {
    let values = [0.5, -0.5, 0.5, 0.0, -0.0, -1.0, 2.0, -0.25, 0.5, -0.5];
    assert_eq!(ids(4, &values), [2, 0, 3, 2, 2, 1, 3, 0, 3, 1]);
    assert_eq!(ids(3, &values), [1, 0, 2, 1, 1, 0, 2, 0, 2, 0]);
    assert_eq!(ids(1, &values), [0; 10]);
    assert_eq!(ids(10, &values), [6, 1, 7, 4, 5, 3, 9, 0, 8, 2]);
}

#[test]
fn one_sign_takes_all_groups() {
    assert_eq!(ids(3, &[3.0, 1.0, 2.0]), [2, 0, 1]);
    assert_eq!(ids(3, &[-3.0, -1.0, -2.0]), [2, 0, 1]);
    assert_eq!(ids(2, &[0.0, -0.0, 0.0, -0.0]), [0, 0, 1, 1]);
}

/// A sign with more groups than weights: they are numbered by index, and the last groups are empty.
#[test]
fn groups_may_outnumber_the_weights_of_a_sign() {
    // One negative weight of 100, d = 100: its share rounds to 1; and 3 of 4 with d = 4.
    let mut values = vec![1.0; 100];
    values[40] = -1.0;
    assert_eq!(ids(100, &values)[40], 0);
    // 2 · 1/3 rounds to 1 group for 1 negative weight, 1 for the others; with d = 3, 3 · 2/3 = 2.
    assert_eq!(ids(2, &[-5.0, 1.0, 2.0]), [0, 1, 1]);
    // d = 6, 5 · 1/... : half to even. 2.5 groups for 5 of 10 with d = 5 become 2, leaving 3 for the others.
    let values: Vec<f32> = (1..=10).map(|k| if k % 2 == 0 { -(k as f32) } else { k as f32 }).collect();
    assert_eq!(ids(5, &values).iter().copied().filter(|id| *id < 2).count(), 5);
}

#[test]
fn what_cannot_be_ordered_is_refused() {
    let refused = |d, values: &[f32]| SignedMagnitude::new(d, values).unwrap_err();
    assert_eq!(refused(0, &[1.0]), PartitionError::GroupCount { d: 0 });
    assert_eq!(refused(3, &[1.0, 2.0]), PartitionError::MoreGroupsThanWeights { d: 3, total: 2 });
    assert_eq!(refused(1, &[]), PartitionError::MoreGroupsThanWeights { d: 1, total: 0 });
    for nan in [f32::NAN, -f32::NAN] {
        assert_eq!(refused(2, &[1.0, 2.0, nan, f32::NAN]), PartitionError::NotANumber { index: 2 });
    }
}

#[test]
fn infinities_are_the_largest_of_their_sign() {
    let values = [f32::INFINITY, 1.0, f32::NEG_INFINITY, -1.0, f32::MAX, f32::MIN];
    // MAX · 4 overflows to infinity as well, and ties go by index.
    assert_eq!(ids(6, &values), [4, 3, 1, 0, 5, 2]);
}

#[test]
fn reads_beyond_the_table_are_refused() {
    let partition = SignedMagnitude::new(2, &[1.0, -1.0, 2.0]).unwrap();
    let mut out = [9; 2];
    partition.fill(1, &mut out).unwrap();
    assert_eq!(out, [0, 1]);
    for (start, len) in [(3, 1), (2, 2), (u64::MAX, 1)] {
        let expect = PartitionError::BeyondTotal { start, len: len as u64, total: 3 };
        assert_eq!(partition.fill(start, &mut vec![0; len]).unwrap_err(), expect);
    }
}

#[test]
fn shares_round_half_to_even() {
    for (numerator, denominator, expect) in [
        (0, 1, 0),
        (1, 2, 0),
        (3, 2, 2),
        (5, 2, 2),
        (7, 2, 4),
        (1, 3, 0),
        (2, 3, 1),
        (u128::from(u64::MAX), 1 << 32, 1 << 32),
        // Just below one half: exact below 2^53, but f64 cannot tell 2^31 + 1/2 − 1/(2^33 − 2) from 2^31 + 1/2.
        ((1 << 31) - 1, (1 << 32) - 1, 0),
        (((1 << 31) * ((1 << 32) - 1)) + (1 << 31) - 1, (1 << 32) - 1, 1 << 31),
        ((((1 << 31) + 1) * ((1 << 32) - 1)) + (1 << 31) - 1, (1 << 32) - 1, (1 << 31) + 2),
    ] {
        assert_eq!(round_quotient(numerator, denominator), expect, "{numerator} / {denominator}");
    }
    for (d, negative, total, expect) in [
        (1, 5, 10, 0),
        (4, 0, 10, 0),
        (4, 10, 10, 4),
        (2, 1, 1000, 1),
        (2, 999, 1000, 1),
        (10, 1, 1000, 1),
        (10, 999, 1000, 9),
        (5, 5, 10, 2),
        (7, 5, 10, 4),
    ] {
        assert_eq!(negative_groups(d, negative, total), expect, "{d} groups, {negative} of {total}");
    }
}

/// The definition, by a stable sort of f32 keys.
fn defined(d: usize, values: &[f32]) -> Vec<u32> {
    let (negative, other): (Vec<usize>, Vec<usize>) = (0..values.len()).partition(|&i| values[i] < 0.0);
    let groups = match (negative.len(), other.len()) {
        (0, _) => 0,
        (_, 0) => d,
        _ if d == 1 => return vec![0; values.len()],
        (n, _) => ((d * n) as f64 / values.len() as f64).round_ties_even() as usize,
    };
    let mut split = (groups, d - groups);
    if !negative.is_empty() && !other.is_empty() {
        if split.0 < 1 {
            split = (1, d - 1);
        }
        if split.1 < 1 {
            split = (d - 1, 1);
        }
    }
    let mut ids = vec![0; values.len()];
    for (mut pool, first, k) in [(negative, 0, split.0), (other, split.0, split.1)] {
        let n = pool.len();
        if k > n {
            pool.iter().enumerate().for_each(|(j, &index)| ids[index] = (first + j) as u32);
            continue;
        }
        let divisor = (n + 1) as f32;
        let key = |index: usize| values[index].abs() * divisor + index as f32 / divisor;
        pool.sort_by(|&a, &b| key(a).partial_cmp(&key(b)).unwrap());
        for g in 0..k {
            pool[g * n / k..(g + 1) * n / k].iter().for_each(|&index| ids[index] = (first + g) as u32);
        }
    }
    ids
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn ids_are_as_defined(
        values in prop::collection::vec(prop_oneof![
            4 => -1.0_f32..1.0,
            2 => (-3_i8..4).prop_map(f32::from),
            1 => any::<u32>().prop_map(f32::from_bits).prop_filter("a number", |value| !value.is_nan()),
        ], 1..300),
        share in 0.0_f64..1.0,
    ) {
        let d = 1 + (share * (values.len() - 1) as f64) as usize;
        prop_assert_eq!(ids(d as u64, &values), defined(d, &values));
    }

    /// Signs as lopsided as it gets.
    #[test]
    fn rare_signs_are_as_defined(len in 2_usize..200, at in any::<usize>(), sign in any::<bool>(), d in 1_usize..200) {
        let sign = if sign { 1.0 } else { -1.0 };
        let mut values: Vec<f32> = (0..len).map(|k| sign * (1.0 + (k * 7919 % 101) as f32)).collect();
        values[at % len] *= -1.0;
        let d = d.min(len);
        prop_assert_eq!(ids(d as u64, &values), defined(d, &values));
    }
}
