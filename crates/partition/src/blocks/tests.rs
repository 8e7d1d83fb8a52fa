#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::Blocks;
use crate::{Assignment, Materialized, PartitionError, SignedMagnitude, Stateless};

/// One block of each kind and an empty one, of 700, 0, 900 and 5 weights.
fn blocks() -> Blocks {
    let parts: [(Box<dyn Assignment>, u64); 4] = [
        (Box::new(Materialized::new(42, 7, 700).unwrap()), 700),
        (Box::new(Stateless::new(1, 3).unwrap()), 0),
        (Box::new(Stateless::new(43, 10).unwrap()), 900),
        (Box::new(SignedMagnitude::new(2, &[1.0, -1.0, 2.0, -2.0, 0.0]).unwrap()), 5),
    ];
    Blocks::new(parts).unwrap()
}

/// The same ids, each block made by itself.
fn defined() -> Vec<u32> {
    let mut ids = vec![0; 1605];
    Materialized::new(42, 7, 700).unwrap().fill(0, &mut ids[..700]).unwrap();
    Stateless::new(43, 10).unwrap().fill(0, &mut ids[700..1600]).unwrap();
    ids[700..1600].iter_mut().for_each(|id| *id += 10);
    ids[1600..].copy_from_slice(&[21, 20, 21, 20, 21]);
    ids
}

#[test]
fn blocks_follow_one_another() {
    let blocks = blocks();
    assert_eq!((blocks.d(), blocks.total()), (22, 1605));
    let mut ids = vec![0; 1605];
    blocks.fill(0, &mut ids).unwrap();
    assert_eq!(ids, defined());
}

#[test]
fn reads_beyond_the_last_block_are_refused_and_the_cursor_goes_on() {
    let blocks = blocks();
    let mut cursor = blocks.cursor();
    for (start, len) in [(1605, 1), (1604, 2), (u64::MAX, 1)] {
        let expect = PartitionError::BeyondTotal { start, len: len as u64, total: 1605 };
        assert_eq!(cursor.fill(start, &mut vec![0; len]).unwrap_err(), expect);
    }
    cursor.fill(1605, &mut []).unwrap();
    let mut ids = [0; 2];
    cursor.fill(699, &mut ids).unwrap();
    assert_eq!(ids, defined()[699..701]);
}

#[test]
fn what_cannot_be_numbered_is_refused() {
    let part = |d| -> Box<dyn Assignment> { Box::new(Stateless::new(1, d).unwrap()) };
    let refused = |parts: [(Box<dyn Assignment>, u64); 2]| Blocks::new(parts).err().unwrap();
    let d = (1 << 32) + 1;
    assert_eq!(refused([(part(1 << 32), 9), (part(1), 9)]), PartitionError::TooManyGroups { d });
    let most = i64::MAX as u64;
    let error = refused([(part(1), most), (part(1), 1)]);
    assert_eq!(error, PartitionError::Range { start: most, len: 1 });
    let none = Blocks::new([]).unwrap();
    assert_eq!((none.d(), none.total()), (0, 0));
    assert!(none.fill(0, &mut [0]).is_err());
}

proptest! {
    #[test]
    fn any_reads_equal_the_whole(reads in prop::collection::vec((0_usize..1605, 0_usize..1605), 1..20)) {
        let (blocks, whole) = (blocks(), defined());
        let mut cursor = blocks.cursor();
        for (start, len) in reads {
            let len = len.min(1605 - start);
            let mut ids = vec![0; len];
            cursor.fill(start as u64, &mut ids).unwrap();
            prop_assert_eq!(&ids[..], &whole[start..start + len]);
        }
    }
}

#[test]
fn hashed_ranges_say_what_the_ids_say() {
    let part = |seed: u64, d, numel: u64| -> (Box<dyn Assignment>, u64) {
        (Box::new(Stateless::new(seed, d).unwrap()), numel)
    };
    let inner = Blocks::new([part(5, 4, 30), part(6, 3, 20)]).unwrap();
    let blocks = Blocks::new([part(1, 3, 100), part(9, 2, 0), (Box::new(inner), 45), part(7, 8, 9)]).unwrap();
    let (mut next, ranges) = (0, blocks.hashed().unwrap());
    assert_eq!(ranges.len(), 4);
    for range in ranges {
        assert_eq!(range.first_index, next);
        next += range.numel;
        let mut ids = vec![0; range.numel as usize];
        blocks.fill(range.first_index, &mut ids).unwrap();
        let alone = Stateless::new(range.seed, range.d).unwrap();
        for (index, id) in (0..).zip(ids) {
            assert_eq!(u64::from(id), range.first_group + alone.group(index));
        }
    }
    assert_eq!(next, blocks.total());
    // One block that is drawn otherwise is enough.
    assert_eq!(self::blocks().hashed(), None);
}
