//! `plan`: what a run would need, move and take, from config.json and the settings alone.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use config::{Device, Resolved, Task, TrainArgs, TrainConfig};
use hub::Want;
use plan::{Data, Facts, Host, Level, Link, Measurement, Plan, PlanError, Ranks, Speed};
use trainer::TrainError;

use crate::exit::Exit;
use crate::format::print;
use crate::sources::{Places, note_download};
use crate::ui::Ui;
use crate::{devices, fail, host, train};

/// Which command.
#[derive(Subcommand)]
pub enum PlanOf {
    /// A run of `metamath`
    Metamath(Box<PlanArgs>),
    /// A run of `train`
    Train(Box<PlanArgs>),
}

/// The run's settings, and what the plan is to reckon with.
#[derive(Args)]
pub struct PlanArgs {
    #[command(flatten)]
    train: TrainArgs,
    /// Number of ranks [default: those that this command was started with, usually 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000), help_heading = "Plan")]
    ranks: Option<u64>,
    /// Ranks on a host [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000), help_heading = "Plan")]
    ranks_per_host: Option<u64>,
    /// Memory of a host whose ranks compute on CPUs, in place of what this one has
    #[arg(long, value_name = "GIB", value_parser = positive, help_heading = "Plan")]
    host_memory: Option<f64>,
    /// Memory of a GPU, for ranks that compute on GPUs, in place of what this host's have
    #[arg(long, value_name = "GIB", value_parser = positive, help_heading = "Plan")]
    gpu_memory: Option<f64>,
    /// Cores of a host, in place of this one's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000), help_heading = "Plan")]
    cores: Option<u64>,
    /// Rows of training data [default: counted in the files, if they are here]
    #[arg(long, value_name = "N", help_heading = "Plan")]
    rows: Option<u64>,
    /// Mean number of tokens of a row [default: --max-seq-length as the upper bound]
    #[arg(long, value_name = "X", value_parser = positive, help_heading = "Plan")]
    mean_tokens: Option<f64>,
    /// What one rank takes for a step, as `bench step --json` printed it; everything else is predicted from it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tokens_per_second", "tflops"], help_heading = "Plan")]
    measured: Option<PathBuf>,
    /// Throughput of the whole run on its mesh, for the time it takes
    #[arg(long, value_name = "X", value_parser = positive, conflicts_with = "tflops", help_heading = "Plan")]
    tokens_per_second: Option<f64>,
    /// Throughput of a rank in 10^12 operations a second, for the time it takes
    #[arg(long, value_name = "X", value_parser = positive, help_heading = "Plan")]
    tflops: Option<f64>,
    /// What a rank sends a second over its link to other hosts, 10^9 bits, for the time that messages take
    #[arg(long, value_name = "X", value_parser = positive, help_heading = "Plan")]
    link_gbps: Option<f64>,
    /// What a message to another host takes however short it is, milliseconds one way
    #[arg(long, value_name = "X", value_parser = not_negative, help_heading = "Plan")]
    link_ms: Option<f64>,
    /// What a rank sends a second over its link to ranks of its host, 10^9 bits [default: as --link-gbps]
    #[arg(long, value_name = "X", value_parser = positive, help_heading = "Plan")]
    local_gbps: Option<f64>,
    /// What a message to a rank of the same host takes, milliseconds one way [default: as --link-ms]
    #[arg(long, value_name = "X", value_parser = not_negative, help_heading = "Plan")]
    local_ms: Option<f64>,
    /// Print JSON
    #[arg(long, help_heading = "Plan")]
    json: bool,
}

fn not_negative(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|x: &f64| x.is_finite() && *x >= 0.0)
        .ok_or_else(|| "give a number from 0 on".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|x: &f64| x.is_finite() && *x > 0.0)
        .ok_or_else(|| "give a number above 0".to_owned())
}

const GIB: f64 = (1_u64 << 30) as f64;

