//! `gpart-dist`: the command line, where the parts are put together. `main` turns errors into exit codes, the
//! commands do the work.

mod bench;
mod control;
mod cores;
mod devices;
mod doctor;
mod eval;
mod exit;
mod format;
mod gpu_check;
mod host;
mod inspect;
mod logging;
mod manual;
mod merge;
mod pages;
mod plan;
mod random_model;
mod ranks;
mod report;
mod samples;
mod score;
mod sources;
mod steering;
mod terminal;
mod train;
mod ui;

use clap::{Args, Parser, Subcommand};
use config::{Task, TrainArgs};

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
    /// Fine-tune on rows of your own: questions and answers, or chats
    Train(Box<TrainArgs>),
    /// What a run would need and move, without running it: memory, traffic, steps, time, warnings
    #[command(subcommand)]
    Plan(plan::PlanOf),
    /// Show the resolved settings of a command and where each value came from
    #[command(subcommand)]
    Config(ConfigOf),
    /// Show a run that goes: its ranks, how far it is, what is wrong
    Status(control::StatusArgs),
    /// Follow a run until it ends
    Watch(control::WatchArgs),
    /// Ask a run to keep the state and the adapter of the step in progress
    Checkpoint(control::CheckpointArgs),
    /// Ask a run to stop after the step in progress; the same command goes on later
    Stop(control::StopArgs),
    /// Change how much a run logs
    LogLevel(control::LogLevelArgs),
    /// Answer the problems of GSM8K or MATH and score the answers; alone, or under mpirun on any number of ranks
    Eval(Box<eval::EvalArgs>),
    /// Score completions that were made elsewhere
    Score(score::ScoreArgs),
    /// Make a page of one run or several: curves, θ, answers, settings, tables
    Report(pages::ReportArgs),
    /// Print the table of all runs in a folder
    Collect(pages::CollectArgs),
    /// Make a plain checkpoint out of a model and an adapter
    Merge(merge::MergeArgs),
    /// Write a model of a real shape with random weights, to try that shape without a download
    RandomModel(random_model::RandomModelArgs),
    /// Look into a partition, an adapter, a checkpoint or a model
    #[command(subcommand)]
    Inspect(inspect::Inspect),
    /// Measure this machine
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Check this machine, or under mpirun a cluster: versions, messages, GPUs, clocks, disk
    Doctor(doctor::DoctorArgs),
    /// Check that computing on this machine's GPU is right, bit-exact and fast, and write a report
    GpuCheck(gpu_check::GpuCheckArgs),
    /// Print a completion script: source it, or put it where your shell looks
    Completions(manual::CompletionsArgs),
    /// Write manual pages
    Man(manual::ManArgs),
}

#[derive(Subcommand)]
enum ConfigOf {
    /// Settings of `metamath`
    Metamath(Box<ConfigArgs>),
    /// Settings of `train`
    Train(Box<ConfigArgs>),
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
    devices::prepare_environment();
    report::end_all_ranks_on_panic();
    let exit = match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(error) => train::refuse_command_line(&error),
    };
    std::process::ExitCode::from(exit as u8)
}

fn run(cli: Cli) -> Exit {
    match cli.command {
        Command::Metamath(args) => train::train(Task::Metamath, &args),
        Command::Train(args) => train::train(Task::Train, &args),
        Command::Plan(of) => plan::plan(&of),
        Command::Config(ConfigOf::Metamath(args)) => {
            train::show_config(Task::Metamath, &args.train, args.json)
        }
        Command::Config(ConfigOf::Train(args)) => train::show_config(Task::Train, &args.train, args.json),
        Command::Status(args) => control::status(&args),
        Command::Watch(args) => control::watch(&args),
        Command::Checkpoint(args) => control::checkpoint(&args),
        Command::Stop(args) => control::stop(&args),
        Command::LogLevel(args) => control::log_level(&args),
        Command::Eval(args) => eval::eval(&args),
        Command::Score(args) => score::score(&args),
        Command::Report(args) => pages::report(&args),
        Command::Collect(args) => pages::collect(&args),
        Command::Merge(args) => merge::merge(&args),
        Command::RandomModel(args) => random_model::random_model(&args),
        Command::Inspect(what) => inspect::inspect(what),
        Command::Bench(what) => bench::bench(&what),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::GpuCheck(args) => gpu_check::gpu_check(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    }
}

/// Reports an error and gives its exit code.
fn fail(error: &dyn miette::Diagnostic) -> Exit {
    report::print(error);
    Exit::of(error)
}
