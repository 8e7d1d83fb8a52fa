//! `bench step`: training steps of a model's shape, with random weights.

mod load;
mod measure;
mod page;

use std::path::PathBuf;

use adapter::{AdaptedSpace, Selection};
use clap::Args;
use comm::Single;
use config::{Comm, Device, Dtype};
use miette::Diagnostic;
use model::ModelConfig;
use tch::Kind;
use torch_shim::Numerics;

use crate::devices::{self, Wanted};
use crate::exit::Exit;
use crate::format::print;
use crate::{fail, random_model};
use load::Load;
use measure::Bench;

/// The shape, the rows, and what is varied.
#[derive(Args)]
pub struct StepArgs {
    /// A known shape (Llama-3.1-8B, Qwen2.5-0.5B, …), a config.json, or the folder that holds it
    #[arg(long, value_name = "SHAPE")]
    model: String,
    /// Device that computes
    #[arg(long, value_enum, default_value_t = Device::Auto, value_name = "CHOICE")]
    device: Device,
    /// Number format of the model's computation [default: bfloat16 on a GPU, float32 otherwise]
    #[arg(long, value_enum, value_name = "CHOICE")]
    dtype: Option<Dtype>,
    /// Groups, the length of θ
    #[arg(long, value_name = "D", default_value_t = 524_288,
          value_parser = clap::value_parser!(u64).range(1..=i64::from(i32::MAX) as u64))]
    d: u64,
    /// Linear modules to adapt, by name
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "q_proj,k_proj,v_proj,o_proj")]
    target_modules: Vec<String>,
    /// Rows of a micro-batch
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count)]
    micro_batch_size: usize,
    /// Tokens of a row
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = count)]
    length: usize,
    /// Micro-batches of a step
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    accumulation_steps: usize,
    /// Take the lengths of the first rows of a file (JSON, JSONL or Parquet with query and response), tokenized by
    /// --tokenizer; with --accumulation-steps for more of them
    #[arg(long, value_name = "FILE", requires = "tokenizer", conflicts_with = "length")]
    data: Option<PathBuf>,
    /// Folder with the tokenizer for --data
    #[arg(long, value_name = "DIR", requires = "data")]
    tokenizer: Option<PathBuf>,
    /// Dropout of ΔW, each value of a list by itself
    #[arg(long, value_name = "P", value_delimiter = ',', default_value = "0.05,0", value_parser = probability)]
    dropout: Vec<f64>,
    /// Only algorithms with the same bits every time [default: true; on a GPU true,false]
    #[arg(long, value_name = "BOOL", value_delimiter = ',')]
    deterministic: Vec<bool>,
    /// Rows end to end in place of padded
    #[arg(long, value_name = "BOOL", value_delimiter = ',', default_value = "false",
          num_args = 0..=1, default_missing_value = "true")]
    packing: Vec<bool>,
    /// Compute each block again in backward
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Compute again only those blocks whose activations do not fit in so many GiB
    #[arg(long, value_name = "GIB", value_parser = not_negative, allow_hyphen_values = true, conflicts_with = "gradient_checkpointing")]
    activation_memory: Option<f64>,
    /// In half precision add ΔW to the weights
    #[arg(long)]
    merge_delta: bool,
    /// Tokens whose logits exist at a time; 0 = all
    #[arg(long, value_name = "N", default_value_t = 1024)]
    cross_entropy_chunk: usize,
    /// Compute threads on the CPU
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    threads: usize,
    /// Steps that are measured; their median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = count)]
    repeats: usize,
    /// Steps before them
    #[arg(long, value_name = "N", default_value_t = 2)]
    warmup: usize,
    /// Time the official algorithm, LoRA and the frozen model in the same run, by this Python with torch
    #[arg(long, value_name = "PYTHON")]
    peers: Option<PathBuf>,
    /// Write a Chrome trace of two steps (chrome://tracing and ui.perfetto.dev show it)
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn count(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=i32::MAX as usize).contains(number));
    number.ok_or_else(|| "a whole number of at least 1 is needed".to_owned())
}

fn probability(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..1.0).contains(number));
    number.ok_or_else(|| "a number from 0 to below 1 is needed".to_owned())
}

fn not_negative(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "a number of at least 0 is needed".to_owned())
}

type Failed = Box<dyn Diagnostic>;

/// What stands in the way, in words of our own.
#[derive(Debug, thiserror::Error, Diagnostic)]
enum StepError {
    /// A file could not be written or read.
    #[error("{what} {}: {reason}", path.display())]
    #[diagnostic(code(input::bench_file), help("name another place"))]
    File {
        /// What was done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system or libtorch said.
        reason: String,
    },
    /// The peers' program.
    #[error("the peers could not be timed: {0}")]
    #[diagnostic(
        code(input::bench_peers),
        help("--peers names a Python with torch 2.11 (transformers and peft are used where they are there)")
    )]
    Peers(String),
    /// Neither a known shape nor a path.
    #[error("there is no shape '{name}', and no such file")]
    #[diagnostic(
        code(input::bench_shape),
        help("known shapes: {}; of any other model name the config.json or its folder", synthetic::NAMES.join(", "))
    )]
    NoShape {
        /// What was named.
        name: String,
    },
    /// More rows than a step may have here.
    #[error("a step of {rows} rows is too large: at most {most}")]
    #[diagnostic(code(input::bench_rows), help("lower --micro-batch-size or --accumulation-steps"))]
    Rows {
        /// Micro-batch size × accumulation.
        rows: usize,
        /// The limit.
        most: usize,
    },
    /// A gradient left the range of the sums.
    #[error("a gradient of the random model is out of range or not finite")]
    #[diagnostic(code(run::bench_overflow), help("take --dtype bfloat16 or float32, or fewer tokens a row"))]
    Overflow,
}

