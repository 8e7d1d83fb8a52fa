//! Runs that are asked to stop, and the state of every step on a disk that is slow, full or lost.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{
    Ranks, Running, checkpoints, lines_so_far, metrics, repository, scratch, thetas, train, training,
};

/// More steps than any test here lets pass before it stops the run.
const FLAGS: [&str; 4] = ["--max-steps", "12", "--save-steps", "100"];

fn uninterrupted(folder: &Path) -> Vec<String> {
    let output = folder.join("uninterrupted");
    train(Ranks::Alone, &output, &FLAGS);
    thetas(&output)
}

/// SIGUSR1 after a few steps, to whom `send` says; the run ends with 75 after the step, and goes on with the same bits.
fn stopped_by_signal(ranks: Ranks, send: impl Fn(&Running)) {
    let folder = scratch();
    let (expected, output) = (uninterrupted(folder.path()), folder.path().join("output"));
    let mut running = Running::start(training(ranks, &output, &FLAGS));
    assert!(running.until(|| lines_so_far(&output) >= 3), "it was to be stopped before its end");
    send(&running);
    let outcome = running.finish().expect_code(75);
    let steps = lines_so_far(&output);
    assert!((3..12).contains(&steps), "{steps} steps were made");
    let said = format!("stopped after step {steps} of 12");
    outcome.expect_text(&said).expect_text("the same command goes on from there");
    assert_eq!(thetas(&output), expected[..steps], "every step is recorded once");
    // The state stays, with its adapter.
    assert!(output.join(format!("checkpoints/step-{steps:08}.ckpt")).exists());
    assert!(output.join(format!("checkpoint-{steps}/adapter_model.safetensors")).exists());
    train(ranks, &output, &FLAGS).expect_text("of the steps now");
    assert_eq!(thetas(&output), expected);
}

#[test]
fn a_signal_stops_a_rank_alone() {
    stopped_by_signal(Ranks::Alone, |running| running.send(libc::SIGUSR1));
}

#[test]
fn a_signal_to_mpirun_stops_all_ranks_after_one_step() {
    stopped_by_signal(Ranks::Mpi(2), |running| running.send(libc::SIGUSR1));
}

#[test]
fn a_signal_to_any_rank_stops_all() {
    stopped_by_signal(Ranks::Mpi(3), |running| running.send_to_rank(2, libc::SIGUSR1));
}

/// The last step is the end of the run, and not a stop.
#[test]
fn a_signal_in_the_last_step_changes_nothing() {
    let folder = scratch();
    let output = folder.path().join("output");
    let flags = ["--max-steps", "1", "--save-steps", "100"];
    let mut running = Running::start(training(Ranks::Alone, &output, &flags));
    assert!(running.until(|| output.join("run.json").exists()));
    running.send(libc::SIGUSR1);
    running.finish().expect_code(0);
    assert_eq!(thetas(&output).len(), 1);
}

/// The newest states roll; those of --save-steps stay; without a window there are only these.
#[test]
fn every_step_has_its_state_for_a_while() {
    let folder = scratch();
    let names = |window: &str| {
        let output = folder.path().join(window);
        let flags = ["--max-steps", "9", "--save-steps", "4", "--checkpoint-window", window];
        train(Ranks::Alone, &output, &flags);
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        checkpoints(&output).iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names("0"), ["step-00000008.ckpt", "step-00000009.ckpt"]);
    assert_eq!(names("3"), ["step-00000007.rolling.ckpt", "step-00000008.ckpt", "step-00000009.ckpt"]);
}

/// Starts again from states of the window leave no adapters of theirs, which would push out those that are to stay.
#[test]
fn restarts_push_no_adapter_out() {
    let folder = scratch();
    let output = folder.path().join("output");
    let killed_at = |steps: usize, save_steps: &str| {
        let flags = ["--max-steps", "60", "--save-steps", save_steps, "--save-total-limit", "2"];
        let mut running = Running::start(training(Ranks::Alone, &output, &flags));
        assert!(running.until(|| lines_so_far(&output) >= steps), "it was to be killed before its end");
        running.kill();
        let adapter = |step: &usize| output.join(format!("checkpoint-{step}")).exists();
        (1..=60).filter(adapter).collect::<Vec<usize>>()
    };
    killed_at(9, "4");
    // From here on no step is due. The first start may still make up for an adapter that the kill kept back.
    let kept = killed_at(15, "100");
    assert!(kept.len() >= 2, "{kept:?}");
    for steps in [21, 27, 33] {
        assert_eq!(killed_at(steps, "100"), kept);
    }
}

/// Preloaded, a library of ours makes every flush take 300 ms.
fn slow_disk() -> PathBuf {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("slow-disk-{}.so", std::process::id()));
    let source = repository().join("tests/slow_disk.c");
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]);
    cc.arg("-o").arg(&library).arg(source);
    assert!(cc.status().unwrap().success(), "{cc:?}");
    library
}

/// No step is applied before the one before is on disk, and the run says what that costs.
#[test]
fn a_disk_slower_than_a_step_is_waited_for_and_named() {
    let folder = scratch();
    let flags = ["--max-steps", "5", "--save-steps", "100"];
    let fast = folder.path().join("fast");
    train(Ranks::Mpi(2), &fast, &flags);
    let output = folder.path().join("slow");
    let mut command = training(Ranks::Mpi(2), &output, &flags);
    command.env("LD_PRELOAD", slow_disk());
    let mut running = Running::start(command);
    assert!(running.until(|| lines_so_far(&output) >= 1));
    // From here on every step waits for three flushes: the file, its folder, the line of metrics.
    let started = Instant::now();
    assert!(running.until(|| lines_so_far(&output) >= 4));
    assert!(started.elapsed() >= Duration::from_millis(3 * 900 - 100), "{:?}", started.elapsed());
    let outcome = running.finish().expect_code(0);
    outcome.expect_text("the disk is slower than the steps").expect_text("--checkpoint-window 0");
    assert_eq!(thetas(&output), thetas(&fast));
}

/// A kill between a state and its line of metrics costs neither.
#[test]
fn a_line_that_a_kill_kept_back_comes_from_its_state() {
    let folder = scratch();
    let output = folder.path().join("output");
    let mut running = Running::start(training(Ranks::Alone, &output, &FLAGS));
    assert!(running.until(|| lines_so_far(&output) >= 4));
    running.kill();
    let before = metrics(&output);
    let path = output.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let newest = checkpoints(&output).pop().unwrap();
    let name = newest.file_name().unwrap().to_str().unwrap();
    let step: usize = name["step-".len()..].split('.').next().unwrap().parse().unwrap();
    // As if the kill had come before the line of the newest state.
    let kept: String = text.split_inclusive('\n').take(step - 1).collect();
    std::fs::write(&path, kept).unwrap();
    train(Ranks::Alone, &output, &FLAGS);
    let after = metrics(&output);
    assert_eq!(after.len(), 12);
    assert_eq!(after[..step.min(before.len())], before[..step.min(before.len())]);
}
