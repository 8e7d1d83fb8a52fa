//! `report` and `collect`: what runs came to, as a page and as a table.

use std::path::PathBuf;

use ::report::{Evaluation, ReportError, Run, Written};
use clap::{Args, ValueEnum};

use crate::exit::Exit;
use crate::fail;
use crate::format::print;
use crate::report::{note, warning};

/// Which runs, and where the page goes.
#[derive(Args)]
pub struct ReportArgs {
    /// Output folders of runs; a folder of adapters will do too
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Results of `eval` that lie elsewhere, such as the base model's; may be given several times
    #[arg(long, value_name = "FILE")]
    eval: Vec<PathBuf>,
    /// Folder for report.html, report.md and plots/ [default: RUN/report, or ./report for several runs]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Do not add up ‖ΔW‖ over all adapted weights
    #[arg(long)]
    no_isometry: bool,
}

/// Which folder, and how the table is written.
#[derive(Args)]
pub struct CollectArgs {
    /// Folder of runs, looked through with all folders in it
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// How the table is written
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "CHOICE")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Csv,
    Latex,
    Markdown,
    Json,
}

/// Writes the page and says where it is.
pub fn report(args: &ReportArgs) -> Exit {
    match write(args) {
        Ok(written) => {
            show(&written);
            Exit::Done
        }
        Err(error) => fail(&error),
    }
}

fn write(args: &ReportArgs) -> Result<Written, ReportError> {
    let mut runs = args.runs.iter().map(|folder| Run::read(folder)).collect::<Result<Vec<_>, _>>()?;
    let given = args.eval.iter().map(|file| Evaluation::read(file)).collect::<Result<Vec<_>, _>>()?;
    let others = ::report::attach(&mut runs, given);
    let output = args.output.clone().unwrap_or_else(|| match args.runs.as_slice() {
        [one] => one.join("report"),
        _ => PathBuf::from("report"),
    });
    let mut options = ::report::Options::new(output);
    options.isometry = !args.no_isometry;
    ::report::report(&runs, &others, &options)
}

fn show(written: &Written) {
    for (name, checked) in &written.isometry {
        if let Err(reason) = checked {
            note(&format!("{name}: ‖ΔW‖ was not checked: {reason}"));
        }
    }
    print(&format!(
        "{}\n{}\n{} plots as SVG and PNG beside them, in plots/",
        written.page.display(),
        written.markdown.display(),
        written.plots.len() / 2
    ));
}

/// Prints the table.
pub fn collect(args: &CollectArgs) -> Exit {
    match table(args) {
        Ok(text) => {
            print(text.trim_end_matches('\n'));
            Exit::Done
        }
        Err(error) => fail(&error),
    }
}

fn table(args: &CollectArgs) -> Result<String, ReportError> {
    let found = ::report::discover(&args.folder)?;
    if found.runs.is_empty() && found.evaluations.is_empty() {
        warning(&format!("there is no run in {}", args.folder.display()));
    }
    let table = ::report::collect(&found);
    match args.format {
        Format::Text => Ok(table.text()),
        Format::Csv => table.csv(),
        Format::Latex => Ok(table.latex()),
        Format::Markdown => Ok(table.markdown()),
        Format::Json => table.json(),
    }
}
