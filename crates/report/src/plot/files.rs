//! Drawings as files, and inside of a page.

use std::fmt::Write;
use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg;

use super::draw::{Drawing, FAMILY, FINE, FONT};
use super::{Ink, theme_css};
use crate::ReportError;
use crate::escape::xml;

/// Pixels of a PNG for each of the drawing's: sharp on paper and on dense screens.
const PNG_SCALE: f32 = 2.0;

/// An `svg` element for a page, which shows it as wide as there is room. `class` tells it from its other sizes.
pub(crate) fn inline_svg(drawing: &Drawing, class: &str, label: &str) -> String {
    let [left, top, right, bottom] = drawing.area;
    let (x, y) = (&drawing.x, &drawing.y);
    format!(
        "<svg class=\"plot {class}\" role=\"img\" aria-label=\"{}\" viewBox=\"0 0 {} {}\" {STROKES} \
         data-area=\"{left:.1} {top:.1} {right:.1} {bottom:.1}\" data-x=\"{} {} {}\" data-y=\"{} {} {}\">{}</svg>",
        xml(label),
        drawing.width * FINE,
        drawing.height * FINE,
        x.low,
        x.high,
        x.log,
        y.low,
        y.high,
        y.log,
        drawing.elements,
    )
}

/// An SVG file, which follows the viewer's light or dark theme.
pub(crate) fn standalone_svg(drawing: &Drawing, title: &str) -> String {
    let (width, height) = (drawing.width, drawing.height);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {} {}\" \
         {STROKES}><title>{}</title>",
        width * FINE,
        height * FINE,
        xml(title),
    );
    let _ = write!(svg, "<style>@media (prefers-color-scheme:dark){{{}}}</style>", theme_css("svg"));
    let surface = Ink::Surface.hex();
    let _ =
        writeln!(svg, "<rect width=\"100%\" height=\"100%\" fill=\"{surface}\"/>{}</svg>", drawing.elements);
    svg
}

const STROKES: &str = "stroke-linejoin=\"round\" stroke-linecap=\"butt\"";

/// A PNG of an SVG file, drawn with the embedded font.
///
/// # Errors
/// [`ReportError::Plot`] when it cannot be drawn, which is a fault of this program.
pub(crate) fn png(svg: &str, name: &str) -> Result<Vec<u8>, ReportError> {
    let refused = |reason: String| ReportError::Plot { plot: name.to_owned(), reason };
    let tree = parse(svg).map_err(&refused)?;
    let size =
        tree.size().to_int_size().scale_by(PNG_SCALE).ok_or_else(|| refused("its size is nothing".into()))?;
    let mut pixels =
        Pixmap::new(size.width(), size.height()).ok_or_else(|| refused("it is too large".into()))?;
    resvg::render(&tree, Transform::from_scale(PNG_SCALE, PNG_SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| refused(error.to_string()))
}

/// Parses an SVG with the embedded font and no other.
pub(crate) fn parse(svg: &str) -> Result<usvg::Tree, String> {
    let mut options = usvg::Options::default();
    let fonts = Arc::make_mut(&mut options.fontdb);
    fonts.load_font_data(FONT.to_vec());
    debug_assert!(FAMILY.starts_with("Inter"));
    usvg::Tree::from_str(svg, &options).map_err(|error| error.to_string())
}
