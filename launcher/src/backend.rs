//! What starts the ranks: Open MPI's mpirun, MPICH's or Intel's Hydra, Slurm's srun. Which one, and in which words.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::NamedTempFile;

use crate::error::LaunchError;
use crate::hosts::Host;
use crate::output::Marks;

/// A way to start ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Open MPI, of that major version.
    OpenMpi(u32),
    /// MPICH and what descends from it.
    Hydra,
    /// Intel MPI: Hydra with words of its own.
    IntelMpi,
    /// A step of a Slurm allocation.
    Slurm,
}

/// A way to start ranks that is on this host.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Which one.
    pub kind: Kind,
    /// Where.
    pub program: PathBuf,
}

/// What is to be started.
#[derive(Debug)]
pub struct Job<'a> {
    /// How many ranks.
    pub ranks: usize,
    /// Where; this host if empty, or the allocation.
    pub hosts: &'a [Host],
    /// Cores that ranks may share without oversubscribing this host.
    pub cores: usize,
    /// Variables that go to all ranks. Names only: values must not show in a list of processes.
    pub variables: &'a [String],
    /// Arguments for mpirun or srun from the user.
    pub more: &'a [String],
    /// Program and arguments of a rank.
    pub command: &'a [OsString],
}

/// Words to start a job with.
#[derive(Debug)]
pub struct Started {
    /// The program and its arguments.
    pub words: Vec<OsString>,
    /// Variables of that program itself.
    pub environment: Vec<(&'static str, &'static str)>,
    /// The list of hosts that the words name. Lives as long as the job.
    #[allow(dead_code, reason = "dropping it removes the file")]
    pub hosts_file: Option<NamedTempFile>,
}

