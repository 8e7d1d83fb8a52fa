//! Accuracy, or held-out loss, against the length of θ.

use std::collections::BTreeSet;

use super::ink;
use crate::collect::choose;
use crate::group::Group;
use crate::numbers::thousands;
use crate::plot::{Axis, Entry, Ink, Layer, Mark, Plot, Symbol};
use crate::stats::Spread;
use crate::{Evaluation, Run};

/// A plot for each evaluated dataset, and one of the held-out loss where nothing was evaluated; nothing for one d.
pub(super) fn plots(groups: &[Group], bases: &[&Evaluation]) -> Vec<Plot> {
    let finished: Vec<&Group> = groups.iter().filter(|group| group.is_finished()).collect();
    let datasets: BTreeSet<&str> = finished
        .iter()
        .flat_map(|group| &group.runs)
        .flat_map(|run| &run.evaluations)
        .map(|evaluation| evaluation.dataset.as_str())
        .collect();
    let mut plots = Vec::new();
    for dataset in datasets {
        let accuracy = |run: &Run| choose(run, dataset).0.map(|evaluation| evaluation.accuracy * 100.0);
        let title = format!("Accuracy on {dataset} by d");
        let Some(mut plot) =
            by_d(&finished, &format!("accuracy_{}", stem(dataset)), &title, "accuracy, %", &accuracy)
        else {
            continue;
        };
        let models: Vec<&str> = finished.iter().filter_map(|group| group.first().model()).collect();
        for base in bases.iter().filter(|base| base.dataset == dataset && is_of(base, &models)) {
            let label = format!("base model, {:.1} %", base.accuracy * 100.0);
            plot.layers.insert(0, Layer::Level { y: base.accuracy * 100.0, ink: Ink::Muted });
            plot.legend.push(Entry { label, ink: Ink::Muted, symbol: Symbol::Dashes });
        }
        plots.push(plot);
    }
    if plots.is_empty() {
        let after = |run: &Run| run.held_out_losses().1;
        let label = "held-out loss, nats per token";
        plots.extend(by_d(&finished, "held_out_by_d", "Held-out loss by d", label, &after));
    }
    plots
}

fn by_d(
    groups: &[&Group],
    name: &str,
    title: &str,
    label: &str,
    value: &dyn Fn(&Run) -> Option<f64>,
) -> Option<Plot> {
    // One line for each set of settings beside d.
    let mut lines: Vec<(String, Vec<(u64, Mark)>)> = Vec::new();
    for group in groups {
        let (Some(d), Some(spread)) = (group.first().d(), Spread::of(&group.values(value))) else { continue };
        let model = group.first().model().unwrap_or_default();
        let settings = format!("{model} {}", group.other_settings).trim().to_owned();
        let mark = Mark { x: d as f64, y: spread.mean, sd: spread.sample_sd };
        match lines.iter_mut().find(|(known, _)| *known == settings) {
            Some((_, marks)) => marks.push((d, mark)),
            None => lines.push((settings, vec![(d, mark)])),
        }
    }
    let ds: BTreeSet<u64> = lines.iter().flat_map(|(_, marks)| marks.iter().map(|(d, _)| *d)).collect();
    if ds.len() < 2 {
        return None;
    }
    let (mut layers, mut legend) = (Vec::new(), Vec::new());
    let several = lines.len() > 1;
    for (at, (settings, mut marks)) in lines.into_iter().enumerate() {
        marks.sort_by_key(|(d, _)| *d);
        let marks: Vec<Mark> = marks.into_iter().map(|(_, mark)| mark).collect();
        let points = marks.iter().map(|mark| (mark.x, mark.y)).collect();
        layers.push(Layer::Line {
            points,
            ink: ink(at),
            width: 2.0,
            dashed: false,
            opacity: 1.0,
            label: String::new(),
        });
        layers.push(Layer::Points { points: marks, ink: ink(at), label: settings.clone() });
        if several {
            legend.push(Entry { label: settings, ink: ink(at), symbol: Symbol::Line });
        }
    }
    Some(Plot {
        name: name.to_owned(),
        title: title.to_owned(),
        caption: "Bars: ± sample standard deviation over seeds.".to_owned(),
        x: Axis {
            label: "d, numbers trained (logarithmic)".to_owned(),
            log: true,
            named: if ds.len() <= 12 {
                ds.iter().map(|d| (*d as f64, thousands(*d))).collect()
            } else {
                Vec::new()
            },
            ..Axis::default()
        },
        y: Axis { label: label.to_owned(), ..Axis::default() },
        layers,
        legend,
        rows: None,
    })
}

/// Whether an evaluation of a base model is one of the runs' model: the same path or name, or the same last part.
fn is_of(base: &Evaluation, models: &[&str]) -> bool {
    let last = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    base.model_path.as_deref().is_some_and(|path| models.iter().any(|model| last(model) == last(path)))
}

/// A dataset's name as part of a file's name.
fn stem(dataset: &str) -> String {
    dataset.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}
