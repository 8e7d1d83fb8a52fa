//! Model folders that are incomplete, damaged, of another kind, or that lie.

use serde_json::{Value, json};

use crate::harness::{
    Case, DemoModel, Ranks, check_bad, check_message, check_on_ranks, edit_json, limited, scratch,
    training_args,
};

/// A case made of a copy of the demo model and what spoils it.
macro_rules! spoilt {
    ($name:expr, $model:ident => $spoil:expr, $($says:expr),+) => {
        Case {
            name: $name,
            setup: |folder| {
                let $model = DemoModel::copy_to(folder);
                $spoil;
                $model.flag()
            },
            says: &[$($says),+],
        }
    };
}

const NORM: &str = "model.norm.weight";
const K_PROJ: &str = "model.layers.1.self_attn.k_proj.weight";

/// Ends of two tensors, so that one can be laid over the other.
fn overlap(header: &mut Value) {
    let (first, second) =
        ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight");
    header[second]["data_offsets"] = header[first]["data_offsets"].clone();
}

fn rename(header: &mut Value, name: &str) {
    let entry = header.as_object_mut().unwrap().remove(name).unwrap();
    header["something.else"] = entry;
}

fn extra_token(tokenizer: &mut Value) {
    tokenizer["added_tokens"].as_array_mut().unwrap().push(json!({"id": 4000, "content": "<far>",
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}));
    // A token of the vocabulary proper too, since added tokens may be numbered anew.
    tokenizer["model"]["vocab"]["far"] = json!(4000);
}

const EVERYWHERE: [Case; 7] = [
    Case {
        name: "no such folder",
        setup: |folder| vec!["--model".to_owned(), folder.join("nothing").display().to_string()],
        says: &["nothing", "config.json"],
    },
    spoilt!("weights cut in half", model => model.edit_bytes(|b| b.truncate(b.len() / 2)),
        "model.safetensors", "not a sound safetensors file"),
    spoilt!("header longer than the file",
        model => model.edit_bytes(|b| { let n = b.len() as u64; b[..8].copy_from_slice(&n.to_le_bytes()) }),
        "model.safetensors", "not a sound safetensors file"),
    spoilt!("overlapping tensors", model => model.edit_header(overlap), "model.safetensors"),
    spoilt!("another architecture",
        model => edit_json(&model.file("config.json"), |c| c["architectures"] = json!(["OPTForCausalLM"])),
        "OPTForCausalLM", "config.json"),
    spoilt!("no tokenizer", model => std::fs::remove_file(model.file("tokenizer.json")).unwrap(),
        "tokenizer.json"),
    spoilt!("a tokenizer larger than the vocabulary",
        model => edit_json(&model.file("tokenizer.json"), extra_token), "4000", "vocab_size is 1024"),
];

const WEIGHTS: [Case; 16] = [
    spoilt!("no weights", model => std::fs::remove_file(model.weights()).unwrap(), "model.safetensors"),
    spoilt!("pickled weights", model => std::fs::rename(model.weights(), model.file("pytorch_model.bin")).unwrap(),
        "model.safetensors", "pytorch_model.bin"),
    spoilt!("weights a byte short", model => model.edit_bytes(|b| { b.pop(); }), "not a sound"),
    spoilt!("weights a byte long", model => model.edit_bytes(|b| b.push(0)), "not a sound"),
    spoilt!("empty weights", model => model.edit_bytes(Vec::clear), "model.safetensors"),
    spoilt!("four bytes of weights", model => model.edit_bytes(|b| b.truncate(4)), "model.safetensors"),
    spoilt!("a header of 2^63 bytes", model => model.edit_bytes(|b| b[7] = 0x80), "not a sound"),
    spoilt!("a header of 2^64 - 1 bytes", model => model.edit_bytes(|b| b[..8].fill(0xff)), "not a sound"),
    spoilt!("a header that is no JSON", model => model.edit_bytes(|b| b[8..40].fill(b'x')), "not a sound"),
    spoilt!("a header that is no text", model => model.edit_bytes(|b| b[8..40].fill(0xff)), "not a sound"),
    spoilt!("a gap between tensors", model => model.edit_header(|h| {
        let end = h[NORM]["data_offsets"][1].as_u64().unwrap();
        h[NORM]["data_offsets"][1] = json!(end - 2);
        h[NORM]["shape"][0] = json!(191);
    }), "model.safetensors"),
    spoilt!("offsets beyond the file",
        model => model.edit_header(|h| h[NORM]["data_offsets"] = json!([1u64 << 60, (1u64 << 60) + 384])),
        "model.safetensors"),
    spoilt!("offsets that run backwards", model => model.edit_header(|h| h[NORM]["data_offsets"] = json!([384, 0])),
        "model.safetensors"),
    spoilt!("a dtype that is no float", model => model.edit_header(|h| h[NORM]["dtype"] = json!("I16")),
        NORM, "I16"),
    spoilt!("an unknown dtype", model => model.edit_header(|h| h[NORM]["dtype"] = json!("Q4")),
        "model.safetensors"),
    spoilt!("a tensor under another name", model => model.edit_header(|h| rename(h, K_PROJ)), K_PROJ),
];

