//! The command line.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  every GPU of this machine; without one, a single rank on the CPU
    gpart-launch -- metamath --preset demo
  eight ranks here, as a pipeline of two stages with four copies or shards
    gpart-launch -n 8 -- metamath --model Llama-3.1-8B --pp 2
  two machines, eight ranks each
    gpart-launch --hosts a:8,b:8 -- train --data rows.jsonl --model Qwen2.5-7B
  six runs one after the other, and a table of them
    gpart-launch sweep -n 8 --seeds 1,2,3 --d 4096,32768 -- metamath --model Llama-3.1-8B
  a Slurm job that survives its time limit
    gpart-launch slurm --nodes 2 --gpus-per-node 8 --submit -- metamath --preset demo

While a run is at work:
  gpart-dist status OUTPUT     from anywhere that sees the output folder
  gpart-dist stop OUTPUT       after the step in progress, with the state saved
SIGINT (Ctrl-C), SIGTERM and SIGUSR1 to gpart-launch stop it in the same way; a second
signal ends it at once. The same command typed again goes on from the last saved step.

Exit status:
  0 done   1 failed   2 wrong input   75 stopped early, resumable   130 ended at once";

const SWEEP_EXAMPLES: &str = "\
Examples:
  six runs on the GPUs of this machine, each evaluated on two test sets
    gpart-launch sweep --seeds 1,2,3 --d 4096,32768 --eval gsm8k,math -- metamath --model M
  what would be run
    gpart-launch sweep --set learning-rate=1e-4,2e-4 --seeds 1,2 --dry-run -- metamath --model M
  the table of what is there so far
    gpart-launch sweep --collect-only --output experiments/sweeps/seed1-2-3_d4096-32768
  the same six runs as an array of Slurm jobs, two at a time
    gpart-launch slurm --seeds 1,2,3 --d 4096,32768 --at-once 2 --submit -- metamath --model M

The same command typed again skips the runs that are done, goes on with the one that was
begun, and tries those again that failed. Signals as for a single run: after the step in
progress the sweep ends with 75.

Exit status:
  0 all done   1 some failed, or there is no table   2 wrong input
  75 stopped early, resumable   130 ended at once";

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
                      gpart-launch sweep [OPTIONS] -- metamath|train [FLAGS of gpart-dist]\n       \
                      gpart-launch slurm [OPTIONS] -- metamath|train [FLAGS of gpart-dist]\n       \
                      gpart-launch kubernetes [OPTIONS] -- metamath|train [FLAGS of gpart-dist]",
    after_help = EXAMPLES
)]
pub struct Cli {
    /// What to do instead of one run.
    #[command(subcommand)]
    pub instead: Option<Instead>,
    /// How to run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Other things to do than one run: several, or scripts for others that run things.
#[derive(Debug, Subcommand)]
pub enum Instead {
    /// Run every combination of settings one after the other, resumably, evaluate them, and make a table of them
    Sweep(Box<SweepArgs>),
    /// Print or submit a Slurm batch script that survives time limits and preemption; of a sweep as an array
    Slurm(Box<SlurmArgs>),
    /// Print a manifest for Kubernetes with the MPI operator, or a Dockerfile for its image
    Kubernetes(Box<KubernetesArgs>),
}

/// A run, and how to run it.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// How.
    #[command(flatten)]
    pub launch: LaunchArgs,
    /// A command of gpart-dist and its flags
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// How to run.
#[derive(Debug, Clone, Args)]
pub struct LaunchArgs {
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
}

impl LaunchArgs {
    /// The options again, as words; what is as by default is left out.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut say = |flag: &str, value: Option<String>| {
            value.into_iter().for_each(|value| words.extend([format!("--{flag}"), value]));
        };
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        say("ranks", self.ranks.map(|ranks| ranks.to_string()));
        say("hosts", self.hosts.clone());
        say("hostfile", self.hostfile.as_ref().map(text));
        say("max-restarts", Some(self.max_restarts).filter(|most| *most != 3).map(|most| most.to_string()));
        say("program", self.program.as_ref().map(text));
        say("control-listen", self.control_listen.clone());
        say("metrics", self.metrics.clone());
        self.variables.iter().for_each(|name| say("env", Some(name.clone())));
        say("patience", self.patience.map(|seconds| seconds.to_string()));
        words.extend(self.mpi_arguments.iter().map(|word| format!("--mpi-arg={word}")));
        words
    }
}

/// What is swept, and what follows each run.
#[derive(Debug, Args)]
pub struct SweptArgs {
    /// What is swept.
    #[command(flatten)]
    pub lists: SweptLists,
    /// Folder of the sweep, with a folder for each run in it; by default experiments/sweeps/NAME, named after what is
    /// swept
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Evaluate each run on these data sets after its training: gsm8k,math
    #[arg(long = "eval", value_name = "LIST", value_delimiter = ',')]
    pub datasets: Vec<String>,
    /// Rows to evaluate on: DATASET=FILE, or FILE where there is one data set; may be given several times
    #[arg(long = "eval-data", value_name = "FILE", requires = "datasets")]
    pub evaluation_data: Vec<String>,
    /// Further words for `gpart-dist eval`, as in --eval-args "--batch-size 16 --max-samples 100"
    #[arg(long = "eval-args", value_name = "WORDS", requires = "datasets", allow_hyphen_values = true)]
    pub evaluation_words: Option<String>,
}

