//! `eval`: generation over GSM8K or MATH, scored.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Args;
use comm::Communicator;
use config::{Device, Dtype};
use eval::{EvalError, Event, Outcome, Progress, Results, Settings, Sources, Surroundings};
use hub::Want;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use scoring::Dataset;
use signal_hook::consts::{SIGTERM, SIGUSR1};
use trainer::{TrainError, agree};

use crate::devices::{self, Wanted};
use crate::exit::Exit;
use crate::format::{counted, grouped, print, seconds};
use crate::ranks::{Ending, find_on_every_host, with_ranks};
use crate::sources::{Places, note_download};
use crate::{host, report, terminal};

/// What to evaluate, and on what.
#[derive(Args)]
pub struct EvalArgs {
    /// Whose problems
    #[arg(long, value_name = "NAME", value_parser = crate::score::datasets())]
    dataset: Dataset,
    /// Model: a folder in Hugging Face layout, a hub id or a short name [default: the one that the adapter names]
    #[arg(long, alias = "model_path", alias = "model-path", value_name = "PATH")]
    model: Option<String>,
    /// Branch, tag or commit of a model that comes from the hub [default: the one that the adapter names]
    #[arg(long, value_name = "TEXT")]
    revision: Option<String>,
    /// Adapter folder, such as a run's output; without it the model alone is evaluated
    #[arg(long, alias = "adapter_path", alias = "adapter-path", value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// File of the problems: JSON, JSON lines or Parquet [default: data/math_eval/gsm8k_test.jsonl or MATH_test.jsonl]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// File of results [default: evaluation_results_DATASET.json in the adapter's folder, or in results/MODEL]
    #[arg(long, alias = "result_filename", alias = "result-filename", value_name = "FILE")]
    output: Option<PathBuf>,
    /// First problem, from 0
    #[arg(long, default_value_t = 0, value_name = "N")]
    start: usize,
    /// One past the last problem
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    end: usize,
    /// Only so many problems
    #[arg(long, alias = "max_samples", value_name = "N", value_parser = at_least_one)]
    max_samples: Option<usize>,
    /// Rows that a rank generates at a time
    #[arg(long, alias = "batch_size", default_value_t = 32, value_name = "N", value_parser = at_least_one)]
    batch_size: usize,
    /// Most new tokens of an answer [default: 1024 for gsm8k, 2048 for math]
    #[arg(long, alias = "max_new_tokens", value_name = "N", value_parser = at_least_one)]
    max_new_tokens: Option<usize>,
    /// Text before every prompt
    #[arg(long, alias = "system_prompt", default_value = "", value_name = "TEXT", hide_default_value = true)]
    system_prompt: String,
    /// Put the official training prompt before every prompt, unless there is a --system-prompt
    #[arg(long, alias = "use_training_system_prompt")]
    use_training_system_prompt: bool,
    /// End-of-sequence token in place of the tokenizer's own
    #[arg(long, alias = "eos_token", value_name = "TEXT")]
    eos_token: Option<String>,
    /// Most tokens of a row, prompt and answer [default: the model's max_position_embeddings]
    #[arg(long, alias = "max_model_len", value_name = "N", value_parser = at_least_one)]
    max_model_len: Option<usize>,
    /// Device that computes
    #[arg(long, value_enum, default_value_t = Device::Auto, value_name = "CHOICE")]
    device: Device,
    /// Let several ranks of a host compute on one GPU
    #[arg(long)]
    share_gpu: bool,
    /// Number format to compute in [default: float32 on the CPU, bfloat16 on a GPU]
    #[arg(long, value_enum, value_name = "CHOICE")]
    dtype: Option<Dtype>,
    /// Threads a rank
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = at_least_one)]
    threads: usize,
    /// Load the model even where it seems not to fit into memory
    #[arg(long)]
    no_memory_check: bool,
    /// The share of a GPU's memory that vLLM would take: accepted, and without effect here
    #[arg(long, alias = "gpu_memory_utilization", value_name = "X", hide = true)]
    gpu_memory_utilization: Option<f64>,
    /// Ranks are started by a launcher here; accepted if it is 1
    #[arg(long, alias = "tensor_parallel_size", value_name = "N", hide = true)]
    tensor_parallel_size: Option<usize>,
    /// Write no progress
    #[arg(long)]
    quiet: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number of at least 1 is needed".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// Why there are no results.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum Failed {
    /// The evaluation.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Eval(#[from] EvalError),
    /// The ranks and their devices.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Run(#[from] TrainError),
    /// Neither the command nor the adapter names a model.
    #[error("no model is named")]
    #[diagnostic(
        code(input::no_model),
        help("name one with --model, or an adapter that names its base with --adapter")
    )]
    NoModel,
    /// The default file of problems is not there.
    #[error("there is no {}", path.display())]
    #[diagnostic(
        code(input::no_problems_file),
        help("name the file with --data; docs/EVALUATION.md says where to get it")
    )]
    NoData {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A way of sharing a model out that is vLLM's.
    #[error("tensor-parallel-size is {0}")]
    #[diagnostic(
        code(input::tensor_parallel),
        help("every rank holds the whole model; start several with mpirun -n {0} to go faster")
    )]
    TensorParallel(usize),
}

