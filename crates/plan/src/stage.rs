//! Which blocks a pipeline stage has, and what is in them.

use std::ops::Range;

use mesh::{Degrees, Mesh, StageError};

use crate::PlanError;
use crate::count::{product, sum};
use crate::facts::{BlockRun, Facts, Model};

/// Blocks of models that are split by the cost of each; of more, which no model has, stages get equal numbers.
const SPLIT_BY_COST: usize = 1 << 10;

/// What an element of an activation costs beside the products, in operations of a product: norms, rotary embedding,
/// softmax, the MLP's activation, residual sums and their gradients, which are bound by memory. Fitted to measurement
/// (docs/PERFORMANCE.md): of a block about 40 elements a hidden unit and 12 an intermediate one pass by in forward and
/// backward.
const HIDDEN_OPERATIONS: u64 = 230 * 40;
const INTERMEDIATE_OPERATIONS: u64 = 230 * 12;
/// The same for a logit, which is read and written several times in float32.
const LOGIT_OPERATIONS: u64 = 1100;

/// The blocks of each of `pp` stages, by the cost of a token: 2 operations for a weight of the blocks below the first
/// adapted one (forward alone), 4 for a frozen weight of the others (forward, and the gradient of its input), 6 for an
/// adapted one (its own gradient besides), and 4·V·H on the last stage for the head; besides, what is bound by memory,
/// a third of it in forward. The embedding is free.
///
/// # Errors
/// [`StageError::TooMany`] for more stages than blocks (or than 1,024).
pub fn stages(model: &Model, pp: usize) -> Result<Vec<Range<usize>>, StageError> {
    let blocks = usize::try_from(model.block_count()).unwrap_or(usize::MAX);
    if pp == 1 {
        return Ok(vec![Range { start: 0, end: blocks }]);
    }
    if pp == 0 || pp > blocks.min(SPLIT_BY_COST) {
        return Err(StageError::TooMany { stages: pp, blocks });
    }
    if blocks > SPLIT_BY_COST {
        return Ok((0..pp).map(|stage| mesh::share(blocks, pp, stage)).collect());
    }
    let mut costs = Vec::with_capacity(blocks);
    for run in all_runs(model) {
        costs.extend(std::iter::repeat_n(block_cost(model, &run), run.repeat as usize));
    }
    mesh::stages(&costs, [0, head_cost(model)], pp)
}

/// Operations a token of linear maps (with the head) and of attention, where a token's row has `mean` tokens on average:
/// the formula of [`crate::Work`].
pub fn operations_a_token(model: &Model, mean: f64) -> (f64, f64) {
    Stage::all(model, 1).map_or((0.0, 0.0), |stages| {
        stages.iter().map(|stage| stage.operations(mean)).fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1))
    })
}

/// What a block costs a token: see [`stages`].
fn block_cost(model: &Model, run: &StageRun<'_>) -> u64 {
    let products = run.run.linears.iter().map(|linear| {
        let each = operations_a_weight(!run.backward, linear.adapted_weight);
        product([linear.weights(), each])
    });
    let elements = sum([
        product([model.hidden, HIDDEN_OPERATIONS]),
        product([model.intermediate, INTERMEDIATE_OPERATIONS]),
    ]);
    sum(products.chain([if run.backward { elements } else { elements / 3 }]))
}

/// What the head costs a token: see [`stages`].
fn head_cost(model: &Model) -> u64 {
    sum([product([4, model.vocab, model.hidden]), product([model.vocab, LOGIT_OPERATIONS])])
}

/// Operations that a weight costs a token: see [`stages`].
pub(crate) fn operations_a_weight(below_first_adapted: bool, adapted: bool) -> u64 {
    match (below_first_adapted, adapted) {
        (true, _) => 2,
        (false, false) => 4,
        (false, true) => 6,
    }
}

/// Neighbouring blocks of a stage that are alike.
#[derive(Debug, Clone)]
pub(crate) struct StageRun<'a> {
    pub run: &'a BlockRun,
    /// How many of them the stage has.
    pub repeat: u64,
    /// Gradients go through them.
    pub backward: bool,
}

/// A pipeline stage: a range of blocks and perhaps an end of the model.
#[derive(Debug, Clone)]
pub(crate) struct Stage<'a> {
    pub model: &'a Model,
    pub index: u64,
    /// Number of stages.
    pub of: u64,
    pub blocks: Range<u64>,
    /// What it costs a token: see [`stages`].
    pub cost: u64,
    /// Indices of its adapted weights in the partition's order.
    pub adapted: Range<u64>,
    pub runs: Vec<StageRun<'a>>,
}

