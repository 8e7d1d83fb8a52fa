//! The families, how config.json names them, and what a missing key means in each (transformers' config classes).

use serde_json::Value;

use super::keys::Keys;
use super::{Activation, NormWeight};
use crate::ModelError;

/// A line of models that share an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Llama 1 to 3.
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// The first Gemma.
    Gemma,
    /// Mistral 7B and its kin.
    Mistral,
}

/// What a family fixes, and what it takes for keys that config.json leaves out.
pub(super) struct Rules {
    /// Key-value heads; `None`: as many as heads.
    pub num_kv_heads: Option<i64>,
    /// `None`: `H / A`.
    pub head_dim: Option<i64>,
    pub tie_word_embeddings: bool,
    pub max_position_embeddings: i64,
    pub activation: Activation,
    pub norm: NormWeight,
    /// The embedding is multiplied by `sqrt(H)`.
    pub scaled_embedding: bool,
    /// Query, key and value projections always have biases.
    pub qkv_bias: bool,
    /// The key `attention_bias` means something.
    pub may_have_attention_bias: bool,
    /// The key `mlp_bias` means something.
    pub may_have_mlp_bias: bool,
}

impl Family {
    /// All families that are implemented.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Gemma, Self::Mistral];

    /// The class that `architectures` in config.json names.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Gemma => "GemmaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
        }
    }

    /// The value of `model_type` in config.json.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Gemma => "gemma",
            Self::Mistral => "mistral",
        }
    }

    /// The family that `architectures` and `model_type` name; one of the two may be missing.
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self, ModelError> {
        let architecture = keys.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
        let model_type = keys.get("model_type").and_then(Value::as_str);
        let found = match (architecture, model_type) {
            (Some(name), _) => Self::ALL.into_iter().find(|family| family.architecture() == name),
            (None, kind) => Self::ALL.into_iter().find(|family| Some(family.model_type()) == kind),
        };
        let unsupported = || ModelError::UnsupportedArchitecture {
            found: architecture.or(model_type).unwrap_or("(none named)").chars().take(80).collect(),
            path: keys.path().to_owned(),
        };
        let family = found.ok_or_else(unsupported)?;
        match model_type {
            Some(kind) if kind != family.model_type() => {
                let problem = format!("contradicts architectures = {}", family.architecture());
                Err(keys.unsupported("model_type", kind, &problem, "mend config.json"))
            }
            _ => Ok(family),
        }
    }

    pub(super) fn rules(self) -> Rules {
        let llama = Rules {
            num_kv_heads: None,
            head_dim: None,
            tie_word_embeddings: false,
            max_position_embeddings: 2048,
            activation: Activation::Silu,
            norm: NormWeight::Direct,
            scaled_embedding: false,
            qkv_bias: false,
            may_have_attention_bias: false,
            may_have_mlp_bias: false,
        };
        match self {
            Self::Llama => Rules { may_have_attention_bias: true, may_have_mlp_bias: true, ..llama },
            Self::Qwen2 => {
                Rules { num_kv_heads: Some(32), max_position_embeddings: 32_768, qkv_bias: true, ..llama }
            }
            Self::Gemma => Rules {
                num_kv_heads: Some(16),
                head_dim: Some(256),
                tie_word_embeddings: true,
                max_position_embeddings: 8192,
                activation: Activation::GeluTanh,
                norm: NormWeight::OnePlus,
                scaled_embedding: true,
                may_have_attention_bias: true,
                ..llama
            },
            Self::Mistral => Rules { num_kv_heads: Some(8), max_position_embeddings: 131_072, ..llama },
        }
    }
}
