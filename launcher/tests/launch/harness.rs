//! A launcher in a folder of its own, watched.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// After this long something hangs.
const HANGS: Duration = Duration::from_secs(60);

pub fn launcher() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_gpart-launch"))
}

/// The stand-in for gpart-dist. Cargo builds examples before it runs tests.
pub fn stand_in() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join("examples/stand-in");
    assert!(path.exists(), "{} is missing: cargo build -p launcher --examples", path.display());
    path
}

/// A folder for a run.
pub struct Scratch {
    folder: TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("gpart-launch-test-").tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn output(&self) -> PathBuf {
        self.path().join("run")
    }

    /// The launcher with options and flags, on this folder's run.
    pub fn command(&self, options: &[&str], flags: &[&str]) -> Command {
        let mut command = Command::new(launcher());
        command.args(options).arg("--program").arg(stand_in()).args(["--", "metamath", "--output"]);
        command.arg(self.output()).args(flags);
        // What whoever runs the tests has set must not change them.
        for name in ["CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"] {
            command.env_remove(name);
        }
        command
    }

    pub fn start(&self, options: &[&str], requests: &[(&str, &str)]) -> Running {
        self.start_with(options, &[], requests)
    }

    pub fn start_with(&self, options: &[&str], flags: &[&str], requests: &[(&str, &str)]) -> Running {
        let mut command = self.command(options, flags);
        command.envs(requests.iter().copied());
        Running::start(command)
    }

    /// Steps that were made.
    pub fn steps(&self) -> usize {
        std::fs::read_to_string(self.output().join("metrics.jsonl")).unwrap_or_default().lines().count()
    }

    /// Processes that have this folder in their arguments: the launcher, the guardian, mpirun, ranks.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let folder = self.path().to_string_lossy().into_owned();
        let command = |pid: i32| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let text = String::from_utf8_lossy(&words).replace('\0', " ");
            text.contains(&folder).then_some((pid, text))
        };
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| command(entry.file_name().to_str()?.parse().ok()?)).collect()
    }

    /// The process of a rank.
    pub fn rank(&self, rank: usize) -> i32 {
        let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
        let is_it = |pid: i32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
        };
        let mut found = None;
        wait_until(|| {
            found = self.processes().into_iter().map(|(pid, _)| pid).find(|pid| is_it(*pid));
            found.is_some()
        });
        found.unwrap()
    }

    /// The guardian.
    pub fn guardian(&self) -> i32 {
        self.processes().into_iter().find(|(_, words)| words.contains("__guardian")).unwrap().0
    }

    #[track_caller]
    pub fn expect_no_process_within(&self, limit: Duration) {
        let begun = Instant::now();
        while !self.processes().is_empty() {
            assert!(begun.elapsed() < limit, "after {limit:?} there are still {:?}", self.processes());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What a test leaves when it fails must not stay.
impl Drop for Scratch {
    fn drop(&mut self) {
        self.processes().iter().for_each(|(pid, _)| signal(*pid, Signal::KILL));
    }
}

pub fn signal(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

#[track_caller]
pub fn wait_until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < HANGS, "this never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How the launcher ended, and what was said.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn expect_text(self, text: &str) -> Self {
        let said = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(said, "nobody said {text:?}\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn expect_no_text(self, text: &str) -> Self {
        let said = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(!said, "somebody said {text:?}\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }
}

/// A launcher at work.
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    started: Instant,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        command.stdin(Stdio::null()).process_group(0);
        command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
        let child = command.spawn().unwrap();
        Self { child, stdout, stderr, started: Instant::now() }
    }

    pub fn signal(&self, sent: Signal) {
        signal(self.child.id() as i32, sent);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until something is so; stops the test, showing everything, where the launcher ends before or it never comes.
    #[track_caller]
    pub fn until(&mut self, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            let over = !self.is_running() || begun.elapsed() > HANGS;
            let (stdout, stderr) = (text(&self.stdout), text(&self.stderr));
            assert!(!over, "this never came\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What was said on standard error so far.
    pub fn errors(&self) -> String {
        text(&self.stderr)
    }

    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        while self.is_running() {
            if self.started.elapsed() > HANGS {
                let _ = self.child.kill();
                panic!("hangs\n--- stdout\n{}\n--- stderr\n{}", text(&self.stdout), text(&self.stderr));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let code = self.child.wait().unwrap().code();
        Outcome { code, stdout: text(&self.stdout), stderr: text(&self.stderr) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All of a file that a child writes to, at a position of its own.
fn text(file: &File) -> String {
    let mut bytes = Vec::new();
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::open(own).unwrap().read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