/// Root may start ranks only when it says so twice. Containers have no other user.
const AS_ROOT: [(&str, &str); 4] = [
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
    ("PRTE_ALLOW_RUN_AS_ROOT", "1"),
    ("PRTE_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
];

impl Backend {
    /// Finds what this host has: in a Slurm allocation srun, else mpirun.
    pub fn find() -> Result<Self, LaunchError> {
        // A step inside an allocation; with hosts of one's own mpirun is asked for.
        if std::env::var_os("SLURM_JOB_ID").is_some()
            && let Some(program) = on_path("srun")
        {
            return Ok(Self { kind: Kind::Slurm, program });
        }
        let program = on_path("mpirun").or_else(|| on_path("mpiexec")).ok_or(LaunchError::NoMpirun)?;
        let mut command = Command::new(&program);
        command.arg("--version").envs(AS_ROOT);
        let output = command.output().map_err(|source| LaunchError::BrokenMpirun {
            program: program.clone(),
            why: source.to_string(),
        })?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let kind = kind_of(&text).ok_or_else(|| LaunchError::BrokenMpirun {
            program: program.clone(),
            why: match text.lines().find(|line| !line.trim().is_empty()) {
                Some(line) => format!("`--version` says {line:?}"),
                None => "`--version` says nothing".to_owned(),
            },
        })?;
        Ok(Self { kind, program })
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::OpenMpi(_) => "Open MPI's mpirun",
            Kind::Hydra => "MPICH's mpirun (Hydra)",
            Kind::IntelMpi => "Intel MPI's mpirun",
            Kind::Slurm => "Slurm's srun",
        }
    }

    /// How it marks the output of ranks.
    pub fn marks(&self) -> Marks {
        match self.kind {
            Kind::OpenMpi(major) => Marks::OpenMpi { blank: major >= 5 },
            Kind::Hydra | Kind::IntelMpi => Marks::Hydra,
            Kind::Slurm => Marks::Slurm,
        }
    }

    /// The signal that makes it end its ranks.
    pub fn polite_signal(&self) -> &'static str {
        match self.kind {
            // srun hands SIGTERM on to the ranks; with --quit-on-interrupt SIGINT ends the step.
            Kind::Slurm => "INT",
            _ => "TERM",
        }
    }

    /// The command with which it reaches other hosts; none where it does not use one.
    pub fn agent(&self) -> Vec<String> {
        let variables: &[&str] = match self.kind {
            Kind::OpenMpi(_) => &["OMPI_MCA_plm_rsh_agent", "PRTE_MCA_plm_ssh_agent"],
            Kind::Hydra => &["HYDRA_LAUNCHER_EXEC"],
            Kind::IntelMpi => &["I_MPI_HYDRA_BOOTSTRAP_EXEC"],
            Kind::Slurm => return Vec::new(),
        };
        // What else it is given: a port, a key.
        let more =
            std::env::var("OMPI_MCA_plm_rsh_args").ok().filter(|_| matches!(self.kind, Kind::OpenMpi(_)));
        let given = variables.iter().find_map(|name| std::env::var(name).ok());
        // Lists of agents to try are separated by colons; the first one there is taken.
        let given = given.unwrap_or_else(|| "ssh".to_owned());
        let mut agents =
            given.split(':').map(|agent| agent.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let found = agents.find(|words| words.first().is_some_and(|word| on_path(word).is_some()));
        // What is not there fails as a host that is not reached does, and says so.
        let mut words = found.unwrap_or_else(|| vec!["ssh".to_owned()]);
        words.extend(more.iter().flat_map(|more| more.split_whitespace()).map(str::to_owned));
        words
    }

    /// The words that start a job.
    pub fn start(&self, job: &Job<'_>) -> Result<Started, LaunchError> {
        let mut words: Vec<OsString> = vec![self.program.clone().into()];
        let mut environment = Vec::new();
        let mut hosts_file = None;
        let mut add = |new: &[&str]| words.extend(new.iter().map(OsString::from));
        let ranks = job.ranks.to_string();
        match self.kind {
            Kind::OpenMpi(_) => {
                add(&["-n", &ranks, "--tag-output", "--bind-to", "none"]);
                if job.hosts.is_empty() {
                    add(if job.ranks > job.cores { &["--oversubscribe"] } else { &[] });
                } else {
                    // Slots are what the user says they are, also beyond the cores of a host.
                    add(&["--host", &host_list(job.hosts), "--map-by", "slot"]);
                }
                job.variables.iter().for_each(|name| add(&["-x", name]));
                if rustix::process::geteuid().is_root() {
                    environment.extend(AS_ROOT);
                }
            }
            Kind::Hydra | Kind::IntelMpi => {
                add(&["-n", &ranks, "-prepend-rank"]);
                if !job.hosts.is_empty() {
                    let file = write_hosts(job.hosts).map_err(LaunchError::Scratch)?;
                    add(&["-machinefile", &file.path().to_string_lossy()]);
                    hosts_file = Some(file);
                }
                if !job.variables.is_empty() {
                    add(&["-genvlist", &job.variables.join(",")]);
                }
                if self.kind == Kind::IntelMpi {
                    // It pins each rank to its share of the cores by itself.
                    environment.push(("I_MPI_PIN", "off"));
                }
            }
            Kind::Slurm => {
                add(&[
                    "--mpi=pmix",
                    "--label",
                    "--unbuffered",
                    "--kill-on-bad-exit=1",
                    "--quit-on-interrupt",
                ]);
                add(&["--export=ALL", "--cpu-bind=none", "-n", &ranks]);
                if !job.hosts.is_empty() {
                    let names: Vec<&str> = job.hosts.iter().map(|host| host.name.as_str()).collect();
                    add(&["--nodelist", &names.join(",")]);
                }
            }
        }
        words.extend(job.more.iter().map(OsString::from));
        words.extend(job.command.iter().cloned());
        Ok(Started { words, environment, hosts_file })
    }
}

fn host_list(hosts: &[Host]) -> String {
    let entry = |host: &Host| {
        // Open MPI wants IPv6 addresses in brackets.
        let name = if host.name.contains(':') { format!("[{}]", host.name) } else { host.name.clone() };
        format!("{name}:{}", host.slots.unwrap_or(1))
    };
    hosts.iter().map(entry).collect::<Vec<String>>().join(",")
}

fn write_hosts(hosts: &[Host]) -> std::io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix("gpart-launch-hosts-").tempfile()?;
    for host in hosts {
        writeln!(file, "{}:{}", host.name, host.slots.unwrap_or(1))?;
    }
    file.flush()?;
    Ok(file)
}

