//! Bytes that ranks move in a step.

use serde::Serialize;

use crate::count::{product, sum};
use crate::facts::Facts;
use crate::stage::Layout;
use crate::steps::Steps;
use crate::units::Units;
use crate::wire::{RankTraffic, small_gather};

/// What moves in a full step, axis by axis, counted as a run's own totals are: the length of a vector that is
/// all-reduced, what the others send in a gather, the length of a message.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Traffic {
    /// All ranks, then each axis along which there is more than one rank and something moves. Nothing moves along
    /// dp-replicate alone. Rows of the embedding, `embedding`, move between the ranks of dp-shard.
    pub axes: Vec<AxisTraffic>,
    /// Bytes of the busiest rank on all axes together.
    pub busiest_rank: u64,
}

/// What the busiest rank moves along one axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AxisTraffic {
    /// `world` for all ranks, otherwise the axis as its flag names it.
    pub axis: &'static str,
    /// Ranks along it.
    pub ranks: u64,
    /// The stage of the rank; none where all are alike.
    pub stage: Option<u64>,
    /// What moves.
    pub moves: Vec<Move>,
    /// Sum of the bytes.
    pub bytes: u64,
}

/// One kind of message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    /// How: `all-reduce`, `all-gather`, `send`, `receive`.
    pub operation: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Bytes.
    pub bytes: u64,
    /// How sure that is.
    pub certainty: Certainty,
}

/// What a number of bytes is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// So many in every full step.
    Exact,
    /// By the mean number of tokens of a row, padding not counted.
    Mean,
    /// Never more: which rows of the embedding are wanted depends on the tokens, and the length of rows may not be known.
    AtMost,
}

/// Gathers that every rank makes in a step: after the micro-batches, the losses, the hash of θ, after the record.
const SMALL_GATHERS: u64 = 4;

/// Bytes of a step, before they are told apart by axis.
pub(crate) struct Volumes {
    /// d integers of 64 bits and the overflow flag.
    pub all_reduce: u64,
    /// Received in small gathers by a rank.
    pub small_gathers: u64,
    /// How many those are.
    pub small_calls: u64,
    /// A rank of each stage.
    pub stages: Vec<RankTraffic>,
    /// Rows of the embedding that a rank of the first stage receives: one a token and at most V. Some it has itself.
    pub embedding_rows: u64,
    /// Received in the gather of the numbers of those rows.
    pub requests: u64,
    /// Activations of a mean micro-batch, B·T·H·c.
    pub message: u64,
}

impl Volumes {
    pub fn new(facts: &Facts, layout: &Layout<'_>, steps: &Steps) -> Self {
        let (model, shards) = (&facts.model, layout.shards().max(1));
        let units = Units { shards, number: facts.training.dtype.bytes() };
        let others = facts.ranks.total.saturating_sub(1);
        // An f64 for each micro-batch of the rank; the other payloads are shorter than a block.
        let short = product([SMALL_GATHERS - 1, small_gather(others, 0)]);
        let losses = small_gather(others, product([steps.busiest_rank, 8]));
        // Casts from f64 saturate.
        let tokens = steps.tokens / steps.micro_batches.max(1) as f64;
        let wanted = (tokens * steps.busiest_rank as f64).ceil() as u64;
        let wanted = wanted.min(model.vocab);
        let rows = product([wanted, model.hidden, units.number]);
        let stages: Vec<RankTraffic> = (0..layout.stages.len())
            .map(|at| RankTraffic::of(&layout.stages, at, units, facts.training.pp_ahead))
            .collect();
        Self {
            all_reduce: product([facts.training.d.saturating_add(1), 8]),
            small_gathers: short.saturating_add(losses),
            small_calls: SMALL_GATHERS,
            requests: stages.first().map_or(0, |first| first.requests(wanted)),
            stages,
            embedding_rows: if shards > 1 { rows } else { 0 },
            message: product([tokens.ceil() as u64, model.hidden, units.number]),
        }
    }
}

