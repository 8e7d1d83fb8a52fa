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
            let (recorded, ranks) = (lines_so_far(&output), running.mpi_ranks());
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

/// From a rank's death to the next recorded step, and what came in between: the ranks' new start, and the model loaded.
fn recovery(output: &Path, flags: &[&str]) -> [f64; 3] {
    let mut running = Running::patiently(launched(&LAUNCH, output, flags));
    assert!(running.until(|| lines_so_far(output) >= 3));
    let (starts, before) = (starts(output), running.mpi_ranks());
    running.send_to_rank(1, libc::SIGKILL);
    let died = Instant::now();
    while running.mpi_ranks().iter().filter(|rank| !before.contains(rank)).count() < 2 {
        assert!(died.elapsed() < Duration::from_secs(60), "the ranks are not started again");
        std::thread::sleep(Duration::from_millis(5));
    }
    let started = died.elapsed().as_secs_f64();
    assert!(running.until(|| self::starts(output) > starts));
    let loaded = died.elapsed().as_secs_f64();
    let recorded = lines_so_far(output);
    assert!(running.until(|| lines_so_far(output) > recorded));
    let stepped = died.elapsed().as_secs_f64();
    running.kill();
    [started, loaded, stepped]
}

/// How often the ranks were ready for steps, by the first one's log.
fn starts(output: &Path) -> usize {
    let log = std::fs::read_to_string(output.join("logs/rank-000.log")).unwrap_or_default();
    log.lines().filter(|line| line.contains(": start ")).count()
}

fn report_recovery(what: &str, times: &[[f64; 3]]) {
    let median = |place: usize| {
        let mut values: Vec<f64> = times.iter().map(|times| times[place]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let [started, loaded, stepped] = [0, 1, 2].map(median);
    report(&format!(
        "{what}: from a rank's death to the next step {stepped:.2} s (median of {}): ranks started again after \
         {started:.2} s, ready after {loaded:.2} s",
        times.len()
    ));
}

#[test]
#[ignore = "prints a time; ten runs"]
fn time_to_the_next_step() {
    let folder = scratch();
    let times: Vec<[f64; 3]> =
        (0..10).map(|number| recovery(&folder.path().join(number.to_string()), &FLAGS)).collect();
    report_recovery("the demo model", &times);
}

#[test]
#[ignore = "prints a time; three runs of a model of two gigabytes"]
fn time_to_the_next_step_of_two_gigabytes() {
    let folder = scratch();
    let (config, model) = (folder.path().join("config.json"), folder.path().join("model"));
    // 1.03 billion parameters.
    std::fs::write(
        &config,
        r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
            "intermediate_size": 5632, "num_hidden_layers": 20, "num_attention_heads": 16, "num_key_value_heads": 4,
            "vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu",
            "tie_word_embeddings": false}"#,
    )
    .unwrap();
    let [config, model] = [&config, &model].map(|path| path.to_str().unwrap());
    let make = ["random-model", "--config", config, "--tokenizer", "configs/demo/model", "--output", model];
    alone(&make).expect_code(0);
    let more =
        ["--model", model, "--dtype", "bfloat16", "--max-seq-length", "32", "--accumulation-steps", "2"];
    let flags = [&FLAGS[..], &more].concat();
    let times: Vec<[f64; 3]> =
        (0..3).map(|number| recovery(&folder.path().join(number.to_string()), &flags)).collect();
    report_recovery("a model of 2 GB", &times);
}

/// For readers of `--no-capture`.
#[allow(clippy::print_stdout, reason = "figures for the documentation")]
fn report(line: &str) {
    println!("{line}");
}
