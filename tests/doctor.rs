//! `doctor`: what it measures, and what it finds broken.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Mount, Outcome, Ranks, Running, alone, check_message, command, scratch, snapshot};

fn doctor(ranks: Ranks, output: &Path, more: &[&str]) -> Outcome {
    let mut args = vec!["doctor", "--quick", "--output", output.to_str().unwrap()];
    args.extend(more);
    Running::start(command(ranks, &args)).finish()
}

fn report(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {}", outcome.stdout))
}

fn remarks(report: &Value, level: &str) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings.filter(|finding| finding["level"] == level).map(|finding| finding["text"].to_string()).collect()
}

/// Everything is measured, and no trace is left.
#[test]
fn a_sound_machine() {
    for (ranks, n) in [(Ranks::Alone, 1), (Ranks::Mpi(2), 2), (Ranks::Mpi(3), 3)] {
        let folder = scratch();
        let outcome = doctor(ranks, folder.path(), &["--json"]).expect_code(0);
        assert!(snapshot(folder.path()).is_empty(), "{n} ranks left something");
        let report = report(&outcome);
        let facts = report["ranks"].as_array().unwrap();
        assert_eq!(facts.len(), n);
        for (rank, facts) in facts.iter().enumerate() {
            assert_eq!(facts["place"]["local_rank"], rank);
            assert_eq!(facts["place"]["ranks_on_host"], n);
            assert!(
                facts["cores"].as_u64().unwrap() > 0 && facts["memory"]["available"].as_u64().unwrap() > 0
            );
            assert!(facts["versions"]["libtorch"].as_str().unwrap().starts_with("2.11"));
        }
        assert_eq!(remarks(&report, "broken"), [""; 0]);
        assert!(report["disk"]["write_speed"].as_f64().unwrap() > 1e5);
        assert!(report["disk"]["state_seconds"].as_f64().unwrap() > 1e-6);
        assert_eq!(report["clocks"]["ahead"].as_array().unwrap().len(), n);
        check_messages(&report, n);
    }
}

fn check_messages(report: &Value, ranks: usize) {
    let messages = report["messages"].as_array().unwrap();
    assert_eq!(messages.len(), usize::from(ranks > 1), "{ranks} ranks: {messages:?}");
    for messages in messages {
        assert!(messages["carrier"].as_str().unwrap().contains("MPI"), "{messages}");
        let measured = messages["measured"].as_array().unwrap();
        assert_eq!(measured.len(), 5 * 2, "kinds and sizes");
        for entry in measured {
            let seconds = entry["seconds"].as_f64().unwrap();
            assert!(seconds > 1e-7 && seconds < 60.0, "{entry}");
        }
        assert_eq!(messages["wrong"], Value::Array(Vec::new()));
    }
}

/// The page fits a bug report: aligned, not wide, one verdict a part, nothing of the environment.
#[test]
fn a_page_of_text() {
    let folder = scratch();
    let mut command = command(Ranks::Mpi(2), &["doctor", "--output", folder.path().to_str().unwrap()]);
    command.env("HF_TOKEN", "hf_secret").env("GPART_SEED", "8642");
    let page = Running::start(command).finish().expect_code(0).stdout;
    let wide: Vec<&str> = page.lines().filter(|line| line.chars().count() > 100).collect();
    assert!(wide.is_empty(), "{wide:?}");
    assert!(page.lines().count() < 70, "{page}");
    for part in ["versions", "cores", "memory", "clocks", "GPUs", "messages", "disk"] {
        let verdict = page.split("\nverdict\n").nth(1).unwrap_or_else(|| panic!("{page}"));
        assert!(verdict.lines().any(|line| line.contains(part)), "no verdict on {part}: {page}");
    }
    assert!(page.contains("nothing here would break a run"), "{page}");
    assert!(!page.contains("hf_secret") && !page.contains("8642"), "{page}");
}

/// Folders that cannot be written to are named, with what to do; other checks are made all the same.
#[test]
fn a_folder_that_cannot_be_written_to() {
    let folder = scratch();
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let check = |ranks, output: &Path, says: &[&str]| {
        let outcome = doctor(ranks, output, &[]).expect_code(1);
        assert!(outcome.stdout.contains("1 thing here would break a run"), "{}", outcome.stdout);
        // Lines are broken where they are long.
        let flat = outcome.stdout.split_whitespace().collect::<Vec<&str>>().join(" ");
        for part in says.iter().chain(&["broken disk:", "--output"]) {
            assert!(flat.contains(part), "no {part:?} in {}", outcome.stdout);
        }
    };
    check(Ranks::Alone, &file, &["is no folder", "/file"]);
    check(Ranks::Mpi(2), &file.join("below"), &["is no folder", "/file"]);
    let Some(full) = Mount::tmpfs(folder.path().join("full"), 4096) else { return };
    check(Ranks::Alone, &full.folder, &["No space left", "/full"]);
    check(Ranks::Mpi(2), &full.folder.join("output"), &["No space left", "/full"]);
    assert!(snapshot(&full.folder).is_empty(), "something is left on the full disk");
    full.remount("ro");
    check(Ranks::Alone, &full.folder, &["Read-only", "/full"]);
}

#[test]
fn wrong_flags() {
    let outcome = alone(&["doctor", "--comm", "pigeon"]);
    check_message("--comm pigeon", &outcome, 2, &["pigeon", "mpi"]);
    let outcome = Running::start(command(Ranks::Mpi(2), &["doctor", "--large-message"])).finish();
    check_message("--large-message", &outcome, 2, &["--large-message"]);
}
