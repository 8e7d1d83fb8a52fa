//! The table over the runs of a folder.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::group::{Group, group};
use crate::run::Status;
use crate::stats::Spread;
use crate::{Evaluation, Found, Run};

/// One row a group of runs that differ in their seed alone, and what is in no row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// The rows, by model and d.
    pub rows: Vec<Row>,
    /// Runs and files that are in no row, with the reason.
    pub left_out: Vec<LeftOut>,
    /// What is odd about runs that are in a row.
    pub remarks: Vec<String>,
    /// Evaluated datasets, in alphabetical order.
    pub datasets: Vec<String>,
}

/// One group of runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The model as it was named.
    pub model: String,
    /// The task, such as `metamath`.
    pub task: String,
    /// Length of θ, the numbers trained.
    pub d: Option<u64>,
    /// In what else the rows differ.
    pub settings: String,
    /// How many runs, one a seed.
    pub seeds: usize,
    /// The runs' folders.
    pub runs: Vec<String>,
    /// Steps made.
    pub steps: Option<u64>,
    /// Loss of the last step, nats a token.
    pub final_loss: Option<Spread>,
    /// Held-out loss after the last step, nats a token.
    pub held_out_loss: Option<Spread>,
    /// Accuracy as a fraction, for each of the table's datasets.
    pub accuracy: Vec<Option<Spread>>,
    /// Bytes of the adapter's files.
    pub adapter_bytes: Option<u64>,
}

/// A run or file that is in no row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Its folder or file.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Makes the table of what was found in a folder.
pub fn collect(found: &Found) -> Table {
    let (finished, unfinished): (Vec<&Run>, Vec<&Run>) =
        found.runs.iter().partition(|run| !matches!(run.status, Status::Unfinished(_)));
    let mut table = of_groups(&group(finished));
    for run in unfinished {
        if let Status::Unfinished(reason) = &run.status {
            table.left_out.push(LeftOut { path: run.folder.display().to_string(), reason: reason.clone() });
        }
    }
    let unreadable = found.unreadable.iter();
    table.left_out.extend(
        unreadable.map(|(path, reason)| LeftOut { path: path.display().to_string(), reason: reason.clone() }),
    );
    for evaluation in &found.evaluations {
        let of = evaluation
            .adapter_path
            .as_deref()
            .map_or("the base model".to_owned(), |path| format!("adapter {path}"));
        let accuracy = evaluation.accuracy * 100.0;
        table.left_out.push(LeftOut {
            path: evaluation.file.display().to_string(),
            reason: format!("an evaluation of {of}: {} {accuracy:.1} %", evaluation.dataset),
        });
    }
    table
}

/// The rows of groups, and what is odd about their runs.
pub(crate) fn of_groups(groups: &[Group]) -> Table {
    let runs = || groups.iter().flat_map(|group| &group.runs);
    let datasets: BTreeSet<String> =
        runs().flat_map(|run| &run.evaluations).map(|evaluation| evaluation.dataset.clone()).collect();
    let datasets: Vec<String> = datasets.into_iter().collect();
    let remarks = runs().flat_map(|run| {
        let mut remarks = run.notes.clone();
        for dataset in &datasets {
            if let (chosen, count @ 2..) = choose(run, dataset) {
                let file = chosen.map(|chosen| chosen.file.display().to_string()).unwrap_or_default();
                remarks.push(format!("{count} evaluations of {dataset}; {file} counts"));
            }
        }
        remarks.into_iter().map(|remark| format!("{}: {remark}", run.name))
    });
    Table {
        rows: groups.iter().map(|group| row(group, &datasets)).collect(),
        left_out: Vec::new(),
        remarks: remarks.collect(),
        datasets: datasets.clone(),
    }
}

/// The evaluation of a dataset that counts, the one with the most questions, and how many there are.
pub(crate) fn choose<'a>(run: &'a Run, dataset: &str) -> (Option<&'a Evaluation>, usize) {
    let of_dataset = || run.evaluations.iter().filter(|evaluation| evaluation.dataset == dataset);
    // The first of equals, as `max_by_key` takes the last.
    (of_dataset().rev().max_by_key(|evaluation| evaluation.total), of_dataset().count())
}

fn row(group: &Group, datasets: &[String]) -> Row {
    let first = group.first();
    let task = first.facts.as_ref().and_then(|facts| facts.text("task")).unwrap_or_default();
    let accuracy = |dataset: &String| {
        Spread::of(&group.values(|run| choose(run, dataset).0.map(|evaluation| evaluation.accuracy)))
    };
    Row {
        model: first.model().unwrap_or_default().to_owned(),
        task: task.to_owned(),
        d: first.d(),
        settings: group.other_settings.clone(),
        seeds: group.runs.len(),
        runs: group.runs.iter().map(|run| run.folder.display().to_string()).collect(),
        steps: group.runs.iter().filter_map(|run| run.steps_made()).max(),
        final_loss: Spread::of(&group.values(Run::final_loss)),
        held_out_loss: Spread::of(&group.values(|run| run.held_out_losses().1)),
        accuracy: datasets.iter().map(accuracy).collect(),
        adapter_bytes: group.runs.iter().find_map(|run| run.adapter_bytes),
    }
}
