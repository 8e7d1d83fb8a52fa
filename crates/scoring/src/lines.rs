//! Scores of files of JSON lines.

use std::io::{BufRead, Read, Write};

use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{Answer, Dataset, Prediction, ScoringError, extract};

/// What is scored at once, in memory: so many lines or so many bytes, whichever are fewer.
const CHUNK_LINES: usize = 4096;
const CHUNK_BYTES: usize = 8 << 20;

/// A longer line is no completion, and is not read to its end.
const LONGEST_LINE: u64 = 64 << 20;

/// Characters of a value or of keys that an error quotes.
const MOST_QUOTED: usize = 60;

/// Sums over all lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Completions.
    pub total: u64,
    /// Those whose prediction is right.
    pub correct: u64,
    /// Those without a prediction.
    pub invalid: u64,
}

impl Totals {
    /// The share of right ones, from 0 to 1; 0 where there are none at all.
    pub fn accuracy(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.correct as f64 / self.total as f64 }
    }

    /// Counts one more.
    pub fn add(&mut self, prediction: Option<&Prediction>, correct: bool) {
        self.total += 1;
        self.correct += u64::from(correct);
        self.invalid += u64::from(prediction.is_none());
    }
}

/// Scores lines `{"completion": …, "ground_truth": …}` and writes each with the keys `prediction` and `correct`.
///
/// Other keys and the order of all are kept, blank lines are not. `ground_truth` is the answer as a number or a text, or
/// a reference solution with the data set's mark in it (`#### `, `\boxed`); null has no right answer. Lines are scored
/// on the threads of rayon's current pool, some megabytes at a time, and written in order. The first line that cannot
/// be scored ends it, with those before it written; what was written is flushed in any case.
pub fn score_lines(
    dataset: Dataset,
    mut reader: impl BufRead,
    mut writer: impl Write,
) -> Result<Totals, ScoringError> {
    let mut totals = Totals::default();
    let mut next = 1;
    loop {
        let (chunk, failed) = read_chunk(&mut reader, &mut next);
        let scored: Vec<Result<Scored, ScoringError>> =
            chunk.par_iter().map(|(line, text)| score(dataset, *line, text)).collect();
        let written = write_all(scored, &mut writer, &mut totals);
        let is_last = chunk.is_empty();
        let ended = written.and(failed.map_or(Ok(()), Err));
        if is_last || ended.is_err() {
            writer.flush().map_err(|source| ScoringError::Write { source })?;
            return ended.map(|()| totals);
        }
    }
}

/// Some more lines with their numbers, and why they are not more; none at all at the end.
fn read_chunk(reader: &mut impl BufRead, next: &mut u64) -> (Vec<(u64, Vec<u8>)>, Option<ScoringError>) {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while chunk.len() < CHUNK_LINES && bytes < CHUNK_BYTES {
        let mut line = Vec::new();
        match reader.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut line) {
            Err(source) => return (chunk, Some(ScoringError::Read { line: *next, source })),
            Ok(0) => break,
            Ok(read) if read as u64 > LONGEST_LINE => {
                let problem = format!("is longer than {} MiB", LONGEST_LINE >> 20);
                return (chunk, Some(ScoringError::Json { line: *next, problem }));
            }
            Ok(read) => bytes += read,
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            chunk.push((*next, line));
        }
        *next += 1;
    }
    (chunk, None)
}

fn write_all(
    scored: Vec<Result<Scored, ScoringError>>,
    writer: &mut impl Write,
    totals: &mut Totals,
) -> Result<(), ScoringError> {
    for line in scored {
        let line = line?;
        writer.write_all(&line.text).map_err(|source| ScoringError::Write { source })?;
        totals.add(line.prediction.as_ref(), line.correct);
    }
    Ok(())
}

struct Scored {
    /// The line to write, with its end.
    text: Vec<u8>,
    prediction: Option<Prediction>,
    correct: bool,
}

fn score(dataset: Dataset, line: u64, text: &[u8]) -> Result<Scored, ScoringError> {
    let mut row = parse(line, text)?;
    let (prediction, answer) = {
        let completion = value(&row, line, "completion")?;
        let Value::String(completion) = completion else {
            return Err(wrong(line, "completion", completion, "the model's text"));
        };
        (dataset.extract(completion), ground_truth(dataset, line, value(&row, line, "ground_truth")?)?)
    };
    let correct = dataset.is_correct(prediction.as_ref(), answer.as_ref());
    // A key that is there already keeps its place.
    row.insert("prediction".to_owned(), json!(prediction));
    row.insert("correct".to_owned(), json!(correct));
    let mut text = Value::Object(row).to_string().into_bytes();
    text.push(b'\n');
    Ok(Scored { text, prediction, correct })
}

