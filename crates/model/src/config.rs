//! `config.json` of a Llama checkpoint: the two spellings of rotary settings, and every check that spares a panic later.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::ModelError;

/// Shape and constants of a Llama.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// `V`, rows of the embedding.
    pub vocab_size: i64,
    /// `H`.
    pub hidden_size: i64,
    /// `I`.
    pub intermediate_size: i64,
    /// Number of transformer blocks.
    pub num_layers: i64,
    /// `A`.
    pub num_heads: i64,
    /// `K`; divides `A`.
    pub num_kv_heads: i64,
    /// `D`; even.
    pub head_dim: i64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// The head is the transposed embedding.
    pub tie_word_embeddings: bool,
    /// The four attention projections carry biases.
    pub attention_bias: bool,
    /// The three MLP projections carry biases.
    pub mlp_bias: bool,
    /// Longest row the model was made for.
    pub max_position_embeddings: i64,
}

/// Stretching of rotary frequencies for rows longer than those of pre-training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Plain rotary embedding.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3: long wavelengths divided by `factor`, short ones kept, a linear blend between
    /// (Llama 3.1's published rule).
    Llama3 {
        /// The divisor of the long wavelengths.
        factor: f64,
        /// Wavelengths above `original_max_position / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Row length of pre-training, tokens.
        original_max_position: f64,
    },
}

/// The part of config.json that is read. Unknown keys are the model author's business.
#[derive(Deserialize)]
struct Raw {
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    #[serde(default)]
    num_key_value_heads: Option<i64>,
    #[serde(default)]
    head_dim: Option<i64>,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    #[serde(default)]
    rope_theta: Option<f64>,
    #[serde(default)]
    rope_scaling: Option<Value>,
    #[serde(default)]
    rope_parameters: Option<Value>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "default_act")]
    hidden_act: String,
    #[serde(default = "default_positions")]
    max_position_embeddings: i64,
}

fn default_eps() -> f64 {
    1e-6
}
fn default_act() -> String {
    "silu".to_owned()
}
fn default_positions() -> i64 {
    2048
}

impl ModelConfig {
    /// Reads and checks `folder/config.json`.
    ///
    /// # Errors
    /// A missing or garbled file, another architecture, or settings that contradict each other.
    pub fn from_folder(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|source| ModelError::Unreadable {
            what: "the model's config.json",
            path: path.clone(),
            source,
        })?;
        Self::from_json(&text, &path)
    }

    /// Parses the text of a config.json; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`ModelConfig::from_folder`].
    pub fn from_json(text: &str, path: &Path) -> Result<Self, ModelError> {
        let invalid = |reason: String| ModelError::InvalidJson {
            what: "model configuration",
            path: path.to_owned(),
            reason,
        };
        let value: Value = serde_json::from_str(text).map_err(|e| invalid(e.to_string()))?;
        check_architecture(&value, path)?;
        let raw: Raw = serde_json::from_value(value).map_err(|e| invalid(e.to_string()))?;
        if raw.hidden_act != "silu" {
            return Err(unsupported(
                path,
                "hidden_act",
                &raw.hidden_act,
                "is not Llama's activation",
                "Llama uses silu",
            ));
        }
        let (rope_theta, rope_scaling) = rope(&raw, path)?;
        let config = Self {
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_layers: raw.num_hidden_layers,
            num_heads: raw.num_attention_heads,
            num_kv_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
            head_dim: raw.head_dim.unwrap_or(raw.hidden_size / raw.num_attention_heads.max(1)),
            rms_norm_eps: raw.rms_norm_eps,
            rope_theta,
            rope_scaling,
            tie_word_embeddings: raw.tie_word_embeddings,
            attention_bias: raw.attention_bias,
            mlp_bias: raw.mlp_bias,
            max_position_embeddings: raw.max_position_embeddings,
        };
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ModelError> {
        /// Above this a dimension is a mistake, and products of dimensions could overflow.
        const LARGEST_DIM: i64 = 1 << 30;
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_layers),
            ("num_attention_heads", self.num_heads),
            ("num_key_value_heads", self.num_kv_heads),
            ("head_dim", self.head_dim),
        ] {
            if !(1..=LARGEST_DIM).contains(&value) {
                return Err(unsupported(path, key, value, "is not a possible size", "it must be at least 1"));
            }
        }
        if self.num_heads % self.num_kv_heads != 0 {
            let problem = format!("does not divide num_attention_heads = {}", self.num_heads);
            return Err(unsupported(
                path,
                "num_key_value_heads",
                self.num_kv_heads,
                &problem,
                "mend config.json",
            ));
        }
        if self.head_dim % 2 != 0 {
            let hint = "rotary embedding turns pairs of dims";
            return Err(unsupported(path, "head_dim", self.head_dim, "is odd", hint));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return Err(unsupported(
                path,
                "rms_norm_eps",
                self.rms_norm_eps,
                "is not usable",
                "mend config.json",
            ));
        }
        Ok(())
    }
}

