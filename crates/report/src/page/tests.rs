#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::testing::{copy_sample, evaluation};
use crate::{Evaluation, Options, ReportError, Run, Status, Written, attach, report};

/// The report of some folders, and its page.
#[track_caller]
fn make(
    folders: &[&Path],
    evaluations: Vec<Evaluation>,
    change: impl FnOnce(&mut Options),
) -> (Written, String) {
    let mut runs: Vec<Run> = folders.iter().map(|folder| Run::read(folder).unwrap()).collect();
    let others = attach(&mut runs, evaluations);
    let mut options = Options::new(folders[0].parent().unwrap().join("report"));
    change(&mut options);
    let written = report(&runs, &others, &options).unwrap();
    let page = fs::read_to_string(&written.page).unwrap();
    (written, page)
}

#[test]
fn one_run_has_everything() {
    let folder = TempDir::new().unwrap();
    let run = copy_sample(folder.path(), "demo");
    let file = run.join("evaluation_results_gsm8k_vllm_plain.json");
    evaluation(&file, "gsm8k", &[true, true, true, false], Some("/elsewhere/demo"));
    let (written, page) = make(&[&run], Vec::new(), |_| {});
    for expect in [
        "Accuracy, gsm8k",
        "75.0 %",
        "3.070 → 3.068",
        "gpart-dist 0.1.0, libtorch",
        "dp_replicate 2 × dp_shard 1 × pp 1 = 2 ranks",
        "393,216",
        "group sizes are those of the training",
        "−0.002067",
        "0.03137",
        "−1.666",
        "0.164",
        "1.0 kB",
        "rank 1",
        "all-reduce (world)",
        "<th>learning-rate</th><td>0.02</td>",
    ] {
        assert!(page.contains(expect), "{expect}");
    }
    assert!(!page.contains("What is missing"), "{page}");
    let names: Vec<&str> =
        written.plots.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    for expect in
        ["loss", "gradient_norm", "learning_rate", "throughput", "step_time", "memory", "theta_histogram"]
    {
        assert!(
            names.contains(&format!("{expect}.svg").as_str())
                && names.contains(&format!("{expect}.png").as_str())
        );
    }
    assert!(written.plots.iter().all(|path| fs::metadata(path).unwrap().len() > 500));
    let markdown = fs::read_to_string(&written.markdown).unwrap();
    assert!(markdown.contains("| configs/demo/model | metamath | 64 |"), "{markdown}");
}

