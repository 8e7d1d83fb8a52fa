#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{Stateless, mix};
use crate::modulus::Modulus;
use crate::{Assignment, Isa, MAX_INDEX, PartitionError};

fn ids(seed: i128, d: u64, start: u64, len: usize) -> Vec<u64> {
    let mut out = vec![0; len];
    Stateless::new(seed, d).unwrap().ids_u64(start, &mut out).unwrap();
    out
}

/// Published ids, and the same from the streaming entry point.
fn check(start: u64, d: u64, seed: i128, expect: &[u64]) {
    assert_eq!(ids(seed, d, start, expect.len()), expect, "seed {seed}, d {d}, start {start}");
    for isa in Isa::available() {
        let mut out = vec![0; expect.len()];
        Stateless::new(seed, d).unwrap().with_isa(isa).fill(start, &mut out).unwrap();
        let out: Vec<u64> = out.into_iter().map(u64::from).collect();
        assert_eq!(out, expect, "{isa}: seed {seed}, d {d}, start {start}");
    }
}

#[test]
fn golden_ids() {
    let s23040 = [11413, 17800, 14931, 10966, 14343, 4485, 14627, 15192, 4299, 9832, 20042, 10102];
    check(0, 23040, 42, &s23040);
    check(0, 7, 0, &[2, 2, 4, 2, 6, 3, 3, 2, 4, 2, 1, 1]);
    let s524288 =
        [224917, 520072, 152659, 19158, 143367, 318341, 524067, 174424, 218315, 475240, 278602, 28534];
    check(0, 524288, 42, &s524288);
    check(1 << 40, 131072, 42, &[36884, 97602, 88683, 6395, 7818, 14841]);
    check(0, 100, -1, &[36, 35, 65, 10, 53, 78, 18, 92]);
    check(0, 100, (1 << 63) + 5, &[72, 83, 48, 98, 9, 63, 22, 12]);
}

#[test]
fn group_counts_out_of_bounds_are_refused() {
    for d in [0, MAX_INDEX + 1, u64::MAX] {
        assert_eq!(Stateless::new(42, d).unwrap_err(), PartitionError::GroupCount { d });
    }
    assert!(Stateless::new(42, 1).is_ok());
    assert!(Stateless::new(42, MAX_INDEX).is_ok());
}

#[test]
fn ranges_out_of_bounds_are_refused() {
    let partition = Stateless::new(42, 10).unwrap();
    for (start, len) in [(MAX_INDEX, 1), (MAX_INDEX + 1, 0), (u64::MAX, 5), (MAX_INDEX - 3, 4)] {
        let expect = PartitionError::Range { start, len: len as u64 };
        assert_eq!(partition.ids_u64(start, &mut vec![0; len]).unwrap_err(), expect);
        assert_eq!(partition.fill(start, &mut vec![0; len]).unwrap_err(), expect);
    }
    assert!(partition.ids_u64(MAX_INDEX - 3, &mut [0; 3]).is_ok());
    assert!(partition.ids_u64(MAX_INDEX, &mut []).is_ok());
}

#[test]
fn ids_of_32_bits_refuse_more_groups_than_they_can_name() {
    let d = (1 << 32) + 1;
    let error = Stateless::new(42, d).unwrap().fill(0, &mut [0; 4]).unwrap_err();
    assert_eq!(error, PartitionError::TooManyGroups { d });
    assert!(Stateless::new(42, 1 << 32).unwrap().fill(0, &mut [0; 4]).is_ok());
}

#[test]
fn reduction_is_exact_at_the_edges() {
    let edges = |d: u64| {
        let last = u64::MAX / d;
        (0..4).flat_map(move |k| {
            [k, u64::MAX - k, (last - k.min(last)) * d, ((last - k.min(last)) * d).wrapping_sub(1), d / 2 + k]
        })
    };
    for d in [1, 2, 3, 5, 7, 641, 65_535, 65_537, 500_000, (1 << 31) + 11, (1 << 32) - 5, MAX_INDEX, 3 << 61]
    {
        for z in edges(d) {
            assert_eq!(Modulus::new(d).reduce(z), z % d, "{z} mod {d}");
        }
    }
}

fn any_d() -> impl Strategy<Value = u64> {
    prop_oneof![
        1_u64..70_000,
        1_u64..=1 << 32,
        (0_u32..=32).prop_map(|bits| 1 << bits),
        (1_u32..=31, 0_u64..3).prop_map(|(bits, above)| (1 << bits) + above),
        (1_u32..=32, 1_u64..3).prop_map(|(bits, below)| ((1_u64 << bits) - below).max(1)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The definition, in the widest arithmetic there is, against every instruction set.
    #[test]
    fn every_instruction_set_gives_the_defined_ids(
        seed in any::<u64>(), d in any_d(), start in 0..MAX_INDEX - 1000, len in 0_usize..200,
    ) {
        let partition = Stateless::new(seed, d).unwrap();
        for isa in Isa::available() {
            let mut out = vec![0; len];
            partition.with_isa(isa).fill(start, &mut out).unwrap();
            for (index, id) in (start..).zip(out) {
                let state = (u128::from(seed) + u128::from(index) + 0x9E37_79B9_7F4A_7C15) as u64;
                prop_assert_eq!(u64::from(id), mix(state) % d, "{} index {}", isa, index);
                prop_assert_eq!(u64::from(id), partition.group(index));
            }
        }
    }

    #[test]
    fn slices_equal_the_whole(
        seed in any::<i128>(), d in any_d(), start in 0..1_u64 << 62, len in 1_usize..3000, cut in 0_usize..3000,
    ) {
        let partition = Stateless::new(seed, d).unwrap();
        let cut = cut.min(len);
        let mut whole = vec![0; len];
        partition.fill(start, &mut whole).unwrap();
        let mut parts = vec![0; len];
        let (left, right) = parts.split_at_mut(cut);
        partition.fill(start + cut as u64, right).unwrap();
        partition.fill(start, left).unwrap();
        prop_assert_eq!(parts, whole);
    }

    #[test]
    fn large_group_counts_reduce_exactly(seed in any::<u64>(), d in 1..=MAX_INDEX, start in 0..MAX_INDEX - 10) {
        let mut out = [0; 10];
        Stateless::new(seed, d).unwrap().ids_u64(start, &mut out).unwrap();
        for (index, id) in (start..).zip(out) {
            let state = seed.wrapping_add(index).wrapping_add(0x9E37_79B9_7F4A_7C15);
            prop_assert_eq!(id, mix(state) % d);
        }
    }
}
