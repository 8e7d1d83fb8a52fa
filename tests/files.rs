//! The files of a run, against DESIGN's list and the official adapter.

use std::collections::BTreeSet;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::harness::{Ranks, metrics, read_json, repository, scratch, thetas, train};

fn keys(value: &Value) -> Vec<&String> {
    value.as_object().unwrap().keys().collect()
}

/// Field by field what the official code writes: the same keys in the same order with the same types.
#[test]
fn adapter_config_is_the_official_one() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Mpi(2), &output, &["--dropout", "0", "--d", "300"]);
    let ours = read_json(&output.join("adapter_config.json"));
    let official = read_json(&repository().join("tests/golden/adapter_config.json"));
    assert_eq!(keys(&ours), keys(&official));
    for (key, official) in official.as_object().unwrap() {
        let ours = &ours[key];
        match key.as_str() {
            "base_model_name_or_path" => {
                assert!(ours.as_str().unwrap().ends_with("configs/demo/model"), "{ours}")
            }
            // A set in the official code: its order there is arbitrary.
            "target_modules" => assert_eq!(set(ours), set(official)),
            _ => assert_eq!(ours, official, "{key}"),
        }
    }
    // A number with a fraction stays one, also where it is whole: Python tells the two apart.
    let text = std::fs::read_to_string(output.join("adapter_config.json")).unwrap();
    assert!(text.contains("\"gpart_dropout\": 0.0,") && text.contains("\"init_bound\": 0.0,"), "{text}");
}

fn set(list: &Value) -> BTreeSet<&str> {
    list.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

#[test]
fn adapter_config_says_what_was_asked_for() {
    let folder = scratch();
    let output = folder.path().join("output");
    let flags = ["--dropout", "0.1", "--isometric", "false", "--proj-seed", "-7", "--learning-rate", "1e-3"];
    train(Ranks::Alone, &output, &[&flags[..], &["--target-modules", "up_proj,q_proj"]].concat());
    let config = read_json(&output.join("adapter_config.json"));
    assert_eq!(config["gpart_dropout"], 0.1);
    assert_eq!(config["isometric"], false);
    assert_eq!(config["proj_seed"], -7);
    assert_eq!(set(&config["target_modules"]), BTreeSet::from(["q_proj", "up_proj"]));
}

#[test]
fn adapter_model_holds_theta_and_nothing_else() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Mpi(2), &output, &[]);
    let bytes = std::fs::read(output.join("adapter_model.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.names(), ["base_model.gpart_theta_d"]);
    let theta = tensors.tensor("base_model.gpart_theta_d").unwrap();
    assert_eq!((theta.dtype(), theta.shape()), (Dtype::F32, &[2048][..]));
    let hash = blake3::hash(theta.data()).to_hex().to_string();
    assert_eq!(Some(&hash), thetas(&output).last());
}

#[test]
fn metrics_have_the_agreed_keys() {
    const KEYS: [&str; 9] = [
        "step",
        "epoch",
        "loss",
        "grad_norm",
        "learning_rate",
        "num_tokens",
        "tokens_per_second",
        "step_seconds",
        "theta_blake3",
    ];
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Mpi(2), &output, &[]);
    let lines = metrics(&output);
    assert_eq!(lines.len(), 6);
    let mut tokens = 0;
    for line in &lines {
        assert_eq!(keys(line), KEYS);
        assert!(line["loss"].as_f64().unwrap() > 0.0 && line["grad_norm"].as_f64().unwrap() > 0.0);
        assert!(line["step_seconds"].as_f64().unwrap() > 0.0);
        assert!(line["num_tokens"].as_u64().unwrap() > tokens, "tokens of the run so far");
        tokens = line["num_tokens"].as_u64().unwrap();
        assert_eq!(line["theta_blake3"].as_str().unwrap().len(), 64);
    }
    assert_eq!(lines[0]["learning_rate"], 0.02, "there is no warm-up");
    assert_eq!(lines[3]["epoch"], 1.0, "4 steps of 6 rows are 24 rows");
}

