//! `gpart-launch`: starts the ranks of a run, watches them, starts them again.

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
mod templates;
mod terminal;

use clap::Parser;

use args::{Cli, Print};
use error::LaunchError;
use exit::Exit;

fn main() -> std::process::ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == guardian::GUARDIAN) {
        return guardian::guard(words.collect()).into();
    }
    let outcome = match Cli::parse() {
        Cli { print: Some(Print::Slurm(args)), .. } => slurm::run(&args).map(|()| Exit::Done),
        Cli { print: Some(Print::Kubernetes(args)), .. } => kubernetes::run(&args).map(|()| Exit::Done),
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
