//! The closed sets: settings with a fixed list of values. The names are the official ones where there are any.

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde::{Deserialize, Serialize};

/// The values of a closed set, with their aliases, in order of declaration.
pub(crate) fn values_of<E: ValueEnum>() -> Vec<PossibleValue> {
    E::value_variants().iter().filter_map(ValueEnum::to_possible_value).collect()
}

/// A closed set whose name on the command line, in files and in `run.json` is the variant in snake case.
macro_rules! closed_set {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
        #[value(rename_all = "snake_case")]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_meta])* $variant),+ }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
            }
        }
    };
}

closed_set! {
    /// Map from θ to the weights' update.
    AdapterType {
        /// One group of weights a coordinate of θ.
        Gpart,
        /// Known by name only, to say why it is refused.
        #[value(hide = true)]
        Lora,
        /// Known by name only, to say why it is refused.
        #[value(hide = true)]
        Unilora,
    }
}

closed_set! {
    /// How a weight's group is drawn from the seed.
    AssignmentBackend {
        /// SplitMix64 of seed + global index. `implicit_stateless_v1` is its deprecated official name.
        #[value(alias = "implicit_stateless_v1")]
        Stateless,
        /// torch's CPU random stream. `legacy_streaming` is its deprecated official name.
        #[value(alias = "legacy_streaming")]
        Materialized,
    }
}

closed_set! {
    /// What decides which weights share a group.
    GroupingStrategy {
        /// Chance: the assignment backend's numbers.
        Random,
        /// Sign and size of the frozen weights. Needs the materialized backend.
        SignedMagnitude,
    }
}

closed_set! {
    /// What is partitioned as one.
    PartitionScope {
        /// All adapted weights together.
        Global,
        /// Each transformer block by itself, with its own slice of θ.
        TransformerBlock,
    }
}

closed_set! {
    /// Whether biases of adapted modules belong to the partition.
    Bias {
        /// Weights only.
        None,
        /// Weights and biases. (The official code also trains every bias of the model directly, and saves none.)
        All,
        /// The same partition as `all`.
        GpartOnly,
    }
}

closed_set! {
    /// Which tokens of a row are predicted.
    TrainOn {
        /// The responses, or the assistant's turns.
        Responses,
        /// Everything but what opens the row (BOS, the official system prompt).
        All,
    }
}

closed_set! {
    /// The command that the settings are for.
    Task {
        /// MetaMathQA, as the official script trains on it: a preset of `train`.
        Metamath,
        /// Rows of one's own.
        Train,
    }
}

closed_set! {
    /// Shape of the learning rate over the steps.
    LrScheduler {
        /// Half a cosine down to zero after the warm-up.
        Cosine,
        /// A straight line down to zero after the warm-up.
        Linear,
        /// The same rate at every step, without warm-up.
        Constant,
        /// The same rate at every step after the warm-up.
        #[value(alias = "constant-with-warmup")]
        ConstantWithWarmup,
    }
}

closed_set! {
    /// Number format of the model's computation. θ and the optimizer are float32 whatever this is.
    Dtype {
        /// 32-bit floats.
        #[value(aliases = ["f32", "fp32"])]
        Float32,
        /// 16-bit floats with float32's range.
        #[value(alias = "bf16")]
        Bfloat16,
        /// IEEE 16-bit floats.
        #[value(aliases = ["f16", "fp16"])]
        Float16,
    }
}

closed_set! {
    /// Kind of device that computes.
    Device {
        /// A GPU where every rank sees one, the processor otherwise.
        Auto,
        /// The processor.
        Cpu,
        /// An NVIDIA GPU.
        Cuda,
    }
}

closed_set! {
    /// What carries the ranks' messages.
    Comm {
        /// NCCL where every rank computes on a GPU of its own, MPI otherwise.
        Auto,
        /// Between GPUs.
        Nccl,
        /// Between hosts and processes, whatever they compute on.
        Mpi,
    }
}

closed_set! {
    /// What is written besides `metrics.jsonl`.
    ReportTo {
        /// Nothing more.
        None,
        /// TensorBoard event files in the output folder.
        Tensorboard,
    }
}

closed_set! {
    /// How progress is shown.
    Progress {
        /// A bar on a terminal, plain lines elsewhere.
        Auto,
        /// A bar.
        Bar,
        /// Plain lines.
        Plain,
        /// Nothing.
        None,
    }
}

closed_set! {
    /// Least severe message that is logged.
    LogLevel {
        /// Failures only.
        Error,
        /// And what looks wrong.
        Warn,
        /// And what happens.
        Info,
        /// And why.
        Debug,
        /// And every detail.
        Trace,
    }
}

/// What to do with state that is already in the output folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Resume {
    /// Continue the run in the output folder if there is one, else start.
    Auto,
    /// Start anew; refuse a folder that holds a run.
    Never,
    /// Continue from this checkpoint, or from the newest one in this folder.
    Path(PathBuf),
}

impl From<String> for Resume {
    fn from(text: String) -> Self {
        match text.as_str() {
            "auto" => Resume::Auto,
            "never" => Resume::Never,
            _ => Resume::Path(PathBuf::from(text)),
        }
    }
}

impl From<Resume> for String {
    fn from(resume: Resume) -> Self {
        match resume {
            Resume::Auto => "auto".to_owned(),
            Resume::Never => "never".to_owned(),
            Resume::Path(path) => path.to_string_lossy().into_owned(),
        }
    }
}
