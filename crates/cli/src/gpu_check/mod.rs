//! `gpu-check`: whether training and generation on this host's device are right, bit-exact and how fast they are; one
//! report.
//!
//! Every check starts this program again, alone or under `mpirun`, so that a crash is a failed check and not the end of
//! the report. What a check compares with are runs of the official implementation (`tests/golden`) and runs of our own.

mod banner;
mod child;
mod curve;
mod exact;
mod generation;
mod golden;
mod kernels;
mod machine;
mod page;
mod runs;
mod speed;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use config::Device;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::exit::Exit;
use crate::fail;
use crate::format::{print, seconds};
use child::Children;
use machine::Machine;

/// What to check, and where the report goes.
#[derive(Args)]
pub struct GpuCheckArgs {
    /// What to compute on; auto: the GPU, and a failure where there is none
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    device: Device,
    /// Folder of the official runs [default: tests/golden here, or beside or above the binary]
    #[arg(long, value_name = "DIR")]
    goldens: Option<PathBuf>,
    /// Folder of report.json, report.md and the logs of every command
    #[arg(long, value_name = "DIR", default_value = "experiments/gpu-check")]
    report: PathBuf,
    /// A few checks of each kind, without speed: a minute on a CPU
    #[arg(long)]
    quick: bool,
}

/// What is wrong with the command line.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum WrongInput {
    /// Official runs that are not there, or damaged.
    #[error("{}: {reason}", path.display())]
    #[diagnostic(
        code(input::goldens),
        help(
            "--goldens names the folder that holds metamath/ and architectures/: tests/golden of the repository or of a bundle"
        )
    )]
    Goldens {
        /// File or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No place for the report.
    #[error("{}: {reason}", path.display())]
    #[diagnostic(
        code(input::report),
        help("--report names a new folder, or one that holds an earlier report, which is replaced")
    )]
    Report {
        /// The folder.
        path: PathBuf,
        /// Why nothing can be written there.
        reason: String,
    },
    /// Started as several ranks.
    #[error("gpu-check was started by a launcher of ranks ({0} is set)")]
    #[diagnostic(code(input::ranks), help("start it once, without mpirun: it starts ranks itself"))]
    Ranks(&'static str),
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Passed,
    Failed,
    /// It does not apply here, or this build lacks what it needs.
    NotRun,
}

/// One check that was made.
#[derive(Debug, Serialize)]
struct Checked {
    name: String,
    result: Verdict,
    seconds: f64,
    /// What was found, in a sentence.
    says: String,
    /// What was measured.
    numbers: Map<String, Value>,
}

/// Numbers that a check finds, kept where it fails as well.
type Numbers = Map<String, Value>;
/// What a check says: that it passed, or [`Skipped`] or failed.
type Found = Result<String, NotPassed>;

/// Why a check did not pass.
#[derive(Debug)]
enum NotPassed {
    /// What is wrong.
    Failed(String),
    /// Why it was not made.
    Skipped(String),
}

impl From<String> for NotPassed {
    fn from(what: String) -> Self {
        Self::Failed(what)
    }
}

/// Everything that was found.
#[derive(Serialize)]
struct Report {
    gpart_dist: &'static str,
    /// What was computed on; none where there was no GPU to check.
    device: Option<Device>,
    asked: Device,
    quick: bool,
    passed: usize,
    failed: usize,
    not_run: usize,
    seconds: f64,
    machine: Machine,
    checks: Vec<Checked>,
}

/// What checks work with.
struct Context {
    device: Device,
    quick: bool,
    goldens: golden::Goldens,
    children: Children,
}

/// Checks and writes the report; 1 when something failed or there was no GPU, 2 for wrong input.
pub fn gpu_check(args: &GpuCheckArgs) -> Exit {
    match check(args) {
        Ok(exit) => exit,
        Err(error) => fail(&error),
    }
}

