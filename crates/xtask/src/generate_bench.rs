//! `cargo xtask bench generate`: tokens a second of `gpart-dist eval`, beside transformers' `generate` where a Python with
//! transformers is at hand (`GPART_PYTHON`, or `python3`).
//!
//! The same prompts, batches and number of threads, in float32; both count generation with the prompts' passes, without
//! loading. They take turns, round after round.

use std::path::Path;
use std::process::Command;

use crate::measure::median;
use crate::shell::{Failure, Outcome, run_quietly, say, show};

const ROUNDS: usize = 3;
const PEER: &str = include_str!("generate_bench.py");

/// Prompts of the demo's sample for a model.
struct Load {
    name: &'static str,
    /// Below the repository; none: random weights of the training benchmark's shape.
    model: Option<&'static str>,
    problems: usize,
    new_tokens: usize,
    batch: usize,
}

const LOADS: [Load; 6] = [
    Load { batch: 1, ..Load::DEMO },
    Load { batch: 8, ..Load::DEMO },
    Load { batch: 32, ..Load::DEMO },
    Load { batch: 1, problems: 4, ..Load::LARGE },
    Load { batch: 8, problems: 8, ..Load::LARGE },
    Load { batch: 32, problems: 32, ..Load::LARGE },
];

impl Load {
    const DEMO: Self =
        Self { name: "demo", model: Some("configs/demo/model"), problems: 64, new_tokens: 64, batch: 1 };
    const LARGE: Self = Self { name: "110 M", model: None, problems: 32, new_tokens: 32, batch: 1 };

    fn flags(&self) -> [String; 6] {
        let flag = |name: &str, value: usize| [format!("--{name}"), value.to_string()];
        let [a, b] = flag("max-samples", self.problems);
        let [c, d] = flag("max-new-tokens", self.new_tokens);
        let [e, f] = flag("batch-size", self.batch);
        [a, b, c, d, e, f]
    }
}

/// Runs the benchmark with the binary `program`.
pub fn run(root: &Path, program: &Path) -> Outcome {
    let folder = std::env::temp_dir().join(format!("gpart-bench-generate-{}", std::process::id()));
    let result = in_folder(root, program, &folder);
    let _ = std::fs::remove_dir_all(&folder);
    result
}

fn in_folder(root: &Path, program: &Path, folder: &Path) -> Outcome {
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let script = folder.join("peer.py");
    std::fs::write(&script, PEER).map_err(failed)?;
    let large = folder.join("model");
    let mut command = Command::new(program);
    command.current_dir(root).args(["random-model", "--config", "crates/trainer/benches/shape.json"]);
    command.args(["--tokenizer", "configs/demo/model", "--output"]).arg(&large);
    run_quietly(&mut command)?;
    let python = std::env::var("GPART_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut peer = has_transformers(&python);
    if !peer {
        say("peer", format!("{python} has no transformers: name one that has with GPART_PYTHON"));
    }
    let mut version = String::new();
    let mut table = String::from("model   batch   tokens/s   transformers   ratio\n");
    for load in &LOADS {
        let model = load.model.map_or_else(|| large.clone(), |model| root.join(model));
        let (mut own, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            own.push(tokens_per_second(root, program, &model, &folder.join("results.json"), load)?);
            if peer {
                match peer_tokens_per_second(root, &python, &script, &model, load) {
                    Ok((speed, name)) => {
                        theirs.push(speed);
                        version = name;
                    }
                    Err(failure) => {
                        say("peer", failure.message);
                        peer = false;
                    }
                }
            }
            say("round", format!("{} of {ROUNDS}: {} batch {}", round + 1, load.name, load.batch));
        }
        table += &row(load, &own, &theirs);
    }
    show(format_args!(
        "\n{version}\nfloat32, one thread, median of {ROUNDS} rounds; prompts of configs/demo/gsm8k_sample.jsonl\n\n{table}"
    ));
    Ok(())
}

fn has_transformers(python: &str) -> bool {
    let imports = Command::new(python).args(["-c", "import torch, transformers"]).output();
    imports.is_ok_and(|output| output.status.success())
}

fn tokens_per_second(root: &Path, program: &Path, model: &Path, output: &Path, load: &Load) -> Outcome<f64> {
    let _ = std::fs::remove_file(output);
    let mut command = Command::new(program);
    command.current_dir(root).args([
        "eval",
        "--dataset",
        "gsm8k",
        "--data",
        "configs/demo/gsm8k_sample.jsonl",
    ]);
    command.arg("--model").arg(model).arg("--output").arg(output).args(load.flags());
    let said = output_of(&mut command)?;
    // The last word but one of the line `generated  … on 1 rank: 1234 tokens/s`.
    let line = said.lines().find(|line| line.trim_start().starts_with("generated")).unwrap_or_default();
    let number = line.split_whitespace().rev().nth(1).and_then(|word| word.parse().ok());
    number.ok_or_else(|| Failure::new(format!("gpart-dist eval says no speed: {said}")))
}

fn peer_tokens_per_second(
    root: &Path,
    python: &str,
    script: &Path,
    model: &Path,
    load: &Load,
) -> Outcome<(f64, String)> {
    let mut command = Command::new(python);
    command.current_dir(root).arg(script).args(["--data", "configs/demo/gsm8k_sample.jsonl"]);
    command.arg("--model").arg(model).args(load.flags());
    let said = output_of(&mut command)?;
    let line = said.lines().last().unwrap_or_default();
    let after = |key: &str| line.split_once(&format!("\"{key}\": ")).map(|(_, rest)| rest);
    let speed = after("tokens_per_second").and_then(|rest| rest.split([',', '}']).next()?.parse().ok());
    let version = after("version").and_then(|rest| rest.split('"').nth(1)).unwrap_or_default();
    let speed = speed.ok_or_else(|| Failure::new(format!("the peer says no speed: {said}")))?;
    Ok((speed, version.to_owned()))
}

fn output_of(command: &mut Command) -> Outcome<String> {
    let output = command.output().map_err(|error| Failure::new(format!("{command:?}: {error}")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(Failure::new(format!("{command:?}: {}", text(&output.stderr)))),
    }
}

fn row(load: &Load, own: &[f64], theirs: &[f64]) -> String {
    let own = median(own.to_vec());
    let (peer, ratio) = match theirs {
        [] => ("-".to_owned(), "-".to_owned()),
        theirs => {
            let theirs = median(theirs.to_vec());
            (format!("{theirs:.0}"), format!("{:.2}", own / theirs))
        }
    };
    format!("{:<7} {:>5} {own:>10.0} {peer:>14} {ratio:>7}\n", load.name, load.batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_stand_in_a_row() {
        let load = Load { batch: 8, ..Load::DEMO };
        let words = |row: String| row.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            words(row(&load, &[10.0, 30.0, 20.0], &[5.0, 8.0, 9.0])),
            ["demo", "8", "20", "8", "2.50"]
        );
        assert_eq!(words(row(&load, &[10.0], &[])), ["demo", "8", "10", "-", "-"]);
    }
}
