//! The shape of Llama-3.1-8B on eight ranks of one machine, pipelined and sharded. Takes 16 GB of disk, the memory of the
//! whole machine and about twenty minutes on two cores; run alone.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Ranks, Running, command, metrics, read_json, scratch, thetas};

const GIB: f64 = (1_u64 << 30) as f64;

/// One step of eight short sequences.
fn args<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["metamath", "--model", model, "--data", "configs/demo/train.json"];
    args.extend(["--dtype", "bfloat16", "--gradient-checkpointing", "--max-seq-length", "32"]);
    args.extend(["--micro-batch-size", "1", "--accumulation-steps", "8", "--max-samples", "8"]);
    args.extend(["--d", "524288", "--max-steps", "1", "--warmup-ratio", "0", "--report-to", "none"]);
    // What the machine has left is compared with the plan's estimate, which is as much.
    args.extend(["--memory-check", "false"]);
    args.extend(more);
    args
}

/// Bytes that the plan says a rank of the neediest stage needs.
fn planned_peak(model: &str, mesh: &[&str]) -> f64 {
    let mut args = args(model, mesh);
    args.insert(0, "plan");
    args.extend(["--ranks", "8", "--json"]);
    let outcome = command(Ranks::Alone, &args).output().unwrap();
    let plan: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    plan["memory"]["peak"].as_f64().unwrap()
}

fn run(model: &str, folder: &Path, mesh: &[&str]) -> Vec<String> {
    let output = folder.join(mesh.join(""));
    let more = [&["--output", output.to_str().unwrap()], mesh].concat();
    Running::patiently(command(Ranks::Mpi(8), &args(model, &more))).finish().expect_code(0);
    let run = read_json(&output.join("run.json"));
    let peaks = run["peak_memory_bytes"].as_array().unwrap().iter().map(|peak| peak.as_f64().unwrap());
    let worst = peaks.fold(0.0, f64::max);
    let planned = planned_peak(model, mesh);
    let seconds = metrics(&output)[0]["step_seconds"].as_f64().unwrap();
    report(&format!(
        "{mesh:?}: a step in {seconds:.0} s; at most {:.2} GiB a rank, planned {:.2}",
        worst / GIB,
        planned / GIB
    ));
    assert!(worst < 1.1 * planned, "{mesh:?}: a rank held {worst} bytes, planned {planned}");
    thetas(&output)
}

#[test]
#[ignore = "takes 16 GB of disk, the whole machine's memory and ten minutes"]
fn eight_billion_parameters_on_eight_ranks() {
    let folder = scratch();
    let model = folder.path().join("model");
    let model = model.to_str().unwrap();
    let make =
        ["random-model", "--shape", "Llama-3.1-8B", "--tokenizer", "configs/demo/model", "--output", model];
    Running::patiently(command(Ranks::Alone, &make)).finish().expect_code(0);
    let pipelined = run(model, folder.path(), &["--pp", "8"]);
    let sharded = run(model, folder.path(), &["--dp-shard", "8", "--prefetch", "false"]);
    assert_eq!(pipelined, sharded);
}

/// For readers of `--no-capture`.
#[allow(clippy::print_stdout, reason = "a figure for the documentation")]
fn report(line: &str) {
    println!("{line}");
}
