#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{Backend, BlockRange, Footprint, Scope, Spec, build};
use crate::{Assignment, Materialized, PartitionError, Seed, SignedMagnitude, Stateless, count_parallel};

const BACKENDS: [Backend; 3] = [Backend::Stateless, Backend::Materialized, Backend::SignedMagnitude];

fn spec(backend: Backend, d: u64, blocks: Option<&[u64]>) -> Spec {
    let scope = blocks.map_or(Scope::Global, |blocks| {
        let range = |(k, &numel)| BlockRange { name: format!("model.layers.{k}"), numel };
        Scope::Blocks(blocks.iter().enumerate().map(range).collect())
    });
    Spec { backend, d, seed: Seed::from(42), scope }
}

fn values(len: u64) -> Vec<f32> {
    (0..len).map(|k| (k * 7919 % 1013) as f32 - 506.0).collect()
}

fn ids(assignment: &dyn Assignment, len: usize) -> Vec<u32> {
    let mut ids = vec![u32::MAX; len];
    assignment.fill(0, &mut ids).unwrap();
    ids
}

#[test]
fn the_global_scope_is_the_backend_itself() {
    let values = values(1000);
    let direct: [Box<dyn Assignment>; 3] = [
        Box::new(Stateless::new(42, 30).unwrap()),
        Box::new(Materialized::new(42, 30, 1000).unwrap()),
        Box::new(SignedMagnitude::new(30, &values).unwrap()),
    ];
    for (backend, direct) in BACKENDS.into_iter().zip(direct) {
        let built = build(&spec(backend, 30, None), 1000, Some(&values)).unwrap();
        assert_eq!((built.d(), ids(&*built, 1000)), (30, ids(&*direct, 1000)), "{backend:?}");
    }
}

/// 11 groups over 3 blocks are 4, 4 and 3; block k's seed is 42 + k and its indices count from 0.
#[test]
fn blocks_share_groups_out_and_count_seeds_up() {
    let values = values(60);
    let blocks = [(0_u64, 20_usize, 0_u32, 4_u64), (1, 10, 4, 4), (2, 30, 8, 3)];
    for backend in BACKENDS {
        let built = build(&spec(backend, 11, Some(&[20, 10, 30])), 60, Some(&values)).unwrap();
        let whole = ids(&*built, 60);
        let mut start = 0;
        for (k, len, first_group, width) in blocks {
            let part: Box<dyn Assignment> = match backend {
                Backend::Stateless => Box::new(Stateless::new(42 + k, width).unwrap()),
                Backend::Materialized => Box::new(Materialized::new(42 + k, width, len as u64).unwrap()),
                Backend::SignedMagnitude => {
                    Box::new(SignedMagnitude::new(width, &values[start..start + len]).unwrap())
                }
            };
            let expect: Vec<u32> = ids(&*part, len).into_iter().map(|id| id + first_group).collect();
            assert_eq!(&whole[start..start + len], expect, "{backend:?}, block {k}");
            start += len;
        }
        assert_eq!(built.d(), 11);
    }
}

/// One block is the global scope, with the same seed.
#[test]
fn one_block_is_the_whole() {
    let values = values(500);
    for backend in BACKENDS {
        let of = |blocks: Option<&[u64]>| {
            ids(&*build(&spec(backend, 17, blocks), 500, Some(&values)).unwrap(), 500)
        };
        assert_eq!(of(Some(&[500])), of(None), "{backend:?}");
    }
}

#[test]
fn random_groups_may_outnumber_the_weights() {
    for backend in [Backend::Stateless, Backend::Materialized] {
        let built = build(&spec(backend, 100, None), 7, None).unwrap();
        let counts = count_parallel(&*built, 0..7, 1).unwrap();
        assert_eq!((counts.len(), counts.iter().sum::<u64>()), (100, 7));
    }
    let error = build(&spec(Backend::SignedMagnitude, 100, None), 7, Some(&values(7))).err().unwrap();
    assert_eq!(error, PartitionError::MoreGroupsThanWeights { d: 100, total: 7 });
}

