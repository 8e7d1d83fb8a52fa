//! From a plot to SVG in a given size.
//!
//! The drawing library's coordinates are whole numbers, so everything is drawn [`FINE`] times as large as it is shown:
//! curves are smooth then.

use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::ticks::Scale;
use super::{Entry, Ink, Layer, Mark, Plot, Symbol};
use crate::ReportError;
use crate::escape::printable;

/// Drawing units a pixel.
pub(crate) const FINE: f64 = 10.0;

/// The embedded font: Inter, cut down to Latin, Greek and some signs (assets/Inter-LICENSE.txt).
pub(crate) static FONT: &[u8] = include_bytes!("../../assets/Inter-Regular-subset.ttf");
pub(crate) const FAMILY: &str = "Inter, system-ui, sans-serif";

/// Pixels: text of axes and legend, and of the heading.
const TEXT: f64 = 12.0;
const HEADING: f64 = 15.0;
const LINE_HEIGHT: f64 = 18.0;

/// How large a plot is drawn, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Frame {
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// Whether the heading is part of the drawing.
    pub(crate) heading: bool,
}

/// A drawn plot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Drawing {
    /// The elements, without the `svg` element around them.
    pub(crate) elements: String,
    /// Pixels.
    pub(crate) width: f64,
    /// Pixels.
    pub(crate) height: f64,
    /// The rectangle of the data, in pixels: left, top, right, bottom.
    pub(crate) area: [f64; 4],
    pub(crate) x: Scale,
    pub(crate) y: Scale,
}

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a> = DrawingArea<SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Failure = DrawingAreaErrorKind<std::io::Error>;

/// Draws a plot.
///
/// # Errors
/// [`ReportError::Plot`] when the library refuses, which is a fault of this program.
pub(crate) fn draw(plot: &Plot, frame: Frame) -> Result<Drawing, ReportError> {
    let refused = |reason: String| ReportError::Plot { plot: plot.name.clone(), reason };
    register_font().map_err(&refused)?;
    let layout = Layout::new(plot, frame);
    let size = ((frame.width * FINE) as u32, (layout.height * FINE) as u32);
    let mut text = String::new();
    {
        let canvas = SVGBackend::with_string(&mut text, size).into_drawing_area();
        paint(&canvas, plot, frame, &layout).map_err(|error| refused(error.to_string()))?;
        canvas.present().map_err(|error| refused(error.to_string()))?;
    }
    let elements =
        text.split_once("<svg").and_then(|(_, rest)| rest.split_once('>')).map_or("", |(_, rest)| rest);
    let elements = elements.trim().trim_end_matches("</svg>").replace(" opacity=\"1\"", "");
    Ok(Drawing {
        elements,
        width: frame.width,
        height: layout.height,
        area: layout.area,
        x: layout.x,
        y: layout.y,
    })
}

/// Where everything goes, in pixels.
struct Layout {
    height: f64,
    area: [f64; 4],
    x: Scale,
    y: Scale,
    /// Top of the legend.
    legend_top: f64,
    /// Each entry's place: left edge and line.
    legend: Vec<(f64, usize)>,
    /// Names of places on the y axis, cut to the room there is.
    y_names: Vec<(f64, String)>,
}

impl Layout {
    fn new(plot: &Plot, frame: Frame) -> Self {
        let (x_range, y_range) = ranges(plot);
        let top = if frame.heading { HEADING + 16.0 } else { 4.0 };
        let legend = place_legend(&plot.legend, frame.width);
        let lines = legend.last().map_or(0, |(_, line)| line + 1);
        let legend_height = lines as f64 * LINE_HEIGHT;
        let y_title = if plot.y.label.is_empty() { 8.0 } else { LINE_HEIGHT + 7.0 };
        let area_top = top + legend_height + y_title + 2.0;
        let below = 24.0 + if plot.x.label.is_empty() { 4.0 } else { LINE_HEIGHT };
        // Bars have a height each; other plots fill the frame, whatever the legend takes of it.
        let area_height =
            plot.rows.map_or((frame.height - y_title - below).max(120.0), |rows| rows as f64 * 26.0 + 8.0);
        let y_padding = if plot.rows.is_some() { 0.0 } else { 0.06 };
        let y = Scale::new(&plot.y, y_range, (area_height / 38.0).max(4.0) as usize, y_padding);
        let room = frame.width * if plot.rows.is_some() { 0.42 } else { 0.3 };
        let y_names: Vec<(f64, String)> =
            y.ticks.iter().map(|(at, name)| (*at, shorten(name, room))).collect();
        let widest = y_names.iter().map(|(_, name)| text_width(name)).fold(0.0, f64::max);
        let left = widest + 12.0;
        let right = frame.width - 14.0;
        let x_count = ((right - left) / 75.0).max(4.0) as usize;
        // Few points with bars stay off the edges; curves use the room.
        let x_padding = if plot.x.named.is_empty() { 0.015 } else { 0.1 };
        let x_padding = if plot.rows.is_some() { 0.0 } else { x_padding };
        let x = Scale::new(&plot.x, x_range, x_count, x_padding);
        let area = [left, area_top, right, area_top + area_height];
        Self { height: area[3] + below, area, x, y, legend_top: top, legend, y_names }
    }

