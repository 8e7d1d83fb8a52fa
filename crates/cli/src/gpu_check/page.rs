//! The report as files: `report.json` for programs, `report.md` for people.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use super::{Checked, Report, Verdict, WrongInput};
use crate::format::{counted, seconds};

/// A verdict in a word.
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::NotRun => "not run",
    }
}

/// The outcome in a line.
pub fn verdict(report: &Report) -> String {
    let Some(device) = report.device else {
        return "NO GPU: nothing was checked".to_owned();
    };
    let not_run = if report.not_run > 0 { format!(", {} not run", report.not_run) } else { String::new() };
    format!(
        "{} on {}: {} passed, {} failed{not_run}, in {}",
        if report.failed == 0 { "PASSED" } else { "FAILED" },
        device,
        report.passed,
        report.failed,
        seconds(report.seconds)
    )
}

/// Writes both files.
///
/// # Errors
/// The disk is full, or the folder is gone.
pub fn write(report: &Report, folder: &Path) -> Result<(), WrongInput> {
    let json = serde_json::to_string_pretty(report).unwrap_or_default() + "\n";
    for (name, text) in [("report.json", json), ("report.md", page(report))] {
        let path = folder.join(name);
        std::fs::write(&path, text)
            .map_err(|error| WrongInput::Report { path, reason: error.to_string() })?;
    }
    Ok(())
}

fn page(report: &Report) -> String {
    let mut page = format!("# gpart-dist gpu-check\n\n**{}**\n\n", verdict(report));
    machine(report, &mut page);
    // Writing to a string cannot fail.
    let _ = write!(page, "\n## Checks\n\n| check | result | time | found |\n|---|---|---:|---|\n");
    for Checked { name, result, seconds: time, says, .. } in &report.checks {
        let _ =
            writeln!(page, "| {} | {} | {} | {} |", cell(name), word(*result), seconds(*time), cell(says));
    }
    let curve =
        report.checks.iter().any(|check| check.name.starts_with("curve") && check.result != Verdict::NotRun);
    if curve {
        page += "\n![loss in bfloat16 and float32 beside the official run](curve.svg)\n";
    }
    page += "\n## Numbers\n\nDifferences of losses are in nats a token, those of θ relative to its norm.\n\n";
    for check in report.checks.iter().filter(|check| !check.numbers.is_empty()) {
        let _ = writeln!(page, "- **{}**", check.name);
        for (name, value) in &check.numbers {
            let _ = writeln!(page, "  - {}: {}", name.replace('_', " "), number(value));
        }
    }
    page += "\nThe commands, with all that they said, are in `logs/`; everything above for programs is in `report.json`.\n";
    page
}

fn machine(report: &Report, page: &mut String) {
    let (machine, facts) = (&report.machine, report.machine.facts());
    let path = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map_or_else(|| "not found".to_owned(), |path| format!("`{}`", path.display()))
    };
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let none = || "none".to_owned();
    let gpus = machine.gpus();
    let cores = facts["cores"].as_u64().unwrap_or(0);
    let rows = [
        ("device", report.device.map_or_else(|| "none".to_owned(), |device| device.to_string())),
        ("asked for", format!("{}{}", report.asked, if report.quick { ", quick" } else { "" })),
        ("GPUs", if gpus.is_empty() { none() } else { gpus.join("; ") }),
        ("driver", machine.driver().unwrap_or_else(none)),
        ("CUDA visible", facts["accelerators"]["visible"].as_str().unwrap_or("all").to_owned()),
        ("NCCL", machine.nccl().unwrap_or_else(none)),
        ("gpart-dist", report.gpart_dist.to_owned()),
        (
            "libtorch",
            format!("{} in {}", text(&facts["versions"]["libtorch"]), path(&machine.libtorch_folder)),
        ),
        ("libtorch_cuda", path(&machine.libtorch_cuda)),
        ("NVRTC", path(&machine.nvrtc)),
        ("MPI", text(&facts["versions"]["mpi"])),
        ("processor", format!("{}, {}", text(&facts["processor"]), counted(cores, "core"))),
        ("system", format!("{}, {}", text(&facts["versions"]["system"]), text(&facts["versions"]["kernel"]))),
    ];
    *page += "| machine | |\n|---|---|\n";
    for (name, value) in rows {
        let _ = writeln!(page, "| {name} | {} |", cell(&value));
    }
    for (what, hint) in machine.missing() {
        let _ = writeln!(page, "| missing | {} ({}) |", cell(&what), cell(&hint));
    }
}

/// A text that stays in its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// A number short enough to read; long lists and tables are in the JSON.
fn number(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            if number == 0.0 || (1e-3..1e6).contains(&number.abs()) {
                let text = format!("{number:.4}");
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            } else {
                format!("{number:.2e}")
            }
        }
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(number).collect::<Vec<String>>().join(" "),
        Value::Object(_) => "a table, in report.json".to_owned(),
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_read_well() {
        for (value, expect) in [
            (json!(9.0e-7), "9.00e-7"),
            (json!(0.0), "0"),
            (json!(1.25), "1.25"),
            (json!(3), "3"),
            (json!([2, 28, 9]), "2 28 9"),
            (json!(null), "none"),
        ] {
            assert_eq!(number(&value), expect);
        }
        assert_eq!(cell("a|b\nc"), "a\\|b c");
    }
}
