//! How many parameters a model has, and where, from its configuration alone.

use crate::{LinearKind, ModelConfig};

/// Parameters of a model by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// Token embedding, `V·H`.
    pub embedding: u64,
    /// Output projection, `V·H`; none where it is the embedding.
    pub head: u64,
    /// Final norm, `H`.
    pub final_norm: u64,
    /// Number of transformer blocks.
    pub blocks: u64,
    /// Each of them.
    pub block: BlockParameters,
}

/// Parameters of one transformer block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockParameters {
    /// Weights of the seven linear modules.
    pub linear: u64,
    /// Biases of the linear modules.
    pub biases: u64,
    /// The two norms, `2·H`.
    pub norms: u64,
}

impl Parameters {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.embedding + self.head + self.final_norm + self.blocks * self.block.total()
    }
}

impl BlockParameters {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.linear + self.biases + self.norms
    }
}

impl ModelConfig {
    /// Parameters by part. No sum can wrap: a configuration bounds its sizes.
    pub fn parameters(&self) -> Parameters {
        let hidden = self.hidden_size as u64;
        let table = self.vocab_size as u64 * hidden;
        let shapes =
            LinearKind::ALL.map(|kind| (kind.shape(self).map(|dim| dim as u64), kind.has_bias(self)));
        Parameters {
            embedding: table,
            head: if self.tie_word_embeddings { 0 } else { table },
            final_norm: hidden,
            blocks: self.num_layers as u64,
            block: BlockParameters {
                linear: shapes.iter().map(|([out, input], _)| out * input).sum(),
                biases: shapes.iter().filter(|(_, bias)| *bias).map(|([out, _], _)| out).sum(),
                norms: 2 * hidden,
            },
        }
    }
}
