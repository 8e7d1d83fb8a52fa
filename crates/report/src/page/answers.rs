//! The answers that the page lets one browse.

use serde::Serialize;
use serde_json::json;

use super::Content;
use crate::evaluation::{Answer, Evaluation, Verdict};
use crate::numbers::{bytes, thousands};
use crate::{escape, run};

/// Answers as the page holds them.
pub(super) struct Answers {
    /// For a script of JSON.
    pub(super) json: String,
    /// How many there are and how many of them are in the page.
    pub(super) note: String,
    /// Shown where no script runs.
    pub(super) samples: Vec<Sample>,
}

/// One answer.
#[derive(Debug, Serialize)]
pub(super) struct Sample {
    source: String,
    /// The question's beginning.
    heading: String,
    question: String,
    completion: String,
    prediction: Option<String>,
    ground_truth: String,
    verdict: &'static str,
}

/// A longer text is cut: one run-away completion must not take all the room.
const LONGEST_TEXT: usize = 8000;
const SAMPLES: usize = 10;

/// The answers of all evaluations, as many as there is room for; those that are not correct come first. None without any.
pub(super) fn embed(content: &Content) -> Option<Answers> {
    let of_runs = content.runs.iter().flat_map(|run| {
        run.evaluations
            .iter()
            .map(|evaluation| (format!("{} · {}", run.name, evaluation.dataset), evaluation))
    });
    let of_others = content.others.iter().map(|evaluation| {
        let name = evaluation.adapter_path.clone().unwrap_or_else(|| "base model".to_owned());
        (format!("{name} · {} · {}", evaluation.dataset, run::name_of(&evaluation.file)), evaluation)
    });
    let sources: Vec<(String, &Evaluation)> = of_runs.chain(of_others).collect();
    let total: usize = sources.iter().map(|(_, evaluation)| evaluation.answers.len()).sum();
    if total == 0 {
        return None;
    }
    let chosen = choose(&sources, content.answer_bytes);
    let kept: usize = chosen.iter().map(Vec::len).sum();
    let rows = |at: usize| -> Vec<_> {
        chosen[at].iter().map(|index| row(&sources[at].1.answers[*index])).collect()
    };
    let lists: Vec<_> = sources
        .iter()
        .enumerate()
        .map(|(at, (name, evaluation))| json!({"name": name, "total": evaluation.answers.len(), "rows": rows(at)}))
        .collect();
    let samples = sources.iter().enumerate().flat_map(|(at, (name, evaluation))| {
        let wrong = chosen[at].iter().map(|index| &evaluation.answers[*index]);
        wrong.filter(|answer| answer.verdict != Verdict::Correct).map(|answer| sample(name, answer))
    });
    let note = if kept == total {
        format!("All {} answers are in this page.", thousands(total as u64))
    } else {
        format!(
            "{} of {} answers are in this page, which holds at most {} of them: first those that are not correct, in \
             turn from each evaluation. The files have all.",
            thousands(kept as u64),
            thousands(total as u64),
            bytes(content.answer_bytes as u64),
        )
    };
    let json = escape::script_json(&serde_json::Value::from(lists).to_string());
    Some(Answers { json, note, samples: samples.take(SAMPLES).collect() })
}

/// Indices of the answers that fit, by source in ascending order: in turn from each source, those not correct first.
fn choose(sources: &[(String, &Evaluation)], room: usize) -> Vec<Vec<usize>> {
    let order = |evaluation: &Evaluation| {
        let mut order: Vec<usize> = (0..evaluation.answers.len()).collect();
        order.sort_by_key(|at| evaluation.answers[*at].verdict == Verdict::Correct);
        order
    };
    let orders: Vec<Vec<usize>> = sources.iter().map(|(_, evaluation)| order(evaluation)).collect();
    let mut chosen = vec![Vec::new(); sources.len()];
    let (mut used, mut turn) = (0, 0);
    'full: while orders.iter().any(|order| turn < order.len()) {
        for (at, order) in orders.iter().enumerate() {
            let Some(index) = order.get(turn) else { continue };
            let answer = &sources[at].1.answers[*index];
            used += answer.question.len().min(LONGEST_TEXT) + answer.completion.len().min(LONGEST_TEXT) + 60;
            if used > room {
                break 'full;
            }
            chosen[at].push(*index);
        }
        turn += 1;
    }
    chosen.iter_mut().for_each(|indices| indices.sort_unstable());
    chosen
}

/// Question, completion, prediction, right result, verdict: a list, as keys would take a third of the room.
fn row(answer: &Answer) -> serde_json::Value {
    let (question, completion) = (cut(&answer.question), cut(&answer.completion));
    json!([question, completion, answer.prediction, answer.ground_truth, answer.verdict.name()])
}

fn sample(source: &str, answer: &Answer) -> Sample {
    Sample {
        source: source.to_owned(),
        heading: answer.question.chars().take(150).collect(),
        question: cut(&answer.question),
        completion: cut(&answer.completion),
        prediction: answer.prediction.clone(),
        ground_truth: answer.ground_truth.clone(),
        verdict: answer.verdict.name(),
    }
}

fn cut(text: &str) -> String {
    if text.len() <= LONGEST_TEXT {
        return text.to_owned();
    }
    let end = (0..=LONGEST_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{} … [cut: {} in all]", &text[..end], bytes(text.len() as u64))
}
