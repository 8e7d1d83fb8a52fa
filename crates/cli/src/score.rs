//! `score`: verdicts on completions that were made elsewhere.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use miette::Diagnostic;
use scoring::{Dataset, ScoringError, Totals};

use crate::exit::Exit;
use crate::fail;
use crate::format::{grouped, print};

/// What to score, and where to.
#[derive(Args)]
pub struct ScoreArgs {
    /// Whose problems they answer
    #[arg(long, value_name = "NAME", value_parser = datasets())]
    dataset: Dataset,
    /// JSON lines of the form {"completion": …, "ground_truth": …}; - for standard input
    #[arg(long, value_name = "FILE")]
    predictions: PathBuf,
    /// The same lines with `prediction` and `correct`; it appears when all is scored
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Print the totals as JSON
    #[arg(long)]
    json: bool,
}

/// The datasets by name.
pub fn datasets() -> impl TypedValueParser<Value = Dataset> {
    PossibleValuesParser::new(Dataset::ALL.map(Dataset::name)).try_map(|name| name.parse::<Dataset>())
}

/// Why nothing was scored.
#[derive(Debug, thiserror::Error, Diagnostic)]
enum Failed {
    /// The lines.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Scoring(#[from] ScoringError),
    /// The file of completions.
    #[error("cannot read {}", path.display())]
    #[diagnostic(
        code(input::predictions),
        help("name a file of JSON lines with --predictions, or - for standard input")
    )]
    Predictions {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file to write.
    #[error("cannot write {}", path.display())]
    #[diagnostic(code(run::scores), help("is the disk full or read-only, and does the folder exist?"))]
    Output {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// One file for both.
    #[error("{} is both the input and the output", path.display())]
    #[diagnostic(code(input::same_file), help("name another file with --output"))]
    SameFile {
        /// The file.
        path: PathBuf,
    },
}

/// Scores, and prints the totals.
pub fn score(args: &ScoreArgs) -> Exit {
    match run(args) {
        Ok(totals) => {
            show(args, &totals);
            Exit::Done
        }
        Err(error) => fail(&error),
    }
}

fn run(args: &ScoreArgs) -> Result<Totals, Failed> {
    let reader: Box<dyn Read> = if args.predictions == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        let refused = |source| Failed::Predictions { path: args.predictions.clone(), source };
        if same_file(&args.predictions, &args.output) {
            return Err(Failed::SameFile { path: args.output.clone() });
        }
        Box::new(File::open(&args.predictions).map_err(refused)?)
    };
    let refused = |source| Failed::Output { path: args.output.clone(), source };
    // A file that is half written has another name.
    let mut name = args.output.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let partial = args.output.with_file_name(name);
    let file = File::create(&partial).map_err(refused)?;
    let scored = scoring::score_lines(
        args.dataset,
        BufReader::with_capacity(1 << 20, reader),
        BufWriter::with_capacity(1 << 20, &file),
    );
    let placed = scored.map_err(Failed::from).and_then(|totals| {
        file.sync_all().and_then(|()| std::fs::rename(&partial, &args.output)).map_err(refused)?;
        Ok(totals)
    });
    if placed.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    placed
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn show(args: &ScoreArgs, totals: &Totals) {
    if args.json {
        let mut value = serde_json::to_value(totals).unwrap_or_default();
        value["accuracy"] = totals.accuracy().into();
        print(&format!("{value:#}"));
        return;
    }
    print(&format!(
        "{}: accuracy {:.1}% ({} of {}; {} without an answer)\n  {}",
        args.dataset,
        100.0 * totals.accuracy(),
        grouped(totals.correct),
        grouped(totals.total),
        grouped(totals.invalid),
        args.output.display()
    ));
}
