//! Sweeps: every combination, one after the other, however often they are interrupted.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Outcome, Running, Scratch, launcher, stand_in, wait_until};

const FOUR: [&str; 6] = ["--seeds", "1,2", "--d", "4096,32768", "-n", "2"];
const NAMES: [&str; 4] = ["seed1_d4096", "seed1_d32768", "seed2_d4096", "seed2_d32768"];
/// Long enough to be met at work.
const SLOW: [(&str, &str); 2] = [("STAND_IN_STEPS", "40"), ("STAND_IN_MILLISECONDS", "50")];
const QUICK: [(&str, &str); 2] = [("STAND_IN_STEPS", "3"), ("STAND_IN_MILLISECONDS", "5")];

/// Steps of a run that is to be met at work however busy the machine is.
const LONG: usize = 100;

/// The second of four runs has so many; the others have 10.
const SECOND_IS_LONG: [(&str, &str); 2] =
    [("STAND_IN_STEPS", "100"), ("STAND_IN_ONLY", "--seed 1 --d 32768")];

/// A sweep in a folder of its own.
struct Sweep(Scratch);

impl Sweep {
    fn new() -> Self {
        Self(Scratch::new())
    }

    fn command(&self, options: &[&str], flags: &[&str], requests: &[(&str, &str)]) -> Command {
        let mut command = Command::new(launcher());
        command.arg("sweep").args(options).arg("--program").arg(stand_in());
        command.arg("--output").arg(self.0.output()).args(["--", "metamath"]).args(flags);
        ["CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"].iter().for_each(|name| {
            command.env_remove(name);
        });
        command.envs(requests.iter().copied());
        command
    }

    fn start(&self, options: &[&str], requests: &[(&str, &str)]) -> Running {
        Running::start(self.command(options, &["--model", "m"], requests))
    }

    fn run(&self, name: &str) -> PathBuf {
        self.0.output().join(name)
    }

    /// Commands that rank 0 of a run was started with.
    fn starts(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.run(name).join("starts")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn steps(&self, name: &str) -> usize {
        fs::read_to_string(self.run(name).join("metrics.jsonl")).unwrap_or_default().lines().count()
    }

    fn record(&self) -> Value {
        serde_json::from_slice(&fs::read(self.run("sweep.json")).unwrap()).unwrap()
    }

    fn states(&self) -> Vec<String> {
        let record = self.record();
        let runs = record["runs"].as_array().unwrap();
        runs.iter().map(|run| run["state"].as_str().unwrap().to_owned()).collect()
    }

    /// What a sweep leaves that does not depend on how often it was interrupted: files with their content, but for times,
    /// and what the stand-in notes about its starts.
    fn lasting(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.0.output()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
                if path.is_dir() && !name.starts_with("meet-") {
                    folders.push(path);
                } else if path.is_file() && name != "starts" {
                    let mut text = fs::read_to_string(&path).unwrap();
                    if name == "sweep.json" {
                        text = text.lines().filter(|line| !is_time(line)).collect();
                    }
                    let place = path.strip_prefix(self.0.output()).unwrap().to_str().unwrap().to_owned();
                    files.insert(place, text);
                }
            }
        }
        files
    }
}

fn is_time(line: &str) -> bool {
    ["started", "ended", "seconds"].iter().any(|key| line.trim_start().starts_with(&format!("\"{key}\":")))
}

