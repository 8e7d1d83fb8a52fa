#![allow(clippy::unwrap_used)]

use partition::{Assignment, Cursor, PartitionError, Stateless};

use super::{GradSlice, Map, WeightSlice, scale_theta};
use crate::{Dropout, FixedPoint, ProjectionError, Reducer, Scoped, Serial};

/// A backend that names a group it does not have, at one index.
struct Broken;

impl Assignment for Broken {
    fn d(&self) -> u64 {
        4
    }

    fn cursor(&self) -> Box<dyn Cursor + '_> {
        Box::new(Self)
    }
}

impl Cursor for Broken {
    fn fill(&mut self, start: u64, out: &mut [u32]) -> Result<(), PartitionError> {
        for (index, id) in (start..).zip(out) {
            *id = if index == 1000 { 4 } else { 3 };
        }
        Ok(())
    }
}

#[test]
fn a_broken_backend_is_an_error_and_no_access() {
    let map = Map::new(&Broken, None);
    let expect = Err(ProjectionError::Partition(PartitionError::IdOutOfRange { start: 512, id: 4, d: 4 }));
    assert_eq!(map.apply(&[0.0; 4], 0, None, &mut [0.0; 2000]), expect);
    let fixed = FixedPoint::new(4, 1);
    assert_eq!(map.reduce(0, &[0.0; 2000], &fixed, &mut [0; 4]).map(|_| ()), expect);
    let mut out = vec![0.0; 100_000];
    let mut slices = [WeightSlice { first_index: 0, base: None, out: &mut out }];
    assert_eq!(map.apply_parallel(&Scoped(3), &[0.0; 4], &mut slices), expect);
    let mut reducer = Reducer::new(4, fixed, 3).unwrap();
    let grad = vec![0.0; 100_000];
    assert_eq!(reducer.add(&map, &Scoped(3), &[GradSlice { first_index: 0, grad: &grad }]), expect);
}

#[test]
fn wrong_lengths_are_errors() {
    let partition = Stateless::new(42, 10).unwrap();
    let map = Map::new(&partition, None);
    let fixed = FixedPoint::new(4, 1);
    let refused = |result: Result<(), ProjectionError>| {
        assert!(matches!(result, Err(ProjectionError::Length { .. })), "{result:?}");
    };
    refused(map.apply(&[0.0; 9], 0, None, &mut [0.0; 3]));
    refused(map.apply(&[0.0; 10], 0, Some(&[0.0; 4]), &mut [0.0; 3]));
    refused(map.reduce(0, &[0.0; 3], &fixed, &mut [0; 11]).map(|_| ()));
    refused(scale_theta(&[0.0; 3], &[0.0; 2], &mut [0.0; 3]));
    refused(scale_theta(&[0.0; 3], &[0.0; 3], &mut [0.0; 2]));
    let mut out = [0.0; 3];
    let mut slices = [WeightSlice { first_index: 0, base: Some(&[0.0; 2]), out: &mut out }];
    refused(map.apply_parallel(&Serial, &[0.0; 10], &mut slices));
    let mut reducer = Reducer::new(9, fixed, 1).unwrap();
    refused(reducer.add(&map, &Serial, &[GradSlice { first_index: 0, grad: &[0.0] }]));
    refused(reducer.finish_step(&Serial, &mut [0; 10]).map(|_| ()));
}

#[test]
fn sums_beyond_memory_are_refused() {
    let error = Reducer::new(1 << 60, FixedPoint::new(1, 1), 2).unwrap_err();
    assert!(matches!(error, ProjectionError::Memory { threads: 2, .. }));
}

#[test]
fn ranges_past_the_last_index_are_refused() {
    let partition = Stateless::new(42, 10).unwrap();
    let map = Map::new(&partition, None);
    for first_index in [i64::MAX as u64 - 100, u64::MAX] {
        let result = map.apply(&[0.0; 10], first_index, None, &mut [0.0; 2000]);
        assert!(matches!(result, Err(ProjectionError::Partition(PartitionError::Range { .. }))));
    }
}

/// A term out of range is left out and flagged, on any thread, and the flag is gone in the next step.
#[test]
fn overflow_is_flagged_for_its_step_alone() {
    let partition = Stateless::new(42, 1).unwrap();
    let fixed = FixedPoint::new(1 << 17, 1);
    let mut sums = [0];
    for bad in [f32::NAN, f32::INFINITY, -f32::INFINITY, fixed.limit(), -fixed.limit()] {
        let mut grad = vec![2.0; 100_000];
        for threads in [1, 3] {
            let mut reducer = Reducer::new(1, fixed, threads).unwrap();
            let map = Map::new(&partition, None);
            grad[99_999] = bad;
            reducer.add(&map, &Scoped(threads), &[GradSlice { first_index: 0, grad: &grad }]).unwrap();
            assert!(reducer.finish_step(&Scoped(threads), &mut sums).unwrap());
            assert_eq!(sums, [99_999 << 41]);
            grad[99_999] = 2.0;
            reducer.add(&map, &Scoped(threads), &[GradSlice { first_index: 0, grad: &grad }]).unwrap();
            assert!(!reducer.finish_step(&Scoped(threads), &mut sums).unwrap());
            assert_eq!(sums, [100_000 << 41]);
        }
    }
}

/// Dropped weights hide no NaN: NaN · 0 is NaN.
#[test]
fn a_dropped_gradient_that_is_not_finite_is_flagged() {
    let partition = Stateless::new(42, 3).unwrap();
    let map = Map::new(&partition, Dropout::new(0.999_999, 1, 2, 3).unwrap());
    let fixed = FixedPoint::new(100, 1);
    assert!(map.reduce(0, &[f32::NAN; 20], &fixed, &mut [0; 3]).unwrap());
    assert!(!map.reduce(0, &[1.0; 20], &fixed, &mut [0; 3]).unwrap());
}
