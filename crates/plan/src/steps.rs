//! Micro-batches, steps and tokens: the counting of the official trainer.

use mesh::share;
use serde::Serialize;

use crate::count::product;
use crate::facts::Facts;

/// How long the run is and how a step is shared out. None where the number of rows or of epochs is not known.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Steps {
    /// Micro-batches of an epoch, B = ceil(rows / micro-batch size).
    pub micro_batches_per_epoch: Option<u64>,
    /// Steps of an epoch, U = max(1, ceil(B / accumulation)).
    pub per_epoch: Option<u64>,
    /// Steps of the run, ceil(epochs · U) or the number that was asked for.
    pub total: Option<u64>,
    /// Steps of the warm-up.
    pub warmup: Option<u64>,
    /// Passes over the data that these steps come to.
    pub epochs: Option<f64>,
    /// The most micro-batches that one step has.
    pub micro_batches: u64,
    /// The most rows that one step has.
    pub rows: u64,
    /// Tokens of a full step without padding: rows × mean tokens, or × the longest row where the mean is not known.
    pub tokens: f64,
    /// Mean tokens of a row were not known: tokens, arithmetic and time are upper bounds.
    pub is_upper_bound: bool,
    /// Tokens of the whole run.
    pub total_tokens: Option<f64>,
    /// Pipelines that micro-batches are shared out over, R · S.
    pub pipelines: u64,
    /// M, micro-batches of the busiest pipeline (of the busiest rank, where there is one stage): what a step waits for.
    pub busiest_rank: u64,
    /// Ranks without a micro-batch.
    pub idle_ranks: u64,
    /// Share of the pipelines' time that micro-batches fill.
    pub balance: f64,
}

impl Steps {
    pub(crate) fn new(facts: &Facts) -> Self {
        let training = &facts.training;
        let (size, accumulation) = (training.micro_batch_size.max(1), training.accumulation.max(1));
        let rows = facts.data.rows.filter(|rows| *rows > 0);
        let per_pass = rows.map(|rows| rows.div_ceil(size));
        let per_epoch = per_pass.map(|batches| batches.div_ceil(accumulation).max(1));
        let total =
            training.max_steps.or_else(|| per_epoch.and_then(|each| epoch_steps(training.epochs, each)));
        let micro_batches = per_pass.map_or(accumulation, |batches| batches.min(accumulation));
        let rows_of_step = micro_batches.saturating_mul(size).min(rows.unwrap_or(u64::MAX));
        let (mean, is_upper_bound) = facts.data.mean();
        let epochs = total.zip(per_epoch).map(|(total, each)| total as f64 / each as f64);
        // An epoch's last step may have fewer rows, so whole epochs are counted by rows.
        let rows_in_all = match (epochs.zip(rows), total) {
            (Some((epochs, rows)), _) => Some(epochs * rows as f64),
            (None, total) => total.map(|total| total as f64 * rows_of_step as f64),
        };
        let pipelines = (facts.ranks.mesh.data_parallel() as u64).max(1);
        // The trainer shares out in order, and the first pipeline gets the most.
        let busiest_rank = share(micro_batches as usize, pipelines as usize, 0).len() as u64;
        let idle = pipelines.saturating_sub(micro_batches);
        Self {
            micro_batches_per_epoch: per_pass,
            per_epoch,
            total,
            warmup: total.map(|total| warmup(training.warmup_ratio, total)),
            epochs,
            micro_batches,
            rows: rows_of_step,
            tokens: rows_of_step as f64 * mean,
            is_upper_bound,
            total_tokens: rows_in_all.map(|rows| rows * mean),
            pipelines,
            busiest_rank,
            idle_ranks: product([idle, facts.ranks.mesh.pp as u64]),
            balance: micro_batches as f64 / (busiest_rank as f64 * pipelines as f64),
        }
    }
}

fn epoch_steps(epochs: f64, per_epoch: u64) -> Option<u64> {
    // The cast saturates.
    (epochs.is_finite() && epochs > 0.0).then(|| (epochs * per_epoch as f64).ceil() as u64)
}

fn warmup(ratio: f64, total: u64) -> u64 {
    if ratio >= 1.0 { ratio as u64 } else { (total as f64 * ratio).ceil() as u64 }
}
