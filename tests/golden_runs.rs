//! Whole runs beside those of the official implementation (CPU, float32, no dropout, rows in file order): loss,
//! gradient norm and learning rate at every step, θ at the end.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Ranks, command, metrics, read_json, repository, scratch};

struct Golden {
    folder: &'static str,
    data: &'static str,
    theta_file: &'static str,
    theta_tensor: &'static str,
}

/// Runs ours with the settings of the official log, on `ranks`, and compares.
fn check(golden: &Golden, model: &Path, ranks: Ranks) {
    let root = repository().join("tests/golden");
    let log = read_json(&root.join(golden.folder).join("log.json"));
    let data = root.join(golden.data);
    let output = scratch();
    let train = &log["train"];
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut args = vec!["metamath".to_owned(), "--no-shuffle".to_owned()];
    for (flag, value) in [
        ("--model", model.display().to_string()),
        ("--data", data.display().to_string()),
        ("--output", output.path().join("run").display().to_string()),
        ("--dropout", text(&log["dropout"])),
        ("--max_seq_length", text(&log["max_seq_length"])),
        ("--d", text(&log["gpart"]["d"])),
        ("--proj-seed", text(&log["gpart"]["proj_seed"])),
        ("--per_device_train_batch_size", text(&train["per_device_train_batch_size"])),
        ("--gradient_accumulation_steps", text(&train["gradient_accumulation_steps"])),
        ("--num_train_epochs", text(&train["num_train_epochs"])),
        ("--learning_rate", text(&train["learning_rate"])),
        ("--lr_scheduler_type", text(&train["lr_scheduler_type"])),
        ("--warmup_ratio", text(&train["warmup_ratio"])),
        ("--weight_decay", text(&train["weight_decay"])),
        ("--max_grad_norm", text(&train["max_grad_norm"])),
    ] {
        args.extend([flag.to_owned(), value]);
    }
    if let Some(backend) = log["gpart"]["assignment_backend"].as_str() {
        args.extend(["--assignment_backend".to_owned(), backend.to_owned()]);
    }
    if let Some(rows) = log["rows"].as_u64() {
        args.extend(["--max_samples".to_owned(), rows.to_string()]);
    }
    let outcome = command(ranks, &args).output().unwrap();
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));

    let (ours, official) = (metrics(&output.path().join("run")), log["steps"].as_array().unwrap());
    assert_eq!(ours.len(), official.len());
    let loss_tolerance = log["tolerance"]["loss_abs"].as_f64().unwrap();
    let mut worst_loss: f64 = 0.0;
    for (ours, official) in ours.iter().zip(official) {
        let near = |key: &str, tolerance: f64| {
            let (a, b) = (ours[key].as_f64().unwrap(), official[key].as_f64().unwrap());
            assert!((a - b).abs() <= tolerance, "step {}: {key} {a} is not {b}", ours["step"]);
            (a - b).abs()
        };
        worst_loss = worst_loss.max(near("loss", loss_tolerance));
        near("grad_norm", 1e-4);
        near("learning_rate", 1e-12);
    }
    let theta = |path: &Path, tensor: &str| -> Vec<f32> {
        let bytes = std::fs::read(path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = tensors.tensor(tensor).unwrap().data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let found = theta(&output.path().join("run/adapter_model.safetensors"), "base_model.gpart_theta_d");
    let expected = theta(&root.join(golden.folder).join(golden.theta_file), golden.theta_tensor);
    assert_eq!(found.len(), expected.len());
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let error = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
    let relative = error / norm(&mut expected.iter().copied());
    assert!(relative <= log["tolerance"]["final_theta_rel_l2"].as_f64().unwrap(), "θ is off by {relative}");
    report(&format!("{}: loss within {worst_loss:.1e}, final θ within {relative:.1e}", golden.folder));
}

/// For readers of `--no-capture`.
#[allow(clippy::print_stdout, reason = "a figure for the documentation")]
fn report(line: &str) {
    println!("{line}");
}

const DEMO_RUN: Golden = Golden {
    folder: "metamath/train-stateless",
    data: "metamath/train.json",
    theta_file: "final_theta.safetensors",
    theta_tensor: "theta",
};

#[test]
fn the_demo_models_curve_is_the_official_one() {
    check(&DEMO_RUN, &repository().join("configs/demo/model"), Ranks::Alone);
}

#[test]
fn and_on_three_ranks() {
    check(&DEMO_RUN, &repository().join("configs/demo/model"), Ranks::Mpi(3));
}

#[test]
fn so_is_that_of_the_materialized_partition() {
    let golden = Golden { folder: "metamath/train-materialized", ..DEMO_RUN };
    for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
        check(&golden, &repository().join("configs/demo/model"), ranks);
    }
}

/// The random tiny model of a family learns as the official one.
fn check_family(folder: &'static str) {
    let golden = Golden {
        folder,
        data: "architectures/train.json",
        theta_file: "adapter/adapter_model.safetensors",
        theta_tensor: "base_model.gpart_theta_d",
    };
    check(&golden, &repository().join("tests/golden").join(folder).join("base"), Ranks::Alone);
}

#[test]
fn a_random_llama_31_learns_as_the_official_one() {
    check_family("architectures/llama31");
}

#[test]
fn a_random_qwen2_learns_as_the_official_one() {
    check_family("architectures/qwen2");
}

#[test]
fn a_random_gemma_learns_as_the_official_one() {
    check_family("architectures/gemma");
}

#[test]
fn a_random_mistral_learns_as_the_official_one() {
    check_family("architectures/mistral");
}
