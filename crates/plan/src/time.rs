//! How long a step takes: computing, waiting for stages, and messages over given links.

use serde::Serialize;

use crate::count::ratio;
use crate::facts::{Facts, Speed};
use crate::measurement::Measured;
use crate::network::{Group, Network, assumed_operations};
use crate::stage::{Layout, Stage};
use crate::steps::Steps;
use crate::traffic::Volumes;

/// Seconds of a full step, part by part, of the rank that takes longest.
///
/// With c_p the computing of a micro-batch on stage p (operations by the formula of [`crate::Work`], shared out by what
/// stages are split by, over `operations_per_second`), M the micro-batches of the busiest pipeline and P stages:
///
/// | part | formula |
/// |---|---|
/// | computing | (M − 1)·max c_p + Σ c_p: 1F1B goes at the pace of the slowest stage once it is full |
/// | bubble | 1 − M·Σ c_p / (P · computing), which is (P − 1)/(M + P − 1) where stages are equal |
/// | once a step | θ's update as measured and, where ΔW is written once a step, that of the largest stage; 0 where nothing was measured |
/// | weights not there in time | the same with max(c_p, g_p) in place of c_p, less it: gathers go on while a rank computes, unless `--prefetch` is off (c_p + g_p); g_p = bytes of a round / bandwidth + gathers of a round · L(S), on a ring |
/// | embedding rows | requests and rows at most / bandwidth + L(S) + latency: a ring, then the rows |
/// | messages of stages | for each boundary and direction, a micro-batch's activations / bandwidth + latency: the others travel while stages compute |
/// | all-reduce | 2·(n − 1)/n · bytes / bandwidth + 2·L(n) over all n ranks: a ring |
/// | small gathers | bytes / bandwidth + ⌈log2(n)⌉·latency for each, at distances 1, 2, 4 … |
///
/// Bandwidth is that of the slowest link that the ranks in question go over: one within a host where they are all on one,
/// otherwise one rank's between hosts. L(n) is the latency of the n − 1 links that a piece passes on a ring of n
/// neighbouring ranks: (n − 1)·latency within a host and, over h > 1 hosts, h of them those of links between hosts.
/// Ranks are numbered host by host.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timing {
    /// Operations a second of a rank that this was reckoned with.
    pub operations_per_second: f64,
    /// No throughput was given, and a usual one assumed.
    pub speed_is_assumed: bool,
    /// Hosts that the ranks are on.
    pub hosts: u64,
    /// 10^9 bits a second of a rank's link within a host that this was reckoned with.
    pub local_gbps: f64,
    /// Its latency, milliseconds.
    pub local_ms: f64,
    /// Nothing was said of links, and usual ones within a host assumed.
    pub local_is_assumed: bool,
    /// 10^9 bits a second of a rank's link between hosts that this was reckoned with.
    pub link_gbps: f64,
    /// Its latency, milliseconds.
    pub link_ms: f64,
    /// Nothing was said of links between hosts, and usual ones assumed.
    pub link_is_assumed: bool,
    /// Some link that messages go over is an assumed one.
    pub messages_are_assumed: bool,
    /// Computing, with the waiting of uneven shares and of the pipeline.
    pub compute_seconds: f64,
    /// Share of that in which the stages of the busiest pipeline wait for each other, on average.
    pub bubble: f64,
    /// What every rank does once a step, whatever its share of it.
    pub once_seconds: f64,
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
    network: Network,
    /// Seconds once a step of θ's update, and of writing ΔW of the whole model.
    update: f64,
    apply: f64,
}

impl Rates {
    /// As given, measured or assumed. A throughput of the whole run is one of the mesh of the facts, and tells what a
    /// rank of any other mesh does.
    pub fn of(facts: &Facts) -> Self {
        let measured = measured(facts);
        let operations = match &facts.speed {
            Some(Speed::TeraflopsPerRank(rate)) => Some(rate * 1e12),
            Some(Speed::TokensPerSecond(rate)) => Layout::new(facts).ok().map(|layout| {
                let steps = Steps::new(facts);
                computing(&stage_operations(facts, &layout, &steps), steps.busiest_rank) * rate / steps.tokens
            }),
            Some(Speed::Measured(_)) => measured.as_ref().map(|measured| measured.operations_per_second),
            None => None,
        };
        let operations = operations.filter(|value| value.is_finite() && *value > 0.0);
        Self {
            operations: operations.unwrap_or_else(|| assumed_operations(facts)),
            speed_is_assumed: operations.is_none(),
            network: Network::of(facts),
            update: measured.as_ref().map_or(0.0, |measured| measured.update_seconds),
            apply: measured.as_ref().map_or(0.0, |measured| measured.apply_seconds),
        }
    }
}