impl trainer::RankError for Failed {
    fn is_input(&self) -> bool {
        match self {
            Self::Eval(error) => error.is_input(),
            Self::Run(error) => error.is_input(),
            _ => true,
        }
    }

    fn elsewhere(rank: usize, input: bool) -> Self {
        Self::Eval(EvalError::elsewhere(rank, input))
    }
}

impl Ending for Failed {
    fn is_elsewhere(&self) -> bool {
        matches!(
            self,
            Self::Run(TrainError::Elsewhere { .. })
                | Self::Eval(EvalError::Run(TrainError::Elsewhere { .. }))
        )
    }

    fn strands_peers(&self) -> bool {
        false
    }
}

/// Evaluates, and prints what it came to.
pub fn eval(args: &EvalArgs) -> Exit {
    let stop = Arc::new(AtomicBool::new(false));
    // The system refuses no handler for these signals. Without one they end the process, which loses nothing either.
    let _ = signal_hook::flag::register(SIGUSR1, Arc::clone(&stop));
    let _ = signal_hook::flag::register(SIGTERM, Arc::clone(&stop));
    with_ranks(|comm| run(args, comm, &stop))
}

fn run(args: &EvalArgs, comm: &dyn Communicator, stop: &AtomicBool) -> Result<Exit, Failed> {
    let sources = find_on_every_host(comm, &mut || sources(args))?;
    let device = devices::settle(args.device, comm)?;
    let settings = settings(args, device);
    let numerics = torch_shim::Numerics { deterministic: true, tf32: false };
    let wanted = Wanted { device, comm: config::Comm::Mpi, share_gpu: args.share_gpu, numerics };
    let (torch_device, plane) = devices::take(wanted, comm)?;
    let kernel_cache = crate::train::kernel_cache();
    let output = args.output.clone().unwrap_or_else(|| default_output(args, &sources));
    let made = output.parent().map_or(Ok(()), std::fs::create_dir_all);
    agree(
        comm,
        made.map_err(|source| EvalError::File { verb: "make the folder of", path: output.clone(), source }),
    )?;
    let ui = Ui::new(!args.quiet);
    if comm.rank() == 0 {
        ui.warn(crate::cores::threads_warning(args.threads, &[crate::cores::bound_cores().unwrap_or(0)]));
        let unknown = args.adapter.as_deref().map(crate::merge::unknown_keys).unwrap_or_default();
        unknown.into_iter().for_each(|warning| ui.warn(Some(warning)));
        ui.warn(other_base(args, &sources));
        ui.warn((torch_device != tch::Device::Cpu).then(|| devices::UNPROVEN.to_owned()));
        if args.gpu_memory_utilization.is_some() {
            ui.warn(Some("--gpu-memory-utilization is vLLM's and has no effect here".to_owned()));
        }
    }
    let surroundings = Surroundings {
        comm,
        device: torch_device,
        sources: &sources,
        output: &output,
        host_memory: host::available_memory,
        gpu_memory: devices::memory(&plane),
        kernel_cache: kernel_cache.as_deref(),
        observe: &|event| ui.event(event),
        stop_wished: &|| stop.load(Ordering::Relaxed),
    };
    let outcome = eval::evaluate(&settings, &surroundings)?;
    ui.bar.finish_and_clear();
    match outcome {
        Outcome::Stopped => {
            if comm.rank() == 0 {
                print("stopped; what was answered is kept, and the same command goes on from there");
            }
            Ok(Exit::Preempted)
        }
        Outcome::Done { results: Some(results), new_tokens, seconds } if comm.rank() == 0 => {
            show(&results, &output, new_tokens, seconds, comm.size());
            Ok(Exit::Done)
        }
        Outcome::Done { .. } => Ok(Exit::Done),
    }
}

