//! Whole training runs beside those of the official implementation: loss at every step, θ at the end.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::runs::{Run, Step, relative_error, tensor};
use super::{Context, Found, Numbers, WrongInput};

/// A run of the official implementation.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Below the folder of goldens.
    pub folder: &'static str,
    data: &'static str,
    theta: (&'static str, &'static str),
    /// Made in a quick check as well.
    quick: bool,
}

const OF_DEMO: Case = Case {
    folder: "metamath/train-stateless",
    data: "metamath/train.json",
    theta: ("final_theta.safetensors", "theta"),
    quick: true,
};
const OF_FAMILY: Case = Case {
    folder: "architectures/llama31",
    data: "architectures/train.json",
    theta: ("adapter/adapter_model.safetensors", "base_model.gpart_theta_d"),
    quick: false,
};
const CASES: [Case; 6] = [
    OF_DEMO,
    Case { folder: "metamath/train-materialized", quick: false, ..OF_DEMO },
    OF_FAMILY,
    Case { folder: "architectures/qwen2", quick: true, ..OF_FAMILY },
    Case { folder: "architectures/gemma", ..OF_FAMILY },
    Case { folder: "architectures/mistral", ..OF_FAMILY },
];

/// The runs to compare with.
pub fn cases(quick: bool) -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(move |case| case.quick || !quick)
}

/// The official run that curves are drawn beside.
pub fn demo() -> &'static Case {
    &CASES[0]
}

/// `log.json` of an official run.
#[derive(Debug, Deserialize)]
pub struct Log {
    dropout: f64,
    max_seq_length: u64,
    rows: Option<u64>,
    gpart: Gpart,
    train: Train,
    tolerance: Tolerance,
    pub steps: Vec<OfficialStep>,
}

#[derive(Debug, Deserialize)]
struct Gpart {
    d: u64,
    proj_seed: u64,
    assignment_backend: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Train {
    per_device_train_batch_size: u64,
    gradient_accumulation_steps: u64,
    // As they were written: a detour through a number could change the last bit.
    num_train_epochs: Value,
    learning_rate: Value,
    lr_scheduler_type: String,
    warmup_ratio: Value,
    weight_decay: Value,
    max_grad_norm: Value,
}

#[derive(Debug, Deserialize)]
struct Tolerance {
    loss_abs: f64,
    final_theta_rel_l2: f64,
}

/// A step of an official run.
#[derive(Debug, Deserialize)]
pub struct OfficialStep {
    pub step: u64,
    pub loss: f64,
    grad_norm: f64,
}

/// The folder of official runs, and the demo model that two of them are of.
pub struct Goldens {
    pub folder: PathBuf,
    pub model: PathBuf,
}

impl Goldens {
    /// Finds them and reads every log.
    ///
    /// # Errors
    /// Something is missing or cannot be read.
    pub fn find(named: Option<&Path>) -> Result<Self, WrongInput> {
        let folder = match named {
            Some(folder) => folder.to_owned(),
            None => beside_or_above("tests/golden").unwrap_or_else(|| PathBuf::from("tests/golden")),
        };
        if !folder.is_dir() {
            return Err(WrongInput::Goldens { path: folder, reason: "there is no such folder".to_owned() });
        }
        let folder = folder.canonicalize().unwrap_or(folder);
        let model = folder.join("../../configs/demo/model");
        let model = if model.is_dir() { Some(model) } else { beside_or_above("configs/demo/model") };
        let missing = || WrongInput::Goldens {
            path: "configs/demo/model".into(),
            reason:
                "the demo model, which golden runs are of, is not here, beside --goldens or above the binary"
                    .to_owned(),
        };
        let model = model.and_then(|model| model.canonicalize().ok()).ok_or_else(missing)?;
        let goldens = Self { folder, model };
        for case in &CASES {
            goldens.log(case)?;
            for needed in [goldens.data(case), goldens.theta(case)] {
                if !needed.is_file() {
                    return Err(WrongInput::Goldens { path: needed, reason: "it is missing".to_owned() });
                }
            }
        }
        Ok(goldens)
    }

    /// The log of a run.
    pub fn log(&self, case: &Case) -> Result<Log, WrongInput> {
        let path = self.folder.join(case.folder).join("log.json");
        let text = std::fs::read_to_string(&path).map_err(|error| error.to_string());
        let log = text.and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
        log.map_err(|reason| WrongInput::Goldens { path, reason })
    }

    /// The rows that a run is trained on.
    pub fn data(&self, case: &Case) -> PathBuf {
        self.folder.join(case.data)
    }

    fn theta(&self, case: &Case) -> PathBuf {
        self.folder.join(case.folder).join(case.theta.0)
    }

    fn model_of(&self, case: &Case) -> PathBuf {
        if case.folder.starts_with("metamath") {
            self.model.clone()
        } else {
            self.folder.join(case.folder).join("base")
        }
    }

