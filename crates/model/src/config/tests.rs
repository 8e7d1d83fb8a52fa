#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{LinearKind, linear_modules, tensor_specs};

/// A small config.json of `family`, changed by `edit`.
fn parse(family: Family, edit: impl Fn(&mut Value)) -> Result<ModelConfig, ModelError> {
    let mut value = small(family);
    edit(&mut value);
    ModelConfig::from_json(&value.to_string(), Path::new("config.json"))
}

fn small(family: Family) -> Value {
    json!({
        "architectures": [family.architecture()], "model_type": family.model_type(), "vocab_size": 80,
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2
    })
}

fn remove(value: &mut Value, key: &str) {
    value.as_object_mut().unwrap().remove(key);
}

/// The sizes that the models' authors publish, from the config.json that they publish.
#[test]
fn published_models_have_their_published_sizes() {
    let check = |name: &str, text: &str, family: Family, total: u64, attention: i64| {
        let config = ModelConfig::from_json(text, Path::new(name)).unwrap();
        assert_eq!(config.family, family, "{name}");
        let parameters = config.parameters();
        assert_eq!(parameters.total(), total, "{name}");
        let specs: i64 = tensor_specs(&config).map(|(_, shape)| shape.iter().product::<i64>()).sum();
        assert_eq!(specs as u64, total, "{name}");
        let of_attention: i64 = linear_modules(&config)
            .filter(|module| LinearKind::ALL[..4].contains(&module.kind))
            .map(|module| module.shape.iter().product::<i64>())
            .sum();
        assert_eq!(of_attention, attention, "{name}");
        let modules = linear_modules(&config);
        let (weights, biases) = modules.fold((0, 0), |(weights, biases), module| {
            (weights + module.shape[0] * module.shape[1], biases + module.bias.unwrap_or(0))
        });
        assert_eq!(parameters.blocks * parameters.block.linear, weights as u64, "{name}");
        assert_eq!(parameters.blocks * parameters.block.biases, biases as u64, "{name}");
        config
    };
    let text = include_str!("../../../../configs/shapes/Llama-3.1-8B.json");
    let llama = check("Llama-3.1-8B", text, Family::Llama, 8_030_261_248, 1_342_177_280);
    assert!(matches!(llama.rope_scaling, RopeScaling::Llama3 { original_max_position: 8192.0, .. }));
    let text = include_str!("../../../../configs/shapes/Qwen2.5-0.5B.json");
    let qwen = check("Qwen2.5-0.5B", text, Family::Qwen2, 494_032_768, 44_040_192);
    assert_eq!((qwen.sliding_window, qwen.tie_word_embeddings), (None, true));
    let text = include_str!("../../../../configs/shapes/Qwen2.5-3B.json");
    check("Qwen2.5-3B", text, Family::Qwen2, 3_085_938_688, 339_738_624);
    let text = include_str!("../../../../configs/shapes/Qwen2.5-7B.json");
    let qwen = check("Qwen2.5-7B", text, Family::Qwen2, 7_615_616_512, 822_083_584);
    assert!(!qwen.tie_word_embeddings);
    let text = include_str!("../../../../configs/shapes/gemma-7b.json");
    let gemma = check("gemma-7b", text, Family::Gemma, 8_537_680_896, 1_409_286_144);
    assert_eq!((gemma.activation, gemma.norm), (Activation::GeluTanh, NormWeight::OnePlus));
    assert_eq!((gemma.head_dim, gemma.tie_word_embeddings), (256, true));
    let text = include_str!("../../../../configs/shapes/Mistral-7B-v0.1.json");
    let mistral = check("Mistral-7B-v0.1", text, Family::Mistral, 7_241_732_096, 1_342_177_280);
    assert_eq!((mistral.window(0), mistral.window(31)), (Some(4096), Some(4096)));
}

