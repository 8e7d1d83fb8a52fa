//! A run: everything is checked, then it is supervised, then everything is put back.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use control_plane::decide::Limits;
use control_plane::{Coordinator, CoordinatorOptions, MetricsOptions, TlsPolicy};

use crate::args::{LaunchArgs, RunArgs};
use crate::attempt::View;
use crate::backend::Backend;
use crate::error::LaunchError;
use crate::exit::Exit;
use crate::lock::OutputLock;
use crate::places::{Places, counted};
use crate::program::Mesh;
use crate::supervise::Supervisor;
use crate::{hosts, leftovers, processes, program, report, signals};

/// Variables of the environment that ranks on other hosts are to have as well: those that change what gpart-dist, its
/// libraries and their network do. Values go by name, never in arguments.
const PREFIXES: [&str; 10] =
    ["CUDA_", "GPART_", "HF_", "HUGGING_FACE_", "MKL_", "NCCL_", "OMP_", "RUST_", "TORCH_", "UCX_"];
const NAMES: [&str; 13] = [
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LD_LIBRARY_PATH",
    "NO_PROXY",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TOKENIZERS_PARALLELISM",
    "XDG_CACHE_HOME",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// What ranks are started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Steps, which the coordinator hears of; a stop waits for the one in progress.
    Training,
    /// An evaluation, which may report to nobody; it goes on from the answers that it has, so a stop waits for nothing.
    Evaluation,
}

/// What is run.
pub struct Work<'a> {
    /// What for.
    pub purpose: Purpose,
    /// The command of gpart-dist.
    pub command: &'a [String],
    /// The folder that it writes to.
    pub output: PathBuf,
    /// The mesh that the command asks for.
    pub mesh: Mesh,
}

/// Runs a command to its end, or to where it has to be given up.
pub fn run(args: &RunArgs) -> Result<Exit, LaunchError> {
    let signals = signals::listen()?;
    training(&args.launch, &args.command, &signals)
}

/// Runs a command that trains.
pub fn training(args: &LaunchArgs, command: &[String], signals: &Receiver<i32>) -> Result<Exit, LaunchError> {
    program::check_trains(command)?;
    let backend = Backend::find()?;
    let program = program::find(args.program.as_deref())?;
    let settings = program::settings(&program, command)?;
    let work = Work { purpose: Purpose::Training, command, output: settings.output, mesh: settings.mesh };
    supervised(args, backend, program, work, signals)
}

/// Runs an evaluation that writes to the folder of a run.
pub fn evaluation(
    args: &LaunchArgs,
    command: &[String],
    output: PathBuf,
    signals: &Receiver<i32>,
) -> Result<Exit, LaunchError> {
    let backend = Backend::find()?;
    let program = program::find(args.program.as_deref())?;
    let work = Work { purpose: Purpose::Evaluation, command, output, mesh: Mesh::default() };
    supervised(args, backend, program, work, signals)
}

fn supervised(
    args: &LaunchArgs,
    backend: Backend,
    program: PathBuf,
    work: Work<'_>,
    signals: &Receiver<i32>,
) -> Result<Exit, LaunchError> {
    let places = Places::decide(args, &backend)?;
    let lock = OutputLock::take(&work.output)?;
    processes::become_reaper();
    let removed = leftovers::remove();
    if removed > 0 {
        report::note(&format!(
            "removed {removed} leftover(s) of killed runs from the folders for temporary files"
        ));
    }
    let limits = limits(args);
    let coordinator = match coordinator(args, &places, &work.output, &limits) {
        Ok(coordinator) => coordinator,
        Err(error) => {
            lock.give_back(true);
            return Err(error);
        }
    };
    let place = match places.hosts.len() {
        0 => String::new(),
        1 => " on 1 host".to_owned(),
        count => format!(" on {count} hosts"),
    };
    report::note(&format!(
        "{}{place} with {}; the run's folder is {}",
        counted(places.ranks),
        backend.name(),
        work.output.display()
    ));
    let terminal = std::io::stdout().is_terminal();
    let mut supervisor = Supervisor {
        backend,
        program,
        purpose: work.purpose,
        output: work.output,
        mesh: work.mesh,
        command: work.command.to_vec(),
        view: View { terminal, prefixed: places.ranks > 1 },
        variables: variables(&args.variables),
        more: args.mpi_arguments.clone(),
        max_restarts: args.max_restarts as usize,
        places,
        limits,
        coordinator: &coordinator,
        signals,
        stopping: None,
        attempts: Vec::new(),
    };
    let outcome = supervisor.run();
    let words = match &outcome {
        Ok(Exit::Done) => "the run is complete".to_owned(),
        Ok(_) => "the run was stopped and can be taken up again".to_owned(),
        Err(error) => error.to_string(),
    };
    coordinator.stop(&words);
    leftovers::remove();
    let is_refusal = outcome.as_ref().is_err_and(|error| Exit::of(error) == Exit::Input);
    lock.give_back(is_refusal);
    outcome
}

fn limits(args: &LaunchArgs) -> Limits {
    let patience = args.patience.map(std::time::Duration::from_secs_f64);
    Limits { patience: patience.unwrap_or(Limits::default().patience), ..Limits::default() }
}

/// Starts the coordinator: on loopback where all ranks are here, else with TLS where the other hosts see this one.
fn coordinator(
    args: &LaunchArgs,
    places: &Places,
    output: &std::path::Path,
    limits: &Limits,
) -> Result<Coordinator, LaunchError> {
    let name =
        output.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned());
    let mut options = CoordinatorOptions::new(name, places.ranks);
    if let Some(address) = &args.control_listen {
        options.listen.clone_from(address);
        if let Some(host) = first_other(places)
            && is_loopback(address)
        {
            return Err(LaunchError::Loopback { address: address.clone(), host });
        }
    } else if places.others {
        options.listen = match (hosts::own_address(&places.hosts), first_other(places)) {
            (Some(IpAddr::V6(address)), _) => format!("[{address}]:0"),
            (Some(address), _) => format!("{address}:0"),
            (None, Some(host)) => return Err(LaunchError::OwnAddress { host }),
            // An allocation: its nodes know each other by name.
            (None, None) => "0.0.0.0:0".to_owned(),
        };
    }
    if !is_loopback(&options.listen) {
        options.tls = TlsPolicy::MadeAtStart;
    }
    options.folder = Some(output.to_owned());
    options.limits = limits.clone();
    // Whoever names an address wants it to be seen there.
    options.metrics = args.metrics.clone().map(|listen| MetricsOptions { listen, public: true });
    let coordinator = Coordinator::start(options)?;
    if let Some(address) = coordinator.metrics_address() {
        report::note(&format!("metrics for Prometheus: http://{address}/metrics"));
    }
    Ok(coordinator)
}

fn first_other(places: &Places) -> Option<String> {
    places.hosts.iter().find(|host| !hosts::is_this_host(&host.name)).map(|host| host.name.clone())
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    hosts::address_of(host).is_some_and(|address| address.is_loopback())
}

/// Names of variables that go to all ranks.
fn variables(asked_for: &[String]) -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let is_ours = |name: &String| {
        NAMES.contains(&name.as_str()) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    let mut names: Vec<String> = names.filter(is_ours).chain(asked_for.iter().cloned()).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_in_every_spelling() {
        assert!(is_loopback("127.0.0.1:0") && is_loopback("localhost:7070") && is_loopback("[::1]:0"));
        assert!(!is_loopback("0.0.0.0:0") && !is_loopback("192.0.2.1:70"));
    }
}