#[test]
fn all_combinations_run_in_their_order() {
    let sweep = Sweep::new();
    let outcome = sweep.start(&FOUR, &QUICK).finish().expect_code(0);
    let places: Vec<usize> = ["seed 1, d 4096", "seed 1, d 32768", "seed 2, d 4096", "seed 2, d 32768"]
        .iter()
        .enumerate()
        .map(|(at, shown)| outcome.stderr.find(&format!("run {} of 4: {shown}", at + 1)).unwrap())
        .collect();
    assert!(places.is_sorted(), "{places:?}");
    for name in NAMES {
        let (seed, d) = name.trim_start_matches("seed").split_once("_d").unwrap();
        let output = sweep.run(name);
        let expected = format!("metamath --model m --seed {seed} --d {d} --output {}", output.display());
        assert_eq!((sweep.starts(name), sweep.steps(name)), (vec![expected], 3));
    }
    assert_eq!(sweep.states(), ["done"; 4]);
    // The table is shown and kept; nothing of the launcher's stays.
    assert!(outcome.stdout.contains("table as text\nseed1_d32768 3 "), "{}", outcome.stdout);
    for (file, format) in [("txt", "text"), ("csv", "csv"), ("tex", "latex")] {
        let table = fs::read_to_string(sweep.run(&format!("collected.{file}"))).unwrap();
        assert!(table.starts_with(&format!("table as {format}\nseed1_d32768 ")), "{table}");
    }
    assert!(!sweep.run(".launch.lock").exists() && !sweep.run("sweep.json.new").exists());
    sweep.0.expect_no_process_within(Duration::ZERO);
    // Once more there is nothing to do but the table.
    let again = sweep.start(&FOUR, &QUICK).finish().expect_code(0);
    again.expect_text("run 4 of 4 (seed 2, d 32768): done before").expect_text("4 done already");
    assert!(NAMES.iter().all(|name| sweep.starts(name).len() == 1));
}

#[test]
fn a_sweep_killed_in_its_second_run_goes_on() {
    let (killed, plain) = (Sweep::new(), Sweep::new());
    // Ranks may live on for seconds: not so long that they get through.
    let other = plain.start(&FOUR[..4], &SECOND_IS_LONG);
    let running = killed.start(&FOUR, &SECOND_IS_LONG);
    wait_until(|| killed.steps(NAMES[1]) >= 3);
    running.signal(Signal::KILL);
    killed.0.expect_no_process_within(Duration::from_secs(5));
    drop(running);
    assert_eq!(killed.states(), ["done", "running", "waiting", "waiting"]);
    let outcome = killed.start(&FOUR, &SECOND_IS_LONG).finish().expect_code(0);
    outcome.expect_text("run 1 of 4 (seed 1, d 4096): done before").expect_text("resumed after step");
    assert_eq!(NAMES.map(|name| killed.starts(name).len()), [1, 2, 1, 1]);
    other.finish().expect_code(0);
    let (left, right) = (killed.lasting(), plain.lasting());
    assert!(left.keys().eq(right.keys()), "{:?} {:?}", left.keys(), right.keys());
    left.iter().for_each(|(place, text)| assert_eq!(*text, right[place], "{place}"));
}

/// What may happen between the end of a run and the record's: the run's own word counts.
#[test]
fn a_run_that_is_complete_is_not_run_again() {
    let sweep = Sweep::new();
    sweep.start(&["--seeds", "1,2"], &QUICK).finish().expect_code(0);
    let file = sweep.run("sweep.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"done\"", "\"running\"", 1)).unwrap();
    // And the reverse: a record that says so does not make a run complete.
    fs::remove_dir_all(sweep.run("seed2")).unwrap();
    sweep.start(&["--seeds", "1,2"], &QUICK).finish().expect_code(0).expect_text("1 done already");
    assert_eq!((sweep.starts("seed1").len(), sweep.starts("seed2").len()), (1, 1));
    assert_eq!(sweep.states(), ["done"; 2]);
}

#[test]
fn a_failing_run_holds_nobody_up() {
    let sweep = Sweep::new();
    let options = ["--seeds", "1,2,3", "--max-restarts", "0"];
    let failing = [&QUICK[..], &[("STAND_IN_FAIL", "exit7:0:2"), ("STAND_IN_ONLY", "--seed 2")]].concat();
    let outcome = sweep.start(&options, &failing).finish().expect_code(1);
    let outcome = outcome
        .expect_text("run 2 of 3 (seed 2): failed after")
        .expect_text("error: 1 of 3 runs failed:\n  run 2 of 3 (seed 2), exit status 1, 20")
        .expect_text("the run has failed: rank 0")
        .expect_text("hint: ");
    assert!(outcome.stdout.contains("table as text\nseed1 "), "{}", outcome.stdout);
    assert_eq!(sweep.states(), ["done", "failed", "done"]);
    assert_eq!(sweep.record()["runs"][1]["exit_code"], 1);
    // Typed again it alone is tried again.
    sweep.start(&options, &QUICK).finish().expect_code(0);
    assert_eq!(["seed1", "seed2", "seed3"].map(|name| sweep.starts(name).len()), [1, 2, 1]);
    assert_eq!((sweep.states(), sweep.steps("seed2")), (vec!["done".to_owned(); 3], 3));
}

