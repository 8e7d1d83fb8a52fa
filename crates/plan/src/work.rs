//! Arithmetic of a step, and time by a given throughput.

use serde::Serialize;

use crate::facts::{Facts, Speed};
use crate::steps::Steps;

/// Floating-point operations by a formula, so that throughputs compare.
///
/// A multiplication and an addition are two operations. A frozen weight costs 4 a token: the product forward and the
/// one that passes the gradient on. An adapted weight costs 6: its own gradient comes on top. Below the first adapted
/// block there is no backward: 2. The head is frozen: 4. Attention costs, per token and block, 2·T·Q forward (scores and
/// sums of values, half of the square by causality) and twice that backward: 6·T·Q, with T the mean tokens of a row.
///
/// Not in the formula: padding, norms, the second product of ΔW in half precision, and what recompute does again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Work {
    /// Operations a token in linear maps and head.
    pub linear_per_token: f64,
    /// Operations a token in attention.
    pub attention_per_token: f64,
    /// Operations a full step, on all ranks together.
    pub per_step: f64,
    /// Passes that write ΔW in a step, on the busiest rank.
    pub delta_passes: u64,
    /// Seconds a step by the given throughput, which waits for the busiest rank.
    pub step_seconds: Option<f64>,
    /// Seconds of all steps.
    pub total_seconds: Option<f64>,
}

impl Work {
    pub(crate) fn new(facts: &Facts, steps: &Steps) -> Self {
        let (model, training) = (&facts.model, &facts.training);
        let (mean, _) = facts.data.mean();
        let scores = mean * model.query_width() as f64;
        let (mut linear, mut attention) = (4.0 * model.vocab as f64 * model.hidden as f64, 0.0);
        let first = model.first_adapted();
        for (at, run) in model.blocks.iter().enumerate() {
            let repeat = run.repeat as f64;
            let of_weight = |adapted: bool| match (at < first, adapted) {
                (true, _) => 2.0,
                (false, false) => 4.0,
                (false, true) => 6.0,
            };
            for weight in &run.linears {
                linear += repeat * weight.weights() as f64 * of_weight(weight.adapted_weight);
            }
            attention += repeat * scores * if at < first { 2.0 } else { 6.0 };
        }
        let per_step = (linear + attention) * steps.tokens;
        // A buffer that holds this θ already is not written again.
        let delta_passes = match (training.dropout > 0.0, training.recompute) {
            (_, true) => steps.busiest_rank.saturating_mul(2),
            (true, false) => steps.busiest_rank,
            (false, false) => 1,
        };
        let step_seconds = facts.speed.and_then(|speed| match speed {
            Speed::TokensPerSecond(rate) => seconds(steps.tokens, rate),
            Speed::TeraflopsPerRank(rate) => {
                let ranks = facts.ranks.total.max(1) as f64 * steps.balance;
                seconds(per_step, rate * 1e12 * ranks)
            }
        });
        let total_seconds = step_seconds.and_then(|step| match (facts.speed, steps.total_tokens) {
            // Short last steps of an epoch cost less than full ones; tokens know.
            (Some(Speed::TokensPerSecond(rate)), Some(tokens)) => seconds(tokens, rate),
            _ => steps.total.map(|total| step * total as f64),
        });
        Self {
            linear_per_token: linear,
            attention_per_token: attention,
            per_step,
            delta_passes,
            step_seconds,
            total_seconds,
        }
    }
}

fn seconds(amount: f64, rate: f64) -> Option<f64> {
    Some(amount / rate).filter(|seconds| rate > 0.0 && seconds.is_finite())
}