#[test]
fn the_page_needs_nothing_but_itself() {
    let folder = TempDir::new().unwrap();
    let run = copy_sample(folder.path(), "demo");
    let (_, page) = make(&[&run], Vec::new(), |_| {});
    for forbidden in ["http:", "https:", "src=", "href=", "@import", "fetch(", "url(h", "url(/"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn what_a_model_wrote_is_harmless() {
    const ATTACK: &str = "</script><script>alert('x')</script><!--<img onerror=alert(1)>";
    let folder = TempDir::new().unwrap();
    let run = copy_sample(folder.path(), "demo <b>&amp;");
    let file = run.join("evaluation_results_gsm8k.json");
    evaluation(&file, "gsm8k", &[true, false], None);
    let text =
        fs::read_to_string(&file).unwrap().replace("The answer is:", ATTACK).replace("What is", ATTACK);
    fs::write(&file, text.replace("\"gsm8k\"", &format!("\"{ATTACK}\""))).unwrap();
    let settings = fs::read_to_string(run.join("run.json")).unwrap();
    fs::write(run.join("run.json"), settings.replace("configs/demo/model", ATTACK)).unwrap();
    let (written, page) = make(&[&run], Vec::new(), |_| {});
    assert!(!page.contains("<script>alert") && !page.contains("<img") && !page.contains("demo <b>"));
    // The page's own scripts and no other: one for each plot, the answers, and the code.
    let plots = written.plots.len() / 2;
    assert_eq!(page.matches("<script").count(), plots + 2);
    assert_eq!(page.matches("</script").count(), plots + 2);
    assert!(page.contains("\\u003c/script\\u003e\\u003cscript\\u003ealert"));
    let markdown = fs::read_to_string(&written.markdown).unwrap();
    assert!(!markdown.contains("<script") && !markdown.contains("<img"));
    for svg in written.plots.iter().filter(|path| path.extension().is_some_and(|e| e == "svg")) {
        crate::plot::parse(&fs::read_to_string(svg).unwrap()).unwrap();
    }
}

#[test]
fn answers_are_kept_within_bounds() {
    let folder = TempDir::new().unwrap();
    let run = copy_sample(folder.path(), "demo");
    let correct: Vec<bool> = (0..1000).map(|at| at % 10 != 0).collect();
    evaluation(&run.join("evaluation_results_gsm8k.json"), "gsm8k", &correct, None);
    let (_, page) = make(&[&run], Vec::new(), |options| options.answer_bytes = 20_000);
    assert!(page.contains(" of 1,000 answers are in this page, which holds at most 20.0 kB of them"));
    let embedded = page.split("id=\"answers\">").nth(1).unwrap().split("</script>").next().unwrap();
    assert!(embedded.len() < 40_000, "{}", embedded.len());
    let lists: serde_json::Value = serde_json::from_str(embedded).unwrap();
    let rows = lists[0]["rows"].as_array().unwrap();
    // All that are wrong, and then right ones, in the order of the file.
    assert_eq!(rows.iter().filter(|row| row[4] == "wrong").count(), 100);
    assert!(rows.len() > 150 && rows[1][0] == "What is 1 + 1?", "{} {}", rows.len(), rows[1][0]);
}

#[test]
fn an_unfinished_run_has_a_page_that_says_so() {
    let folder = TempDir::new().unwrap();
    let run = folder.path().join("killed");
    fs::create_dir(&run).unwrap();
    fs::write(run.join("metrics.jsonl"), "{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"lo").unwrap();
    let (written, page) = make(&[&run], Vec::new(), |_| {});
    for expect in [
        "unfinished: there is no run.json",
        "metrics.jsonl: line 2 is cut and left out",
        "held_out.jsonl is missing",
        "there is no adapter yet",
        "run.json is missing",
    ] {
        assert!(page.contains(expect), "{expect}");
    }
    assert_eq!(written.plots.len(), 2);
    fs::write(run.join("metrics.jsonl"), "").unwrap();
    let (written, page) = make(&[&run], Vec::new(), |_| {});
    assert!(written.plots.is_empty() && page.contains("No step was recorded."));
}

#[test]
fn several_runs_are_put_side_by_side() {
    let folder = TempDir::new().unwrap();
    let mut runs = Vec::new();
    for (name, seed, d) in [("a", 1, 64), ("b", 2, 64), ("c", 1, 128)] {
        let run = copy_sample(folder.path(), name);
        let settings = fs::read_to_string(run.join("run.json")).unwrap();
        let settings = settings.replace("\"seed\": 1,", &format!("\"seed\": {seed},"));
        fs::write(run.join("run.json"), settings.replace("\"d\": 64", &format!("\"d\": {d}"))).unwrap();
        evaluation(&run.join("evaluation_results_math.json"), "math", &[true, seed == 1, d == 128], None);
        runs.push(run);
    }
    let base = folder.path().join("base.json");
    evaluation(&base, "math", &[false, true, false, false], None);
    let folders: Vec<&Path> = runs.iter().map(|run| run.as_path()).collect();
    let (written, page) =
        make(&folders, vec![Evaluation::read(&base).unwrap()], |options| options.isometry = false);
    // Accuracies 2/3 and 1/3: mean and median 50, sample sd 23.6, population sd 16.7.
    for expect in [
        "50.0 ± 23.6",
        "50.0 (16.7)",
        "100.0 (0.0)",
        "d 64 (2 seeds)",
        "base model, 25.0 %",
        "<th>d</th>",
        "3 runs",
    ] {
        assert!(
            page.contains(expect) || page.contains(&expect.replace("<th>", "<th class=\"n\">")),
            "{expect}"
        );
    }
    assert!(written.plots.iter().any(|path| path.ends_with("plots/accuracy_math.svg")));
    assert!(written.isometry.is_empty());
    // What differs is listed, and output paths do not count.
    assert!(page.contains("<th class=\"n\">seed</th>") && !page.contains("<th class=\"n\">output</th>"));
}

#[test]
fn other_peoples_files_are_left_alone() {
    let folder = TempDir::new().unwrap();
    let run = Run::read(&copy_sample(folder.path(), "demo")).unwrap();
    assert_eq!(run.status, Status::Finished);
    fs::write(folder.path().join("report.html"), "mine").unwrap();
    let error = report(std::slice::from_ref(&run), &[], &Options::new(folder.path())).unwrap_err();
    assert!(matches!(error, ReportError::Foreign { .. }), "{error}");
    assert_eq!(fs::read_to_string(folder.path().join("report.html")).unwrap(), "mine");
    assert!(!folder.path().join("plots").exists());
    // Nor are plots that lie there without a page.
    let plots = folder.path().join("other/plots");
    fs::create_dir_all(&plots).unwrap();
    fs::write(plots.join("loss.svg"), "mine").unwrap();
    let error =
        report(std::slice::from_ref(&run), &[], &Options::new(folder.path().join("other"))).unwrap_err();
    assert!(matches!(error, ReportError::Foreign { .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path().join("other")).unwrap().count(), 1);
    // A report of this command is written over, and a file in place of the folder is an error.
    let options = Options::new(folder.path().join("new"));
    report(std::slice::from_ref(&run), &[], &options).unwrap();
    report(std::slice::from_ref(&run), &[], &options).unwrap();
    let blocked = Options::new(folder.path().join("report.html/x"));
    let error = report(&[run], &[], &blocked).unwrap_err();
    assert!(matches!(error, ReportError::Output { .. }), "{error}");
    assert!(matches!(report(&[], &[], &options), Err(ReportError::NoRuns)));
}
