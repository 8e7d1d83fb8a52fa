//! Starts the binary and looks at what it leaves behind.

mod bad;
mod fixture;
mod hosts;
mod hub;
mod own;
mod process;
mod relay;

pub use self::hub::{Hub, LLAMA, METAMATH};
pub use bad::{Case, check_bad, check_bad_of, check_message, check_on_ranks};
pub use fixture::{DemoModel, Mount, edit_json, read_json};
pub use hosts::{ADDRESSES, Hosts};
pub use own::{
    chat_row, chat_rows, demo_rows, held_out, killed_after, own_training, parquet, refused, train_own,
    write_chats, write_json, write_lines, write_pairs, write_template,
};
pub use process::{Outcome, Running, wait_until_gone};
pub use relay::Link;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// How the binary is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranks {
    /// Without a launcher.
    Alone,
    /// Under `mpirun -n N`.
    Mpi(usize),
}

/// Everything a run writes goes here; removed at the end.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("gpart-e2e-").tempdir().unwrap()
}

/// Root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The binary under test.
pub fn program() -> PathBuf {
    let named = std::env::var_os("GPART_DIST").map(PathBuf::from);
    let program = named.unwrap_or_else(|| {
        // This executable is TARGET/PROFILE/deps/e2e-…
        let own = std::env::current_exe().unwrap();
        own.ancestors().nth(2).unwrap().join("gpart-dist")
    });
    assert!(
        program.is_file(),
        "{} is not there: build it first (`cargo build`), or name it with GPART_DIST",
        program.display()
    );
    program
}

/// `gpart-launch LAUNCH -- metamath …` on the fast settings, in the environment of [`command`].
pub fn launched(launch: &[&str], output: &Path, more: &[&str]) -> Command {
    let mut launched = launcher(launch);
    launched.arg("--").args(training_args(output, more));
    launched
}

/// `gpart-launch ARGS`, in the environment of [`command`].
pub fn launcher(args: &[&str]) -> Command {
    let program = program().with_file_name("gpart-launch");
    assert!(program.is_file(), "{} is not there: build it first (`cargo xtask build`)", program.display());
    let plain = command::<&str>(Ranks::Alone, &[]);
    let mut launcher = Command::new(program);
    launcher.args(args).current_dir(repository());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => launcher.env(name, value),
            None => launcher.env_remove(name),
        };
    }
    launcher
}

/// `gpart-dist ARGS`, with an environment in which nothing of a launcher's, OpenMP's, the hub's or ours is set.
pub fn command<S: AsRef<OsStr>>(ranks: Ranks, args: &[S]) -> Command {
    let mut command = match ranks {
        Ranks::Alone => Command::new(program()),
        Ranks::Mpi(n) => {
            let mut command = Command::new("mpirun");
            command.args(["--oversubscribe", "-n", &n.to_string()]).arg(program());
            command
        }
    };
    command.args(args).current_dir(repository());
    const FOREIGN: [&str; 8] = ["GPART_", "HF_", "OMPI_", "PMIX_", "PMI_", "OMP_", "MKL_", "SLURM_"];
    for (name, _) in std::env::vars_os() {
        if FOREIGN.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    // Tokens are cached once for all tests.
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    if ranks != Ranks::Alone {
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    }
    command
}

/// `metamath` on the fast settings of `fast.toml`.
pub fn training(ranks: Ranks, output: &Path, more: &[&str]) -> Command {
    command(ranks, &training_args(output, more))
}

/// Arguments of [`training`].
pub fn training_args(output: &Path, more: &[&str]) -> Vec<OsString> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("fast.toml");
    let mut args: Vec<OsString> = vec!["metamath".into(), "--config".into(), config.into()];
    args.extend(["--output".into(), output.into()]);
    args.extend(more.iter().map(OsString::from));
    args
}

/// Trains to the end and expects success.
pub fn train(ranks: Ranks, output: &Path, more: &[&str]) -> Outcome {
    Running::start(training(ranks, output, more)).finish().expect_code(0)
}

/// Runs `gpart-dist ARGS` without a launcher and with little address space, so that a program that asks for far
/// too much memory fails at once instead of taking the machine along.
pub fn limited<S: AsRef<OsStr>>(args: &[S]) -> Outcome {
    let plain = command(Ranks::Alone, args);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -v 6000000; exec \"$0\" \"$@\""]).arg(plain.get_program());
    limited.args(plain.get_args()).current_dir(repository());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    Running::start(limited).finish()
}

/// Runs `gpart-dist ARGS` without a launcher.
pub fn alone(args: &[&str]) -> Outcome {
    Running::start(command(Ranks::Alone, args)).finish()
}

/// The lines of `metrics.jsonl`. Each must be whole.
pub fn metrics(output: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "metrics.jsonl ends inside a line");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Hash of θ after each step; every step must be there once, in order, from `first`.
pub fn thetas_from(output: &Path, first: u64) -> Vec<String> {
    let lines = metrics(output);
    let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    let expected: Vec<u64> = (first..first + lines.len() as u64).collect();
    assert_eq!(steps, expected, "steps of {}", output.display());
    lines.iter().map(|line| line["theta_blake3"].as_str().unwrap().to_owned()).collect()
}

/// Hash of θ after each step, from the first.
pub fn thetas(output: &Path) -> Vec<String> {
    thetas_from(output, 1)
}

/// Every rank of a run moved as many bytes of each kind as the plan's formulas say. Returns what `run.json` says.
pub fn traffic_as_planned(output: &Path) -> Value {
    let run = read_json(&output.join("run.json"));
    for rank in run["traffic"]["ranks"].as_array().unwrap() {
        for line in rank["planned"].as_array().unwrap() {
            let is_it = |other: &&Value| ["axis", "operation"].iter().all(|key| other[*key] == line[*key]);
            let measured = rank["measured"].as_array().unwrap().iter().find(is_it);
            let measured = measured.map_or(0, |found| found["bytes"].as_u64().unwrap());
            assert_eq!(measured, line["bytes"], "{line} of rank {} in {}", rank["rank"], output.display());
        }
    }
    run
}

/// Losses by step.
pub fn losses(output: &Path) -> Vec<f64> {
    metrics(output).iter().map(|line| line["loss"].as_f64().unwrap()).collect()
}

/// Whole lines of `metrics.jsonl` of a run that may be writing it.
pub fn lines_so_far(output: &Path) -> usize {
    std::fs::read(output.join("metrics.jsonl")).map_or(0, |b| b.iter().filter(|b| **b == b'\n').count())
}

/// Checkpoint files of a run, oldest first.
pub fn checkpoints(output: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(output.join("checkpoints")).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "ckpt")).collect();
    files.sort();
    files
}

/// Every path under a folder with a hash of its content: two are equal when nothing was changed.
pub fn snapshot(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            let content = if path.is_dir() {
                waiting.push(path.clone());
                "folder".to_owned()
            } else {
                blake3::hash(&std::fs::read(&path).unwrap()).to_hex().to_string()
            };
            found.insert(path.strip_prefix(folder).unwrap().to_owned(), content);
        }
    }
    found
}