    /// Pixels of a place on the x axis.
    fn x_pixel(&self, place: f64) -> f64 {
        self.area[0] + (place - self.x.low) / (self.x.high - self.x.low) * (self.area[2] - self.area[0])
    }

    /// Pixels of a place on the y axis.
    fn y_pixel(&self, place: f64) -> f64 {
        self.area[3] - (place - self.y.low) / (self.y.high - self.y.low) * (self.area[3] - self.area[1])
    }
}

/// The values of all layers: the least and greatest x and y.
fn ranges(plot: &Plot) -> ((f64, f64), (f64, f64)) {
    let none = (f64::INFINITY, f64::NEG_INFINITY);
    let (mut xs, mut ys) = (none, none);
    let mut add = |x: Option<f64>, y: f64| {
        if y.is_finite() {
            ys = (ys.0.min(y), ys.1.max(y));
            if let Some(x) = x {
                xs = (xs.0.min(x), xs.1.max(x));
            }
        }
    };
    for layer in &plot.layers {
        match layer {
            Layer::Line { points, .. } => points.iter().for_each(|(x, y)| add(Some(*x), *y)),
            Layer::Band { points, .. } => points.iter().for_each(|(x, low, high)| {
                add(Some(*x), *low);
                add(Some(*x), *high);
            }),
            Layer::Points { points, .. } => points.iter().for_each(|mark| {
                let sd = mark.sd.unwrap_or(0.0);
                add(Some(mark.x), mark.y - sd);
                add(Some(mark.x), mark.y + sd);
            }),
            Layer::Bars { bars, .. } => bars.iter().flatten().for_each(|(x, y)| add(Some(*x), *y)),
            Layer::Level { y, .. } => add(None, *y),
        }
    }
    (xs, ys)
}

fn paint(canvas: &Canvas, plot: &Plot, frame: Frame, layout: &Layout) -> Result<(), Failure> {
    if frame.heading {
        let style = style(HEADING, Ink::Text, HPos::Left, VPos::Center);
        canvas.draw_text(&printable(&plot.title), &style, at(10.0, HEADING * 0.5 + 8.0))?;
    }
    paint_legend(canvas, plot, layout)?;
    paint_axes(canvas, plot, layout)?;
    let [left, top, right, bottom] = layout.area.map(|pixels| (pixels * FINE) as i32);
    let spec = Cartesian2d::<RangedCoordf64, RangedCoordf64>::new(
        layout.x.low..layout.x.high,
        layout.y.low..layout.y.high,
        (left..right, bottom..top),
    );
    let chart = canvas.clone().apply_coord_spec(spec);
    plot.layers.iter().try_for_each(|layer| paint_layer(&chart, layer, layout))
}