#[test]
fn missing_keys_mean_what_they_mean_in_transformers() {
    let check =
        |family: Family, kv_heads: i64, head_dim: i64, tied: bool, positions: i64, biases: [bool; 3]| {
            let config = parse(family, |v| {
                remove(v, "num_key_value_heads");
                v["num_attention_heads"] = 64.into();
                v["hidden_size"] = 1024.into();
                // A missing model type is no obstacle.
                remove(v, "model_type");
            })
            .unwrap();
            assert_eq!(config.num_kv_heads, kv_heads, "{family:?}");
            assert_eq!(config.head_dim, head_dim, "{family:?}");
            assert_eq!(config.tie_word_embeddings, tied, "{family:?}");
            assert_eq!(config.max_position_embeddings, positions, "{family:?}");
            assert_eq!([config.qkv_bias, config.output_bias, config.mlp_bias], biases, "{family:?}");
            assert_eq!((config.rms_norm_eps, config.rope_theta), (1e-6, 10_000.0), "{family:?}");
            assert_eq!(config.rope_scaling, RopeScaling::None);
            let scale = (family == Family::Gemma).then_some(32.0);
            assert_eq!(config.embedding_scale, scale, "{family:?}");
            let window = (family == Family::Mistral).then_some(4096);
            assert_eq!(config.window(0), window, "{family:?}");
        };
    let none = [false; 3];
    check(Family::Llama, 64, 16, false, 2048, none);
    check(Family::Qwen2, 32, 16, false, 32_768, [true, false, false]);
    check(Family::Gemma, 16, 256, true, 8192, none);
    check(Family::Mistral, 8, 16, false, 131_072, none);
    let by_type = parse(Family::Qwen2, |v| remove(v, "architectures")).unwrap();
    assert_eq!(by_type.family, Family::Qwen2);
    let null = parse(Family::Mistral, |v| v["num_key_value_heads"] = Value::Null).unwrap();
    assert_eq!(null.num_kv_heads, 4);
    let biased = parse(Family::Gemma, |v| v["attention_bias"] = true.into()).unwrap();
    assert!(biased.qkv_bias && biased.output_bias && !biased.mlp_bias);
}

#[test]
fn windows_are_those_of_transformers() {
    let check = |family: Family, edit: &dyn Fn(&mut Value), expect: [Option<i64>; 3]| {
        let config = parse(family, edit).unwrap();
        assert_eq!([0, 1, 2].map(|block| config.window(block)), expect, "{config:?}");
    };
    let qwen = |v: &mut Value| {
        v["use_sliding_window"] = true.into();
        v["sliding_window"] = 7.into();
    };
    let types = |list: [&str; 3]| json!(list.map(|t| format!("{t}_attention")));
    check(Family::Mistral, &|v| v["sliding_window"] = 7.into(), [Some(7); 3]);
    check(Family::Mistral, &|v| v["sliding_window"] = Value::Null, [None; 3]);
    check(Family::Mistral, &|v| v["layer_types"] = types(["sliding"; 3]), [Some(4096); 3]);
    check(Family::Qwen2, &|v| v["sliding_window"] = 7.into(), [None; 3]);
    check(Family::Qwen2, &qwen, [None; 3]);
    check(
        Family::Qwen2,
        &|v| {
            qwen(v);
            v["max_window_layers"] = 1.into();
        },
        [None, Some(7), Some(7)],
    );
    check(
        Family::Qwen2,
        &|v| {
            qwen(v);
            v["max_window_layers"] = 1.into();
            v["layer_types"] = types(["sliding", "full", "sliding"]);
        },
        [Some(7), None, Some(7)],
    );
    check(Family::Llama, &|v| v["layer_types"] = types(["full"; 3]), [None; 3]);
    // Written by a converter; transformers' Llama does not read it either, and it is switched off.
    let off = |v: &mut Value| {
        v["sliding_window"] = 7.into();
        v["use_sliding_window"] = false.into();
    };
    check(Family::Llama, &off, [None; 3]);
}

