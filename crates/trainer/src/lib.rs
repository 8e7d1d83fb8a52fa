//! The trainer: a run from resolved settings to an adapter, on any number of ranks, the same bits on each.
//!
//! [`run`] reads at one glance: start, then step, record, held-out loss, then finish. It prints nothing; what happens
//! is told to an [`Observer`].

mod agree;
mod artifacts;
mod control;
mod engine;
mod error;
mod event;
mod fingerprint;
mod inputs;
mod kernel_images;
mod kernels;
mod learning_rate;
mod messages;
mod method;
mod model_card;
mod openmp;
mod optimizer;
mod output;
mod overlay;
mod pass;
mod pipeline;
mod planning;
mod probe;
mod recompute;
mod run;
mod samples;
mod start;
mod tensorboard;
mod traffic;
mod weights;

/// The libtorch that this was built against.
pub const LIBTORCH_VERSION: &str = env!("GPART_LIBTORCH_VERSION");

pub use agree::{RankError, agree, same_everywhere};
pub use control::{Control, Phase, StepReport, Uncontrolled, Wishes};
pub use error::TrainError;
pub use event::{Event, Observer, StartInfo, StepMetrics, Summary};
pub use inputs::{Fingerprints, check_settings, linear_modules};
pub use kernel_images::{ImageFolder, nvrtc_folders};
pub use kernels::device_map;
pub use learning_rate::{Decay, LearningRate};
pub use method::{Sources, adapted_space, adapter_config, partition, settings_of};
pub use openmp::executor;
pub use optimizer::{AdamW, AdamWOptions, clip, l2_norm};
pub use overlay::{AdaptedBlock, Buffers, Overlay, ScaledTheta};
pub use pass::{Pass, Update};
pub use planning::{model_facts, training_facts};
pub use probe::{Part, Probe};
pub use recompute::Recompute;
pub use run::{Ending, GpuMemory, Surroundings, earlier_settings, run};
pub use samples::first_rows;
pub use start::degrees;
pub use weights::{FrozenWeights, Resident, Stage};

/// Hash (hex) of a model's configuration and weights: of checkpoints above 256 MiB, of samples of every tensor.
pub fn model_hash(files: &model::CheckpointFiles) -> String {
    fingerprint::model(files, &files.folder().join("config.json"))
}

/// blake3 (hex) of θ's little-endian f32 bytes, as in `metrics.jsonl`.
pub fn theta_hash(theta: &[f32]) -> String {
    fingerprint::theta(theta).to_hex().to_string()
}
