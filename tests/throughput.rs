//! Settings that buy speed or memory: what they may change of θ, and what not.

use std::path::Path;

use crate::harness::{
    Ranks, Running, check_message, lines_so_far, metrics, scratch, snapshot, thetas, traffic_as_planned,
    train, training,
};

/// Adapter's θ, read as the official loader would.
fn theta(output: &Path) -> Vec<f32> {
    let bytes = std::fs::read(output.join("adapter_model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let numbers = bytes[8 + length..].chunks_exact(4);
    numbers.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// ‖a − b‖ / ‖b‖.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    let norm =
        |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

fn losses(output: &Path) -> Vec<f64> {
    metrics(output).iter().map(|line| line["loss"].as_f64().unwrap()).collect()
}

/// Rows of a micro-batch differ in length, and ΔW has a mask: both are the same packed and padded.
const ROWS: [&str; 6] = ["--micro-batch-size", "3", "--dropout", "0.1", "--max-seq-length", "256"];

#[test]
fn packed_rows_train_as_padded_ones_on_any_mesh() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let flags = |more: &[&'static str]| [&ROWS[..], more].concat();
    train(Ranks::Alone, &at("padded"), &flags(&[]));
    train(Ranks::Alone, &at("packed"), &flags(&["--packing"]));
    let difference = losses(&at("padded")).into_iter().zip(losses(&at("packed"))).map(|(a, b)| (a - b).abs());
    let largest = difference.fold(0.0, f64::max);
    assert!(largest < 1e-5, "losses differ by {largest}");
    let off = relative(&theta(&at("packed")), &theta(&at("padded")));
    assert!(off < 1e-3, "θ differs by {off}");
    assert_ne!(thetas(&at("padded")), thetas(&at("packed")), "another order of additions");
    let tokens = |name: &str| metrics(&at(name)).last().unwrap()["num_tokens"].clone();
    assert_eq!(tokens("packed"), tokens("padded"), "padding was never counted");
    for (ranks, mesh) in [(2, &["--dp-replicate", "2"][..]), (2, &["--pp", "2"]), (3, &["--dp-shard", "3"])] {
        let output = at(&mesh.join("-"));
        train(Ranks::Mpi(ranks), &output, &[&flags(&["--packing"]), mesh].concat());
        assert_eq!(thetas(&output), thetas(&at("packed")), "{mesh:?}");
        traffic_as_planned(&output);
    }
}

#[test]
fn a_run_goes_on_with_more_or_less_memory_but_not_with_other_sums() {
    let folder = scratch();
    let output = folder.path().join("whole");
    train(Ranks::Alone, &output, &[]);
    let stopped = folder.path().join("stopped");
    let mut running = Running::start(training(Ranks::Alone, &stopped, &["--activation-memory", "0.001"]));
    assert!(running.until(|| lines_so_far(&stopped) >= 2), "the run ended before");
    running.kill();
    for (flags, key) in [(&["--packing"][..], "packing"), (&["--merge-delta"], "merge-delta")] {
        let before = snapshot(&stopped);
        let outcome = Running::start(training(Ranks::Alone, &stopped, flags)).finish();
        check_message(key, &outcome, 2, &[key]);
        assert_eq!(before, snapshot(&stopped), "{flags:?} changed files");
    }
    train(Ranks::Mpi(2), &stopped, &["--activation-memory", "0.0001"]);
    assert_eq!(thetas(&stopped), thetas(&output), "which graphs are kept is no part of θ");
}

#[test]
fn merged_updates_are_the_same_on_any_mesh_and_near_those_kept_apart() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let half = ["--dtype", "bfloat16"];
    train(Ranks::Alone, &at("apart"), &half);
    let merged = [&half[..], &["--merge-delta"]].concat();
    train(Ranks::Alone, &at("merged"), &merged);
    train(Ranks::Mpi(2), &at("sharded"), &[&merged[..], &["--dp-shard", "2"]].concat());
    assert_eq!(thetas(&at("sharded")), thetas(&at("merged")));
    assert_ne!(thetas(&at("apart")), thetas(&at("merged")));
    let pairs = losses(&at("apart")).into_iter().zip(losses(&at("merged")));
    let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(largest < 0.02, "losses differ by {largest}");
    // In float32 the two are one.
    train(Ranks::Alone, &at("single"), &[]);
    train(Ranks::Alone, &at("single-merged"), &["--merge-delta"]);
    assert_eq!(thetas(&at("single")), thetas(&at("single-merged")));
}
