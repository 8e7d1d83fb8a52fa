//! What a rank moves for a step on the axes of its mesh, to the byte.

use std::ops::AddAssign;

use mesh::{Mesh, StageError};

use crate::count::{product, sum};
use crate::facts::{Dtype, Model};
use crate::stage::Stage;
use crate::units::Units;

/// Bytes that one rank moved, as its ledger counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Received from the others in all-gathers of weights along dp-shard.
    pub gathered: u64,
    /// Sent to the neighbouring stages along pp.
    pub sent: u64,
    /// Received from them.
    pub received: u64,
}

impl AddAssign for Moved {
    fn add_assign(&mut self, other: Self) {
        self.gathered = self.gathered.saturating_add(other.gathered);
        self.sent = self.sent.saturating_add(other.sent);
        self.received = self.received.saturating_add(other.received);
    }
}

/// What one rank of a mesh moves of weights and activations. Of the embedding it only knows the requests: which rows are
/// sent depends on the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankTraffic {
    units: GatheredUnits,
    /// S − 1.
    others: u64,
    is_first: bool,
    /// H·c: what goes from a stage to the next for a token.
    token: u64,
    sends: Directions,
    receives: Directions,
}

/// Which messages between stages there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Directions {
    outputs: bool,
    gradients: bool,
}

/// Amounts of all of a stage's units, in bytes that a rank receives of them or in gathers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Amounts {
    /// All blocks.
    forward: u64,
    /// Those that gradients go through.
    backward: u64,
    /// All tiles of the head.
    head: u64,
    /// The last one.
    last_tile: u64,
    /// The first block.
    first: u64,
    /// The last block.
    last: u64,
}

/// What a stage gathers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GatheredUnits {
    bytes: Amounts,
    gathers: Amounts,
    /// The forwards of 1F1B's warm-up, unless there are fewer in all.
    warm_up: u64,
}

/// Gathers of some rounds, in bytes or in calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gathered {
    /// Of blocks for forward.
    pub forward: u64,
    /// Of blocks for backward.
    pub backward: u64,
    /// Of the head's tiles.
    pub head: u64,
}

impl Gathered {
    pub fn total(self) -> u64 {
        sum([self.forward, self.backward, self.head])
    }
}

impl Directions {
    fn count(self) -> u64 {
        u64::from(self.outputs) + u64::from(self.gradients)
    }
}

impl GatheredUnits {
    fn new(stage: &Stage<'_>, units: Units, ahead: bool) -> Self {
        let model = stage.model;
        // A rank receives the others' pieces.
        let others = units.shards.saturating_sub(1);
        let of = |each: &dyn Fn(u64) -> u64, [head, last_tile]: [u64; 2]| {
            let blocks = |backward: bool| {
                let runs = stage.runs.iter().filter(|run| run.backward || !backward);
                sum(runs.map(|run| product([run.repeat, each(units.block_piece(model, run.run))])))
            };
            let end = |run: Option<&crate::stage::StageRun<'_>>| {
                run.map_or(0, |run| each(units.block_piece(model, run.run)))
            };
            let (first, last) = (end(stage.runs.first()), end(stage.runs.last()));
            Amounts { forward: blocks(false), backward: blocks(true), head, last_tile, first, last }
        };
        let (tiles, table) = match stage.is_last() {
            true => (units.tiles(model), [units.table_pieces(model), units.last_tile(model)]),
            false => (0, [0, 0]),
        };
        let bytes = of(&|piece| product([piece, others]), table.map(|piece| product([piece, others])));
        let gathers = of(&|_| 1, [tiles, tiles.min(1)]);
        Self { bytes, gathers, warm_up: stage.warm_up(ahead) }
    }

    /// Rounds of training. Each gathers every block forward, the head's tiles there and back, and from the last to the
    /// first the blocks that gradients go through. A unit that is needed again at once is not gathered again: the last
    /// tile, and the block in which two actions of 1F1B meet.
    fn training(&self, of: impl Fn(&Self) -> Amounts, rounds: u64) -> Gathered {
        let (amounts, Amounts { forward: blocks, backward, head: tiles, .. }) = (of(self), self.gathers);
        let meet = Meetings::new(self.warm_up, rounds);
        // A forward ends in its last block unless tiles follow, and a backward in its first one of those there are.
        let ends_in_block = tiles == 0 && blocks > 0;
        let (forwards, forward_backward, backward_forward, backwards) = match backward {
            // No backward comes between forwards.
            0 => (rounds.saturating_sub(1), 0, 0, 0),
            _ => (meet.forwards, meet.forward_backward, meet.backward_forward, meet.backwards),
        };
        let when = |is: bool, times: u64, amount: u64| if is { product([times, amount]) } else { 0 };
        let still_forward = sum([
            when(ends_in_block && blocks == 1, forwards, amounts.first),
            when(backward == blocks, backward_forward, amounts.first),
        ]);
        let still_backward = sum([
            when(ends_in_block, forward_backward, amounts.last),
            when(backward == 1, backwards, amounts.last),
        ]);
        let there_and_back = product([2, amounts.head]).saturating_sub(amounts.last_tile);
        Gathered {
            forward: product([rounds, amounts.forward]).saturating_sub(still_forward),
            backward: product([rounds, amounts.backward]).saturating_sub(still_backward),
            head: product([rounds, there_and_back]),
        }
    }

    /// Rounds of forwards alone.
    fn forwards(&self, rounds: u64) -> u64 {
        let one_block = self.gathers.head == 0 && self.gathers.forward == 1;
        let still = if one_block { product([rounds.saturating_sub(1), self.bytes.first]) } else { 0 };
        let all = self.bytes.forward.saturating_add(self.bytes.head);
        product([rounds, all]).saturating_sub(still)
    }
}