fn settings(args: &EvalArgs, device: Device) -> Settings {
    let usual = if device == Device::Cuda { Dtype::Bfloat16 } else { Dtype::Float32 };
    Settings {
        dataset: args.dataset,
        start: args.start,
        end: args.end,
        max_samples: args.max_samples,
        batch_size: args.batch_size,
        max_new_tokens: args.max_new_tokens,
        system_prompt: args.system_prompt.clone(),
        use_training_system_prompt: args.use_training_system_prompt,
        eos_token: args.eos_token.clone(),
        max_model_len: args.max_model_len,
        dtype: args.dtype.unwrap_or(usual).to_string(),
        device: device.to_string(),
        threads: args.threads,
        memory_check: !args.no_memory_check,
    }
}

/// Where the inputs lie, downloaded if need be.
fn sources(args: &EvalArgs) -> Result<Sources, Failed> {
    if let Some(size) = args.tensor_parallel_size.filter(|size| *size != 1) {
        return Err(Failed::TensorParallel(size));
    }
    let data = args.data.clone().unwrap_or_else(|| default_data(args.dataset));
    if args.data.is_none() && !data.exists() {
        return Err(Failed::NoData { path: data });
    }
    let adapter = args.adapter.as_deref().map(adapter::Adapter::read).transpose().map_err(EvalError::from)?;
    let config = adapter.as_ref().map(|adapter| &adapter.config);
    let named = config.and_then(|config| config.base_model_name_or_path.as_deref());
    let model = args.model.as_deref().or(named).filter(|name| !name.is_empty()).ok_or(Failed::NoModel)?;
    let revision = args.revision.as_deref().or(config.and_then(|config| config.revision.as_deref()));
    let (folder, model_name) =
        Places { revision }.model(model, Want::Everything, &mut note_download).map_err(EvalError::from)?;
    Ok(Sources { model: folder, model_name, adapter: args.adapter.clone(), data: vec![data] })
}

/// What to say where the adapter names another base than the model at hand. The same model may have several names.
fn other_base(args: &EvalArgs, sources: &Sources) -> Option<String> {
    let adapter = adapter::Adapter::read(args.adapter.as_deref()?).ok()?;
    let named = adapter.config.base_model_name_or_path.filter(|name| !name.is_empty())?;
    let same_place = || Some(Path::new(&named).canonicalize().ok()? == sources.model.canonicalize().ok()?);
    let same = named == sources.model_name
        || config::hub_id(&named).is_some_and(|id| id == sources.model_name)
        || same_place() == Some(true);
    (!same).then(|| format!("the adapter was made for {named}, and is laid over {}", sources.model_name))
}

/// Where the official script looks for the problems.
fn default_data(dataset: Dataset) -> PathBuf {
    Path::new("data/math_eval").join(match dataset {
        Dataset::Gsm8k => "gsm8k_test.jsonl",
        Dataset::Math => "MATH_test.jsonl",
    })
}

fn default_output(args: &EvalArgs, sources: &Sources) -> PathBuf {
    let name = format!("evaluation_results_{}.json", args.dataset);
    match &args.adapter {
        Some(adapter) => adapter.join(name),
        None => Path::new("results").join(config::sanitize(&sources.model_name)).join(name),
    }
}

