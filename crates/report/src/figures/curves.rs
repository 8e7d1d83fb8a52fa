//! Curves over steps.

use super::{MOST_CURVES, ink, left_out};
use crate::Run;
use crate::downsample::min_max;
use crate::facts::Step;
use crate::group::Group;
use crate::numbers::thousands;
use crate::plot::{Axis, COLUMNS, Entry, Ink, Layer, Mark, Plot, Symbol};
use crate::stats::{Spread, smooth, smoothing_window};

pub(super) fn plots(groups: &[Group]) -> Vec<Plot> {
    let mut plots = vec![loss(groups)];
    for quantity in QUANTITIES {
        plots.push(over_steps(groups, quantity));
    }
    plots
}

/// Something that each step has one of.
#[derive(Clone, Copy)]
struct Quantity {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    caption: &'static str,
    value: fn(&Step) -> Option<f64>,
    smoothed: bool,
    from_zero: bool,
}

const QUANTITIES: [Quantity; 3] = [
    Quantity {
        name: "gradient_norm",
        title: "Gradient norm",
        unit: "‖dL/dθ‖ before clipping",
        caption: "",
        value: |step| step.grad_norm,
        smoothed: true,
        from_zero: true,
    },
    Quantity {
        name: "learning_rate",
        title: "Learning rate",
        unit: "learning rate",
        caption: "",
        value: |step| step.learning_rate,
        smoothed: false,
        from_zero: true,
    },
    Quantity {
        name: "throughput",
        title: "Throughput",
        unit: "tokens per second, all ranks",
        caption: "",
        value: |step| step.tokens_per_second,
        smoothed: true,
        from_zero: true,
    },
];

const LOSS: Quantity = Quantity {
    name: "loss",
    title: "Loss",
    unit: "loss, nats per token",
    caption: "",
    value: |step| step.loss,
    smoothed: true,
    from_zero: false,
};

/// Single steps below the mean of a run alone: sky blue.
const RAW: Ink = Ink::Series(5);

/// Training loss with the held-out loss.
fn loss(groups: &[Group]) -> Plot {
    let mut plot = over_steps(groups, LOSS);
    let single = groups.len() == 1;
    let mut any = false;
    for (at, group) in groups.iter().take(MOST_CURVES).enumerate() {
        let marks = held_out(group);
        if marks.is_empty() {
            continue;
        }
        any = true;
        // One run has a second colour to spare; several keep each its own.
        let ink = if single { Ink::Series(1) } else { ink(at) };
        let points = marks.iter().map(|mark| (mark.x, mark.y)).collect();
        let label = String::new();
        plot.layers.push(Layer::Line { points, ink, width: 1.5, dashed: true, opacity: 1.0, label });
        let label = if single { "held-out".to_owned() } else { format!("{}, held-out", group.label) };
        plot.layers.push(Layer::Points { points: marks, ink, label });
    }
    if any && single {
        let label = "held-out".to_owned();
        plot.legend.push(Entry { label, ink: Ink::Series(1), symbol: Symbol::DashedCircle });
    } else if any {
        let label = "held-out loss".to_owned();
        plot.legend.push(Entry { label, ink: Ink::Muted, symbol: Symbol::DashedCircle });
    }
    plot
}

/// Held-out loss at the steps at which all runs of the group have one, with the standard deviation over them.
fn held_out(group: &Group) -> Vec<Mark> {
    let first = &group.first().held_out;
    let marks = first.iter().filter_map(|line| {
        let at = |run: &Run| run.held_out.iter().find(|other| other.step == line.step).and_then(|l| l.loss);
        let values = group.values(at);
        let spread = Spread::of(&values).filter(|_| values.len() == group.runs.len())?;
        Some(Mark { x: line.step as f64, y: spread.mean, sd: spread.sample_sd })
    });
    marks.collect()
}

fn over_steps(groups: &[Group], quantity: Quantity) -> Plot {
    let (mut layers, mut legend) = (Vec::new(), Vec::new());
    let single = groups.len() == 1;
    let mut window = 1;
    for (at, group) in groups.iter().take(MOST_CURVES).enumerate() {
        let ink = ink(at);
        let has_value = |run: &&Run| run.steps.iter().any(|step| (quantity.value)(step).is_some());
        if !group.runs.iter().any(has_value) {
            continue;
        }
        if quantity.smoothed {
            window = window.max(smoothing_window(group.first().steps.len()));
        }
        if group.runs.len() == 1 {
            layers.extend(of_run(group, quantity, ink, groups.len()));
        } else {
            layers.extend(of_seeds(group, quantity, ink));
        }
        if !single {
            let symbol = if ink.is_repeated() { Symbol::Dashes } else { Symbol::Line };
            let seeds =
                if group.runs.len() > 1 { format!(" ({} seeds)", group.runs.len()) } else { String::new() };
            let label = format!("{}{seeds}", group.label);
            legend.push(Entry { label, ink, symbol });
        }
    }
    // Thin raw curves belong below all smoothed ones.
    layers.sort_by_key(|layer| !matches!(layer, Layer::Line { opacity, .. } if *opacity < 1.0));
    if single && groups[0].runs.len() == 1 && window > 1 {
        legend.push(Entry { label: "each step".to_owned(), ink: RAW, symbol: Symbol::ThinLine });
        let label = format!("mean over {} steps", thousands(window as u64));
        legend.push(Entry { label, ink: ink(0), symbol: Symbol::Line });
    } else if single && quantity.name == LOSS.name {
        legend.push(Entry { label: "training".to_owned(), ink: ink(0), symbol: Symbol::Line });
    }
    Plot {
        name: quantity.name.to_owned(),
        title: quantity.title.to_owned(),
        caption: caption(groups, quantity, window),
        x: Axis { label: "step".to_owned(), integer: true, ..Axis::default() },
        y: Axis { label: quantity.unit.to_owned(), from_zero: quantity.from_zero, ..Axis::default() },
        layers,
        legend,
        rows: None,
    }
}

