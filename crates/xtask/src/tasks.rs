//! The commands that build and run: `build`, `demo`, `test`, `bench`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::setup::{self, Machine};
use crate::shell::{Failure, Outcome, cargo, display, output_of, run, say};
use crate::{curves_bench, fuzz, generate_bench, layering, mesh_bench, shell};

/// `cargo xtask build`: the binaries, after set-up.
pub fn build(root: &Path, release: bool) -> Outcome {
    let machine = setup::run(root)?;
    build_binary(root, &machine, release)?;
    let binary = binary(root, &machine, if release { "release" } else { "debug" })?;
    say("built", binary.display());
    Ok(())
}

/// Builds `gpart-dist` and `gpart-launch`.
pub fn build_binary(root: &Path, machine: &Machine, release: bool) -> Outcome {
    let mut command = cargo(root, &machine.environment);
    command.args([
        "build",
        "--package",
        "cli",
        "--bin",
        "gpart-dist",
        "--package",
        "launcher",
        "--bin",
        "gpart-launch",
    ]);
    if release {
        command.arg("--release");
    }
    say("build", display(&command));
    run(&mut command)
}

/// Where cargo puts what it builds.
pub fn target_folder(root: &Path, machine: &Machine) -> Outcome<PathBuf> {
    let metadata = cargo(root, &machine.environment)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .output()
        .map_err(|error| Failure::new(format!("cannot start cargo: {error}")))?;
    let metadata = String::from_utf8_lossy(&metadata.stdout).into_owned();
    metadata
        .split_once("\"target_directory\":\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(folder, _)| PathBuf::from(folder))
        .ok_or_else(|| Failure::new("cargo metadata does not say where the target directory is"))
}

/// Where cargo puts the binary; relative to the repository where it can be, because that is easier to copy.
fn binary(root: &Path, machine: &Machine, profile: &str) -> Outcome<PathBuf> {
    let target = target_folder(root, machine)?;
    let binary = target.join(profile).join("gpart-dist");
    Ok(binary.strip_prefix(root).map(Path::to_path_buf).unwrap_or(binary))
}

/// `cargo xtask demo`: becomes `mpirun -n 2 gpart-dist metamath --preset demo`, so that Ctrl-C and the exit code are
/// mpirun's.
pub fn demo(root: &Path, extra: &[String]) -> Outcome {
    let machine = setup::run(root)?;
    build_binary(root, &machine, false)?;
    if !machine.has_mpirun {
        return Err(Failure::with_hint(
            "the demo runs on two ranks and needs mpirun, which is not on PATH",
            "start it with your cluster's launcher: srun -n 2 gpart-dist metamath --preset demo",
        ));
    }
    let mut command = Command::new("mpirun");
    command.current_dir(root);
    // Of what set-up found out, only the folder of MPI's libraries matters to a program that is built.
    let of_run_time = machine.environment.iter().filter(|(name, _)| name == "LD_LIBRARY_PATH");
    command.envs(of_run_time.map(|(name, value)| (name, value)));
    if machine.open_mpi {
        if setup::is_root() {
            command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        }
        // Open MPI counts cores, not hardware threads: a small virtual machine has one slot.
        command.arg("--oversubscribe");
    }
    command.args(["-n", "2"]).arg(binary(root, &machine, "debug")?);
    command.args(["metamath", "--preset", "demo"]);
    if !extra.iter().any(|arg| arg == "--output" || arg.starts_with("--output=")) {
        let output = free_output(root);
        if !output.ends_with("demo") {
            say("demo", format!("earlier runs are kept; this one goes to {}", output.display()));
        }
        command.arg("--output").arg(output);
    }
    command.args(extra);
    let is_here = std::env::current_dir().is_ok_and(|here| here == root);
    let folder = if is_here { String::new() } else { format!("cd {} && ", root.display()) };
    say("running", format!("{folder}{}", display(&command)));
    let error = command.exec();
    Err(Failure::new(format!("cannot start `{}`: {error}", display(&command))))
}

/// `cargo xtask gpu-check`: becomes `gpart-dist gpu-check` on the golden runs of the repository.
pub fn gpu_check(root: &Path, extra: &[String]) -> Outcome {
    let machine = setup::run(root)?;
    build_binary(root, &machine, false)?;
    let mut command = Command::new(root.join(binary(root, &machine, "debug")?));
    command.current_dir(root);
    let of_run_time = machine.environment.iter().filter(|(name, _)| name == "LD_LIBRARY_PATH");
    command.envs(of_run_time.map(|(name, value)| (name, value)));
    command.args(["gpu-check", "--goldens", "tests/golden"]).args(extra);
    say("running", display(&command));
    let error = command.exec();
    Err(Failure::new(format!("cannot start `{}`: {error}", display(&command))))
}

/// The first of `demo`, `demo-2`, … that does not exist: a run that is there is neither touched nor resumed.
fn free_output(root: &Path) -> PathBuf {
    let outputs = Path::new("experiments/outputs");
    let numbered = (2..).map(|number| outputs.join(format!("demo-{number}")));
    let mut candidates = std::iter::once(outputs.join("demo")).chain(numbered);
    // The chain has no end, so one is always found.
    candidates.find(|path| !root.join(path).exists()).unwrap_or_default()
}

/// How much is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tests {
    /// What a change is tested with.
    Normal,
    /// Those marked `#[ignore]` as well.
    Full,
    /// Those, and every fuzz target for a minute.
    Slow,
}