const SHAPES: [Case; 6] = [
    spoilt!("a transposed shape", model => model.edit_header(|h| h[K_PROJ]["shape"] = json!([192, 64])),
        K_PROJ, "[192, 64]", "[64, 192]"),
    spoilt!("a flat shape", model => model.edit_header(|h| h[K_PROJ]["shape"] = json!([12288])), K_PROJ),
    spoilt!("a shape that overflows",
        model => model.edit_header(|h| h[K_PROJ]["shape"] = json!([1u64 << 63, 1u64 << 63])), "not a sound"),
    spoilt!("a shape that wraps around to its size",
        model => model.edit_header(|h| h[K_PROJ]["shape"] = json!([12288, (1u64 << 52) + 1])),
        "model.safetensors"),
    spoilt!("a configuration of another size",
        model => edit_json(&model.file("config.json"), |c| c["intermediate_size"] = json!(511)),
        "511", "512"),
    spoilt!("more blocks than there are",
        model => edit_json(&model.file("config.json"), |c| c["num_hidden_layers"] = json!(5)),
        "model.layers.4"),
];

const CONFIGURATION: [Case; 11] = [
    spoilt!("no config.json", model => std::fs::remove_file(model.file("config.json")).unwrap(), "config.json"),
    spoilt!("config.json cut", model => {
        let text = std::fs::read(model.file("config.json")).unwrap();
        std::fs::write(model.file("config.json"), &text[..100]).unwrap();
    }, "config.json"),
    spoilt!("config.json is a list", model => std::fs::write(model.file("config.json"), "[1]").unwrap(),
        "config.json"),
    spoilt!("no architecture", model => edit_json(&model.file("config.json"), |c| {
        c.as_object_mut().unwrap().remove("architectures");
        c.as_object_mut().unwrap().remove("model_type");
    }), "config.json"),
    spoilt!("no heads", model => edit_json(&model.file("config.json"), |c| c["num_attention_heads"] = json!(0)),
        "num_attention_heads = 0"),
    spoilt!("heads that do not divide",
        model => edit_json(&model.file("config.json"), |c| c["num_key_value_heads"] = json!(4)),
        "num_key_value_heads = 4"),
    spoilt!("a negative size", model => edit_json(&model.file("config.json"), |c| c["hidden_size"] = json!(-192)),
        "hidden_size = -192"),
    spoilt!("a text for a size", model => edit_json(&model.file("config.json"), |c| c["vocab_size"] = json!("big")),
        "config.json"),
    spoilt!("another rope", model => edit_json(&model.file("config.json"), |c| {
        c["rope_parameters"] = json!({"rope_type": "yarn", "factor": 4.0});
    }), "yarn"),
    spoilt!("a zero rope base", model => edit_json(&model.file("config.json"), |c| {
        c["rope_parameters"]["rope_theta"] = json!(0);
    }), "rope_theta"),
    spoilt!("another activation",
        model => edit_json(&model.file("config.json"), |c| c["hidden_act"] = json!("relu")), "relu"),
];