fn paint_axes(canvas: &Canvas, plot: &Plot, layout: &Layout) -> Result<(), Failure> {
    let [left, top, right, bottom] = layout.area;
    let grid = stroke(Ink::Grid, 1.0);
    let categories = plot.rows.is_some();
    for (place, name) in &layout.y_names {
        let y = layout.y_pixel(*place);
        if !categories {
            canvas.draw(&PathElement::new(vec![at(left, y), at(right, y)], grid))?;
        }
        let style = style(TEXT, Ink::Muted, HPos::Right, VPos::Center);
        canvas.draw_text(&printable(name), &style, at(left - 7.0, y))?;
    }
    let mut taken = f64::NEG_INFINITY;
    for (place, name) in &layout.x.ticks {
        let (x, half) = (layout.x_pixel(*place), text_width(name) / 2.0);
        let line = if categories { bottom } else { bottom + 4.0 };
        let from = if categories { top } else { bottom };
        canvas.draw(&PathElement::new(vec![at(x, from), at(x, line)], grid))?;
        // Names that would touch the one before are left out, and moved in from the edge of the drawing.
        let x = x.min(right + 13.0 - half).max(half + 1.0);
        if x - half < taken + 8.0 {
            continue;
        }
        taken = x + half;
        let style = style(TEXT, Ink::Muted, HPos::Center, VPos::Top);
        canvas.draw_text(&printable(name), &style, at(x, bottom + 8.0))?;
    }
    canvas.draw(&PathElement::new(vec![at(left, bottom), at(right, bottom)], stroke(Ink::Muted, 1.0)))?;
    let title = style(TEXT, Ink::Text, HPos::Left, VPos::Center);
    canvas.draw_text(&printable(&plot.y.label), &title, at(6.0, top - LINE_HEIGHT * 0.5 - 6.0))?;
    let title = style(TEXT, Ink::Text, HPos::Right, VPos::Top);
    canvas.draw_text(&printable(&plot.x.label), &title, at(right, bottom + 8.0 + LINE_HEIGHT))
}

fn paint_layer(chart: &Chart, layer: &Layer, layout: &Layout) -> Result<(), Failure> {
    let place = |(x, y): (f64, f64)| (layout.x.place(x), layout.y.place(y));
    match layer {
        Layer::Line { points, ink, width, dashed, opacity, .. } => {
            let style = ink.rgb().mix(*opacity).stroke_width((width * FINE) as u32);
            for part in points.split(|point| !place(*point).1.is_finite()).filter(|part| !part.is_empty()) {
                let part: Vec<(f64, f64)> = part.iter().map(|point| place(*point)).collect();
                if let [only] = part[..] {
                    // A line of one point would be nothing.
                    chart.draw(&Circle::new(only, (width * FINE * 1.8) as i32, style.filled()))?;
                } else if *dashed {
                    let (dash, gap) = ((6.0 * FINE) as i32, (4.0 * FINE) as i32);
                    chart.draw(&DashedPathElement::new(part, dash, gap, style))?;
                } else {
                    chart.draw(&PathElement::new(part, style))?;
                }
            }
            Ok(())
        }
        Layer::Band { points, ink } => {
            let low = points.iter().map(|(x, low, _)| place((*x, *low)));
            let high = points.iter().rev().map(|(x, _, high)| place((*x, *high)));
            chart.draw(&Polygon::new(low.chain(high).collect::<Vec<_>>(), ink.rgb().mix(0.2).filled()))
        }
        Layer::Points { points, ink, .. } => {
            points.iter().try_for_each(|mark| paint_mark(chart, *mark, *ink, &place))
        }
        Layer::Bars { bars, ink } => bars.iter().try_for_each(|[from, to]| {
            chart.draw(&Rectangle::new([place(*from), place(*to)], ink.rgb().filled()))
        }),
        Layer::Level { y, ink } => {
            let ends = vec![(layout.x.low, layout.y.place(*y)), (layout.x.high, layout.y.place(*y))];
            let (dash, gap) = ((5.0 * FINE) as i32, (4.0 * FINE) as i32);
            chart.draw(&DashedPathElement::new(ends, dash, gap, stroke(*ink, 1.5)))
        }
    }
}

fn paint_mark(
    chart: &Chart,
    mark: Mark,
    ink: Ink,
    place: &impl Fn((f64, f64)) -> (f64, f64),
) -> Result<(), Failure> {
    if !mark.y.is_finite() {
        return Ok(());
    }
    if let Some(sd) = mark.sd {
        let ends = vec![place((mark.x, mark.y - sd)), place((mark.x, mark.y + sd))];
        chart.draw(&PathElement::new(ends, stroke(ink, 1.5)))?;
    }
    // A ring of the page's colour sets the circle off from lines.
    let centre = place((mark.x, mark.y));
    chart.draw(&Circle::new(centre, (5.0 * FINE) as i32, Ink::Surface.rgb().filled()))?;
    chart.draw(&Circle::new(centre, (3.6 * FINE) as i32, ink.rgb().filled()))
}