#[test]
fn both_spellings_of_llama3_scaling_agree() {
    let scaling = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16, "rope_type": "llama3"});
    let old = parse(Family::Llama, |v| {
        v["rope_scaling"] = scaling.clone();
        v["rope_theta"] = 500000.0.into();
    })
    .unwrap();
    let new = parse(Family::Llama, |v| {
        v["rope_parameters"] = scaling.clone();
        v["rope_parameters"]["rope_theta"] = 500000.0.into();
    })
    .unwrap();
    assert_eq!(old, new);
    assert_eq!(old.rope_theta, 500000.0);
    assert!(matches!(old.rope_scaling, RopeScaling::Llama3 { factor: 8.0, .. }));
    assert_eq!(old.head_dim, 16);
    let linear =
        parse(Family::Mistral, |v| v["rope_scaling"] = json!({"type": "linear", "factor": 2})).unwrap();
    assert_eq!(linear.rope_scaling, RopeScaling::Linear { factor: 2.0 });
}

#[test]
fn bad_settings_are_named() {
    let check = |family: Family, edit: &dyn Fn(&mut Value), expect: &str| {
        let error = parse(family, edit).unwrap_err().to_string();
        assert!(error.contains(expect), "{error} lacks {expect}");
    };
    let set = |key: &'static str, value: Value| move |v: &mut Value| v[key] = value.clone();
    for other in
        ["OPTForCausalLM", "Gemma2ForCausalLM", "Qwen3ForCausalLM", "MixtralForCausalLM", "LlamaModel"]
    {
        check(Family::Llama, &set("architectures", json!([other])), other);
    }
    check(Family::Llama, &set("model_type", json!("mistral")), "model_type = mistral contradicts");
    check(Family::Llama, &|v| remove(v, "vocab_size"), "the key 'vocab_size' is missing");
    for (key, value, expect) in [
        ("num_key_value_heads", json!(3), "num_key_value_heads = 3 does not divide"),
        ("num_attention_heads", json!(0), "num_attention_heads = 0"),
        ("num_attention_heads", json!(6), "num_attention_heads = 6 does not divide hidden_size = 64"),
        ("head_dim", json!(15), "head_dim = 15 is odd"),
        ("head_dim", json!(1 << 22), "times num_attention_heads = 4"),
        ("hidden_size", json!(1i64 << 40), "hidden_size = 1099511627776"),
        ("num_hidden_layers", json!(1i64 << 40), "num_hidden_layers"),
        ("vocab_size", json!("many"), "vocab_size = \"many\" is not a whole number"),
        ("tie_word_embeddings", json!(1), "tie_word_embeddings = 1 is not true or false"),
        ("rms_norm_eps", json!(-1), "rms_norm_eps = -1"),
        ("hidden_act", json!("gelu"), "hidden_act = gelu"),
        ("quantization_config", json!({"bits": 4}), "quantization_config = {\"bits\":4}"),
        ("attention_dropout", json!(0.1), "attention_dropout = 0.1"),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor = 0.5"),
        ("sliding_window", json!(5), "sliding_window = 5 is not a setting of LlamaForCausalLM"),
        ("layer_types", json!(["full_attention"]), "does not have num_hidden_layers = 3"),
        ("layer_types", json!(["a", "b", "c"]), "layer_types = \"a\" (entry 0)"),
        ("layer_types", json!(vec!["sliding_attention"; 3]), "contradicts"),
        ("rope_theta", json!(0), "rope_theta = 0"),
        ("rope_theta", json!(1e300), "rope_theta"),
        ("rope_scaling", json!("big"), "rope_scaling = \"big\" is not a table"),
        ("rope_scaling", json!({"type": "yarn", "factor": 2.0}), "rope_type = yarn"),
        ("rope_scaling", json!({"type": "linear"}), "factor = null"),
        ("rope_scaling", json!({"type": "linear", "factor": 1e-40}), "factor = "),
        ("rope_scaling", json!({"partial_rotary_factor": 0.25}), "partial_rotary_factor = 0.25"),
        ("rope_parameters", json!({"full_attention": {"rope_theta": 1e6}}), "differs between blocks"),
    ] {
        check(Family::Llama, &set(key, value), expect);
    }
    let equal = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
        "original_max_position_embeddings": 16});
    check(Family::Llama, &set("rope_parameters", equal), "high_freq_factor = 4 is not above");
    let both = |v: &mut Value| {
        v["rope_parameters"] = json!({"rope_type": "default"});
        v["rope_scaling"] = json!({"rope_type": "linear", "factor": 2});
    };
    check(Family::Llama, &both, "is not what rope_parameters says");
    check(
        Family::Qwen2,
        &set("attention_bias", json!(true)),
        "attention_bias = true is not a setting of Qwen2",
    );
    check(Family::Mistral, &set("attention_bias", json!(true)), "attention_bias = true");
    check(Family::Gemma, &set("mlp_bias", json!(true)), "mlp_bias = true");
    check(
        Family::Gemma,
        &set("use_bidirectional_attention", json!(true)),
        "use_bidirectional_attention = true",
    );
    check(Family::Gemma, &set("hidden_act", json!("silu")), "hidden_act = silu");
    check(Family::Gemma, &set("hidden_activation", json!("relu")), "hidden_activation = relu");
    check(Family::Mistral, &set("sliding_window", json!(0)), "sliding_window = 0");
    check(Family::Mistral, &set("layer_types", json!(vec!["full_attention"; 3])), "contradicts");
    let without_window = |v: &mut Value| {
        v["use_sliding_window"] = true.into();
        v["sliding_window"] = Value::Null;
        v["layer_types"] = json!(vec!["sliding_attention"; 3]);
    };
    check(Family::Qwen2, &without_window, "layer_types");
}

