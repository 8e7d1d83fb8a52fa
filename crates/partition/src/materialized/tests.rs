#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use rand_mt::Mt;

use super::Materialized;
use crate::{Assignment, Isa, PartitionError};

/// More than three snapshots of one-output ids.
const LONG: u64 = 200_000;

fn ids(partition: &impl Assignment, start: u64, len: usize) -> Vec<u32> {
    let mut ids = vec![u32::MAX; len];
    partition.fill(start, &mut ids).unwrap();
    ids
}

/// Ids that torch 2.11 gives, from the index `start` on, on every instruction set.
fn check(seed: i128, d: u64, start: u64, expect: &[u32]) {
    for isa in Isa::available() {
        let partition = Materialized::new(seed, d, 800).unwrap().with_isa(isa);
        assert_eq!(ids(&partition, start, expect.len()), expect, "{isa}: seed {seed}, d {d}");
    }
}

/// The definition: one output after the other, from an implementation that is not ours.
fn defined(seed: u64, d: u64, len: u64) -> Vec<u32> {
    let mut generator = Mt::new(seed as u32);
    let mut word = || u64::from(generator.next_u32());
    let id = |_| if d < 1 << 28 { word() % d } else { (word() << 32 | word()) % d };
    (0..len).map(id).map(|id| id as u32).collect()
}

#[test]
fn golden_ids() {
    let s23040 = [
        7782, 8627, 22876, 16654, 12906, 21575, 700, 21524, 22630, 5753, 11218, 15574, 13130, 4554, 21591,
        18292, 22115, 7015,
    ];
    check(42, 23_040, 0, &s23040);
    check(42, 7, 0, &[1, 2, 4, 5]);
    check((1 << 32) + 5, 7, 0, &[1, 5, 2, 3]);
    check(-3, 7, 0, &[6, 5, 1, 5]);
    check(-3, 7, 698, &[3, 6, 4]);
}

/// The last d with one output an id, and those with two, up to the largest that torch draws.
#[test]
fn golden_ids_of_large_group_counts() {
    for (d, first, from_698) in [
        ((1 << 28) - 1, [266460267, 199900607, 56755051, 250975504], [3693315, 250982048, 13470145]),
        (1 << 28, [199900595, 250975502, 127521863, 147532820], [244874750, 34970444, 134789378]),
        ((1 << 28) + 1, [231503783, 148201535, 22711894, 78659812], [106132855, 257271187, 42744545]),
        ((1 << 31) - 1, [195950210, 364485578, 1046592799, 1263438223], [1033969428, 1215142420, 683165913]),
        (1 << 31, [1273642419, 787846414, 1201263687, 415968276], [1855487486, 1377147724, 403224834]),
    ] {
        check(42, d, 0, &first);
        check(42, d, 698, &from_698);
    }
    check(-3, 1 << 31, 0, &[327282567, 182128588, 1652619782, 1486729549]);
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    assert_eq!(Materialized::new(42, 0, 9).unwrap_err(), PartitionError::GroupCount { d: 0 });
    for d in [(1 << 31) + 1, u64::MAX] {
        assert_eq!(Materialized::new(42, d, 9).unwrap_err(), PartitionError::MaterializedGroups { d });
    }
    for total in [(1 << 62) + 1, u64::MAX] {
        let error = Materialized::new(42, 5, total).unwrap_err();
        assert_eq!(error, PartitionError::Range { start: 0, len: total });
    }
    let error = Materialized::new(42, 1 << 28, 1 << 62).unwrap_err();
    assert!(matches!(error, PartitionError::TableMemory { .. }), "{error}");
}

#[test]
fn ranges_beyond_the_total_are_refused_and_the_cursor_goes_on() {
    let partition = Materialized::new(42, 10, 1000).unwrap();
    let mut cursor = partition.cursor();
    let mut first = [0; 4];
    cursor.fill(0, &mut first).unwrap();
    for (start, len) in [(1000, 1), (999, 2), (u64::MAX, 5), (0, 1001), (1001, 0)] {
        let expect = PartitionError::BeyondTotal { start, len: len as u64, total: 1000 };
        assert_eq!(cursor.fill(start, &mut vec![0; len]).unwrap_err(), expect);
    }
    cursor.fill(1000, &mut []).unwrap();
    let mut again = [0; 4];
    cursor.fill(0, &mut again).unwrap();
    assert_eq!(again, first);
    assert!(Materialized::new(42, 10, 0).unwrap().cursor().fill(0, &mut []).is_ok());
}

#[test]
fn state_is_held_for_every_65520_outputs() {
    for (d, total, states) in [
        (5, 0, 0),
        (5, 1, 1),
        (5, 65_520, 1),
        (5, 65_521, 2),
        (1 << 28, 32_760, 1),
        (1 << 28, 32_761, 2),
        (524_288, 1_342_177_280, 20_486),
    ] {
        assert_eq!(Materialized::bytes(d, total), states * 2496, "d {d}, {total} weights");
    }
}

/// Every kind of jump, against the whole stream made once.
fn check_jumps(partition: &Materialized, whole: &[u32], reads: &[(u64, usize)]) -> Result<(), TestCaseError> {
    let mut cursor = partition.cursor();
    let mut end = 0;
    for &(start, len) in reads {
        // About half of the reads go on where the last one ended.
        let start = if start % 2 == 0 { end } else { start % whole.len() as u64 };
        let len = len.min(whole.len() - start as usize);
        let mut out = vec![u32::MAX; len];
        cursor.fill(start, &mut out).unwrap();
        prop_assert_eq!(&out[..], &whole[start as usize..start as usize + len]);
        end = start + len as u64;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_reads_equal_the_defined_stream(
        seed in any::<u64>(),
        d in prop_oneof![1_u64..2000, 1_u64..1 << 28, (1_u64 << 28)..=1 << 31, (0_u32..=31).prop_map(|bits| 1 << bits)],
        reads in prop::collection::vec((any::<u64>(), prop_oneof![0_usize..1500, 0_usize..80_000]), 1..12),
    ) {
        let whole = defined(seed, d, LONG);
        let partition = Materialized::new(seed, d, LONG).unwrap();
        for isa in Isa::available() {
            let partition = partition.clone().with_isa(isa);
            prop_assert!(ids(&partition, 0, LONG as usize) == whole, "{}", isa);
            check_jumps(&partition, &whole, &reads)?;
        }
    }

    /// Where the remainder's correction matters most: d near powers of two and near 2^32 / k.
    #[test]
    fn remainders_are_exact(seed in any::<u64>(), bits in 0_u32..28, off in 0_u64..3, k in 17_u64..5000) {
        for d in [(1 << bits) + off, (1_u64 << bits).saturating_sub(off).max(1), (1 << 32) / k, (1 << 32) / k + 1] {
            let expect = defined(seed, d, 700);
            for isa in Isa::available() {
                prop_assert_eq!(&ids(&Materialized::new(seed, d, 700).unwrap().with_isa(isa), 0, 700), &expect);
            }
        }
    }
}
