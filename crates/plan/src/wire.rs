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

/// What one rank of a mesh moves of weights and activations. Rows of the embedding are not in it: they depend on the
/// tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankTraffic {
    /// All blocks of the stage, gathered once.
    pub(crate) forward: u64,
    /// Those that gradients go through.
    pub(crate) backward: u64,
    /// The head's tiles, once; on the last stage.
    pub(crate) head: u64,
    /// Gathers of a round of training.
    pub(crate) gathers: u64,
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

impl Directions {
    fn count(self) -> u64 {
        u64::from(self.outputs) + u64::from(self.gradients)
    }
}

impl RankTraffic {
    /// The traffic of `rank`, which is below the mesh's number of ranks.
    ///
    /// # Errors
    /// [`StageError::TooMany`] when the mesh has more stages than the model blocks.
    pub fn new(model: &Model, dtype: Dtype, mesh: &Mesh, rank: usize) -> Result<Self, StageError> {
        let degrees = mesh.degrees();
        let stages = Stage::all(model, degrees.pp)?;
        let at = mesh.coordinates(rank).stage.min(degrees.pp - 1);
        let units = Units { shards: degrees.dp_shard as u64, number: dtype.bytes() };
        Ok(Self::of(&stages, at, units))
    }

    /// The traffic of a rank of stage `at`.
    pub(crate) fn of(stages: &[Stage<'_>], at: usize, units: Units) -> Self {
        let (stage, model) = (&stages[at], stages[at].model);
        // A rank receives the others' pieces.
        let others = units.shards.saturating_sub(1);
        let received = |backward: bool| {
            let runs = stage.runs.iter().filter(|run| run.backward || !backward);
            sum(runs.map(|run| product([run.repeat, units.block_piece(model, run.run), others])))
        };
        let blocks = stage.with_backward().map(|run| run.repeat).chain([stage.block_count()]);
        let has_head = stage.is_last() && units.shards > 1;
        let tiles = if has_head { product([2, units.tiles(model)]) } else { 0 };
        let next = stages.get(at + 1);
        Self {
            forward: received(false),
            backward: received(true),
            head: if has_head { product([units.table_pieces(model), others]) } else { 0 },
            gathers: if units.shards > 1 { sum(blocks.chain([tiles])) } else { 0 },
            token: product([model.hidden, units.number]),
            sends: Directions { outputs: next.is_some(), gradients: stage.sends_backward() },
            receives: Directions {
                outputs: at > 0,
                gradients: next.is_some_and(|next| next.sends_backward()),
            },
        }
    }

    /// A step. `micro_batches` are rows and padded length of those of the rank's pipeline; its shard group goes through
    /// the model `rounds` times ([`Mesh::rounds_of`]). A round gathers every block forward, again those that gradients go
    /// through, and the head's tiles twice. Between stages go a micro-batch's activations in the compute dtype
    /// and, where a block before the boundary is adapted, as many bytes of gradients.
    pub fn step(&self, micro_batches: &[(u64, u64)], rounds: u64) -> Moved {
        let tokens = tokens(micro_batches);
        Moved {
            gathered: product([rounds, self.round()]),
            sent: self.messages(tokens, self.sends),
            received: self.messages(tokens, self.receives),
        }
    }

    /// Forward alone, as for held-out data: every block and tile is gathered once a round.
    pub fn forward_alone(&self, batches: &[(u64, u64)], rounds: u64) -> Moved {
        let tokens = tokens(batches);
        let outputs = |directions: Directions| Directions { gradients: false, ..directions };
        Moved {
            gathered: product([rounds, self.forward.saturating_add(self.head)]),
            sent: self.messages(tokens, outputs(self.sends)),
            received: self.messages(tokens, outputs(self.receives)),
        }
    }

    /// What a round of training gathers.
    pub(crate) fn round(&self) -> u64 {
        sum([self.forward, self.backward, self.head, self.head])
    }

    /// Messages that the rank sends and receives for a micro-batch of training.
    pub(crate) fn messages_of_a_micro_batch(&self) -> (u64, u64) {
        (self.sends.count(), self.receives.count())
    }

    fn messages(&self, tokens: u64, directions: Directions) -> u64 {
        product([directions.count(), tokens, self.token])
    }
}

fn tokens(micro_batches: &[(u64, u64)]) -> u64 {
    sum(micro_batches.iter().map(|(rows, length)| product([*rows, *length])))
}
