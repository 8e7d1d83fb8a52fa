//! `doctor`: what a machine, or a cluster, has; whether messages are right and how fast; what would break a run.

mod clocks;
mod disk;
mod facts;
mod findings;
mod large;
mod messages;
mod text;
mod watch;

use std::path::{Path, PathBuf};

use clap::Args;
use comm::{Communicator, RankGpus};
use serde::Serialize;
use trainer::TrainError;

use crate::exit::Exit;
use crate::format::print;
use crate::{ranks, report};
use facts::Facts;
use findings::{Finding, Level};
use watch::Watch;

/// What to look at.
#[derive(Args)]
pub struct DoctorArgs {
    /// Folder that runs are to write to; what is written there is removed again
    #[arg(long, value_name = "DIR", default_value = "./experiments/outputs")]
    output: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// What is to carry the ranks' messages (MPI is checked in any case)
    #[arg(long, value_enum, default_value_t = config::Comm::Auto)]
    comm: config::Comm,
    /// Also send messages of more than 2^31 bytes, where there is memory for them
    #[arg(long)]
    large_messages: bool,
    /// Small messages and files only: as many checks, but times that say little
    #[arg(long)]
    quick: bool,
    /// Let several ranks of a host have one GPU
    #[arg(long)]
    share_gpu: bool,
}

/// Everything that was found.
#[derive(Serialize)]
struct Report {
    gpart_dist: &'static str,
    /// Facts by rank.
    ranks: Vec<Facts>,
    gpus: Gpus,
    choice: DataPlane,
    clocks: clocks::Clocks,
    /// One a communicator.
    messages: Vec<messages::Messages>,
    large: Vec<large::Large>,
    /// Why large messages that were asked for are not there.
    #[serde(skip)]
    asked_for_large: String,
    disk: disk::Disk,
    findings: Vec<Finding>,
    verdict: Level,
}

/// Which rank would compute on which GPU.
#[derive(Serialize)]
struct Gpus {
    /// Device numbers by rank.
    devices: Option<Vec<usize>>,
    /// What keeps them from having one, and what to do.
    problem: Option<(String, String)>,
}

/// What would carry a run's messages.
#[derive(Serialize)]
struct DataPlane {
    /// What it is, and why.
    why: String,
    /// What keeps it from working, and what to do.
    problem: Option<(String, String)>,
}

/// Checks, prints on rank 0, and ends with 1 when something would break a run.
pub fn doctor(args: &DoctorArgs) -> Exit {
    let comm = match ranks::start_ranks() {
        Ok(comm) => comm,
        Err(exit) => return exit,
    };
    // A rank with a wrong command line says so in this collective.
    if let Err(error) = trainer::agree(comm.as_ref(), Ok::<(), TrainError>(())) {
        return if error.is_input() { Exit::Input } else { Exit::Failed };
    }
    let report = examine(args, comm.as_ref());
    if comm.rank() == 0 {
        match args.json {
            true => print(&serde_json::to_string_pretty(&report).unwrap_or_default()),
            false => print(text::page(&report).trim_end()),
        }
    }
    let mut verdict = vec![u8::from(report.verdict == Level::Broken)];
    comm.broadcast(0, &mut verdict);
    if verdict == [0] { Exit::Done } else { Exit::Failed }
}

