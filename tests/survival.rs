//! Runs under `gpart-launch` that are killed, stopped and held up; they end where an uninterrupted run ends.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{
    Ranks, Running, alone, checkpoints, launched, lines_so_far, metrics, scratch, thetas, train,
    wait_until_gone,
};

const STEPS: usize = 60;
const FLAGS: [&str; 4] = ["--max-steps", "60", "--save-steps", "20"];
const LAUNCH: [&str; 4] = ["-n", "2", "--max-restarts", "1000"];

fn uninterrupted(folder: &Path) -> Vec<String> {
    let output = folder.join("uninterrupted");
    train(Ranks::Alone, &output, &FLAGS);
    thetas(&output)
}

/// The newest state on disk; every one there is must be whole. One may be removed while this looks.
fn newest_state(output: &Path) -> usize {
    let mut newest = 0;
    for file in checkpoints(output) {
        let Ok(bytes) = std::fs::read(&file) else { continue };
        let (body, hash) = bytes.split_at(bytes.len() - 32);
        assert!(blake3::hash(body).as_bytes() == hash, "{} is not whole", file.display());
        let name = file.file_name().unwrap().to_str().unwrap();
        newest = newest.max(name["step-".len()..].split('.').next().unwrap().parse().unwrap());
    }
    newest
}

/// What a kill hits.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Rank,
    AllRanks,
    Launcher,
}

/// What kills of a kind came to.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    kills: usize,
    /// Before the first step was recorded.
    early: usize,
    /// Recorded steps that were not on disk.
    lost: usize,
}

/// SplitMix64 (Steele et al. 2014): the same instants every time, give or take the machine.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Kills of all kinds at random instants over runs that go on each time, until there were so many. Every run ends with the
/// uninterrupted one's θ after every step.
fn killed(kills: usize) {
    let folder = scratch();
    let expected = uninterrupted(folder.path());
    let (mut tallies, mut runs, mut seed) = ([Tally::default(); 3], 0, 7);
    let kinds = [Victim::Rank, Victim::AllRanks, Victim::Launcher];
    let mut done = 0;
    while done < kills {
        let output = folder.path().join(format!("run-{runs}"));
        runs += 1;
        let mut running = Running::start(launched(&LAUNCH, &output, &FLAGS));
        while done < kills {
            let until = Instant::now() + Duration::from_millis(random(&mut seed) % 2500);
            if !running.until(|| Instant::now() >= until) {
                break;
            }
            let (recorded, ranks) = (lines_so_far(&output), running.rank_processes());
            let kind = kinds[done % 3];
            let Some(victim) = ranks.get(random(&mut seed) as usize % ranks.len().max(1)) else { continue };
            match kind {
                Victim::Rank => running.send_to(*victim, libc::SIGKILL),
                Victim::AllRanks => ranks.iter().for_each(|rank| running.send_to(*rank, libc::SIGKILL)),
                Victim::Launcher => {
                    running.kill_first();
                    wait_until_gone(&ranks);
                }
            }
            let tally = &mut tallies[done % 3];
            tally.kills += 1;
            tally.early += usize::from(recorded == 0);
            tally.lost += recorded.saturating_sub(newest_state(&output));
            done += 1;
            if kind == Victim::Launcher {
                running.finish();
                running = Running::start(launched(&LAUNCH, &output, &FLAGS));
            }
        }
        let outcome = running.finish();
        assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
        assert_eq!(thetas(&output), expected, "run {runs}");
    }
    report(&format!(
        "{:<12} {:>6} {:>22} {:>22}",
        "killed", "kills", "before the first step", "recorded steps lost"
    ));
    for (kind, tally) in kinds.iter().zip(tallies) {
        let Tally { kills, early, lost } = tally;
        report(&format!("{:<12} {kills:>6} {early:>22} {lost:>22}", format!("{kind:?}")));
        assert_eq!(lost, 0, "{kind:?}");
    }
    report(&format!("{runs} runs of {STEPS} steps, all with the uninterrupted run's θ after every step"));
}

