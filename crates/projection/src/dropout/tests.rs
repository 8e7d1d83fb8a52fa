#![allow(clippy::unwrap_used)]

use super::Dropout;
use crate::ProjectionError;

fn dropout(p: f64, seed: u64, step: u64, micro_batch: u64) -> Dropout {
    Dropout::new(p, seed, step, micro_batch).unwrap().unwrap()
}

fn dropped(dropout: &Dropout, indices: impl Iterator<Item = u64>) -> Vec<bool> {
    indices.map(|index| dropout.multiplier(index) == 0.0).collect()
}

/// That the share of `true` is `p`, within five standard deviations.
fn check_share(what: &str, events: impl Iterator<Item = bool>, p: f64) {
    let (mut hits, mut n) = (0.0, 0.0);
    events.for_each(|event| {
        hits += f64::from(u8::from(event));
        n += 1.0;
    });
    let deviations = (hits - n * p) / (n * p * (1.0 - p)).sqrt();
    assert!(
        deviations.abs() < 5.0,
        "{what}: {hits} of {n} where p = {p}, {deviations:.1} standard deviations"
    );
}

#[test]
fn probabilities_out_of_bounds_are_refused() {
    for p in [-0.1, 1.0, 1.5, f64::INFINITY, f64::NAN] {
        assert!(matches!(Dropout::new(p, 1, 2, 3), Err(ProjectionError::DropoutRate { .. })), "{p}");
    }
    assert_eq!(Dropout::new(0.0, 1, 2, 3), Ok(None));
    assert!(Dropout::new(1.0 - f64::EPSILON, 1, 2, 3).unwrap().is_some());
}

#[test]
fn kept_weights_are_scaled_up() {
    let check = |p, factor: f32| assert_eq!(dropout(p, 0, 0, 0).factor, factor);
    check(0.5, 2.0);
    check(0.05, 1.052_631_6);
    check(0.1, 1.111_111_2);
}

/// The mask is part of what a resumed run must find again, so its bits are fixed here.
#[test]
fn the_mask_does_not_change_between_versions() {
    let bits = |seed, step, micro_batch, first: u64| {
        let mask = dropout(0.5, seed, step, micro_batch);
        (0..64).fold(0_u64, |bits, k| bits << 1 | u64::from(mask.multiplier(first + k) != 0.0))
    };
    assert_eq!(bits(42, 0, 0, 0), 0xB8EB_4B34_4D68_3CD9);
    assert_eq!(bits(42, 7, 3, 1 << 40), 0x60A0_12C9_F260_9982);
}

#[test]
fn the_share_of_dropped_weights_is_p() {
    for p in [0.001, 0.05, 0.1, 0.5, 0.9] {
        for first in [0, 1 << 33, (1 << 50) + 1] {
            let mask = dropout(p, 42, 5, 1);
            check_share("mean", dropped(&mask, first..first + 1_000_000).into_iter(), p);
        }
    }
}

/// Two masks, or a mask and itself some places on, drop the same weight with probability p².
#[test]
fn masks_are_independent() {
    const N: u64 = 400_000;
    for p in [0.05, 0.5] {
        let one = dropped(&dropout(p, 42, 5, 1), 0..N);
        let both = |other: Vec<bool>| one.clone().into_iter().zip(other).map(|(a, b)| a && b);
        for (what, seed, step, micro_batch) in [
            ("seed", 43, 5, 1),
            ("step", 42, 6, 1),
            ("earlier step", 42, 4, 1),
            ("micro-batch", 42, 5, 2),
            ("micro-batch 0", 42, 5, 0),
            ("step and micro-batch swapped", 42, 1, 5),
            ("all", 0, 0, 0),
        ] {
            let other = dropped(&dropout(p, seed, step, micro_batch), 0..N);
            check_share(what, both(other), p * p);
        }
        for lag in [1, 2, 3, 4, 7, 8, 16, 64, 512, 768, 4096] {
            let other = dropped(&dropout(p, 42, 5, 1), lag..lag + N);
            check_share(&format!("lag {lag}"), both(other), p * p);
        }
    }
}

/// Steps and micro-batches as a training run counts them: one weight's fate over time.
#[test]
fn a_weight_is_dropped_independently_over_steps() {
    for index in [0, 1, 12_345] {
        let events = (0..20_000_u64).flat_map(|step| (0..8).map(move |micro_batch| (step, micro_batch)));
        let fates: Vec<bool> =
            events.map(|(step, part)| dropout(0.05, 42, step, part).multiplier(index) == 0.0).collect();
        check_share("over time", fates.iter().copied(), 0.05);
        for lag in [1, 8] {
            check_share("lag", fates.iter().zip(&fates[lag..]).map(|(a, b)| *a && *b), 0.0025);
        }
    }
}