/// Rows of the data that `metamath` takes when nothing else is said: meta-math/MetaMathQA, MetaMathQA-395K.json.
const METAMATH_ROWS: u64 = 395_000;

/// Prints the plan. Nothing is loaded, run or written; of a model on the hub, config.json alone is fetched.
pub fn plan(of: &PlanOf) -> Exit {
    let (task, args) = match of {
        PlanOf::Metamath(args) => (Task::Metamath, args),
        PlanOf::Train(args) => (Task::Train, args),
    };
    match facts(task, args).and_then(|facts| Ok(Plan::new(&facts)?)) {
        Ok(plan) => {
            show(&plan, args.json);
            if plan.is_refused() { Exit::Input } else { Exit::Done }
        }
        Err(error) => fail(&error),
    }
}

fn facts(task: Task, args: &PlanArgs) -> Result<Facts, TrainError> {
    // A plan needs no rows, only their number.
    let train = match args.rows {
        Some(_) => args.train.clone().with_default("data", "rows.jsonl"),
        None => args.train.clone(),
    };
    let mut resolved = train::resolve(task, &train)?;
    let measured = args.measured.as_deref().map(measurement).transpose()?;
    let gpus = settle(&mut resolved, measured.as_ref());
    let config = &resolved.config;
    let ui = Ui::new(&resolved);
    resolved.warnings.iter().for_each(|warning| ui.warning(warning));
    let places = Places { revision: config.revision.as_deref() };
    let (folder, base_model) = places.model(&config.model, Want::ConfigOnly, &mut note_download)?;
    let model_config = model::ModelConfig::from_folder(&folder)?;
    let adapter = trainer::adapter_config(config, &base_model);
    let space = trainer::adapted_space(config, &adapter, &trainer::linear_modules(&model_config))?;
    let ranks = args.ranks.or_else(launched_ranks).unwrap_or(1);
    let host = host_facts(config, args, &gpus);
    let on_host = args.ranks_per_host.unwrap_or(ranks).min(ranks);
    Ok(Facts {
        model: plan::Model {
            stored_bytes: stored_bytes(&folder),
            tokenizer_bytes: tokenizer_bytes(&folder),
            ..trainer::model_facts(&model_config, &space)
        },
        data: Data {
            rows: rows(config, args)?,
            mean_tokens: args.mean_tokens,
            longest_tokens: None,
            max_seq_length: config.max_seq_length as u64,
        },
        training: trainer::training_facts(config),
        ranks: Ranks {
            total: ranks,
            on_host,
            on_device: match (host.is_gpu, config.share_gpu) {
                (false, _) => on_host,
                (true, false) => 1,
                (true, true) => on_host.div_ceil(gpus.len().max(1) as u64),
            },
            mesh: trainer::degrees(config, ranks as usize),
        },
        host,
        speed: match (measured, args.tokens_per_second, args.tflops) {
            (Some(measured), ..) => Some(Speed::Measured(measured)),
            (None, Some(tokens), _) => Some(Speed::TokensPerSecond(tokens)),
            (None, None, Some(tflops)) => Some(Speed::TeraflopsPerRank(tflops)),
            (None, None, None) => None,
        },
        link: Link { gbps: args.link_gbps, ms: args.link_ms },
        local_link: Link { gbps: args.local_gbps, ms: args.local_ms },
    })
}

/// Settles what the run is planned for and returns this host's GPUs where it is for GPUs. `auto` is a GPU where the
/// measurement is of one or, without a measurement, where this host has one.
fn settle(resolved: &mut Resolved, measured: Option<&Measurement>) -> Vec<comm::Gpu> {
    let wanted = resolved.config.device;
    let gpus = if wanted == Device::Cpu { Vec::new() } else { comm::accelerators().gpus };
    let is_gpu = match (wanted, measured) {
        (Device::Cpu, _) => false,
        (Device::Cuda, _) => true,
        (Device::Auto, Some(measured)) => !measured.is_of_cpu(),
        (Device::Auto, None) => !gpus.is_empty(),
    };
    resolved.computes_on(if is_gpu { Device::Cuda } else { Device::Cpu });
    if is_gpu { gpus } else { Vec::new() }
}

