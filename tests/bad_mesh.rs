//! Meshes that cannot be, and ranks that are lost inside one.

use std::time::{Duration, Instant};

use crate::harness::{
    Ranks, Running, check_message, command, lines_so_far, scratch, snapshot, training, training_args,
};

/// Refused before anything is written, by one rank, with the values.
fn refused(ranks: usize, flags: &[&str], says: &[&str]) {
    let folder = scratch();
    let outcome = Running::start(training(Ranks::Mpi(ranks), &folder.path().join("output"), flags)).finish();
    check_message(&format!("{ranks} ranks, {flags:?}"), &outcome, 2, says);
    assert!(snapshot(folder.path()).is_empty(), "{flags:?}: files were written");
}

#[test]
fn degrees_that_do_not_multiply_to_the_ranks() {
    let equation = "dp-replicate 2 × dp-shard 2 × pp 1 = 4 is not the number of ranks that were started, 3";
    refused(3, &["--dp-replicate", "2", "--dp-shard", "2"], &[equation, "mpirun -n"]);
    let equation = "dp-replicate 1 × dp-shard 1 × pp 2 = 2 is not the number of ranks that were started, 3";
    refused(3, &["--pp", "2"], &[equation]);
}

#[test]
fn more_stages_than_blocks() {
    let says = ["pp 5 asks for more pipeline stages than the model has blocks, 4", "--pp 4 or less"];
    refused(5, &["--pp", "5"], &says);
}

#[test]
fn groups_by_sign_and_size_on_a_shard() {
    let flags = ["--grouping-strategy", "signed_magnitude", "--dp-shard", "2"];
    refused(2, &flags, &["signed_magnitude", "dp-shard is 2", "--dp-shard 1"]);
}

#[test]
fn more_pipelines_than_micro_batches_are_warned_of() {
    let folder = scratch();
    let flags = ["--dp-shard", "4", "--max-steps", "1"];
    let outcome = Running::start(training(Ranks::Mpi(4), &folder.path().join("output"), &flags)).finish();
    let outcome = outcome.expect_code(0);
    outcome.expect_text("1 of 4 ranks have nothing to compute").expect_text("--accumulation-steps 4");
}

/// A rank dies while the others compute and wait: they end within seconds, and its number is said.
fn a_rank_is_lost(mesh: &[&str], launcher: &[&str]) {
    let folder = scratch();
    let output = folder.path().join("output");
    let flags = [&["--epochs", "900", "--max-steps", "9000", "--save-steps", "4000"], mesh].concat();
    let mut command = command::<&str>(Ranks::Mpi(3), &[]);
    command.args(training_args(&output, &flags));
    let mut with_options = std::process::Command::new("mpirun");
    with_options.args(launcher).args(command.get_args()).current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => with_options.env(name, value),
            None => with_options.env_remove(name),
        };
    }
    let mut running = Running::start(with_options);
    assert!(running.until(|| lines_so_far(&output) >= 2), "it was to be killed before its end");
    let killed = Instant::now();
    running.kill_rank(1);
    let outcome = running.finish();
    // It takes a second or two; a machine may be busy with other tests.
    assert!(killed.elapsed() < Duration::from_secs(30), "{mesh:?}: took {:?}", killed.elapsed());
    outcome.expect_text("rank 1 ");
}

#[test]
fn a_lost_rank_is_named_by_the_launcher_or_by_its_peers() {
    a_rank_is_lost(&["--dp-replicate", "3"], &[]);
    a_rank_is_lost(&["--dp-shard", "3"], &[]);
    a_rank_is_lost(&["--pp", "3"], &[]);
}

/// Where the launcher goes on without a rank, its peers notice.
#[test]
fn a_lost_rank_is_noticed_without_the_launcher() {
    for mesh in [["--dp-shard", "3"], ["--pp", "3"]] {
        a_rank_is_lost(&mesh, &["--enable-recovery"]);
    }
}
