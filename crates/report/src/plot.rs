//! Plots as data: what is to be seen, without a size. [`draw`] makes SVG of them.

mod draw;
mod files;
mod palette;
mod ticks;

pub(crate) use draw::{Drawing, Frame, draw};
#[cfg(test)]
pub(crate) use files::parse;
pub(crate) use files::{inline_svg, png, standalone_svg};
pub(crate) use palette::{Ink, theme_css};

/// One plot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plot {
    /// Stem of its files' names.
    pub(crate) name: String,
    /// Its heading.
    pub(crate) title: String,
    /// What it shows and how it was made, in a sentence or two; below the plot in the page.
    pub(crate) caption: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    /// Drawn in this order.
    pub(crate) layers: Vec<Layer>,
    pub(crate) legend: Vec<Entry>,
    /// Height of the drawing in relation to the usual one, for plots with many bars.
    pub(crate) rows: Option<usize>,
}

/// One axis.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Axis {
    /// What is measured, with its unit.
    pub(crate) label: String,
    /// Logarithmic, where all values allow it.
    pub(crate) log: bool,
    /// Whether zero is in the range.
    pub(crate) from_zero: bool,
    /// Whole numbers alone.
    pub(crate) integer: bool,
    /// Names at places, in place of numbers.
    pub(crate) named: Vec<(f64, String)>,
}

/// Something drawn in data coordinates. Points in ascending x; those that are not finite are gaps.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Layer {
    /// `label` is what a tooltip calls it; none for a line that only joins other marks.
    Line { points: Vec<(f64, f64)>, ink: Ink, width: f64, dashed: bool, opacity: f64, label: String },
    /// Between low and high.
    Band { points: Vec<(f64, f64, f64)>, ink: Ink },
    /// Circles, with a bar from low to high where that is given.
    Points { points: Vec<Mark>, ink: Ink, label: String },
    /// Rectangles from (x, y) to (x, y).
    Bars { bars: Vec<[(f64, f64); 2]>, ink: Ink },
    /// A line over the whole width.
    Level { y: f64, ink: Ink },
}

/// A circle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mark {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// Half the length of the error bar.
    pub(crate) sd: Option<f64>,
}

/// A line of the legend.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) label: String,
    pub(crate) ink: Ink,
    pub(crate) symbol: Symbol,
}

/// What stands before a legend's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Symbol {
    Line,
    ThinLine,
    Dashes,
    DashedCircle,
    Area,
}

/// Width of the drawing area in the widest form, in pixels: no curve needs more columns.
pub(crate) const COLUMNS: usize = 560;

impl Plot {
    /// Whether there is anything to be seen.
    pub(crate) fn is_empty(&self) -> bool {
        !self.layers.iter().any(|layer| match layer {
            Layer::Line { points, .. } => points.iter().any(|point| point.1.is_finite()),
            Layer::Band { points, .. } => !points.is_empty(),
            Layer::Points { points, .. } => points.iter().any(|mark| mark.y.is_finite()),
            Layer::Bars { bars, .. } => !bars.is_empty(),
            Layer::Level { .. } => false,
        })
    }
}