#[test]
fn run_json_says_what_ran() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Mpi(3), &output, &[]);
    let run = read_json(&output.join("run.json"));
    assert_eq!(run["config"]["d"], 2048);
    assert_eq!(run["config"]["max-steps"], 6);
    assert_eq!(run["mesh"], serde_json::json!({"dp_replicate": 1, "dp_shard": 3, "pp": 1}));
    for what in ["model", "data"] {
        assert!(run["fingerprints"][what].as_str().is_some_and(|f| f.len() >= 32), "{what}");
    }
    assert!(run["partition_fingerprint"].as_str().is_some_and(|f| f.len() >= 32));
    assert!(run["gpart_dist"].is_string() && run["libtorch"].is_string());
    assert!(run["communicator"].as_str().unwrap().contains("MPI"));
    assert_eq!(run["adapted_weights"], 393_216);
}

#[test]
fn every_rank_has_a_log() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Mpi(3), &output, &[]);
    for rank in 0..3 {
        let log = std::fs::read_to_string(output.join(format!("logs/rank-{rank:03}.log"))).unwrap();
        assert!(log.contains("step=6"), "rank {rank}: {log}");
        assert!(!log.contains('\u{1b}'), "a log has no colours");
    }
    assert_eq!(std::fs::read_dir(output.join("logs")).unwrap().count(), 3);
}

/// Frames of a TensorBoard event file: length, its checksum, data, its checksum.
fn event_records(file: &Path) -> Vec<Vec<u8>> {
    let masked = |data: &[u8]| crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let bytes = std::fs::read(file).unwrap();
    let mut rest = &bytes[..];
    let mut records = Vec::new();
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(rest[8..12], masked(&rest[..8]), "checksum of a length");
        let data = &rest[12..12 + length];
        assert_eq!(rest[12 + length..16 + length], masked(data), "checksum of a record");
        records.push(data.to_vec());
        rest = &rest[16 + length..];
    }
    records
}

#[test]
fn tensorboard_events_are_well_formed() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Mpi(2), &output, &[]);
    let files: Vec<_> = std::fs::read_dir(output.join("tensorboard")).unwrap().flatten().collect();
    assert_eq!(files.len(), 1);
    let records = event_records(&files[0].path());
    let has = |record: &[u8], text: &str| record.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(has(&records[0], "brain.Event:2"));
    assert_eq!(records.iter().filter(|record| has(record, "train/loss")).count(), 6);
    for tag in ["train/grad_norm", "train/learning_rate"] {
        assert!(records.iter().any(|record| has(record, tag)), "{tag}");
    }
    let none = folder.path().join("none");
    train(Ranks::Alone, &none, &["--report-to", "none", "--max-steps", "1"]);
    assert!(!none.join("tensorboard").exists());
}

/// A finished run's folder holds what is documented and no leftovers.
#[test]
fn nothing_else_is_left() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Mpi(2), &output, &[]);
    let names: BTreeSet<String> = std::fs::read_dir(&output)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".lock")
        .collect();
    let expected = [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "checkpoint-5",
        "checkpoint-6",
        "checkpoints",
        "logs",
        "metrics.jsonl",
        "run.json",
        "tensorboard",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
}

/// What a killed writer left beside the run's files goes with the next start.
#[test]
fn leftovers_of_a_killed_writer_go() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Alone, &output, &[]);
    let leftovers = [output.join(".gpart-aBc123.tmp"), output.join("checkpoints/.gpart-aBc123.tmp")];
    leftovers.iter().for_each(|path| std::fs::write(path, "half").unwrap());
    train(Ranks::Alone, &output, &[]);
    for path in leftovers {
        assert!(!path.exists(), "{} is still there", path.display());
    }
}

#[test]
fn the_start_says_what_a_step_is() {
    let folder = scratch();
    train(Ranks::Mpi(2), &folder.path().join("a"), &["--max-steps", "1", "--micro-batch-size", "4"])
        .expect_text("12 rows = 3 micro-batches of 4 over 2 ranks");
    let file = folder.path().join("where");
    let output = folder.path().join("b");
    train(Ranks::Alone, &output, &["--max-steps", "1", "--output-dir-file", file.to_str().unwrap()])
        .expect_text("6 rows = 3 micro-batches of 2 over 1 rank");
    assert_eq!(std::fs::read_to_string(file).unwrap(), format!("{}\n", output.display()));
}
