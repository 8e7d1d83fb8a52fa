//! `gpart-dist`: the command line, where the parts are put together. `main` turns errors into exit codes, the
//! commands do the work.

mod exit;
mod format;
mod inspect;
mod logging;
mod metamath;
mod report;
mod terminal;
mod ui;

use clap::{Args, Parser, Subcommand};
use config::TrainArgs;

use exit::Exit;

/// Distributed fine-tuning with GPart: one vector θ, a seed, and the same bits on any number of ranks.
#[derive(Parser)]
#[command(name = "gpart-dist", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fine-tune on MetaMathQA; alone, or under mpirun on any number of ranks
    Metamath(Box<TrainArgs>),
    /// Show the resolved settings of a command and where each value came from
    #[command(subcommand)]
    Config(ConfigOf),
    /// Look into a partition, an adapter, a checkpoint or a model
    #[command(subcommand)]
    Inspect(inspect::Inspect),
}

#[derive(Subcommand)]
enum ConfigOf {
    /// Settings of `metamath`
    Metamath(Box<ConfigArgs>),
}

#[derive(Args)]
struct ConfigArgs {
    #[command(flatten)]
    train: TrainArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> std::process::ExitCode {
    report::end_all_ranks_on_panic();
    let exit = match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(error) => metamath::refuse_command_line(&error),
    };
    std::process::ExitCode::from(exit as u8)
}

fn run(cli: Cli) -> Exit {
    match cli.command {
        Command::Metamath(args) => metamath::metamath(&args),
        Command::Config(ConfigOf::Metamath(args)) => metamath::show_config(&args.train, args.json),
        Command::Inspect(what) => inspect::inspect(what),
    }
}

/// Reports an error and gives its exit code.
fn fail(error: &dyn miette::Diagnostic) -> Exit {
    report::print(error);
    Exit::of(error)
}
