//! How long a step takes: computing, waiting for stages, and messages over given links.

use serde::Serialize;

use crate::count::ratio;
use crate::facts::{Facts, Link, Speed};
use crate::stage::{Layout, Stage};
use crate::steps::Steps;
use crate::traffic::Volumes;

/// Assumed of a rank where no throughput is given: 50 billion operations a second of each thread.
const ASSUMED_OPERATIONS: f64 = 5e10;
/// Assumed of a link where nothing is given: 10 Gbit/s and 0.05 ms.
const ASSUMED_GBPS: f64 = 10.0;
const ASSUMED_MS: f64 = 0.05;

/// Seconds of a full step, part by part, of the rank that takes longest.
///
/// With c_p the computing of a micro-batch on stage p (operations by the formula of [`crate::Work`], shared out by what
/// stages are split by, over `operations_per_second`), M the micro-batches of the busiest pipeline and P stages:
///
/// | part | formula |
/// |---|---|
/// | computing | (M − 1)·max c_p + Σ c_p: 1F1B goes at the pace of the slowest stage once it is full |
/// | bubble | 1 − M·Σ c_p / (P · computing), which is (P − 1)/(M + P − 1) where stages are equal |
/// | weights not there in time | the same with max(c_p, g_p) in place of c_p, less it: gathers go on while a rank computes, unless `--prefetch` is off (c_p + g_p); g_p = bytes of a round / bandwidth + gathers of a round · (S − 1) · latency, on a ring |
/// | embedding rows | requests and rows at most / bandwidth + S · latency: a ring, then the rows |
/// | messages of stages | for each boundary and direction, a micro-batch's activations / bandwidth + latency: the others travel while stages compute |
/// | all-reduce | 2·(n − 1)/n · bytes / bandwidth + 2·(n − 1)·latency over all n ranks: a ring |
/// | small gathers | bytes / bandwidth + log2(n)·latency for each |
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timing {
    /// Operations a second of a rank that this was reckoned with.
    pub operations_per_second: f64,
    /// No throughput was given, and a usual one assumed.
    pub speed_is_assumed: bool,
    /// 10^9 bits a second of a rank that this was reckoned with.
    pub link_gbps: f64,
    /// Latency that this was reckoned with, milliseconds.
    pub link_ms: f64,
    /// Nothing was said of the links, and usual ones assumed.
    pub link_is_assumed: bool,
    /// Computing, with the waiting of uneven shares and of the pipeline.
    pub compute_seconds: f64,
    /// Share of that in which the stages of the busiest pipeline wait for each other, on average.
    pub bubble: f64,
    /// Waiting for gathered weights.
    pub gather_seconds: f64,
    /// Exchange of embedding rows.
    pub embedding_seconds: f64,
    /// Messages between stages that nothing covers.
    pub stage_seconds: f64,
    /// All-reduce of θ's gradient.
    pub all_reduce_seconds: f64,
    /// Losses, verdicts and hashes.
    pub small_gather_seconds: f64,
    /// All of it.
    pub step_seconds: f64,
}

/// What machines and links do in a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    operations: f64,
    speed_is_assumed: bool,
    gbps: f64,
    ms: f64,
    link_is_assumed: bool,
}

impl Rates {
    /// As given, or assumed. A throughput of the whole run is one of the mesh of the facts, and tells what a rank
    /// of any other mesh does.
    pub fn of(facts: &Facts) -> Self {
        let usable = |value: &f64| value.is_finite() && *value > 0.0;
        let operations = match facts.speed {
            Some(Speed::TeraflopsPerRank(rate)) => Some(rate * 1e12),
            Some(Speed::TokensPerSecond(rate)) => Layout::new(facts).ok().map(|layout| {
                let steps = Steps::new(facts);
                computing(&stage_operations(facts, &layout, &steps), steps.busiest_rank) * rate / steps.tokens
            }),
            None => None,
        };
        let operations = operations.filter(usable);
        let Link { gbps, ms } = facts.link;
        let (gbps, ms) = (gbps.filter(usable), ms.filter(|ms| ms.is_finite() && *ms >= 0.0));
        let threads = facts.training.threads.max(1) as f64;
        Self {
            operations: operations.unwrap_or(ASSUMED_OPERATIONS * threads),
            speed_is_assumed: operations.is_none(),
            gbps: gbps.unwrap_or(ASSUMED_GBPS),
            ms: ms.unwrap_or(ASSUMED_MS),
            link_is_assumed: gbps.is_none() && ms.is_none(),
        }
    }