fn paint_legend(canvas: &Canvas, plot: &Plot, layout: &Layout) -> Result<(), Failure> {
    for (entry, (left, line)) in plot.legend.iter().zip(&layout.legend) {
        let y = layout.legend_top + (*line as f64 + 0.5) * LINE_HEIGHT;
        let ends = |from: f64, to: f64| vec![at(left + from, y), at(left + to, y)];
        let circle = Circle::new(at(left + 9.0, y), (3.6 * FINE) as i32, entry.ink.rgb().filled());
        let dashes = |canvas: &Canvas| {
            canvas.draw(&PathElement::new(ends(0.0, 5.0), stroke(entry.ink, 2.0)))?;
            canvas.draw(&PathElement::new(ends(13.0, 18.0), stroke(entry.ink, 2.0)))
        };
        match entry.symbol {
            Symbol::Line => canvas.draw(&PathElement::new(ends(0.0, 18.0), stroke(entry.ink, 2.5)))?,
            Symbol::ThinLine => {
                let style = entry.ink.rgb().mix(0.7).stroke_width(FINE as u32);
                canvas.draw(&PathElement::new(ends(0.0, 18.0), style))?;
            }
            Symbol::Dashes => {
                dashes(canvas)?;
                canvas.draw(&PathElement::new(ends(7.0, 11.0), stroke(entry.ink, 2.0)))?;
            }
            Symbol::DashedCircle => {
                dashes(canvas)?;
                canvas.draw(&circle)?;
            }
            Symbol::Area => {
                let corners = [at(left + 3.0, y - 5.0), at(left + 15.0, y + 5.0)];
                canvas.draw(&Rectangle::new(corners, entry.ink.rgb().filled()))?;
            }
        }
        let style = style(TEXT, Ink::Text, HPos::Left, VPos::Center);
        let label = shorten(&printable(&entry.label), layout.area[2] - 30.0);
        canvas.draw_text(&label, &style, at(left + 24.0, y))?;
    }
    Ok(())
}

/// Entries side by side, in as many lines as they need: each one's left edge in pixels and line.
fn place_legend(entries: &[Entry], width: f64) -> Vec<(f64, usize)> {
    let (mut left, mut line) = (8.0, 0);
    let mut places = Vec::with_capacity(entries.len());
    for entry in entries {
        let needed = 24.0 + text_width(&entry.label) + 16.0;
        if left + needed > width && left > 8.0 {
            (left, line) = (8.0, line + 1);
        }
        places.push((left, line));
        left += needed;
    }
    places
}

/// A text that fits into so many pixels, with its middle left out where it is too long.
fn shorten(text: &str, room: f64) -> String {
    if text_width(text) <= room {
        return text.to_owned();
    }
    let chars: Vec<char> = text.chars().collect();
    // No room holds more than some hundred characters.
    let shortened = (1..chars.len().min(300)).rev().map(|kept| {
        let (head, tail) = (kept.div_ceil(2), kept / 2);
        let mut short: String = chars[..head].iter().collect();
        short.push('…');
        short.extend(&chars[chars.len() - tail..]);
        short
    });
    shortened.into_iter().find(|short| text_width(short) <= room).unwrap_or_else(|| "…".to_owned())
}

/// Width of a text of an axis or legend, in pixels.
fn text_width(text: &str) -> f64 {
    let style = style(TEXT, Ink::Text, HPos::Left, VPos::Top);
    let measured = style.font.box_size(text).map_or(0.0, |(width, _)| f64::from(width) / FINE);
    // Characters that the embedded font lacks count as wide ones.
    measured.max(text.chars().count() as f64 * 3.0)
}

/// The SVG library divides sizes of fonts by this, and the measure of texts takes them for the height of a line, not of
/// the em square: with this font both come to the same.
const SIZE_FACTOR: f64 = 1.24;

fn style(pixels: f64, ink: Ink, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    let font = FontDesc::new(FontFamily::Name(FAMILY), pixels * FINE * SIZE_FACTOR, FontStyle::Normal);
    font.color(&ink.rgb()).pos(Pos::new(horizontal, vertical))
}

fn stroke(ink: Ink, pixels: f64) -> ShapeStyle {
    ink.rgb().stroke_width((pixels * FINE) as u32)
}

/// A place on the canvas.
fn at(x: f64, y: f64) -> (i32, i32) {
    ((x * FINE).round() as i32, (y * FINE).round() as i32)
}

fn register_font() -> Result<(), String> {
    let registered = plotters::style::register_font(FAMILY, FontStyle::Normal, FONT);
    registered.map_err(|_| "the embedded font is damaged".to_owned())
}

#[cfg(test)]
mod tests;
