//! `metamath`, `train`, and `config` of either.

use std::path::PathBuf;

use comm::Communicator;
use config::{Resolved, Task, TrainArgs};
use trainer::{Ending, Surroundings, TrainError};

use crate::devices::Wanted;
use crate::exit::Exit;
use crate::logging::LogFile;
use crate::ranks::{find_on_every_host, with_ranks};
use crate::steering::Steering;
use crate::ui::Ui;
use crate::{cores, devices, fail, samples, sources};

/// Trains, or shows what would be trained on.
pub fn train(task: Task, args: &TrainArgs) -> Exit {
    let steering = Steering::listen();
    with_ranks(|comm| {
        let resolved = trainer::agree(comm, resolve(task, args))?;
        run(resolved, comm, &steering)
    })
}

/// Says what is wrong with the command line, or shows the help that was asked for: once, not once a rank. The ranks
/// whose command line is right learn of it in [`train`]'s first collective, which this one takes part in.
pub fn refuse_command_line(error: &clap::Error) -> Exit {
    if error.exit_code() == 0 {
        if comm::rank_by_launcher().unwrap_or(0) == 0 {
            let _ = error.print();
        }
        return Exit::Done;
    }
    with_ranks(|comm| match trainer::agree::<Exit, _>(comm, Err(TrainError::CommandLine)) {
        Err(TrainError::CommandLine) => {
            let _ = error.print();
            Err(TrainError::Elsewhere { rank: comm.rank(), input: true })
        }
        other => other,
    })
}

fn run(mut resolved: Resolved, comm: &dyn Communicator, steering: &Steering) -> Result<Exit, TrainError> {
    if let Some(earlier) = trainer::earlier_settings(&resolved.config, comm)? {
        resolved.keep_from(&earlier);
    }
    resolved.computes_on(devices::settle(resolved.config.device, comm)?);
    let config = &resolved.config;
    let log = LogFile::start(config.log_level);
    let ui = Ui::new(&resolved);
    let few_cores = cores::warning(config.threads, comm);
    if comm.rank() == 0 {
        few_cores.iter().for_each(|text| ui.warning(text));
        resolved.warnings.iter().for_each(|warning| ui.warning(warning));
        if config.comm == config::Comm::Mpi && comm::launcher().is_none() {
            ui.warning(
                "--comm mpi without a launcher: this is a run of one rank; start several with mpirun -n N",
            );
        }
    }
    let mut notify = |id: &str, event: hub::Event<'_>| {
        if comm.rank() == 0 {
            ui.download(id, event);
        }
    };
    let sources = find_on_every_host(comm, &mut || sources::sources(config, &mut notify))?;
    if let Some(rows) = config.show_samples {
        let shown = if comm.rank() == 0 { samples::show(config, &sources, rows) } else { Ok(()) };
        return trainer::agree(comm, shown.map(|()| Exit::Done));
    }
    let numerics = torch_shim::Numerics { deterministic: config.deterministic, tf32: config.tf32 };
    let (device, plane) = devices::take(
        Wanted { device: config.device, comm: config.comm, share_gpu: config.share_gpu, numerics },
        comm,
    )?;
    if comm.rank() == 0 && device != tch::Device::Cpu {
        ui.warning(devices::UNPROVEN);
    }
    let unreachable = steering.connect(config, comm, &log)?;
    unreachable.iter().for_each(|text| ui.warning(text));
    let surroundings = Surroundings {
        comm,
        data: plane.comm.as_ref(),
        carried_by: &plane.why,
        device,
        gpu_memory: devices::memory(&plane),
        sources: &sources,
        cache_dir: cache_dir(),
        host_memory: crate::host::available_memory,
        observe: &|event| ui.event(event),
        control: steering,
        opened: &|folder| {
            steering.opened(folder);
            if let Err(error) = log.attach(folder, comm.rank()) {
                ui.warning(&format!("no log file in {}: {error}", folder.display()));
            }
        },
    };
    let ending = trainer::run(config, &surroundings);
    steering.end(match &ending {
        Ok(Ending::Finished(_)) => "finished",
        Ok(Ending::Stopped { .. }) => "stopped, and can go on",
        Err(_) => "failed",
    });
    match ending? {
        Ending::Finished(summary) if comm.rank() == 0 => ui.summary(&summary),
        Ending::Finished(_) => {}
        Ending::Stopped { .. } => return Ok(Exit::Preempted),
    }
    Ok(Exit::Done)
}

/// Prints the resolved settings.
pub fn show_config(task: Task, args: &TrainArgs, json: bool) -> Exit {
    let resolved = match resolve(task, args) {
        Ok(resolved) => resolved,
        Err(error) => return fail(&error),
    };
    crate::ui::show_settings(&resolved, json);
    Exit::Done
}

/// The settings, with those that an adapter to start from decides.
pub fn resolve(task: Task, args: &TrainArgs) -> Result<Resolved, TrainError> {
    let mut resolved = config::resolve(task, args, utf8_environment(), &preset_folders())?;
    if let Some(folder) = resolved.config.init_adapter.clone() {
        let adapter = adapter::Adapter::read(&folder)?;
        let path = folder.join("adapter_config.json");
        resolved.take_from_adapter(&folder, trainer::settings_of(&adapter.config, &path)?)?;
        resolved.warnings.extend(crate::merge::unknown_keys(&folder));
    }
    Ok(resolved)
}

/// Variables whose name and value are text; others cannot be settings of ours.
fn utf8_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Where presets are looked for: `GPART_CONFIGS`, `configs` here, `configs` beside or above the binary.
fn preset_folders() -> Vec<PathBuf> {
    let named = std::env::var_os("GPART_CONFIGS").map(PathBuf::from);
    let here = Some(PathBuf::from("configs"));
    let binary = std::env::current_exe().ok();
    let above = binary.iter().flat_map(|path| path.ancestors().skip(1).take(4)).map(|p| p.join("configs"));
    named.into_iter().chain(here).chain(above).filter(|folder| folder.is_dir()).collect()
}

/// Tokens are cached with the user's other caches.
fn cache_dir() -> Option<PathBuf> {
    Some(cache_folder()?.join("tokens"))
}

/// Where compiled kernels are kept.
pub fn kernel_cache() -> Option<PathBuf> {
    Some(cache_folder()?.join("kernels"))
}

/// Our folder among the user's caches.
pub fn cache_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("gpart-dist"))
}
