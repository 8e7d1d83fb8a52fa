//! What the tests of several modules share.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

/// A run of the demo: d 64, 4 steps, 2 ranks.
pub(crate) fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/demo-d64")
}

/// Copies it.
pub(crate) fn copy_sample(folder: &Path, name: &str) -> PathBuf {
    let copy = folder.join(name);
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(sample()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// A file of results in the official form, of questions answered rightly or not.
pub(crate) fn evaluation(path: &Path, dataset: &str, correct: &[bool], adapter: Option<&str>) {
    let question = |at: usize, correct: bool| {
        json!({
            "question": format!("What is {at} + {at}?"), "prompt": "Question: …\nAnswer:",
            "completion": format!("It is {}.\nThe answer is: {}", 2 * at, 2 * at + usize::from(!correct)),
            "prediction": 2.0 * at as f64 + f64::from(u8::from(!correct)), "ground_truth": 2.0 * at as f64,
            "correct": correct,
        })
    };
    let right = correct.iter().filter(|correct| **correct).count() as f64;
    let predictions: Vec<_> =
        correct.iter().enumerate().map(|(at, correct)| question(at, *correct)).collect();
    let file = json!({
        "backend": "vllm", "prompt_format": "plain_text_question_answer", "dataset": dataset,
        "accuracy": right / correct.len() as f64, "total_evaluated": correct.len(), "invalid_outputs_count": 0,
        "invalid_outputs": [], "predictions": predictions, "adapter_path": adapter,
        "model_path": "configs/demo/model", "effective_model_path": "configs/demo/model", "system_prompt": null,
        "used_training_system_prompt": false, "start_index": 0, "end_index": correct.len(), "max_samples": null,
        "batch_size": 60, "max_new_tokens": 512, "gpu_memory_utilization": 0.9, "max_model_len": 2048,
        "dtype": "bfloat16", "tensor_parallel_size": 1,
    });
    fs::write(path, file.to_string()).unwrap();
}
