//! Why an evaluation did not start or did not finish.

use std::path::PathBuf;

use miette::Diagnostic;
use thiserror::Error;
use trainer::{RankError, TrainError};

/// An evaluation that stopped. Codes `input::…` are the user's to mend, `run::…` are failures.
#[derive(Debug, Error, Diagnostic)]
pub enum EvalError {
    /// The model, its adapter, its tokenizer, the ranks.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Run(#[from] TrainError),
    /// The adapter was trained on other weights.
    #[error("the adapter in {} was trained on another model than {}: {trained_on}", adapter.display(), model.display())]
    #[diagnostic(
        code(input::other_model),
        help("name the model that it was trained on with --model; on another one, ΔW is noise")
    )]
    OtherModel {
        /// The adapter's folder.
        adapter: PathBuf,
        /// The model's folder.
        model: PathBuf,
        /// What the run was told to train.
        trained_on: String,
    },
    /// A row of the dataset lacks what a problem needs.
    #[error("{place}: a {dataset} problem needs {needed}, and this row has {found}")]
    #[diagnostic(
        code(input::problem_fields),
        help("see docs/EVALUATION.md for where the files come from and what is in them")
    )]
    ProblemFields {
        /// File and row.
        place: String,
        /// The dataset's name.
        dataset: &'static str,
        /// Names of fields.
        needed: &'static str,
        /// Names of fields.
        found: String,
    },
    /// No problem is left between start, end and the number of samples.
    #[error("no problem is chosen: {} has {rows}, start is {start}, end {end}", path.display())]
    #[diagnostic(code(input::no_problems), help("choose others with --start, --end and --max-samples"))]
    NoProblems {
        /// The dataset's file.
        path: PathBuf,
        /// How many it has.
        rows: usize,
        /// First one, from 0.
        start: usize,
        /// One past the last.
        end: usize,
    },
    /// A prompt that leaves no room for an answer.
    #[error("the prompt of problem {index} has {tokens} tokens, and the model takes {limit} with the answer")]
    #[diagnostic(
        code(input::prompt_too_long),
        help("leave it out with --start and --end, shorten the system prompt, or raise --max-model-len")
    )]
    PromptTooLong {
        /// The problem's number in the dataset, from 0.
        index: usize,
        /// Tokens of its prompt.
        tokens: usize,
        /// Most tokens of a row.
        limit: usize,
    },
    /// A prompt of no tokens at all.
    #[error("the prompt of problem {index} has no tokens")]
    #[diagnostic(code(input::empty_prompt), help("is this the model's own tokenizer.json?"))]
    EmptyPrompt {
        /// The problem's number in the dataset, from 0.
        index: usize,
    },
    /// The file of results is another evaluation's.
    #[error("{} holds another evaluation:{changes}", path.display())]
    #[diagnostic(
        code(input::other_evaluation),
        help("name another file with --output, or remove this one to write it anew")
    )]
    OtherEvaluation {
        /// The file, or the folder of its parts.
        path: PathBuf,
        /// A line for each key, `key: old → new`.
        changes: String,
    },
    /// The file of results is none of ours.
    #[error("{} is there already and is no evaluation of this program: {reason}", path.display())]
    #[diagnostic(code(input::output_taken), help("name another file with --output"))]
    OutputTaken {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Another process evaluates into the same file.
    #[error("another evaluation writes {}", path.display())]
    #[diagnostic(code(input::output_locked), help("wait for it, or name another file with --output"))]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The ranks' weights and caches do not fit.
    #[error(
        "{ranks} of this host need about {needed_mib} MiB for the model's weights, and {available_mib} MiB are \
         available"
    )]
    #[diagnostic(
        code(input::memory),
        help("every rank holds the whole model: start fewer on a host, or take --dtype bfloat16")
    )]
    Memory {
        /// `1 rank`, `2 ranks`.
        ranks: String,
        /// MiB of weights, all ranks.
        needed_mib: u64,
        /// MiB that the host has left.
        available_mib: u64,
    },
    /// A file of the evaluation cannot be written or read.
    #[error("cannot {verb} {}", path.display())]
    #[diagnostic(
        code(run::evaluation_file),
        help("is the disk full or read-only? The same command goes on from what was finished")
    )]
    File {
        /// `write`, `read`, …
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

macro_rules! through_the_trainer {
    ($($source:ty),*) => {
        $(impl From<$source> for EvalError {
            fn from(error: $source) -> Self {
                Self::Run(error.into())
            }
        })*
    };
}

through_the_trainer!(
    model::ModelError,
    data::Error,
    adapter::AdapterError,
    checkpoint::CheckpointError,
    partition::PartitionError,
    projection::ProjectionError
);

impl RankError for EvalError {
    fn is_input(&self) -> bool {
        self.code().is_some_and(|code| code.to_string().starts_with("input::"))
            || matches!(self, Self::Run(error) if error.is_input())
    }

    fn elsewhere(rank: usize, input: bool) -> Self {
        Self::Run(TrainError::Elsewhere { rank, input })
    }
}