/// Runs `bench step`.
pub fn run(args: &StepArgs) -> Exit {
    match measure_all(args) {
        Ok(()) => Exit::Done,
        Err(error) => fail(error.as_ref()),
    }
}

/// A model's shape, and what of it is adapted.
struct Shape {
    name: String,
    /// Of config.json.
    text: String,
    config: ModelConfig,
    space: AdaptedSpace,
}

impl Shape {
    fn read(args: &StepArgs) -> Result<Self, Failed> {
        let path = PathBuf::from(&args.model);
        let (text, path) = match path.exists() {
            true => random_model::config_file(&path).map_err(boxed)?,
            false => match synthetic::config_of(&args.model) {
                Ok(text) => (text.to_owned(), path),
                Err(_) => return Err(boxed(StepError::NoShape { name: args.model.clone() })),
            },
        };
        let config = ModelConfig::from_json(&text, &path).map_err(boxed)?;
        let targets = Selection::of_names(args.target_modules.iter().map(String::as_str));
        let space = AdaptedSpace::select(&trainer::linear_modules(&config), &targets).map_err(boxed)?;
        Ok(Self { name: args.model.clone(), text, config, space })
    }
}

/// What one line of the table stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Variant {
    dropout: f64,
    deterministic: bool,
    packing: bool,
}

fn measure_all(args: &StepArgs) -> Result<(), Failed> {
    check_places(args)?;
    let shape = Shape::read(args)?;
    let load = Load::new(args)?;
    let device = devices::settle(args.device, &Single).map_err(boxed)?;
    let numerics = Numerics { deterministic: true, tf32: false };
    let wanted = Wanted { device, comm: Comm::Auto, share_gpu: false, numerics };
    let (torch_device, plane) = devices::take(wanted, &Single).map_err(boxed)?;
    tch::set_num_threads(args.threads as i32);
    let kind =
        match args.dtype.unwrap_or(if device == Device::Cuda { Dtype::Bfloat16 } else { Dtype::Float32 }) {
            Dtype::Float32 => Kind::Float,
            Dtype::Bfloat16 => Kind::BFloat16,
            Dtype::Float16 => Kind::Half,
        };
    let device_name = plane.gpu.as_ref().map_or_else(|| "CPU".to_owned(), |own| own.gpu.name.clone());
    let ceiling = measure::matmul_ceiling(kind, torch_device);
    let outcomes = Bench::new(args, &shape, &load, kind, torch_device)?.all(&variants(args, device))?;
    // The model is gone by now; libtorch keeps its memory for tensors to come, and peers are processes of their own.
    if device == Device::Cuda {
        drop(torch_shim::empty_cache());
    }
    let peers = args.peers.as_ref().map(|python| {
        let request = page::request(args, &shape, &load, kind, torch_device, outcomes[0].recompute);
        crate::bench::peers::run(python, &request).map_err(|reason| boxed(StepError::Peers(reason)))
    });
    let page = page::Page {
        args,
        shape: &shape,
        load: &load,
        kind,
        device: device_name,
        ceiling,
        outcomes,
        peers: peers.transpose()?.unwrap_or_default(),
    };
    print(&if args.json { page.json() } else { page.text() });
    Ok(())
}

/// What is needed at the end is looked at before minutes are spent.
fn check_places(args: &StepArgs) -> Result<(), Failed> {
    if let Some(path) = &args.profile {
        std::fs::File::create(path).map_err(|error| {
            boxed(StepError::File {
                what: "cannot write the trace",
                path: path.clone(),
                reason: error.to_string(),
            })
        })?;
    }
    match &args.peers {
        Some(python) => crate::bench::peers::check(python).map_err(|reason| boxed(StepError::Peers(reason))),
        None => Ok(()),
    }
}

/// Every combination that was asked for.
fn variants(args: &StepArgs, device: Device) -> Vec<Variant> {
    let deterministic = match (args.deterministic.is_empty(), device) {
        (false, _) => args.deterministic.clone(),
        (true, Device::Cuda) => vec![true, false],
        (true, _) => vec![true],
    };
    let mut all = Vec::new();
    for &packing in &args.packing {
        for &deterministic in &deterministic {
            all.extend(args.dropout.iter().map(|&dropout| Variant { dropout, deterministic, packing }));
        }
    }
    all
}

fn boxed<E: Diagnostic + 'static>(error: E) -> Failed {
    Box::new(error)
}