fn check(args: &GpuCheckArgs) -> Result<Exit, WrongInput> {
    if let Some(world) = comm::launcher().filter(|world| world.size != Some(1)) {
        return Err(WrongInput::Ranks(world.variable));
    }
    let goldens = golden::Goldens::find(args.goldens.as_deref())?;
    let folder = prepare(&args.report)?;
    let started = Instant::now();
    let children = Children::new(&folder, args.quick);
    let mut report = Report {
        gpart_dist: env!("CARGO_PKG_VERSION"),
        device: None,
        asked: args.device,
        quick: args.quick,
        passed: 0,
        failed: 0,
        not_run: 0,
        seconds: 0.0,
        machine: Machine::default(),
        checks: Vec::new(),
    };
    let mut machine = Machine::default();
    run_one(&mut report, "machine", |numbers| machine.examine(&children, numbers));
    report.machine = machine;
    report.device = match args.device {
        Device::Cpu => Some(Device::Cpu),
        Device::Auto | Device::Cuda => report.machine.has_gpu().then_some(Device::Cuda),
    };
    if let Some(device) = report.device {
        let context = Context { device, quick: args.quick, goldens, children };
        run_all(&mut report, &context);
        context.children.clean_up(report.checks.iter().any(|check| check.result == Verdict::Failed));
    }
    let count = |verdict| report.checks.iter().filter(|check| check.result == verdict).count();
    (report.passed, report.failed, report.not_run) =
        (count(Verdict::Passed), count(Verdict::Failed), count(Verdict::NotRun));
    report.seconds = started.elapsed().as_secs_f64();
    page::write(&report, &folder)?;
    print(&page::verdict(&report));
    print(&format!("report: {}", folder.join("report.md").display()));
    if report.device.is_none() {
        banner::print(&report.machine);
        return Ok(Exit::Failed);
    }
    Ok(if report.failed == 0 { Exit::Done } else { Exit::Failed })
}

/// The checks in order. None needs another to have passed.
fn run_all(report: &mut Report, context: &Context) {
    for case in golden::cases(context.quick) {
        run_one(report, &format!("golden {}", case.folder), |numbers| golden::check(context, case, numbers));
    }
    for case in exact::cases(context) {
        run_one(report, &case.name(), |numbers| exact::check(context, &case, numbers));
    }
    for dtype in ["float32", "bfloat16"] {
        run_one(report, &format!("packing {dtype}"), |numbers| exact::packing(context, dtype, numbers));
    }
    run_one(report, "resume after a stop", |numbers| exact::resume(context, numbers));
    run_one(report, "curve bfloat16", |numbers| curve::check(context, numbers));
    run_one(report, "greedy continuations", |numbers| generation::samples(context, numbers));
    run_one(report, "eval in any batch", |numbers| generation::batches(context, numbers));
    run_one(report, "kernels", |numbers| kernels::check(context, numbers));
    run_one(report, "speed", |numbers| speed::check(context, numbers));
    for shape in speed::shapes(context) {
        run_one(report, &format!("step {shape}"), |numbers| speed::step(context, shape, numbers));
    }
}

/// Makes one check, says how it ended, and keeps it.
fn run_one(report: &mut Report, name: &str, check: impl FnOnce(&mut Numbers) -> Found) {
    let started = Instant::now();
    let mut numbers = Numbers::new();
    let (result, says) = match check(&mut numbers) {
        Ok(says) => (Verdict::Passed, says),
        Err(NotPassed::Failed(says)) => (Verdict::Failed, says),
        Err(NotPassed::Skipped(says)) => (Verdict::NotRun, says),
    };
    let checked =
        Checked { name: name.to_owned(), result, seconds: started.elapsed().as_secs_f64(), says, numbers };
    let line = format!("{:<8} {name}: {} ({})", page::word(result), checked.says, seconds(checked.seconds));
    print(&line);
    report.checks.push(checked);
}

/// Makes the report's folder ready, with an earlier report removed.
fn prepare(folder: &Path) -> Result<PathBuf, WrongInput> {
    let refuse = |reason: String| WrongInput::Report { path: folder.to_owned(), reason };
    let is_ours = folder.join("report.json").is_file();
    let holds_something = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if holds_something && !is_ours {
        return Err(refuse("it is not empty and holds no report.json".to_owned()));
    }
    for part in ["runs", "logs"] {
        // What is not there need not be removed; what cannot be removed shows when it is made anew.
        let _ = std::fs::remove_dir_all(folder.join(part));
        std::fs::create_dir_all(folder.join(part)).map_err(|error| refuse(error.to_string()))?;
    }
    // From here on the folder is known for ours, even if this is cut short.
    std::fs::write(folder.join("report.json"), "{}\n").map_err(|error| refuse(error.to_string()))?;
    folder.canonicalize().map_err(|error| refuse(error.to_string()))
}
