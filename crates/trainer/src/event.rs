//! What a run tells whoever watches it. The trainer itself prints nothing.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Updates done, this one included.
    pub step: u64,
    /// Passes over the data, as a fraction, after this step.
    pub epoch: f64,
    /// Mean loss of the step: nats a label, the official normalisation.
    pub loss: f64,
    /// L2 norm of θ's gradient before clipping.
    pub grad_norm: f64,
    /// Rate of this update.
    pub learning_rate: f64,
    /// Tokens of the run so far, padding not counted.
    pub num_tokens: u64,
    /// Tokens of this step a second.
    pub tokens_per_second: f64,
    /// Seconds of this step.
    pub step_seconds: f64,
    /// blake3 of θ's little-endian f32 bytes after the update.
    pub theta_blake3: String,
}

/// Facts of a run that is about to take its first step.
#[derive(Debug, Clone)]
pub struct StartInfo {
    /// Output folder.
    pub output: PathBuf,
    /// Parameters of the model.
    pub parameters: u64,
    /// Adapted modules.
    pub modules: usize,
    /// Adapted weights.
    pub adapted: u64,
    /// Length of θ.
    pub d: u64,
    /// How the groups are drawn, in a few words.
    pub partition: String,
    /// Smallest and largest group.
    pub group_sizes: (u64, u64),
    /// Rows of training data.
    pub rows: usize,
    /// Tokens of training data.
    pub tokens: u64,
    /// Rows a step.
    pub rows_per_step: usize,
    /// Micro-batches a step.
    pub micro_batches: usize,
    /// Rows a micro-batch.
    pub micro_batch_size: usize,
    /// Ranks, and what joins them.
    pub ranks: usize,
    /// How they are laid out.
    pub mesh: mesh::Degrees,
    /// What carries vectors between ranks, and why.
    pub carried_by: String,
    /// The flags of the cheapest mesh that fits, by the plan, where that is another one.
    pub cheapest_mesh: Option<String>,
    /// Blocks of each pipeline stage.
    pub stages: Vec<std::ops::Range<usize>>,
    /// Name of what joins them.
    pub backend: String,
    /// Threads a rank.
    pub threads: usize,
    /// Compute dtype.
    pub dtype: String,
    /// First step of this start, from 0.
    pub first_step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Passes over the data that these steps come to.
    pub epochs: f64,
}

/// What a finished run came to.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Folder of the adapter.
    pub output: PathBuf,
    /// Bytes of the adapter's files.
    pub adapter_bytes: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Steps made since this start.
    pub steps_now: u64,
    /// Tokens of the run, padding not counted.
    pub num_tokens: u64,
    /// Seconds since this start.
    pub seconds_now: f64,
    /// Loss of the last step.
    pub final_loss: Option<f64>,
    /// Held-out loss with θ = 0, nats a token.
    pub held_out_before: Option<f64>,
    /// Held-out loss now.
    pub held_out_after: Option<f64>,
    /// L2 norm of θ, which is that of ΔW where the map is an isometry.
    pub theta_norm: f64,
    /// The folder's README.md is the run's own.
    #[serde(skip)]
    pub model_card: bool,
}

/// What happens during a run, in order. Only rank 0 tells.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something that takes a while begins.
    Stage(&'static str),
    /// It is this far.
    Progress {
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// Something is off.
    Warning(String),
    /// The first step is next.
    Start(&'a StartInfo),
    /// A step was made.
    Step(&'a StepMetrics),
    /// Held-out loss was measured.
    HeldOut {
        /// Steps done.
        step: u64,
        /// Nats a token.
        loss: f64,
        /// How it was before training.
        before: Option<f64>,
    },
    /// A greedy continuation was made.
    Sample {
        /// Steps done.
        step: u64,
        /// The prompt.
        prompt: &'a str,
        /// Its continuation.
        text: &'a str,
    },
    /// The run stops before its end, since somebody wished it; it can go on from here.
    Stopped {
        /// Steps done.
        step: u64,
        /// Steps of the whole run.
        total: u64,
        /// The output folder.
        output: &'a Path,
    },
    /// State was saved to stay.
    Saved {
        /// Steps done.
        step: u64,
        /// The file.
        path: &'a Path,
    },
}

/// Where events go; called on rank 0 alone, now and then from worker threads.
pub type Observer<'a> = &'a (dyn Fn(Event<'_>) + Sync);