/// What is taken from a measurement, where one was given.
pub(crate) fn measured(facts: &Facts) -> Option<Measured> {
    match &facts.speed {
        Some(Speed::Measured(measurement)) => measurement.of_rank(facts),
        _ => None,
    }
}

impl Timing {
    pub(crate) fn new(facts: &Facts, layout: &Layout<'_>, steps: &Steps, rates: Rates) -> Self {
        let volumes = Volumes::new(facts, layout, steps);
        let (network, ranks) = (rates.network, facts.ranks.total);
        let (all, shards) = (network.all(ranks), network.shard_group(layout.shards(), ranks));
        let compute: Vec<f64> =
            stage_operations(facts, layout, steps).iter().map(|stage| stage / rates.operations).collect();
        let rounds = steps.busiest_rank;
        let waited = volumes.stages.iter().zip(&compute).map(|(stage, compute)| {
            let (bytes, gathers) = (stage.gathered(rounds).total() as f64, stage.gathers(rounds) as f64);
            let gathering = network.pace(shards).transfer(bytes) + gathers * network.ring_latency(shards);
            let gathering = gathering / rounds.max(1) as f64;
            if facts.training.prefetch { compute.max(gathering) } else { compute + gathering }
        });
        let compute_seconds = computing(&compute, rounds);
        let busy = rounds as f64 * compute.iter().sum::<f64>() / layout.depth().max(1) as f64;
        let bubble = 1.0 - busy / compute_seconds;
        let with_gathers = computing(&waited.collect::<Vec<f64>>(), rounds);
        let (local, between) = (network.local, network.between);
        let is_local_used = network.is_local_used(ranks);
        let mut timing = Self {
            operations_per_second: rates.operations,
            speed_is_assumed: rates.speed_is_assumed,
            hosts: all.hosts,
            local_gbps: local.gbps,
            local_ms: local.ms,
            local_is_assumed: local.is_assumed,
            link_gbps: between.gbps,
            link_ms: between.ms,
            link_is_assumed: between.is_assumed,
            messages_are_assumed: is_local_used && local.is_assumed || all.hosts > 1 && between.is_assumed,
            compute_seconds,
            bubble: if layout.depth() > 1 && bubble.is_finite() { bubble.clamp(0.0, 1.0) } else { 0.0 },
            once_seconds: rates.update + rates.apply * largest_adapted_share(layout),
            gather_seconds: (with_gathers - compute_seconds).max(0.0),
            embedding_seconds: embedding(&volumes, network, shards),
            stage_seconds: stage_messages(&volumes, layout, network),
            all_reduce_seconds: all_reduce(volumes.all_reduce, network, all),
            small_gather_seconds: small_gathers(&volumes, network, all),
            step_seconds: 0.0,
        };
        timing.step_seconds = timing.compute_seconds + timing.once_seconds + timing.communication();
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

/// Of the adapted weights, what the stage with the most has.
fn largest_adapted_share(layout: &Layout<'_>) -> f64 {
    let counts = || layout.stages.iter().map(|stage| stage.adapted_count());
    let all: f64 = counts().map(|count| count as f64).sum();
    if all > 0.0 { counts().max().unwrap_or(0) as f64 / all } else { 0.0 }
}

/// Requests go round a ring, and the rows come in a message each.
fn embedding(volumes: &Volumes, network: Network, shards: Group) -> f64 {
    match shards.ranks {
        0 | 1 => 0.0,
        _ => {
            let pace = network.pace(shards);
            let bytes = volumes.embedding_rows as f64 + volumes.requests as f64;
            pace.transfer(bytes) + network.ring_latency(shards) + pace.latency()
        }
    }
}

/// A message over each boundary in each direction that there is.
fn stage_messages(volumes: &Volumes, layout: &Layout<'_>, network: Network) -> f64 {
    let boundaries = layout.stages.iter().skip(1).map(|stage| {
        let pace = network.stage_boundary(stage.index, layout.pipelines());
        let directions = 1.0 + f64::from(u8::from(stage.sends_backward()));
        directions * (pace.transfer(volumes.message as f64) + pace.latency())
    });
    // An empty sum of floats is -0.
    boundaries.fold(0.0, |all, boundary| all + boundary)
}

fn all_reduce(bytes: u64, network: Network, all: Group) -> f64 {
    match all.ranks.saturating_sub(1) {
        0 => 0.0,
        others => {
            2.0 * ratio(others, all.ranks) * network.pace(all).transfer(bytes as f64)
                + 2.0 * network.ring_latency(all)
        }
    }
}

fn small_gathers(volumes: &Volumes, network: Network, all: Group) -> f64 {
    let bytes = network.pace(all).transfer(volumes.small_gathers as f64);
    bytes + volumes.small_calls as f64 * network.doubling_latency(all)
}