#[test]
fn stop_at_failure_stops() {
    let sweep = Sweep::new();
    let options = ["--seeds", "1,2,3", "--max-restarts", "0", "--stop-at-failure"];
    let failing = [&QUICK[..], &[("STAND_IN_FAIL", "exit7:0:2"), ("STAND_IN_ONLY", "--seed 2")]].concat();
    let outcome = sweep.start(&options, &failing).finish().expect_code(1);
    outcome.expect_text("--stop-at-failure").expect_text("1 of 3 runs failed").expect_no_text("table as");
    assert_eq!(sweep.states(), ["done", "failed", "waiting"]);
}

#[test]
fn input_refused_by_the_first_run_stops_the_sweep() {
    let sweep = Sweep::new();
    let refusing = [("STAND_IN_FAIL", "exit2:0:1")];
    let outcome = sweep.start(&["--seeds", "1,2"], &refusing).finish().expect_code(2);
    outcome.expect_text("error: the data is wrong").expect_no_text("run 2 of 2: seed 2");
    // A later one is a failure like others.
    let sweep = Sweep::new();
    let refusing = [&QUICK[..], &[("STAND_IN_FAIL", "exit2:0:1"), ("STAND_IN_ONLY", "--seed 2")]].concat();
    let outcome = sweep.start(&["--seeds", "1,2,3"], &refusing).finish().expect_code(1);
    outcome.expect_text("run 2 of 3 (seed 2): refused after").expect_text("exit status 2");
    assert_eq!(sweep.states(), ["done", "failed", "done"]);
    // Also when the others are done already.
    sweep.start(&["--seeds", "1,2,3"], &refusing).finish().expect_code(1).expect_text("1 of 3 runs failed");
}

fn stops_at(sent: Signal) {
    let sweep = Sweep::new();
    let running = sweep.start(&FOUR, &SECOND_IS_LONG);
    wait_until(|| sweep.steps(NAMES[1]) >= 3);
    running.signal(sent);
    let outcome = running.finish().expect_code(75);
    outcome
        .expect_text("stopping after the step in progress")
        .expect_text("run 2 of 4 (seed 1, d 32768): stopped after")
        .expect_text("with 3 runs left; the same command goes on")
        .expect_no_text("run 3 of 4");
    assert_eq!(sweep.states(), ["done", "stopped", "waiting", "waiting"]);
    assert_eq!(sweep.record()["runs"][1]["exit_code"], 75);
    sweep.0.expect_no_process_within(Duration::ZERO);
    let made = sweep.steps(NAMES[1]);
    let outcome = sweep.start(&FOUR, &SECOND_IS_LONG).finish().expect_code(0);
    outcome.expect_text(&format!("resumed after step {made}"));
    assert_eq!(NAMES.map(|name| sweep.steps(name)), [10, LONG, 10, 10]);
}

#[test]
fn sigterm_stops_resumably() {
    stops_at(Signal::TERM);
}

#[test]
fn sigusr1_stops_resumably() {
    stops_at(Signal::USR1);
}

/// `--resume never` would refuse what the sweep itself has begun.
#[test]
fn a_restart_drops_what_only_the_first_start_may_say() {
    let sweep = Sweep::new();
    let command = || sweep.command(&["--seeds", "1"], &["--resume", "never"], &SLOW);
    let running = Running::start(command());
    wait_until(|| sweep.steps("seed1") >= 3);
    running.signal(Signal::INT);
    running.finish().expect_code(75);
    Running::start(command()).finish().expect_code(0);
    let [first, second] = sweep.starts("seed1").try_into().unwrap();
    assert!(first.contains("--resume never"), "{first}");
    assert!(!second.contains("never") && second.ends_with("--resume auto"), "{second}");
}

