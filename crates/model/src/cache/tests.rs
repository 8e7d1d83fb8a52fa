#![allow(clippy::unwrap_used)]

use std::path::Path;

use tch::Device;

use super::*;
use crate::{BlockWeights, ModelConfig};

/// A small model of random weights.
fn random_model(edit: impl Fn(&mut serde_json::Value), kind: Kind) -> (Decoder, DecoderWeights) {
    let mut value = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048
    });
    edit(&mut value);
    let config = ModelConfig::from_json(&value.to_string(), Path::new("config.json")).unwrap();
    tch::manual_seed(7);
    let random = |shape: &[i64]| (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.2).to_kind(kind);
    let blocks = (0..config.num_layers as usize).map(|block| {
        let tensors = crate::block_specs(&config, block).iter().map(|(_, shape)| random(shape)).collect();
        BlockWeights::from_tensors(&config, tensors)
    });
    let blocks = blocks.collect();
    let embedding = random(&[config.vocab_size, config.hidden_size]);
    let head = embedding.shallow_clone();
    let weights = DecoderWeights { embedding, blocks, norm: random(&[config.hidden_size]), head };
    (Decoder::new(config, kind, Device::Cpu), weights)
}

fn prompt(seed: i64, length: usize) -> Vec<i64> {
    (0..length as i64).map(|i| (i * i * 31 + seed * 17 + 5) % 97).collect()
}

/// The hidden states, after the norm, of every position of a row that is computed as a whole.
fn whole(model: &Decoder, weights: &DecoderWeights, row: &[i64]) -> Tensor {
    let context = model.context(&vec![1; row.len()], 1, row.len());
    let hidden = model.hidden_states(weights, &Tensor::from_slice(row).unsqueeze(0), &context);
    model.final_norm(&weights.norm, &hidden)
}

/// Token by token over a cache gives what the whole row gives, in every family and over the growth of the cache.
#[test]
fn the_cache_gives_what_the_whole_row_gives() {
    let check = |edit: &dyn Fn(&mut serde_json::Value), start: usize, end: usize| {
        let (model, weights) = random_model(edit, Kind::Float);
        let row = prompt(1, end);
        let expected = whole(&model, &weights, &row);
        let (mut cache, first) = model.prefill(&weights, &row[..start]);
        let mut found = vec![first];
        for token in &row[start..] {
            found.push(
                model.decode(&weights, &[*token], &mut [&mut cache], &LibtorchProducts).narrow(0, 0, 1),
            );
        }
        assert_eq!(cache.len(), end);
        let found = Tensor::cat(&found, 1);
        let expected = expected.narrow(1, start as i64 - 1, (end - start) as i64 + 1);
        let difference = (found - expected).abs().max().double_value(&[]);
        assert!(difference < 1e-4, "{difference} from {start} to {end}");
    };
    check(&|_| (), 1, 12);
    check(&|_| (), 254, 262);
    let qwen = |v: &mut serde_json::Value| v["architectures"] = serde_json::json!(["Qwen2ForCausalLM"]);
    check(&qwen, 5, 12);
    let gemma = |v: &mut serde_json::Value| {
        v["architectures"] = serde_json::json!(["GemmaForCausalLM"]);
        v["head_dim"] = 12.into();
    };
    check(&gemma, 5, 12);
    let mistral = |v: &mut serde_json::Value| {
        v["architectures"] = serde_json::json!(["MistralForCausalLM"]);
        v["sliding_window"] = 4.into();
    };
    check(&mistral, 2, 12);
    check(&mistral, 9, 16);
}

/// Every bit of a row is the same alone and among others, whatever their number and their lengths.
#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    for kind in [Kind::Float, Kind::BFloat16] {
        // Shapes with and without a rest over the widths of kernels.
        for hidden in [48, 64, 200] {
            let shape = |v: &mut serde_json::Value| {
                v["hidden_size"] = hidden.into();
                v["intermediate_size"] = (hidden * 3 - 4).into();
            };
            let (model, weights) = random_model(shape, kind);
            let prompts: Vec<Vec<i64>> = (0..13).map(|row| prompt(row, 3 + 5 * row as usize)).collect();
            let states = |rows: &[Vec<i64>]| -> Vec<Tensor> {
                let mut caches: Vec<RowCache> =
                    rows.iter().map(|row| model.prefill(&weights, row).0).collect();
                let mut refs: Vec<&mut RowCache> = caches.iter_mut().collect();
                let tokens: Vec<i64> = rows.iter().map(|row| row[0]).collect();
                let one = model.decode(&weights, &tokens, &mut refs, &LibtorchProducts);
                let two = model.decode(&weights, &tokens, &mut refs, &LibtorchProducts);
                let both = Tensor::cat(&[one, two], 1);
                (0..rows.len()).map(|row| both.narrow(0, row as i64, 1)).collect()
            };
            let alone: Vec<Tensor> =
                prompts.iter().map(|row| states(std::slice::from_ref(row)).remove(0)).collect();
            for count in [2, 3, 4, 5, 7, 8, 9, 13] {
                for (row, found) in states(&prompts[..count]).iter().enumerate() {
                    assert!(*found == alone[row], "{kind:?}, hidden {hidden}: row {row} of {count}");
                }
            }
        }
    }
}
