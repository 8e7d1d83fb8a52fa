//! The histogram of θ.

use crate::numbers::thousands;
use crate::plot::{Axis, Entry, Ink, Layer, Plot, Symbol};
use crate::stats::Distribution;

pub(super) fn plot(name: String, run: Option<&str>, shape: &Distribution) -> Plot {
    let bar = |bin: usize| {
        let (low, high) = shape.edges(bin);
        // A hair's breadth between bars, so that they can be told apart.
        let gap = (high - low) * 0.06;
        [(low + gap, 0.0), (high - gap, shape.bins[bin] as f64)]
    };
    let filled = |outliers: bool| {
        let bins = (0..shape.bins.len()).filter(|bin| shape.bins[*bin] > 0);
        bins.filter(|bin| shape.is_outlier(*bin) == outliers).map(bar).collect::<Vec<_>>()
    };
    let (inner, outer) = (filled(false), filled(true));
    let mut legend = vec![entry("|z| ≤ 3", Ink::Series(0))];
    if !outer.is_empty() {
        legend.push(entry("outliers, |z| > 3", Ink::Series(1)));
    }
    let heading = run.map_or(String::new(), |run| format!(" · {run}"));
    Plot {
        name,
        title: format!("Distribution of θ{heading}"),
        caption: format!(
            "{} numbers in {} bins; z is the distance from the mean in population standard deviations.",
            thousands(shape.count as u64),
            shape.bins.len(),
        ),
        x: Axis { label: "value of θ".to_owned(), ..Axis::default() },
        y: Axis { label: "numbers per bin".to_owned(), from_zero: true, integer: true, ..Axis::default() },
        layers: vec![
            Layer::Bars { bars: inner, ink: Ink::Series(0) },
            Layer::Bars { bars: outer, ink: Ink::Series(1) },
        ],
        legend,
        rows: None,
    }
}

fn entry(label: &str, ink: Ink) -> Entry {
    Entry { label: label.to_owned(), ink, symbol: Symbol::Area }
}