fn host_facts(config: &TrainConfig, args: &PlanArgs, gpus: &[comm::Gpu]) -> Host {
    let is_gpu = config.device == Device::Cuda;
    let bytes = |gib: f64| (gib * GIB) as u64;
    let memory = match is_gpu {
        true => {
            let memory = args.gpu_memory.map(bytes).or_else(|| gpus.iter().map(|gpu| gpu.memory).min());
            memory.map(devices::usable)
        }
        false => args.host_memory.map(bytes).or_else(host::available_memory),
    };
    Host {
        is_gpu,
        gpu: gpus.first().map(|gpu| gpu.name.clone()),
        available_memory: memory,
        free_disk: checkpoint::free_bytes(&config.output_dir()),
        cores: args.cores.or_else(|| std::thread::available_parallelism().ok().map(|n| n.get() as u64)),
    }
}

/// No measurement is nearly as long.
const LONGEST_MEASUREMENT: u64 = 1 << 24;

/// Reads a file of `bench step --json`.
fn measurement(path: &Path) -> Result<Measurement, PlanError> {
    let name = path.display().to_string();
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST_MEASUREMENT).read_to_string(&mut text));
    match read {
        Ok(_) => Measurement::parse(&name, &text),
        Err(error) => Err(PlanError::Measurement { file: name, what: error.to_string() }),
    }
}

/// The ranks that a launcher started this command with.
fn launched_ranks() -> Option<u64> {
    ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// Bytes of the weights' files, where the folder has them.
fn stored_bytes(folder: &Path) -> Option<u64> {
    model::CheckpointFiles::open(folder).ok().map(|files| files.total_bytes())
}

/// Bytes of the tokenizer's files, where the folder has them.
fn tokenizer_bytes(folder: &Path) -> Option<u64> {
    let files = data::tokenizer_files(folder);
    let bytes = |path: &PathBuf| path.metadata().map_or(0, |file| file.len());
    folder.join("tokenizer.json").exists().then(|| files.iter().map(bytes).sum())
}

/// Rows of training data: as said, or counted in the file, or known.
fn rows(config: &TrainConfig, args: &PlanArgs) -> Result<Option<u64>, TrainError> {
    let cap = |rows: u64| config.max_samples.map_or(rows, |limit| rows.min(limit as u64));
    let all = match (args.rows, config::hub_id(&config.data)) {
        (Some(rows), _) => Some(rows),
        (None, Some(id)) => (id == "meta-math/MetaMathQA").then_some(METAMATH_ROWS),
        (None, None) => {
            let options = data::RowOptions {
                query_field: config.query_field.clone(),
                response_field: config.response_field.clone(),
                max_samples: config.max_samples,
                keep_fields: false,
                any_fields: config.has_template_file(),
            };
            Some(data::read_rows(&[PathBuf::from(&config.data)], &options)?.len() as u64)
        }
    };
    let train = |rows: u64| match config.validation_split {
        Some(split) => Ok(rows - data::held_out_rows(split, rows as usize)? as u64),
        None => Ok(rows),
    };
    all.map(cap).map(train).transpose()
}

fn show(plan: &Plan, json: bool) {
    if json {
        print(&serde_json::to_string_pretty(plan).unwrap_or_default());
        return;
    }
    let sections = plan.sections();
    let labels = sections.iter().flat_map(|section| &section.rows).map(|(label, _)| label.chars().count());
    let width = labels.max().unwrap_or(0);
    for section in &sections {
        print(section.title);
        for (label, value) in &section.rows {
            print(format!("  {label:width$}  {value}").trim_end());
        }
    }
    if plan.warnings.iter().any(|warning| warning.level == Level::Refusal) {
        print("\nthis run would be refused");
    }
}
