//! What the ranks of each stage own.

use serde::Serialize;

use crate::facts::Facts;
use crate::memory::Memory;
use crate::stage::{Layout, Stage};
use crate::steps::Steps;
use crate::units::Units;

/// A pipeline stage, and what each of its ranks has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StagePlan {
    /// Its number, from 0.
    pub stage: u64,
    /// Ranks of it, R · S.
    pub ranks: u64,
    /// Its first block.
    pub first_block: u64,
    /// The block after its last one.
    pub end_block: u64,
    /// It has the embedding.
    pub embedding: bool,
    /// It has the final norm and the head.
    pub head: bool,
    /// Index of its first adapted weight in the partition.
    pub first_weight: u64,
    /// The index after its last one.
    pub end_weight: u64,
    /// Frozen weights that one of its ranks holds, bytes: all of the stage's, or the S-th part.
    pub held_bytes: u64,
    /// Micro-batches that are between forward and backward at most ([`mesh::warm_up`]).
    pub in_flight: u64,
    /// Share of the model's work, by the costs that stages are split by.
    pub work_share: f64,
    /// Most memory that one of its ranks needs.
    pub peak: u64,
}

pub(crate) fn of(facts: &Facts, layout: &Layout<'_>, steps: &Steps, memory: &Memory) -> Vec<StagePlan> {
    let units = Units { shards: layout.shards(), number: facts.training.dtype.bytes() };
    let plan = |((stage, share), peak): ((&Stage<'_>, f64), &u64)| StagePlan {
        stage: stage.index,
        ranks: layout.pipelines(),
        first_block: stage.blocks.start,
        end_block: stage.blocks.end,
        embedding: stage.is_first(),
        head: stage.is_last(),
        first_weight: stage.adapted.start,
        end_weight: stage.adapted.end,
        held_bytes: units.ends(stage).saturating_add(units.blocks(stage)),
        in_flight: stage.in_flight(steps.busiest_rank, facts.training.pp_ahead),
        work_share: share,
        peak: *peak,
    };
    layout.stages.iter().zip(Stage::shares(&layout.stages)).zip(&memory.stage_peaks).map(plan).collect()
}
