//! Bad input: one check for all of it.

use std::path::Path;

use super::{Outcome, Ranks, Running, command, scratch, snapshot, training_args};

/// One thing that can be wrong.
pub struct Case {
    pub name: &'static str,
    /// Makes the bad thing in an empty folder and returns the flags that lead to it.
    pub setup: fn(&Path) -> Vec<String>,
    /// What the message must name: the thing, its value, its place.
    pub says: &'static [&'static str],
}

/// Runs `metamath` into `FOLDER/out`, expects exit code 2, one message with a hint, and nothing written or changed.
#[track_caller]
pub fn check_bad(ranks: Ranks, case: &Case) {
    check_bad_of("metamath", ranks, case);
}

/// [`check_bad`] of another command that trains.
#[track_caller]
pub fn check_bad_of(task: &str, ranks: Ranks, case: &Case) {
    let folder = scratch();
    let flags = (case.setup)(folder.path());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let before = snapshot(folder.path());
    let mut args = training_args(&folder.path().join("out"), &flags);
    args[0] = task.into();
    let outcome = Running::start(command(ranks, &args)).finish();
    let name = format!("{} on {ranks:?}", case.name);
    check_message(&name, &outcome, 2, case.says);
    assert_eq!(before, snapshot(folder.path()), "{name}: files were changed");
}

/// Checks each case alone and on several ranks, by turns two and three: under `mpirun` a failure takes a second.
#[track_caller]
pub fn check_on_ranks(cases: &[Case]) {
    for (number, case) in cases.iter().enumerate() {
        check_bad(Ranks::Alone, case);
        check_bad(Ranks::Mpi(2 + number % 2), case);
    }
}

/// Expects the exit code, exactly one message with exactly one hint, and no trace of a panic.
#[track_caller]
pub fn check_message(name: &str, outcome: &Outcome, code: i32, says: &[&str]) {
    let Outcome { stdout, stderr, .. } = outcome;
    let shown = format!("{name}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
    assert_eq!(outcome.code, Some(code), "exit code of {shown}");
    let count = |starts: &[&str]| {
        stderr.lines().filter(|line| starts.iter().any(|s| line.trim_start().starts_with(s))).count()
    };
    assert_eq!(count(&["error:"]), 1, "messages of {shown}");
    // clap, which speaks first of flags and closed sets, calls its hint a tip or lists the possible values.
    assert!((1..=2).contains(&count(&["hint:", "tip:", "[possible values:"])), "hints of {shown}");
    assert!(count(&["hint:"]) <= 1, "hints of {shown}");
    for bad in ["panicked", "internal error", "RUST_BACKTRACE", "terminate called"] {
        assert!(!stderr.contains(bad) && !stdout.contains(bad), "{bad} in {shown}");
    }
    for part in says {
        assert!(stderr.contains(part), "no {part:?} in {shown}");
    }
}
