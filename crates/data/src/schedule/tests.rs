#![allow(clippy::unwrap_used)]
use miette::Diagnostic as _;
use proptest::prelude::*;

use super::*;
use crate::randperm;

fn options(rows: u64, micro_batch_size: u64, accumulation: u64, epochs: f64) -> ScheduleOptions {
    ScheduleOptions { rows, micro_batch_size, accumulation, epochs, max_steps: None, seed: 42, shuffle: true }
}

/// Checks B, U and T.
fn check(options: ScheduleOptions, expect: [u64; 3]) {
    let schedule = Schedule::new(options).unwrap();
    let found = [schedule.micro_batches_per_epoch(), schedule.steps_per_epoch(), schedule.total_steps()];
    assert_eq!(found, expect, "{options:?}");
}

#[test]
fn counts_as_the_trainer_does() {
    check(options(395_000, 2, 8, 2.0), [197_500, 24_688, 49_376]);
    check(options(70, 2, 4, 2.0), [35, 9, 18]);
    check(options(50, 4, 1, 1.0), [13, 13, 13]);
    check(options(512, 2, 8, 2.0), [256, 32, 64]);
    check(options(1, 2, 8, 3.0), [1, 1, 3]);
    check(options(70, 2, 4, 0.1), [35, 9, 1]);
    check(options(70, 2, 4, 1.5), [35, 9, 14]);
    check(options(70, 100, 100, 2.0), [1, 1, 2]);
    check(ScheduleOptions { max_steps: Some(5), ..options(70, 2, 4, 2.0) }, [35, 9, 5]);
    check(ScheduleOptions { max_steps: Some(1000), ..options(70, 2, 4, f64::NAN) }, [35, 9, 1000]);
    check(options(10, u64::MAX, u64::MAX, 1.0), [1, 1, 1]);
}

#[test]
fn steps_by_hand() {
    // 7 rows in twos: micro-batches of 2, 2, 2, 1; three a step: steps of 3 and 1 micro-batches.
    let sequential = ScheduleOptions { shuffle: false, ..options(7, 2, 3, 2.0) };
    let mut schedule = Schedule::new(sequential).unwrap();
    let first = vec![vec![0, 1], vec![2, 3], vec![4, 5]];
    let expect = [
        StepRows { epoch: 0, epoch_fraction: 0.75, micro_batches: first.clone() },
        StepRows { epoch: 0, epoch_fraction: 1.0, micro_batches: vec![vec![6]] },
        StepRows { epoch: 1, epoch_fraction: 1.75, micro_batches: first },
        StepRows { epoch: 1, epoch_fraction: 2.0, micro_batches: vec![vec![6]] },
    ];
    // Backwards, so that no step can lean on the one before.
    for (k, step) in expect.iter().enumerate().rev() {
        assert_eq!(schedule.step(k as u64), *step);
    }
    let mut wide =
        Schedule::new(ScheduleOptions { shuffle: false, ..options(3, u64::MAX, u64::MAX, 1.0) }).unwrap();
    assert_eq!(wide.step(0).micro_batches, [[0, 1, 2]]);
    assert_eq!(wide.step(u64::MAX - 1).epoch, u64::MAX - 1);
}

#[test]
fn epochs_are_drawn_with_seed_plus_epoch() {
    let mut schedule = Schedule::new(options(70, 2, 4, 2.0)).unwrap();
    let rows_of = |schedule: &mut Schedule, steps: std::ops::Range<u64>| {
        steps.flat_map(|k| schedule.step(k).micro_batches.concat()).collect::<Vec<u32>>()
    };
    assert_eq!(rows_of(&mut schedule, 9..18), randperm(70, 43));
    assert_eq!(rows_of(&mut schedule, 0..9), randperm(70, 42));
}

#[test]
fn bad_options() {
    let good = options(10, 2, 2, 1.0);
    for (bad, message) in [
        (ScheduleOptions { micro_batch_size: 0, ..good }, "micro-batch-size is 0"),
        (ScheduleOptions { accumulation: 0, ..good }, "accumulation is 0"),
        (ScheduleOptions { max_steps: Some(0), ..good }, "max-steps is 0"),
        (ScheduleOptions { rows: 0, ..good }, "has no rows"),
        (ScheduleOptions { rows: MAX_ROWS, ..good }, "number of rows is 214748364"),
        (ScheduleOptions { epochs: 0.0, ..good }, "epochs is 0"),
        (ScheduleOptions { epochs: -1.0, ..good }, "epochs is -1"),
        (ScheduleOptions { epochs: f64::NAN, ..good }, "epochs is NaN"),
        (ScheduleOptions { epochs: f64::INFINITY, ..good }, "epochs is inf"),
        (ScheduleOptions { epochs: 1e300, ..good }, "epochs is 1000"),
    ] {
        let error = Schedule::new(bad).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.code().unwrap().to_string().starts_with("input::") && error.help().is_some());
    }
    assert!(Schedule::new(ScheduleOptions { rows: MAX_ROWS - 1, ..good }).is_ok());
}

proptest! {
    #[test]
    fn an_epoch_visits_every_row_once(
        rows in 1u64..300, size in 1u64..20, accumulation in 1u64..20, epoch in 0u64..4, seed: u64, shuffle: bool,
    ) {
        let options = ScheduleOptions { seed, shuffle, ..options(rows, size, accumulation, 4.0) };
        let mut schedule = Schedule::new(options).unwrap();
        let updates = schedule.steps_per_epoch();
        let mut seen = Vec::new();
        let mut micro_batches = 0;
        for update in 0..updates {
            let step = schedule.step(epoch * updates + update);
            prop_assert_eq!(step.epoch, epoch);
            let last = update + 1 == updates;
            micro_batches += step.micro_batches.len() as u64;
            prop_assert!(last || step.micro_batches.len() as u64 == accumulation);
            let done = micro_batches as f64 / schedule.micro_batches_per_epoch() as f64;
            prop_assert_eq!(step.epoch_fraction, epoch as f64 + done);
            prop_assert!(step.micro_batches.iter().all(|m| (1..=size as usize).contains(&m.len())));
            seen.extend(step.micro_batches.concat());
        }
        prop_assert_eq!(micro_batches, schedule.micro_batches_per_epoch());
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..rows as u32).collect::<Vec<_>>());
    }

    #[test]
    fn any_step_equals_the_one_reached_in_order(rows in 1u64..100, size in 1u64..5, accumulation in 1u64..5, k in 0u64..200) {
        let mut in_order = Schedule::new(options(rows, size, accumulation, 1.0)).unwrap();
        for earlier in 0..k {
            in_order.step(earlier);
        }
        let mut fresh = Schedule::new(options(rows, size, accumulation, 1.0)).unwrap();
        prop_assert_eq!(in_order.step(k), fresh.step(k));
    }
}