fn parse(line: u64, text: &[u8]) -> Result<Map<String, Value>, ScoringError> {
    // Editors of some systems mark the start of a file so.
    let text = if line == 1 { text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) } else { text };
    match serde_json::from_slice(text) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(other) => {
            Err(ScoringError::Json { line, problem: format!("is no JSON object but {}", quoted(&other)) })
        }
        Err(error) => {
            let problem = format!("is not JSON: {} at column {}", reason(&error), error.column());
            Err(ScoringError::Json { line, problem })
        }
    }
}

/// What the parser says, without its own idea of the line.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

fn value<'a>(row: &'a Map<String, Value>, line: u64, key: &'static str) -> Result<&'a Value, ScoringError> {
    row.get(key).ok_or_else(|| {
        let keys: Vec<&str> = row.keys().map(String::as_str).collect();
        let keys = if keys.is_empty() { "none".to_owned() } else { shortened(&keys.join(", ")) };
        ScoringError::Key { line, key, keys }
    })
}

fn ground_truth(dataset: Dataset, line: u64, value: &Value) -> Result<Option<Answer>, ScoringError> {
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => {
            let number = number.as_i64().map(Answer::Integer).or_else(|| number.as_f64().map(Answer::Number));
            Ok(number)
        }
        Value::String(text) => Ok(match dataset {
            Dataset::Gsm8k if text.contains("#### ") => dataset.gold(text),
            Dataset::Math if text.contains("\\boxed") => dataset.gold(text),
            Dataset::Gsm8k => extract::integer(text).or_else(|| Some(Answer::Text(text.clone()))),
            Dataset::Math => Some(Answer::Text(text.clone())),
        }),
        other => Err(wrong(line, "ground_truth", other, "a number, a text or null")),
    }
}

fn wrong(line: u64, key: &'static str, found: &Value, need: &'static str) -> ScoringError {
    ScoringError::Value { line, key, found: quoted(found), need }
}

