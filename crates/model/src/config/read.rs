//! From the keys of a config.json to a checked configuration.

use serde_json::Value;

use super::family::Rules;
use super::keys::Keys;
use super::{Activation, Family, ModelConfig, SlidingWindow, WindowedBlocks, rope};
use crate::ModelError;

/// Above these a number is a mistake; below them no product or sum over a model's tensors leaves an i64:
/// 7 tensors × 2^46 elements × 2^13 blocks < 2^62.
const LARGEST_DIM: i64 = 1 << 23;
const MOST_BLOCKS: i64 = 1 << 13;

pub(super) fn read(keys: &Keys<'_>) -> Result<ModelConfig, ModelError> {
    let family = Family::read(keys)?;
    let rules = family.rules();
    refuse_unimplemented(keys, family, &rules)?;
    let hidden_size = keys.required_integer("hidden_size")?;
    let num_heads = keys.required_integer("num_attention_heads")?;
    let num_layers = keys.required_integer("num_hidden_layers")?;
    let attention_bias = keys.flag("attention_bias")?.unwrap_or(false);
    let (rope_theta, rope_scaling) = rope::read(keys)?;
    let config = ModelConfig {
        family,
        vocab_size: keys.required_integer("vocab_size")?,
        hidden_size,
        intermediate_size: keys.required_integer("intermediate_size")?,
        num_layers,
        num_heads,
        num_kv_heads: num_kv_heads(keys, &rules, num_heads)?,
        head_dim: head_dim(keys, &rules, hidden_size, num_heads)?,
        activation: activation(keys, &rules)?,
        norm: rules.norm,
        rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6),
        embedding_scale: rules.scaled_embedding.then(|| (hidden_size as f64).sqrt()),
        rope_theta,
        rope_scaling,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(rules.tie_word_embeddings),
        qkv_bias: rules.qkv_bias || attention_bias,
        output_bias: attention_bias,
        mlp_bias: keys.flag("mlp_bias")?.unwrap_or(false),
        sliding_window: sliding_window(keys, family, num_layers)?,
        max_position_embeddings: keys
            .integer("max_position_embeddings")?
            .unwrap_or(rules.max_position_embeddings),
    };
    check(&config, keys)?;
    Ok(config)
}

/// Settings that would change the math and are not implemented.
fn refuse_unimplemented(keys: &Keys<'_>, family: Family, rules: &Rules) -> Result<(), ModelError> {
    if let Some(value) = keys.get("quantization_config") {
        let hint = "quantised bases are not supported; take the checkpoint that was not quantised";
        return Err(keys.unsupported("quantization_config", value, "is not implemented", hint));
    }
    if keys.flag("use_bidirectional_attention")? == Some(true) {
        let hint = "only causal models are trained";
        return Err(keys.unsupported("use_bidirectional_attention", true, "is not implemented", hint));
    }
    if let Some(rate) = keys.number("attention_dropout")?.filter(|rate| *rate != 0.0) {
        let hint = "set it to 0 in config.json to train without dropout on attention";
        return Err(keys.unsupported("attention_dropout", rate, "is not implemented", hint));
    }
    for (key, known) in
        [("attention_bias", rules.may_have_attention_bias), ("mlp_bias", rules.may_have_mlp_bias)]
    {
        if keys.flag(key)? == Some(true) && !known {
            let problem = format!("is not a setting of {}", family.architecture());
            return Err(keys.unsupported(key, true, &problem, "mend config.json"));
        }
    }
    Ok(())
}

/// Missing: the family's default. Null: as many as heads.
fn num_kv_heads(keys: &Keys<'_>, rules: &Rules, num_heads: i64) -> Result<i64, ModelError> {
    if keys.is_null("num_key_value_heads") {
        return Ok(num_heads);
    }
    Ok(keys.integer("num_key_value_heads")?.or(rules.num_kv_heads).unwrap_or(num_heads))
}

fn head_dim(keys: &Keys<'_>, rules: &Rules, hidden_size: i64, num_heads: i64) -> Result<i64, ModelError> {
    if let Some(dim) = keys.integer("head_dim")?.or(rules.head_dim) {
        return Ok(dim);
    }
    match hidden_size.checked_rem(num_heads) {
        Some(0) => Ok(hidden_size / num_heads),
        _ => {
            let problem = format!("does not divide hidden_size = {hidden_size}, and there is no head_dim");
            Err(keys.unsupported("num_attention_heads", num_heads, &problem, "mend config.json"))
        }
    }
}

/// The first Gemma files say `gelu` where the models were trained with its tanh approximation; later ones say so in
/// `hidden_activation` or `hidden_act`.
fn activation(keys: &Keys<'_>, rules: &Rules) -> Result<Activation, ModelError> {
    let known: &[&str] = match rules.activation {
        Activation::Silu => &["silu", "swish"],
        Activation::GeluTanh => &["gelu_pytorch_tanh", "gelu"],
    };
    for key in ["hidden_act", "hidden_activation"] {
        if let Some(name) = keys.text(key)?.filter(|name| !known.contains(name)) {
            let hint = format!("the family uses {}", known[0]);
            return Err(keys.unsupported(key, name, "is not the family's activation", &hint));
        }
    }
    Ok(rules.activation)
}

