#![allow(clippy::unwrap_used)]

use std::path::Path;

use safetensors::tensor::TensorView;

use super::*;

fn config(tied: bool) -> ModelConfig {
    let json = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 6, "hidden_size": 4, "intermediate_size": 3,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": tied, "attention_bias": true
    });
    ModelConfig::from_json(&json.to_string(), Path::new("config.json")).unwrap()
}

/// Element `i` of tensor `t`: distinct, and exact in every dtype that is read.
fn value(tensor: usize, element: usize) -> f32 {
    (tensor as f32) - 8.0 + (element % 8) as f32 / 8.0
}

fn bytes(value: f32, dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => value.to_le_bytes().to_vec(),
        Dtype::BF16 => value.to_le_bytes()[2..].to_vec(),
        _ => {
            let mut half = [0u8; 2];
            let tensor = Tensor::from_slice(&[value]).to_kind(Kind::Half);
            tensor.copy_data_u8(&mut half, 1);
            half.to_vec()
        }
    }
}

/// Writes the model into one file, or into shards behind an index.
fn write(folder: &Path, config: &ModelConfig, dtype: Dtype, shards: usize) {
    let specs: Vec<(String, Vec<i64>)> = tensor_specs(config).collect();
    let mut weight_map = serde_json::Map::new();
    let per_shard = specs.len().div_ceil(shards);
    for (shard, part) in specs.chunks(per_shard).enumerate() {
        let file = if shards == 1 {
            "model.safetensors".to_owned()
        } else {
            format!("model-{:05}-of-{shards:05}.safetensors", shard + 1)
        };
        let data: Vec<Vec<u8>> = part
            .iter()
            .enumerate()
            .map(|(at, (_, shape))| {
                let numel = shape.iter().product::<i64>() as usize;
                (0..numel).flat_map(|i| bytes(value(shard * per_shard + at, i), dtype)).collect()
            })
            .collect();
        let views = part.iter().zip(&data).map(|((name, shape), data)| {
            let shape = shape.iter().map(|dim| *dim as usize).collect();
            (name.clone(), TensorView::new(dtype, shape, data).unwrap())
        });
        std::fs::write(folder.join(&file), safetensors::serialize(views, None).unwrap()).unwrap();
        weight_map.extend(part.iter().map(|(name, _)| (name.clone(), file.clone().into())));
    }
    if shards > 1 {
        let index = serde_json::json!({"metadata": {}, "weight_map": weight_map});
        std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
}

#[test]
fn every_stored_dtype_and_layout_loads_the_same_weights() {
    for (dtype, shards, tied) in [
        (Dtype::F32, 1, false),
        (Dtype::F16, 1, true),
        (Dtype::BF16, 3, false),
        (Dtype::F16, 2, false),
        (Dtype::F32, 2, true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = config(tied);
        write(folder.path(), &config, dtype, shards);
        let files = CheckpointFiles::open(folder.path()).unwrap();
        let weights = DecoderWeights::load(&files, &config, Kind::Float, Device::Cpu, &|_, _| ()).unwrap();
        for (at, (name, shape)) in tensor_specs(&config).enumerate() {
            let block = |at: usize| &weights.blocks[at];
            let found = match name.as_str() {
                "model.embed_tokens.weight" => &weights.embedding,
                "model.norm.weight" => &weights.norm,
                "lm_head.weight" => &weights.head,
                "model.layers.1.post_attention_layernorm.weight" => &block(1).post_norm,
                "model.layers.0.self_attn.k_proj.bias" => {
                    block(0).linear(LinearKind::Key).bias.as_ref().unwrap()
                }
                "model.layers.1.mlp.down_proj.weight" => &block(1).linear(LinearKind::Down).weight,
                _ => continue,
            };
            assert_eq!((found.size(), found.kind()), (shape, Kind::Float), "{name}");
            let numbers = Vec::<f32>::try_from(found.reshape(-1)).unwrap();
            let expected: Vec<f32> = (0..numbers.len()).map(|i| value(at, i)).collect();
            assert_eq!(numbers, expected, "{name} of {dtype:?} in {shards}");
        }
        assert_eq!(weights.head.data_ptr() == weights.embedding.data_ptr(), tied);
    }
}

/// A Qwen2 with a tied head.
fn tied_qwen2() -> ModelConfig {
    let json = serde_json::json!({
        "architectures": ["Qwen2ForCausalLM"], "vocab_size": 6, "hidden_size": 4, "intermediate_size": 3,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": true
    });
    ModelConfig::from_json(&json.to_string(), Path::new("config.json")).unwrap()
}

/// Writes all tensors of `config` and the `extra` ones, each filled with its own number, under names that `rename`
/// makes.
fn write_filled(folder: &Path, config: &ModelConfig, extra: &[(&str, f32)], rename: impl Fn(&str) -> String) {
    let filled = |shape: &[i64], value: f32| -> Vec<u8> {
        (0..shape.iter().product::<i64>()).flat_map(|_| value.to_le_bytes()).collect()
    };
    let mut tensors: Vec<(String, Vec<i64>, Vec<u8>)> = tensor_specs(config)
        .enumerate()
        .map(|(at, (name, shape))| (rename(&name), shape.clone(), filled(&shape, at as f32)))
        .collect();
    let table = [config.vocab_size, config.hidden_size];
    tensors.extend(extra.iter().map(|(name, value)| (rename(name), table.to_vec(), filled(&table, *value))));
    let views = tensors.iter().map(|(name, shape, data)| {
        let shape = shape.iter().map(|dim| *dim as usize).collect();
        (name.clone(), TensorView::new(Dtype::F32, shape, data).unwrap())
    });
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

fn load(folder: &Path, config: &ModelConfig) -> Result<DecoderWeights, ModelError> {
    let files = CheckpointFiles::open(folder).unwrap();
    DecoderWeights::load(&files, config, Kind::Float, Device::Cpu, &|_, _| ())
}

#[test]
fn a_tied_head_may_be_stored_but_not_differ() {
    let config = tied_qwen2();
    let same = str::to_owned;
    let folder = tempfile::tempdir().unwrap();
    write_filled(folder.path(), &config, &[], same);
    let weights = load(folder.path(), &config).unwrap();
    assert_eq!(weights.head.data_ptr(), weights.embedding.data_ptr());
    let query = weights.blocks[1].linear(LinearKind::Query);
    assert_eq!(query.bias.as_ref().unwrap().size(), [4]);
    assert!(weights.blocks[1].linear(LinearKind::Output).bias.is_none());
    // The embedding is the first tensor, filled with 0.
    write_filled(folder.path(), &config, &[("lm_head.weight", 0.0)], same);
    load(folder.path(), &config).unwrap();
    write_filled(folder.path(), &config, &[("lm_head.weight", 1.0)], same);
    let error = load(folder.path(), &config).unwrap_err();
    assert!(error.to_string().contains("tie_word_embeddings = true"), "{error}");
}

#[test]
fn what_is_missing_is_named_with_a_reason() {
    let check = |config: &ModelConfig, rename: &dyn Fn(&str) -> String, name: &str, reason: &str| {
        let folder = tempfile::tempdir().unwrap();
        write_filled(folder.path(), config, &[], rename);
        let error =
            load(folder.path(), &ModelConfig { tie_word_embeddings: false, ..config.clone() }).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        let help = miette::Diagnostic::help(&error).unwrap().to_string();
        assert!(help.contains(reason), "{help}");
    };
    let config = tied_qwen2();
    let bare = |name: &str| name.strip_prefix("model.").unwrap_or(name).to_owned();
    check(&config, &bare, "'model.embed_tokens.weight'", "calls it 'embed_tokens.weight'");
    check(&config, &str::to_owned, "'lm_head.weight'", "tie_word_embeddings = false");
    let other = |name: &str| name.replace("q_proj.bias", "q_proj.other");
    check(&config, &other, "'model.layers.0.self_attn.q_proj.bias'", "shard may be missing");
}
