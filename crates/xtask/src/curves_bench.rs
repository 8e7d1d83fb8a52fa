//! `cargo xtask bench curves`: the demo's training curve with packed rows, and in bfloat16 with ΔW kept apart or merged, beside
//! float32's with padded rows.
//!
//! Once at the demo's learning rate and once at the official one, whose first updates lie far below what bfloat16 resolves.

use std::path::Path;
use std::process::Command;

use crate::measure::number;
use crate::shell::{Failure, Outcome, run_quietly, say, show};

/// Learning rates: the demo's own, and the official default.
const RATES: [&[&str]; 2] = [&[], &["--learning-rate", "2e-4"]];

const VARIANTS: [(&str, &[&str]); 4] = [
    ("float32, padded", &[]),
    ("float32, packed", &["--packing"]),
    ("bfloat16, ΔW apart", &["--dtype", "bfloat16"]),
    ("bfloat16, ΔW merged", &["--dtype", "bfloat16", "--merge-delta"]),
];

/// A run's steps and its θ.
struct Curve {
    losses: Vec<f64>,
    /// Seconds of all steps but the first, which warms up.
    seconds: f64,
    theta: Vec<f32>,
}

/// Runs the benchmark with the binary `program`.
pub fn run(root: &Path, program: &Path) -> Outcome {
    let folder = std::env::temp_dir().join(format!("gpart-bench-curves-{}", std::process::id()));
    let result = in_folder(root, program, &folder);
    let _ = std::fs::remove_dir_all(&folder);
    result
}

fn in_folder(root: &Path, program: &Path, folder: &Path) -> Outcome {
    std::fs::create_dir_all(folder).map_err(|e| Failure::new(format!("{}: {e}", folder.display())))?;
    for (number, rate) in RATES.iter().enumerate() {
        let mut curves = Vec::new();
        for (at, (name, flags)) in VARIANTS.iter().enumerate() {
            let output = folder.join(format!("{number}-{at}"));
            let mut command = Command::new(program);
            command.current_dir(root).args(["metamath", "--preset", "demo", "--device", "cpu", "--output"]);
            command.arg(&output).args(*rate).args(*flags);
            run_quietly(&mut command)?;
            let curve = read(&output)?;
            say("run", format!("{name}: {:.4} nats at the end, {:.1} s", end(&curve), curve.seconds));
            curves.push(curve);
        }
        let rate = if rate.is_empty() { "the demo's own" } else { rate[1] };
        show(format_args!("{}", table(rate, &curves)));
    }
    Ok(())
}

fn end(curve: &Curve) -> f64 {
    curve.losses.last().copied().unwrap_or(f64::NAN)
}

fn read(output: &Path) -> Outcome<Curve> {
    let failed =
        |path: &Path, what: &dyn std::fmt::Display| Failure::new(format!("{}: {what}", path.display()));
    let metrics = output.join("metrics.jsonl");
    let text = std::fs::read_to_string(&metrics).map_err(|error| failed(&metrics, &error))?;
    let losses: Vec<f64> = text.lines().filter_map(|line| number(line, "loss")).collect();
    let seconds = text.lines().skip(1).filter_map(|line| number(line, "step_seconds")).sum();
    let adapter = output.join("adapter_model.safetensors");
    let bytes = std::fs::read(&adapter).map_err(|error| failed(&adapter, &error))?;
    let theta = theta(&bytes).ok_or_else(|| failed(&adapter, &"not one tensor of float32"))?;
    if losses.is_empty() {
        return Err(failed(&metrics, &"no losses"));
    }
    Ok(Curve { losses, seconds, theta })
}

/// The numbers of a safetensors file with one float32 tensor: header length (u64), header, numbers.
fn theta(bytes: &[u8]) -> Option<Vec<f32>> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let numbers = rest.get(usize::try_from(u64::from_le_bytes(*length)).ok()?..)?;
    let (numbers, left) = numbers.as_chunks::<4>();
    left.is_empty().then(|| numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn table(rate: &str, curves: &[Curve]) -> String {
    let base = &curves[0];
    let mut text = format!(
        "\nthe demo, learning rate {rate}: {} steps, beside {}\n\n{:<22}{:>14}{:>14}{:>14}{:>10}\n",
        base.losses.len(),
        VARIANTS[0].0,
        "",
        "largest, nats",
        "mean, nats",
        "θ, relative",
        "time"
    );
    for ((name, _), curve) in VARIANTS.iter().zip(curves) {
        let differences: Vec<f64> =
            curve.losses.iter().zip(&base.losses).map(|(a, b)| (a - b).abs()).collect();
        let largest = differences.iter().copied().fold(0.0, f64::max);
        let mean = differences.iter().sum::<f64>() / differences.len().max(1) as f64;
        text += &format!(
            "{name:<22}{largest:>14.1e}{mean:>14.1e}{:>14.1e}{:>10.2}\n",
            relative(&curve.theta, &base.theta),
            curve.seconds / base.seconds
        );
    }
    text
}

/// ‖a − b‖ / ‖b‖.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let off: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    (off / b.iter().map(|b| square(f64::from(*b))).sum::<f64>()).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_theta_are_read() {
        let line = r#"{"step":2,"loss":1.5,"step_seconds":0.25}"#;
        assert_eq!((number(line, "loss"), number(line, "step_seconds")), (Some(1.5), Some(0.25)));
        let file =
            [&2_u64.to_le_bytes()[..], b"{}", &1.0_f32.to_le_bytes(), &(-2.0_f32).to_le_bytes()].concat();
        assert_eq!(theta(&file), Some(vec![1.0, -2.0]));
        assert_eq!(theta(&file[..file.len() - 1]), None);
        assert_eq!(theta(b"short"), None);
    }

    #[test]
    fn a_curve_beside_itself_differs_in_nothing() {
        let curve = |loss| Curve { losses: vec![2.0, loss], seconds: 2.0, theta: vec![3.0, 4.0] };
        let text = table("1", &[curve(1.0), curve(1.25)]);
        let words =
            |line: usize| text.lines().nth(line).unwrap_or_default().split_whitespace().skip(2).collect();
        let (first, second): (Vec<&str>, Vec<&str>) = (words(4), words(5));
        assert_eq!(first, ["0.0e0", "0.0e0", "0.0e0", "1.00"]);
        assert_eq!(second, ["2.5e-1", "1.2e-1", "0.0e0", "1.00"]);
    }
}
