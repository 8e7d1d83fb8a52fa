//! `gpart-launch`: starts the ranks of a run, watches them, starts them again.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test stops at what it did not expect"))]

mod args;
mod attempt;
mod backend;
mod command;
mod ending;
mod error;
mod exit;
mod gpus;
mod guardian;
mod hosts;
mod kubernetes;
mod last_words;
mod leftovers;
mod lock;
mod memory;
mod output;
mod places;
mod processes;
mod program;
mod report;
mod run;
mod signals;
mod slurm;
mod supervise;
mod sweep;
mod templates;
mod terminal;

use clap::Parser;

use args::{Cli, Instead};
use error::LaunchError;
use exit::Exit;

fn main() -> std::process::ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == guardian::GUARDIAN) {
        return guardian::guard(words.collect()).into();
    }
    let cli = Cli::try_parse().unwrap_or_else(|error| refuse_command_line(&error));
    let outcome = match cli {
        Cli { instead: Some(Instead::Sweep(args)), .. } => sweep::run(&args),
        Cli { instead: Some(Instead::Slurm(args)), .. } => slurm::run(&args).map(|()| Exit::Done),
        Cli { instead: Some(Instead::Kubernetes(args)), .. } => kubernetes::run(&args).map(|()| Exit::Done),
        Cli { run, .. } => run::run(&run),
    };
    let exit = outcome.unwrap_or_else(|error| {
        if !matches!(error, LaunchError::Reported) {
            report::error(&error);
        }
        Exit::of(&error)
    });
    (exit as u8).into()
}

/// Ends with clap's message, and what it cannot know: that `--` is missing before the command.
fn refuse_command_line(error: &clap::Error) -> ! {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let command = words.iter().find(|word| program::TRAINING.contains(&word.as_str()));
    if let Some(command) = command.filter(|_| error.use_stderr() && !words.iter().any(|word| word == "--")) {
        report::error(&LaunchError::NoDashes { command: command.clone() });
        std::process::exit(Exit::Input as i32);
    }
    error.exit()
}