/// A sweep, and how to run it.
#[derive(Debug, Args)]
#[command(
    override_usage = "gpart-launch sweep [OPTIONS] -- metamath|train [FLAGS of gpart-dist]\n       \
                            gpart-launch sweep --collect-only --output DIR",
    after_help = SWEEP_EXAMPLES
)]
pub struct SweepArgs {
    /// What.
    #[command(flatten)]
    pub swept: SweptArgs,
    /// Stop when a run fails; by default the next one is run, and failures are reported at the end
    #[arg(long)]
    pub stop_at_failure: bool,
    /// Print the commands of all runs, and run nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Make the table of the runs that are there, and run nothing
    #[arg(long, conflicts_with = "dry_run")]
    pub collect_only: bool,
    /// How.
    #[command(flatten)]
    pub launch: LaunchArgs,
    /// A command of gpart-dist and its flags, without those that are swept
    #[arg(last = true, required_unless_present = "collect_only", value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Flags and lists of values, in the order in which they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SweptLists(pub Vec<SweptList>);

/// A flag of gpart-dist with the values that it is to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweptList {
    /// The option of the launcher that said so, for messages.
    pub option: &'static str,
    /// The text after it: a list; after `--set` with `KEY=` before it.
    pub text: String,
}

/// Options that take lists: name, value's name, help.
const LISTS: [(&str, &str, &str); 3] = [
    ("seeds", "LIST", "Seeds: 1,2,3; the same as --set seed=1,2,3"),
    ("d", "LIST", "Lengths of the trained vector: 4096,32768; the same as --set d=4096,32768"),
    (
        "set",
        "FLAG=LIST",
        "Values of any flag of the command, as in --set learning-rate=1e-4,2e-4; may be given several times. Values with \
         commas in them are separated by ;. Runs are made for every combination; what is written first varies slowest",
    ),
];

impl Args for SweptLists {
    fn augment_args(command: clap::Command) -> clap::Command {
        let list = |(name, value, help): (&'static str, &'static str, &'static str)| {
            Arg::new(name).long(name).value_name(value).help(help).action(ArgAction::Append)
        };
        command.args(LISTS.map(list))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// By hand, since derived code does not keep the order of different options.
impl FromArgMatches for SweptLists {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found: Vec<(usize, SweptList)> = Vec::new();
        for (option, _, _) in LISTS {
            let places = matches.indices_of(option).into_iter().flatten();
            let texts = matches.get_many::<String>(option).into_iter().flatten();
            found.extend(
                places.zip(texts).map(|(place, text)| (place, SweptList { option, text: text.clone() })),
            );
        }
        found.sort_by_key(|(place, _)| *place);
        Ok(Self(found.into_iter().map(|(_, list)| list).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
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
    /// Where what ranks say goes; %j is the job's number. By default slurm-%j.log, for a sweep slurm-%A_%a.log, by the
    /// numbers of the array and of the run in it
    #[arg(long, value_name = "FILE")]
    pub log: Option<String>,
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
    /// What is swept: then the script is of an array of jobs, one a combination.
    #[command(flatten)]
    #[command(next_help_heading = "A sweep: an array of jobs, one a combination")]
    pub swept: SweptArgs,
    /// Jobs of a sweep that may run at the same time
    #[arg(long, value_name = "K", value_parser = at_least_one)]
    pub at_once: Option<usize>,
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
        assert_eq!((cli.run.launch.ranks, cli.run.command.len()), (Some(2), 3));
        assert!(Cli::try_parse_from(["gpart-launch", "slurm", "--", "train"]).is_ok());
        assert!(Cli::try_parse_from(["gpart-launch", "kubernetes", "--dockerfile"]).is_ok());
        for bad in [&["-n", "0", "--", "train"][..], &[], &["-n", "2"], &["kubernetes", "--", "train"]] {
            let words = ["gpart-launch"].iter().chain(bad);
            assert!(Cli::try_parse_from(words).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lists_keep_their_order() {
        let words = "gpart-launch sweep --set lr=1 --d 4,8 -n 2 --seeds=1 --set pp=1 -- metamath --d 3";
        let Some(Instead::Sweep(args)) = Cli::try_parse_from(words.split(' ')).unwrap().instead else {
            panic!("no sweep")
        };
        let found: Vec<(&str, &str)> =
            args.swept.lists.0.iter().map(|list| (list.option, list.text.as_str())).collect();
        assert_eq!(found, [("set", "lr=1"), ("d", "4,8"), ("seeds", "1"), ("set", "pp=1")]);
        assert_eq!((args.launch.ranks, args.command.join(" ").as_str()), (Some(2), "metamath --d 3"));
    }
}