/// Collective: makes all checks. Rank 0 has the whole report.
fn examine(args: &DoctorArgs, comm: &dyn Communicator) -> Report {
    let start = clocks::Start::now();
    let watch = Watch::start(comm.rank(), crate::terminal::is_terminal());
    watch.now("the exchange of facts".to_owned());
    let ranks = facts::gather(comm);
    let gpus = assign(&ranks, args);
    let (choice, data) = data_plane(args, &ranks, comm, &watch);
    let most = if args.quick { 4 << 10 } else { usize::MAX };
    let effort = messages::Effort { largest: largest(&ranks, comm).min(most), quick: args.quick };
    let mut checked = Vec::new();
    let mut large = Vec::new();
    let data = data.as_ref().map(|data| data.as_ref());
    for carrier in std::iter::once(comm).chain(data).filter(|_| comm.size() > 1) {
        checked.push(messages::check(carrier, comm, effort, &watch));
        if args.large_messages {
            let own = &ranks[comm.rank()];
            let memory = (own.memory.available, own.place.ranks_on_host);
            large.push(large::check(carrier, comm, memory, &watch));
        }
    }
    watch.now("the comparison of clocks".to_owned());
    let clocks = clocks::check(comm, &start);
    watch.long(format!("the check of {} by rank 0", args.output.display()));
    let disk = if comm.rank() == 0 {
        disk::check(&args.output, args.quick)
    } else {
        disk::Disk::unseen(&args.output)
    };
    let mut report = Report {
        gpart_dist: env!("CARGO_PKG_VERSION"),
        choice,
        ranks,
        gpus,
        clocks,
        messages: checked,
        large,
        asked_for_large: match args.large_messages && comm.size() == 1 {
            true => "large messages need at least two ranks".to_owned(),
            false => String::new(),
        },
        disk,
        findings: Vec::new(),
        verdict: Level::Ok,
    };
    report.findings = findings::findings(&report);
    report.verdict = report.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    // The others wait for rank 0's disk.
    comm.all_gather(&[]);
    report
}

/// Collective: what a run on these hosts would take, and it, where it is not `control` itself.
fn data_plane(
    args: &DoctorArgs,
    ranks: &[Facts],
    control: &dyn Communicator,
    watch: &Watch,
) -> (DataPlane, Option<Box<dyn Communicator>>) {
    watch.long("the start of NCCL".to_owned());
    let wish = comm::Wish {
        choice: match args.comm {
            config::Comm::Auto => comm::Choice::Auto,
            config::Comm::Nccl => comm::Choice::Nccl,
            config::Comm::Mpi => comm::Choice::Mpi,
        },
        computes_on_gpu: !ranks[control.rank()].accelerators.gpus.is_empty(),
        share_gpu: args.share_gpu,
    };
    match comm::data_plane(wish, control, report::ALARM) {
        Ok(plane) => (DataPlane { why: plane.why, problem: None }, plane.is_nccl.then_some(plane.comm)),
        Err(error) => {
            let why = format!("broken: {error}");
            (DataPlane { why, problem: Some(problem(&error)) }, None)
        }
    }
}

/// An error's message and hint.
fn problem(error: &dyn miette::Diagnostic) -> (String, String) {
    (error.to_string(), error.help().map(|hint| hint.to_string()).unwrap_or_default())
}

/// Collective: the largest message that hosts have memory for, bytes.
fn largest(ranks: &[Facts], comm: &dyn Communicator) -> usize {
    let of_rank = |facts: &Facts| {
        let available = facts.memory.available.unwrap_or(u64::MAX) / facts.place.ranks_on_host as u64;
        // A message, what it is compared with, and copies on the way.
        available / 6
    };
    let own = of_rank(&ranks[comm.rank()]);
    let all = comm.all_gather(&own.to_le_bytes());
    let number = |bytes: &Vec<u8>| bytes.as_slice().try_into().map_or(0, u64::from_le_bytes);
    all.iter().map(number).min().unwrap_or(0) as usize
}

fn assign(ranks: &[Facts], args: &DoctorArgs) -> Gpus {
    let gpus = |facts: &Facts| RankGpus {
        place: facts.place.clone(),
        gpus: facts.accelerators.gpus.clone(),
        visible: facts.accelerators.visible.clone(),
    };
    let all: Vec<RankGpus> = ranks.iter().map(gpus).collect();
    match comm::assign_devices(&all, args.share_gpu) {
        Ok(devices) => Gpus { devices: Some(devices), problem: None },
        Err(error) => Gpus { devices: None, problem: Some(problem(&error)) },
    }
}

impl disk::Disk {
    /// What ranks know of it that do not look.
    fn unseen(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            tried: folder.to_owned(),
            file_system: String::new(),
            free: None,
            write_speed: None,
            state_seconds: None,
            broken: None,
        }
    }
}
