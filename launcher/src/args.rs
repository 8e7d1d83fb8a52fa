//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  every GPU of this machine; without one, a single rank on the CPU
    gpart-launch -- metamath --preset demo
  eight ranks here, as a pipeline of two stages with four copies or shards
    gpart-launch -n 8 -- metamath --model Llama-3.1-8B --pp 2
  two machines, eight ranks each
    gpart-launch --hosts a:8,b:8 -- train --data rows.jsonl --model Qwen2.5-7B
  a Slurm job that survives its time limit
    gpart-launch slurm --nodes 2 --gpus-per-node 8 --submit -- metamath --preset demo

While a run is at work:
  gpart-dist status OUTPUT     from anywhere that sees the output folder
  gpart-dist stop OUTPUT       after the step in progress, with the state saved
SIGINT (Ctrl-C), SIGTERM and SIGUSR1 to gpart-launch stop it in the same way; a second
signal ends it at once. The same command typed again goes on from the last saved step.

Exit status:
  0 done   1 failed   2 wrong input   75 stopped early, resumable   130 ended at once";

/// Starts a run of gpart-dist on many GPUs, watches it, and starts it again where it left off when a rank crashes,
/// hangs or is killed, or a machine is lost.
///
/// What comes after `--` is the command of gpart-dist, as it would be typed for one GPU.
#[derive(Debug, Parser)]
#[command(
    name = "gpart-launch",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    override_usage = "gpart-launch [OPTIONS] -- metamath|train [FLAGS of gpart-dist]\n       \
                      gpart-launch slurm [OPTIONS] -- metamath|train [FLAGS of gpart-dist]\n       \
                      gpart-launch kubernetes [OPTIONS] -- metamath|train [FLAGS of gpart-dist]",
    after_help = EXAMPLES
)]
pub struct Cli {
    /// What to do instead of running.
    #[command(subcommand)]
    pub print: Option<Print>,
    /// How to run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Scripts for others that run things.
#[derive(Debug, Subcommand)]
pub enum Print {
    /// Print or submit a Slurm batch script that survives time limits and preemption
    Slurm(SlurmArgs),
    /// Print a manifest for Kubernetes with the MPI operator, or a Dockerfile for its image
    Kubernetes(KubernetesArgs),
}

/// How to run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Number of ranks, one a GPU; by default the slots of the hosts, else the number of GPUs found, on every host
    #[arg(short = 'n', long = "ranks", value_name = "N", value_parser = at_least_one)]
    pub ranks: Option<usize>,
    /// Machines to run on, each with the number of ranks it takes: a:4,b:4; by default this one
    #[arg(long, value_name = "LIST", conflicts_with = "hostfile")]
    pub hosts: Option<String>,
    /// The same from a file: a line for each machine, NAME slots=4
    #[arg(long, value_name = "FILE")]
    pub hostfile: Option<PathBuf>,
    /// Failures without a newly saved step in between after which to give up
    #[arg(long, value_name = "K", default_value_t = 3)]
    pub max_restarts: u32,
    /// The gpart-dist to run; by default the one beside this program, else the one on PATH
    #[arg(long, value_name = "PATH")]
    pub program: Option<PathBuf>,
    /// Where ranks and `gpart-dist status` reach this program; by default a free port here, and with other machines
    /// an address that they see
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub control_listen: Option<String>,
    /// Serve metrics for Prometheus here, at /metrics
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<String>,
    /// Also hand this environment variable on to ranks on other machines; may be given several times
    #[arg(long = "env", value_name = "NAME")]
    pub variables: Vec<String>,
    /// Also give this word to mpirun (or srun), as in --mpi-arg=--mca --mpi-arg=btl --mpi-arg=tcp,self
    #[arg(long = "mpi-arg", value_name = "WORD", allow_hyphen_values = true)]
    pub mpi_arguments: Vec<String>,
    /// How long a rank that hangs is given before all are ended and started again. From when on it counts as hanging
    /// follows from how long its steps take
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub patience: Option<f64>,
    /// A command of gpart-dist and its flags
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// What a batch script for Slurm is to ask for.
#[derive(Debug, Args)]
#[command(override_usage = "gpart-launch slurm [OPTIONS] -- metamath|train [FLAGS of gpart-dist]")]
pub struct SlurmArgs {
    /// Machines
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    pub nodes: usize,
    /// GPUs of each, one rank each; by default as many as this machine has
    #[arg(long, value_name = "G")]
    pub gpus_per_node: Option<usize>,
    /// Ranks on each machine; by default one a GPU, without GPUs one
    #[arg(long, value_name = "R", value_parser = at_least_one)]
    pub ranks_per_node: Option<usize>,
    /// Cores of each rank
    #[arg(long, value_name = "C", value_parser = at_least_one)]
    pub cpus_per_rank: Option<usize>,
    /// Time limit, as sbatch has it: 12:00:00 or 2-00:00:00; the job queues itself again before it ends
    #[arg(long, value_name = "T")]
    pub time: Option<String>,
    /// Partition
    #[arg(long, value_name = "P")]
    pub partition: Option<String>,
    /// Account
    #[arg(long, value_name = "A")]
    pub account: Option<String>,
    /// The job's name
    #[arg(long, value_name = "NAME", default_value = "gpart")]
    pub job_name: String,
    /// Where what ranks say goes; %j is the job's number
    #[arg(long, value_name = "FILE", default_value = "slurm-%j.log")]
    pub log: String,
    /// Seconds before the time limit at which the run is asked to stop: more than a step and its checkpoint take
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=65535))]
    pub stop_before: u32,
    /// How ranks find each other, as `srun --mpi=list` names it
    #[arg(long, value_name = "TYPE", default_value = "pmix")]
    pub mpi: String,
    /// Another option of sbatch, as in --option mem=0; may be given several times
    #[arg(long = "option", value_name = "NAME=VALUE")]
    pub options: Vec<String>,
    /// The gpart-dist to run; by default the one beside this program, else the one on PATH
    #[arg(long, value_name = "PATH")]
    pub program: Option<PathBuf>,
    /// Write the script to this file; by default it is printed
    #[arg(long, value_name = "FILE", conflicts_with = "submit")]
    pub output_script: Option<PathBuf>,
    /// Submit it with sbatch
    #[arg(long)]
    pub submit: bool,
    /// A command of gpart-dist and its flags
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// What a manifest for Kubernetes is to ask for.
#[derive(Debug, Args)]
#[command(
    override_usage = "gpart-launch kubernetes [OPTIONS] -- metamath|train [FLAGS of gpart-dist]\n       \
                            gpart-launch kubernetes --dockerfile"
)]
pub struct KubernetesArgs {
    /// Print a Dockerfile for the image that all pods run
    #[arg(long, exclusive = true)]
    pub dockerfile: bool,
    /// The image
    #[arg(long, value_name = "IMAGE", required_unless_present = "dockerfile")]
    pub image: Option<String>,
    /// The run's name in the cluster
    #[arg(long, value_name = "NAME", default_value = "gpart")]
    pub name: String,
    /// Namespace; by default that of kubectl's context
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Worker pods
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    pub workers: usize,
    /// GPUs of each worker, one rank each; 0 for ranks on CPUs
    #[arg(long, value_name = "G", default_value_t = 1)]
    pub gpus_per_worker: usize,
    /// Ranks of each worker; by default one a GPU, without GPUs one
    #[arg(long, value_name = "R", value_parser = at_least_one)]
    pub ranks_per_worker: Option<usize>,
    /// Cores of each worker, as Kubernetes has it: 16
    #[arg(long, value_name = "C")]
    pub cpus: Option<String>,
    /// Memory of each worker, as Kubernetes has it: 256Gi
    #[arg(long, value_name = "M")]
    pub memory: Option<String>,
    /// An existing claim for the volume that holds runs; by default one named NAME-run is made
    #[arg(long, value_name = "NAME", conflicts_with_all = ["storage", "storage_class"])]
    pub claim: Option<String>,
    /// Size of the volume that is claimed: room for the model and the run
    #[arg(long, value_name = "SIZE", default_value = "100Gi")]
    pub storage: String,
    /// Storage class of the volume that is claimed; it must be able to do ReadWriteMany
    #[arg(long, value_name = "NAME")]
    pub storage_class: Option<String>,
    /// Where the volume is in the pods: the working folder of the run
    #[arg(long, value_name = "PATH", default_value = "/runs")]
    pub mount: String,
    /// How often the cluster starts the launcher again: after evictions and failures
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub backoff_limit: u32,
    /// Seconds that a pod has to stop: more than a step and its checkpoint take
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub grace_seconds: u32,
    /// A command of gpart-dist and its flags
    #[arg(last = true, required_unless_present = "dockerfile", value_name = "COMMAND")]
    pub command: Vec<String>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "it must be a whole number from 1".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    let number =
        text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0 && *number < 1e9);
    number.ok_or_else(|| "it must be a number of seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["gpart-launch", "-n", "2", "--", "metamath", "-n", "--help"]).unwrap();
        assert_eq!((cli.run.ranks, cli.run.command.len()), (Some(2), 3));
        assert!(Cli::try_parse_from(["gpart-launch", "slurm", "--", "train"]).is_ok());
        assert!(Cli::try_parse_from(["gpart-launch", "kubernetes", "--dockerfile"]).is_ok());
        for bad in [&["-n", "0", "--", "train"][..], &[], &["-n", "2"], &["kubernetes", "--", "train"]] {
            let words = ["gpart-launch"].iter().chain(bad);
            assert!(Cli::try_parse_from(words).is_err(), "{bad:?}");
        }
    }
}