/// Window and windowed blocks. Qwen2 has both only when `use_sliding_window` says so; Mistral has a window over all
/// blocks unless `sliding_window` is null; the others have none.
fn sliding_window(
    keys: &Keys<'_>,
    family: Family,
    num_layers: i64,
) -> Result<Option<SlidingWindow>, ModelError> {
    /// What Qwen2 and Mistral take where the key is missing.
    const DEFAULT_TOKENS: i64 = 4096;
    /// Blocks below this one are not windowed in Qwen2, where neither `max_window_layers` nor `layer_types` is.
    const DEFAULT_FIRST_BLOCK: i64 = 28;
    let stated = keys.integer("sliding_window")?;
    let switch = keys.flag("use_sliding_window")?;
    let tokens = match keys.is_null("sliding_window") {
        true => None,
        false => stated.or(Some(DEFAULT_TOKENS)),
    };
    let window = match family {
        Family::Llama | Family::Gemma => {
            if let Some(tokens) = stated.filter(|_| switch != Some(false)) {
                let problem = format!("is not a setting of {}", family.architecture());
                return Err(keys.unsupported("sliding_window", tokens, &problem, "mend config.json"));
            }
            None
        }
        Family::Mistral => tokens.map(|tokens| (tokens, 0)),
        Family::Qwen2 => {
            let first = keys.integer("max_window_layers")?.unwrap_or(DEFAULT_FIRST_BLOCK);
            tokens.filter(|_| switch == Some(true)).map(|tokens| (tokens, first.max(0)))
        }
    };
    if let Some((tokens, _)) = window.filter(|(tokens, _)| *tokens < 1) {
        let hint = "it is the number of tokens that a position sees, itself included";
        return Err(keys.unsupported("sliding_window", tokens, "is not a possible window", hint));
    }
    let window = window.map(|(tokens, first)| SlidingWindow {
        tokens,
        blocks: WindowedBlocks::From(usize::try_from(first).unwrap_or(usize::MAX)),
    });
    match keys.list("layer_types")? {
        None => Ok(window),
        Some(types) => with_layer_types(keys, types, window, family, num_layers),
    }
}

/// `layer_types` decides in Qwen2; elsewhere it may only repeat what holds anyway.
fn with_layer_types(
    keys: &Keys<'_>,
    types: &[Value],
    window: Option<SlidingWindow>,
    family: Family,
    num_layers: i64,
) -> Result<Option<SlidingWindow>, ModelError> {
    let refuse =
        |value: String, problem: &str, hint: &str| Err(keys.unsupported("layer_types", value, problem, hint));
    if i64::try_from(types.len()) != Ok(num_layers) {
        let problem = format!("does not have num_hidden_layers = {num_layers} entries");
        return refuse(format!("(a list of {})", types.len()), &problem, "mend config.json");
    }
    let mut windowed = Vec::with_capacity(types.len());
    for (block, value) in types.iter().enumerate() {
        let here = match value.as_str() {
            Some("full_attention") => false,
            Some("sliding_attention") => true,
            _ => {
                let hint = "full_attention and sliding_attention are implemented";
                return refuse(value.to_string(), &format!("(entry {block}) is not implemented"), hint);
            }
        };
        let decides = family == Family::Qwen2 && window.is_some();
        if !decides && here != window.as_ref().is_some_and(|window| window.covers(block)) {
            let problem = format!("(entry {block}) contradicts the other settings of its sliding window");
            let hint = "see sliding_window and, in Qwen2, use_sliding_window";
            return refuse(value.to_string(), &problem, hint);
        }
        windowed.push(here);
    }
    let blocks = WindowedBlocks::Listed(windowed);
    Ok(window.map(|window| SlidingWindow { blocks, ..window }))
}

fn check(config: &ModelConfig, keys: &Keys<'_>) -> Result<(), ModelError> {
    for (key, value, most) in [
        ("vocab_size", config.vocab_size, LARGEST_DIM),
        ("hidden_size", config.hidden_size, LARGEST_DIM),
        ("intermediate_size", config.intermediate_size, LARGEST_DIM),
        ("num_hidden_layers", config.num_layers, MOST_BLOCKS),
        ("num_attention_heads", config.num_heads, LARGEST_DIM),
        ("num_key_value_heads", config.num_kv_heads, LARGEST_DIM),
        ("head_dim", config.head_dim, LARGEST_DIM),
        ("max_position_embeddings", config.max_position_embeddings, i64::MAX),
    ] {
        if !(1..=most).contains(&value) {
            let hint = format!("it must be at least 1 and at most {most}");
            return Err(keys.unsupported(key, value, "is not a possible size", &hint));
        }
    }
    if config.num_heads % config.num_kv_heads != 0 {
        let problem = format!("does not divide num_attention_heads = {}", config.num_heads);
        let hint = "where the key is missing, the family's default is taken; mend config.json";
        return Err(keys.unsupported("num_key_value_heads", config.num_kv_heads, &problem, hint));
    }
    if config.head_dim % 2 != 0 {
        let hint = "rotary embedding turns pairs of dims";
        return Err(keys.unsupported("head_dim", config.head_dim, "is odd", hint));
    }
    if config.num_heads * config.head_dim > LARGEST_DIM {
        let problem = format!("times num_attention_heads = {} is not a possible size", config.num_heads);
        let hint = format!("the product must be at most {LARGEST_DIM}");
        return Err(keys.unsupported("head_dim", config.head_dim, &problem, &hint));
    }
    if !(config.rms_norm_eps.is_finite() && config.rms_norm_eps >= 0.0) {
        let eps = config.rms_norm_eps;
        return Err(keys.unsupported("rms_norm_eps", eps, "is not usable", "mend config.json"));
    }
    Ok(())
}
