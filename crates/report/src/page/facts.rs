//! Facts of the runs as rows of text.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Content;
use crate::collect::choose;
use crate::facts::Facts;
use crate::group::{differing_keys, settings};
use crate::isometry::Isometry;
use crate::numbers::{bytes, duration, fixed, significant, thousands};
use crate::run::{Run, Status};
use crate::{Evaluation, figures, run};

/// A headline figure.
#[derive(Debug, Serialize)]
pub(super) struct Card {
    label: String,
    value: String,
    below: String,
}

fn card(label: &str, value: Option<String>, below: String) -> Option<Card> {
    Some(Card { label: label.to_owned(), value: value?, below })
}

/// The headline of one run.
pub(super) fn cards(content: &Content) -> Vec<Card> {
    let [run] = content.runs[..] else { return Vec::new() };
    let facts = run.facts.as_ref();
    let (before, after) = run.held_out_losses();
    let mut cards = Vec::new();
    for evaluation in content.table.datasets.iter().filter_map(|dataset| choose(run, dataset).0) {
        let (low, high) = evaluation.interval();
        let value = format!("{:.1} %", evaluation.accuracy * 100.0);
        let below = format!(
            "{} questions, 95 % interval {:.1}–{:.1} %",
            thousands(evaluation.total),
            low * 100.0,
            high * 100.0
        );
        cards.extend(card(&format!("Accuracy, {}", evaluation.dataset), Some(value), below));
    }
    let held_out = match (before, after) {
        (Some(before), Some(after)) => Some(format!("{} → {}", fixed(before, 3), fixed(after, 3))),
        (before, after) => after.or(before).map(|loss| fixed(loss, 3)),
    };
    let unit = "nats per token".to_owned();
    cards.extend(card("Held-out loss", held_out, unit.clone()));
    cards.extend(card("Loss of the last step", run.final_loss().map(|loss| fixed(loss, 3)), unit));
    let of = facts.and_then(|facts| facts.total_steps).map(|total| format!("of {}", thousands(total)));
    cards.extend(card("Steps", run.steps_made().map(thousands), of.unwrap_or_default()));
    let tokens = tokens(run);
    let rate = tokens.filter(|_| run.step_seconds() > 0.0).map(|tokens| tokens as f64 / run.step_seconds());
    let rate = rate.map(|rate| format!("{} per second", fixed(rate, 0))).unwrap_or_default();
    cards.extend(card("Tokens", tokens.map(thousands), rate));
    let seconds = Some(run.step_seconds()).filter(|seconds| *seconds > 0.0);
    cards.extend(card("Time in steps", seconds.map(duration), all_time(run)));
    let weights = facts.and_then(|facts| facts.adapted_weights);
    let over =
        weights.map(|weights| format!("over {} adapted weights", thousands(weights))).unwrap_or_default();
    cards.extend(card("Trained numbers, d", run.d().map(thousands), over));
    cards.extend(card("Adapter", run.adapter_bytes.map(bytes), "both files".to_owned()));
    cards
}

fn tokens(run: &Run) -> Option<u64> {
    let summary = run.facts.as_ref().and_then(|facts| facts.summary.as_ref());
    summary.and_then(|s| s.num_tokens).or_else(|| run.steps.last().and_then(|step| step.num_tokens))
}

fn all_time(run: &Run) -> String {
    let summary = run.facts.as_ref().and_then(|facts| facts.summary.as_ref());
    let seconds = summary.and_then(|s| s.seconds_now);
    seconds.map(|seconds| format!("last start took {}", duration(seconds))).unwrap_or_default()
}