/// A stop that comes with the last step is no reason to begin the next run.
#[test]
fn a_stop_in_the_last_step_counts() {
    let sweep = Sweep::new();
    // The stand-in is deaf to wishes: its run gets through.
    let deaf = [&SLOW[..], &[("STAND_IN_FAIL", "deaf:0:0")]].concat();
    let running = sweep.start(&["--seeds", "1,2"], &deaf);
    wait_until(|| sweep.steps("seed1") >= 3);
    running.signal(Signal::TERM);
    let outcome = running.finish().expect_code(75);
    outcome.expect_text("asked to stop before run 2 of 2 (seed 2)");
    assert_eq!((sweep.states(), sweep.steps("seed1")), (vec!["done".to_owned(), "waiting".to_owned()], 40));
}

#[test]
fn a_second_signal_ends_at_once() {
    let sweep = Sweep::new();
    let deaf = [("STAND_IN_STEPS", "1000"), ("STAND_IN_FAIL", "deaf:0:0")];
    let running = sweep.start(&["--seeds", "1,2"], &deaf);
    wait_until(|| sweep.steps("seed1") >= 3);
    running.signal(Signal::TERM);
    wait_until(|| running.errors().contains("stopping after"));
    running.signal(Signal::TERM);
    running.finish().expect_code(130).expect_no_text("run 2 of 2");
    sweep.0.expect_no_process_within(Duration::ZERO);
    assert_eq!(sweep.states(), ["stopped", "waiting"]);
}

/// A refusal: one message, a hint, exit 2, nothing written.
#[track_caller]
fn refused(options: &[&str], flags: &[&str], text: &str) {
    let sweep = Sweep::new();
    let command = sweep.command(options, flags, &[]);
    let outcome = Running::start(command).finish().expect_code(2).expect_text(text);
    assert_eq!(outcome.stderr.matches("error: ").count(), 1, "{}", outcome.stderr);
    assert!(!sweep.0.output().exists(), "{text}: the folder was made");
}

#[test]
fn bad_lists_are_refused() {
    refused(&["--seeds", "1,2,1"], &[], "--seeds: seed has the value 1 twice");
    refused(&["--seeds", ""], &[], "--seeds: the list of seed is empty");
    refused(&["--set", "lr=1,,2"], &[], "--set: value 2 of lr is empty");
    refused(&["--set", "lr"], &[], "has no = in it");
    refused(&["--d", "1", "--set", "d=2"], &[], "--set: d has a list already");
    refused(&["--set", "output=a,b"], &[], "output cannot be swept");
    refused(&[], &[], "nothing is swept");
    refused(&["--seeds", "1"], &["--seed", "2"], "seed is swept, and it is set otherwise too");
    refused(&["--seeds", "1"], &["--output", "x"], "--output stands behind `--`");
    // By another name of the same flag.
    refused(&["--set", "lr=1,2"], &["--learning-rate", "1"], "lr is swept, and it is set otherwise too");
    refused(&["--set", "lr=1,2", "--set", "learning-rate=3,4"], &[], "and it is set otherwise too");
    // Two spellings of one value.
    refused(
        &["--seeds", "1,2,01"],
        &[],
        "run 1 of 3 (seed 1) and run 3 of 3 (seed 01) come to the same settings",
    );
    refused(&["--seeds", "1", "--eval", "gms8k"], &[], "--eval: \"gms8k\" is none of gsm8k, math");
}

/// What is wrong with the last run is found before the first.
#[test]
fn settings_are_checked_before_anything_starts() {
    refused(&["--set", "wrong=no,yes"], &[], "error: --wrong");
    refused(&["--set", "wrong=no,yes"], &[], "that is about run 2 of 2 (wrong yes); nothing was started");
}

