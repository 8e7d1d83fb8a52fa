//! What can go wrong while lines are scored.

use miette::Diagnostic;
use thiserror::Error;

/// An error of [`score_lines`](crate::score_lines). Lines are counted from 1; those before the one that is named have
/// been written.
#[derive(Debug, Error, Diagnostic)]
pub enum ScoringError {
    /// A line is not a JSON object.
    #[error("line {line} {problem}")]
    #[diagnostic(
        code(input::scoring_json),
        help(
            "each line is one object such as {{\"completion\": \"The answer is: 18\", \"ground_truth\": 18}}"
        )
    )]
    Json {
        /// The line.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A line lacks a key.
    #[error("line {line} has no key `{key}`: its keys are {keys}")]
    #[diagnostic(
        code(input::scoring_key),
        help("name the model's text `completion`, and the answer or the reference solution `ground_truth`")
    )]
    Key {
        /// The line.
        line: u64,
        /// The key that is missing.
        key: &'static str,
        /// Those that there are.
        keys: String,
    },
    /// A value is of the wrong kind.
    #[error("line {line}: `{key}` is {found}, but must be {need}")]
    #[diagnostic(code(input::scoring_value), help("correct the value, or remove the line"))]
    Value {
        /// The line.
        line: u64,
        /// The key.
        key: &'static str,
        /// What it holds, shortened.
        found: String,
        /// What it may hold.
        need: &'static str,
    },
    /// The input cannot be read.
    #[error("cannot read line {line}")]
    #[diagnostic(code(input::scoring_read), help("is it a text file in UTF-8 that can be read to its end?"))]
    Read {
        /// The line.
        line: u64,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The output cannot be written.
    #[error("cannot write the scores")]
    #[diagnostic(code(run::scoring_write), help("is the disk full or read-only?"))]
    Write {
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}
