#![allow(clippy::unwrap_used)]

use adapter::AdapterConfig;

use super::*;
use crate::Run;
use crate::testing::sample;

fn adapter(theta: Vec<f32>, change: impl FnOnce(&mut AdapterConfig)) -> Adapter {
    let mut config = AdapterConfig { d: theta.len() as u64, ..AdapterConfig::default() };
    change(&mut config);
    Adapter { config, theta }
}

#[test]
fn the_sample_adapter_is_an_isometry() {
    let run = Run::read(&sample()).unwrap();
    let facts = run.facts.unwrap();
    let fingerprint = facts.partition_fingerprint.unwrap();
    let found = Isometry::check(&run.adapter.unwrap(), facts.adapted_weights, Some(&fingerprint)).unwrap();
    // By a program of its own, in Python: the same sum from SplitMix64, and the run's own norm of θ.
    assert!((found.theta_norm - 0.251_497_823_237_609_55).abs() < 1e-15, "{}", found.theta_norm);
    assert!((found.delta_norm - 0.251_497_823_237_609_55).abs() < 1e-8, "{}", found.delta_norm);
    assert!(found.deviation().abs() < 1e-7, "{}", found.deviation());
    assert_eq!((found.weights, found.group_sizes, found.empty_groups), (393_216, (5864, 6341), 0));
    assert_eq!(found.same_partition, Some(true));
}

/// The sum weight by weight, in one go.
fn by_hand(adapter: &Adapter, weights: u64) -> f64 {
    let partition = partition::build(&spec(adapter).unwrap(), weights, None).unwrap();
    let mut ids = vec![0; weights as usize];
    partition.fill(0, &mut ids).unwrap();
    let size = |group: u32| ids.iter().filter(|id| **id == group).count() as f64;
    let delta = |group: &u32| {
        let scale = if adapter.config.isometric { 1.0 / size(*group).sqrt() } else { 1.0 };
        f64::from(adapter.theta[*group as usize]) * scale
    };
    ids.iter().map(|group| delta(group).powi(2)).sum::<f64>().sqrt()
}

#[track_caller]
fn check(theta: Vec<f32>, weights: u64, change: impl FnOnce(&mut AdapterConfig), is_equal: bool) {
    let adapter = adapter(theta, change);
    let found = Isometry::check(&adapter, Some(weights), Some("of another run")).unwrap();
    let expect = by_hand(&adapter, weights);
    assert!((found.delta_norm - expect).abs() < 1e-6 * expect, "{} {expect}", found.delta_norm);
    assert_eq!(found.deviation().abs() < 1e-6, is_equal, "{found:?}");
    assert_eq!(found.same_partition, Some(false));
}

#[test]
fn sums_are_those_by_hand() {
    let theta: Vec<f32> = (0..40).map(|k| (k as f32 - 11.0) / 7.0).collect();
    check(theta.clone(), 1000, |_| {}, true);
    check(theta.clone(), 1000, |config| config.assignment_backend = "materialized".to_owned(), true);
    check(theta.clone(), 1000, |config| config.proj_seed = 7, true);
    check(theta, 1000, |config| config.isometric = false, false);
}

#[test]
fn groups_without_weights_are_told_apart() {
    let adapter = adapter(vec![1.0; 64], |_| {});
    let found = Isometry::check(&adapter, Some(16), None).unwrap();
    assert!(found.empty_groups >= 48, "{found:?}");
    let seen = (64 - found.empty_groups) as f64;
    assert!((found.seen_norm - seen.sqrt()).abs() < 1e-12 && (found.delta_norm - seen.sqrt()).abs() < 1e-6);
    assert_eq!((found.theta_norm, found.group_sizes.0), (8.0, 0));
}

#[test]
fn counts_are_taken_over_for_the_same_partition_alone() {
    let mut counted = None;
    for (seed, weights, d) in [(1, 5000, 8), (1, 5000, 8), (2, 5000, 8), (2, 6000, 8), (2, 6000, 9)] {
        let theta = (0..d).map(|k| k as f32).collect();
        let adapter = adapter(theta, |config| config.proj_seed = seed);
        let alone = Isometry::check(&adapter, Some(weights), None).unwrap();
        let shared = Isometry::check_with(&adapter, Some(weights), None, &mut counted).unwrap();
        assert_eq!(Isometry { seconds: 0.0, ..shared }, Isometry { seconds: 0.0, ..alone });
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let theta: Vec<f32> = (0..128).map(|k| (k as f32).sin()).collect();
    let adapter = adapter(theta, |_| {});
    let norm = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Isometry::check(&adapter, Some(3 * PIECE + 5), None).unwrap().delta_norm)
    };
    assert_eq!([1, 2, 5].map(norm).map(f64::to_bits), [norm(3).to_bits(); 3]);
}

#[track_caller]
fn check_not(weights: Option<u64>, change: impl FnOnce(&mut AdapterConfig), expect: &str) {
    assert_eq!(Isometry::check(&adapter(vec![1.0; 4], change), weights, None).unwrap_err(), expect);
}

#[test]
fn what_needs_the_model_is_not_checked() {
    check_not(None, |_| {}, "the number of adapted weights is not known (run.json has it)");
    check_not(
        Some(u64::MAX),
        |_| {},
        "run.json tells of 18446744073709551615 adapted weights, which no model has",
    );
    check_not(
        Some(9),
        |config| config.partition_scope = "transformer_block".to_owned(),
        "the scope transformer_block follows from the model's blocks",
    );
    check_not(
        Some(9),
        |config| config.grouping_strategy = "signed_magnitude".to_owned(),
        "groups by signed_magnitude follow from the model's weights",
    );
}
