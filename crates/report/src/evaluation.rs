//! Files of evaluation results, ours and the official ones.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::ReportError;
use crate::stats::wilson;

/// The results of one evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The file.
    pub file: PathBuf,
    /// `gsm8k` or `math`.
    pub dataset: String,
    /// Right answers as a fraction of all, 0 to 1.
    pub accuracy: f64,
    /// Questions asked.
    pub total: u64,
    /// Answers in which no result was found.
    pub invalid: u64,
    /// What generated, such as `vllm`.
    pub backend: String,
    /// The adapter's folder as it was named; none for the base model.
    pub adapter_path: Option<String>,
    /// The model as it was named.
    pub model_path: Option<String>,
    /// Question by question.
    pub answers: Vec<Answer>,
    /// Every other key of the file with a plain value, in its order.
    pub settings: Vec<(String, String)>,
    /// What is odd about the file.
    pub notes: Vec<String>,
}

/// One question with its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The question.
    pub question: String,
    /// What the model wrote.
    pub completion: String,
    /// The result found in it; none if there is none.
    pub prediction: Option<String>,
    /// The right result.
    pub ground_truth: String,
    /// How the answer was judged.
    pub verdict: Verdict,
}

/// How an answer was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The right result.
    Correct,
    /// Another result.
    Wrong,
    /// No result was found.
    Invalid,
}

impl Verdict {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Correct => "correct",
            Self::Wrong => "wrong",
            Self::Invalid => "invalid",
        }
    }
}

impl Evaluation {
    /// Reads a file of results.
    ///
    /// # Errors
    /// [`ReportError::Read`], and [`ReportError::Evaluation`] where the content is not such a file.
    pub fn read(file: &Path) -> Result<Self, ReportError> {
        let read = |source| ReportError::Read { path: file.to_owned(), source };
        let text = std::fs::read(file).map_err(read)?;
        Self::parse(&text, file).map_err(|reason| ReportError::Evaluation { file: file.to_owned(), reason })
    }

    /// The 95 % interval of the accuracy (Wilson's).
    pub fn interval(&self) -> (f64, f64) {
        wilson(self.accuracy, self.total)
    }

    /// Whether this is how files of results in a run's folder are called.
    pub(crate) fn has_usual_name(path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("evaluation_results_") && name.ends_with(".json")
    }

    fn parse(text: &[u8], file: &Path) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
        let Value::Object(keys) = value else {
            return Err(format!("it holds {}, not an object", kind(&value)));
        };
        let accuracy = number(&keys, "accuracy")?;
        if !(0.0..=1.0).contains(&accuracy) {
            return Err(format!("accuracy is {accuracy}, not a fraction from 0 to 1"));
        }
        let total = count(&keys, "total_evaluated")?;
        let Some(Value::Array(predictions)) = keys.get("predictions") else {
            return Err(missing_or(&keys, "predictions", "a list"));
        };
        let answers = predictions.iter().enumerate().map(|(at, answer)| parse_answer(at, answer));
        let answers = answers.collect::<Result<Vec<_>, _>>()?;
        let listed = answers.iter().filter(|answer| answer.verdict == Verdict::Invalid).count() as u64;
        let invalid = match keys.get("invalid_outputs_count") {
            None | Some(Value::Null) => listed,
            Some(_) => count(&keys, "invalid_outputs_count")?,
        };
        let notes = notes(accuracy, total, &answers);
        Ok(Self {
            file: file.to_owned(),
            dataset: text_of(&keys, "dataset")?,
            accuracy,
            total,
            invalid,
            backend: optional_text(&keys, "backend").unwrap_or_default(),
            adapter_path: optional_text(&keys, "adapter_path"),
            model_path: optional_text(&keys, "model_path"),
            answers,
            settings: settings(&keys),
            notes,
        })
    }
}

/// One entry of `predictions`.
fn parse_answer(at: usize, answer: &Value) -> Result<Answer, String> {
    let within = |reason: String| format!("predictions[{at}]: {reason}");
    let Value::Object(keys) = answer else {
        return Err(within(format!("{} is not an object", kind(answer))));
    };
    let Some(Value::Bool(correct)) = keys.get("correct") else {
        return Err(within(missing_or(keys, "correct", "true or false")));
    };
    let prediction = keys.get("prediction").and_then(plain);
    let verdict = match (correct, &prediction) {
        (true, _) => Verdict::Correct,
        (false, Some(_)) => Verdict::Wrong,
        (false, None) => Verdict::Invalid,
    };
    Ok(Answer {
        question: text_of(keys, "question").map_err(within)?,
        completion: text_of(keys, "completion").map_err(within)?,
        prediction,
        ground_truth: keys.get("ground_truth").and_then(plain).unwrap_or_default(),
        verdict,
    })
}

/// What does not add up. The file's own figures are shown all the same: they may be of more questions than it lists.
fn notes(accuracy: f64, total: u64, answers: &[Answer]) -> Vec<String> {
    let (listed, mut notes) = (answers.len() as u64, Vec::new());
    if listed != total {
        notes.push(format!("total_evaluated is {total}, and {listed} answers are listed"));
    } else if total > 0 {
        let correct = answers.iter().filter(|answer| answer.verdict == Verdict::Correct).count();
        let counted = correct as f64 / total as f64;
        if (counted - accuracy).abs() > 1e-6 {
            notes
                .push(format!("accuracy is {accuracy}, and {correct} of {total} answers are marked correct"));
        }
    }
    notes
}

