//! Which blocks are computed again in backward, in place of keeping their graphs. No choice changes a bit of θ.

use data::MicroBatch;
use plan::ActivationBudget;

use crate::weights::Stage;

/// The rule.
#[derive(Debug, Clone, PartialEq)]
pub enum Recompute {
    /// None: every graph is kept.
    Never,
    /// All.
    Always,
    /// The first ones, as far as there is no room for their graphs.
    Within(ActivationBudget),
}

impl Recompute {
    /// The first block of a stage that keeps its graph of a micro-batch; the end of the stage where none does. Blocks from
    /// `buffers_from` on have buffers of their own for adapted weights by now.
    pub fn first_kept(&self, stage: &Stage, batch: &MicroBatch, buffers_from: usize) -> usize {
        match self {
            Self::Never => stage.blocks.start,
            Self::Always => stage.blocks.end,
            Self::Within(budget) => {
                // Sequences end to end as rows of their mean length: as many tokens, and masks as short.
                let (rows, length) = match batch.packed.len() {
                    0 => (batch.rows, batch.len),
                    sequences => (sequences, batch.len.div_ceil(sequences)),
                };
                budget.first_kept(stage.blocks.clone(), rows as u64, length as u64, buffers_from)
            }
        }
    }
}