fn caption(groups: &[Group], quantity: Quantity, window: usize) -> String {
    let mut parts = vec![quantity.caption.to_owned()];
    if quantity.smoothed && window > 1 {
        parts.push(format!(
            "Smoothed: centred mean over {} steps, fewer at the ends.",
            thousands(window as u64)
        ));
    }
    if groups.iter().any(|group| group.runs.len() > 1) {
        parts.push(
            "Bands and bars: mean ± sample standard deviation over seeds, of the curves shown.".to_owned(),
        );
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ") + &left_out(groups.len())
}

fn series(run: &Run, quantity: Quantity) -> (Vec<f64>, Vec<f64>) {
    let values =
        run.steps.iter().map(|step| (quantity.value)(step).filter(|v| v.is_finite()).unwrap_or(f64::NAN));
    (run.steps.iter().map(|step| step.step as f64).collect(), values.collect())
}

fn zip(xs: &[f64], ys: &[f64]) -> Vec<(f64, f64)> {
    let points: Vec<(f64, f64)> = xs.iter().copied().zip(ys.iter().copied()).collect();
    min_max(&points, COLUMNS)
}

/// One run: every step thin, the moving mean bold.
fn of_run(group: &Group, quantity: Quantity, ink: Ink, groups: usize) -> Vec<Layer> {
    // Single steps of many runs would hide their means.
    let (single, crowded) = (groups == 1, groups > 4);
    let (steps, values) = series(group.first(), quantity);
    let dashed = ink.is_repeated();
    let window = if quantity.smoothed { smoothing_window(values.len()) } else { 1 };
    let name = |what: &str| if single { what.to_owned() } else { format!("{}, {what}", group.label) };
    let bold_ink = ink;
    let bold = |values: &[f64], label: String| {
        let ink = bold_ink;
        Layer::Line { points: zip(&steps, values), ink, width: 2.0, dashed, opacity: 1.0, label }
    };
    if window == 1 {
        return vec![bold(&values, name("each step"))];
    }
    // Of one run the steps have a colour of their own: ten thousands of them are a solid area, on which the mean must show.
    let (ink, opacity) = if single { (RAW, 0.7) } else { (ink, 0.25) };
    let label = if single { name("each step") } else { String::new() };
    if crowded {
        return vec![bold(&smooth(&values, window), name("mean"))];
    }
    let raw = Layer::Line { points: zip(&steps, &values), ink, width: 1.0, dashed: false, opacity, label };
    vec![raw, bold(&smooth(&values, window), name("mean"))]
}

/// Runs that differ by their seed: the mean of their smoothed curves in a band.
fn of_seeds(group: &Group, quantity: Quantity, ink: Ink) -> Vec<Layer> {
    let curves: Vec<(Vec<f64>, Vec<f64>)> = group
        .runs
        .iter()
        .map(|run| {
            let (steps, values) = series(run, quantity);
            let window = if quantity.smoothed { smoothing_window(values.len()) } else { 1 };
            (steps, smooth(&values, window))
        })
        .collect();
    let (mut means, mut band) = (Vec::new(), Vec::new());
    for step in &curves[0].0 {
        let at = |(steps, values): &(Vec<f64>, Vec<f64>)| {
            steps.binary_search_by(|other| other.total_cmp(step)).ok().map(|at| values[at])
        };
        let values: Vec<f64> = curves.iter().filter_map(at).filter(|value| value.is_finite()).collect();
        let spread = Spread::of(&values).filter(|_| values.len() == curves.len());
        means.push((*step, spread.map_or(f64::NAN, |spread| spread.mean)));
        if let Some(Spread { mean, sample_sd: Some(sd), .. }) = spread {
            band.push((*step, mean - sd, mean + sd));
        }
    }
    // The band is thinned to the same columns; its edges are smooth already.
    let stride = band.len().div_ceil(COLUMNS).max(1);
    let last = band.last().copied();
    let mut points: Vec<(f64, f64, f64)> = band.into_iter().step_by(stride).collect();
    if points.last() != last.as_ref() {
        points.extend(last);
    }
    let line = Layer::Line {
        points: min_max(&means, COLUMNS),
        ink,
        width: 2.0,
        dashed: ink.is_repeated(),
        opacity: 1.0,
        label: group.label.clone(),
    };
    vec![Layer::Band { points, ink }, line]
}
