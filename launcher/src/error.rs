//! Why a run was not started, or came to no end.

use std::path::PathBuf;

use miette::Diagnostic;
use thiserror::Error;

/// What the launcher stops with. Codes `input::…` are the user's to mend, `run::…` are failures.
#[derive(Debug, Error, Diagnostic)]
pub enum LaunchError {
    /// It was said already, by the program that noticed.
    #[error("the settings are wrong")]
    #[diagnostic(code(input::settings))]
    Reported,
    /// A command among the launcher's own words.
    #[error("{command} is a command of gpart-dist, not of the launcher")]
    #[diagnostic(
        code(input::command_line),
        help("write `--` before it: gpart-launch [OPTIONS] -- {command} [FLAGS]")
    )]
    NoDashes {
        /// Which.
        command: String,
    },
    /// No MPI.
    #[error("there is no mpirun on PATH")]
    #[diagnostic(
        code(input::no_mpirun),
        help(
            "install Open MPI (Debian: apt install openmpi-bin; clusters: module load openmpi), or run `gpart-dist` alone \
             for a single rank"
        )
    )]
    NoMpirun,
    /// An MPI that is not known, or that does not work.
    #[error("{} cannot be used: {why}", program.display())]
    #[diagnostic(
        code(input::unknown_mpirun),
        help("put the mpirun of Open MPI, MPICH or Intel MPI that gpart-dist was built with first on PATH")
    )]
    BrokenMpirun {
        /// The program.
        program: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No gpart-dist.
    #[error("there is no gpart-dist beside this program and none on PATH")]
    #[diagnostic(
        code(input::no_program),
        help("build it with `cargo build --release -p cli`, or name it with --program PATH")
    )]
    NoProgram,
    /// Something that cannot be run.
    #[error("--program {} is not a program that can be run", path.display())]
    #[diagnostic(code(input::no_program), help("name the gpart-dist binary; it must be executable"))]
    NotAProgram {
        /// What was given.
        path: PathBuf,
    },
    /// It does not even show settings.
    #[error("{} config failed: {why}", program.display())]
    #[diagnostic(
        code(input::broken_program),
        help(
            "run `gpart-dist --version` by hand; libraries that are not found are a matter of LD_LIBRARY_PATH"
        )
    )]
    BrokenProgram {
        /// The program.
        program: PathBuf,
        /// What it said.
        why: String,
    },
    /// Settings in a form that is not known.
    #[error("the settings that {} config prints cannot be read: {why}", program.display())]
    #[diagnostic(code(input::other_version), help("take gpart-launch and gpart-dist from the same build"))]
    UnreadableSettings {
        /// The program.
        program: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A command that is none of a run.
    #[error("after `--` comes {command:?}, which is no command that trains")]
    #[diagnostic(
        code(input::command),
        help(
            "write gpart-launch [OPTIONS] -- {known} [FLAGS of gpart-dist]; other commands are run with gpart-dist"
        )
    )]
    NotTraining {
        /// What came.
        command: String,
        /// What may come.
        known: String,
    },
    /// A file of hosts that cannot be read.
    #[error("--hostfile {} cannot be read", path.display())]
    #[diagnostic(
        code(input::hostfile),
        help("a line is a host's name, with slots=N for the number of ranks it takes")
    )]
    HostFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A host that cannot be one.
    #[error("{place}: {entry:?} is no host")]
    #[diagnostic(
        code(input::host),
        help("write NAME or NAME:RANKS, or in a file NAME slots=RANKS; RANKS is a number from 1")
    )]
    HostEntry {
        /// Where.
        place: String,
        /// What is there.
        entry: String,
    },
    /// A file without hosts.
    #[error("--hostfile {} names no host", path.display())]
    #[diagnostic(
        code(input::hostfile),
        help("a line is a host's name, with slots=N for the number of ranks it takes")
    )]
    NoHosts {
        /// The file.
        path: PathBuf,
    },
    /// Names that nothing is known of.
    #[error("these hosts are not known here: {names}")]
    #[diagnostic(
        code(input::unknown_hosts),
        help("check the spelling with `getent hosts NAME`, or give addresses; nothing was started")
    )]
    UnknownHosts {
        /// Which.
        names: String,
    },
    /// Hosts that do not answer.
    #[error("these hosts cannot be reached:{lines}")]
    #[diagnostic(
        code(input::unreachable_hosts),
        help(
            "`ssh HOST true` must work without a password from here to every host (ssh-copy-id HOST), and the same \
             gpart-dist must be at the same path there; nothing was started"
        )
    )]
    UnreachableHosts {
        /// Which and why.
        lines: String,
    },
    /// More ranks than places.
    #[error("-n {ranks}, but {place} for {slots} ranks only")]
    #[diagnostic(
        code(input::slots),
        help(
            "lower -n, add hosts, or say how many ranks each takes: --hosts a:4,b:4 (slots=4 in a hostfile)"
        )
    )]
    NotEnoughSlots {
        /// Asked for.
        ranks: usize,
        /// What has too few, with its verb.
        place: String,
        /// What is there.
        slots: usize,
    },
    /// An output folder that cannot be written to.
    #[error("the output folder {} cannot be written to", folder.display())]
    #[diagnostic(code(input::output), help("choose another folder with --output, or mend its permissions"))]
    Output {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another launcher is at it.
    #[error("another gpart-launch is at work on {}", folder.display())]
    #[diagnostic(
        code(input::output_locked),
        help(
            "wait for it, stop it (gpart-dist stop, or SIGTERM to it), or choose another folder with --output"
        )
    )]
    OutputLocked {
        /// The folder.
        folder: PathBuf,
    },
    /// A temporary file.
    #[error("a temporary file could not be written")]
    #[diagnostic(code(run::scratch), help("look at the space and the permissions of $TMPDIR, or of /tmp"))]
    Scratch(#[source] std::io::Error),
    /// A process that could not be made.
    #[error("{what} could not be started")]
    #[diagnostic(
        code(run::start),
        help("look at the limits on processes (ulimit -u) and on open files (ulimit -n)")
    )]
    Start {
        /// Which.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// No way to be seen.
    #[error("no address of this host is known under which {host} could reach it")]
    #[diagnostic(code(input::own_address), help("give one with --control-listen ADDRESS:PORT"))]
    OwnAddress {
        /// The other host.
        host: String,
    },
    /// It is not started again.
    #[error("the run has failed: {reason}{said}")]
    #[diagnostic(code(run::gave_up), help("{hint}"))]
    GaveUp {
        /// Why.
        reason: String,
        /// What a rank said last, if it said anything.
        said: String,
        /// What to do.
        hint: String,
    },
    /// The coordinator.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Control(#[from] control_plane::ControlError),
    /// Where no other host can see it.
    #[error("--control-listen {address} is this machine's own, and ranks on {host} could not reach it")]
    #[diagnostic(
        code(input::control_listen),
        help("leave it out, or give an address that the other machines see")
    )]
    Loopback {
        /// What was given.
        address: String,
        /// A host that could not.
        host: String,
    },
    /// The ranks end with the input's code.
    #[error("the ranks refused their input (exit status 2); their message is above")]
    #[diagnostic(code(input::ranks))]
    RefusedByRanks,
    /// A value that a script cannot hold.
    #[error("{what} cannot be written into a script: {value:?}")]
    #[diagnostic(code(input::value), help("{hint}"))]
    Value {
        /// Which.
        what: String,
        /// The value.
        value: String,
        /// What is allowed.
        hint: &'static str,
    },
    /// A template.
    #[error("the template {name} could not be filled in")]
    #[diagnostic(code(run::template))]
    Template {
        /// Which.
        name: &'static str,
        /// What is wrong.
        source: minijinja::Error,
    },
    /// A file that is to hold a script.
    #[error("{} could not be written", path.display())]
    #[diagnostic(code(input::script), help("choose another path"))]
    Script {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// sbatch.
    #[error("sbatch did not take the job: {why}")]
    #[diagnostic(
        code(input::sbatch),
        help("--output-script FILE writes the script, to be looked at and submitted by hand")
    )]
    Submit {
        /// What it said.
        why: String,
    },
    /// A list of values.
    #[error("--{option}: {why}")]
    #[diagnostic(
        code(input::swept_list),
        help(
            "write --seeds 1,2,3, --d 4096,32768 or --set FLAG=VALUE,VALUE; values with commas in them are separated by ;"
        )
    )]
    SweptList {
        /// The option.
        option: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A sweep over nothing.
    #[error("nothing is swept")]
    #[diagnostic(
        code(input::nothing_swept),
        help(
            "give --seeds 1,2,3, --d 4096,32768 or --set FLAG=VALUE,VALUE before `--`; one run is gpart-launch -- …"
        )
    )]
    NothingSwept,
    /// A flag in two places.
    #[error("{flag} is swept, and it is set otherwise too")]
    #[diagnostic(
        code(input::swept_twice),
        help("leave it out behind `--`, or do not sweep it; names that mean the same flag count as one")
    )]
    SweptTwice {
        /// Which.
        flag: String,
    },
    /// The folder of all runs.
    #[error("--output stands behind `--`, where all runs would share it")]
    #[diagnostic(
        code(input::output_of_sweep),
        help(
            "write it before `--`: gpart-launch sweep --output DIR … -- metamath …; each run has a folder in it"
        )
    )]
    OutputOfSweep,
    /// Two combinations that are one.
    #[error("{first} and {second} come to the same settings")]
    #[diagnostic(code(input::same_settings), help("leave one of the two values out"))]
    SameSettings {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A data set of an evaluation.
    #[error("{what}: {why}")]
    #[diagnostic(
        code(input::evaluation),
        help(
            "write --eval gsm8k,math --eval-data gsm8k=FILE --eval-data math=FILE --eval-args \"--batch-size 16\""
        )
    )]
    Evaluation {
        /// The option.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// An option of a sweep where there is none.
    #[error("{option} is for sweeps, and nothing is swept")]
    #[diagnostic(code(input::no_sweep), help("give --seeds, --d or --set as well, or leave it out"))]
    NoSweep {
        /// Which.
        option: &'static str,
    },
    /// The folder is taken.
    #[error("{} holds another sweep:{lines}", folder.display())]
    #[diagnostic(
        code(input::other_sweep),
        help("type the same command again to go on with that one, or choose another folder with --output")
    )]
    OtherSweep {
        /// The folder.
        folder: PathBuf,
        /// What differs.
        lines: String,
    },
    /// A file of a sweep's folder.
    #[error("{} cannot be written", path.display())]
    #[diagnostic(code(run::sweep_file), help("look at the space and the permissions of its folder"))]
    SweepFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Runs of a sweep.
    #[error("{failed} of {all} runs failed:{lines}")]
    #[diagnostic(
        code(run::sweep),
        help(
            "what each said is above and in its folder's logs/; the same command tries them again, and skips runs that are \
             done"
        )
    )]
    SweepFailed {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
        /// Which, and why, a line each.
        lines: String,
    },
    /// No table.
    #[error("the table of {} could not be made: {why}", folder.display())]
    #[diagnostic(
        code(run::collect),
        help("the runs are as they were; gpart-launch sweep --collect-only --output {} tries again", folder.display())
    )]
    NoTable {
        /// The sweep's folder.
        folder: PathBuf,
        /// What gpart-dist said.
        why: String,
    },
    /// A folder that is none.
    #[error("there is no folder {}", folder.display())]
    #[diagnostic(code(input::no_sweep_folder), help("name the folder of a sweep with --output"))]
    NoSweepFolder {
        /// What was given.
        folder: PathBuf,
    },
}
