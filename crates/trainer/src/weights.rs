//! The frozen weights of a rank's stage, as a pass sees them: all at hand, or gathered unit by unit.

mod direct;
mod host;
mod pieces;
mod rows;
mod sharded;

use std::ops::Range;

use mesh::{Gather, Mesh, StageUnits};
use model::{BlockWeights, Head, ModelConfig, WeightReader, WholeHead, tile_count};
use tch::Tensor;

use crate::TrainError;

pub(crate) use sharded::{ShardOptions, Sharded};

/// What a rank's pipeline stage is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Its number.
    pub number: usize,
    /// Number of stages.
    pub of: usize,
    /// Its blocks.
    pub blocks: Range<usize>,
    /// The model's first block with adapted weights.
    pub first_adapted: usize,
}

impl Stage {
    /// The only stage of a model of so many blocks.
    pub fn whole(blocks: usize, first_adapted: usize) -> Self {
        Self { number: 0, of: 1, blocks: 0..blocks, first_adapted }
    }

    /// The stage that `rank` of `mesh` is in; `stages` are the blocks of all.
    pub(crate) fn of_rank(mesh: &Mesh, rank: usize, stages: &[Range<usize>], first_adapted: usize) -> Self {
        let number = mesh.coordinates(rank).stage;
        Self { number, of: stages.len(), blocks: stages[number].clone(), first_adapted }
    }

    /// It embeds tokens.
    pub fn is_first(&self) -> bool {
        self.number == 0
    }

    /// It has the final norm, the head and the loss.
    pub fn is_last(&self) -> bool {
        self.number + 1 == self.of
    }

    /// The stage before it has something to learn.
    pub fn passes_gradients_back(&self) -> bool {
        !self.is_first() && self.first_adapted < self.blocks.start
    }

    /// The stage after it sends gradients.
    pub fn gets_gradients(&self) -> bool {
        !self.is_last() && self.first_adapted < self.blocks.end
    }

    /// What is gathered of it where its weights are shared out.
    pub fn units(&self, config: &ModelConfig) -> StageUnits {
        let tiles = if self.is_last() { tile_count(config.vocab_size) } else { 0 };
        StageUnits { blocks: self.blocks.clone(), first_adapted: self.first_adapted, tiles }
    }
}

/// The frozen weights of a stage. As a [`Head`] it hands out the tiles of the output projection, on the last stage,
/// between [`FrozenWeights::open_head`] and [`FrozenWeights::close_head`].
///
/// Where they are shared out, every call but `blocks` and `norm` is collective, in the order that [`begin`] was told.
///
/// [`begin`]: FrozenWeights::begin
pub trait FrozenWeights: Head<Error = TrainError> {
    /// What comes next: the units to be had, in this order, and the tokens whose embeddings are wanted (on the first
    /// stage; one's own, in any order).
    ///
    /// # Errors
    /// There is no memory for the embeddings.
    fn begin(&mut self, gathers: Vec<Gather>, ids: &[i64]) -> Result<(), TrainError>;

    /// The weights of a block, until [`FrozenWeights::release`].
    fn acquire(&mut self, block: usize) -> BlockWeights;

    /// A block's weights are not read any more, unless by a graph that runs after they were acquired once more.
    fn release(&mut self, block: usize);

    /// The table to look tokens up in, and for each token of `ids` its row there.
    fn embedding(&self, ids: &[i64]) -> (Tensor, Vec<i64>);

    /// The final norm, on the last stage.
    fn norm(&self) -> &Tensor;

    /// Tiles are wanted next.
    fn open_head(&mut self);

    /// No tile is wanted any more.
    fn close_head(&mut self);
}

/// The weights of a stage on one rank.
pub struct Resident {
    blocks: Range<usize>,
    weights: Vec<BlockWeights>,
    embedding: Option<Tensor>,
    norm: Option<Tensor>,
    head: Option<Tensor>,
}

impl Resident {
    /// Loads a stage, telling the number of blocks done.
    ///
    /// # Errors
    /// A tensor that is missing or not as the model's configuration implies.
    pub fn load(
        reader: &WeightReader<'_>,
        stage: &Stage,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self, TrainError> {
        let mut weights = Vec::with_capacity(stage.blocks.len());
        for block in stage.blocks.clone() {
            weights.push(reader.block(block)?);
            progress(weights.len(), stage.blocks.len());
        }
        let embedding = stage.is_first().then(|| reader.embedding()).transpose()?;
        let head = match (&embedding, stage.is_last()) {
            (_, false) => None,
            (Some(table), true) if reader.config.tie_word_embeddings => Some(table.shallow_clone()),
            (_, true) => Some(reader.head()?),
        };
        let norm = stage.is_last().then(|| reader.norm()).transpose()?;
        Ok(Self { blocks: stage.blocks.clone(), weights, embedding, norm, head })
    }

    /// A whole model's.
    pub fn whole(weights: &model::DecoderWeights) -> Self {
        Self {
            blocks: 0..weights.blocks.len(),
            weights: weights.blocks.iter().map(BlockWeights::share).collect(),
            embedding: Some(weights.embedding.shallow_clone()),
            norm: Some(weights.norm.shallow_clone()),
            head: Some(weights.head.shallow_clone()),
        }
    }
}

impl FrozenWeights for Resident {
    fn begin(&mut self, _gathers: Vec<Gather>, _ids: &[i64]) -> Result<(), TrainError> {
        Ok(())
    }

    fn acquire(&mut self, block: usize) -> BlockWeights {
        self.weights[block - self.blocks.start].share()
    }

    fn release(&mut self, _block: usize) {}

    fn embedding(&self, ids: &[i64]) -> (Tensor, Vec<i64>) {
        (there(&self.embedding).shallow_clone(), ids.to_vec())
    }

    fn norm(&self) -> &Tensor {
        there(&self.norm)
    }

    fn open_head(&mut self) {}

    fn close_head(&mut self) {}
}

impl Head for Resident {
    type Error = TrainError;

    fn tiles(&self) -> usize {
        WholeHead(there(&self.head)).tiles()
    }

    fn is_at_hand(&self) -> bool {
        true
    }

    fn tile(&mut self, tile: usize) -> Result<Tensor, TrainError> {
        match WholeHead(there(&self.head)).tile(tile) {
            Ok(tile) => Ok(tile),
            Err(never) => match never {},
        }
    }
}

/// What only the first or the last stage has, and only they ask for.
fn there(tensor: &Option<Tensor>) -> &Tensor {
    tensor.as_ref().unwrap_or_else(|| unreachable!("a stage is asked for what it has"))
}