/// What a person sees.
struct Ui {
    speaks: bool,
    bar: ProgressBar,
    started: Instant,
}

impl Ui {
    fn new(speaks: bool) -> Self {
        let draws = speaks && terminal::is_terminal();
        let target = if draws { ProgressDrawTarget::stdout() } else { ProgressDrawTarget::hidden() };
        let style =
            ProgressStyle::with_template("{msg} {wide_bar:.cyan/black.bright} {pos}/{len}  eta {eta}");
        let bar = ProgressBar::with_draw_target(Some(0), target);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━─"));
        Self { speaks, bar, started: Instant::now() }
    }

    fn warn(&self, warning: Option<String>) {
        warning.iter().for_each(|text| self.bar.suspend(|| report::warning(text)));
    }

    /// Whether a line is to be printed, where no bar shows it.
    fn is_plain(&self) -> bool {
        self.speaks && self.bar.is_hidden()
    }

    fn event(&self, event: Event<'_>) {
        match event {
            Event::Stage(what) => self.bar.set_message(what.to_owned()),
            Event::Loading { done, total } => {
                self.bar.set_length(total as u64);
                self.bar.set_position(done as u64);
            }
            Event::Warning(text) => self.warn(Some(text)),
            Event::Start { total, finished } => self.start(total, finished),
            Event::Progress(progress) => self.progress(progress),
        }
    }

    fn start(&self, total: usize, finished: usize) {
        self.bar.set_length(total as u64);
        self.bar.set_position(finished as u64);
        self.bar.reset_eta();
        if self.speaks {
            let before = match finished {
                0 => String::new(),
                finished => format!(", {} answered before", grouped(finished as u64)),
            };
            self.bar.suspend(|| print(&format!("{}{before}", counted(total as u64, "problem"))));
        }
    }

    fn progress(&self, progress: Progress) {
        let Progress { finished, correct, new_tokens, .. } = progress;
        let speed = new_tokens as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        let text = format!("{} right of {finished} ({speed:.0} tokens/s)", share(correct, finished));
        self.bar.set_message(text.clone());
        let grew = self.bar.position() != finished as u64;
        self.bar.set_position(finished as u64);
        if self.is_plain() && grew {
            let total = self.bar.length().unwrap_or(0);
            print(&format!("  {finished}/{total}  {text}"));
        }
    }
}

/// 25 of 100 as `25.0%`.
fn share(part: usize, whole: usize) -> String {
    format!("{:.1}%", 100.0 * part as f64 / whole.max(1) as f64)
}

/// The final block.
fn show(results: &Results, output: &Path, new_tokens: u64, time: f64, ranks: usize) {
    if results.max_samples.is_some_and(|samples| samples <= 10) {
        for answer in &results.predictions {
            let verdict = if answer.correct { "right" } else { "wrong" };
            let found = serde_json::to_string(&answer.prediction).unwrap_or_default();
            let truth = serde_json::to_string(&answer.ground_truth).unwrap_or_default();
            print(&format!("\nproblem {}: {verdict}, {found} for {truth}", answer.index));
            print(&format!("{}{}", answer.prompt, answer.completion.trim_end()));
        }
    }
    let adapter = results.adapter_path.as_deref().unwrap_or("none");
    let mut text = format!("\n{} on {}\n", results.dataset, results.model_path);
    text += &format!("  adapter    {adapter}\n");
    text += &format!(
        "  accuracy   {} ({} of {}; {} without an answer)\n",
        share(results.correct(), results.total_evaluated),
        grouped(results.correct() as u64),
        grouped(results.total_evaluated as u64),
        grouped(results.invalid_outputs_count as u64)
    );
    if new_tokens > 0 {
        text += &format!(
            "  generated  {} in {} on {}: {:.0} tokens/s\n",
            counted(new_tokens, "token"),
            seconds(time),
            counted(ranks as u64, "rank"),
            new_tokens as f64 / time
        );
    } else {
        text += "  generated  nothing: this evaluation was complete\n";
    }
    text += &format!("  results    {}", output.display());
    print(&text);
}