/// `cargo xtask test`: stages in order, stopping at the first that fails, then a table of them.
pub fn test(root: &Path, tests: Tests) -> Outcome {
    let mut machine = setup::run(root)?;
    setup::nvrtc(root)?;
    // It is here now: a test that does not find it is broken, and must not pass as one that was skipped.
    machine.environment.push(("GPART_REQUIRE_NVRTC".to_owned(), "1".to_owned()));
    let mut stages = Stages::default();
    let result = test_stages(root, &machine, tests, &mut stages);
    stages.print();
    result
}

fn test_stages(root: &Path, machine: &Machine, tests: Tests, stages: &mut Stages) -> Outcome {
    let with = |words: &str| {
        let mut command = cargo(root, &machine.environment);
        command.args(words.split(' '));
        command
    };
    let go = |mut command: Command| {
        say("running", display(&command));
        run(&mut command)
    };
    stages.run("components", || components(root, machine))?;
    stages.run("format", || go(with("fmt --all --check")))?;
    stages.run("layering", || layering::run(root))?;
    stages.run("clippy", || go(with("clippy --workspace --all-targets -- -D warnings")))?;
    stages.run("build", || build_binary(root, machine, false))?;
    stages.run("no MPI", || {
        without_mpi(with("tree --package cli --no-default-features --edges normal --prefix none"))?;
        go(with("check --package cli --no-default-features"))
    })?;
    stages.run("doc tests", || go(with("test --doc --workspace")))?;
    // Last, so that its own summary is the end of the output; fuzzing, whose findings are a matter of luck, after it.
    let with_ignored = tests != Tests::Normal;
    stages.run("tests", || {
        if output_of(&mut with("nextest --version")).is_some() {
            let ignored = if with_ignored { "all" } else { "default" };
            return go(with(&format!("nextest run --workspace --no-fail-fast --run-ignored {ignored}")));
        }
        say("nextest", "not installed, using cargo test (`cargo install --locked cargo-nextest` is nicer)");
        let ignored = if with_ignored { " -- --include-ignored" } else { "" };
        go(with(&format!("test --workspace --lib --bins --tests --no-fail-fast{ignored}")))
    })?;
    match tests {
        Tests::Slow => stages.run("fuzz", || fuzz::all(root, machine, fuzz::SECONDS)),
        Tests::Normal | Tests::Full => Ok(()),
    }
}

/// rustfmt and clippy, which a minimal Rust installation lacks.
fn components(root: &Path, machine: &Machine) -> Outcome {
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let is_here = || output_of(cargo(root, &machine.environment).args([command, "--version"])).is_some();
        if is_here() {
            continue;
        }
        say("components", format!("installing {component} (rustup)"));
        let hint = format!("install {component} for this Rust, then again");
        let installed = shell::run_quietly(Command::new("rustup").args(["component", "add", component]));
        installed.map_err(|failure| Failure::with_hint(failure.message, hint.clone()))?;
        if !is_here() {
            return Err(Failure::with_hint(format!("cargo {command} does not work"), hint));
        }
    }
    Ok(())
}

