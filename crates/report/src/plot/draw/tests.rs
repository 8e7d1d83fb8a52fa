#![allow(clippy::unwrap_used)]

use super::super::files::{inline_svg, parse, png, standalone_svg};
use super::super::{Axis, Symbol};
use super::*;

const FRAME: Frame = Frame { width: 620.0, height: 330.0, heading: true };

fn plot(points: Vec<(f64, f64)>, labels: &[&str]) -> Plot {
    let entry =
        |label: &&str| Entry { label: (*label).to_owned(), ink: Ink::Series(0), symbol: Symbol::Line };
    Plot {
        name: "test".to_owned(),
        title: "A <title> & \u{1b}[31m\u{0}".to_owned(),
        caption: String::new(),
        x: Axis { label: "step \"x\"".to_owned(), integer: true, ..Axis::default() },
        y: Axis { label: "<loss>".to_owned(), ..Axis::default() },
        layers: vec![Layer::Line {
            points,
            ink: Ink::Series(0),
            width: 2.0,
            dashed: true,
            opacity: 1.0,
            label: String::new(),
        }],
        legend: labels.iter().map(entry).collect(),
        rows: None,
    }
}

/// Draws it and parses what was drawn.
#[track_caller]
fn check(plot: &Plot) -> Drawing {
    let drawing = draw(plot, FRAME).unwrap();
    let svg = standalone_svg(&drawing, &plot.title);
    let tree = parse(&svg).unwrap();
    assert_eq!(
        (f64::from(tree.size().width()), f64::from(tree.size().height())),
        (drawing.width, drawing.height)
    );
    let inline = inline_svg(&drawing, "wide", &plot.title).replacen(
        "<svg",
        "<svg xmlns=\"http://www.w3.org/2000/svg\"",
        1,
    );
    parse(&inline).unwrap();
    drawing
}

#[test]
fn whatever_is_plotted_is_well_formed() {
    check(&plot(vec![], &[]));
    check(&plot(vec![(1.0, 2.5)], &["one </svg><script>"]));
    check(&plot(vec![(1.0, 2.5), (2.0, f64::NAN), (3.0, f64::INFINITY), (4.0, -1e300)], &["'\"&\u{ffff}"]));
    check(&plot(vec![(1.0, -f64::MAX), (2.0, f64::MAX)], &[]));
    check(&plot(vec![(-f64::MAX, 1.0), (f64::MAX, 5e-324)], &[&"long ".repeat(10_000)]));
    check(&plot((0..12).map(|x| (f64::from(x), 0.0)).collect(), &["模型 · naïve"]));
    let mut bars = plot(vec![(0.0, 0.0)], &[]);
    bars.layers.push(Layer::Bars { bars: vec![[(0.0, 0.3), (5.0, -0.3)]], ink: Ink::Series(1) });
    bars.y.named = vec![(0.0, "a very long name of a run ".repeat(20))];
    bars.rows = Some(1);
    check(&bars);
}

#[test]
fn the_legend_lies_above_the_data() {
    let labels: Vec<String> =
        (0..14).map(|k| format!("learning-rate 0.000{k}, d 524,288 (3 seeds)")).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let plot = plot(vec![(0.0, 1.0), (1.0, 2.0)], &labels);
    let (drawing, layout) = (check(&plot), Layout::new(&plot, FRAME));
    let last_line = layout.legend.last().unwrap().1;
    assert!(last_line > 2, "{last_line}");
    assert!(layout.legend_top + (last_line + 1) as f64 * LINE_HEIGHT < layout.area[1]);
    for ((left, line), label) in layout.legend.iter().zip(&labels) {
        let end = left + 24.0 + text_width(label);
        assert!(end <= FRAME.width, "{label} ends at {end}");
        let next = layout.legend.iter().find(|(other, other_line)| other_line == line && other > left);
        assert!(next.is_none_or(|(next, _)| *next > end));
    }
    assert!(drawing.area[3] < drawing.height && drawing.area[2] < drawing.width);
}

#[test]
fn names_are_cut_in_their_middle() {
    let long = "r-metamath-llama-3.1-8b-seed-12 · rank 3";
    assert_eq!(shorten(long, 1000.0), long);
    let short = shorten(long, 120.0);
    assert!(text_width(&short) <= 120.0 && short.starts_with("r-m") && short.ends_with("rank 3"), "{short}");
    assert_eq!(shorten("wide", 1.0), "…");
}

#[test]
fn pictures_have_ink() {
    let drawing = draw(&plot(vec![(0.0, 1.0), (1.0, 2.0)], &["a"]), FRAME).unwrap();
    let bytes = png(&standalone_svg(&drawing, "t"), "t").unwrap();
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"));
    let pixels = resvg::tiny_skia::Pixmap::decode_png(&bytes).unwrap();
    let color = |red, green, blue| {
        move |pixel: &&resvg::tiny_skia::PremultipliedColorU8| {
            (pixel.red(), pixel.green(), pixel.blue()) == (red, green, blue)
        }
    };
    // A light page, the blue of the first curve and dark text: glyphs are there without any font of the host.
    assert!(pixels.pixels().iter().filter(color(255, 255, 255)).count() > pixels.pixels().len() / 2);
    assert!(pixels.pixels().iter().filter(color(0x00, 0x72, 0xb2)).count() > 200);
    assert!(pixels.pixels().iter().filter(color(0x1f, 0x23, 0x28)).count() > 50);
}
