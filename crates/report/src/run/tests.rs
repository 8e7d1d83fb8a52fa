#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::testing::{copy_sample, evaluation, sample};

/// Reads the sample run after something was done to its folder.
fn after(change: impl FnOnce(&Path)) -> Run {
    let folder = TempDir::new().unwrap();
    let run = copy_sample(folder.path(), "demo");
    change(&run);
    Run::read(&run).unwrap()
}

fn rewrite(path: PathBuf, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, change(text)).unwrap();
}

#[test]
fn a_finished_run_is_read() {
    let run = Run::read(&sample()).unwrap();
    assert_eq!((run.name.as_str(), &run.status), ("demo-d64", &Status::Finished));
    assert_eq!(run.notes, [""; 0]);
    assert_eq!((run.d(), run.model(), run.steps_made()), (Some(64), Some("configs/demo/model"), Some(4)));
    assert_eq!(run.final_loss(), Some(2.980_559_954_625_119));
    assert_eq!(run.held_out_losses(), (Some(3.069_815_026_842_36), Some(3.067_892_771_132_237_2)));
    assert_eq!(run.adapter_bytes, Some(1037));
    assert_eq!(run.steps.iter().map(|step| step.step).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[track_caller]
fn check_notes(change: impl FnOnce(&Path), status: &str, expect: &[&str]) {
    let run = after(change);
    let found = match &run.status {
        Status::Finished => "finished",
        Status::AdapterOnly => "adapter",
        Status::Unfinished(reason) => reason,
    };
    assert_eq!(found, status);
    assert_eq!(run.notes, expect);
}

#[test]
fn what_is_missing_or_damaged_is_said() {
    let no_summary = "no summary: it was killed, stopped or still runs after step 4 of 4";
    check_notes(
        |run| rewrite(run.join("run.json"), |text| text.replace("\"summary\"", "\"other\"")),
        no_summary,
        &[],
    );
    check_notes(
        |run| rewrite(run.join("metrics.jsonl"), |text| text[..text.len() - 50].to_owned()),
        "finished",
        &["metrics.jsonl: line 4 is cut and left out"],
    );
    check_notes(
        |run| rewrite(run.join("metrics.jsonl"), |text| text.replace("{\"step\":2", "{\"step\":-2")),
        "finished",
        &[
            "metrics.jsonl: line 2 is damaged and left out (invalid value: integer `-2`, expected u64 at line 1 column 10)",
        ],
    );
    check_notes(
        |run| fs::remove_file(run.join("held_out.jsonl")).unwrap(),
        "finished",
        &["held_out.jsonl is missing"],
    );
    // Without data for it there is nothing missing.
    check_notes(
        |run| {
            fs::remove_file(run.join("held_out.jsonl")).unwrap();
            rewrite(run.join("run.json"), |text| text.replace("\"configs/demo/heldout.json\"", "null"));
        },
        "finished",
        &[],
    );
    check_notes(
        |run| fs::write(run.join("run.json"), "{\"config\": 3").unwrap(),
        "run.json cannot be read",
        &["run.json cannot be read: invalid type: integer `3`, expected a map at line 1 column 12"],
    );
    check_notes(
        |run| fs::remove_file(run.join("run.json")).unwrap(),
        "there is no run.json",
        &["run.json is missing: settings, mesh and versions are unknown"],
    );
    check_notes(
        |run| fs::write(run.join("evaluation_results_math.json"), "{}").unwrap(),
        "finished",
        &["evaluation_results_math.json is not a file of evaluation results: it has no key 'accuracy'"],
    );
}

#[test]
fn a_run_that_died_has_its_newest_checkpoint() {
    let run = after(|run| {
        for (step, complete) in [(2, true), (10, true), (12, false)] {
            let checkpoint = run.join(format!("checkpoint-{step}"));
            fs::create_dir(&checkpoint).unwrap();
            for name in &ADAPTER_FILES[..if complete { 2 } else { 1 }] {
                fs::copy(run.join(name), checkpoint.join(name)).unwrap();
            }
        }
        ADAPTER_FILES.iter().for_each(|name| fs::remove_file(run.join(name)).unwrap());
    });
    assert!(run.adapter.is_some());
    assert_eq!(run.notes, ["the adapter is that of checkpoint-10: the run wrote none at its end"]);
    let none = after(|run| ADAPTER_FILES.iter().for_each(|name| fs::remove_file(run.join(name)).unwrap()));
    assert_eq!((none.adapter, none.notes), (None, vec!["there is no adapter yet".to_owned()]));
}

#[test]
fn an_official_adapter_is_a_run_without_a_record() {
    check_notes(
        |run| {
            ["run.json", "metrics.jsonl", "held_out.jsonl"]
                .iter()
                .for_each(|name| fs::remove_file(run.join(name)).unwrap());
        },
        "adapter",
        &["an adapter alone: there is no record of its training"],
    );
}

#[test]
fn a_step_that_was_made_twice_counts_once() {
    let run = after(|run| {
        rewrite(run.join("metrics.jsonl"), |text| text + "{\"step\":2,\"loss\":1.5}\n");
    });
    let losses: Vec<(u64, Option<f64>)> = run.steps.iter().map(|step| (step.step, step.loss)).collect();
    assert_eq!(losses.len(), 4);
    assert_eq!(losses[1], (2, Some(1.5)));
}

#[track_caller]
fn check_refused(path: &Path, expect: &str) {
    let error = Run::read(path).unwrap_err().to_string();
    assert!(error.ends_with(expect), "{error}");
}

#[test]
fn other_folders_are_refused() {
    let folder = TempDir::new().unwrap();
    check_refused(folder.path(), "it holds none of run.json, metrics.jsonl and adapter_config.json");
    check_refused(&folder.path().join("none"), "there is no such folder");
    check_refused(&sample().join("run.json"), "it is a file");
    let error = discover(folder.path()).unwrap_err().to_string();
    assert!(error.starts_with("no run was found in "), "{error}");
}

#[test]
fn a_folder_of_runs_is_walked() {
    let folder = TempDir::new().unwrap();
    let nested = folder.path().join("a/b");
    fs::create_dir_all(&nested).unwrap();
    fs::create_dir(folder.path().join(".hidden")).unwrap();
    copy_sample(&nested, "one");
    copy_sample(folder.path(), "two");
    copy_sample(&folder.path().join(".hidden"), "three");
    // A checkpoint within a run is not a run.
    copy_sample(&folder.path().join("two"), "checkpoint-2");
    std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
    evaluation(&folder.path().join("evaluation_results_base.json"), "gsm8k", &[true, false], None);
    evaluation(&folder.path().join("evaluation_results_one.json"), "gsm8k", &[true], Some("/elsewhere/one"));
    fs::write(folder.path().join("evaluation_results_bad.json"), "[").unwrap();
    let found = discover(folder.path()).unwrap();
    let names: Vec<&str> = found.runs.iter().map(|run| run.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(found.evaluations.len(), 1);
    assert_eq!(found.runs[0].evaluations.len(), 1);
    assert_eq!(found.unreadable.len(), 1);
    assert!(found.unreadable[0].1.contains("not JSON"), "{:?}", found.unreadable);
}