/// What is not shown elsewhere.
fn settings(keys: &Map<String, Value>) -> Vec<(String, String)> {
    const SHOWN: [&str; 4] = ["dataset", "accuracy", "total_evaluated", "invalid_outputs_count"];
    let plain_keys = keys.iter().filter(|(key, _)| !SHOWN.contains(&key.as_str()));
    plain_keys.filter_map(|(key, value)| Some((key.clone(), plain(value)?))).collect()
}

/// A text, number or truth value as text; nothing for nothing, lists and objects.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(short_number(number)),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// Whole numbers without the `.0` that Python writes.
fn short_number(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
        _ => number.to_string(),
    }
}

fn number(keys: &Map<String, Value>, key: &str) -> Result<f64, String> {
    keys.get(key).and_then(Value::as_f64).ok_or_else(|| missing_or(keys, key, "a number"))
}

fn count(keys: &Map<String, Value>, key: &str) -> Result<u64, String> {
    keys.get(key).and_then(Value::as_u64).ok_or_else(|| missing_or(keys, key, "a count"))
}

fn text_of(keys: &Map<String, Value>, key: &str) -> Result<String, String> {
    optional_text(keys, key).ok_or_else(|| missing_or(keys, key, "a text"))
}

fn optional_text(keys: &Map<String, Value>, key: &str) -> Option<String> {
    keys.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn missing_or(keys: &Map<String, Value>, key: &str, expected: &str) -> String {
    match keys.get(key) {
        None => format!("it has no key '{key}'"),
        Some(value) => format!("'{key}' is {}, not {expected}", kind(value)),
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(_) => "a text".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const GOOD: &str = r#"{"backend": "vllm", "prompt_format": "plain_text_question_answer", "dataset": "gsm8k",
        "accuracy": 0.5, "total_evaluated": 2, "invalid_outputs_count": 1,
        "invalid_outputs": [{"question": "q", "prompt": "p", "output": "o", "answer": "3"}],
        "predictions": [
          {"question": "1+1?", "prompt": "p", "completion": "The answer is: 2", "prediction": 2.0,
           "ground_truth": "2", "correct": true, "generated_tokens": 6},
          {"question": "1+2?", "prompt": "p", "completion": "hm", "prediction": null, "ground_truth": 3.0,
           "correct": false}],
        "adapter_path": null, "model_path": "m", "batch_size": 8, "further": [1]}"#;

    #[track_caller]
    fn check_refused(from: &str, to: &str, expect: &str) {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD);
        let error = Evaluation::parse(text.as_bytes(), Path::new("e.json")).unwrap_err();
        assert_eq!(error, expect);
    }

    #[test]
    fn good_files_are_read() {
        let read = Evaluation::parse(GOOD.as_bytes(), Path::new("e.json")).unwrap();
        assert_eq!((read.accuracy, read.total, read.invalid, read.answers.len()), (0.5, 2, 1, 2));
        assert_eq!((read.adapter_path, read.model_path.as_deref()), (None, Some("m")));
        assert_eq!(read.answers[0].prediction.as_deref(), Some("2"));
        assert_eq!(read.answers[1].ground_truth, "3");
        let verdicts: Vec<Verdict> = read.answers.iter().map(|answer| answer.verdict).collect();
        assert_eq!(verdicts, [Verdict::Correct, Verdict::Invalid]);
        assert!(read.settings.contains(&("batch_size".to_owned(), "8".to_owned())));
        assert!(read.notes.is_empty(), "{:?}", read.notes);
    }

    #[test]
    fn figures_that_do_not_add_up_are_noted() {
        let more = GOOD.replace("\"total_evaluated\": 2", "\"total_evaluated\": 3");
        let read = Evaluation::parse(more.as_bytes(), Path::new("e.json")).unwrap();
        assert_eq!(read.notes, ["total_evaluated is 3, and 2 answers are listed"]);
        let other = GOOD.replace("\"accuracy\": 0.5", "\"accuracy\": 0.75");
        let read = Evaluation::parse(other.as_bytes(), Path::new("e.json")).unwrap();
        assert_eq!(read.notes, ["accuracy is 0.75, and 1 of 2 answers are marked correct"]);
    }

    #[test]
    fn damaged_files_are_refused_by_name() {
        check_refused("\"accuracy\": 0.5", "\"accuracy\": 50", "accuracy is 50, not a fraction from 0 to 1");
        check_refused("\"accuracy\": 0.5,", "", "it has no key 'accuracy'");
        check_refused(
            "\"total_evaluated\": 2",
            "\"total_evaluated\": -2",
            "'total_evaluated' is -2, not a count",
        );
        check_refused("\"dataset\": \"gsm8k\"", "\"dataset\": null", "'dataset' is null, not a text");
        check_refused(
            "\"correct\": true",
            "\"correct\": \"yes\"",
            "predictions[0]: 'correct' is a text, not true or false",
        );
        check_refused(
            "\"completion\": \"hm\"",
            "\"completion\": []",
            "predictions[1]: 'completion' is a list, not a text",
        );
        let cut = Evaluation::parse(&GOOD.as_bytes()[..200], Path::new("e.json")).unwrap_err();
        assert!(cut.starts_with("not JSON: EOF while parsing"), "{cut}");
        assert_eq!(Evaluation::parse(b"[]", Path::new("e")).unwrap_err(), "it holds a list, not an object");
    }
}