    /// Flags of the training that an official log is of.
    pub fn flags(&self, case: &Case, log: &Log) -> Vec<String> {
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let Log { dropout, max_seq_length, rows, gpart, train, .. } = log;
        let mut flags = vec!["--no-shuffle".to_owned()];
        let mut add = |flag: &str, value: String| flags.extend([flag.to_owned(), value]);
        add("--model", self.model_of(case).display().to_string());
        add("--data", self.data(case).display().to_string());
        add("--dropout", dropout.to_string());
        add("--max-seq-length", max_seq_length.to_string());
        add("--d", gpart.d.to_string());
        add("--proj-seed", gpart.proj_seed.to_string());
        add("--micro-batch-size", train.per_device_train_batch_size.to_string());
        add("--accumulation-steps", train.gradient_accumulation_steps.to_string());
        add("--num-train-epochs", plain(&train.num_train_epochs));
        add("--learning-rate", plain(&train.learning_rate));
        add("--lr-scheduler-type", train.lr_scheduler_type.clone());
        add("--warmup-ratio", plain(&train.warmup_ratio));
        add("--weight-decay", plain(&train.weight_decay));
        add("--max-grad-norm", plain(&train.max_grad_norm));
        if let Some(backend) = &gpart.assignment_backend {
            add("--assignment-backend", backend.clone());
        }
        if let Some(rows) = rows {
            add("--max-samples", rows.to_string());
        }
        flags
    }
}

/// A path here, or beside or above the binary.
fn beside_or_above(path: &str) -> Option<PathBuf> {
    let binary = std::env::current_exe().ok();
    let above =
        binary.iter().flat_map(|binary| binary.ancestors().skip(1).take(4)).map(|folder| folder.join(path));
    std::iter::once(PathBuf::from(path)).chain(above).find(|path| path.is_dir())
}

/// What the run of a case in float32 is called.
pub fn run_name(case: &Case) -> String {
    format!("golden {}", case.folder)
}

/// Trains as the official run was trained, in float32, and compares.
pub fn check(context: &Context, case: &Case, numbers: &mut Numbers) -> Found {
    let log = context.goldens.log(case).map_err(|error| error.to_string())?;
    let mut flags = context.goldens.flags(case, &log);
    flags.extend(["--dtype".to_owned(), "float32".to_owned()]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let run = context.train(&run_name(case), 1, &flags)?;
    let expected = tensor(&context.goldens.theta(case), case.theta.1)?;
    let theta = relative_error(&run.theta()?, &expected);
    let loss = largest(&run.steps, &log.steps, |ours, official| ours.loss - official.loss);
    let grad_norm = largest(&run.steps, &log.steps, |ours, official| ours.grad_norm - official.grad_norm);
    numbers.insert("steps".into(), json!(run.steps.len()));
    numbers.insert("loss_difference".into(), json!(loss));
    numbers.insert("loss_tolerance".into(), json!(log.tolerance.loss_abs));
    numbers.insert("theta_difference".into(), json!(theta));
    numbers.insert("theta_tolerance".into(), json!(log.tolerance.final_theta_rel_l2));
    numbers.insert("grad_norm_difference".into(), json!(grad_norm));
    numbers.insert("tokens_per_second".into(), json!(run.tokens_per_second()));
    let wrong = wrong(&run, &log, theta);
    if let Some(first) = wrong.first() {
        let more = if wrong.len() > 1 { format!("; and {} more", wrong.len() - 1) } else { String::new() };
        return Err(format!("{first}{more}").into());
    }
    Ok(format!(
        "loss within {loss:.1e} of the official run's at all {} steps, final θ within {theta:.1e}",
        run.steps.len()
    ))
}

fn largest(
    ours: &[Step],
    official: &[OfficialStep],
    difference: impl Fn(&Step, &OfficialStep) -> f64,
) -> f64 {
    ours.iter().zip(official).map(|(ours, official)| difference(ours, official).abs()).fold(0.0, f64::max)
}

/// Everything that is not within the official tolerances.
fn wrong(run: &Run, log: &Log, theta: f64) -> Vec<String> {
    let tolerance = log.tolerance.loss_abs;
    let mut wrong = Vec::new();
    if run.steps.len() != log.steps.len() {
        wrong.push(format!("{} steps, and the official run has {}", run.steps.len(), log.steps.len()));
    }
    for (ours, official) in run.steps.iter().zip(&log.steps) {
        let difference = (ours.loss - official.loss).abs();
        if !within(difference, tolerance) {
            wrong.push(format!(
                "step {}: loss {} is off by {difference:.2e} from the official {} (allowed: {tolerance})",
                official.step, ours.loss, official.loss
            ));
        }
    }
    if !within(theta, log.tolerance.final_theta_rel_l2) {
        let allowed = log.tolerance.final_theta_rel_l2;
        wrong.push(format!("final θ is off by {theta:.2e} of its norm (allowed: {allowed})"));
    }
    wrong
}

/// Whether a difference is allowed. What is not a number is not.
fn within(difference: f64, tolerance: f64) -> bool {
    difference <= tolerance
}