impl<'a> Stage<'a> {
    /// All stages of a model in order.
    pub fn all(model: &'a Model, pp: usize) -> Result<Vec<Self>, StageError> {
        let ranges = stages(model, pp)?;
        let mut adapted = 0_u64;
        let stage = |(index, range): (usize, Range<usize>)| {
            let blocks = range.start as u64..range.end as u64;
            let runs = if pp == 1 { all_runs(model) } else { runs_in(model, &blocks) };
            let own = sum(runs.iter().map(|run| product([run.repeat, run.run.adapted()])));
            let start = adapted;
            adapted = start.saturating_add(own);
            let blocks_cost = runs.iter().map(|run| product([run.repeat, block_cost(model, run)]));
            let head = if index + 1 == pp { head_cost(model) } else { 0 };
            let cost = sum(blocks_cost.chain([head]));
            Self { model, index: index as u64, of: pp as u64, blocks, cost, adapted: start..adapted, runs }
        };
        Ok(ranges.into_iter().enumerate().map(stage).collect())
    }

    /// Each stage's share of the work, by the costs that they were split by.
    pub fn shares(stages: &[Self]) -> Vec<f64> {
        let all: f64 = stages.iter().map(|stage| stage.cost as f64).sum();
        let share = |stage: &Self| match all > 0.0 {
            true => stage.cost as f64 / all,
            false => 1.0 / stages.len() as f64,
        };
        stages.iter().map(share).collect()
    }

    pub fn is_first(&self) -> bool {
        self.index == 0
    }

    pub fn is_last(&self) -> bool {
        self.index.saturating_add(1) == self.of
    }

    /// Forwards before the stage's first pair of a forward and a backward ([`mesh::warm_up`]).
    pub fn warm_up(&self, ahead: bool) -> u64 {
        mesh::warm_up(self.index as usize, self.of as usize, ahead) as u64
    }

    /// Micro-batches between their forward and their backward at most, where the stage's pipeline has so many in a step.
    pub fn in_flight(&self, micro_batches: u64, ahead: bool) -> u64 {
        self.warm_up(ahead).saturating_add(1).min(micro_batches).max(1)
    }

    pub fn block_count(&self) -> u64 {
        sum(self.runs.iter().map(|run| run.repeat))
    }

    /// The runs that gradients go through.
    pub fn with_backward(&self) -> impl Iterator<Item = &StageRun<'a>> {
        self.runs.iter().filter(|run| run.backward)
    }

    /// Some block before this stage is adapted, so that the gradient of this stage's input is wanted.
    pub fn sends_backward(&self) -> bool {
        !self.is_first() && self.adapted.start > 0
    }

    /// Its number of adapted weights.
    pub fn adapted_count(&self) -> u64 {
        self.adapted.end - self.adapted.start
    }

    /// The most adapted numbers of one of its blocks.
    pub fn widest_adapted(&self) -> u64 {
        self.runs.iter().map(|run| run.run.adapted()).max().unwrap_or(0)
    }

    /// Operations a token of linear maps (with the head) and of attention, where a row has `mean` tokens: the formula of
    /// [`crate::Work`].
    pub fn operations(&self, mean: f64) -> (f64, f64) {
        let scores = mean * self.model.query_width() as f64;
        let head = 4.0 * self.model.vocab as f64 * self.model.hidden as f64;
        let (mut linear, mut attention) = (if self.is_last() { head } else { 0.0 }, 0.0);
        for run in &self.runs {
            let repeat = run.repeat as f64;
            for weight in &run.run.linears {
                let each = operations_a_weight(!run.backward, weight.adapted_weight);
                linear += repeat * weight.weights() as f64 * each as f64;
            }
            attention += repeat * scores * if run.backward { 6.0 } else { 2.0 };
        }
        (linear, attention)
    }
}

fn all_runs(model: &Model) -> Vec<StageRun<'_>> {
    let first = model.first_adapted();
    let runs = model.blocks.iter().enumerate();
    runs.map(|(at, run)| StageRun { run, repeat: run.repeat, backward: at >= first }).collect()
}

fn runs_in<'a>(model: &'a Model, blocks: &Range<u64>) -> Vec<StageRun<'a>> {
    let mut start = 0_u64;
    let mut runs = all_runs(model);
    for run in &mut runs {
        let end = start.saturating_add(run.repeat);
        run.repeat = end.min(blocks.end).saturating_sub(start.max(blocks.start));
        start = end;
    }
    runs.retain(|run| run.repeat > 0);
    runs
}

/// The ranks over the stages of a model.
#[derive(Debug, Clone)]
pub(crate) struct Layout<'a> {
    pub degrees: Degrees,
    pub stages: Vec<Stage<'a>>,
}

impl<'a> Layout<'a> {
    /// The mesh of the facts.
    ///
    /// # Errors
    /// The degrees do not multiply to the ranks, or there are more stages than blocks.
    pub fn new(facts: &'a Facts) -> Result<Self, PlanError> {
        let degrees = facts.ranks.mesh;
        Mesh::new(degrees, usize::try_from(facts.ranks.total).unwrap_or(usize::MAX))?;
        Ok(Self { degrees, stages: Stage::all(&facts.model, degrees.pp)? })
    }

    /// R · S.
    pub fn pipelines(&self) -> u64 {
        self.degrees.data_parallel() as u64
    }

    /// S.
    pub fn shards(&self) -> u64 {
        self.degrees.dp_shard as u64
    }

    /// P.
    pub fn depth(&self) -> u64 {
        self.degrees.pp as u64
    }
}