fn kind_of(version: &str) -> Option<Kind> {
    if let Some((_, rest)) = version.split_once("(Open MPI) ") {
        return rest.split('.').next()?.trim().parse().ok().map(Kind::OpenMpi);
    }
    match version {
        text if text.contains("Intel(R) MPI") => Some(Kind::IntelMpi),
        text if text.contains("HYDRA") => Some(Kind::Hydra),
        _ => None,
    }
}

/// A program as the shell would find it.
pub fn on_path(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| is_program(path));
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| is_program(path))
}

/// Whether a file is there and may be run.
pub fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Cores of this host that this process may use: what mpirun takes for slots. Threads of one core count once.
pub fn cores() -> usize {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return 1 };
    let place = |cpu: usize| {
        let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
        let read = |name: &str| std::fs::read_to_string(format!("{topology}/{name}")).unwrap_or_default();
        match read("core_id") {
            unknown if unknown.is_empty() => format!("cpu {cpu}"),
            core => format!("{}/{core}", read("physical_package_id")),
        }
    };
    let cpus = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    cpus.map(place).collect::<std::collections::BTreeSet<String>>().len().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(kind_of("mpirun (Open MPI) 4.1.4\n\nReport bugs"), Some(Kind::OpenMpi(4)));
        assert_eq!(kind_of("mpirun (Open MPI) 5.0.3"), Some(Kind::OpenMpi(5)));
        assert_eq!(kind_of("HYDRA build details:\n    Version: 4.0.2"), Some(Kind::Hydra));
        let intel = "Intel(R) MPI Library for Linux* OS, Version 2021.10 Build 20230619";
        assert_eq!(kind_of(intel), Some(Kind::IntelMpi));
        assert_eq!(kind_of("mpirun: command not understood"), None);
    }

    fn words(kind: Kind, ranks: usize, hosts: &[Host]) -> String {
        let backend = Backend { kind, program: "mpirun".into() };
        let command = ["gpart-dist".into(), "metamath".into()];
        let variables = ["A".to_owned(), "B".to_owned()];
        let more = ["--more".to_owned()];
        let job = Job { ranks, hosts, cores: 2, variables: &variables, more: &more, command: &command };
        let started = backend.start(&job).unwrap();
        let words: Vec<String> = started.words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
        if let Some(file) = &started.hosts_file {
            assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "a:2\nb:1\n");
            return words.join(" ").replace(&*file.path().to_string_lossy(), "FILE");
        }
        words.join(" ")
    }

    #[test]
    fn words_of_each() {
        let hosts = [Host { name: "a".into(), slots: Some(2) }, Host { name: "b".into(), slots: None }];
        let of = words;
        let rest = "-x A -x B --more gpart-dist metamath";
        assert_eq!(of(Kind::OpenMpi(4), 2, &[]), format!("mpirun -n 2 --tag-output --bind-to none {rest}"));
        assert_eq!(
            of(Kind::OpenMpi(4), 3, &[]),
            format!("mpirun -n 3 --tag-output --bind-to none --oversubscribe {rest}")
        );
        assert_eq!(
            of(Kind::OpenMpi(4), 3, &hosts),
            format!("mpirun -n 3 --tag-output --bind-to none --host a:2,b:1 --map-by slot {rest}")
        );
        assert_eq!(
            of(Kind::Hydra, 3, &hosts),
            "mpirun -n 3 -prepend-rank -machinefile FILE -genvlist A,B --more gpart-dist metamath"
        );
        assert_eq!(
            of(Kind::Slurm, 3, &hosts),
            "mpirun --mpi=pmix --label --unbuffered --kill-on-bad-exit=1 --quit-on-interrupt --export=ALL \
             --cpu-bind=none -n 3 --nodelist a,b --more gpart-dist metamath"
        );
    }

    #[test]
    fn programs_are_found_as_the_shell_does() {
        assert!(on_path("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(on_path("no-such-program-anywhere"), None);
        assert_eq!(on_path("/etc/passwd"), None);
        assert!(cores() >= 1);
    }
}
