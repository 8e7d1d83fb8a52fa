//! `report`, `collect` and `gpart-launch sweep` on real runs.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Outcome, Ranks, Running, check_message, command, launcher, read_json, scratch, train};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(args: &[&str]) -> Outcome {
    Running::start(command(Ranks::Alone, args)).finish()
}

/// Evaluates a run, or the demo model alone, on a few problems.
fn evaluate(run_folder: Option<&Path>, output: &Path) {
    let mut args = vec!["eval", "--dataset", "gsm8k", "--data", "configs/demo/gsm8k_sample.jsonl"];
    args.extend(["--max-samples", "4", "--max-new-tokens", "12", "--model", "configs/demo/model"]);
    args.extend(["--output", text(output)]);
    args.extend(run_folder.iter().flat_map(|folder| ["--adapter", text(folder)]));
    run(&args).expect_code(0);
}

#[test]
fn a_page_and_a_table_of_real_runs() {
    let folder = scratch();
    let runs = folder.path().join("runs");
    std::fs::create_dir(&runs).unwrap();
    for (name, seed, d) in [("a", "1", "64"), ("b", "2", "64"), ("c", "1", "256")] {
        let own = runs.join(name);
        train(Ranks::Alone, &own, &["--seed", seed, "--d", d, "--max-steps", "3"]);
        evaluate(Some(&own), &own.join("evaluation_results_gsm8k.json"));
    }
    let base = folder.path().join("base.json");
    evaluate(None, &base);
    let page = folder.path().join("page");
    let [a, b, c] = ["a", "b", "c"].map(|name| runs.join(name));
    let args = ["report", text(&a), text(&b), text(&c), "--eval", text(&base), "--output", text(&page)];
    run(&args).expect_code(0).expect_text("report.html");
    let html = std::fs::read_to_string(page.join("report.html")).unwrap();
    assert!(html.contains("Janet") && html.contains("<svg"), "questions and plots are in the page");
    for outside in ["src=\"http", "href=\"http", "url(http", "@import"] {
        assert!(!html.contains(outside), "the page needs {outside}");
    }
    assert!(page.join("plots/loss.svg").is_file() && page.join("plots/accuracy_gsm8k.png").is_file());
    assert!(std::fs::read_to_string(page.join("report.md")).unwrap().contains("256"));
    // Written over once more; somebody else's page is not.
    run(&args).expect_code(0);
    std::fs::write(page.join("report.html"), "mine").unwrap();
    check_message("another's page", &run(&args), 2, &["report.html"]);

    let table = |format: &str| run(&["collect", text(&runs), "--format", format]).expect_code(0).stdout;
    let rows: Value = serde_json::from_str(&table("json")).unwrap();
    let seeds: Vec<u64> =
        rows["rows"].as_array().unwrap().iter().map(|row| row["seeds"].as_u64().unwrap()).collect();
    assert_eq!(seeds, [2, 1], "{rows}");
    assert!(table("latex").contains("\\toprule") && table("csv").contains("gsm8k"));
    // A run that was killed is named, with the reason.
    std::fs::write(runs.join("b/run.json"), "{").unwrap();
    let said = table("text");
    assert!(said.contains(" ± ") || said.contains("64"), "{said}");
    assert!(said.contains("run.json"), "{said}");
    check_message("no folder", &run(&["collect", "no/such/folder"]), 2, &["no/such/folder"]);
    check_message("no run", &run(&["report", "no/such/run"]), 2, &["no/such/run"]);
}

/// `gpart-launch sweep … -- metamath …` with the real programs, from the first run to the table; killed in between.
#[test]
fn a_sweep_from_the_first_run_to_the_table() {
    let folder = scratch();
    let output = folder.path().join("sweep");
    let sweep = || -> Command {
        let mut args = vec!["sweep", "--seeds", "1,2", "--d", "64,128", "--output", text(&output), "-n", "1"];
        args.extend(["--eval", "gsm8k", "--eval-data", "configs/demo/gsm8k_sample.jsonl"]);
        args.extend(["--eval-args", "--max-samples 3 --max-new-tokens 6"]);
        args.extend(["--", "metamath", "--config", "tests/fast.toml"]);
        launcher(&args)
    };
    let second = output.join("seed1_d128");
    let mut running = Running::start(sweep());
    assert!(running.until(|| second.join("metrics.jsonl").exists()), "it ended before the kill");
    running.kill();
    let first = output.join("seed1_d64/evaluation_results_gsm8k.json");
    let written = std::fs::metadata(&first).unwrap().modified().unwrap();
    let said = Running::start(sweep()).finish().expect_code(0);
    assert_eq!(std::fs::metadata(&first).unwrap().modified().unwrap(), written, "done runs are left alone");
    for name in ["seed1_d64", "seed1_d128", "seed2_d64", "seed2_d128"] {
        let results = read_json(&output.join(name).join("evaluation_results_gsm8k.json"));
        assert_eq!(results["total_evaluated"], 3, "{name}");
        assert!(read_json(&output.join(name).join("run.json"))["summary"].is_object(), "{name}");
    }
    let table = std::fs::read_to_string(output.join("collected.txt")).unwrap();
    assert!(table.contains("gsm8k") && said.stdout.contains("gsm8k"), "{table}");
    assert!(output.join("collected.csv").is_file() && output.join("collected.tex").is_file());
}