fn check_architecture(value: &Value, path: &Path) -> Result<(), ModelError> {
    let architecture = value.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
    let model_type = value.get("model_type").and_then(Value::as_str);
    match (architecture, model_type) {
        (Some("LlamaForCausalLM"), _) | (None, Some("llama")) => Ok(()),
        (found, kind) => Err(ModelError::UnsupportedArchitecture {
            found: found.or(kind).unwrap_or("(none named)").to_owned(),
            path: path.to_owned(),
        }),
    }
}

/// Reads `rope_parameters` (transformers 5) or `rope_scaling` beside `rope_theta` (before).
fn rope(raw: &Raw, path: &Path) -> Result<(f64, RopeScaling), ModelError> {
    let block = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref()).filter(|v| !v.is_null());
    let number = |key: &'static str| -> Result<f64, ModelError> {
        let value = block.and_then(|b| b.get(key)).cloned().unwrap_or(Value::Null);
        value.as_f64().filter(|f| f.is_finite() && *f > 0.0).ok_or_else(|| {
            unsupported(path, key, value, "is not a positive number", "the rotary settings need it")
        })
    };
    let theta = match block.and_then(|b| b.get("rope_theta")) {
        Some(_) => number("rope_theta")?,
        None => raw.rope_theta.unwrap_or(10_000.0),
    };
    if !(theta.is_finite() && theta > 0.0) {
        return Err(unsupported(path, "rope_theta", theta, "is not a positive number", "mend config.json"));
    }
    let kind = block.and_then(|b| b.get("rope_type").or_else(|| b.get("type"))).and_then(Value::as_str);
    let scaling = match kind.unwrap_or("default") {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: number("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max_position: number("original_max_position_embeddings")?,
        },
        other => {
            let hint = "rotary types default, linear and llama3 are implemented";
            return Err(unsupported(path, "rope_type", other, "is not implemented", hint));
        }
    };
    Ok((theta, scaling))
}

fn unsupported(
    path: &Path,
    key: &'static str,
    value: impl ToString,
    problem: &str,
    hint: &str,
) -> ModelError {
    ModelError::UnsupportedSetting {
        path: PathBuf::from(path),
        key,
        value: value.to_string(),
        problem: problem.to_owned(),
        hint: hint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(edit: impl Fn(&mut Value)) -> Result<ModelConfig, ModelError> {
        let mut value = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 80, "hidden_size": 64,
            "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6, "hidden_act": "silu"
        });
        edit(&mut value);
        ModelConfig::from_json(&value.to_string(), Path::new("config.json"))
    }

    #[test]
    fn both_spellings_of_llama3_scaling_agree() {
        let scaling = serde_json::json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16, "rope_type": "llama3"});
        let old = parse(|v| {
            v["rope_scaling"] = scaling.clone();
            v["rope_theta"] = 500000.0.into();
        })
        .unwrap();
        let new = parse(|v| {
            v["rope_parameters"] = scaling.clone();
            v["rope_parameters"]["rope_theta"] = 500000.0.into();
        })
        .unwrap();
        assert_eq!(old, new);
        assert_eq!(old.rope_theta, 500000.0);
        assert!(matches!(old.rope_scaling, RopeScaling::Llama3 { factor: 8.0, .. }));
        assert_eq!(old.head_dim, 16);
    }

    #[test]
    fn bad_settings_are_named() {
        let check = |edit: &dyn Fn(&mut Value), expect: &str| {
            let error = parse(edit).unwrap_err().to_string();
            assert!(error.contains(expect), "{error} lacks {expect}");
        };
        check(&|v| v["architectures"] = serde_json::json!(["OPTForCausalLM"]), "OPTForCausalLM");
        check(&|v| v["num_key_value_heads"] = 3.into(), "num_key_value_heads = 3 does not divide");
        check(&|v| v["num_attention_heads"] = 0.into(), "num_attention_heads = 0");
        check(&|v| v["head_dim"] = 15.into(), "head_dim = 15 is odd");
        check(&|v| v["hidden_size"] = (1i64 << 40).into(), "hidden_size");
        check(&|v| v["hidden_act"] = "gelu".into(), "hidden_act = gelu");
        check(
            &|v| v["rope_scaling"] = serde_json::json!({"type": "yarn", "factor": 2.0}),
            "rope_type = yarn",
        );
        check(&|v| v["rope_scaling"] = serde_json::json!({"type": "linear"}), "factor = null");
        check(&|v| drop(v.as_object_mut().unwrap().remove("vocab_size")), "vocab_size");
    }
}
