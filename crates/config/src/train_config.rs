//! The resolved settings as plain typed values.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::choices::{
    AdapterType, AssignmentBackend, Bias, Comm, Device, Dtype, GroupingStrategy, LogLevel, LrScheduler,
    PartitionScope, Progress, ReportTo, Resume, Task, TrainOn,
};
use crate::{run_name, value};

/// Settings of a run, checked. Written to `run.json` under the keys' names; what each one means is the help of
/// the key of that name in [`sections`](crate::sections).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the table of keys documents each field once, for the help as well")]
pub struct TrainConfig {
    pub task: Task,
    /// Path or hub id; relative to the working folder even where a settings file named it.
    pub model: String,
    /// `model` as it was typed: part of the run's name.
    pub model_name: String,
    pub revision: Option<String>,
    pub eos_token: Option<String>,
    pub adapter_type: AdapterType,
    pub d: usize,
    pub dropout: f64,
    pub init_bound: f64,
    #[serde(with = "wide_int")]
    pub proj_seed: i128,
    pub isometric: bool,
    pub assignment_backend: AssignmentBackend,
    pub grouping_strategy: GroupingStrategy,
    pub partition_scope: PartitionScope,
    /// As given; the order has no meaning. See [`TrainConfig::targets`].
    pub target_modules: Vec<String>,
    pub layers_to_transform: Option<Vec<u64>>,
    pub layers_pattern: Option<Vec<String>>,
    pub bias: Bias,
    pub init_adapter: Option<PathBuf>,

    /// Path or hub id; relative to the working folder even where a settings file named it.
    pub data: String,
    pub query_field: String,
    pub response_field: String,
    /// None: by the rows.
    pub template: Option<String>,
    pub train_on: TrainOn,
    /// Below 1 a share of the rows, from 1 on a number of rows.
    pub validation_split: Option<f64>,
    pub show_samples: Option<usize>,
    pub max_samples: Option<usize>,
    pub max_seq_length: usize,
    pub use_system_prompt: bool,
    pub no_shuffle: bool,
    pub dataset_num_proc: usize,
    pub dataloader_num_workers: Option<usize>,

    pub epochs: f64,
    pub max_steps: Option<usize>,
    pub micro_batch_size: usize,
    pub accumulation_steps: usize,
    pub learning_rate: f64,
    pub lr_scheduler_type: LrScheduler,
    /// Below 1 a share of the steps, from 1 on a number of steps (its whole part).
    pub warmup_ratio: f64,
    pub weight_decay: f64,
    /// 0 = no clipping.
    pub max_grad_norm: f64,
    pub seed: u64,
    pub dtype: Dtype,
    pub gradient_checkpointing: bool,
    /// GiB; none: every graph is kept, or none.
    #[serde(default)]
    pub activation_memory: Option<f64>,
    #[serde(default)]
    pub merge_delta: bool,
    #[serde(default)]
    pub packing: bool,
    /// Tokens; 0 = all at once.
    pub cross_entropy_chunk: usize,

    pub eval_data: Option<PathBuf>,
    pub eval_steps: Option<usize>,
    pub eval_batch_size: usize,
    pub sample_prompt: Option<String>,
    pub sample_tokens: usize,

    /// None: see [`TrainConfig::output_dir`].
    pub output: Option<PathBuf>,
    pub output_root_dir: PathBuf,
    pub output_dir_file: Option<PathBuf>,
    pub resume: Resume,
    pub save_steps: usize,
    pub save_total_limit: usize,
    /// Runs that were started before there was this setting have it, too.
    #[serde(default = "two")]
    pub checkpoint_window: usize,
    pub logging_steps: usize,
    pub report_to: ReportTo,
    pub progress: Progress,
    pub log_level: LogLevel,

    /// Settled before anything is computed; `Auto` until then, and in runs that were started before there was a choice.
    pub device: Device,
    /// Likewise on for them.
    #[serde(default = "yes")]
    pub deterministic: bool,
    #[serde(default)]
    pub tf32: bool,
    pub comm: Comm,
    #[serde(default)]
    pub share_gpu: bool,
    /// None: what the other axes leave.
    pub dp_replicate: Option<usize>,
    /// None: what the other axes leave.
    pub dp_shard: Option<usize>,
    pub pp: usize,
    /// Runs that were started before there was this setting have it on.
    #[serde(default = "yes")]
    pub prefetch: bool,
    /// Likewise.
    #[serde(default = "yes")]
    pub pp_ahead: bool,
    #[serde(default = "yes")]
    pub control: bool,
    #[serde(default)]
    pub metrics_listen: Option<String>,
    pub memory_check: bool,
    pub threads: usize,
}

fn two() -> usize {
    2
}

fn yes() -> bool {
    true
}

impl TrainConfig {
    /// Rows a full step: micro-batch size × accumulation steps.
    pub fn global_batch_size(&self) -> usize {
        self.micro_batch_size.saturating_mul(self.accumulation_steps)
    }

    /// `activation_memory` in bytes.
    pub fn activation_bytes(&self) -> Option<u64> {
        // A cast from f64 saturates.
        self.activation_memory.map(|gib| (gib * f64::from(1 << 30)) as u64)
    }

    /// A file says how rows become text.
    pub fn has_template_file(&self) -> bool {
        self.template.as_deref().is_some_and(|template| !["official", "chat"].contains(&template))
    }

    /// Which modules `target_modules` means.
    pub fn targets(&self) -> TargetModules<'_> {
        match self.target_modules.as_slice() {
            [one] if one == value::ALL_LINEAR => TargetModules::AllLinear,
            [one] if one.starts_with(value::REGEX) => TargetModules::Regex(&one[value::REGEX.len()..]),
            names => TargetModules::Names(names),
        }
    }

    /// The output folder: `--output`, else a folder named after the run in `--output-root-dir`.
    pub fn output_dir(&self) -> PathBuf {
        let named = || Path::new(&self.output_root_dir).join(run_name(self));
        self.output.clone().unwrap_or_else(named)
    }
}

/// Target modules as written: names, one regular expression, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetModules<'a> {
    /// Names, whole or trailing components.
    Names(&'a [String]),
    /// A regular expression over full names.
    Regex(&'a str),
    /// Every linear module of the blocks.
    AllLinear,
}

/// A seed of up to 128 bits: a JSON number where it fits in 64 bits, else text, which no JSON reader rounds.
mod wide_int {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Signed(i64),
        Unsigned(u64),
        Text(String),
    }

    pub fn serialize<S: Serializer>(value: &i128, serializer: S) -> Result<S::Ok, S::Error> {
        match i64::try_from(*value) {
            Ok(narrow) => serializer.serialize_i64(narrow),
            Err(_) => serializer.serialize_str(&value.to_string()),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Signed(value) => Ok(value.into()),
            Written::Unsigned(value) => Ok(value.into()),
            Written::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}
