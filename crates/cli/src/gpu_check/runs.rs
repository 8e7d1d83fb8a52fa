//! What a run left: its steps and its θ.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Context, Device};

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Step {
    pub step: u64,
    pub loss: f64,
    pub grad_norm: f64,
    pub learning_rate: f64,
    pub num_tokens: f64,
    pub step_seconds: f64,
    pub theta_blake3: String,
}

/// A finished run.
pub struct Run {
    pub folder: PathBuf,
    pub steps: Vec<Step>,
}

impl Run {
    /// Reads what a run has written.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let path = folder.join("metrics.jsonl");
        let at = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|error| at(&error))?;
        let steps: Result<Vec<Step>, _> = text.lines().map(serde_json::from_str).collect();
        let steps = steps.map_err(|error| at(&error))?;
        if steps.is_empty() {
            return Err(at(&"no step was made"));
        }
        Ok(Self { folder: folder.to_owned(), steps })
    }

    /// θ at the end.
    pub fn theta(&self) -> Result<Vec<f32>, String> {
        tensor(&self.folder.join("adapter_model.safetensors"), "base_model.gpart_theta_d")
    }

    /// Tokens a second, the first step aside, which warms up.
    pub fn tokens_per_second(&self) -> f64 {
        let later = self.steps.iter().skip(1);
        let seconds: f64 = later.map(|step| step.step_seconds).sum();
        let counted = self.steps.last().map_or(0.0, |step| step.num_tokens) - self.steps[0].num_tokens;
        counted / seconds.max(1e-9)
    }
}

/// A tensor of float32 numbers of a safetensors file.
pub fn tensor(path: &Path, name: &str) -> Result<Vec<f32>, String> {
    let at = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = std::fs::read(path).map_err(|error| at(&error))?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes).map_err(|error| at(&error))?;
    let tensor = tensors.tensor(name).map_err(|error| at(&error))?;
    if tensor.dtype() != safetensors::Dtype::F32 {
        return Err(at(&format!("{name} is {:?}, not F32", tensor.dtype())));
    }
    let number = |bytes: &[u8]| bytes.try_into().map_or(f32::NAN, f32::from_le_bytes);
    Ok(tensor.data().chunks_exact(4).map(number).collect())
}

/// ‖a − b‖ / ‖b‖, and infinity where the lengths differ.
pub fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    error / norm(&mut b.iter().map(|b| f64::from(*b)))
}

/// The first step at which two runs differ: in θ, or by being there.
pub fn first_difference(found: &[Step], expected: &[Step]) -> Option<String> {
    let differs = found.iter().zip(expected).find(|(a, b)| a.theta_blake3 != b.theta_blake3);
    if let Some((a, b)) = differs {
        return Some(format!(
            "θ after step {} is {} and not {} (loss {} and {})",
            a.step,
            &a.theta_blake3[..a.theta_blake3.len().min(16)],
            &b.theta_blake3[..b.theta_blake3.len().min(16)],
            a.loss,
            b.loss
        ));
    }
    (found.len() != expected.len()).then(|| format!("{} steps and not {}", found.len(), expected.len()))
}

impl Context {
    /// Trains in a new folder below `runs` with these flags, on the device that is checked.
    ///
    /// # Errors
    /// The run fails, or leaves nothing to read.
    pub fn train(&self, name: &str, ranks: usize, flags: &[&str]) -> Result<Run, String> {
        let (folder, args) = self.training(name, flags);
        self.children.succeed(name, ranks, &args)?;
        Run::read(&folder)
    }

    /// The same, unless an earlier check has made that run. One that failed is made again, and fails in its own words.
    pub fn train_once(&self, name: &str, flags: &[&str]) -> Result<Run, String> {
        let (folder, _) = self.training(name, flags);
        // Written last.
        if folder.join("adapter_model.safetensors").is_file() {
            return Run::read(&folder);
        }
        self.train(name, 1, flags)
    }

    /// Output folder and arguments of [`Context::train`].
    pub fn training(&self, name: &str, flags: &[&str]) -> (PathBuf, Vec<String>) {
        let folder = self.children.runs.join(name.replace([' ', '/'], "-"));
        let mut args = vec!["metamath".to_owned()];
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let output = folder.display().to_string();
        for flag in [
            "--device",
            &self.device.to_string(),
            "--threads",
            "1",
            "--report-to",
            "none",
            "--output",
            &output,
        ] {
            args.push(flag.to_owned());
        }
        (folder, args)
    }

    /// Flags of ranks that are on one device.
    pub fn sharing(&self) -> &'static [&'static str] {
        match self.device {
            // NCCL does not let two ranks have one GPU.
            Device::Cuda => &["--share-gpu", "--comm", "mpi"],
            Device::Auto | Device::Cpu => &["--comm", "mpi"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, theta: &str) -> Step {
        Step {
            step,
            loss: 1.0,
            grad_norm: 1.0,
            learning_rate: 1.0,
            num_tokens: 10.0 * step as f64,
            step_seconds: 0.5,
            theta_blake3: theta.to_owned(),
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        let run = [step(1, "a"), step(2, "b"), step(3, "c")];
        assert_eq!(first_difference(&run, &run), None);
        let other = [step(1, "a"), step(2, "x"), step(3, "y")];
        assert!(first_difference(&other, &run).is_some_and(|text| text.contains("step 2 is x and not b")));
        assert!(first_difference(&run[..2], &run).is_some_and(|text| text == "2 steps and not 3"));
    }

    #[test]
    fn errors_are_relative_to_what_is_expected() {
        assert_eq!(relative_error(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(relative_error(&[0.0, 0.0], &[3.0, 4.0]), 1.0);
        assert_eq!(relative_error(&[1.0], &[1.0, 1.0]), f64::INFINITY);
    }

    #[test]
    fn the_first_step_does_not_count_for_speed() {
        let run = Run { folder: PathBuf::new(), steps: vec![step(1, "a"), step(2, "b"), step(3, "c")] };
        assert_eq!(run.tokens_per_second(), 20.0);
    }
}
