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
}