/// The binary without default features must have no trace of MPI among its dependencies.
fn without_mpi(mut tree: Command) -> Outcome {
    let shown = output_of(&mut tree).ok_or_else(|| Failure::new(format!("`{}` failed", display(&tree))))?;
    match shown.lines().find(|line| line.starts_with("mpi ") || line.starts_with("mpi-sys ")) {
        Some(line) => Err(Failure::new(format!("cli without default features still depends on {line}"))),
        None => Ok(()),
    }
}

/// What ran, how it ended and how long it took.
#[derive(Default)]
struct Stages(Vec<(&'static str, bool, f64)>);

impl Stages {
    fn run(&mut self, name: &'static str, stage: impl FnOnce() -> Outcome) -> Outcome {
        let started = Instant::now();
        let result = stage();
        self.0.push((name, result.is_ok(), started.elapsed().as_secs_f64()));
        result.map_err(|failure| Failure { message: format!("{name}: {}", failure.message), ..failure })
    }

    fn print(&self) {
        let row = |(name, passed, seconds): &(&str, bool, f64)| {
            format!("{name:<12} {:<6} {seconds:>8.1}\n", if *passed { "ok" } else { "FAILED" })
        };
        let rows: String = self.0.iter().map(row).collect();
        shell::show(format_args!("\nstage        result  seconds\n{rows}"));
    }
}

/// `cargo xtask bench`: the benchmarks of the packages that have any, or of those named.
pub fn bench(root: &Path, packages: &[&str]) -> Outcome {
    let machine = setup::run(root)?;
    let known = ["partition", "projection", "trainer"];
    let has_benches = |name: &&str| root.join("crates").join(name).join("benches").is_dir();
    if let Some(unknown) = packages.iter().find(|name| !has_benches(name)) {
        return Err(Failure::new(format!("crates/{unknown} has no benches")));
    }
    let chosen: Vec<&str> =
        if packages.is_empty() { known.into_iter().filter(has_benches).collect() } else { packages.to_vec() };
    for package in chosen {
        let mut command = cargo(root, &machine.environment);
        // The one profile that everything else is built with: another would build libtorch's bindings again.
        command.args(["bench", "--profile", "dev", "--package", package, "--bench", "*"]);
        say("bench", display(&command));
        run(&mut command)?;
    }
    Ok(())
}

/// `cargo xtask bench mesh`.
pub fn bench_mesh(root: &Path) -> Outcome {
    let machine = setup::run(root)?;
    build_binary(root, &machine, false)?;
    mesh_bench::run(root, &machine, &target_folder(root, &machine)?.join("debug/gpart-dist"))
}

/// `cargo xtask bench curves`.
pub fn bench_curves(root: &Path) -> Outcome {
    let machine = setup::run(root)?;
    build_binary(root, &machine, false)?;
    curves_bench::run(root, &target_folder(root, &machine)?.join("debug/gpart-dist"))
}

/// `cargo xtask bench generate`.
pub fn bench_generate(root: &Path) -> Outcome {
    let machine = setup::run(root)?;
    build_binary(root, &machine, false)?;
    generate_bench::run(root, &target_folder(root, &machine)?.join("debug/gpart-dist"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn stages_stop_at_the_first_failure_and_name_it() {
        let mut stages = Stages::default();
        stages.run("one", || Ok(())).unwrap();
        let failure = stages.run("two", || Err(Failure::new("broken"))).unwrap_err();
        assert_eq!(failure.message, "two: broken");
        let results: Vec<(&str, bool)> = stages.0.iter().map(|(name, passed, _)| (*name, *passed)).collect();
        assert_eq!(results, [("one", true), ("two", false)]);
    }

    #[test]
    fn an_output_folder_that_exists_is_never_taken() {
        let root = std::env::temp_dir().join(format!("xtask-demo-{}", std::process::id()));
        let outputs = root.join("experiments/outputs");
        std::fs::create_dir_all(outputs.join("demo-2")).unwrap();
        assert_eq!(free_output(&root), Path::new("experiments/outputs/demo"));
        std::fs::create_dir_all(outputs.join("demo")).unwrap();
        assert_eq!(free_output(&root), Path::new("experiments/outputs/demo-3"));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
