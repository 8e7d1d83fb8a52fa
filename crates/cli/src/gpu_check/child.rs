//! Starting this program again: alone or as ranks, with a limit of time, its words kept in a file.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// After this long a command hangs; the second is for what measures speed, and for checks that are not quick.
const HANGS: [Duration; 2] = [Duration::from_secs(300), Duration::from_secs(1200)];

/// How commands are started, and where what they write goes.
pub struct Children {
    program: PathBuf,
    mpirun: Option<Mpirun>,
    /// Outputs of runs, removed at the end.
    pub runs: PathBuf,
    logs: PathBuf,
    patience: Duration,
}

/// The launcher on PATH.
struct Mpirun {
    program: PathBuf,
    is_open_mpi: bool,
}

/// How a command ended.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    stderr: String,
    command: String,
    log: PathBuf,
}

impl Children {
    /// Children that write below `folder`.
    pub fn new(folder: &Path, quick: bool) -> Self {
        Self {
            program: std::env::current_exe().unwrap_or_else(|_| "gpart-dist".into()),
            mpirun: mpirun(),
            runs: folder.join("runs"),
            logs: folder.join("logs"),
            patience: HANGS[usize::from(!quick)],
        }
    }

    /// `gpart-dist ARGS` on so many ranks. What it says goes to `logs/NAME.txt`.
    ///
    /// # Errors
    /// It cannot be started, or hangs. How it ended is for the caller to judge.
    pub fn run(&self, name: &str, ranks: usize, args: &[String]) -> Result<Ended, String> {
        let running = self.start(name, ranks, args)?;
        running.finish(self.patience)
    }

    /// The same; an end other than 0 is an error with the command's own words.
    pub fn succeed(&self, name: &str, ranks: usize, args: &[String]) -> Result<Ended, String> {
        let ended = self.run(name, ranks, args)?;
        if ended.status.success() { Ok(ended) } else { Err(ended.failure()) }
    }

    /// Starts `gpart-dist ARGS` and returns at once.
    pub fn start(&self, name: &str, ranks: usize, args: &[String]) -> Result<Running, String> {
        let mut command = match (ranks, &self.mpirun) {
            (1, _) => Command::new(&self.program),
            (_, None) => {
                return Err(format!(
                    "{ranks} ranks need mpirun, which is not on PATH; run.sh of a bundle brings its own"
                ));
            }
            (_, Some(mpirun)) => self.under(mpirun, ranks),
        };
        command.args(args);
        self.set_environment(&mut command);
        let shown = shown(&command);
        let log = self.logs.join(format!("{}.txt", file_name(name)));
        let create = |path: &Path| File::create(path).map_err(|error| format!("{}: {error}", path.display()));
        let errors = log.with_extension("err");
        command.stdin(Stdio::null()).stdout(create(&log)?).stderr(create(&errors)?);
        let child = command.spawn().map_err(|error| format!("cannot start `{shown}`: {error}"))?;
        Ok(Running { child, command: shown, log, errors, started: Instant::now() })
    }

    fn under(&self, mpirun: &Mpirun, ranks: usize) -> Command {
        let mut command = Command::new(&mpirun.program);
        if mpirun.is_open_mpi {
            // Ranks that share a GPU need not have a core each, and a container shows few.
            command.arg("--oversubscribe");
            if rustix::process::getuid().is_root() {
                command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
            }
        }
        command.args(["-n", &ranks.to_string()]).arg(&self.program);
        command
    }

    /// The user's settings are not what is checked; tokens are cached with the runs, since the home may be read-only.
    fn set_environment(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GPART_") {
                command.env_remove(name);
            }
        }
        command.env("XDG_CACHE_HOME", self.runs.join("cache")).env("HF_HUB_OFFLINE", "1");
    }

    /// Removes the outputs of runs, unless something failed.
    pub fn clean_up(&self, failed: bool) {
        if !failed {
            // What cannot be removed is left; the report is what counts.
            let _ = std::fs::remove_dir_all(&self.runs);
        }
    }
}

/// A command at work. Dropping it kills it.
pub struct Running {
    child: Child,
    command: String,
    log: PathBuf,
    errors: PathBuf,
    started: Instant,
}

impl Running {
    /// Waits for its end, or kills it when it takes longer than `patience`.
    pub fn finish(mut self, patience: Duration) -> Result<Ended, String> {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(self.ended(status)),
                Ok(None) if self.started.elapsed() > patience => {
                    return Err(format!("`{}` hangs: killed after {} s", self.command, patience.as_secs()));
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Err(error) => return Err(format!("cannot wait for `{}`: {error}", self.command)),
            }
        }
    }

    /// Waits until `seen`; false when the command ended before.
    pub fn until(&mut self, patience: Duration, mut seen: impl FnMut() -> bool) -> bool {
        loop {
            let ended = !matches!(self.child.try_wait(), Ok(None)) || self.started.elapsed() > patience;
            if seen() {
                return !ended;
            }
            if ended {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends a signal.
    pub fn send(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // A process that has ended meanwhile shows by its exit code.
            let _ = kill_process(pid, signal);
        }
    }

    /// The words of both streams in one file: what it printed, then its complaints.
    fn ended(&self, status: ExitStatus) -> Ended {
        let text =
            |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        let (stdout, stderr) = (text(&self.log), text(&self.errors));
        let kept = format!("$ {}\n{stdout}\n{stderr}\n{status}\n", self.command);
        if std::fs::write(&self.log, kept).is_ok() {
            let _ = std::fs::remove_file(&self.errors);
        }
        Ended { status, stdout, stderr, command: self.command.clone(), log: self.log.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // mpirun ends its ranks when it is asked to end, not when it is killed.
            self.send(Signal::TERM);
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_secs(5) && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Ended {
    /// How it ended and its own message, or its last words.
    pub fn failure(&self) -> String {
        let how = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("ended with {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        let lines: Vec<&str> = self.stderr.lines().chain(self.stdout.lines()).map(str::trim).collect();
        let said = lines.iter().find(|line| line.starts_with("error:") || line.contains("panicked"));
        let said = said.or(lines.iter().rfind(|line| !line.is_empty())).copied().unwrap_or("without a word");
        format!("{how}: {said} (`{}`, {})", self.command, self.log.display())
    }
}

fn mpirun() -> Option<Mpirun> {
    let folders = std::env::var_os("PATH")?;
    let program =
        std::env::split_paths(&folders).map(|folder| folder.join("mpirun")).find(|path| path.is_file())?;
    let version = Command::new(&program).arg("--version").output().ok()?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    Some(Mpirun { program, is_open_mpi: version.contains("Open MPI") || version.contains("OpenRTE") })
}

/// A command as it can be typed.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

/// A check's name as a file's.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}
