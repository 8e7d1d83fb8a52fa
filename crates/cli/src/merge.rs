//! `merge`: base + adapter → a plain checkpoint.

use std::path::{Path, PathBuf};

use adapter::{AdaptedSpace, Adapter};
use clap::{Args, ValueEnum};
use hub::Want;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use merge::{Base, Dtype, MergeError, Options, Progress, Report};
use model::{CheckpointFiles, ModelConfig};
use trainer::TrainError;

use crate::exit::Exit;
use crate::format::print;
use crate::sources::{Places, note_download};
use crate::{fail, report, terminal};

/// What to merge, and where to.
#[derive(Args)]
pub struct MergeArgs {
    /// Base model: a folder in Hugging Face layout, a hub id or a short name [default: the one that the adapter names]
    #[arg(long, value_name = "PATH")]
    model: Option<String>,
    /// Branch, tag or commit of a model that comes from the hub [default: the one that the adapter names]
    #[arg(long, value_name = "TEXT")]
    revision: Option<String>,
    /// Adapter folder, ours or the official fork's
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Folder for the merged model; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Number format of the result [default: as each tensor is stored]
    #[arg(long, value_enum, value_name = "CHOICE")]
    dtype: Option<Chosen>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Chosen {
    Float32,
    Bfloat16,
    Float16,
}

/// Why a merge ended.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum Failed {
    /// The inputs.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Inputs(#[from] TrainError),
    /// Neither the command nor the adapter names a model.
    #[error("the adapter in {} does not name its base model", adapter.display())]
    #[diagnostic(code(input::no_base_model), help("name it with --model"))]
    NoModel {
        /// The adapter's folder.
        adapter: PathBuf,
    },
    /// The merge itself.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Merge(#[from] MergeError),
}

/// Merges and prints the report.
pub fn merge(args: &MergeArgs) -> Exit {
    match run(args) {
        Ok(done) => {
            show(&done, args.json);
            Exit::Done
        }
        Err(error) => fail(&error),
    }
}

fn run(args: &MergeArgs) -> Result<Report, Failed> {
    let adapter = Adapter::read(&args.adapter).map_err(TrainError::from)?;
    unknown_keys(&args.adapter).iter().for_each(|warning| report::warning(warning));
    let named = adapter.config.base_model_name_or_path.as_deref().filter(|name| !name.is_empty());
    let model =
        args.model.as_deref().or(named).ok_or_else(|| Failed::NoModel { adapter: args.adapter.clone() })?;
    let places = Places { revision: args.revision.as_deref().or(adapter.config.revision.as_deref()) };
    let (folder, _) = places.model(model, Want::Everything, &mut note_download)?;
    let config = ModelConfig::from_folder(&folder).map_err(TrainError::from)?;
    let files = CheckpointFiles::open(&folder).map_err(TrainError::from)?;
    let selection =
        adapter.config.selection(&args.adapter.join("adapter_config.json")).map_err(TrainError::from)?;
    let space =
        AdaptedSpace::select(&trainer::linear_modules(&config), &selection).map_err(TrainError::from)?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = Options {
        output: args.output.clone(),
        adapter_folder: args.adapter.clone(),
        dtype: args.dtype.map(|dtype| match dtype {
            Chosen::Float32 => Dtype::Float32,
            Chosen::Bfloat16 => Dtype::Bfloat16,
            Chosen::Float16 => Dtype::Float16,
        }),
        threads,
    };
    let prepared = merge::prepare(Base { files: &files, config: &config }, &adapter, &space, &options)?;
    prepared.warnings().iter().for_each(|warning| report::warning(warning));
    let told = prepared.warnings().len();
    let spec = adapter.config.partition(&space).map_err(TrainError::from)?;
    let partition = trainer::partition(&spec, &space, &files)?;
    let counts = partition::count_parallel(partition.as_ref(), 0..space.total(), threads);
    let counts = counts.map_err(TrainError::from)?;
    let scales = partition::scales(&counts, adapter.config.isometric, &spec.scope);
    let bar = bar(prepared.bytes());
    let done = prepared.run(partition.as_ref(), &scales, &|Progress { file, done_bytes, .. }| {
        bar.set_message(file.to_owned());
        bar.set_position(done_bytes);
    });
    bar.finish_and_clear();
    let done = done?;
    done.warnings.iter().skip(told).for_each(|warning| report::warning(warning));
    Ok(done)
}

/// A warning of each key of an adapter's configuration that means nothing here.
pub fn unknown_keys(folder: &Path) -> Vec<String> {
    let warning = |key: &String| {
        format!(
            "{key} of {} means nothing to GPart and is not used",
            folder.join("adapter_config.json").display()
        )
    };
    Adapter::unknown_keys(folder).iter().map(warning).collect()
}

/// Progress over so many bytes, where somebody watches.
pub fn bar(bytes: u64) -> ProgressBar {
    let target =
        if terminal::is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style =
        ProgressStyle::with_template("{msg} {wide_bar:.cyan/black.bright} {bytes}/{total_bytes}  eta {eta}");
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━─"));
    bar
}

fn show(done: &Report, json: bool) {
    if json {
        print(&serde_json::to_string_pretty(done).unwrap_or_default());
        return;
    }
    let rows = done.rows();
    let width = rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    for (label, value) in &rows {
        print(format!("{label:width$}  {value}").trim_end());
    }
    print(&format!("\nthe merged model loads in transformers and vLLM from {}", shown(&done.output)));
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
