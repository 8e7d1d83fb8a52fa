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
    /// The first block of a stage that keeps its graph of a micro-batch; the end of the stage where none does.
    pub fn first_kept(&self, stage: &Stage, batch: &MicroBatch) -> usize {
        match self {
            Self::Never => stage.blocks.start,
            Self::Always => stage.blocks.end,
            Self::Within(budget) => {
                budget.first_kept(stage.blocks.clone(), batch.rows as u64, batch.len as u64)
            }
        }
    }
}
