//! `cargo xtask`: finds or installs what the workspace needs from the system, builds, runs the demo, runs the
//! tests. It has no dependencies, so that a machine with only Rust has it in seconds.

mod bundle;
mod curves_bench;
mod fuzz;
mod generate_bench;
mod layering;
mod measure;
mod mesh_bench;
mod setup;
mod shell;
mod tasks;

use std::io::Write;
use std::process::ExitCode;

use shell::{Failure, Outcome};
use tasks::Tests;

const USAGE: &str = "\
usage: cargo xtask <command>

  setup                    find or install the compiler, MPI, libclang, libtorch and NVRTC
  build [--release]        setup, then build the binary gpart-dist
  demo [-- ARGS]           setup, build, then run the main job on two ranks; ARGS go to `gpart-dist metamath`
  test [--full | --slow]   setup, then format, dependency rules, lints, build and every test;
                           --full also runs the tests marked #[ignore], --slow also fuzzes each parser for a minute
  fuzz [--seconds N] [TARGET ...]
                           setup, then all parsers, or those named, on mutated input, 60 seconds each
  bundle [--output DIR|FILE.tar.gz] [--release] [--mpi DIR]
                           setup, build, then pack the binaries, their MPI, presets, tiny models and golden runs for
                           hosts that have libtorch but neither Rust nor MPI; --mpi: an Open MPI other than PATH's
  gpu-check [-- ARGS]      setup, build, then check this machine's GPUs and write a report;
                           ARGS go to `gpart-dist gpu-check`
  layering                 check the dependency rules of ARCHITECTURE.md from the source
  bench [PACKAGE ...]      setup, then run the benchmarks of all packages or of those named; `bench mesh`:
                           a step on two ranks beside one, by axis; `bench generate`: generation beside
                           transformers, where GPART_PYTHON or python3 has it; `bench curves`: the demo with
                           packed rows and in bfloat16 beside float32";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let hint = failure.hint.map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
            let _ = write!(std::io::stderr(), "error: {}\n{hint}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn run(args: &[String]) -> Outcome {
    let (flags, extra) = match args.iter().position(|arg| arg == "--") {
        Some(at) => (&args[..at], &args[at + 1..]),
        None => (args, &[][..]),
    };
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    if !extra.is_empty() && !matches!(flags.first(), Some(&("demo" | "gpu-check"))) {
        return Err(Failure::usage("only `demo` and `gpu-check` take arguments after `--`", USAGE));
    }
    let root = shell::repository_root()?;
    match flags.as_slice() {
        ["setup"] => setup::run(&root).and_then(|_| setup::nvrtc(&root)),
        ["build"] => tasks::build(&root, false),
        ["build", "--release"] => tasks::build(&root, true),
        ["demo"] => tasks::demo(&root, extra),
        ["test"] => tasks::test(&root, Tests::Normal),
        ["test", "--full"] => tasks::test(&root, Tests::Full),
        ["test", "--slow"] => tasks::test(&root, Tests::Slow),
        ["fuzz", words @ ..] => match fuzz::Wanted::parse(words) {
            Some(wanted) => fuzz::fuzz(&root, &wanted),
            None => Err(Failure::usage("fuzz [--seconds N] [TARGET ...], N at least 1", USAGE)),
        },
        ["bundle", words @ ..] => match bundle::Wanted::parse(words) {
            Some(wanted) => bundle::bundle(&root, &wanted),
            None => Err(Failure::usage("bundle [--output DIR|FILE.tar.gz] [--release] [--mpi DIR]", USAGE)),
        },
        ["gpu-check"] => tasks::gpu_check(&root, extra),
        ["layering"] => layering::run(&root),
        ["bench", "mesh"] => tasks::bench_mesh(&root),
        ["bench", "curves"] => tasks::bench_curves(&root),
        ["bench", "generate"] => tasks::bench_generate(&root),
        ["bench", packages @ ..] => tasks::bench(&root, packages),
        ["help" | "--help" | "-h"] => {
            shell::show(format_args!("{USAGE}\n"));
            Ok(())
        }
        [] => Err(Failure::usage("no command given", USAGE)),
        other => Err(Failure::usage(format!("unknown command or flag: {}", other.join(" ")), USAGE)),
    }
}
