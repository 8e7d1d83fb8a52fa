//! `gpu-check` on the CPU: its report, what makes it fail, what it refuses.

use std::path::Path;

use serde_json::Value;

use crate::harness::{
    Outcome, Ranks, Running, check_message, command, edit_json, read_json, repository, scratch,
};

/// `gpu-check --device cpu --quick` with a report in `folder/report`.
fn gpu_check(folder: &Path, more: &[&str]) -> Outcome {
    let report = folder.join("report");
    let mut args = vec!["gpu-check", "--quick", "--report", report.to_str().unwrap()];
    args.extend(more);
    let command = command(Ranks::Alone, &args);
    Running::patiently(command).finish()
}

/// A copy of the golden files that a test may alter.
fn copy_goldens(folder: &Path) -> std::path::PathBuf {
    let goldens = folder.join("golden");
    copy_tree(&repository().join("tests/golden/metamath"), &goldens.join("metamath"));
    copy_tree(&repository().join("tests/golden/architectures"), &goldens.join("architectures"));
    goldens
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

fn check_of<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check {name}: {report:#}"))
}

#[test]
fn everything_passes_on_the_cpu() {
    let folder = scratch();
    let outcome = gpu_check(folder.path(), &["--device", "cpu"]).expect_code(0);
    let report = read_json(&folder.path().join("report/report.json"));
    assert_eq!(report["device"], "cpu");
    assert_eq!(report["failed"], 0, "{report:#}");
    for name in [
        "machine",
        "golden metamath/train-stateless",
        "golden architectures/qwen2",
        "bits float32 twice",
        "bits float32 dp-replicate 2",
        "bits bfloat16 dp-shard 2",
        "bits float32 pp 2",
        "resume after a stop",
        "packing float32",
        "packing bfloat16",
        "curve bfloat16",
        "greedy continuations",
        "eval in any batch",
    ] {
        let check = check_of(&report, name);
        assert_eq!(check["result"], "passed", "{check:#}");
        assert!(check["seconds"].as_f64().unwrap() > 0.0);
        assert!(!check["numbers"].as_object().unwrap().is_empty(), "{check:#}");
    }
    for name in ["bits float32 comm nccl", "speed", "step demo"] {
        assert_eq!(check_of(&report, name)["result"], "not-run", "{name}");
    }
    // The numbers are those of the official run's log.
    let numbers = &check_of(&report, "golden metamath/train-stateless")["numbers"];
    let log = read_json(&repository().join("tests/golden/metamath/train-stateless/log.json"));
    assert_eq!(numbers["steps"], log["steps"].as_array().unwrap().len());
    assert!(numbers["loss_difference"].as_f64().unwrap() < numbers["loss_tolerance"].as_f64().unwrap());
    let page = std::fs::read_to_string(folder.path().join("report/report.md")).unwrap();
    for part in [
        "**PASSED on cpu",
        "| libtorch | 2.11.0",
        "| golden metamath/train-stateless | passed |",
        "curve.svg",
    ] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    assert!(outcome.stdout.contains("report/report.md"), "{}", outcome.stdout);
    assert!(folder.path().join("report/logs/machine.txt").is_file());
    assert!(!folder.path().join("report/runs").exists(), "runs of checks that passed are removed");
}

/// One wrong number of an official log: that check fails, names it, and the others go on.
#[test]
fn an_altered_golden_is_named_and_the_rest_goes_on() {
    let folder = scratch();
    let goldens = copy_goldens(folder.path());
    let altered = goldens.join("metamath/train-stateless/log.json");
    edit_json(&altered, |log| log["steps"][6]["loss"] = 4.25.into());
    let flags = ["--device", "cpu", "--goldens", goldens.to_str().unwrap()];
    let outcome = gpu_check(folder.path(), &flags).expect_code(1).expect_text("FAILED");
    let report = read_json(&folder.path().join("report/report.json"));
    let failed = check_of(&report, "golden metamath/train-stateless");
    assert_eq!(failed["result"], "failed");
    let says = failed["says"].as_str().unwrap();
    assert!(says.contains("step 7") && says.contains("4.25") && says.contains("0.002"), "{says}");
    assert_eq!(check_of(&report, "golden architectures/qwen2")["result"], "passed");
    assert_eq!(check_of(&report, "bits float32 twice")["result"], "passed");
    assert!(outcome.stdout.contains("golden metamath/train-stateless"), "{}", outcome.stdout);
}

#[test]
fn input_that_is_wrong() {
    let check = |name: &str, more: &[&str], says: &[&str]| {
        let folder = scratch();
        check_message(name, &gpu_check(folder.path(), more), 2, says);
        assert!(!folder.path().join("report").exists(), "{name}: something was written");
    };
    check(
        "no folder",
        &["--device", "cpu", "--goldens", "/no/such"],
        &["/no/such", "no such folder", "--goldens"],
    );
    check("a device", &["--device", "tpu"], &["tpu", "cuda"]);
    let folder = scratch();
    let goldens = copy_goldens(folder.path());
    let named = goldens.to_str().unwrap().to_owned();
    std::fs::write(goldens.join("architectures/gemma/log.json"), "{").unwrap();
    check("a torn log", &["--device", "cpu", "--goldens", &named], &["gemma/log.json", "EOF"]);
    std::fs::remove_dir_all(goldens.join("architectures/gemma")).unwrap();
    check("no log", &["--device", "cpu", "--goldens", &named], &["gemma/log.json", "No such file"]);
    let outcome = Running::start(command(Ranks::Mpi(2), &["gpu-check", "--device", "cpu"])).finish();
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("without mpirun"), "{}", outcome.stderr);
}

#[test]
fn a_folder_of_somebody_elses_is_left_alone() {
    let folder = scratch();
    let theirs = folder.path().join("report/thesis.tex");
    std::fs::create_dir(folder.path().join("report")).unwrap();
    std::fs::write(&theirs, "years").unwrap();
    let outcome = gpu_check(folder.path(), &["--device", "cpu"]);
    check_message("a folder in use", &outcome, 2, &["report", "holds no report.json", "--report"]);
    assert_eq!(std::fs::read_to_string(&theirs).unwrap(), "years");
}

/// Where there is no GPU, that is what is said, and it is no success.
#[test]
fn no_gpu_is_a_loud_failure() {
    if Path::new("/dev/nvidiactl").exists() {
        return;
    }
    for device in ["auto", "cuda"] {
        let folder = scratch();
        let outcome = gpu_check(folder.path(), &["--device", device]).expect_code(1);
        let banner: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("!!")).collect();
        assert!(banner.len() > 8, "{}", outcome.stderr);
        for part in ["NO GPU", "DRIVER", "LIBTORCH_CUDA", "NVRTC", "NCCL", "--device cpu"] {
            assert!(banner.iter().any(|line| line.contains(part)), "no {part} in {}", outcome.stderr);
        }
        let report = read_json(&folder.path().join("report/report.json"));
        assert_eq!(report["device"], Value::Null);
        assert_eq!(report["checks"].as_array().unwrap().len(), 1, "{report:#}");
    }
}
