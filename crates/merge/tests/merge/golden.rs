//! Merged models against what the official implementation computed with base and adapter (CPU, float32).

use std::path::{Path, PathBuf};

use model::{CheckpointFiles, Decoder, DecoderWeights, ModelConfig};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::fixture::{Loaded, merge, names, options};

fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/models")).join(name)
}

struct Expected(Vec<(String, Tensor)>);

impl Expected {
    fn get(&self, name: &str) -> &Tensor {
        &self.0.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    /// Largest difference of logits at tokens; what a model says at padding means nothing.
    fn difference(&self, folder: &Path, logits: &str) -> f64 {
        let config = ModelConfig::from_folder(folder).unwrap();
        let files = CheckpointFiles::open(folder).unwrap();
        let weights = DecoderWeights::load(&files, &config, Kind::Float, Device::Cpu, &|_, _| ()).unwrap();
        let decoder = Decoder::new(config, Kind::Float, Device::Cpu);
        let (ids, mask) = (self.get("input.input_ids"), self.get("input.attention_mask"));
        let flat: Vec<i64> = Vec::try_from(mask.reshape(-1)).unwrap();
        let context = decoder.context(&flat, ids.size()[0] as usize, ids.size()[1] as usize);
        let found = tch::no_grad(|| {
            let hidden = decoder.hidden_states(&weights, ids, &context);
            decoder.final_norm(&weights.norm, &hidden).linear::<&Tensor>(&weights.head, None)
        });
        ((found - self.get(logits)) * mask.unsqueeze(-1)).abs().max().double_value(&[])
    }
}

fn check_model(name: &str, cases: &[&str]) {
    tch::set_num_threads(1);
    let folder = golden(name);
    let base = folder.join("base");
    let expected = Expected(Tensor::read_safetensors(folder.join("expected.safetensors")).unwrap());
    let meta: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("meta.json")).unwrap()).unwrap();
    let tolerance = meta["tolerance"]["logits_abs"].as_f64().unwrap();
    for case in cases {
        let adapter = folder.join("adapters").join(case);
        let room = tempfile::tempdir().unwrap();
        let output = room.path().join("merged");
        let loaded = Loaded::read(&base, &adapter);
        let report = loaded.merge(&options(&output, &adapter, None), &|_| ()).unwrap();
        let logits = format!("{case}.logits");
        let difference = expected.difference(&output, &logits);
        assert!(difference < tolerance, "{name} {case}: logits differ by {difference}");
        // The case's adapter matters, or the comparison would mean nothing.
        assert!(expected.difference(&base, &logits) > 10.0 * tolerance, "{name} {case}");
        assert_eq!(report.kept.numbers, loaded.space.total());
        assert!((report.kept.projection.unwrap() - 1.0).abs() < 1e-3, "{:?}", report.kept);
        if loaded.adapter.config.isometric {
            let norm = loaded.adapter.theta.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            assert!((report.kept.delta_norm / norm - 1.0).abs() < 1e-6, "{name} {case}: an isometry");
        }
        check_files(&base, &output);
    }
}

/// The same files, and the same bytes in all but the tensors.
fn check_files(base: &Path, output: &Path) {
    assert_eq!(names(base), names(output));
    for name in names(base).iter().filter(|name| !name.ends_with(".safetensors")) {
        assert_eq!(std::fs::read(base.join(name)).unwrap(), std::fs::read(output.join(name)).unwrap());
    }
    let [before, after] =
        [base, output].map(|folder| std::fs::read(folder.join("model.safetensors")).unwrap());
    let header = 8 + u64::from_le_bytes(before[..8].try_into().unwrap()) as usize;
    assert_eq!(before[..header], after[..header]);
    assert_eq!(before.len(), after.len());
}

#[test]
fn llama() {
    let cases = [
        "stateless",
        "non-isometric",
        "all-linear",
        "materialized",
        "signed-magnitude",
        "block-scope",
        "layers-subset",
    ];
    check_model("llama", &cases);
}

#[test]
fn llama_with_a_tied_head() {
    check_model("llama-tied", &["stateless", "materialized"]);
    let room = tempfile::tempdir().unwrap();
    let folder = golden("llama-tied");
    let output = room.path().join("merged");
    merge(&folder.join("base"), &folder.join("adapters/stateless"), &output, None).unwrap();
    assert!(CheckpointFiles::open(&output).unwrap().get("lm_head.weight").is_none());
}

#[test]
fn qwen2_with_biases() {
    let cases = ["stateless", "non-isometric", "all-linear", "materialized", "block-scope", "bias"];
    check_model("qwen2", &cases);
}

#[test]
fn gemma() {
    check_model("gemma", &["stateless", "materialized"]);
}

#[test]
fn mistral() {
    check_model("mistral", &["stateless", "materialized"]);
}