#[test]
fn killed_nine_times() {
    killed(9);
}

#[test]
#[ignore = "takes a quarter of an hour"]
fn killed_two_hundred_times() {
    killed(200);
}

/// SIGTERM to the launcher: 75 after the step, and the same command goes on.
#[test]
fn the_launcher_passes_a_stop_on() {
    let folder = scratch();
    let (expected, output) = (uninterrupted(folder.path()), folder.path().join("output"));
    let mut running = Running::start(launched(&LAUNCH, &output, &FLAGS));
    assert!(running.until(|| lines_so_far(&output) >= 3));
    running.send(libc::SIGTERM);
    running.finish().expect_code(75).expect_text("stopped after step");
    assert!((3..STEPS).contains(&lines_so_far(&output)));
    Running::start(launched(&LAUNCH, &output, &FLAGS)).finish().expect_code(0);
    assert_eq!(thetas(&output), expected);
}

/// A run that cannot be made finite is not started again.
#[test]
fn a_run_that_diverges_is_not_restarted() {
    let folder = scratch();
    let output = folder.path().join("output");
    let flags = ["--max-steps", "20", "--learning-rate", "1e38", "--max-grad-norm", "0"];
    let outcome = Running::start(launched(&LAUNCH, &output, &flags)).finish().expect_code(1);
    assert!(!outcome.stderr.contains("going on with"), "{}", outcome.stderr);
}

/// A rank that is held up is named, as soon as three median steps and five seconds are over, and the run goes on with it.
#[test]
fn a_rank_that_is_held_up_is_named() {
    let folder = scratch();
    let output = folder.path().join("output");
    let launch = ["-n", "2", "--patience", "300"];
    let mut running = Running::start(launched(&launch, &output, &FLAGS));
    assert!(running.until(|| lines_so_far(&output) >= 8));
    running.send_to_rank(1, libc::SIGSTOP);
    let since = Instant::now();
    let culprit = loop {
        let status = alone(&["status", "--json", "--run", output.to_str().unwrap()]).expect_code(0).stdout;
        let status: Value = serde_json::from_str(&status).unwrap();
        if let Some(finding) = status["findings"].as_array().and_then(|findings| findings.first()) {
            break finding["rank"].clone();
        }
        assert!(since.elapsed() < Duration::from_secs(60), "nobody is named: {status}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let took = since.elapsed();
    report(&format!("a stopped rank is named after {took:.1?}"));
    running.send_to_rank(1, libc::SIGCONT);
    running.finish().expect_code(0);
    assert_eq!(culprit, 1);
    let steps: Vec<f64> =
        metrics(&output).iter().map(|line| line["step_seconds"].as_f64().unwrap()).collect();
    let longest = steps.iter().fold(0.0, |most: f64, step| most.max(*step));
    assert!(longest >= took.as_secs_f64(), "it was held up for {took:?}, and no step took so long");
}

/// From a rank's death to the next recorded step, on the demo.
#[test]
#[ignore = "prints a time; ten runs"]
fn time_to_the_next_step() {
    let folder = scratch();
    let mut times = Vec::new();
    for number in 0..10 {
        let output = folder.path().join(number.to_string());
        let mut running = Running::start(launched(&LAUNCH, &output, &FLAGS));
        assert!(running.until(|| lines_so_far(&output) >= 5));
        running.send_to_rank(1, libc::SIGKILL);
        let died = Instant::now();
        // What was on its way to the disk is not the next step.
        std::thread::sleep(Duration::from_millis(300));
        let recorded = lines_so_far(&output);
        assert!(running.until(|| lines_so_far(&output) > recorded));
        times.push(died.elapsed().as_secs_f64());
        running.kill();
    }
    times.sort_by(f64::total_cmp);
    report(&format!("from a rank's death to the next step: median {:.2} s, {times:.2?}", times[5]));
}

/// For readers of `--no-capture`.
#[allow(clippy::print_stdout, reason = "figures for the documentation")]
fn report(line: &str) {
    println!("{line}");
}
