use serde::Serialize;

use crate::count::{product, ratio, sum};
use crate::facts::{Linear, Model, Role};

/// Numbers of the model, by part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parameters {
    /// Token embedding, V·H.
    pub embedding: u64,
    /// Output head, V·H; 0 where it is the embedding.
    pub head: u64,
    /// Query, key, value and output maps of all blocks, biases included.
    pub attention: u64,
    /// Gate, up and down maps of all blocks, biases included.
    pub mlp: u64,
    /// Two RMSNorms a block and the final one, H each.
    pub norms: u64,
    /// All of them.
    pub total: u64,
    /// Numbers that belong to the partition, N.
    pub adapted: u64,
    /// Those of them that are biases.
    pub adapted_biases: u64,
    /// Linear maps with an adapted weight or bias.
    pub adapted_modules: u64,
    /// Blocks with at least one of those.
    pub adapted_blocks: u64,
    /// Blocks.
    pub blocks: u64,
    /// `adapted / total`.
    pub adapted_share: f64,
}

impl Parameters {
    pub(crate) fn new(model: &Model) -> Self {
        let of_blocks = |per_linear: &dyn Fn(&Linear) -> u64| {
            sum(model.blocks.iter().map(|run| product([run.repeat, sum(run.linears.iter().map(per_linear))])))
        };
        let of_attention =
            |linear: &Linear| matches!(linear.role, Role::Query | Role::Key | Role::Value | Role::Output);
        let embedding = product([model.vocab, model.hidden]);
        let head = if model.tied { 0 } else { embedding };
        let attention = of_blocks(&|linear| if of_attention(linear) { linear.parameters() } else { 0 });
        let mlp = of_blocks(&|linear| if of_attention(linear) { 0 } else { linear.parameters() });
        let norms = product([model.block_count().saturating_mul(2).saturating_add(1), model.hidden]);
        let total = sum([embedding, head, attention, mlp, norms]);
        let adapted = model.adapted();
        let active = model.blocks.iter().filter(|run| run.adapted() > 0);
        Self {
            embedding,
            head,
            attention,
            mlp,
            norms,
            total,
            adapted,
            adapted_biases: of_blocks(&|linear| if linear.adapts_bias() { linear.outputs } else { 0 }),
            adapted_modules: of_blocks(&|linear| u64::from(linear.adapted() > 0)),
            adapted_blocks: sum(active.map(|run| run.repeat)),
            blocks: model.block_count(),
            adapted_share: ratio(adapted, total),
        }
    }
}