#[test]
fn two_sweeps_in_one_folder() {
    let sweep = Sweep::new();
    let first = sweep.start(&["--seeds", "1,2"], &SLOW);
    wait_until(|| sweep.steps("seed1") >= 2);
    let second = sweep.start(&["--seeds", "1,2"], &SLOW).finish().expect_code(2);
    second.expect_text("another gpart-launch is at work on").expect_text("hint: ");
    first.finish().expect_code(0);
    let before = sweep.lasting();
    for (options, flags, text) in [
        (["--seeds", "1,3"], ["--model", "m"], "\n  swept: seed 1,2 there, seed 1,3 now"),
        (
            ["--seeds", "1,2"],
            ["--model", "n"],
            "\n  command: metamath --model m there, metamath --model n now",
        ),
    ] {
        let other = Running::start(sweep.command(&options, &flags, &QUICK)).finish().expect_code(2);
        other
            .expect_text("holds another sweep:")
            .expect_text(text)
            .expect_text("hint: type the same command");
    }
    assert_eq!(sweep.lasting(), before);
    // On other ranks it is the same sweep.
    sweep.start(&["--seeds", "1,2", "-n", "3"], &SLOW).finish().expect_code(0).expect_text("2 done already");
}

/// It cannot come from a crash. Runs are found out about by starting them once more: they know whose they are.
#[test]
fn a_torn_record_is_put_aside() {
    let sweep = Sweep::new();
    sweep.start(&["--seeds", "1,2"], &QUICK).finish().expect_code(0);
    let file = sweep.run("sweep.json");
    let text = fs::read_to_string(&file).unwrap();
    for (nth, length) in [text.len() / 2, 0].into_iter().enumerate() {
        fs::write(&file, &text[..length]).unwrap();
        let outcome = sweep.start(&["--seeds", "1,2"], &QUICK).finish().expect_code(0);
        outcome.expect_text("warning: ").expect_text("sweep.json.damaged now");
        assert_eq!((sweep.states(), sweep.starts("seed1").len()), (vec!["done".to_owned(); 2], 2 + nth));
        assert_eq!(fs::read(sweep.run("sweep.json.damaged")).unwrap(), &text.as_bytes()[..length]);
        assert_eq!(sweep.steps("seed1"), 3);
    }
}

fn evaluations(outcome: &Outcome) -> usize {
    outcome.stdout.matches("evaluation on rank 0: eval").count()
}

#[test]
fn evaluations_follow_each_run() {
    let sweep = Sweep::new();
    let data = sweep.0.path().join("rows.json");
    fs::write(&data, "[]").unwrap();
    let data = format!("gsm8k={}", data.display());
    let options = ["--seeds", "1,2", "-n", "2", "--eval", "gsm8k,math", "--eval-data", &data];
    let options = [&options[..], &["--eval-args", "--batch-size 4"]].concat();
    let outcome = sweep.start(&options, &QUICK).finish().expect_code(0);
    let run = sweep.run("seed2");
    let expected = format!(
        "[rank 1] evaluation on rank 1: eval --dataset gsm8k --model m --adapter {} --data {} --output \
         {}/evaluation_results_gsm8k.json --batch-size 4",
        run.display(),
        data.trim_start_matches("gsm8k="),
        run.display()
    );
    let outcome = outcome.expect_text(&expected).expect_text("run 1 of 2 (seed 1): evaluating on math");
    assert_eq!(evaluations(&outcome), 4);
    for dataset in ["gsm8k", "math"] {
        assert!(run.join(format!("evaluation_results_{dataset}.json")).exists());
    }
    let record = sweep.record();
    assert_eq!(record["runs"][1]["evaluations"][1]["dataset"], "math");
    assert_eq!(record["runs"][1]["evaluations"][1]["state"], "done");
    // Again: none; asked otherwise: again.
    let again = sweep.start(&options, &QUICK).finish().expect_code(0);
    assert_eq!(evaluations(&again), 0);
    let other = sweep.start(&["--seeds", "1,2", "--eval", "math"], &QUICK).finish().expect_code(0);
    assert_eq!((evaluations(&other), sweep.starts("seed1").len()), (2, 1));
}

