//! How runs end, and when they are started again.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Scratch, signal, wait_until};

#[test]
fn a_run_that_gets_through() {
    let scratch = Scratch::new();
    let outcome = scratch.start(&["-n", "2"], &[]).finish().expect_code(0);
    assert_eq!(scratch.steps(), 10);
    outcome.expect_text("[rank 0] step 10/10").expect_text("[rank 1] hello of 1 of 2, attempt 1");
    scratch.expect_no_process_within(Duration::ZERO);
    // Nothing of the launcher's stays in the folder.
    for name in ["control.json", ".launch.lock"] {
        assert!(!scratch.output().join(name).exists(), "{name}");
    }
}

#[test]
fn a_crash_is_started_again_and_resumes() {
    let scratch = Scratch::new();
    let requests = [("STAND_IN_FAIL", "crash:1:4"), ("STAND_IN_FAIL_ATTEMPTS", "1")];
    let outcome = scratch.start(&["-n", "3"], &requests).finish().expect_code(0);
    assert_eq!(scratch.steps(), 10);
    outcome
        .expect_text("was killed by signal 6; going on with 3 ranks again; step 3 is durable")
        .expect_text("hello of 2 of 3, attempt 2")
        .expect_text("resumed after step 3");
}

#[test]
fn a_killed_rank_is_started_again() {
    let scratch = Scratch::new();
    let requests = [("STAND_IN_FAIL", "kill:0:4"), ("STAND_IN_FAIL_ATTEMPTS", "1")];
    let outcome = scratch.start(&["-n", "2"], &requests).finish().expect_code(0);
    outcome.expect_text("rank 0 on ").expect_text("was killed by signal 9; going on with 2 ranks again");
    assert_eq!(scratch.steps(), 10);
}

#[test]
fn it_gives_up_without_progress() {
    let scratch = Scratch::new();
    let options = ["-n", "2", "--max-restarts", "2"];
    let outcome = scratch.start(&options, &[("STAND_IN_FAIL", "exit7:1:3")]).finish().expect_code(1);
    let outcome = outcome
        .expect_text("error: the run has failed: rank 1 on ")
        .expect_text(
            "ended with exit status 7, and 2 restarts brought no new durable step; step 2 is durable",
        )
        .expect_text("the disk is full")
        .expect_text("hint: ");
    assert_eq!(outcome.stdout.matches("hello of 0").count(), 3, "{}", outcome.stdout);
}

#[test]
fn wrong_input_is_not_started_again() {
    let scratch = Scratch::new();
    let outcome = scratch.start(&["-n", "2"], &[("STAND_IN_FAIL", "exit2:0:1")]).finish().expect_code(2);
    let outcome = outcome.expect_text("error: the data is wrong").expect_no_text("attempt 2");
    outcome.expect_text("the ranks refused their input");
}

#[test]
fn numbers_that_are_not_finite_are_not_started_again() {
    let scratch = Scratch::new();
    let outcome = scratch.start(&["-n", "2"], &[("STAND_IN_FAIL", "nan:1:2")]).finish().expect_code(1);
    outcome.expect_no_text("attempt 2").expect_text("not a number").expect_text("lower --learning-rate");
}

#[test]
fn a_rank_that_hangs_is_named_and_started_again() {
    let scratch = Scratch::new();
    let requests = [("STAND_IN_STEPS", "60"), ("STAND_IN_MILLISECONDS", "40")];
    let running = scratch.start(&["-n", "2", "--patience", "1"], &requests);
    wait_until(|| scratch.steps() >= 5);
    signal(scratch.rank(1), Signal::STOP);
    wait_until(|| running.errors().contains("rank 1 on ") && running.errors().contains("silent for"));
    let outcome = running.finish().expect_code(0);
    assert_eq!(scratch.steps(), 60);
    outcome
        .expect_text("1 other rank waits for it in all_reduce")
        .expect_text("ending all ranks")
        .expect_text("hello of 1 of 2, attempt 2");
    scratch.expect_no_process_within(Duration::ZERO);
}

#[test]
fn the_same_command_typed_again_resumes() {
    let scratch = Scratch::new();
    scratch.start(&["-n", "2"], &[("STAND_IN_STEPS", "3")]).finish().expect_code(0);
    let outcome = scratch.start(&["-n", "2"], &[("STAND_IN_STEPS", "6")]).finish().expect_code(0);
    outcome.expect_text("resumed after step 3");
}

#[test]
fn a_restart_drops_what_only_the_first_start_may_say() {
    let scratch = Scratch::new();
    let requests = [("STAND_IN_FAIL", "crash:0:4"), ("STAND_IN_FAIL_ATTEMPTS", "1")];
    let flags = ["--resume", "never", "--d", "4"];
    let outcome = scratch.start_with(&["-n", "2"], &flags, &requests).finish().expect_code(0);
    outcome.expect_text("--resume never --d 4").expect_text("--d 4 --resume auto");
}
