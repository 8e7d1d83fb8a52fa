//! `cargo xtask bench mesh`: the time of a step on two ranks, by axis, beside one rank's.
//!
//! The same rows, the same step of eight micro-batches, one thread a rank. All variants take turns, round after round, so
//! that ratios are of one run; efficiency is the time on one rank over twice the time on two.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::measure::{median, number};
use crate::setup::Machine;
use crate::shell::{Failure, Outcome, display, run_quietly, say, show};

const ROUNDS: usize = 3;
/// Steps of a run; the first one warms up and does not count.
const STEPS: usize = 3;

struct Variant {
    name: &'static str,
    ranks: &'static str,
    flags: &'static [&'static str],
}

const VARIANTS: [Variant; 4] = [
    Variant { name: "1 rank", ranks: "1", flags: &[] },
    Variant { name: "dp-replicate 2", ranks: "2", flags: &["--dp-replicate", "2"] },
    Variant { name: "dp-shard 2", ranks: "2", flags: &["--dp-shard", "2"] },
    Variant { name: "pp 2", ranks: "2", flags: &["--pp", "2"] },
];

/// Runs the benchmark with the binary `program`.
pub fn run(root: &Path, machine: &Machine, program: &Path) -> Outcome {
    if !machine.has_mpirun {
        return Err(Failure::new("mpirun is not on PATH"));
    }
    let folder = std::env::temp_dir().join(format!("gpart-bench-mesh-{}", std::process::id()));
    let result = in_folder(root, program, &folder);
    let _ = std::fs::remove_dir_all(&folder);
    result
}

fn in_folder(root: &Path, program: &Path, folder: &Path) -> Outcome {
    std::fs::create_dir_all(folder).map_err(|e| Failure::new(format!("{}: {e}", folder.display())))?;
    let model = folder.join("model");
    let mut command = Command::new(program);
    command.current_dir(root).args(["random-model", "--config", "crates/trainer/benches/shape.json"]);
    command.args(["--tokenizer", "configs/demo/model", "--output"]).arg(&model);
    say("running", display(&command));
    run_quietly(&mut command)?;
    for recompute in [false, true] {
        let mut times = vec![Vec::new(); VARIANTS.len()];
        for round in 0..ROUNDS {
            for (variant, times) in VARIANTS.iter().zip(&mut times) {
                let output = folder.join("run");
                let seconds = steps_of(root, program, &model, &output, variant, recompute)?;
                say("round", format!("{} of {ROUNDS}: {} {seconds:.2} s a step", round + 1, variant.name));
                times.push(seconds);
            }
        }
        show(format_args!("{}", table(&times, recompute)));
    }
    Ok(())
}

/// Seconds of a step, the mean of all but the first.
fn steps_of(
    root: &Path,
    program: &Path,
    model: &Path,
    output: &PathBuf,
    variant: &Variant,
    recompute: bool,
) -> Outcome<f64> {
    let mut command = Command::new("mpirun");
    command.current_dir(root).args(["--oversubscribe", "-n", variant.ranks]).arg(program);
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.args(["metamath", "--data", "configs/demo/train.json", "--max-seq-length", "128"]);
    command.args(["--micro-batch-size", "1", "--accumulation-steps", "8", "--d", "65536"]);
    command.args(["--max-steps", &STEPS.to_string(), "--save-steps", "1000", "--report-to", "none"]);
    command.arg("--model").arg(model).arg("--output").arg(output).args(variant.flags);
    if recompute {
        command.arg("--gradient-checkpointing");
    }
    run_quietly(&mut command)?;
    let path = output.join("metrics.jsonl");
    let text =
        std::fs::read_to_string(&path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
    let _ = std::fs::remove_dir_all(output);
    let seconds: Vec<f64> = text.lines().skip(1).filter_map(step_seconds).collect();
    match seconds.len() {
        count if count + 1 == STEPS => Ok(seconds.iter().sum::<f64>() / count as f64),
        count => Err(Failure::new(format!("{} has {count} steps after the first", path.display()))),
    }
}

fn step_seconds(line: &str) -> Option<f64> {
    number(line, "step_seconds")
}

fn table(times: &[Vec<f64>], recompute: bool) -> String {
    let how = if recompute { "with --gradient-checkpointing" } else { "without recompute" };
    let mut text = format!(
        "\n8 micro-batches of 1 row of up to 128 tokens, 110 million parameters, float32, 1 thread a rank, {how}\n\
         median of {ROUNDS} rounds\n\nvariant          s a step  efficiency\n"
    );
    for (variant, own) in VARIANTS.iter().zip(times) {
        let ranks: f64 = variant.ranks.parse().unwrap_or(1.0);
        let efficiency = own.iter().zip(&times[0]).map(|(own, one)| one / (ranks * own)).collect();
        text += &format!("{:<16} {:>8.2} {:>11.2}\n", variant.name, median(own.clone()), median(efficiency));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_s_time_is_read() {
        assert_eq!(step_seconds(r#"{"step":2,"step_seconds":1.25,"theta_blake3":"a"}"#), Some(1.25));
        assert_eq!(step_seconds(r#"{"step_seconds":0.5}"#), Some(0.5));
        assert_eq!(step_seconds("{}"), None);
    }

    #[test]
    fn half_the_time_on_two_ranks_is_full_efficiency() {
        let text = table(&[vec![2.0; 3], vec![1.0; 3], vec![2.0; 3], vec![4.0; 3]], true);
        let efficiency = |line: usize| text.lines().nth(line).and_then(|l| l.split_whitespace().last());
        assert_eq!([5, 6, 7, 8].map(efficiency), [Some("1.00"), Some("1.00"), Some("0.50"), Some("0.25")]);
    }
}
