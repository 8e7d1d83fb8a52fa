//! `status`, `watch`, `checkpoint`, `stop`: what a person asks of a run that goes.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use control_plane::{Client, ControlError, Endpoint, LogLevel, render};
use miette::Diagnostic;
use thiserror::Error;

use crate::exit::Exit;
use crate::{fail, terminal};

/// Folders below the working folder are looked through this deep for a run.
const DEPTH: usize = 4;
/// How often `watch` on a terminal draws anew.
const REDRAW: Duration = Duration::from_millis(500);

/// Which run is meant.
#[derive(Args)]
pub struct Which {
    /// The run's output folder [default: the newest one below this folder that has a control.json]
    #[arg(long, value_name = "DIR", conflicts_with = "address")]
    run: Option<PathBuf>,
    /// HOST:PORT of its coordinator; the token comes from GPART_CONTROL_TOKEN, a certificate from GPART_CONTROL_CA
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
}

/// `status`
#[derive(Args)]
pub struct StatusArgs {
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `watch`
#[derive(Args)]
pub struct WatchArgs {
    #[command(flatten)]
    which: Which,
    /// Print what happens line by line, also on a terminal
    #[arg(long)]
    lines: bool,
}

/// `checkpoint`
#[derive(Args)]
pub struct CheckpointArgs {
    #[command(flatten)]
    which: Which,
}

/// `stop`
#[derive(Args)]
pub struct StopArgs {
    #[command(flatten)]
    which: Which,
    /// Why, for those who watch
    #[arg(long, default_value = "asked by gpart-dist stop")]
    reason: String,
}

/// `log-level`
#[derive(Args)]
pub struct LogLevelArgs {
    /// error, warn, info, debug or trace
    level: LogLevel,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Error, Diagnostic)]
enum NoRun {
    #[error("no run is found below {}", folder.display())]
    #[diagnostic(
        code(input::no_run),
        help(
            "name its output folder with --run, or its coordinator with --address; a run that has ended has neither"
        )
    )]
    Below { folder: PathBuf },
    #[error("--address {address} has no token")]
    #[diagnostic(
        code(input::no_token),
        help("set GPART_CONTROL_TOKEN, or give --run DIR: the token is in the folder's control.json")
    )]
    NoToken { address: String },
}

/// Shows the run as it is now.
pub fn status(args: &StatusArgs) -> Exit {
    with_client(&args.which, |client| {
        let status = client.status()?;
        if args.json {
            let text = serde_json::to_string_pretty(&status).unwrap_or_default();
            print(&format!("{text}\n"));
        } else {
            print(&format!("{}\n", render::status(&status, terminal::columns()).trim_end()));
        }
        Ok(())
    })
}

/// Follows the run until it ends.
pub fn watch(args: &WatchArgs) -> Exit {
    with_client(&args.which, |client| {
        if std::io::stdout().is_terminal() && !args.lines {
            return redraw(client);
        }
        client.follow(10, |event| match print(&format!("{}\n", render::event(&event))) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        })
    })
}

/// The table of `status`, again and again, in place.
fn redraw(client: &mut Client) -> Result<(), ControlError> {
    let mut lines = 0;
    loop {
        let status = match client.status() {
            Ok(status) => status,
            // A run that was there a moment ago has ended.
            Err(ControlError::Unreachable { .. }) if lines > 0 => {
                print("the run has ended\n");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let text = format!("{}\n", render::status(&status, terminal::columns()).trim_end());
        let back = if lines > 0 { format!("\x1b[{lines}A\x1b[J") } else { String::new() };
        if !print(&format!("{back}{text}")) {
            return Ok(());
        }
        lines = text.lines().count();
        std::thread::sleep(REDRAW);
    }
}

/// Asks for a checkpoint.
pub fn checkpoint(args: &CheckpointArgs) -> Exit {
    with_client(&args.which, |client| {
        client.checkpoint()?;
        print("asked for: the state and the adapter are kept after the step in progress\n");
        Ok(())
    })
}

/// Asks the run to stop.
pub fn stop(args: &StopArgs) -> Exit {
    with_client(&args.which, |client| {
        client.stop(&args.reason)?;
        print(
            "asked for: the run ends after the step in progress (exit code 75), and the same command goes on\n",
        );
        Ok(())
    })
}

/// Asks for another level of logging.
pub fn log_level(args: &LogLevelArgs) -> Exit {
    with_client(&args.which, |client| {
        client.set_log_level(args.level)?;
        print(&format!("asked for: all ranks log at {} after the step in progress\n", args.level));
        Ok(())
    })
}

fn with_client(which: &Which, act: impl FnOnce(&mut Client) -> Result<(), ControlError>) -> Exit {
    let endpoint = match endpoint(which) {
        Ok(endpoint) => endpoint,
        Err(exit) => return exit,
    };
    match Client::connect(&endpoint).and_then(|mut client| act(&mut client)) {
        Ok(()) => Exit::Done,
        Err(error) => fail(&error),
    }
}

fn endpoint(which: &Which) -> Result<Endpoint, Exit> {
    if let Some(address) = &which.address {
        let variable = |name| match name {
            control_plane::ADDRESS_VARIABLE => Some(address.clone()),
            name => std::env::var(name).ok().filter(|value| !value.is_empty()),
        };
        if variable(control_plane::TOKEN_VARIABLE).is_none() {
            return Err(fail(&NoRun::NoToken { address: address.clone() }));
        }
        let endpoint = Endpoint::from_variables(variable).map_err(|error| fail(&error))?;
        return endpoint.ok_or_else(|| fail(&NoRun::NoToken { address: address.clone() }));
    }
    let folder = match &which.run {
        Some(folder) => folder.clone(),
        None => {
            let here = std::env::current_dir().unwrap_or_default();
            newest(&here, DEPTH)
                .map(|(_, folder)| folder)
                .ok_or_else(|| fail(&NoRun::Below { folder: here }))?
        }
    };
    Endpoint::read(&folder).map_err(|error| fail(&error))
}

/// The folder below `folder` whose control.json is the newest.
fn newest(folder: &Path, depth: usize) -> Option<(SystemTime, PathBuf)> {
    let written = |path: PathBuf| path.metadata().and_then(|data| data.modified()).ok();
    let own = written(folder.join(control_plane::FILE)).map(|when| (when, folder.to_owned()));
    if depth == 0 {
        return own;
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    // Links are not followed: they may lead round in circles.
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let shown = folders.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    shown.filter_map(|entry| newest(&entry.path(), depth - 1)).chain(own).max()
}

/// Whether somebody still reads.
fn print(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}
