//! Arithmetic of a step, and time by a given throughput.

use serde::Serialize;

use crate::facts::{Facts, Speed};
use crate::stage::Layout;
use crate::steps::Steps;
use crate::time::Timing;

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
    /// Seconds a step by the given throughput, which waits for the busiest rank; with messages ([`Timing`]) where
    /// something is known of the links.
    pub step_seconds: Option<f64>,
    /// Seconds of all steps.
    pub total_seconds: Option<f64>,
}

impl Work {
    pub(crate) fn new(facts: &Facts, layout: &Layout<'_>, steps: &Steps, timing: &Timing) -> Self {
        let training = &facts.training;
        let (mean, _) = facts.data.mean();
        let of_stages = layout.stages.iter().map(|stage| stage.operations(mean));
        let (linear, attention) =
            of_stages.reduce(|all, stage| (all.0 + stage.0, all.1 + stage.1)).unwrap_or((0.0, 0.0));
        let per_step = (linear + attention) * steps.tokens;
        // A buffer that holds this θ already is not written again.
        let delta_passes = match (training.dropout > 0.0, training.recomputes()) {
            (_, true) => steps.busiest_rank.saturating_mul(2),
            (true, false) => steps.busiest_rank,
            (false, false) => 1,
        };
        // Messages count where something is known of the links.
        let messages = if timing.messages_are_assumed { 0.0 } else { timing.communication() };
        let computing = match facts.speed {
            Some(Speed::TokensPerSecond(rate)) => seconds(steps.tokens, rate),
            Some(Speed::TeraflopsPerRank(_) | Speed::Measured(_)) if !timing.speed_is_assumed => {
                Some(timing.compute_seconds + timing.once_seconds).filter(|seconds| seconds.is_finite())
            }
            _ => None,
        };
        let step_seconds = computing.map(|seconds| seconds + messages).filter(|seconds| seconds.is_finite());
        let total_seconds =
            step_seconds.and_then(|step| match (&facts.speed, steps.total_tokens, steps.total) {
                // Short last steps of an epoch cost less than full ones; tokens know.
                (Some(Speed::TokensPerSecond(rate)), Some(tokens), Some(total)) => {
                    seconds(tokens, *rate).map(|seconds| seconds + messages * total as f64)
                }
                (_, _, total) => total.map(|total| step * total as f64),
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
