//! `cargo xtask fuzz`: builds the fuzzer of `crates/fuzz` with coverage and gives every target a while.

mod report;

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::setup::{self, Machine};
use crate::shell::{Failure, Outcome, cargo, display, output_of, run, say, show, while_doing};
use crate::tasks::target_folder;
use report::Report;

/// What a target gets where nobody says otherwise.
pub const SECONDS: u64 = 60;

/// What rustc does for `cargo fuzz` as well: LLVM's pass that counts edges, comparisons and depth of the stack. It is
/// part of every rustc; only the address sanitizer, which `cargo fuzz` turns on beside it, would need a nightly one.
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-sanitizer-coverage-stack-depth",
];

/// An input that takes longer counts as a hang. Parsers take micro- and milliseconds; the rest is for a busy machine.
const LONGEST_INPUT_SECONDS: u64 = 10;

/// Resident memory of a fuzzer, in MB. The allocator of `crates/fuzz` has limits of its own, which are reached before.
const MOST_MEMORY_MB: u64 = 2560;

/// What was asked for on the command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    seconds: u64,
    /// Empty: all.
    targets: Vec<&'a str>,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        Self { seconds: SECONDS, targets: Vec::new() }
    }
}

impl<'a> Wanted<'a> {
    /// Reads `[--seconds N] [TARGET ...]`; none where it is something else.
    pub fn parse(words: &[&'a str]) -> Option<Self> {
        let mut wanted = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let seconds = match *word {
                "--seconds" => Some(*words.next()?),
                word => word.strip_prefix("--seconds="),
            };
            match seconds {
                Some(seconds) => wanted.seconds = seconds.parse().ok().filter(|seconds| *seconds > 0)?,
                None if word.starts_with('-') => return None,
                None => wanted.targets.push(word),
            }
        }
        Some(wanted)
    }
}

/// `cargo xtask fuzz`: set-up, build, and every target for its time, as many at once as there are cores.
///
/// # Errors
/// A target that does not exist, a build that fails, or findings: each has been shown with its input by then.
pub fn fuzz(root: &Path, wanted: &Wanted<'_>) -> Outcome {
    let targets = chosen(root, &wanted.targets)?;
    let machine = setup::run(root)?;
    run_targets(root, &machine, wanted.seconds, &targets)
}

/// Every target for `seconds`, on a machine that is set up.
///
/// # Errors
/// As [`fuzz`].
pub fn all(root: &Path, machine: &Machine, seconds: u64) -> Outcome {
    run_targets(root, machine, seconds, &chosen(root, &[])?)
}

/// The names of the targets, which are those of their seeds' folders; a test of `crates/fuzz` sees to that.
fn chosen(root: &Path, wanted: &[&str]) -> Outcome<Vec<String>> {
    let folder = root.join("crates/fuzz/corpus");
    let entries = fs::read_dir(&folder).map_err(while_doing("read", &folder))?;
    let mut known: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    known.sort();
    if let Some(unknown) = wanted.iter().find(|name| !known.iter().any(|known| known == *name)) {
        let hint = format!("targets: {}", known.join(", "));
        return Err(Failure::with_hint(format!("there is no fuzz target {unknown}"), hint));
    }
    known.retain(|name| wanted.is_empty() || wanted.contains(&name.as_str()));
    Ok(known)
}

fn run_targets(root: &Path, machine: &Machine, seconds: u64, targets: &[String]) -> Outcome {
    let folder = target_folder(root, machine)?.join("fuzz");
    let binary = build(root, machine, &folder)?;
    let scratch = Scratch::new(&folder)?;
    let fuzzer = Fuzzer { root, machine, binary: &binary, folder: &folder, scratch: &scratch.0, seconds };
    let workers = thread::available_parallelism().map_or(1, usize::from).min(targets.len());
    say("fuzz", format!("{} targets, {seconds} seconds each, {workers} at once", targets.len()));
    let next = AtomicUsize::new(0);
    let work = || -> Outcome<Vec<Report>> {
        let mut reports = Vec::new();
        while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
            let report = fuzzer.run(target)?;
            say("fuzz", report.line());
            reports.push(report);
        }
        Ok(reports)
    };
    let results: Vec<Outcome<Vec<Report>>> = thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let joined = handles.into_iter().map(|handle| handle.join());
        joined.map(|result| result.unwrap_or_else(|_| Err(Failure::new("a worker panicked")))).collect()
    });
    let mut reports: Vec<Report> = results.into_iter().collect::<Outcome<Vec<_>>>()?.concat();
    reports.sort_by(|a, b| a.target.cmp(&b.target));
    show(report::table(&reports));
    let findings: Vec<&Report> = reports.iter().filter(|report| report.finding.is_some()).collect();
    if findings.is_empty() {
        return Ok(());
    }
    for report in &findings {
        show(report.details(&binary));
    }
    let names: Vec<&str> = findings.iter().map(|report| report.target.as_str()).collect();
    let hint = "mend the parser and keep the input as a file of crates/fuzz/regressions/TARGET, which the tests replay";
    Err(Failure::with_hint(format!("inputs that break {}", names.join(", ")), hint))
}

