//! What many ranks make of a step, beside one.

use mesh::Degrees;
use serde::Serialize;

use crate::facts::{Facts, Ranks};
use crate::memory::Memory;
use crate::stage::{Layout, Stage};
use crate::steps::Steps;
use crate::time::{Rates, Timing};

/// The same step on the ranks of the plan and on one rank of the same kind, by [`Timing`]. None where a time is not finite
/// or 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scaling {
    /// Tokens a second of all ranks, padding not counted.
    pub tokens_per_second: Option<f64>,
    /// Seconds of the step on one rank.
    pub one_rank_step_seconds: Option<f64>,
    /// Tokens a second of one rank.
    pub one_rank_tokens_per_second: Option<f64>,
    /// Bytes that one rank would need for the whole model.
    pub one_rank_peak: u64,
    /// There is so much memory for one rank; none where that is not known.
    pub one_rank_fits: Option<bool>,
    /// Speed of the n ranks over n times the speed of one: t(1) / (n · t(n)). Idle ranks, uneven shares, bubbles and
    /// messages make it less than 1.
    pub efficiency: Option<f64>,
}

impl Scaling {
    pub(crate) fn new(facts: &Facts, steps: &Steps, timing: &Timing, rates: Rates) -> Self {
        let mut alone = facts.clone();
        let degrees = Degrees { dp_replicate: 1, dp_shard: 1, pp: 1 };
        alone.ranks = Ranks { total: 1, on_host: 1, on_device: 1, mesh: degrees };
        // One stage is always possible.
        let stages = Stage::all(&alone.model, 1).unwrap_or_default();
        let layout = Layout { degrees, stages };
        let memory = Memory::of(&layout, &alone);
        let one = Timing::new(&alone, &layout, &Steps::new(&alone), rates).step_seconds;
        let usable = |value: f64| Some(value).filter(|value| value.is_finite() && *value > 0.0);
        Self {
            tokens_per_second: usable(steps.tokens / timing.step_seconds),
            one_rank_step_seconds: usable(one),
            one_rank_tokens_per_second: usable(steps.tokens / one),
            one_rank_peak: memory.peak,
            one_rank_fits: memory.available.map(|available| memory.peak <= available),
            efficiency: usable(one / (facts.ranks.total as f64 * timing.step_seconds)),
        }
    }
}
