//! The same bits on any number of ranks.

use crate::harness::{Ranks, losses, scratch, thetas, train};

/// Trains with the flags alone and on each number of ranks, and compares θ after every step.
fn same_on(ranks: &[usize], flags: &[&str]) {
    let folder = scratch();
    let alone = folder.path().join("alone");
    train(Ranks::Alone, &alone, flags);
    let expected = thetas(&alone);
    let distinct: std::collections::BTreeSet<&String> = expected.iter().collect();
    assert_eq!(distinct.len(), 6, "every step moves θ: {expected:?}");
    for n in ranks {
        let output = folder.path().join(format!("{n}"));
        train(Ranks::Mpi(*n), &output, flags);
        assert_eq!(thetas(&output), expected, "{n} ranks, {flags:?}");
        assert_eq!(losses(&output), losses(&alone), "{n} ranks, {flags:?}");
    }
}

#[test]
fn without_dropout() {
    same_on(&[1, 2, 3], &["--dropout", "0"]);
}

#[test]
fn with_dropout() {
    same_on(&[1, 2, 3], &["--dropout", "0.05"]);
}

#[test]
fn with_micro_batches_that_the_ranks_do_not_divide() {
    same_on(&[2, 3], &["--accumulation-steps", "5", "--micro-batch-size", "1"]);
}

#[test]
fn with_more_ranks_than_micro_batches() {
    same_on(&[3], &["--accumulation-steps", "2"]);
    same_on(&[2], &["--accumulation-steps", "1"]);
}

/// The last step of an epoch has fewer micro-batches, and a smaller last one.
#[test]
fn with_a_remainder_at_the_epochs_end() {
    same_on(&[2, 3], &["--max-samples", "9", "--accumulation-steps", "4"]);
}

#[test]
fn with_linear_decay_without_isometry_on_other_modules() {
    let flags = ["--lr-scheduler-type", "linear", "--isometric", "false", "--learning-rate", "1e-3"];
    same_on(&[2], &[&flags[..], &["--target-modules", "down_proj,q_proj", "--no-shuffle"]].concat());
}

#[test]
fn recomputing_blocks_changes_no_bit() {
    let folder = scratch();
    let (kept, again) = (folder.path().join("kept"), folder.path().join("again"));
    train(Ranks::Alone, &kept, &[]);
    train(Ranks::Mpi(2), &again, &["--gradient-checkpointing"]);
    assert_eq!(thetas(&again), thetas(&kept));
}

/// Trains with the flags and compares the losses with those of the defaults.
fn close_with(flags: &[&str], tolerance: f64) {
    let folder = scratch();
    let (plain, other) = (folder.path().join("plain"), folder.path().join("other"));
    train(Ranks::Alone, &plain, &[]);
    train(Ranks::Alone, &other, flags);
    for (a, b) in losses(&plain).iter().zip(losses(&other)) {
        assert!((a - b).abs() < tolerance, "{flags:?}: {b} where {a} was expected");
    }
    assert_eq!(losses(&plain).len(), losses(&other).len());
}

#[test]
fn small_cross_entropy_chunks_give_the_same_loss() {
    close_with(&["--cross-entropy-chunk", "7"], 1e-4);
}

#[test]
fn cross_entropy_in_one_piece_gives_the_same_loss() {
    close_with(&["--cross-entropy-chunk", "0"], 1e-4);
}

#[test]
fn two_threads_give_the_same_loss() {
    close_with(&["--threads", "2"], 1e-3);
}

#[test]
fn bf16_gives_nearly_the_same_loss() {
    close_with(&["--dtype", "bfloat16"], 0.03);
}

#[test]
fn bf16_is_the_same_on_two_ranks() {
    let folder = scratch();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    train(Ranks::Alone, &one, &["--bf16"]);
    train(Ranks::Mpi(2), &two, &["--bf16"]);
    assert_eq!(thetas(&two), thetas(&one));
}

/// Held-out losses are measured by all ranks together.
#[test]
fn held_out_loss_is_the_same() {
    let folder = scratch();
    let data = crate::harness::repository().join("configs/demo/heldout.json");
    let flags = ["--eval-data", data.to_str().unwrap(), "--eval-steps", "4", "--max-steps", "5"];
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name).join("held_out.jsonl")).unwrap();
    train(Ranks::Alone, &folder.path().join("1"), &flags);
    assert_eq!(read("1").lines().count(), 3, "before, after step 4, after the last: {}", read("1"));
    for n in [2, 3] {
        train(Ranks::Mpi(n), &folder.path().join(n.to_string()), &flags);
        assert_eq!(read(&n.to_string()), read("1"), "{n} ranks");
    }
}
