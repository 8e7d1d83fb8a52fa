//! What can go wrong in reading runs and writing reports.

use std::path::PathBuf;

use miette::Diagnostic;
use thiserror::Error;

/// A report that is refused or that failed.
#[derive(Debug, Error, Diagnostic)]
pub enum ReportError {
    /// A folder that holds nothing of a run.
    #[error("{} is not a run's folder: {reason}", folder.display())]
    #[diagnostic(
        code(input::report_run),
        help("name the output folder of a run; it holds run.json, metrics.jsonl and adapter_config.json")
    )]
    NotARun {
        /// The folder.
        folder: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// Nothing to report on.
    #[error("no run was given")]
    #[diagnostic(code(input::report_empty), help("name one or more output folders of runs"))]
    NoRuns,
    /// A run that is there twice, which would count as two seeds.
    #[error("the run {} was given twice", folder.display())]
    #[diagnostic(code(input::report_twice), help("name each run once"))]
    Twice {
        /// The folder.
        folder: PathBuf,
    },
    /// A folder of runs without any.
    #[error("no run was found in {}", folder.display())]
    #[diagnostic(
        code(input::report_empty),
        help(
            "a run's folder holds run.json, metrics.jsonl or adapter_config.json; hidden folders are left out"
        )
    )]
    NothingFound {
        /// The folder.
        folder: PathBuf,
    },
    /// A file with evaluation results that is not one.
    #[error("{} is not a file of evaluation results: {reason}", file.display())]
    #[diagnostic(
        code(input::report_evaluation),
        help(
            "`gpart-dist eval` and the official evaluation write such files; is this one cut or another kind?"
        )
    )]
    Evaluation {
        /// The file.
        file: PathBuf,
        /// What does not fit, and where.
        reason: String,
    },
    /// A file or folder that cannot be read.
    #[error("cannot read {}", path.display())]
    #[diagnostic(code(input::report_read), help("does it exist, and may you read it?"))]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A file of the output that is not ours to write over.
    #[error("{} exists and was not written by this command", path.display())]
    #[diagnostic(code(input::report_exists), help("name another folder with --output"))]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The output is a file, or its path leads through one.
    #[error("the output folder {} cannot be made", folder.display())]
    #[diagnostic(code(input::report_output), help("name a folder that you may write to with --output"))]
    Output {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A file that could not be written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Write(#[from] checkpoint::CheckpointError),
    /// A partition that cannot be drawn again.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Partition(#[from] partition::PartitionError),
    /// A plot that could not be drawn: a fault of this program.
    #[error("the plot '{plot}' could not be drawn: {reason}")]
    #[diagnostic(code(run::report_plot), help("please report this with the run's metrics.jsonl"))]
    Plot {
        /// Name of the plot.
        plot: String,
        /// The drawing library's reason.
        reason: String,
    },
    /// A page or table that could not be put together: a fault of this program.
    #[error("the {what} could not be put together: {reason}")]
    #[diagnostic(code(run::report_page), help("please report this with the run's files"))]
    Page {
        /// `page` or the table's format.
        what: &'static str,
        /// The library's reason.
        reason: String,
    },
}
