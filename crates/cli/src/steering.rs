//! What steers a run from outside: signals to its processes, and the control plane.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use comm::{Communicator, Traffic};
use config::TrainConfig;
use control_plane::{
    Coordinator, CoordinatorOptions, Endpoint, Memory, MetricsOptions, RankInfo, RankLink, TlsPolicy,
    attempt_from_env,
};
use sha2::{Digest, Sha256};
use signal_hook::consts::SIGUSR1;
use trainer::{Control, Phase, StepReport, TrainError, Wishes};

use crate::logging::LogFile;
use crate::{host, report};

/// How often what a rank waits for, and its memory, is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Who steers this rank.
pub struct Steering {
    /// SIGUSR1 came: Slurm sends it ahead of the end of a job, and mpirun passes it to all ranks.
    stop: Arc<AtomicBool>,
    /// Until the run's end.
    line: Mutex<Option<Line>>,
    log: OnceLock<LogFile>,
}

/// This rank's connection to the coordinator.
struct Line {
    link: Arc<RankLink>,
    /// Waiting times so far, by operation.
    waited: BTreeMap<String, f64>,
    /// Hangs up when the watching thread is to end.
    watching: Option<Sender<()>>,
    watcher: Option<JoinHandle<()>>,
    /// On rank 0 of a run that no launcher coordinates, until the end, with where its endpoint was written.
    coordinator: Option<(Coordinator, Option<PathBuf>)>,
}

impl Steering {
    /// Listens for signals from now on. Before that, SIGUSR1 ends the process.
    pub fn listen() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        // The system refuses no handler for this signal.
        let _ = signal_hook::flag::register(SIGUSR1, Arc::clone(&stop));
        Self { stop, line: Mutex::default(), log: OnceLock::new() }
    }

    /// Collective. Connects this rank to the launcher's coordinator, or to one of rank 0's own. A rank that cannot be
    /// connected trains all the same; what is in the way is returned.
    ///
    /// # Errors
    /// The settings of the coordinator cannot be.
    pub fn connect(
        &self,
        config: &TrainConfig,
        comm: &dyn Communicator,
        log: &LogFile,
    ) -> Result<Option<String>, TrainError> {
        let _ = self.log.set(log.clone());
        let hosts: Vec<String> = gathered(comm, comm::host_name().as_bytes());
        let started = match comm.rank() {
            0 => coordinate(config, &hosts),
            _ => Ok((None, None)),
        };
        let (endpoint, coordinator) = trainer::agree(comm, started)?;
        let variables = endpoint.map(|endpoint: Endpoint| endpoint.to_env()).unwrap_or_default();
        let mut bytes = serde_json::to_vec(&variables).unwrap_or_default();
        comm.broadcast(0, &mut bytes);
        let variables: BTreeMap<String, String> =
            serde_json::from_slice::<Vec<(String, String)>>(&bytes).unwrap_or_default().into_iter().collect();
        let endpoint = Endpoint::from_variables(|name| variables.get(name).cloned());
        let connected = endpoint.and_then(|endpoint| {
            endpoint.map(|endpoint| RankLink::connect(&endpoint, info(config, comm))).transpose()
        });
        match connected {
            Ok(Some(link)) => {
                *self.line() = Some(Line::new(link, coordinator));
                Ok(None)
            }
            Ok(None) => Ok(None),
            Err(error) => {
                Ok(Some(format!("status, watch, checkpoint and stop will not reach this run: {error}")))
            }
        }
    }

    fn line(&self) -> MutexGuard<'_, Option<Line>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run's output folder is there: people find the coordinator by it.
    pub fn opened(&self, folder: &Path) {
        let mut line = self.line();
        let Some((coordinator, file)) = line.as_mut().and_then(|line| line.coordinator.as_mut()) else {
            return;
        };
        match coordinator.endpoint().write(folder) {
            Ok(path) => *file = Some(path),
            Err(error) => tracing::warn!(%error, "nobody will find the coordinator"),
        }
    }

    /// The run is over, one way or the other.
    pub fn end(&self, outcome: &str) {
        let Some(mut line) = self.line().take() else { return };
        let coordinator = line.coordinator.take();
        // The link's last words are for the coordinator.
        drop(line);
        if let Some((coordinator, file)) = coordinator {
            if let Some(path) = file {
                let _ = std::fs::remove_file(path);
            }
            coordinator.stop(outcome);
        }
    }
}

/// The launcher's coordinator, or a new one of this process's own.
fn coordinate(
    config: &TrainConfig,
    hosts: &[String],
) -> Result<(Option<Endpoint>, Option<Coordinator>), TrainError> {
    if let Some(endpoint) = Endpoint::from_env().map_err(refused)? {
        return Ok((Some(endpoint), None));
    }
    if !config.control {
        return Ok((None, None));
    }
    let name =
        config.output_dir().file_name().map_or("run".into(), |name| name.to_string_lossy().into_owned());
    let several = hosts.iter().any(|host| *host != hosts[0]);
    let mut options = CoordinatorOptions::new(name, hosts.len());
    if several {
        // Ranks of other hosts come over the network, so they are to know whom they talk to.
        options = CoordinatorOptions { listen: "0.0.0.0:0".into(), tls: TlsPolicy::MadeAtStart, ..options };
    }
    options.metrics = config.metrics_listen.clone().map(|listen| MetricsOptions { listen, public: true });
    let coordinator = Coordinator::start(options).map_err(refused)?;
    Ok((Some(coordinator.endpoint().clone()), Some(coordinator)))
}

