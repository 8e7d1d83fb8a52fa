//! However the launcher ends, no rank outlives it.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Scratch, signal, wait_until};

const LONG: [(&str, &str); 2] = [("STAND_IN_STEPS", "10000"), ("STAND_IN_MILLISECONDS", "20")];
const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_killed_launcher_leaves_no_rank() {
    let scratch = Scratch::new();
    let running = scratch.start(&["-n", "3"], &LONG);
    wait_until(|| scratch.steps() >= 3);
    assert!(scratch.processes().len() >= 6, "{:?}", scratch.processes());
    running.signal(Signal::KILL);
    scratch.expect_no_process_within(SOON);
}

#[test]
fn a_killed_launcher_leaves_no_rank_that_is_stopped() {
    let scratch = Scratch::new();
    let running = scratch.start(&["-n", "2"], &LONG);
    wait_until(|| scratch.steps() >= 3);
    signal(scratch.rank(0), Signal::STOP);
    signal(scratch.rank(1), Signal::STOP);
    running.signal(Signal::KILL);
    scratch.expect_no_process_within(SOON);
}

/// Then the kernel tells mpirun, and ranks end with mpirun as programs of MPI do.
#[test]
fn a_launcher_killed_with_its_guardian_leaves_no_rank() {
    let scratch = Scratch::new();
    let requests = [&LONG[..], &[("STAND_IN_ENDS_WITH_MPIRUN", "1")]].concat();
    let running = scratch.start(&["-n", "2"], &requests);
    wait_until(|| scratch.steps() >= 3);
    let guardian = scratch.guardian();
    running.signal(Signal::STOP);
    signal(guardian, Signal::STOP);
    running.signal(Signal::KILL);
    signal(guardian, Signal::KILL);
    scratch.expect_no_process_within(SOON);
}

#[test]
fn a_killed_guardian_is_a_failure_like_others() {
    let scratch = Scratch::new();
    let running = scratch.start(&["-n", "2"], &[("STAND_IN_STEPS", "30")]);
    wait_until(|| scratch.steps() >= 3);
    signal(scratch.guardian(), Signal::KILL);
    let outcome = running.finish().expect_code(0);
    outcome.expect_text("hello of 1 of 2, attempt 2");
    assert_eq!(scratch.steps(), 30);
}

#[test]
fn a_launcher_killed_at_the_start_leaves_nothing() {
    for milliseconds in [0, 5, 20, 60, 150, 300] {
        let scratch = Scratch::new();
        let running = scratch.start(&["-n", "2"], &LONG);
        std::thread::sleep(Duration::from_millis(milliseconds));
        running.signal(Signal::KILL);
        drop(running);
        scratch.expect_no_process_within(SOON);
    }
}
