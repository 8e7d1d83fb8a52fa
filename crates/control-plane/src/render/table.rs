//! Columns of text that fit a terminal.

use textwrap::core::display_width;

/// On which side the text of a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// What becomes of a column where the table is too wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It stays as it is.
    Stays,
    /// Its texts are cut.
    Cut,
    /// It is left out, the last one first, where cutting alone would leave too little.
    Omitted,
}

/// A column of a table.
pub(super) struct Column {
    pub heading: &'static str,
    pub align: Align,
    pub fit: Fit,
}

const GAP: &str = "  ";
/// What is left of a text that is cut, at least.
const SHORTEST: usize = 6;
/// What is left of it before columns are left out.
const READABLE: usize = 16;

/// A line of headings and a line a row. Where they are wider than `width`, columns are cut or left out as
/// [`Fit`] says, and lines are cut where that is not enough.
pub(super) fn lay_out<const N: usize>(columns: &[Column; N], rows: &[[String; N]], width: usize) -> String {
    let headings = columns.each_ref().map(|column| column.heading.to_owned());
    let lines: Vec<&[String; N]> = std::iter::once(&headings).chain(rows).collect();
    let mut widths = [0; N];
    for line in &lines {
        for (widest, text) in widths.iter_mut().zip(*line) {
            *widest = display_width(text).max(*widest);
        }
    }
    shrink(columns, &mut widths, width);
    let lines = lines.iter().map(|line| {
        let cells = columns.iter().zip(&widths).zip(*line).filter(|((_, width), _)| **width > 0);
        let cells: Vec<_> = cells.map(|((column, width), text)| cell(text, *width, column.align)).collect();
        cut(cells.join(GAP).trim_end(), width)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn shrink<const N: usize>(columns: &[Column; N], widths: &mut [usize; N], width: usize) {
    let total = |widths: &[usize; N]| {
        let used = widths.iter().filter(|width| **width > 0).count();
        widths.iter().sum::<usize>() + GAP.len() * used.saturating_sub(1)
    };
    loop {
        let readable: [usize; N] = std::array::from_fn(|at| match columns[at].fit {
            Fit::Cut => widths[at].min(READABLE),
            Fit::Stays | Fit::Omitted => widths[at],
        });
        let omitted = (0..N).rev().find(|&at| columns[at].fit == Fit::Omitted && widths[at] > 0);
        match omitted {
            Some(at) if total(&readable) > width => widths[at] = 0,
            _ => break,
        }
    }
    while total(widths) > width {
        let candidates = (0..N).filter(|&at| columns[at].fit == Fit::Cut && widths[at] > SHORTEST);
        let Some(widest) = candidates.max_by_key(|&at| widths[at]) else { return };
        widths[widest] -= 1;
    }
}

fn cell(text: &str, width: usize, align: Align) -> String {
    let text = cut(text, width);
    let padding = " ".repeat(width.saturating_sub(display_width(&text)));
    match align {
        Align::Left => text + &padding,
        Align::Right => padding + &text,
    }
}

/// A text of at most `width` columns; what was cut ends in an ellipsis.
fn cut(text: &str, width: usize) -> String {
    if display_width(text) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for letter in text.chars() {
        kept.push(letter);
        if display_width(&kept) >= width {
            kept.pop();
            break;
        }
    }
    kept.push('…');
    kept
}
