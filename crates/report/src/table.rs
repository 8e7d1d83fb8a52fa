//! The table as text, CSV, LaTeX, Markdown and JSON.

use std::fmt::Write;

use unicode_width::UnicodeWidthStr;

use crate::collect::{Row, Table};
use crate::numbers::{bytes, fixed, thousands};
use crate::stats::Spread;
use crate::{ReportError, escape};

/// Column headings with their alignment, and the cells: what all forms for people have in common.
pub(crate) struct Grid {
    pub(crate) head: Vec<(String, Align)>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// Where a column's cells are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// What the columns with two numbers mean; below every table for people.
const LEGEND: [&str; 2] = [
    "± is the sample standard deviation over seeds (n − 1)",
    "'median (sd)': with the population standard deviation (n), both × 100, as the official collectors print it",
];

impl Table {
    /// A table for a terminal, aligned by the width of the characters.
    pub fn text(&self) -> String {
        let grid = self.grid();
        let width = |at: usize| {
            let cells = grid.rows.iter().map(|row| row[at].width());
            cells.chain([grid.head[at].0.width()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..grid.head.len()).map(width).collect();
        let line = |cells: &mut dyn Iterator<Item = &String>| {
            let padded = cells.enumerate().map(|(at, cell)| {
                let space = " ".repeat(widths[at] - cell.width());
                if grid.head[at].1 == Align::Left {
                    format!("{cell}{space}")
                } else {
                    format!("{space}{cell}")
                }
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let mut text = String::new();
        if !grid.rows.is_empty() {
            let _ = writeln!(text, "{}", line(&mut grid.head.iter().map(|(name, _)| name)));
            let rule = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
            let _ = writeln!(text, "{}", "─".repeat(rule));
        }
        for row in &grid.rows {
            let _ = writeln!(text, "{}", line(&mut row.iter()));
        }
        self.below(&mut text, "", "  ");
        text
    }

    /// A GitHub-flavoured Markdown table.
    pub fn markdown(&self) -> String {
        let grid = self.grid();
        let mut text = String::new();
        if !grid.rows.is_empty() {
            let names: Vec<String> = grid.head.iter().map(|(name, _)| escape::markdown(name)).collect();
            let rules = grid.head.iter().map(|(_, align)| if *align == Align::Left { ":--" } else { "--:" });
            let _ = writeln!(text, "| {} |\n|{}|", names.join(" | "), rules.collect::<Vec<_>>().join("|"));
        }
        for row in &grid.rows {
            let cells: Vec<String> = row.iter().map(|cell| escape::markdown(cell)).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        self.below(&mut text, "\n", "- ");
        text
    }

    /// A LaTeX table for the package booktabs; notes are comments below it.
    pub fn latex(&self) -> String {
        let grid = self.grid();
        let columns: String =
            grid.head.iter().map(|(_, align)| if *align == Align::Left { 'l' } else { 'r' }).collect();
        let line = |cells: &mut dyn Iterator<Item = &String>| {
            cells.map(|cell| escape::latex(cell)).collect::<Vec<_>>().join(" & ") + r" \\"
        };
        let mut text = format!("% \\usepackage{{booktabs}}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n");
        let _ = writeln!(text, "{}\n\\midrule", line(&mut grid.head.iter().map(|(name, _)| name)));
        for row in &grid.rows {
            let _ = writeln!(text, "{}", line(&mut row.iter()));
        }
        text.push_str("\\bottomrule\n\\end{tabular}\n");
        let mut notes = String::new();
        self.below(&mut notes, "", "  ");
        for note in notes.lines() {
            let _ = writeln!(text, "% {note}");
        }
        text
    }

    /// Comma-separated values with plain numbers; what is left out are rows of their own with the reason as `status`.
    ///
    /// # Errors
    /// [`ReportError::Page`] when the writer refuses, which is a fault of this program.
    pub fn csv(&self) -> Result<String, ReportError> {
        let refused = |error: String| ReportError::Page { what: "CSV table", reason: error };
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut head: Vec<String> = ["model", "task", "d", "settings", "seeds", "steps", "final_loss_mean"]
            .into_iter()
            .chain(["final_loss_sd", "held_out_loss_mean", "held_out_loss_sd"])
            .map(str::to_owned)
            .collect();
        for dataset in &self.datasets {
            let names = ["mean", "sd", "median", "population_sd"];
            head.extend(names.map(|name| format!("accuracy_{}_{name}", escape::csv(dataset))));
        }
        head.extend(["trainable", "adapter_bytes", "status", "runs"].map(str::to_owned));
        writer.write_record(&head).map_err(|error| refused(error.to_string()))?;
        for row in &self.rows {
            writer.write_record(csv_row(row)).map_err(|error| refused(error.to_string()))?;
        }
        for left in &self.left_out {
            let mut cells = vec![String::new(); head.len() - 2];
            cells.extend([escape::csv(&left.reason), escape::csv(&left.path)]);
            writer.write_record(cells).map_err(|error| refused(error.to_string()))?;
        }
        let written = writer.into_inner().map_err(|error| refused(error.to_string()))?;
        String::from_utf8(written).map_err(|error| refused(error.to_string()))
    }

    /// All there is to know, as JSON.
    ///
    /// # Errors
    /// [`ReportError::Page`] when it cannot be serialised, which is a fault of this program.
    pub fn json(&self) -> Result<String, ReportError> {
        let refused =
            |error: serde_json::Error| ReportError::Page { what: "JSON table", reason: error.to_string() };
        Ok(serde_json::to_string_pretty(self).map_err(refused)? + "\n")
    }

    /// The cells as people read them. A column in which no row has anything is left out.
    pub(crate) fn grid(&self) -> Grid {
        let mut columns: Vec<(String, Align, Vec<String>)> = Vec::new();
        let mut column = |name: &str, align, cell: &dyn Fn(&Row) -> String| {
            let cells: Vec<String> = self.rows.iter().map(cell).collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                columns.push((name.to_owned(), align, cells));
            }
        };
        let integer = |value: Option<u64>| value.map(thousands).unwrap_or_default();
        column("model", Align::Left, &|row| row.model.clone());
        column("task", Align::Left, &|row| row.task.clone());
        column("d", Align::Right, &|row| integer(row.d));
        column("settings", Align::Left, &|row| row.settings.clone());
        column("seeds", Align::Right, &|row| {
            Some(row.seeds).filter(|seeds| *seeds > 0).map(|seeds| seeds.to_string()).unwrap_or_default()
        });
        column("steps", Align::Right, &|row| integer(row.steps));
        column("final loss", Align::Right, &|row| mean_sd(row.final_loss, 1.0, 4));
        column("held-out loss", Align::Right, &|row| mean_sd(row.held_out_loss, 1.0, 4));
        for (at, dataset) in self.datasets.iter().enumerate() {
            column(&format!("{dataset}, %"), Align::Right, &|row| mean_sd(row.accuracy[at], 100.0, 1));
            column(&format!("{dataset}, median (sd)"), Align::Right, &|row| official(row.accuracy[at]));
        }
        column("trainable", Align::Right, &|row| integer(row.d));
        column("adapter", Align::Right, &|row| row.adapter_bytes.map(bytes).unwrap_or_default());
        let rows = (0..self.rows.len()).map(|at| columns.iter().map(|column| column.2[at].clone()).collect());
        let rows = rows.collect();
        Grid { rows, head: columns.into_iter().map(|(name, align, _)| (name, align)).collect() }
    }

    /// What stands below a table: legend, runs that are left out, remarks.
    fn below(&self, text: &mut String, between: &str, bullet: &str) {
        if !self.rows.is_empty() {
            let _ = writeln!(text, "{between}{}\n{between}{}", LEGEND[0], LEGEND[1]);
        }
        let lines = |text: &mut String, title: &str, lines: Vec<String>| {
            if !lines.is_empty() {
                let _ = writeln!(text, "{between}{title}:{between}");
                lines.iter().for_each(|line| {
                    let _ = writeln!(text, "{bullet}{}", escape::one_line(line));
                });
            }
        };
        let left_out = self.left_out.iter().map(|left| format!("{}: {}", left.path, left.reason));
        lines(text, "not in the table", left_out.collect());
        lines(text, "remarks", self.remarks.clone());
    }
}

fn csv_row(row: &Row) -> Vec<String> {
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    let integer = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    let mut cells =
        vec![escape::csv(&row.model), escape::csv(&row.task), integer(row.d), escape::csv(&row.settings)];
    cells.extend([row.seeds.to_string(), integer(row.steps)]);
    for spread in [row.final_loss, row.held_out_loss] {
        cells.extend([number(spread.map(|s| s.mean)), number(spread.and_then(|s| s.sample_sd))]);
    }
    for spread in &row.accuracy {
        cells.extend([number(spread.map(|s| s.mean)), number(spread.and_then(|s| s.sample_sd))]);
        cells.extend([number(spread.map(|s| s.median)), number(spread.map(|s| s.population_sd))]);
    }
    let status = if row.seeds == 0 { "base model" } else { "finished" };
    let runs = escape::csv(&row.runs.join(" "));
    cells.extend([integer(row.d), integer(row.adapter_bytes), status.to_owned(), runs]);
    cells
}

/// Mean ± sample standard deviation, or the one value.
pub(crate) fn mean_sd(spread: Option<Spread>, factor: f64, decimals: usize) -> String {
    let Some(spread) = spread else { return String::new() };
    let mean = fixed(spread.mean * factor, decimals);
    match spread.sample_sd {
        Some(sd) => format!("{mean} ± {}", fixed(sd * factor, decimals)),
        None => mean,
    }
}

/// Median and population standard deviation × 100 with one decimal, as the official collectors print them.
pub(crate) fn official(spread: Option<Spread>) -> String {
    spread.map_or(String::new(), |s| format!("{:.1} ({:.1})", s.median * 100.0, s.population_sd * 100.0))
}

#[cfg(test)]
mod tests;
