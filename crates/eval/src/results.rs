//! The file of results, in the official format.

use std::path::Path;

use scoring::{Answer, Dataset};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::identity::Identity;
use crate::journal::Line;
use crate::{EvalError, Finish, Problem};

/// How problems are chosen and answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Whose problems they are.
    pub dataset: Dataset,
    /// First problem, from 0.
    pub start: usize,
    /// One past the last.
    pub end: usize,
    /// Most problems.
    pub max_samples: Option<usize>,
    /// Rows at a time on a rank.
    pub batch_size: usize,
    /// Most new tokens; none: the dataset's.
    pub max_new_tokens: Option<usize>,
    /// Text before every prompt.
    pub system_prompt: String,
    /// The official training prompt before every prompt, unless there is a system prompt.
    pub use_training_system_prompt: bool,
    /// In place of the tokenizer's own end-of-sequence token.
    pub eos_token: Option<String>,
    /// Most tokens of a row, prompt and answer; none: the model's.
    pub max_model_len: Option<usize>,
    /// `float32`, `bfloat16` or `float16`.
    pub dtype: String,
    /// `cpu` or `cuda`.
    pub device: String,
    /// Threads a rank.
    pub threads: usize,
    /// Refuse what this host has not the memory for.
    pub memory_check: bool,
}

impl Settings {
    /// Most new tokens.
    pub fn max_new_tokens(&self) -> usize {
        self.max_new_tokens.unwrap_or_else(|| self.dataset.max_new_tokens())
    }

    /// Most tokens of a row, prompt and answer.
    pub(crate) fn row_limit(&self, config: &model::ModelConfig) -> usize {
        self.max_model_len.unwrap_or(config.max_position_embeddings.unsigned_abs() as usize)
    }

    /// What stands before every prompt: a system prompt that is not blank wins.
    pub(crate) fn prefix(&self) -> &str {
        match (self.system_prompt.trim().is_empty(), self.use_training_system_prompt) {
            (false, _) => &self.system_prompt,
            (true, true) => data::SYSTEM_PROMPT,
            (true, false) => "",
        }
    }
}

/// The answer to one problem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The problem.
    pub question: String,
    /// What the model was given.
    pub prompt: String,
    /// What it said.
    pub completion: String,
    /// The answer found in that.
    pub prediction: Option<scoring::Prediction>,
    /// The reference answer.
    pub ground_truth: Option<Answer>,
    /// Whether the two are equal.
    pub correct: bool,
    /// The problem's number in the dataset, from 0.
    pub index: usize,
    /// Tokens generated.
    pub new_tokens: usize,
    /// Why it ended.
    pub finish: Finish,
}

/// An output in which no answer was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invalid {
    /// The problem.
    pub question: String,
    /// What the model was given.
    pub prompt: String,
    /// What it said.
    pub output: String,
    /// The reference answer.
    pub answer: Option<Answer>,
}

/// The file. The first keys are the official ones, in the official order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the official ones")]
pub struct Results {
    pub backend: String,
    pub prompt_format: String,
    pub dataset: String,
    /// A fraction.
    pub accuracy: f64,
    pub total_evaluated: usize,
    pub invalid_outputs_count: usize,
    pub invalid_outputs: Vec<Invalid>,
    pub predictions: Vec<Prediction>,
    pub adapter_path: Option<String>,
    pub model_path: String,
    pub effective_model_path: String,
    pub system_prompt: String,
    pub used_training_system_prompt: bool,
    pub start_index: usize,
    pub end_index: usize,
    pub max_samples: Option<usize>,
    pub batch_size: usize,
    pub max_new_tokens: usize,
    pub gpu_memory_utilization: Option<f64>,
    pub max_model_len: Option<usize>,
    pub dtype: String,
    pub tensor_parallel_size: usize,
    /// What the answers depend on.
    pub identity: Identity,
}

