//! The problems of a dataset: questions, reference answers, prompts.

use std::path::PathBuf;

use data::{Content, RowOptions, Rows};
use scoring::{Answer, Dataset};
use serde_json::Value;

use crate::EvalError;

/// A question and what is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Its number in the dataset, from 0.
    pub index: usize,
    /// The question, as it is in the file.
    pub question: String,
    /// The reference answer, where the row's solution has one.
    pub ground_truth: Option<Answer>,
}

impl Problem {
    /// The official prompt: `Question: …`, a line break, `Answer:`, behind `prefix`.
    pub fn prompt(&self, prefix: &str) -> String {
        let text = data::text_of(&self.question, "");
        format!("{prefix}{}", text.trim_end_matches(' '))
    }
}

/// Fields that may hold a question, the first that a row has counts, and the one that holds its solution.
fn fields(dataset: Dataset) -> (&'static [&'static str], &'static [&'static str], &'static str) {
    match dataset {
        Dataset::Gsm8k => (&["question", "query"], &["answer", "response"], "'question' and 'answer'"),
        Dataset::Math => (
            &["instruction", "query", "question", "problem"],
            &["output", "solution"],
            "a question ('instruction', 'query', 'question' or 'problem') and a solution ('output' or 'solution')",
        ),
    }
}

/// Reads the problems of a dataset's files: JSON, JSON lines or Parquet.
///
/// # Errors
/// As [`data::read_rows`]; a row without a question or a solution in the dataset's fields.
pub fn read_problems(dataset: Dataset, files: &[PathBuf]) -> Result<Vec<Problem>, EvalError> {
    // No row has a field of an empty name, so all come as plain fields.
    let options = RowOptions {
        query_field: String::new(),
        response_field: "\0".to_owned(),
        any_fields: true,
        ..RowOptions::default()
    };
    let rows = data::read_rows(files, &options)?;
    (0..rows.len()).map(|index| problem(dataset, &rows, index)).collect()
}

fn problem(dataset: Dataset, rows: &Rows, index: usize) -> Result<Problem, EvalError> {
    let row = &rows.as_slice()[index];
    let (questions, solutions, needed) = fields(dataset);
    let find = |names: &[&str]| -> Option<String> {
        names.iter().find_map(|name| match row.fields().find(|(field, _)| field.as_str() == *name)?.1 {
            Value::String(text) => Some(text.clone()),
            _ => None,
        })
    };
    match (&row.content, find(questions), find(solutions)) {
        (Content::Fields, Some(question), Some(solution)) => {
            Ok(Problem { index, question, ground_truth: dataset.gold(&solution) })
        }
        _ => {
            let names: Vec<String> = row.fields().map(|(name, _)| format!("'{name}'")).collect();
            let found = if names.is_empty() { "no fields".to_owned() } else { names.join(", ") };
            let place = rows.place(index).to_string();
            Err(EvalError::ProblemFields { place, dataset: dataset.name(), needed, found })
        }
    }
}