const TOKENIZER: [Case; 6] = [
    spoilt!("no special tokens' file",
        model => std::fs::remove_file(model.file("tokenizer_config.json")).unwrap(), "tokenizer_config.json"),
    spoilt!("half a tokenizer", model => {
        let bytes = std::fs::read(model.file("tokenizer.json")).unwrap();
        std::fs::write(model.file("tokenizer.json"), &bytes[..bytes.len() / 2]).unwrap();
    }, "tokenizer.json"),
    spoilt!("an empty tokenizer", model => std::fs::write(model.file("tokenizer.json"), "{}").unwrap(),
        "tokenizer.json"),
    spoilt!("a tokenizer of another kind",
        model => edit_json(&model.file("tokenizer.json"), |t| t["model"]["type"] = json!("Oracle")),
        "tokenizer.json"),
    spoilt!("a special token that does not exist",
        model => edit_json(&model.file("tokenizer_config.json"), |t| t["eos_token"] = json!("<gone>")),
        "<gone>", "eos"),
    spoilt!("a special token that is a number",
        model => edit_json(&model.file("tokenizer_config.json"), |t| t["bos_token"] = json!(7)), "bos_token"),
];

/// An index of shards and what its map says.
fn index(model: &DemoModel, map: &Value) {
    std::fs::rename(model.weights(), model.file("part-1.safetensors")).unwrap();
    let text = json!({"weight_map": map}).to_string();
    std::fs::write(model.file("model.safetensors.index.json"), text).unwrap();
}

const SHARDS: [Case; 5] = [
    spoilt!("a shard that is missing", model => index(&model, &json!({NORM: "part-2.safetensors"})),
        "part-2.safetensors"),
    spoilt!("a shard outside the folder", model => index(&model, &json!({NORM: "../part-1.safetensors"})),
        "../part-1.safetensors"),
    spoilt!("a shard that lacks what the index says", model => index(&model, &json!({"nope": "part-1.safetensors"})),
        "nope"),
    spoilt!("an index that is cut", model => {
        index(&model, &json!({}));
        std::fs::write(model.file("model.safetensors.index.json"), "{\"weight_map\": {").unwrap();
    }, "index.json"),
    spoilt!("an index of nothing", model => index(&model, &json!({})), "model.embed_tokens.weight"),
];

#[test]
fn on_every_number_of_ranks() {
    check_on_ranks(&EVERYWHERE);
}

#[test]
fn weights() {
    WEIGHTS.iter().for_each(|case| check_bad(Ranks::Alone, case));
}

#[test]
fn shapes() {
    SHAPES.iter().for_each(|case| check_bad(Ranks::Alone, case));
}

#[test]
fn configuration() {
    CONFIGURATION.iter().for_each(|case| check_bad(Ranks::Alone, case));
}

#[test]
fn tokenizer() {
    TOKENIZER.iter().for_each(|case| check_bad(Ranks::Alone, case));
}

#[test]
fn shards() {
    SHARDS.iter().for_each(|case| check_bad(Ranks::Alone, case));
}

/// A configuration of many more blocks than the files have must not be spelt out before it is compared with them.
#[test]
fn far_more_blocks_than_there_are() {
    let folder = scratch();
    let model = DemoModel::copy_to(folder.path());
    edit_json(&model.file("config.json"), |c| c["num_hidden_layers"] = json!(8_000));
    let mut args = training_args(&folder.path().join("out"), &[]);
    args.extend(model.flag().into_iter().map(Into::into));
    check_message("8,000 blocks", &limited(&args), 2, &["model.layers.4"]);
    let path = model.folder.to_str().unwrap();
    check_message("8,000 blocks", &limited(&["inspect", "model", path]), 2, &["model.layers.4"]);
}
