//! The page and the Markdown text of a report.

mod answers;
mod facts;

use base64::Engine;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;

use crate::collect::Table;
use crate::isometry::Isometry;
use crate::plot::{Layer, Plot, theme_css};
use crate::stats::Distribution;
use crate::table::Align;
use crate::{Evaluation, ReportError, Run, escape};

/// By this a file is known as written by this command.
pub(crate) const MARK: &str = "<!-- gpart-dist report -->";

const TEMPLATE: &str = include_str!("page/page.html");
/// The font of the plots, so that their texts have the widths that were reckoned with.
static FONT: &[u8] = include_bytes!("../assets/Inter-Regular-subset.woff2");

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// What a report tells.
pub(crate) struct Content<'a> {
    /// Group by group.
    pub(crate) runs: Vec<&'a Run>,
    pub(crate) table: &'a Table,
    /// Evaluations of no run.
    pub(crate) others: &'a [Evaluation],
    /// Of θ, by run.
    pub(crate) shapes: &'a [(String, Option<Distribution>)],
    pub(crate) isometry: &'a [(String, Result<Isometry, String>)],
    /// With their drawings.
    pub(crate) plots: Vec<(&'a Plot, &'a str)>,
    pub(crate) answer_bytes: usize,
}

impl Content<'_> {
    fn title(&self) -> String {
        match self.runs[..] {
            [run] => run.name.clone(),
            _ => format!("{} runs", self.runs.len()),
        }
    }

    /// What is missing or odd, run by run.
    fn notes(&self) -> Vec<(String, Vec<String>)> {
        let of_run = |run: &&Run| {
            let status = match &run.status {
                crate::Status::Unfinished(reason) => Some(format!("unfinished: {reason}")),
                _ => None,
            };
            let notes: Vec<String> = status.into_iter().chain(run.notes.iter().cloned()).collect();
            (!notes.is_empty()).then(|| (run.name.clone(), notes))
        };
        let others = self.others.iter().filter(|other| !other.notes.is_empty());
        let others = others.map(|other| (other.file.display().to_string(), other.notes.clone()));
        self.runs.iter().filter_map(of_run).chain(others).collect()
    }
}

/// The page: one HTML file that needs no other and no network.
///
/// # Errors
/// [`ReportError::Page`] when the template refuses, which is a fault of this program.
pub(crate) fn html(content: &Content) -> Result<String, ReportError> {
    let refused = |error: minijinja::Error| ReportError::Page { what: "page", reason: format!("{error:#}") };
    let mut environment = Environment::new();
    // The name's ending turns on the escaping of everything that is not marked as safe.
    environment.add_template("page.html", TEMPLATE).map_err(refused)?;
    let safe = Value::from_safe_string;
    let theme = format!("@media(prefers-color-scheme:dark){{{}}}", theme_css(".plot"));
    let font = base64::engine::general_purpose::STANDARD.encode(FONT);
    let font = format!("@font-face{{font-family:Inter;src:local(Inter),url(data:font/woff2;base64,{font})}}");
    let answers = answers::embed(content);
    let grid = content.table.grid();
    let plots = content.plots.iter().map(|(plot, drawing)| {
        context! {
            name => &plot.name, title => &plot.title, caption => &plot.caption, drawing => safe((*drawing).to_owned()),
            data => safe(hover_data(plot)), part => part_of(plot),
        }
    });
    let page = context! {
        mark => safe(MARK.to_owned()),
        title => content.title(),
        style => safe(font + STYLE + &theme),
        script => safe(SCRIPT.to_owned()),
        several => content.runs.len() > 1,
        notes => of(content.notes()),
        cards => of(facts::cards(content)),
        details => of(facts::details(content)),
        head => of(grid.head.iter().map(|(name, align)| (name, *align == Align::Right)).collect::<Vec<_>>()),
        rows => of(&grid.rows),
        runs => of(facts::run_rows(content)),
        plots => plots.collect::<Vec<_>>(),
        theta => of(facts::theta_rows(content)),
        isometry => of(facts::isometry_rows(content)),
        split => of(facts::split_rows(content)),
        evaluations => of(facts::evaluation_rows(content)),
        evaluation_config => of(facts::evaluation_config(content)),
        answers => answers.as_ref().map(|answers| context! {
            json => safe(answers.json.clone()), note => &answers.note, samples => of(&answers.samples),
        }),
        config => of(facts::config(content)),
        version => env!("CARGO_PKG_VERSION"),
    };
    environment.get_template("page.html").and_then(|template| template.render(page)).map_err(refused)
}

