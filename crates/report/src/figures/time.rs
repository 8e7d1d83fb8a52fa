//! Where the time of the steps went, and memory, by rank.

use crate::Run;
use crate::group::Group;
use crate::plot::{Axis, Entry, Ink, Layer, Plot, Symbol};

/// Where one rank's step time went, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Split {
    pub(crate) rank: u64,
    /// All steps since the last start.
    pub(crate) total: f64,
    /// What is not waiting for a message: passes, update, records.
    pub(crate) rest: f64,
    /// By kind of communication (`operation over axis`), in the file's order.
    pub(crate) waits: Vec<(String, f64)>,
}

/// The split of every rank of a run; empty where the run did not finish, or has one rank.
pub(crate) fn split(run: &Run) -> Vec<Split> {
    let Some(traffic) = run.facts.as_ref().and_then(|facts| facts.traffic.as_ref()) else {
        return Vec::new();
    };
    // The waits are those since the last start, so the steps are, too.
    let made = usize::try_from(traffic.steps).unwrap_or(usize::MAX).min(run.steps.len());
    let total: f64 = run.steps[run.steps.len() - made..].iter().filter_map(|step| step.step_seconds).sum();
    let ranks = traffic.ranks.iter().flatten().map(|rank| {
        let waits = rank.measured.iter().filter(|line| line.waited_seconds.is_finite());
        let waits: Vec<(String, f64)> =
            waits.map(|line| (format!("{} ({})", line.operation, line.axis), line.waited_seconds)).collect();
        let waited: f64 = waits.iter().map(|(_, seconds)| seconds).sum();
        Split { rank: rank.rank, total, rest: (total - waited).max(0.0), waits }
    });
    if total > 0.0 { ranks.collect() } else { Vec::new() }
}

/// More bars than this are not read one by one.
const MOST_BARS: usize = 24;

pub(super) fn plots(groups: &[Group]) -> Vec<Plot> {
    let runs: Vec<&Run> = groups.iter().flat_map(|group| group.runs.iter().copied()).collect();
    let mut plots = Vec::new();
    plots.extend(step_time(&runs));
    plots.extend(memory(&runs));
    plots
}

fn step_time(runs: &[&Run]) -> Option<Plot> {
    let mut bars: Vec<(String, Split)> = Vec::new();
    for run in runs {
        bars.extend(split(run).into_iter().map(|split| (bar_name(runs, run, Some(split.rank)), split)));
    }
    let all = bars.len();
    if bars.len() > MOST_BARS {
        // Those at the ends tell most: who waited for whom.
        bars.sort_by(|a, b| (a.1.rest / a.1.total).total_cmp(&(b.1.rest / b.1.total)));
        bars.drain(MOST_BARS / 2..all - MOST_BARS / 2);
    }
    let mut kinds: Vec<&String> =
        bars.iter().flat_map(|(_, split)| split.waits.iter().map(|(kind, _)| kind)).collect();
    kinds.sort();
    kinds.dedup();
    let mut stacks: Vec<Vec<[(f64, f64); 2]>> = vec![Vec::new(); kinds.len() + 1];
    for (at, (_, split)) in bars.iter().enumerate() {
        let mut from = 0.0;
        let mut add = |stack: usize, seconds: f64| {
            let to = from + 100.0 * seconds / split.total;
            stacks[stack].push([(from, row(at) - HALF), (to, row(at) + HALF)]);
            from = to;
        };
        add(0, split.rest);
        for (stack, kind) in kinds.iter().enumerate() {
            // An axis has each operation once; a kind that this rank has not takes no room.
            let of_kind = split.waits.iter().filter(|(other, _)| other == *kind);
            add(1 + stack, of_kind.map(|(_, seconds)| seconds).sum());
        }
    }
    let entry = |(at, label): (usize, String)| Entry { label, ink: Ink::Series(at), symbol: Symbol::Area };
    let waits = kinds.iter().map(|kind| format!("waiting: {kind}"));
    let names = std::iter::once("computing and the rest".to_owned()).chain(waits);
    let legend = names.enumerate().map(entry).collect();
    let shown = if all > MOST_BARS {
        format!(" {MOST_BARS} of {all} ranks: those that waited most and least.")
    } else {
        String::new()
    };
    Some(Plot {
        name: "step_time".to_owned(),
        title: "Where the step time went".to_owned(),
        caption: format!(
            "Seconds that the computing thread waited for messages, as shares of the step time since the run's last \
             start. Waiting is for slower ranks as much as for the wire.{shown}"
        ),
        x: Axis { label: "% of step time".to_owned(), from_zero: true, ..Axis::default() },
        y: rows_axis(bars.iter().map(|(name, _)| name.clone())),
        layers: stacks.into_iter().enumerate().map(|(at, bars)| Layer::Bars { bars, ink: Ink::Series(at) }).collect(),
        legend,
        rows: Some(bars.len()),
    })
    .filter(|plot| plot.rows != Some(0))
}