    /// Seconds that so many bytes take.
    fn transfer(&self, bytes: f64) -> f64 {
        bytes / (self.gbps * 1e9 / 8.0)
    }

    fn latency(&self) -> f64 {
        self.ms / 1e3
    }
}

impl Timing {
    pub(crate) fn new(facts: &Facts, layout: &Layout<'_>, steps: &Steps, rates: Rates) -> Self {
        let volumes = Volumes::new(facts, layout, steps);
        let others = layout.shards().saturating_sub(1) as f64;
        let compute: Vec<f64> =
            stage_operations(facts, layout, steps).iter().map(|stage| stage / rates.operations).collect();
        let rounds = steps.busiest_rank;
        let waited = volumes.stages.iter().zip(&compute).map(|(stage, compute)| {
            let (bytes, gathers) = (stage.gathered(rounds).total() as f64, stage.gathers(rounds) as f64);
            let gathering = rates.transfer(bytes) + gathers * others * rates.latency();
            let gathering = gathering / rounds.max(1) as f64;
            if facts.training.prefetch { compute.max(gathering) } else { compute + gathering }
        });
        let compute_seconds = computing(&compute, rounds);
        let busy = rounds as f64 * compute.iter().sum::<f64>() / layout.depth().max(1) as f64;
        let bubble = 1.0 - busy / compute_seconds;
        let with_gathers = computing(&waited.collect::<Vec<f64>>(), rounds);
        let embedding = rates.transfer(volumes.embedding_rows as f64 + volumes.requests as f64)
            + (others + 1.0) * rates.latency();
        let messages =
            layout.stages.iter().skip(1).map(|stage| 1.0 + f64::from(u8::from(stage.sends_backward())));
        let message = rates.transfer(volumes.message as f64) + rates.latency();
        let ranks = facts.ranks.total;
        let mut timing = Self {
            operations_per_second: rates.operations,
            speed_is_assumed: rates.speed_is_assumed,
            link_gbps: rates.gbps,
            link_ms: rates.ms,
            link_is_assumed: rates.link_is_assumed,
            compute_seconds,
            bubble: if layout.depth() > 1 && bubble.is_finite() { bubble.clamp(0.0, 1.0) } else { 0.0 },
            gather_seconds: (with_gathers - compute_seconds).max(0.0),
            embedding_seconds: if others > 0.0 { embedding } else { 0.0 },
            stage_seconds: messages.sum::<f64>() * message,
            all_reduce_seconds: all_reduce(volumes.all_reduce, ranks, rates),
            small_gather_seconds: small_gathers(&volumes, ranks, rates),
            step_seconds: 0.0,
        };
        timing.step_seconds = timing.compute_seconds + timing.communication();
        timing
    }

    /// What messages add to computing.
    pub fn communication(&self) -> f64 {
        self.gather_seconds
            + self.embedding_seconds
            + self.stage_seconds
            + self.all_reduce_seconds
            + self.small_gather_seconds
    }
}

/// Operations of a mean micro-batch, those of the whole model shared out over the stages by their costs.
fn stage_operations(facts: &Facts, layout: &Layout<'_>, steps: &Steps) -> Vec<f64> {
    let (mean, _) = facts.data.mean();
    let tokens = steps.tokens / steps.micro_batches.max(1) as f64;
    let of_stages = layout.stages.iter().map(|stage| stage.operations(mean));
    let a_token: f64 = of_stages.map(|(linear, attention)| linear + attention).sum();
    Stage::shares(&layout.stages).into_iter().map(|share| share * a_token * tokens).collect()
}

/// Time of M micro-batches through stages that take so long for one: (M − 1)·max + Σ.
fn computing(stages: &[f64], micro_batches: u64) -> f64 {
    let slowest = stages.iter().copied().fold(0.0, f64::max);
    let more = micro_batches.saturating_sub(1) as f64;
    stages.iter().sum::<f64>() + if more > 0.0 { more * slowest } else { 0.0 }
}

fn all_reduce(bytes: u64, ranks: u64, rates: Rates) -> f64 {
    match ranks.saturating_sub(1) {
        0 => 0.0,
        others => {
            2.0 * ratio(others, ranks) * rates.transfer(bytes as f64) + 2.0 * others as f64 * rates.latency()
        }
    }
}

fn small_gathers(volumes: &Volumes, ranks: u64, rates: Rates) -> f64 {
    // ceil(log2 n): every exchange doubles what a rank has.
    let doublings = f64::from(u64::BITS - ranks.saturating_sub(1).leading_zeros());
    rates.transfer(volumes.small_gathers as f64) + volumes.small_calls as f64 * doublings * rates.latency()
}