fn refused(error: control_plane::ControlError) -> TrainError {
    let hint = miette::Diagnostic::help(&error).map_or_else(String::new, |help| help.to_string());
    TrainError::Control { message: error.to_string(), hint }
}

fn info(config: &TrainConfig, comm: &dyn Communicator) -> RankInfo {
    let settings = serde_json::to_vec(config).unwrap_or_default();
    let hash = Sha256::digest(settings);
    let fingerprint = crate::inspect::hex(&hash);
    RankInfo {
        rank: comm.rank(),
        ranks: comm.size(),
        host: comm::host_name(),
        device: report::device().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fingerprints: BTreeMap::from([("settings".to_owned(), fingerprint)]),
        attempt: attempt_from_env(),
    }
}

fn gathered(comm: &dyn Communicator, own: &[u8]) -> Vec<String> {
    comm.all_gather(own).iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
}

impl Line {
    fn new(link: RankLink, coordinator: Option<Coordinator>) -> Self {
        let link = Arc::new(link);
        let (watching, hung_up) = channel();
        let watched = Arc::clone(&link);
        let watch = move || {
            let mut waits_in = None;
            while hung_up.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                let waiting = comm::waiting().map(|waiting| (waiting.axis, waiting.operation));
                if waiting != waits_in {
                    let name = waiting.map(|(axis, operation)| format!("{} ({axis})", operation.name()));
                    watched.collective(name.as_deref());
                    waits_in = waiting;
                }
                if let Some((now, peak)) = host::own_memory() {
                    watched.memory(Memory { now, peak });
                }
            }
        };
        // Without it, no more is known than phases and steps.
        let watcher = std::thread::Builder::new().name("watcher".to_owned()).spawn(watch).ok();
        let coordinator = coordinator.map(|coordinator| (coordinator, None));
        Self { link, waited: BTreeMap::new(), watching: Some(watching), watcher, coordinator }
    }

    /// Seconds that were waited for each operation since the last step.
    fn waited_since(&mut self, traffic: &[Traffic]) -> BTreeMap<String, f64> {
        let mut totals = BTreeMap::<String, f64>::new();
        for line in traffic {
            *totals.entry(line.operation.name().to_owned()).or_default() += line.waited_seconds;
        }
        let since =
            |(name, total): (&String, &f64)| (name.clone(), total - self.waited.get(name).unwrap_or(&0.0));
        let waited = totals.iter().map(since).collect();
        self.waited = totals;
        waited
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.watching = None;
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

impl Control for Steering {
    fn phase(&self, phase: Phase) {
        use control_plane::Phase as To;
        let line = self.line();
        let Some(line) = line.as_ref() else { return };
        line.link.phase(match phase {
            Phase::Loading => To::Loading,
            Phase::Forward => To::Forward,
            Phase::Backward => To::Backward,
            Phase::Reducing => To::Reducing,
            Phase::WaitingForDisk => To::Saving,
            Phase::Recording => To::Updating,
            Phase::Evaluating | Phase::Sampling => To::Evaluating,
            Phase::Finishing => To::Finishing,
        });
    }

    fn step(&self, report: &StepReport<'_>) {
        let mut line = self.line();
        let Some(line) = line.as_mut() else { return };
        let StepReport { metrics, total_steps, durable_step, traffic } = report;
        if let Some(step) = durable_step {
            line.link.durable(*step);
        }
        let waited_seconds = line.waited_since(traffic);
        line.link.step(control_plane::StepReport {
            step: metrics.step,
            total_steps: *total_steps,
            loss: metrics.loss,
            tokens_per_second: metrics.tokens_per_second,
            seconds: metrics.step_seconds,
            waited_seconds,
        });
    }

    fn wishes(&self) -> Wishes {
        let asked = self.line().as_ref().map(|line| line.link.wishes()).unwrap_or_default();
        Wishes {
            stop: asked.stop.is_some() || self.stop.load(Ordering::Relaxed),
            checkpoint: asked.checkpoint,
            log_level: asked.log_level.map(|level| match level {
                control_plane::LogLevel::Error => config::LogLevel::Error,
                control_plane::LogLevel::Warn => config::LogLevel::Warn,
                control_plane::LogLevel::Info => config::LogLevel::Info,
                control_plane::LogLevel::Debug => config::LogLevel::Debug,
                control_plane::LogLevel::Trace => config::LogLevel::Trace,
            }),
        }
    }

    fn granted(&self, wishes: Wishes) {
        if let (Some(level), Some(log)) = (wishes.log_level, self.log.get()) {
            log.set_level(level);
        }
    }
}