/// A value as JSON, shortened.
fn quoted(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
        other => shortened(&other.to_string()),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST_QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{self, BufReader, Read, Write};

    use miette::Diagnostic;

    use super::{CHUNK_LINES, Totals, score_lines};
    use crate::{Dataset, ScoringError};

    fn run(dataset: Dataset, input: &str) -> (Result<Totals, ScoringError>, String) {
        let mut written = Vec::new();
        let totals = score_lines(dataset, input.as_bytes(), &mut written);
        (totals, String::from_utf8(written).unwrap())
    }

    #[test]
    fn lines_are_written_with_their_scores() {
        let check = |dataset: Dataset, line: &str, expect: &str| {
            let (totals, written) = run(dataset, line);
            assert_eq!(written.trim_end(), expect, "{line}");
            assert_eq!(totals.unwrap().total, 1, "{line}");
        };
        check(
            Dataset::Gsm8k,
            r#"{"z": 1, "ground_truth": 18, "completion": "The answer is: 18", "a": [1.50, "é"]}"#,
            r#"{"z":1,"ground_truth":18,"completion":"The answer is: 18","a":[1.5,"é"],"prediction":18.0,"correct":true}"#,
        );
        check(
            Dataset::Gsm8k,
            r#"{"correct": 7, "completion": "no", "ground_truth": null, "prediction": 1}"#,
            r#"{"correct":false,"completion":"no","ground_truth":null,"prediction":null}"#,
        );
        check(
            Dataset::Math,
            r#"{"completion": "The answer is: \\frac12.", "ground_truth": "so \\boxed{0.5}"}"#,
            r#"{"completion":"The answer is: \\frac12.","ground_truth":"so \\boxed{0.5}","prediction":"\\frac12","correct":true}"#,
        );
    }

    #[test]
    fn ground_truths() {
        let check = |dataset: Dataset, truth: &str, completion: &str, expect: bool| {
            let line = format!(r#"{{"completion": "The answer is: {completion}", "ground_truth": {truth}}}"#);
            let (totals, written) = run(dataset, &line);
            assert_eq!(totals.unwrap().correct, u64::from(expect), "{line}\n{written}");
        };
        check(Dataset::Gsm8k, "18", "18", true);
        check(Dataset::Gsm8k, "18.0", "18", true);
        check(Dataset::Gsm8k, "18.5", "18", false);
        check(Dataset::Gsm8k, "\"1,800\"", "1800", true);
        check(Dataset::Gsm8k, "\"6 + 12 = 18\\n#### 18\"", "18", true);
        check(Dataset::Gsm8k, "\"#### many\"", "18", false);
        check(Dataset::Gsm8k, "123456789012345678901234567890", "5", false);
        check(Dataset::Gsm8k, "null", "18", false);
        check(Dataset::Math, "\"\\\\boxed{18}\"", "18.0", true);
        check(Dataset::Math, "\"18\"", "18", true);
        check(Dataset::Math, "18", "18", true);
        check(Dataset::Math, "0.5", "\\\\frac{1}{2}", true);
        check(Dataset::Math, "\"\\\\boxed 18\"", "18", false);
        check(Dataset::Math, "null", "None", false);
    }

    #[test]
    fn totals() {
        let input = "\u{feff}{\"completion\": \"1\", \"ground_truth\": 1}\n\n  \r\n\
                     {\"completion\": \"2\", \"ground_truth\": 1}\r\n{\"completion\": \"\", \"ground_truth\": 1}";
        let (totals, written) = run(Dataset::Gsm8k, input);
        let totals = totals.unwrap();
        assert_eq!(totals, Totals { total: 3, correct: 1, invalid: 1 });
        assert!((totals.accuracy() - 1.0 / 3.0).abs() < 1e-15);
        assert_eq!(written.lines().count(), 3);
        assert_eq!(run(Dataset::Math, " \n").0.unwrap().accuracy(), 0.0);
    }

    #[test]
    fn order_is_kept_over_chunks() {
        let lines = 2 * CHUNK_LINES + 3;
        let line = |i: usize| format!("{{\"completion\": \"{i}\", \"ground_truth\": {i}}}\n");
        let input: String = (0..lines).map(line).collect();
        let (totals, written) = run(Dataset::Gsm8k, &input);
        assert_eq!(totals.unwrap().correct, lines as u64);
        for (i, line) in written.lines().enumerate() {
            assert!(line.contains(&format!("\"ground_truth\":{i},")), "{i}: {line}");
        }
    }

    #[test]
    fn lines_that_cannot_be_scored() {
        let check = |line: &str, code: &str, message: &str| {
            let good = "{\"completion\": \"1\", \"ground_truth\": 1}\n";
            let (totals, written) = run(Dataset::Gsm8k, &format!("{good}\n{line}\n{good}"));
            let error = totals.unwrap_err();
            assert_eq!(error.code().unwrap().to_string(), code, "{line}");
            assert_eq!(error.to_string(), message, "{line}");
            assert!(error.help().is_some());
            assert_eq!(written.lines().count(), 1, "lines before it are written: {line}");
        };
        check(
            "{\"a\": 1",
            "input::scoring_json",
            "line 3 is not JSON: EOF while parsing an object at column 0",
        );
        check("[1, 2]", "input::scoring_json", "line 3 is no JSON object but a list of 2");
        check("18", "input::scoring_json", "line 3 is no JSON object but 18");
        check("{}", "input::scoring_key", "line 3 has no key `completion`: its keys are none");
        check(
            r#"{"completion": "1", "answer": 2}"#,
            "input::scoring_key",
            "line 3 has no key `ground_truth`: its keys are completion, answer",
        );
        check(
            r#"{"completion": 1, "ground_truth": 2}"#,
            "input::scoring_value",
            "line 3: `completion` is 1, but must be the model's text",
        );
        check(
            r#"{"completion": "1", "ground_truth": [2]}"#,
            "input::scoring_value",
            "line 3: `ground_truth` is a list of 1, but must be a number, a text or null",
        );
        check(
            r#"{"completion": "1", "ground_truth": true}"#,
            "input::scoring_value",
            "line 3: `ground_truth` is true, but must be a number, a text or null",
        );
    }

    #[test]
    fn text_that_is_not_utf8() {
        let error = score_lines(Dataset::Math, &b"{\"completion\": \"\xff\"}"[..], io::sink()).unwrap_err();
        assert_eq!(error.code().unwrap().to_string(), "input::scoring_json");
    }

    #[test]
    fn a_line_without_end() {
        let error = score_lines(Dataset::Math, BufReader::new(io::repeat(b'a')), io::sink()).unwrap_err();
        assert_eq!(error.to_string(), "line 1 is longer than 64 MiB");
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is full"))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn broken_ends() {
        let line = &b"{\"completion\": \"1\", \"ground_truth\": 1}\n"[..];
        let mut written = Vec::new();
        let reader = BufReader::new(line.chain(Broken));
        let error = score_lines(Dataset::Gsm8k, reader, &mut written).unwrap_err();
        assert!(matches!(error, ScoringError::Read { line: 2, .. }), "{error:?}");
        assert!(!written.is_empty());
        let error = score_lines(Dataset::Gsm8k, line, Broken).unwrap_err();
        assert!(matches!(error, ScoringError::Write { .. }), "{error:?}");
    }
}
