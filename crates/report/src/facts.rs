//! The lines and facts that a run writes, with everything optional: older and younger versions are read as well.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::run::Numbered;

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Step {
    /// Counted from 1.
    pub step: u64,
    /// Nats a supervised token; none where it was not a number.
    pub loss: Option<f64>,
    /// Norm of θ's gradient before clipping.
    pub grad_norm: Option<f64>,
    /// Learning rate of the step.
    pub learning_rate: Option<f64>,
    /// Tokens since the run began.
    pub num_tokens: Option<u64>,
    /// Tokens of all ranks a second.
    pub tokens_per_second: Option<f64>,
    /// Seconds that the step took.
    pub step_seconds: Option<f64>,
}

/// A line of `held_out.jsonl`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct HeldOut {
    /// After which step; 0 is before the first.
    pub step: u64,
    /// Nats a token.
    pub loss: Option<f64>,
}

impl Numbered for Step {
    fn step(&self) -> u64 {
        self.step
    }
}

impl Numbered for HeldOut {
    fn step(&self) -> u64 {
        self.step
    }
}

/// `run.json`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are those of the file")]
pub struct Facts {
    pub gpart_dist: Option<String>,
    pub libtorch: Option<String>,
    pub communicator: Option<String>,
    pub messages_carried_by: Option<String>,
    pub mesh: Option<Mesh>,
    pub threads: Option<u64>,
    pub model_parameters: Option<u64>,
    pub adapted_modules: Option<u64>,
    pub adapted_weights: Option<u64>,
    pub partition_fingerprint: Option<String>,
    pub rows: Option<u64>,
    pub total_steps: Option<u64>,
    pub traffic: Option<Traffic>,
    pub peak_memory_bytes: Option<Vec<u64>>,
    pub summary: Option<Summary>,
    pub config: Map<String, Value>,
    pub fingerprints: Map<String, Value>,
}

/// The three degrees of parallelism.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of the file")]
pub struct Mesh {
    pub dp_replicate: u64,
    pub dp_shard: u64,
    pub pp: u64,
}

/// What the ranks said to each other since the run's last start.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Steps since the last start.
    pub steps: u64,
    /// By rank.
    pub ranks: Vec<Option<RankTraffic>>,
}

/// One rank's totals.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RankTraffic {
    /// The rank.
    pub rank: u64,
    /// By axis and operation.
    #[serde(default)]
    pub measured: Vec<Measured>,
}

/// One kind of communication of one rank.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Measured {
    /// The mesh's axis.
    pub axis: String,
    /// The operation.
    pub operation: String,
    /// Bytes moved.
    #[serde(default)]
    pub bytes: u64,
    /// Seconds that the computing thread waited.
    #[serde(default)]
    pub waited_seconds: f64,
}

/// What a run writes at its end.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are those of the file")]
pub struct Summary {
    pub adapter_bytes: Option<u64>,
    pub steps: Option<u64>,
    pub num_tokens: Option<u64>,
    pub seconds_now: Option<f64>,
    pub final_loss: Option<f64>,
    pub held_out_before: Option<f64>,
    pub held_out_after: Option<f64>,
}

impl Facts {
    /// A setting that is a text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.config.get(key).and_then(Value::as_str)
    }

    /// The length of θ.
    pub(crate) fn d(&self) -> Option<u64> {
        self.config.get("d").and_then(Value::as_u64)
    }

    /// Whether the settings name data for a held-out loss.
    pub(crate) fn has_held_out_data(&self) -> bool {
        ["eval-data", "validation-split"]
            .iter()
            .any(|key| self.config.get(*key).is_some_and(|value| !value.is_null()))
    }

    /// All settings as texts, in the file's order.
    pub(crate) fn settings(&self) -> impl Iterator<Item = (&str, String)> {
        self.config.iter().map(|(key, value)| (key.as_str(), setting(value)))
    }
}

/// A setting without a value.
pub(crate) const NOTHING: &str = "–";

/// A setting's value as a person would write it.
pub(crate) fn setting(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(setting).collect::<Vec<_>>().join(", "),
        Value::Number(number) => {
            let text = number.to_string();
            text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
        }
        other => other.to_string(),
    }
}