/// What results say of where they come from.
pub(crate) struct Origin<'a> {
    pub settings: &'a Settings,
    pub sources: &'a crate::Sources,
    pub identity: &'a Identity,
}

impl Results {
    /// The results of `problems`, answered by `lines` (one each, in the same order).
    pub(crate) fn new(problems: &[Problem], lines: Vec<Line>, origin: &Origin<'_>) -> Self {
        let Origin { settings, sources, identity } = origin;
        let prefix = settings.prefix();
        let predictions: Vec<Prediction> =
            problems.iter().zip(lines).map(|(problem, line)| judged(problem, line, settings)).collect();
        let invalid = |answer: &Prediction| Invalid {
            question: answer.question.clone(),
            prompt: answer.prompt.clone(),
            output: answer.completion.clone(),
            answer: answer.ground_truth.clone(),
        };
        let invalid_outputs: Vec<Invalid> =
            predictions.iter().filter(|answer| answer.prediction.is_none()).map(invalid).collect();
        let correct = predictions.iter().filter(|answer| answer.correct).count();
        Self {
            backend: "gpart-dist".to_owned(),
            prompt_format: "plain_text_question_answer".to_owned(),
            dataset: settings.dataset.name().to_owned(),
            accuracy: correct as f64 / predictions.len().max(1) as f64,
            total_evaluated: predictions.len(),
            invalid_outputs_count: invalid_outputs.len(),
            invalid_outputs,
            predictions,
            adapter_path: sources.adapter.as_ref().map(|path| path.to_string_lossy().into_owned()),
            model_path: sources.model_name.clone(),
            effective_model_path: sources.model.to_string_lossy().into_owned(),
            system_prompt: settings.system_prompt.clone(),
            used_training_system_prompt: !prefix.is_empty() && prefix == data::SYSTEM_PROMPT,
            start_index: settings.start,
            end_index: settings.end,
            max_samples: settings.max_samples,
            batch_size: settings.batch_size,
            max_new_tokens: settings.max_new_tokens(),
            gpu_memory_utilization: None,
            max_model_len: settings.max_model_len,
            dtype: settings.dtype.clone(),
            tensor_parallel_size: 1,
            identity: (*identity).clone(),
        }
    }

    /// Answers that are right.
    pub fn correct(&self) -> usize {
        self.predictions.iter().filter(|answer| answer.correct).count()
    }

    /// Reads a file of results; none where there is no file.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, EvalError> {
        let taken = |reason: String| EvalError::OutputTaken { path: path.to_owned(), reason };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(taken(error.to_string())),
        };
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| taken(error.to_string()))?;
        serde_json::from_value(value).map(Some).map_err(|error| taken(error.to_string()))
    }

    /// Writes the file: it appears whole.
    pub(crate) fn write(&self, path: &Path) -> Result<(), EvalError> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| EvalError::OutputTaken { path: path.to_owned(), reason: error.to_string() })?;
        bytes.push(b'\n');
        Ok(checkpoint::write_atomic(path, &[&bytes])?)
    }
}

/// The answer found in a completion, and whether it is right.
pub(crate) fn judge(
    settings: &Settings,
    problem: &Problem,
    completion: &str,
) -> (Option<scoring::Prediction>, bool) {
    let prediction = settings.dataset.extract(completion);
    let correct = settings.dataset.is_correct(prediction.as_ref(), problem.ground_truth.as_ref());
    (prediction, correct)
}

/// The verdict on an answer.
fn judged(problem: &Problem, line: Line, settings: &Settings) -> Prediction {
    let (prediction, correct) = judge(settings, problem, &line.completion);
    Prediction {
        question: problem.question.clone(),
        prompt: problem.prompt(settings.prefix()),
        prediction,
        correct,
        completion: line.completion,
        ground_truth: problem.ground_truth.clone(),
        index: line.index,
        new_tokens: line.new_tokens,
        finish: line.finish,
    }
}