#[test]
fn a_failing_evaluation_holds_nobody_up() {
    let sweep = Sweep::new();
    let options = ["--seeds", "1,2", "--eval", "gsm8k,math", "--max-restarts", "0"];
    let failing = [("STAND_IN_EVALUATION", "7"), ("STAND_IN_ONLY", "gsm8k --model m --adapter")];
    let failing = [&failing[..], &QUICK[1..]].concat();
    let outcome = sweep.start(&options, &failing).finish().expect_code(1);
    let outcome = outcome
        .expect_text("run 1 of 2 (seed 1): the evaluation on gsm8k is failed after")
        .expect_text("2 of 2 runs failed:\n  run 1 of 2 (seed 1), gsm8k, exit status 1, ");
    assert_eq!(evaluations(&outcome), 4);
    assert!(sweep.run("seed2/evaluation_results_math.json").exists());
    let again = sweep.start(&options, &QUICK).finish().expect_code(0);
    assert_eq!((evaluations(&again), sweep.starts("seed1").len()), (2, 1));
}

/// An evaluation that hears no wish is ended: it goes on from its answers.
#[test]
fn a_stop_ends_an_evaluation() {
    let sweep = Sweep::new();
    let slow = [&QUICK[..], &[("STAND_IN_EVALUATION_MILLISECONDS", "60000")]].concat();
    let options = ["--seeds", "1,2", "--eval", "math", "-n", "2"];
    let mut running = sweep.start(&options, &slow);
    running.until(|| sweep.0.processes().iter().any(|(_, words)| words.contains("stand-in eval")));
    running.signal(Signal::TERM);
    let outcome = running.finish().expect_code(75);
    outcome.expect_text("ending the evaluation").expect_no_text("run 2 of 2: seed 2");
    sweep.0.expect_no_process_within(Duration::ZERO);
    assert_eq!(sweep.record()["runs"][0]["evaluations"][0]["state"], "stopped");
    sweep.start(&options, &QUICK).finish().expect_code(0);
    assert_eq!(sweep.starts("seed1").len(), 1);
}

#[test]
fn without_a_table_it_says_so() {
    let sweep = Sweep::new();
    let outcome = sweep.start(&["--seeds", "1,2"], &[&QUICK[..], &[("STAND_IN_NO_TABLE", "1")]].concat());
    let outcome = outcome.finish().expect_code(1).expect_text("error: the table of ");
    outcome.expect_text("unrecognized subcommand 'collect'").expect_text("sweep --collect-only --output");
    assert_eq!(sweep.states(), ["done"; 2]);
    // By itself, afterwards.
    let mut command = Command::new(launcher());
    command.args(["sweep", "--collect-only", "--output"]).arg(sweep.0.output());
    command.arg("--program").arg(stand_in());
    Running::start(command).finish().expect_code(0).expect_text("table as text\nseed1 ");
    assert!(sweep.run("collected.tex").exists());
    let mut command = Command::new(launcher());
    command.args(["sweep", "--collect-only", "--output", "/nowhere/sweep", "--program"]).arg(stand_in());
    Running::start(command).finish().expect_code(2).expect_text("there is no folder /nowhere/sweep");
}

#[test]
fn a_dry_run_prints_the_commands() {
    let sweep = Sweep::new();
    let options = [&FOUR[..], &["--dry-run", "--eval", "math", "--patience", "5"]].concat();
    let outcome = sweep.start(&options, &[]).finish().expect_code(0);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let output = sweep.run(NAMES[2]);
    let expected = format!(
        "gpart-launch --ranks 2 --program {} --patience 5 -- metamath --model m --seed 2 --d 4096 --output {}",
        stand_in().display(),
        output.display()
    );
    assert_eq!((lines.len(), lines[4]), (8, expected.as_str()));
    assert!(
        lines[5].starts_with("#   then, on the same ranks: gpart-dist eval --dataset math"),
        "{}",
        lines[5]
    );
    assert!(!sweep.0.output().exists());
}

/// Named after what is swept, below the working folder.
#[test]
fn a_folder_of_its_own() {
    let sweep = Sweep::new();
    let mut command = Command::new(launcher());
    command.args(["sweep", "--seeds", "1,2", "--set", "lr=1e-4", "--program"]).arg(stand_in());
    command.args(["--", "metamath"]).envs(QUICK).current_dir(sweep.0.path()).env_remove("SLURM_JOB_ID");
    Running::start(command).finish().expect_code(0);
    let folder = sweep.0.path().join("experiments/sweeps/seed1-2_lr1e-4");
    assert!(folder.join("seed1_lr1e-4/run.json").exists() && folder.join("collected.txt").exists());
}
