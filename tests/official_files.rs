//! `inspect` on files of the official code: partitions of torch's stream, models of every family.

use serde_json::Value;

use crate::harness::{alone, read_json, repository};

fn json(args: &[&str]) -> Value {
    let outcome = alone(args).expect_code(0);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {}", outcome.stdout))
}

/// Key for key what torch computed, the hashes of all ids, sizes and scales among them.
#[test]
fn materialized_partitions() {
    let cases = read_json(&repository().join("tests/golden/partition/cases.json"));
    let cases = cases["materialized"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let layers = case["layers"].as_array().unwrap();
        let layers: Vec<String> = layers.iter().map(|layer| layer["numel"].to_string()).collect();
        let (seed, d, layers) = (case["seed"].to_string(), case["d"].to_string(), layers.join(","));
        let args = ["inspect", "partition", "--backend", "materialized", "--seed", &seed, "--d", &d];
        let found = json(&[&args[..], &["--layers", &layers]].concat());
        for (key, expected) in case.as_object().unwrap() {
            assert_eq!(&found[key], expected, "{key} of seed {seed}, d {d}, layers {layers}");
        }
        assert_eq!(found.as_object().unwrap().len(), case.as_object().unwrap().len(), "{found}");
    }
}

#[test]
fn materialized_partitions_that_cannot_be() {
    let partition = |flags: &[&str]| {
        let outcome = alone(&[&["inspect", "partition", "--backend", "materialized"], flags].concat());
        assert_eq!(outcome.code, Some(2), "{flags:?}: {}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.stdout.is_empty() && !outcome.stderr.contains("panicked"), "{}", outcome.stderr);
        outcome
    };
    partition(&["--d", "10"]).expect_text("--layers");
    partition(&["--d", "0", "--layers", "5,5"]).expect_text("d is 0");
    partition(&["--d", "10", "--layers", "5,x"]).expect_text("x");
    partition(&["--d", "10", "--layers", "5", "--numel", "5"]).expect_text("--numel");
    partition(&["--d", "10", "--layers", "18446744073709551615,18446744073709551615"]);
}

/// Shapes of every family's model, against its own config.json and its weights.
#[test]
fn models_of_every_family() {
    let families = [
        ("models/llama", "LlamaForCausalLM", false),
        ("models/llama-tied", "LlamaForCausalLM", true),
        ("models/qwen2", "Qwen2ForCausalLM", true),
        ("models/gemma", "GemmaForCausalLM", true),
        ("models/mistral", "MistralForCausalLM", false),
        ("architectures/llama31", "LlamaForCausalLM", false),
        ("architectures/qwen2", "Qwen2ForCausalLM", true),
        ("architectures/gemma", "GemmaForCausalLM", true),
        ("architectures/mistral", "MistralForCausalLM", false),
    ];
    for (name, architecture, tied) in families {
        let base = repository().join("tests/golden").join(name).join("base");
        let found = json(&["inspect", "model", base.to_str().unwrap(), "--json"]);
        let config = read_json(&base.join("config.json"));
        assert_eq!(found["architecture"], architecture, "{name}");
        assert_eq!(config["architectures"][0], architecture, "{name}");
        for (ours, theirs) in [
            ("vocab_size", "vocab_size"),
            ("hidden_size", "hidden_size"),
            ("intermediate_size", "intermediate_size"),
            ("layers", "num_hidden_layers"),
            ("attention_heads", "num_attention_heads"),
            ("key_value_heads", "num_key_value_heads"),
        ] {
            assert_eq!(found[ours], config[theirs], "{ours} of {name}");
        }
        let is_tied =
            config.get("tie_word_embeddings").map_or(architecture.starts_with("Gemma"), |v| v == true);
        assert_eq!(found["tied_embeddings"], is_tied, "{name}");
        assert_eq!(tied, is_tied, "{name}: the golden model is another than this test thinks");
        let bytes = std::fs::read(base.join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let numbers: usize = tensors.iter().map(|(_, view)| view.shape().iter().product::<usize>()).sum();
        assert_eq!(
            (&found["tensors"], &found["parameters"]),
            (&tensors.len().into(), &numbers.into()),
            "{name}"
        );
    }
}
