//! The table over the runs of a folder.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use crate::group::{Group, group};
use crate::run::Status;
use crate::stats::Spread;
use crate::{Evaluation, Found, Run};

/// One row a group of runs that differ in their seed alone, and what is in no row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// Base models, then groups of finished runs by model and d.
    pub rows: Vec<Row>,
    /// Runs and files that are in no row, with the reason.
    pub left_out: Vec<LeftOut>,
    /// What is odd about runs that are in a row.
    pub remarks: Vec<String>,
    /// Evaluated datasets, in alphabetical order.
    pub datasets: Vec<String>,
}

/// One group of runs, or a base model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The model as it was named.
    pub model: String,
    /// The task, such as `metamath`; `base model` for an evaluation without an adapter.
    pub task: String,
    /// Length of θ, the numbers trained.
    pub d: Option<u64>,
    /// In what else the rows differ.
    pub settings: String,
    /// How many runs, one a seed; 0 for a base model.
    pub seeds: usize,
    /// The runs' folders, or the files of the base model's evaluations.
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
    let (bases, others): (Vec<&Evaluation>, Vec<&Evaluation>) =
        found.evaluations.iter().partition(|evaluation| evaluation.adapter_path.is_none());
    let mut table = of_groups(&group(&found.runs), &bases);
    let unreadable = found.unreadable.iter().map(|(path, reason)| left_out(path, reason.clone()));
    table.left_out.extend(unreadable);
    for evaluation in others {
        let (adapter, accuracy) = (evaluation.adapter_path.as_deref(), evaluation.accuracy * 100.0);
        let of = format!("of an adapter that is not here, {}", adapter.unwrap_or_default());
        table
            .left_out
            .push(left_out(&evaluation.file, format!("{} {accuracy:.1} %, {of}", evaluation.dataset)));
    }
    table
}

fn left_out(path: &Path, reason: String) -> LeftOut {
    LeftOut { path: path.display().to_string(), reason }
}

/// A row for each finished group and base model, and what is odd about their runs.
pub(crate) fn of_groups(groups: &[Group], bases: &[&Evaluation]) -> Table {
    let evaluations = groups.iter().flat_map(|group| &group.runs).flat_map(|run| &run.evaluations);
    let all = evaluations.chain(bases.iter().copied());
    let datasets: BTreeSet<String> = all.map(|evaluation| evaluation.dataset.clone()).collect();
    let datasets: Vec<String> = datasets.into_iter().collect();
    let (finished, unfinished): (Vec<&Group>, Vec<&Group>) =
        groups.iter().partition(|group| group.is_finished());
    let stopped = unfinished.iter().flat_map(|group| &group.runs).filter_map(|run| match &run.status {
        Status::Unfinished(reason) => Some(left_out(&run.folder, reason.clone())),
        _ => None,
    });
    let mut rows = base_rows(bases, &datasets);
    rows.extend(finished.iter().map(|group| row(group, &datasets)));
    Table {
        rows,
        left_out: stopped.collect(),
        remarks: finished.iter().flat_map(|group| remarks(group, &datasets)).collect(),
        datasets: datasets.clone(),
    }
}

/// What is odd about a group's runs.
fn remarks(group: &Group, datasets: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for run in &group.runs {
        all.extend(run.notes.iter().map(|note| format!("{}: {note}", run.name)));
        for dataset in datasets {
            if let (Some(chosen), count @ 2..) = choose(run, dataset) {
                let file = chosen.file.display();
                all.push(format!("{}: {count} evaluations of {dataset}; {file} counts", run.name));
            }
        }
    }
    for dataset in datasets {
        let evaluated = group.runs.iter().filter(|run| choose(run, dataset).1 > 0).count();
        if evaluated > 0 && evaluated < group.runs.len() {
            let (label, of) = (&group.label, group.runs.len());
            all.push(format!("{label}: {dataset} was evaluated for {evaluated} of {of} runs"));
        }
    }
    let seed =
        |run: &Run| run.facts.as_ref().and_then(|facts| facts.config.get("seed")).map(ToString::to_string);
    for (at, run) in group.runs.iter().enumerate() {
        let same = group.runs[..at].iter().find(|other| seed(run).is_some() && seed(other) == seed(run));
        if let Some(other) = same {
            all.push(format!("{} and {} have the same seed, and count as two", other.name, run.name));
        }
    }
    all
}

/// A row for each base model that was evaluated; of two evaluations of a dataset that with the most questions counts.
fn base_rows(bases: &[&Evaluation], datasets: &[String]) -> Vec<Row> {
    let models: BTreeSet<&str> =
        bases.iter().map(|base| base.model_path.as_deref().unwrap_or_default()).collect();
    let row = |model: &str| {
        let of_model = bases.iter().filter(|base| base.model_path.as_deref().unwrap_or_default() == model);
        let of_model: Vec<&&Evaluation> = of_model.collect();
        let accuracy = |dataset: &String| {
            let of_dataset = of_model.iter().filter(|base| base.dataset == *dataset);
            Spread::of(&[of_dataset.max_by_key(|base| base.total)?.accuracy])
        };
        Row {
            model: model.to_owned(),
            task: BASE.to_owned(),
            d: None,
            settings: String::new(),
            seeds: 0,
            runs: of_model.iter().map(|base| base.file.display().to_string()).collect(),
            steps: None,
            final_loss: None,
            held_out_loss: None,
            accuracy: datasets.iter().map(accuracy).collect(),
            adapter_bytes: None,
        }
    };
    models.into_iter().map(row).collect()
}

/// What stands for the task in a row of a base model.
pub(crate) const BASE: &str = "base model";

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

#[cfg(test)]
mod tests;