/// For the template.
fn of(value: impl Serialize) -> Value {
    Value::from(Serde(value))
}

/// The same in Markdown, without plots: the table, what is missing, and each run's facts.
pub(crate) fn markdown(content: &Content) -> String {
    let mut text =
        format!("{MARK}\n# {}\n\n{}", escape::markdown(&content.title()), content.table.markdown());
    let mut section = |title: &str, head: &[&str], rows: Vec<Vec<String>>| {
        if rows.is_empty() {
            return;
        }
        let names: Vec<String> = head.iter().map(|name| escape::markdown(name)).collect();
        let rule = "|---".repeat(head.len());
        text.push_str(&format!("\n## {title}\n\n| {} |\n{rule}|\n", names.join(" | ")));
        for row in rows {
            let cells: Vec<String> = row.iter().map(|cell| escape::markdown(cell)).collect();
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
    };
    let unfinished = content.runs.iter().filter_map(|run| match &run.status {
        crate::Status::Unfinished(reason) => Some(vec![run.name.clone(), reason.clone()]),
        _ => None,
    });
    section("Unfinished", &["run", "why"], unfinished.collect());
    let pairs = facts::details(content).into_iter().map(|(name, value)| vec![name, value]);
    section("Run", &["", ""], pairs.collect());
    section(
        "Runs",
        &facts::RUN_HEAD,
        if content.runs.len() > 1 { facts::run_rows(content) } else { Vec::new() },
    );
    section("θ", &facts::THETA_HEAD, facts::theta_rows(content));
    section("Isometry", &facts::ISOMETRY_HEAD, facts::isometry_rows(content));
    section("Evaluations", &facts::EVALUATION_HEAD, facts::evaluation_rows(content));
    text
}

/// The page's section that a plot belongs to.
fn part_of(plot: &Plot) -> &'static str {
    match plot.name.as_str() {
        "step_time" | "memory" => "time",
        name if name.starts_with("theta") => "theta",
        name if name.starts_with("accuracy") || name.starts_with("held_out") => "result",
        _ => "training",
    }
}

/// The values of curves, points and histograms for tooltips, as JSON. Bars in rows have their numbers in a table.
fn hover_data(plot: &Plot) -> String {
    let round = |value: f64| format!("{value:.6e}").parse().unwrap_or(value);
    let pair = |x: f64, y: f64| (y.is_finite()).then(|| [round(x), round(y)]);
    let series = plot.layers.iter().filter(|_| plot.rows.is_none()).filter_map(|layer| {
        let (label, ink, points): (&str, _, Vec<[f64; 2]>) = match layer {
            Layer::Line { label, ink, points, .. } => {
                (label, ink, points.iter().filter_map(|(x, y)| pair(*x, *y)).collect())
            }
            Layer::Points { label, ink, points } => {
                (label, ink, points.iter().filter_map(|mark| pair(mark.x, mark.y)).collect())
            }
            Layer::Bars { ink, bars } => {
                let middle = |[from, to]: &[(f64, f64); 2]| pair((from.0 + to.0) / 2.0, to.1);
                ("numbers in bin", ink, bars.iter().filter_map(middle).collect())
            }
            Layer::Band { .. } | Layer::Level { .. } => return None,
        };
        let is_only_joining = label.is_empty() && matches!(layer, Layer::Line { .. });
        let label = if label.is_empty() { &plot.y.label } else { label };
        (!is_only_joining && !points.is_empty())
            .then(|| serde_json::json!({"label": label, "color": ink.hex(), "points": points}))
    });
    let data = serde_json::json!({"x": plot.x.label, "series": series.collect::<Vec<_>>()});
    escape::script_json(&data.to_string())
}

#[cfg(test)]
mod tests;