fn memory(runs: &[&Run]) -> Option<Plot> {
    let mut bars: Vec<(String, f64)> = Vec::new();
    for run in runs {
        let peaks = run.facts.as_ref().and_then(|facts| facts.peak_memory_bytes.clone()).unwrap_or_default();
        // 0 is written where the system does not tell.
        let known = peaks.iter().enumerate().filter(|(_, bytes)| **bytes > 0);
        bars.extend(known.map(|(rank, bytes)| (bar_name(runs, run, Some(rank as u64)), *bytes as f64 / 1e6)));
    }
    let all = bars.len();
    if all > MOST_BARS {
        bars.sort_by(|a, b| b.1.total_cmp(&a.1));
        bars.drain(MOST_BARS / 2..all - MOST_BARS / 2);
    }
    let most = bars.iter().map(|(_, megabytes)| *megabytes).fold(0.0, f64::max);
    let (factor, unit) = if most >= 10_000.0 { (1e-3, "GB") } else { (1.0, "MB") };
    let rectangle =
        |(at, (_, value)): (usize, &(String, f64))| [(0.0, row(at) - HALF), (value * factor, row(at) + HALF)];
    let rectangles: Vec<_> = bars.iter().enumerate().map(rectangle).collect();
    let shown = if all > MOST_BARS {
        format!(" {MOST_BARS} of {all}: the largest and the smallest.")
    } else {
        String::new()
    };
    Some(Plot {
        name: "memory".to_owned(),
        title: "Peak memory of each rank".to_owned(),
        caption: format!("The most that the process ever held in main memory (resident).{shown}"),
        x: Axis {
            label: format!("{unit} (10{} bytes)", if unit == "GB" { "⁹" } else { "⁶" }),
            from_zero: true,
            ..Axis::default()
        },
        y: rows_axis(bars.iter().map(|(name, _)| name.clone())),
        layers: vec![Layer::Bars { bars: rectangles, ink: Ink::Series(0) }],
        legend: Vec::new(),
        rows: Some(bars.len()),
    })
    .filter(|plot| plot.rows != Some(0))
}

/// Half the thickness of a bar, of a row's height.
const HALF: f64 = 0.36;

/// The middle of a row; the first is at the top.
fn row(at: usize) -> f64 {
    -(at as f64)
}

/// An axis of names, with half a row around.
fn rows_axis(names: impl Iterator<Item = String>) -> Axis {
    Axis { named: names.enumerate().map(|(at, name)| (row(at), name)).collect(), ..Axis::default() }
}

fn bar_name(runs: &[&Run], run: &Run, rank: Option<u64>) -> String {
    let rank = rank.map(|rank| format!("rank {rank}")).unwrap_or_default();
    if runs.len() == 1 { rank } else { format!("{} · {rank}", run.name) }
}
