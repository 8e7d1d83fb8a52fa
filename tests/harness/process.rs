//! A started process with all its descendants: waited for, watched, killed.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::program;

/// After this long a process hangs. Nothing here takes a tenth of it, but what is waited for patiently.
const HANGS: Duration = Duration::from_secs(90);
const HANGS_PATIENTLY: Duration = Duration::from_secs(3600);

/// How a process ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; none after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Stops the test, showing everything, unless the exit code is this one.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// Stops the test, showing everything, unless standard output or standard error has this text.
    #[track_caller]
    pub fn expect_text(self, text: &str) -> Self {
        let said = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(said, "nobody said {text:?}\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }
}

/// A process at work. Dropping it kills it and all it started.
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    started: Instant,
    patience: Duration,
}

impl Running {
    /// Starts a command. Its output goes into files, so that no pipe keeps a reader waiting after a kill.
    pub fn start(mut command: Command) -> Self {
        let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        command.stdin(Stdio::null());
        command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        Self { child, stdout, stderr, started: Instant::now(), patience: HANGS }
    }

    /// The same for what takes minutes.
    pub fn patiently(command: Command) -> Self {
        let mut running = Self::start(command);
        running.patience = HANGS_PATIENTLY;
        running
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Outcome {
        let mut code = None;
        self.watch(|running| {
            let status = running.child.try_wait().unwrap();
            code = status.map(|status| status.code());
            status.is_some()
        });
        self.outcome(code.flatten())
    }

    /// Waits until `seen`; false when the process ended before.
    pub fn until(&mut self, mut seen: impl FnMut() -> bool) -> bool {
        let mut result = false;
        self.watch(|running| {
            // In this order: what the process did last is still seen.
            let ended = running.child.try_wait().unwrap().is_some();
            result = seen();
            result || ended
        });
        result
    }

    fn watch(&mut self, mut over: impl FnMut(&mut Self) -> bool) {
        while !over(self) {
            if self.started.elapsed() > self.patience {
                self.kill_tree();
                let said = self.outcome_so_far();
                panic!("hangs\n--- stdout\n{}\n--- stderr\n{}", said.stdout, said.stderr);
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// SIGKILL to the process and all its descendants at once. Returns when they are gone.
    pub fn kill(mut self) -> Outcome {
        self.kill_tree();
        self.outcome_so_far()
    }

    /// SIGKILL to the started process alone: under a launcher, to the launcher.
    pub fn kill_first(&self) {
        signal(self.child.id() as i32);
    }

    /// A signal to the started process alone.
    pub fn send(&self, number: i32) {
        send(self.child.id() as i32, number);
    }

    /// A signal to a process of this one's.
    pub fn send_to(&self, pid: i32, number: i32) {
        send(pid, number);
    }

    /// SIGKILL to one rank.
    pub fn kill_rank(&self, rank: usize) {
        self.send_to_rank(rank, libc::SIGKILL);
    }

    /// A signal to one rank.
    pub fn send_to_rank(&self, rank: usize, number: i32) {
        let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
        let ranks = self.rank_processes();
        let is_wanted = |pid: &&i32| has_variable(**pid, |entry| entry == wanted.as_bytes());
        let pid = *ranks.iter().find(is_wanted).unwrap_or_else(|| panic!("no rank {rank} among {ranks:?}"));
        send(pid, number);
    }

    /// The processes that run the binary under test.
    pub fn rank_processes(&self) -> Vec<i32> {
        let program = program().canonicalize().unwrap();
        let runs_it = |pid: &i32| {
            std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe: PathBuf| exe == program)
        };
        tree(self.child.id() as i32).into_iter().filter(runs_it).collect()
    }

    /// Those of them that mpirun has started.
    pub fn mpi_ranks(&self) -> Vec<i32> {
        let mut ranks = self.rank_processes();
        ranks.retain(|pid| has_variable(*pid, |entry| entry.starts_with(b"OMPI_COMM_WORLD_RANK=")));
        ranks
    }

    fn kill_tree(&mut self) {
        let all = tree(self.child.id() as i32);
        all.iter().copied().for_each(signal);
        let _ = self.child.wait();
        wait_until_gone(&all);
    }

    fn outcome_so_far(&mut self) -> Outcome {
        self.outcome(None)
    }

    fn outcome(&mut self, code: Option<i32>) -> Outcome {
        let text = |file: &mut File| {
            let mut bytes = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Outcome { code, stdout: text(&mut self.stdout), stderr: text(&mut self.stderr) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill_tree();
        }
    }
}

/// Returns when none of these processes runs any more.
pub fn wait_until_gone(pids: &[i32]) {
    let started = Instant::now();
    while let Some(pid) = pids.iter().find(|pid| is_alive(**pid)) {
        assert!(started.elapsed() < HANGS, "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process was started with such a variable, `NAME=value`.
fn has_variable(pid: i32, is_wanted: impl Fn(&[u8]) -> bool) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(is_wanted)
}

fn signal(pid: i32) {
    send(pid, libc::SIGKILL);
}

fn send(pid: i32, number: i32) {
    // SAFETY: `kill` touches no memory of ours; the pid is that of a process this test started.
    unsafe { libc::kill(pid, number) };
}

/// A zombie is gone: nobody but its parent still knows of it.
fn is_alive(pid: i32) -> bool {
    status(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// State and parent of a process, by `/proc/PID/stat`.
fn status(pid: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; what follows it does not.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// A process and all its descendants. Ranks have process groups of their own, so a group is not enough.
fn tree(root: i32) -> Vec<i32> {
    let pids = || std::fs::read_dir("/proc").unwrap().flatten();
    let parents: Vec<(i32, i32)> = pids()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, status(pid)?.1)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}