/// How often actions of 1F1B's order follow each other on a stage, where there are backwards.
struct Meetings {
    forwards: u64,
    forward_backward: u64,
    backward_forward: u64,
    backwards: u64,
}

impl Meetings {
    /// After `warm_up` forwards come pairs of a forward and a backward, then the backwards that are left
    /// ([`mesh::one_forward_one_backward`]).
    fn new(warm_up: u64, rounds: u64) -> Self {
        let warm_up = warm_up.min(rounds);
        let pairs = rounds - warm_up;
        let one = |is: bool| u64::from(is);
        Self {
            forwards: warm_up.saturating_sub(one(pairs == 0)),
            forward_backward: pairs + one(pairs == 0 && rounds > 0),
            backward_forward: pairs.saturating_sub(1),
            backwards: warm_up.saturating_sub(one(pairs == 0)),
        }
    }
}

impl RankTraffic {
    /// The traffic of `rank`, which is below the mesh's number of ranks; `ahead` as in [`mesh::warm_up`].
    ///
    /// # Errors
    /// [`StageError::TooMany`] when the mesh has more stages than the model blocks.
    pub fn new(
        model: &Model,
        dtype: Dtype,
        mesh: &Mesh,
        rank: usize,
        ahead: bool,
    ) -> Result<Self, StageError> {
        let degrees = mesh.degrees();
        let stages = Stage::all(model, degrees.pp)?;
        let at = mesh.coordinates(rank).stage.min(degrees.pp - 1);
        let units = Units { shards: degrees.dp_shard as u64, number: dtype.bytes() };
        Ok(Self::of(&stages, at, units, ahead))
    }

    /// The traffic of a rank of stage `at`.
    pub(crate) fn of(stages: &[Stage<'_>], at: usize, units: Units, ahead: bool) -> Self {
        let stage = &stages[at];
        let next = stages.get(at + 1);
        Self {
            units: GatheredUnits::new(stage, units, ahead),
            others: units.shards.saturating_sub(1),
            is_first: stage.is_first(),
            token: product([stage.model.hidden, units.number]),
            sends: Directions { outputs: next.is_some(), gradients: stage.sends_backward() },
            receives: Directions {
                outputs: at > 0,
                gradients: next.is_some_and(|next| next.sends_backward()),
            },
        }
    }

    /// A step. `micro_batches` are rows and padded length of those of the rank's pipeline; its shard group goes through
    /// the model `rounds` times ([`Mesh::rounds_of`]). What is gathered is what [`mesh::StageUnits::training`] lists;
    /// between stages go a micro-batch's activations in the compute dtype and, where a block before the boundary is
    /// adapted, as many bytes of gradients.
    pub fn step(&self, micro_batches: &[(u64, u64)], rounds: u64) -> Moved {
        let tokens = tokens(micro_batches);
        Moved {
            gathered: self.gathered(rounds).total(),
            sent: self.messages(tokens, self.sends),
            received: self.messages(tokens, self.receives),
        }
    }

    /// Forward alone, as for held-out data and samples: [`mesh::StageUnits::forwards`].
    pub fn forward_alone(&self, batches: &[(u64, u64)], rounds: u64) -> Moved {
        let tokens = tokens(batches);
        let outputs = |directions: Directions| Directions { gradients: false, ..directions };
        Moved {
            gathered: self.units.forwards(rounds),
            sent: self.messages(tokens, outputs(self.sends)),
            received: self.messages(tokens, outputs(self.receives)),
        }
    }

    /// Bytes gathered along the axis `embedding` when the ranks of the first stage tell each other which rows
    /// of the embedding they want: once for each call of [`Self::step`] and [`Self::forward_alone`]. `most` is the
    /// largest number of different tokens of one of them.
    pub fn requests(&self, most: u64) -> u64 {
        match self.is_first {
            true => small_gather(self.others, product([most, 4])),
            false => 0,
        }
    }

    /// What so many rounds of training gather.
    pub(crate) fn gathered(&self, rounds: u64) -> Gathered {
        self.units.training(|units| units.bytes, rounds)
    }

    /// In how many gathers.
    pub(crate) fn gathers(&self, rounds: u64) -> u64 {
        self.units.training(|units| units.gathers, rounds).total()
    }

    /// Messages that the rank sends and receives for a micro-batch of training.
    pub(crate) fn messages_of_a_micro_batch(&self) -> (u64, u64) {
        (self.sends.count(), self.receives.count())
    }

    fn messages(&self, tokens: u64, directions: Directions) -> u64 {
        product([directions.count(), tokens, self.token])
    }
}

/// Bytes of the block that each rank sends in a gather of bytes, and of those the payload's.
const BLOCK: u64 = 128;
const INLINE: u64 = 120;
/// Longer payloads follow in blocks of a multiple of this.
const ALIGNMENT: u64 = 64;

/// What a rank receives in a gather of bytes from so many others: a block of each and, where the widest payload does not
/// fit one, a second block of that width.
pub(crate) fn small_gather(others: u64, widest: u64) -> u64 {
    let more = if widest > INLINE { product([widest.div_ceil(ALIGNMENT), ALIGNMENT]) } else { 0 };
    product([others, BLOCK.saturating_add(more)])
}

fn tokens(micro_batches: &[(u64, u64)]) -> u64 {
    sum(micro_batches.iter().map(|(rows, length)| product([*rows, *length])))
}
