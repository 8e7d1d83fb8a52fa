//! A report's files.

use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::write_atomic;
use rayon::prelude::*;

use crate::group::{Group, group};
use crate::isometry::Isometry;
use crate::page::{self, Content};
use crate::plot::{Drawing, Frame, Plot, draw, inline_svg, png, standalone_svg};
use crate::stats::Distribution;
use crate::{Evaluation, ReportError, Run, collect, figures};

/// How a report is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where it is written. The folder is made; a report that this command wrote there is written over.
    pub output: PathBuf,
    /// Whether ‖ΔW‖ is added up over the weights (seconds for a billion of them).
    pub isometry: bool,
    /// How many bytes of questions and answers the page holds at most, before they are escaped.
    pub answer_bytes: usize,
}

impl Options {
    /// The usual report into a folder: with the check, and 4 MB of answers.
    pub fn new(output: impl Into<PathBuf>) -> Self {
        Self { output: output.into(), isometry: true, answer_bytes: 4_000_000 }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// `report.html`.
    pub page: PathBuf,
    /// `report.md`.
    pub markdown: PathBuf,
    /// Each plot as `plots/NAME.svg` and `plots/NAME.png`.
    pub plots: Vec<PathBuf>,
    /// Of each run that has an adapter, what the check found or why there was none.
    pub isometry: Vec<(String, Result<Isometry, String>)>,
}

/// Writes the page, the table and the plots of some runs. `others` are evaluations of no run among them, such as of the
/// base model (see [`attach`](crate::attach)).
///
/// # Errors
/// Without runs; when the output folder holds another's `report.html` or cannot be written to.
pub fn report(runs: &[Run], others: &[Evaluation], options: &Options) -> Result<Written, ReportError> {
    if runs.is_empty() {
        return Err(ReportError::NoRuns);
    }
    refuse_twice(runs)?;
    let plots_folder = options.output.join("plots");
    let (page_file, markdown_file) = (options.output.join("report.html"), options.output.join("report.md"));
    refuse_foreign(&page_file, page::MARK)?;
    refuse_foreign(&markdown_file, page::MARK)?;
    fs::create_dir_all(&plots_folder)
        .map_err(|source| ReportError::Output { folder: options.output.clone(), source })?;

    let groups = group(runs);
    let shapes: Vec<(String, Option<Distribution>)> =
        ordered(&groups).map(|run| (run.name.clone(), shape_of(run))).collect();
    let bases: Vec<&Evaluation> = others.iter().filter(|other| other.adapter_path.is_none()).collect();
    let plots = figures::all(&groups, &bases, &shapes);
    let drawn: Vec<Drawn> = plots.par_iter().map(Drawn::new).collect::<Result<_, _>>()?;
    let isometry = if options.isometry { check_all(&groups) } else { Vec::new() };
    let table = collect::of_groups(&groups, &bases);
    let content = Content {
        runs: ordered(&groups).collect(),
        table: &table,
        others,
        shapes: &shapes,
        isometry: &isometry,
        plots: plots.iter().zip(&drawn).map(|(plot, drawn)| (plot, drawn.inline.as_str())).collect(),
        answer_bytes: options.answer_bytes,
    };
    let has_page = page_file.exists();
    let html = page::html(&content)?;
    let markdown = page::markdown(&content);

    let file = |plot: &Plot, extension: &str| plots_folder.join(format!("{}.{extension}", plot.name));
    // Without a page of ours beside them, plots of the same names are not ours either.
    let mut paths = plots.iter().flat_map(|plot| [file(plot, "svg"), file(plot, "png")]);
    if let Some(path) = paths.find(|path| !has_page && path.exists()) {
        return Err(ReportError::Foreign { path });
    }
    let mut files = Vec::new();
    for (plot, drawn) in plots.iter().zip(&drawn) {
        let file = |extension: &str| file(plot, extension);
        write_atomic(&file("svg"), &[drawn.svg.as_bytes()])?;
        write_atomic(&file("png"), &[&drawn.png])?;
        files.extend([file("svg"), file("png")]);
    }
    write_atomic(&markdown_file, &[markdown.as_bytes()])?;
    write_atomic(&page_file, &[html.as_bytes()])?;
    Ok(Written { page: page_file, markdown: markdown_file, plots: files, isometry })
}

/// A plot in all its forms.
struct Drawn {
    inline: String,
    svg: String,
    png: Vec<u8>,
}

/// In a page's column, on a telephone, and as a file: pixels.
const WIDE: Frame = Frame { width: 620.0, height: 330.0, heading: false };
const NARROW: Frame = Frame { width: 360.0, height: 270.0, heading: false };
const FILE: Frame = Frame { width: 720.0, height: 400.0, heading: true };

impl Drawn {
    fn new(plot: &Plot) -> Result<Self, ReportError> {
        let page = |frame, class| -> Result<String, ReportError> {
            let drawing: Drawing = draw(plot, frame)?;
            Ok(inline_svg(&drawing, class, &format!("{}. {}", plot.title, plot.caption)))
        };
        let inline = page(WIDE, "wide")? + &page(NARROW, "narrow")?;
        let svg = standalone_svg(&draw(plot, FILE)?, &plot.title);
        let png = png(&svg, &plot.name)?;
        Ok(Self { inline, svg, png })
    }
}

/// All runs, group by group.
fn ordered<'a>(groups: &'a [Group<'a>]) -> impl Iterator<Item = &'a Run> {
    groups.iter().flat_map(|group| group.runs.iter().copied())
}

fn shape_of(run: &Run) -> Option<Distribution> {
    run.adapter.as_ref().and_then(|adapter| Distribution::of(&adapter.theta))
}

fn check_all(groups: &[Group]) -> Vec<(String, Result<Isometry, String>)> {
    let mut counted = None;
    let checked = ordered(groups).filter_map(|run| {
        let adapter = run.adapter.as_ref()?;
        let weights = run.facts.as_ref().and_then(|facts| facts.adapted_weights);
        let fingerprint = run.facts.as_ref().and_then(|facts| facts.partition_fingerprint.as_deref());
        Some((run.name.clone(), Isometry::check_with(adapter, weights, fingerprint, &mut counted)))
    });
    checked.collect()
}

fn refuse_twice(runs: &[Run]) -> Result<(), ReportError> {
    let mut seen = Vec::new();
    for run in runs {
        let folder = fs::canonicalize(&run.folder).unwrap_or_else(|_| run.folder.clone());
        if seen.contains(&folder) {
            return Err(ReportError::Twice { folder: run.folder.clone() });
        }
        seen.push(folder);
    }
    Ok(())
}

/// A file that does not bear our mark is somebody's.
fn refuse_foreign(path: &Path, mark: &str) -> Result<(), ReportError> {
    let foreign = match fs::read_to_string(path) {
        Ok(text) => !text.contains(mark),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    if foreign && path.exists() { Err(ReportError::Foreign { path: path.to_owned() }) } else { Ok(()) }
}