#[test]
fn what_cannot_be_built_is_refused() {
    let refused = |backend, d, blocks: Option<&[u64]>, total, values: Option<&[f32]>| {
        build(&spec(backend, d, blocks), total, values).err().unwrap()
    };
    for backend in BACKENDS {
        let values = values(12);
        let of = |d, blocks: Option<&[u64]>| refused(backend, d, blocks, 12, Some(&values));
        assert_eq!(of(0, None), PartitionError::GroupCount { d: 0 });
        for d in [0, 1] {
            let expect = PartitionError::FewerGroupsThanBlocks { d, blocks: 2 };
            assert_eq!(of(d, Some(&[6, 6])), expect);
        }
        let name = "model.layers.1".to_owned();
        let expect = PartitionError::BlockTooNarrow { d: 7, blocks: 2, name, width: 3, weights: 2 };
        assert_eq!(of(7, Some(&[10, 2])), expect);
        assert_eq!(of(7, Some(&[10, 3])), PartitionError::BlocksLength { sum: 13, total: 12 });
        assert_eq!(of(7, Some(&[u64::MAX, 2])), PartitionError::BlocksLength { sum: u64::MAX, total: 12 });
        assert_eq!(refused(backend, 7, Some(&[]), 0, Some(&[])), PartitionError::NoBlocks);
        let expect = PartitionError::Range { start: 0, len: 1 << 63 };
        assert_eq!(refused(backend, 7, None, 1 << 63, None), expect);
    }
    let signed = Backend::SignedMagnitude;
    assert_eq!(refused(signed, 2, None, 12, None), PartitionError::ValuesMissing);
    let expect = PartitionError::ValuesLength { expected: 12, got: 3 };
    assert_eq!(refused(signed, 2, None, 12, Some(&[0.0; 3])), expect);
    let mut values = values(12);
    values[9] = f32::NAN;
    for blocks in [None, Some(&[6, 6][..])] {
        let error = refused(signed, 4, blocks, 12, Some(&values));
        assert_eq!(error, PartitionError::NotANumber { index: 9 });
    }
}

#[test]
fn the_message_of_a_block_that_is_too_narrow_names_all_numbers() {
    let error = build(&spec(Backend::Stateless, 7, Some(&[10, 2])), 12, None).err().unwrap();
    let expect = "the number of groups d is 7, which over 2 blocks gives block `model.layers.1` 3 groups, above its 2 \
                  adapted weights";
    assert_eq!(error.to_string(), expect);
}

#[test]
fn footprints() {
    let check = |backend, blocks: Option<&[u64]>, total, peak, held| {
        let footprint = spec(backend, 8, blocks).footprint(total);
        assert_eq!(footprint, Footprint { peak, held }, "{backend:?} {blocks:?}");
    };
    check(Backend::Stateless, None, 1 << 30, 0, 0);
    check(Backend::Materialized, None, 65_520 * 3, 7488, 7488);
    check(Backend::Materialized, Some(&[65_521, 65_519]), 131_040, 7488, 7488);
    check(Backend::SignedMagnitude, None, 1000, 12_000, 4000);
    check(Backend::SignedMagnitude, Some(&[600, 400]), 1000, 8800, 4000);
    check(Backend::SignedMagnitude, Some(&[]), 0, 0, 0);
    check(Backend::Materialized, Some(&[]), 0, 0, 0);
}

proptest! {
    /// Any blocks, any d: a partition, or an error where a block has fewer weights than groups.
    #[test]
    fn counts_sum_to_the_weights_block_by_block(
        backend in prop::sample::select(BACKENDS.to_vec()),
        numels in prop::collection::vec(1_u64..200, 1..8),
        d in 1_u64..300,
        threads in 1_usize..4,
    ) {
        let total: u64 = numels.iter().sum();
        let (blocks, values) = (numels.len() as u64, values(total));
        let width = |k: u64| d / blocks + u64::from(k < d % blocks);
        let legal = d >= blocks && (0..blocks).zip(&numels).all(|(k, numel)| width(k) <= *numel);
        match build(&spec(backend, d, Some(&numels)), total, Some(&values)) {
            Err(_) => prop_assert!(!legal),
            Ok(built) => {
                prop_assert!(legal);
                let counts = count_parallel(&*built, 0..total, threads).unwrap();
                let mut first = 0;
                for (k, numel) in (0..blocks).zip(&numels) {
                    let end = first + width(k) as usize;
                    prop_assert_eq!(counts[first..end].iter().sum::<u64>(), *numel);
                    first = end;
                }
                prop_assert_eq!(first as u64, d);
            }
        }
    }
}