#[test]
fn the_list_of_supported_architectures_is_complete() {
    let error = parse(Family::Llama, |v| v["architectures"] = json!(["Qwen3ForCausalLM"])).unwrap_err();
    let help = miette::Diagnostic::help(&error).unwrap().to_string();
    for family in Family::ALL {
        assert!(help.contains(family.architecture()), "{help}");
    }
}

/// A value in an error is shown as far as it serves to recognise it.
#[test]
fn long_values_are_shortened() {
    let long = "é".repeat(100_000);
    let error = parse(Family::Llama, |v| v["hidden_act"] = long.clone().into()).unwrap_err();
    assert!(error.to_string().len() < 500);
}

const KEYS: [&str; 27] = [
    "architectures",
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "tie_word_embeddings",
    "attention_bias",
    "attention_dropout",
    "mlp_bias",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "max_position_embeddings",
    "partial_rotary_factor",
    "use_bidirectional_attention",
    "quantization_config",
];

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec![-1i64, 0, 1, 2, 3, 4, 64, 1 << 13, 1 << 23, 1 << 24, i64::MAX])
            .prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec!["sliding_attention", "full_attention", "llama3", "linear", "gelu", ""])
            .prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        let keys = vec!["rope_type", "type", "factor", "rope_theta", "low_freq_factor", "high_freq_factor"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(prop::sample::select(keys), inner, 0..6)
                .prop_map(|map| map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

/// Everything that may be asked of a configuration that was accepted.
fn use_config(config: &ModelConfig) {
    let parameters = config.parameters();
    let blocks = config.num_layers as u64;
    assert_eq!(parameters.total() - blocks * parameters.block.total(), {
        parameters.embedding + parameters.head + parameters.final_norm
    });
    assert!(config.window(0).is_none_or(|window| window > 0));
    assert!(config.window(usize::MAX).is_none_or(|window| window > 0));
    let products = tensor_specs(config).take(100).map(|(_, shape)| shape.iter().product::<i64>());
    assert!(products.sum::<i64>() > 0);
    assert_eq!(linear_modules(config).take(7).count(), 7);
}

proptest! {
    #[test]
    fn no_settings_break_the_reader(
        family in prop::sample::select(Family::ALL.to_vec()),
        edits in prop::collection::vec((prop::sample::select(KEYS.to_vec()), any_value()), 0..6),
    ) {
        let parsed = parse(family, |v| edits.iter().for_each(|(key, value)| v[*key] = value.clone()));
        if let Ok(config) = parsed {
            use_config(&config);
        }
    }

    #[test]
    fn no_text_breaks_the_reader(text in ".*", at in any::<prop::sample::Index>()) {
        let _ = ModelConfig::from_json(&text, Path::new("config.json"));
        let mut sound = small(Family::Qwen2).to_string();
        let at = at.index(sound.len());
        if sound.is_char_boundary(at) {
            sound.insert_str(at, &text);
        }
        let _ = ModelConfig::from_json(&sound, Path::new("config.json"));
    }
}
