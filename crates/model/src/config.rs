//! What a decoder of any family is made of, as numbers: the model's config.json, read and checked.
//!
//! The four families differ in a handful of constants. They are named here as values (activation, norm, scale of the
//! embedding, biases, windows), so that the math asks for them and not for a family.

mod family;
mod keys;
mod read;
mod rope;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::Value;

use crate::ModelError;

pub use family::Family;

/// Shape and constants of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Whose architecture it is; everything that follows from it is a field of its own.
    pub family: Family,
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
    /// `D`; even. `A·D` need not be `H`.
    pub head_dim: i64,
    /// What the gate of the MLP goes through.
    pub activation: Activation,
    /// How RMSNorm applies its weight.
    pub norm: NormWeight,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// The embedding is multiplied by this, rounded to the compute dtype.
    pub embedding_scale: Option<f64>,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// The head is the transposed embedding.
    pub tie_word_embeddings: bool,
    /// Query, key and value projections carry biases.
    pub qkv_bias: bool,
    /// The output projection of attention carries a bias.
    pub output_bias: bool,
    /// The three MLP projections carry biases.
    pub mlp_bias: bool,
    /// Blocks whose attention reaches back only so far.
    pub sliding_window: Option<SlidingWindow>,
    /// Longest row the model was made for.
    pub max_position_embeddings: i64,
}

/// The non-linearity of the gated MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU by its tanh approximation (arXiv 1606.08415).
    GeluTanh,
}

/// What RMSNorm (arXiv 1910.07467) multiplies by, and where it rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormWeight {
    /// `w`: the normed value is rounded to the compute dtype, then multiplied.
    Direct,
    /// `1 + w` in f32; the product is rounded to the compute dtype.
    OnePlus,
}

/// Attention that reaches back over a fixed number of tokens, in some or all blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlidingWindow {
    /// `w`, at least 1: position i sees j with `i - w < j ≤ i`.
    pub tokens: i64,
    blocks: WindowedBlocks,
}

/// Which blocks. Never a list that config.json does not spell out: it may claim any number of blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
enum WindowedBlocks {
    From(usize),
    Listed(Vec<bool>),
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

impl ModelConfig {
    /// Reads and checks `folder/config.json`.
    ///
    /// # Errors
    /// A missing or garbled file, another architecture, a setting that is not implemented, or settings that
    /// contradict each other.
    pub fn from_folder(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|source| ModelError::Unreadable {
            what: "the model's config.json",
            path: path.clone(),
            source,
        })?;
        Self::from_json(&text, &path)
    }

    /// Parses the text of a config.json; `path` is only named in errors. A key that is missing has the value that
    /// transformers gives it in the model's family.
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
        let map =
            value.as_object().ok_or_else(|| invalid("it is not a table of keys and values".to_owned()))?;
        read::read(&keys::Keys::new(map, path))
    }

    /// The window of block `block`, tokens; `None` where attention reaches back to the first token.
    pub fn window(&self, block: usize) -> Option<i64> {
        self.sliding_window.as_ref().filter(|window| window.covers(block)).map(|window| window.tokens)
    }
}

impl SlidingWindow {
    /// Whether block `block` is one of the windowed ones.
    pub fn covers(&self, block: usize) -> bool {
        match &self.blocks {
            WindowedBlocks::From(first) => block >= *first,
            WindowedBlocks::Listed(windowed) => windowed.get(block).copied().unwrap_or(false),
        }
    }
}
