//! Settings as a user would write them, resolved in a temporary folder.
#![allow(clippy::unwrap_used)]

mod refusals;
mod values;

use std::fs;

use clap::Parser;
use miette::Diagnostic;
use tempfile::TempDir;

use crate::{ConfigError, Resolved, Task, TrainArgs, resolve};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    train: TrainArgs,
}

/// A command line, an environment, a `--config` file and a preset named `p`, as a user would write them.
#[derive(Default, Clone, Copy)]
struct Written<'a> {
    flags: &'a [&'a str],
    environment: &'a [(&'a str, &'a str)],
    file: Option<&'a str>,
    preset: Option<&'a str>,
}

fn parse(flags: &[&str]) -> Result<TrainArgs, clap::Error> {
    Cli::try_parse_from(std::iter::once(&"metamath").chain(flags)).map(|cli| cli.train)
}

/// Resolves in a folder that lives as long as the result is looked at.
fn resolve_in(folder: &TempDir, written: Written<'_>) -> Result<Resolved, ConfigError> {
    let mut flags: Vec<String> = written.flags.iter().map(|flag| (*flag).to_owned()).collect();
    let presets = folder.path().join("presets");
    fs::create_dir_all(&presets).unwrap();
    if let Some(text) = written.file {
        let path = folder.path().join("file.toml");
        fs::write(&path, text).unwrap();
        flags.extend(["--config".to_owned(), path.display().to_string()]);
    }
    if let Some(text) = written.preset {
        fs::write(presets.join("p.toml"), text).unwrap();
        flags.extend(["--preset".to_owned(), "p".to_owned()]);
    }
    let args = parse(&flags.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let environment =
        written.environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    resolve(Task::Metamath, &args, environment, &[presets])
}

fn resolved(written: Written<'_>) -> Resolved {
    resolve_in(&TempDir::new().unwrap(), written).unwrap()
}

fn of_flags(flags: &[&str]) -> Resolved {
    resolved(Written { flags, ..Written::default() })
}

/// The error's code, message and hint on one line, with the temporary folder cut out.
fn refusal(written: Written<'_>) -> String {
    let folder = TempDir::new().unwrap();
    let error = resolve_in(&folder, written).unwrap_err();
    let text = format!("[{}] {error} | {}", error.code().unwrap(), error.help().unwrap());
    text.replace(&format!("{}/", folder.path().display()), "")
}
