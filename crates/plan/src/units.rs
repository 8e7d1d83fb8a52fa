//! Frozen weights of a rank: whole tensors, or pieces of what is gathered.
//!
//! A gathered unit is a block, its tensors end to end, each rounded up to 64 bytes, or a tile of 16,384 rows of the
//! embedding or head. Each of S ranks holds an equal piece: of a block ceil(bytes / S) rounded up to 64 bytes, of a tile
//! ceil(rows / S) rows, rounded up to a number of rows whose bytes 64 divides.

use crate::count::{product, sum};
use crate::facts::{BlockRun, Model};
use crate::stage::Stage;

/// Rows of a tile of the embedding or head.
pub const TILE_ROWS: u64 = 16_384;

/// Bytes that every tensor of a block and every piece is rounded up to.
const ALIGNMENT: u64 = 64;

/// What a rank holds and gathers of one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Units {
    /// S.
    pub shards: u64,
    /// c.
    pub number: u64,
}

impl Units {
    /// A rank's piece of a block, bytes.
    pub fn block_piece(self, model: &Model, run: &BlockRun) -> u64 {
        aligned(self.block_bytes(model, run).div_ceil(self.shards.max(1)))
    }

    /// A block's tensors end to end: two norms, the linear maps' weights and biases.
    fn block_bytes(self, model: &Model, run: &BlockRun) -> u64 {
        let tensor = |numbers: u64| aligned(product([numbers, self.number]));
        let linears = run.linears.iter().map(|linear| {
            let bias = if linear.bias { tensor(linear.outputs) } else { 0 };
            tensor(linear.weights()).saturating_add(bias)
        });
        sum(linears.chain([product([2, tensor(model.hidden)])]))
    }

    /// A rank's piece of a tile of so many rows, bytes: [`mesh::piece_rows`], for any numbers.
    pub fn tile_piece(self, model: &Model, rows: u64) -> u64 {
        let row = product([model.hidden, self.number]);
        // 64 over the greatest common divisor; of 0 and 64 that is 64.
        let step = ALIGNMENT >> row.trailing_zeros().min(ALIGNMENT.trailing_zeros());
        let rows = rows.div_ceil(self.shards.max(1)).div_ceil(step);
        product([rows, step, row])
    }

    /// A rank's pieces of all tiles of a table of V rows.
    pub fn table_pieces(self, model: &Model) -> u64 {
        let (full, rest) = (model.vocab / TILE_ROWS, model.vocab % TILE_ROWS);
        product([full, self.tile_piece(model, TILE_ROWS)]).saturating_add(self.tile_piece(model, rest))
    }

    /// Bytes of the embedding, head and norms that a rank of a stage holds. Norms of blocks are counted here where
    /// weights are not cut, and belong to the blocks' pieces where they are.
    pub fn ends(self, stage: &Stage<'_>) -> u64 {
        let model = stage.model;
        let whole = product([model.vocab, model.hidden, self.number]);
        let table = if self.shards > 1 { self.table_pieces(model) } else { whole };
        let norms = if self.shards > 1 { 0 } else { product([2, stage.block_count()]) };
        let final_norm = u64::from(stage.is_last());
        sum([
            if stage.is_first() { table } else { 0 },
            // Tied, the head is the embedding, which one stage has already.
            if stage.is_last() && !(model.tied && stage.is_first()) { table } else { 0 },
            product([norms.saturating_add(final_norm), model.hidden, self.number]),
        ])
    }

    /// Bytes of the blocks' weights that a rank of a stage holds.
    pub fn blocks(self, stage: &Stage<'_>) -> u64 {
        let of_block = |run: &BlockRun| match self.shards > 1 {
            true => self.block_piece(stage.model, run),
            false => product([sum(run.linears.iter().map(|linear| linear.parameters())), self.number]),
        };
        sum(stage.runs.iter().map(|run| product([run.repeat, of_block(run.run)])))
    }

    /// The largest unit that a rank of the stage gathers, bytes; 0 where nothing is.
    pub fn largest(self, stage: &Stage<'_>) -> u64 {
        if self.shards <= 1 {
            return 0;
        }
        let tile = self.tile_piece(stage.model, stage.model.vocab.min(TILE_ROWS));
        let blocks = stage.runs.iter().map(|run| self.block_piece(stage.model, run.run));
        let piece = blocks.chain(stage.is_last().then_some(tile)).max().unwrap_or(0);
        product([piece, self.shards])
    }

    /// A rank's piece of the last tile of a table.
    pub fn last_tile(self, model: &Model) -> u64 {
        let rest = model.vocab % TILE_ROWS;
        self.tile_piece(model, if rest == 0 { model.vocab.min(TILE_ROWS) } else { rest })
    }

    /// Tiles of the head.
    pub fn tiles(self, model: &Model) -> u64 {
        model.vocab.div_ceil(TILE_ROWS)
    }
}

/// Rounded up to a multiple of 64.
fn aligned(bytes: u64) -> u64 {
    product([bytes.div_ceil(ALIGNMENT), ALIGNMENT])
}
