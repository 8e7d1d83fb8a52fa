#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::testing::{copy_sample, evaluation};
use crate::{ReportError, discover, report};

/// A run of the sample with another seed and last loss.
fn run(folder: &Path, name: &str, seed: u64, loss: f64) -> std::path::PathBuf {
    let run = copy_sample(folder, name);
    let settings = fs::read_to_string(run.join("run.json")).unwrap();
    let settings = settings.replace("\"seed\": 1,", &format!("\"seed\": {seed},"));
    fs::write(run.join("run.json"), settings.replace("2.980559954625119", &loss.to_string())).unwrap();
    run
}

#[test]
fn a_folder_becomes_a_table() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (run(folder.path(), "a", 1, 2.0), run(folder.path(), "b", 2, 3.0));
    let killed = run(folder.path(), "killed", 3, 9.0);
    fs::remove_file(killed.join("run.json")).unwrap();
    evaluation(&a.join("evaluation_results_math.json"), "math", &[true, false], None);
    evaluation(&a.join("evaluation_results_math_more.json"), "math", &[true, true, true, false], None);
    evaluation(&b.join("evaluation_results_gsm8k.json"), "gsm8k", &[true], None);
    evaluation(
        &folder.path().join("evaluation_results_base.json"),
        "math",
        &[true, false, false, false],
        None,
    );
    evaluation(&folder.path().join("evaluation_results_x.json"), "math", &[true], Some("/gone/x"));
    fs::write(folder.path().join("evaluation_results_cut.json"), "{").unwrap();
    let table = collect(&discover(folder.path()).unwrap());

    assert_eq!(table.datasets, ["gsm8k", "math"]);
    let [base, seeds] = &table.rows[..] else { panic!("{:?}", table.rows) };
    assert_eq!((base.task.as_str(), base.seeds, base.d), (BASE, 0, None));
    assert_eq!(base.accuracy[1].unwrap().mean, 0.25);
    assert_eq!((seeds.seeds, seeds.d, seeds.steps, seeds.adapter_bytes), (2, Some(64), Some(4), Some(1037)));
    let loss = seeds.final_loss.unwrap();
    assert_eq!((loss.mean, loss.sample_sd), (2.5, Some(0.5_f64.sqrt())));
    // The evaluation with more questions counts.
    assert_eq!(seeds.accuracy[1].unwrap().mean, 0.75);

    let reasons: Vec<&str> = table.left_out.iter().map(|left| left.reason.as_str()).collect();
    assert_eq!(reasons[0], "there is no run.json");
    assert!(reasons[1].contains("not JSON"), "{reasons:?}");
    assert_eq!(reasons[2], "math 100.0 %, of an adapter that is not here, /gone/x");
    assert!(table.remarks.iter().any(|remark| remark.starts_with("a: 2 evaluations of math; ")));
    assert!(table.remarks.iter().any(|remark| remark.ends_with("gsm8k was evaluated for 1 of 2 runs")));
    assert_eq!(table.csv().unwrap().lines().count(), 1 + 2 + 3);
}

#[test]
fn repeated_runs_are_told() {
    let folder = TempDir::new().unwrap();
    run(folder.path(), "a", 1, 2.0);
    fs::create_dir(folder.path().join("again")).unwrap();
    run(&folder.path().join("again"), "a", 1, 2.0);
    let found = discover(folder.path()).unwrap();
    let names: Vec<&str> = found.runs.iter().map(|run| run.name.as_str()).collect();
    let parent = folder.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(names, [format!("{parent}/a").as_str(), "again/a"]);
    let table = collect(&found);
    assert_eq!(table.remarks, [format!("{parent}/a and again/a have the same seed, and count as two")]);

    let twice = [found.runs[0].clone(), found.runs[0].clone()];
    let error = report(&twice, &[], &crate::Options::new(folder.path().join("report"))).unwrap_err();
    assert!(matches!(error, ReportError::Twice { .. }), "{error}");
    assert!(!folder.path().join("report").exists());
}
