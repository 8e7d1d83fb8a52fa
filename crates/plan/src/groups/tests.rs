#![allow(clippy::unwrap_used)]

use partition::{Stateless, count_parallel};

use super::*;

fn pool(groups: u64, weights: u64) -> Pool {
    Pool { groups, weights, repeat: 1 }
}

/// Means over several drawings of the real partition: smallest and largest group, empty groups.
fn simulated(groups: u64, weights: u64) -> (f64, f64, f64) {
    const DRAWINGS: u64 = 12;
    let (mut min, mut max, mut empty) = (0.0, 0.0, 0.0);
    for drawing in 0..DRAWINGS {
        // Neighbouring seeds are one stream shifted by one.
        let partition = Stateless::new(1 + (drawing << 40), groups).unwrap();
        let counts = count_parallel(&partition, 0..weights, 1).unwrap();
        min += *counts.iter().min().unwrap() as f64;
        max += *counts.iter().max().unwrap() as f64;
        empty += counts.iter().filter(|count| **count == 0).count() as f64;
    }
    let drawings = DRAWINGS as f64;
    (min / drawings, max / drawings, empty / drawings)
}

#[test]
fn expectations_are_what_the_partition_gives() {
    // The tolerance is a third of the spread of a group: the mean of twelve extremes varies by less.
    let check = |groups: u64, weights: u64| {
        let (min, max) = expected_extremes(&pool(groups, weights));
        let (found_min, found_max, found_empty) = simulated(groups, weights);
        let mean = weights as f64 / groups as f64;
        let tolerance = mean.sqrt() / 3.0 + 0.2;
        assert!((min - found_min).abs() < tolerance, "{groups}, {weights}: least {min}, found {found_min}");
        assert!((max - found_max).abs() < tolerance, "{groups}, {weights}: most {max}, found {found_max}");
        let empty = expected_empty(&pool(groups, weights));
        let spread = 3.0 * (empty / 12.0).sqrt() + 0.2;
        assert!((empty - found_empty).abs() < spread, "{groups}, {weights}: {empty}, found {found_empty}");
    };
    for (groups, weights) in [
        (100_000, 20_000),
        (65_536, 65_536),
        (65_536, 400_000),
        (50_000, 1_000_000),
        (4096, 10_485_760),
        (1000, 37_000),
        (200, 100_000),
        (40, 8000),
        (7, 700_000),
        (2, 10_000),
        (1, 1000),
    ] {
        check(groups, weights);
    }
}

#[test]
fn both_methods_agree_where_they_meet() {
    // A mean of 10^6 by the sum, and by the quantile.
    for all in [1e3, 524_288.0, 1e9] {
        let (summed, quantile) = (poisson_extremes(1e6, all), normal_extremes(1e6, 1.0, all));
        assert!((summed.0 - quantile.0).abs() < 40.0, "{summed:?} {quantile:?}");
        assert!((summed.1 - quantile.1).abs() < 40.0, "{summed:?} {quantile:?}");
    }
}

#[test]
fn extremes_are_exact_where_there_is_nothing_random() {
    assert_eq!(expected_extremes(&pool(1, 12)), (12.0, 12.0));
    assert_eq!(expected_extremes(&Pool { groups: 1, weights: 12, repeat: 9 }), (12.0, 12.0));
    assert_eq!(expected_extremes(&pool(9, 0)), (0.0, 0.0));
    assert_eq!(expected_extremes(&pool(0, 9)), (0.0, 0.0));
    assert_eq!(equal_sizes(&pool(3, 10)), (3.0, 4.0));
    assert_eq!(equal_sizes(&pool(5, 10)), (2.0, 2.0));
    assert_eq!(
        [expected_empty(&pool(1, 0)), expected_empty(&pool(1, 5)), expected_empty(&pool(4, 0))],
        [1.0, 0.0, 4.0]
    );
    // Two weights miss each of four groups with probability 9/16.
    assert!((expected_empty(&pool(4, 2)) - 2.25).abs() < 1e-12);
}

#[test]
fn factorials_are_smooth_where_the_series_takes_over() {
    let exact: f64 = (1..=20).map(|k| f64::from(k).ln()).sum();
    assert!((ln_factorial(20.0) - exact).abs() < 1e-9);
    assert!((ln_factorial(16.0) - ln_factorial(15.0) - 16_f64.ln()).abs() < 1e-9);
    assert_eq!(ln_factorial(0.0), 0.0);
}
