//! Launchers that are absent, of another MPI, or that give ranks different things.

use std::path::Path;
use std::process::Command;

use crate::harness::{
    Ranks, Running, check_message, command, program, repository, scratch, snapshot, thetas, train, training,
    training_args,
};

/// The launcher says several ranks, MPI sees one: not several runs in one folder.
#[test]
fn a_launcher_that_mpi_does_not_know() {
    for (variable, value) in [
        ("OMPI_COMM_WORLD_SIZE", "8"),
        ("PMI_SIZE", "2"),
        ("MV2_COMM_WORLD_SIZE", "4"),
        ("SLURM_STEP_NUM_TASKS", "16"),
    ] {
        let folder = scratch();
        let mut command = training(Ranks::Alone, &folder.path().join("output"), &[]);
        command.env(variable, value);
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        let outcome = Running::start(command).finish();
        let says = format!("{variable} says {value} ranks, but MPI came up with 1");
        check_message(variable, &outcome, 2, &[&says, "mpirun"]);
        assert!(snapshot(folder.path()).is_empty(), "{variable}: files were written");
    }
}

/// What a batch script has before any step is started is no launcher.
#[test]
fn a_batch_script_is_no_launcher() {
    let folder = scratch();
    let mut command = training(Ranks::Alone, &folder.path().join("output"), &["--max-steps", "1"]);
    command.env("SLURM_NTASKS", "8").env("SLURM_JOB_ID", "7");
    Running::start(command).finish().expect_code(0);
}

/// One process needs no MPI installation at all.
#[test]
fn without_any_mpirun() {
    let folder = scratch();
    let mut command = training(Ranks::Alone, &folder.path().join("output"), &["--max-steps", "1"]);
    command.env("PATH", folder.path());
    Running::start(command).finish().expect_code(0).expect_text("single process");
}

/// Ranks of one `mpirun` that were given different command lines.
fn different(first: &[&str], second: &[&str], output: &Path, says: &[&str]) {
    let mut command: Command = command::<&str>(Ranks::Mpi(1), &[]);
    for (number, flags) in [first, second].into_iter().enumerate() {
        if number > 0 {
            command.args([":", "-n", "1"]).arg(program());
        }
        command.args(training_args(output, flags));
    }
    let outcome = Running::start(command).finish();
    check_message(&format!("{first:?} and {second:?}"), &outcome, 2, says);
    assert!(!output.exists(), "{first:?} and {second:?} wrote something");
}

#[test]
fn ranks_that_were_started_differently() {
    let folder = scratch();
    let output = folder.path().join("output");
    different(&["--seed", "1"], &["--seed", "2"], &output, &["rank 1", "command line"]);
    let held_out = repository().join("configs/demo/heldout.json");
    let other = ["--data", held_out.to_str().unwrap()];
    different(&[], &other, &output, &["rank 1", "training data"]);
    different(&["--d", "1000000"], &[], &output, &["1000000"]);
    different(&[], &["--d", "1000000"], &output, &["1000000"]);
}

/// A rank that gives up before the others have begun does not leave them waiting.
#[test]
fn ranks_of_which_one_cannot_start() {
    let folder = scratch();
    let output = folder.path().join("output");
    different(&["--learning-rate", "-1"], &[], &output, &["\"-1\""]);
    different(&[], &["--d", "0"], &output, &["\"0\""]);
    different(&[], &["--no-such-flag"], &output, &["--no-such-flag"]);
}

/// The default output folder: the same command, typed again, continues there.
#[test]
fn without_an_output_folder() {
    let folder = scratch();
    let start = |ranks| {
        let mut args = training_args(folder.path(), &["--max-steps", "2"]);
        // `--output FOLDER` are the fourth and fifth.
        args.drain(3..5);
        let mut command = command(ranks, &args);
        command.current_dir(folder.path());
        Running::start(command).finish().expect_code(0)
    };
    start(Ranks::Mpi(2));
    let runs: Vec<_> =
        std::fs::read_dir(folder.path().join("experiments/outputs")).unwrap().flatten().collect();
    assert_eq!(runs.len(), 1);
    let name = runs[0].file_name().into_string().unwrap();
    assert!(
        name.starts_with("metamath_")
            && name.ends_with("_gpart_d2048_drop0.05_lr0.02_bs2_ga3_ep2_seq96_nosysprompt_seed42_2k_n24"),
        "{name}"
    );
    assert_eq!(thetas(&runs[0].path()).len(), 2);
    start(Ranks::Mpi(2)).expect_text("this run was complete");
    let output = folder.path().join("named");
    train(Ranks::Alone, &output, &["--max-steps", "2"]);
    assert_eq!(thetas(&output), thetas(&runs[0].path()));
}