/// What else is known of one run: name and value.
pub(super) fn details(content: &Content) -> Vec<(String, String)> {
    let [run] = content.runs[..] else { return Vec::new() };
    let mut rows: Vec<(&str, Option<String>)> = vec![
        ("folder", Some(run.folder.display().to_string())),
        ("status", Some(status(run))),
        ("model", run.model().map(str::to_owned)),
    ];
    if let Some(facts) = &run.facts {
        rows.extend([
            ("model parameters", facts.model_parameters.map(thousands)),
            ("task", facts.text("task").map(str::to_owned)),
            ("data", facts.text("data").map(str::to_owned)),
            ("rows", facts.rows.map(thousands)),
            ("partition", partition(facts)),
            ("adapted modules", facts.adapted_modules.map(thousands)),
            ("mesh", mesh(facts)),
            ("communicator", facts.communicator.clone()),
            ("messages", facts.messages_carried_by.clone()),
            ("versions", versions(facts)),
            ("fingerprints", fingerprints(facts)),
        ]);
    } else if let Some(adapter) = &run.adapter {
        let config = &adapter.config;
        let words = format!("{}, seed {}", config.assignment_backend, config.proj_seed);
        rows.push(("partition", Some(words)));
    }
    rows.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn status(run: &Run) -> String {
    match &run.status {
        Status::Finished => "finished".to_owned(),
        Status::Unfinished(_) => "unfinished".to_owned(),
        Status::AdapterOnly => "adapter only".to_owned(),
    }
}

fn partition(facts: &Facts) -> Option<String> {
    let (backend, scope) = (facts.text("assignment-backend")?, facts.text("partition-scope")?);
    let seed = facts.config.get("proj-seed")?;
    let grouping = facts.text("grouping-strategy").unwrap_or("random");
    Some(format!("{backend}, seed {seed}, scope {scope}, grouping {grouping}"))
}

fn mesh(facts: &Facts) -> Option<String> {
    let mesh = facts.mesh?;
    let ranks = mesh.dp_replicate.saturating_mul(mesh.dp_shard).saturating_mul(mesh.pp);
    Some(format!(
        "dp_replicate {} × dp_shard {} × pp {} = {ranks} {}",
        mesh.dp_replicate,
        mesh.dp_shard,
        mesh.pp,
        if ranks == 1 { "rank" } else { "ranks" },
    ))
}

fn versions(facts: &Facts) -> Option<String> {
    let libtorch =
        facts.libtorch.as_deref().map(|version| format!(", libtorch {version}")).unwrap_or_default();
    Some(format!("gpart-dist {}{libtorch}", facts.gpart_dist.as_deref()?))
}

fn fingerprints(facts: &Facts) -> Option<String> {
    let mut parts: Vec<String> = facts
        .fingerprints
        .iter()
        .map(|(name, value)| format!("{name} {}", crate::facts::setting(value)))
        .collect();
    parts.extend(facts.partition_fingerprint.iter().map(|print| format!("partition {print}")));
    (!parts.is_empty()).then(|| parts.join(", "))
}

pub(super) const RUN_HEAD: [&str; 9] =
    ["run", "status", "seed", "steps", "tokens", "time in steps", "final loss", "held-out loss", "accuracy"];

/// A row for each of several runs.
pub(super) fn run_rows(content: &Content) -> Vec<Vec<String>> {
    if content.runs.len() < 2 {
        return Vec::new();
    }
    let row = |run: &&Run| {
        let loss = |loss: Option<f64>| loss.map(|loss| fixed(loss, 4)).unwrap_or_default();
        let seed = run.facts.as_ref().and_then(|facts| facts.config.get("seed")).map(crate::facts::setting);
        let accuracy = content.table.datasets.iter().filter_map(|dataset| choose(run, dataset).0);
        let accuracy: Vec<String> = accuracy
            .map(|evaluation| format!("{} {:.1} %", evaluation.dataset, evaluation.accuracy * 100.0))
            .collect();
        vec![
            run.name.clone(),
            status(run),
            seed.unwrap_or_default(),
            run.steps_made().map(thousands).unwrap_or_default(),
            tokens(run).map(thousands).unwrap_or_default(),
            Some(run.step_seconds()).filter(|seconds| *seconds > 0.0).map(duration).unwrap_or_default(),
            loss(run.final_loss()),
            loss(run.held_out_losses().1),
            accuracy.join(", "),
        ]
    };
    content.runs.iter().map(row).collect()
}

pub(super) const THETA_HEAD: [&str; 9] =
    ["run", "d", "mean", "sd", "min", "max", "skewness", "excess kurtosis", "outliers, |z| > 3"];

/// The shape of θ, run by run.
pub(super) fn theta_rows(content: &Content) -> Vec<Vec<String>> {
    let rows = content.shapes.iter().filter_map(|(name, shape)| {
        let shape = shape.as_ref()?;
        let moment = |moment: Option<f64>| moment.map_or("–".to_owned(), |moment| fixed(moment, 3));
        let share = 100.0 * shape.outliers as f64 / shape.count as f64;
        Some(vec![
            name.clone(),
            thousands(shape.count as u64),
            significant(shape.mean, 4),
            significant(shape.sd, 4),
            significant(shape.min, 4),
            significant(shape.max, 4),
            moment(shape.skewness),
            moment(shape.excess_kurtosis),
            format!("{} ({} %)", thousands(shape.outliers as u64), fixed(share, 2)),
        ])
    });
    rows.collect()
}

pub(super) const ISOMETRY_HEAD: [&str; 6] =
    ["run", "‖ΔW‖ over the weights", "‖θ‖", "deviation", "weights added up", "remarks"];

/// ‖ΔW‖ against ‖θ‖, run by run.
pub(super) fn isometry_rows(content: &Content) -> Vec<Vec<String>> {
    let row = |(name, checked): &(String, Result<Isometry, String>)| match checked {
        Ok(checked) => vec![
            name.clone(),
            fixed(checked.delta_norm, 6),
            fixed(checked.theta_norm, 6),
            format!("{:.1e}", checked.deviation()).replace('-', "−"),
            thousands(checked.weights),
            remarks(checked),
        ],
        Err(reason) => {
            vec![
                name.clone(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                format!("not checked: {reason}"),
            ]
        }
    };
    content.isometry.iter().map(row).collect()
}

fn remarks(checked: &Isometry) -> String {
    let (least, most) = checked.group_sizes;
    let mut remarks = vec![format!("groups of {} to {} weights", thousands(least), thousands(most))];
    if !checked.isometric {
        remarks.push("the setting isometric is off: the norms need not be equal".to_owned());
    }
    if checked.empty_groups > 0 {
        remarks.push(format!(
            "{} empty groups, which ΔW cannot see: ‖θ‖ without them is {}",
            thousands(checked.empty_groups),
            fixed(checked.seen_norm, 6),
        ));
    }
    match checked.same_partition {
        Some(true) => remarks.push("group sizes are those of the training".to_owned()),
        Some(false) => remarks.push("GROUP SIZES ARE NOT THOSE OF THE TRAINING".to_owned()),
        None => {}
    }
    remarks.push(format!("took {}", duration(checked.seconds)));
    remarks.join("; ")
}

/// Where the step time went, rank by rank.
pub(super) fn split_rows(content: &Content) -> Vec<Vec<String>> {
    let rows = content.runs.iter().flat_map(|run| {
        let peaks = run.facts.as_ref().and_then(|facts| facts.peak_memory_bytes.clone()).unwrap_or_default();
        figures::split(run).into_iter().map(move |split| {
            let share =
                |seconds: f64| format!("{} ({:.1} %)", duration(seconds), 100.0 * seconds / split.total);
            let waits = split.waits.iter().map(|(kind, seconds)| format!("{kind} {}", share(*seconds)));
            let peak =
                usize::try_from(split.rank).ok().and_then(|rank| peaks.get(rank)).filter(|peak| **peak > 0);
            vec![
                run.name.clone(),
                split.rank.to_string(),
                duration(split.total),
                share(split.rest),
                waits.collect::<Vec<_>>().join(", "),
                peak.map(|peak| bytes(*peak)).unwrap_or_default(),
            ]
        })
    });
    rows.collect()
}

pub(super) const EVALUATION_HEAD: [&str; 8] =
    ["of", "dataset", "accuracy", "95 % interval", "questions", "invalid", "backend", "file"];

/// Every evaluation, those of no run last.
pub(super) fn evaluation_rows(content: &Content) -> Vec<Vec<String>> {
    let row = |of: String, evaluation: &Evaluation| {
        let (low, high) = evaluation.interval();
        vec![
            of,
            evaluation.dataset.clone(),
            format!("{:.1} %", evaluation.accuracy * 100.0),
            format!("{:.1}–{:.1} %", low * 100.0, high * 100.0),
            thousands(evaluation.total),
            thousands(evaluation.invalid),
            evaluation.backend.clone(),
            run::name_of(&evaluation.file),
        ]
    };
    let of_runs = content
        .runs
        .iter()
        .flat_map(|run| run.evaluations.iter().map(|evaluation| row(run.name.clone(), evaluation)));
    let others = content.others.iter().map(|other| {
        let of = other
            .adapter_path
            .as_deref()
            .map_or("base model".to_owned(), |path| format!("{path} (not among the runs)"));
        row(of, other)
    });
    of_runs.chain(others).collect()
}

/// Settings of the evaluations: those that differ, and the rest once.
pub(super) fn evaluation_config(content: &Content) -> Config {
    let of_runs = content.runs.iter().flat_map(|run| {
        run.evaluations
            .iter()
            .map(|evaluation| (format!("{} · {}", run.name, evaluation.dataset), evaluation))
    });
    let others = content
        .others
        .iter()
        .map(|other| (format!("{} · {}", run::name_of(&other.file), other.dataset), other));
    let maps =
        of_runs.chain(others).map(|(name, evaluation)| (name, evaluation.settings.iter().cloned().collect()));
    compare(maps.collect())
}

/// Settings: a table of all of them for one run; for several those that differ, and the rest once.
#[derive(Debug, Serialize)]
pub(super) struct Config {
    /// Names of the columns after the first.
    head: Vec<String>,
    /// A row for each run, in the order of the columns.
    differing: Vec<Vec<String>>,
    /// Name and value, for settings that are the same in all.
    same: Vec<(String, String)>,
}

pub(super) fn config(content: &Content) -> Config {
    if let [run] = content.runs[..] {
        let facts = run.facts.iter().flat_map(|facts| facts.settings());
        let same = facts.map(|(key, value)| (key.to_owned(), value)).collect();
        return Config { head: Vec::new(), differing: Vec::new(), same };
    }
    let with_facts = content.runs.iter().filter(|run| run.facts.is_some());
    compare(with_facts.map(|run| (run.name.clone(), settings(run))).collect())
}

fn compare(maps: Vec<(String, BTreeMap<String, String>)>) -> Config {
    let head = differing_keys(&maps.iter().map(|(_, map)| map).collect::<Vec<_>>());
    let differing = maps.iter().map(|(name, map)| {
        let values = head.iter().map(|key| map.get(key).cloned().unwrap_or_else(|| "–".to_owned()));
        std::iter::once(name.clone()).chain(values).collect()
    });
    let differing = if head.is_empty() { Vec::new() } else { differing.collect() };
    let first = maps.into_iter().next().map(|(_, map)| map).unwrap_or_default();
    let same = first.into_iter().filter(|(key, _)| !head.contains(key)).collect();
    Config { head, differing, same }
}
