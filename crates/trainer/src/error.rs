//! Why a run did not start or did not finish.

use std::path::PathBuf;

use miette::Diagnostic;
use thiserror::Error;

/// A run that stopped. Codes `input::…` are the user's to mend, `run::…` are failures.
#[derive(Debug, Error, Diagnostic)]
pub enum TrainError {
    /// The model.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Model(#[from] model::ModelError),
    /// The data or the tokenizer.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Data(#[from] data::Error),
    /// The adapter.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Adapter(#[from] adapter::AdapterError),
    /// A file of the run.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Checkpoint(#[from] checkpoint::CheckpointError),
    /// The settings.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Config(#[from] config::ConfigError),
    /// The command line, which has been reported.
    #[error("the command line is wrong")]
    #[diagnostic(code(input::command_line))]
    CommandLine,
    /// The memory that the run needs.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Plan(#[from] plan::PlanError),
    /// The mesh.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Mesh(#[from] mesh::MeshError),
    /// The partition.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Partition(#[from] partition::PartitionError),
    /// The projection.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Projection(#[from] projection::ProjectionError),
    /// What is to carry the ranks' vectors.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Comm(#[from] comm::CommError),
    /// More pipeline stages than blocks.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Stages(#[from] mesh::StageError),
    /// No memory for a rank's weights.
    #[error("there is no memory for the model's weights ({what})")]
    #[diagnostic(
        code(run::no_memory_for_weights),
        help("`gpart-dist plan` with the same settings shows what a rank needs, part by part")
    )]
    NoMemoryForWeights {
        /// Which part of them.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A tensor that could not be turned into a message.
    #[error("an activation could not be sent: {0}")]
    #[diagnostic(code(run::message))]
    Message(String),
    /// A rank failed where its peers wait for it.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Stranding(Box<TrainError>),
    /// A model's or dataset's name that did not become files.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Hub(#[from] hub::HubError),
    /// The adapter to start from groups the weights differently.
    #[error("the adapter in {} belongs to another partition than this run's", folder.display())]
    #[diagnostic(
        code(input::other_partition),
        help("start from it with --init-adapter alone: what makes its partition is then taken over")
    )]
    OtherPartition {
        /// The adapter's folder.
        folder: PathBuf,
    },
    /// Groups by sign and size need every adapted weight in memory, once.
    #[error("the {weights} adapted weights do not fit in memory for sorting")]
    #[diagnostic(
        code(run::values_memory),
        help("use --grouping-strategy random, which needs no table, or adapt fewer modules")
    )]
    NoMemoryForValues {
        /// How many there are.
        weights: u64,
    },
    /// Another process trains in this folder.
    #[error("another run is active in {}", folder.display())]
    #[diagnostic(
        code(input::output_locked),
        help("wait for it, stop it, or choose another folder with --output")
    )]
    OutputLocked {
        /// The output folder.
        folder: PathBuf,
    },
    /// The output folder cannot be one.
    #[error("{} cannot be the output folder: it is a file, or lies under one", folder.display())]
    #[diagnostic(code(input::output_not_a_folder), help("choose another folder with --output"))]
    OutputNotAFolder {
        /// The path.
        folder: PathBuf,
    },
    /// The folder holds something that this run would write over.
    #[error("{} holds {what}", folder.display())]
    #[diagnostic(code(input::output_taken), help("{hint}"))]
    OutputTaken {
        /// The output folder.
        folder: PathBuf,
        /// What is there.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The folder holds a run with other settings.
    #[error("{} holds a run with other settings:{changes}", folder.display())]
    #[diagnostic(
        code(input::settings_changed),
        help(
            "repeat the earlier settings to resume it, or choose another folder with --output to start anew; a run cannot be made longer, since its learning rate depends on its length"
        )
    )]
    SettingsChanged {
        /// The output folder, or the checkpoint.
        folder: PathBuf,
        /// A line for each key, `key: old → new`.
        changes: String,
    },
    /// Every checkpoint of the folder is damaged.
    #[error("none of the {count} checkpoints in {} can be read; the newest: {reason}", folder.display())]
    #[diagnostic(
        code(input::no_sound_checkpoint),
        help("restore one from a copy, or train again into another folder with --output")
    )]
    NoSoundCheckpoint {
        /// The folder of checkpoints.
        folder: PathBuf,
        /// How many there are.
        count: usize,
        /// Why the newest is refused.
        reason: String,
    },
    /// The run's coordinator cannot be as it was asked for.
    #[error("{message}")]
    #[diagnostic(code(input::control), help("{hint}"))]
    Control {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// There is no room for the states of a run.
    #[error(
        "{} has room for {free} bytes, and a run needs {needed} for a few states to go on from",
        folder.display()
    )]
    #[diagnostic(code(input::no_room_for_states), help("make room there, or give --output on another disk"))]
    NoRoomForStates {
        /// The folder of checkpoints.
        folder: PathBuf,
        /// Bytes that a user may still write there.
        free: u64,
        /// Bytes of three states.
        needed: u64,
    },
    /// A label cannot be learnt from a step that has none.
    #[error("no row of {place} has a token to learn")]
    #[diagnostic(
        code(input::no_labels),
        help(
            "look at the rows with --show-samples 3; leave out rows without a response, raise --max-seq-length, or \
             give a step more rows with --accumulation-steps"
        )
    )]
    NoLabels {
        /// Where it was noticed.
        place: String,
    },
    /// θ is NaN or infinite after an update.
    #[error("θ[{index}] is {value} after the update of step {step}; nothing of this step was saved")]
    #[diagnostic(
        code(run::non_finite_theta),
        help("lower --learning-rate; the last checkpoint, if one was written, holds an earlier state")
    )]
    NonFiniteTheta {
        /// The step, from 1.
        step: u64,
        /// The first number that is not finite.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The held-out loss is NaN or infinite.
    #[error("the held-out loss after step {step} is {loss}")]
    #[diagnostic(
        code(run::non_finite_loss),
        help(
            "look for NaN in the model's weights or lower --learning-rate; checkpoints hold the states before"
        )
    )]
    NonFiniteHeldOut {
        /// Steps done.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// A file that is to name the output folder cannot be written where it is wanted.
    #[error("the folder of --output-dir-file {} does not exist", path.display())]
    #[diagnostic(code(input::output_dir_file), help("make the folder, or choose another path"))]
    NoFolderFor {
        /// The file.
        path: PathBuf,
    },
    /// A file that is to name the output folder is a folder.
    #[error("--output-dir-file {} is a folder", path.display())]
    #[diagnostic(code(input::output_dir_file), help("name a file in it"))]
    FolderForFile {
        /// The folder.
        path: PathBuf,
    },
    /// Loss is NaN or infinite.
    #[error(
        "the loss of step {step}, micro-batch {micro_batch}, is {loss} (computed by rank {rank}); no update was made"
    )]
    #[diagnostic(
        code(run::non_finite_loss),
        help(
            "lower --learning-rate, or look for NaN in the model's weights; the last checkpoint, if one was written, holds an earlier state"
        )
    )]
    NonFiniteLoss {
        /// The step, from 1.
        step: u64,
        /// Index of the micro-batch in the step.
        micro_batch: usize,
        /// The loss.
        loss: f64,
        /// Who computed it.
        rank: usize,
    },
    /// A weight's gradient is NaN, infinite or beyond the exact range.
    #[error(
        "a weight's gradient in step {step} is not finite or not below {limit} (computed by {ranks}); \
         no update was made"
    )]
    #[diagnostic(
        code(run::gradient_overflow),
        help("lower --learning-rate or --max-seq-length; sums beyond this limit could not be exact")
    )]
    GradientOverflow {
        /// The step, from 1.
        step: u64,
        /// Largest magnitude that is summed exactly.
        limit: f32,
        /// Who computed it.
        ranks: String,
    },
    /// Ranks came to different θ.
    #[error("after step {step} θ differs on {ranks} from rank 0's")]
    #[diagnostic(
        code(run::ranks_differ),
        help(
            "the named hosts compute differently: compare CPU models, libtorch builds and memory health; resume without them"
        )
    )]
    RanksDiffer {
        /// The step, from 1.
        step: u64,
        /// The odd ranks.
        ranks: String,
    },
    /// The kernels on a GPU.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Kernels(#[from] projection::cuda::CudaError),
    /// A GPU that is asked for cannot be had.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Cuda(#[from] torch_shim::CudaError),
    /// Ranks were started with different settings, models or data.
    #[error("{ranks}: not started like rank {like}: {what} differs")]
    #[diagnostic(
        code(input::ranks_started_differently),
        help("give every rank the same command, the same version of gpart-dist and the same files")
    )]
    StartedDifferently {
        /// The odd ones.
        ranks: String,
        /// The first of those that are alike.
        like: usize,
        /// What differs.
        what: String,
    },
    /// Another rank failed and reports why.
    #[error("rank {rank} failed")]
    #[diagnostic(code(run::other_rank_failed))]
    Elsewhere {
        /// The rank that reports.
        rank: usize,
        /// It is the user's to mend.
        input: bool,
    },
}

impl TrainError {
    /// Whether the user can mend it (exit 2) or the run failed (exit 1).
    pub fn is_input(&self) -> bool {
        match self {
            Self::Elsewhere { input, .. } => *input,
            _ => self.code().is_some_and(|code| code.to_string().starts_with("input::")),
        }
    }
}