impl Traffic {
    pub(crate) fn new(facts: &Facts, layout: &Layout<'_>, steps: &Steps) -> Self {
        if facts.ranks.total < 2 {
            return Self { axes: Vec::new(), busiest_rank: 0 };
        }
        let volumes = Volumes::new(facts, layout, steps);
        let lengths = if steps.is_upper_bound { Certainty::AtMost } else { Certainty::Mean };
        let on_shards = |at: usize| shard_moves(&volumes, at, steps.busiest_rank);
        let on_stages = |at: usize| stage_moves(&volumes, at, steps.busiest_rank, lengths);
        let world = vec![
            Move {
                operation: "all-reduce",
                what: "θ's gradient",
                bytes: volumes.all_reduce,
                certainty: Certainty::Exact,
            },
            Move {
                operation: "all-gather",
                what: "losses, verdicts, hashes",
                bytes: volumes.small_gathers,
                certainty: Certainty::Exact,
            },
        ];
        let of_world = bytes_of(&world);
        let rows = |at: usize| if layout.shards() > 1 { embedding_moves(&volumes, at) } else { Vec::new() };
        let of_rank = |at| sum([on_shards(at), rows(at), on_stages(at)].iter().map(|moves| bytes_of(moves)));
        let busiest = (0..layout.stages.len()).map(of_rank).max().unwrap_or(0);
        let shards = busiest_axis("dp-shard", layout.shards(), layout.stages.len(), &on_shards);
        let embedding = busiest_axis("embedding", layout.shards(), layout.stages.len(), &rows);
        let stages = busiest_axis("pp", layout.depth(), layout.stages.len(), &on_stages);
        let ranks = facts.ranks.total;
        let world = AxisTraffic { axis: "world", ranks, stage: None, moves: world, bytes: of_world };
        Self {
            axes: [Some(world), shards, embedding, stages].into_iter().flatten().collect(),
            busiest_rank: of_world.saturating_add(busiest),
        }
    }
}

/// The axis, as the first of the stages that move most has it.
fn busiest_axis(
    axis: &'static str,
    ranks: u64,
    stages: usize,
    moves: &dyn Fn(usize) -> Vec<Move>,
) -> Option<AxisTraffic> {
    let busiest = (0..stages).rev().max_by_key(|at| bytes_of(&moves(*at))).filter(|_| ranks > 1)?;
    let moves = moves(busiest);
    let stage = (stages > 1).then_some(busiest as u64);
    Some(AxisTraffic { axis, ranks, stage, bytes: bytes_of(&moves), moves })
}

/// What a rank of a stage gathers in so many rounds.
fn shard_moves(volumes: &Volumes, at: usize, rounds: u64) -> Vec<Move> {
    let gathered = volumes.stages[at].gathered(rounds);
    let gather = |what, bytes| Move { operation: "all-gather", what, bytes, certainty: Certainty::Exact };
    let moves = [
        gather("blocks, forward", gathered.forward),
        gather("blocks, backward", gathered.backward),
        gather("head's tiles", gathered.head),
    ];
    moves.into_iter().filter(|one| one.bytes > 0).collect()
}

/// Rows of the embedding that a rank of the first stage asks its shard group for.
fn embedding_moves(volumes: &Volumes, at: usize) -> Vec<Move> {
    let at_most = |operation, what, bytes| Move { operation, what, bytes, certainty: Certainty::AtMost };
    match at {
        0 => vec![
            at_most("all-gather", "requests", volumes.requests),
            at_most("receive", "rows", volumes.embedding_rows),
        ],
        _ => Vec::new(),
    }
}

/// What a rank of a stage says to its neighbours for so many micro-batches.
fn stage_moves(volumes: &Volumes, at: usize, micro_batches: u64, certainty: Certainty) -> Vec<Move> {
    let (sent, received) = volumes.stages[at].messages_of_a_micro_batch();
    let message = |operation, what, count: u64| Move {
        operation,
        what,
        bytes: product([micro_batches, count, volumes.message]),
        certainty,
    };
    let moves = [
        message("send", "activations and gradients", sent),
        message("receive", "activations and gradients", received),
    ];
    moves.into_iter().filter(|one| one.bytes > 0).collect()
}

fn bytes_of(moves: &[Move]) -> u64 {
    sum(moves.iter().map(|one| one.bytes))
}