/// The fuzzer with coverage of all Rust code in it, in a folder of its own: other flags mean other files.
fn build(root: &Path, machine: &Machine, folder: &Path) -> Outcome<PathBuf> {
    let said = output_of(Command::new("rustc").current_dir(root).arg("-vV")).unwrap_or_default();
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or_else(|| Failure::new("`rustc -vV` does not say what machine it is for"))?;
    let given = env::var("RUSTFLAGS").unwrap_or_default();
    let flags = [&[given.as_str()], &COVERAGE[..]].concat().join(" ");
    let build = folder.join("build");
    let mut command = cargo(root, &machine.environment);
    command.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", flags.trim());
    command.args(["build", "--package", "fuzz", "--features", "libfuzzer", "--bin", "fuzz"]);
    // With a target named, build scripts and macros are left as they are.
    command.args(["--target", host]).arg("--target-dir").arg(&build);
    // Linked and never run, and large: not worth the time to optimise it.
    for package in ["tch", "torch-sys"] {
        command.args(["--config", &format!("profile.dev.package.{package}.opt-level=0")]);
    }
    say("build", format!("the fuzzer, with coverage, in {}", build.display()));
    run(&mut command)?;
    Ok(build.join(host).join("debug/fuzz"))
}

/// A folder for the files that targets write thousands of times a second: in memory, where the system has that.
struct Scratch(PathBuf);

impl Scratch {
    fn new(folder: &Path) -> Outcome<Self> {
        let name = format!("gpart-fuzz-{}", std::process::id());
        let memory = Path::new("/dev/shm").join(&name);
        if fs::create_dir(&memory).is_ok() {
            return Ok(Self(memory));
        }
        let folder = folder.join(name);
        fs::create_dir_all(&folder).map_err(while_doing("create", &folder))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What a fuzzer that was aborted left there goes with it; if not, it is a few kilobytes.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What all targets have in common.
struct Fuzzer<'a> {
    root: &'a Path,
    machine: &'a Machine,
    binary: &'a Path,
    folder: &'a Path,
    scratch: &'a Path,
    seconds: u64,
}

impl Fuzzer<'_> {
    /// Runs one target to the end of its time or to its first finding.
    fn run(&self, target: &str) -> Outcome<Report> {
        let of_target = |kind: &str| self.folder.join(kind).join(target);
        let (corpus, findings) = (of_target("corpus"), of_target("findings"));
        for folder in [&corpus, &findings] {
            fs::create_dir_all(folder).map_err(while_doing("create", folder))?;
        }
        let log = findings.join("log.txt");
        let out = File::create(&log).map_err(while_doing("create", &log))?;
        let err = out.try_clone().map_err(while_doing("open", &log))?;
        let current = self.scratch.join(format!("{target}.current"));
        let mut command = Command::new(self.binary);
        command.current_dir(self.root).arg(target);
        command.env("TMPDIR", self.scratch).env("FUZZ_CURRENT", &current);
        command.envs(self.machine.environment.iter().map(|(name, value)| (name, value)));
        command.arg(format!("-max_total_time={}", self.seconds));
        command.arg(format!("-timeout={LONGEST_INPUT_SECONDS}"));
        command.arg(format!("-rss_limit_mb={MOST_MEMORY_MB}"));
        command.arg(format!("-artifact_prefix={}/", findings.display()));
        command.args(["-print_final_stats=1"]);
        // What was found before comes first: new inputs are added there.
        command.arg(&corpus).arg(self.root.join("crates/fuzz/corpus").join(target));
        let regressions = self.root.join("crates/fuzz/regressions").join(target);
        if regressions.exists() {
            command.arg(regressions);
        }
        let status = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .status()
            .map_err(|error| Failure::new(format!("cannot start `{}`: {error}", display(&command))))?;
        let said = fs::read(&log).map_err(while_doing("read", &log))?;
        let mut report = Report::new(target, &String::from_utf8_lossy(&said), status.success(), &log);
        if let Some(finding) = report.finding.as_mut().filter(|finding| finding.input.is_none()) {
            finding.input = last_input(&current, &findings.join("last-input"))?;
        }
        Ok(report)
    }
}

/// Where libFuzzer could not keep the input, the fuzzer's own copy of it (see `crates/fuzz/src/main.rs`), under `name`.
fn last_input(current: &Path, name: &Path) -> Outcome<Option<PathBuf>> {
    let kept = fs::read(current).unwrap_or_default();
    let Some((length, bytes)) = kept.split_first_chunk() else { return Ok(None) };
    let length = usize::try_from(u64::from_le_bytes(*length)).ok();
    let Some(input) = length.and_then(|length| bytes.get(..length)) else { return Ok(None) };
    fs::write(name, input).map_err(while_doing("write", name))?;
    Ok(Some(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::Wanted;

    #[test]
    fn words_of_the_command_line() {
        let wanted = |seconds, targets: &[&'static str]| Some(Wanted { seconds, targets: targets.to_vec() });
        assert_eq!(Wanted::parse(&[]), wanted(60, &[]));
        assert_eq!(Wanted::parse(&["a", "--seconds", "5", "b"]), wanted(5, &["a", "b"]));
        assert_eq!(Wanted::parse(&["--seconds=7"]), wanted(7, &[]));
        for wrong in [&["--seconds"][..], &["--seconds", "x"], &["--seconds=0"], &["--second=1"], &["-h"]] {
            assert_eq!(Wanted::parse(wrong), None, "{wrong:?}");
        }
    }
}
