//! SIGKILL at any place; the same command again ends where an uninterrupted run ends.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{
    Ranks, Running, alone, checkpoints, lines_so_far, metrics, scratch, thetas, train, training,
    wait_until_gone,
};

const FLAGS: [&str; 4] = ["--max-steps", "8", "--save-steps", "2"];

/// A place in a run, as its output folder shows it.
type Place = (&'static str, fn(&Path) -> bool);

const PLACES: [Place; 7] = [
    ("the output folder appears", |output| output.exists()),
    ("metrics.jsonl appears", |output| output.join("metrics.jsonl").exists()),
    ("run.json appears", |output| output.join("run.json").exists()),
    ("step 3, which is not saved, is recorded", |output| lines_so_far(output) >= 3),
    ("the second checkpoint appears", |output| checkpoints(output).len() >= 2),
    ("the last step is recorded", |output| lines_so_far(output) >= 8),
    ("half of the adapter appears", |output| output.join("adapter_model.safetensors").exists()),
];

/// What is on disk after a kill: metrics that begin like the uninterrupted run's, and only sound checkpoints.
fn check_left(output: &Path, expected: &[String]) {
    let text = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    for (line, expected) in whole.zip(expected) {
        assert!(line.contains(expected), "{line} lacks {expected}");
    }
    for file in checkpoints(output) {
        alone(&["inspect", "checkpoint", file.to_str().unwrap()]).expect_code(0);
    }
    // At most the step in flight is lost: every step that was recorded has its state on disk.
    let lines = lines_so_far(output) as u64;
    let newest = checkpoints(output).iter().map(|file| step_of(file)).max().unwrap_or(0);
    assert!(
        (lines..=lines + 1).contains(&newest),
        "{lines} steps are recorded, the newest state is of {newest}"
    );
}

/// The number in a checkpoint's name.
fn step_of(file: &Path) -> u64 {
    let name = file.file_name().unwrap().to_str().unwrap();
    name.trim_start_matches("step-").split('.').next().unwrap().parse().unwrap()
}

/// Runs to the end and compares every step with the uninterrupted run's.
fn check_end(ranks: Ranks, output: &Path, expected: &[String], place: &str) {
    let outcome = Running::start(training(ranks, output, &FLAGS)).finish();
    assert_eq!(outcome.code, Some(0), "after a kill when {place}:\n{}{}", outcome.stdout, outcome.stderr);
    assert_eq!(thetas(output), expected, "{ranks:?}, killed when {place}");
    assert_adapter(output, expected);
}

fn assert_adapter(output: &Path, expected: &[String]) {
    let facts = alone(&["inspect", "adapter", output.to_str().unwrap(), "--json"]).expect_code(0).stdout;
    assert!(facts.contains(expected.last().unwrap()), "{facts}");
}

fn uninterrupted(folder: &Path) -> Vec<String> {
    let output = folder.join("uninterrupted");
    train(Ranks::Alone, &output, &FLAGS);
    let expected = thetas(&output);
    assert_eq!(expected.len(), 8);
    expected
}

fn killed_at_every_place(ranks: Ranks) {
    let folder = scratch();
    let expected = uninterrupted(folder.path());
    for (number, (place, reached)) in PLACES.iter().enumerate() {
        let output = folder.path().join(format!("place-{number}"));
        let mut running = Running::start(training(ranks, &output, &FLAGS));
        assert!(running.until(|| reached(&output)), "the run ended before {place}");
        running.kill();
        check_left(&output, &expected);
        check_end(ranks, &output, &expected, place);
    }
}

#[test]
fn killed_at_every_place_alone() {
    killed_at_every_place(Ranks::Alone);
}

#[test]
fn killed_at_every_place_on_two_ranks() {
    killed_at_every_place(Ranks::Mpi(2));
}

/// One run, killed again and again, each time further on.
#[test]
fn killed_over_and_over_on_changing_ranks() {
    let folder = scratch();
    let expected = uninterrupted(folder.path());
    let output = folder.path().join("output");
    for (steps, ranks) in [Ranks::Alone, Ranks::Mpi(2), Ranks::Mpi(3), Ranks::Mpi(1), Ranks::Mpi(2)]
        .into_iter()
        .enumerate()
        .map(|(k, ranks)| (2 * k, ranks))
    {
        let mut running = Running::start(training(ranks, &output, &FLAGS));
        running.until(|| output.join("run.json").exists() && lines_so_far(&output) >= steps);
        running.kill();
        check_left(&output, &expected);
    }
    check_end(Ranks::Mpi(3), &output, &expected, "again and again");
}

/// Instants spread over the whole duration, start-up included.
fn killed_at_instants(ranks: Ranks, instants: u32) {
    let folder = scratch();
    let expected = uninterrupted(folder.path());
    let started = Instant::now();
    train(ranks, &folder.path().join("timed"), &FLAGS);
    let duration = started.elapsed();
    for instant in 0..instants {
        let output = folder.path().join(format!("instant-{instant}"));
        let running = Running::start(training(ranks, &output, &FLAGS));
        std::thread::sleep(duration * (2 * instant + 1) / (2 * instants));
        running.kill();
        check_left(&output, &expected);
        check_end(ranks, &output, &expected, &format!("{instant}/{instants} of it was over"));
    }
}

#[test]
fn killed_at_any_instant_alone() {
    killed_at_instants(Ranks::Alone, 7);
}

#[test]
fn killed_at_any_instant_on_two_ranks() {
    killed_at_instants(Ranks::Mpi(2), 4);
}

/// A rank that dies ends all of them; no rank is left behind to hold the folder.
#[test]
fn one_rank_killed_ends_all() {
    let folder = scratch();
    let expected = uninterrupted(folder.path());
    for rank in [0, 1] {
        let output = folder.path().join(format!("rank-{rank}"));
        let mut running = Running::start(training(Ranks::Mpi(2), &output, &FLAGS));
        assert!(running.until(|| lines_so_far(&output) >= 3));
        let ranks = running.rank_processes();
        assert_eq!(ranks.len(), 2);
        running.kill_rank(rank);
        let outcome = running.finish();
        assert_ne!(outcome.code, Some(0), "{}", outcome.stderr);
        wait_until_gone(&ranks);
        check_left(&output, &expected);
        check_end(Ranks::Mpi(2), &output, &expected, &format!("rank {rank} alone was meant"));
    }
}

/// Ranks whose launcher dies end too.
#[test]
fn launcher_killed_ends_all() {
    let folder = scratch();
    let expected = uninterrupted(folder.path());
    let output = folder.path().join("output");
    let mut running = Running::start(training(Ranks::Mpi(2), &output, &FLAGS));
    assert!(running.until(|| lines_so_far(&output) >= 3));
    let ranks = running.rank_processes();
    running.kill_first();
    running.finish();
    wait_until_gone(&ranks);
    check_left(&output, &expected);
    check_end(Ranks::Mpi(2), &output, &expected, "only the launcher was meant");
}

/// With a checkpoint a step, a kill costs the step in flight and no other.
#[test]
fn a_kill_loses_at_most_the_step_in_flight() {
    let folder = scratch();
    let output = folder.path().join("output");
    let flags = ["--max-steps", "8", "--save-steps", "1"];
    let mut running = Running::start(training(Ranks::Alone, &output, &flags));
    assert!(running.until(|| lines_so_far(&output) >= 5));
    std::thread::sleep(Duration::from_millis(3));
    running.kill();
    let recorded = lines_so_far(&output);
    let said = train(Ranks::Alone, &output, &flags).stdout;
    let resumed = said.split("resumed after step ").nth(1).and_then(|rest| rest.lines().next());
    let resumed: usize = resumed.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    assert!(resumed + 1 >= recorded, "{recorded} steps were recorded, but only {resumed} saved");
    assert_eq!(metrics(&output).len(), 8);
}

/// Held-out losses that were due are on file, whenever the kill came.
#[test]
fn no_held_out_loss_is_lost() {
    let folder = scratch();
    let data = crate::harness::repository().join("configs/demo/heldout.json");
    let flags = ["--eval-data", data.to_str().unwrap(), "--eval-steps", "1", "--max-steps", "3"];
    let whole = folder.path().join("whole");
    train(Ranks::Alone, &whole, &flags);
    let expected = std::fs::read_to_string(whole.join("held_out.jsonl")).unwrap();
    assert_eq!(expected.lines().count(), 4);
    let output = folder.path().join("output");
    for saved in [1, 2] {
        let mut running = Running::start(training(Ranks::Alone, &output, &flags));
        assert!(running.until(|| output.join(format!("checkpoints/step-{saved:08}.ckpt")).exists()));
        running.kill();
    }
    train(Ranks::Alone, &output, &flags);
    assert_eq!(std::fs::read_to_string(output.join("held_out.jsonl")).unwrap(), expected);
}
