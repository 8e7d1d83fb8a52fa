//! A rank's pieces of the units of its stage, as they are read.

use comm::{PIECE_ALIGNMENT, Piece, Region};
use mesh::{Unit, piece_bytes};
use model::{WeightReader, block_specs, tile_rows};
use tch::Kind;

use super::Stage;
use super::rows::TableLayout;
use crate::TrainError;

/// A rank's pieces of everything that is gathered.
pub(super) struct Pieces<P> {
    /// The stage's first block.
    first: usize,
    /// Of each block of the stage.
    pub(super) blocks: Vec<P>,
    /// Of the head's tiles, on the last stage.
    pub(super) head: Vec<P>,
}

impl<P> Pieces<P> {
    /// The piece of a unit.
    pub(super) fn of(&self, unit: Unit) -> &P {
        match unit {
            Unit::Block(block) => &self.blocks[block - self.first],
            Unit::Tile(tile) => &self.head[tile],
        }
    }

    /// The place of a block in the stage.
    pub(super) fn place(&self, block: usize) -> usize {
        block - self.first
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &P> {
        self.blocks.iter().chain(&self.head)
    }
}

/// Reads a rank's pieces of a stage, one after the other; `keep` takes each to where it stays. Those of the embedding, on
/// the first stage, come beside them: their rows are sent from the host's memory.
///
/// # Errors
/// A tensor that is missing or not as the model's configuration implies; no memory.
pub(super) fn read_pieces<P>(
    reader: &WeightReader<'_>,
    stage: &Stage,
    layout: &TableLayout,
    shard: usize,
    keep: impl Fn(Piece) -> P,
    progress: &dyn Fn(usize, usize),
) -> Result<(Pieces<P>, Vec<Piece>), TrainError> {
    let mut blocks = Vec::with_capacity(stage.blocks.len());
    for block in stage.blocks.clone() {
        blocks.push(keep(block_piece(reader, block, layout.shards, shard)?));
        progress(blocks.len(), stage.blocks.len());
    }
    let tiles = 0..model::tile_count(layout.rows);
    let piece = |name: &str, tile: usize| table_piece(reader, name, layout, shard, tile);
    let embedding = match stage.is_first() {
        true => tiles.clone().map(|tile| piece(reader.embedding_name(), tile)).collect::<Result<_, _>>()?,
        false => Vec::new(),
    };
    let is_there = stage.is_first() && reader.config.tie_word_embeddings;
    let head = match stage.is_last() {
        true if is_there => embedding.iter().cloned().map(keep).collect(),
        true => tiles.map(|tile| piece(reader.head_name(), tile).map(&keep)).collect::<Result<_, _>>()?,
        false => Vec::new(),
    };
    Ok((Pieces { first: stage.blocks.start, blocks, head }, embedding))
}

/// Bytes that a tensor takes in a block's unit.
pub(super) fn padded_bytes(shape: &[i64], kind: Kind) -> usize {
    let numbers = shape.iter().product::<i64>() as usize;
    (numbers * kind.elt_size_in_bytes()).next_multiple_of(PIECE_ALIGNMENT)
}

/// A rank's piece of a block, whose tensors lie end to end.
fn block_piece(
    reader: &WeightReader<'_>,
    block: usize,
    shards: usize,
    shard: usize,
) -> Result<Piece, TrainError> {
    let specs = block_specs(reader.config, block);
    let whole = specs.iter().map(|(_, shape)| padded_bytes(shape, reader.kind)).sum();
    let length = piece_bytes(whole, shards, PIECE_ALIGNMENT);
    let own = shard * length..(shard + 1) * length;
    let mut piece = new_piece(length)?;
    let width = reader.number_bytes();
    let mut start = 0;
    for (name, shape) in &specs {
        let end = start + shape.iter().product::<i64>() as usize * width;
        let (from, to) = (own.start.clamp(start, end), own.end.clamp(start, end));
        if from < to {
            // Tensors and pieces begin at multiples of 64 bytes, so no number is cut.
            let numbers = (from - start) / width..(to - start) / width;
            let into = &mut piece.bytes_mut()[from - own.start..to - own.start];
            reader.read_part(name, shape, numbers, into)?;
        }
        start += padded_bytes(shape, reader.kind);
    }
    Ok(piece.into())
}

/// A rank's piece of a tile of a table.
fn table_piece(
    reader: &WeightReader<'_>,
    name: &str,
    layout: &TableLayout,
    shard: usize,
    tile: usize,
) -> Result<Piece, TrainError> {
    let (shape, width) = (reader.table_shape(), reader.config.hidden_size as usize);
    let mut piece = new_piece(layout.piece_rows(tile) * layout.row_bytes)?;
    let rows = layout.own_rows(tile, shard);
    if !rows.is_empty() {
        let first = tile_rows(layout.rows, tile).start as usize;
        let numbers = (first + rows.start) * width..(first + rows.end) * width;
        let into = &mut piece.bytes_mut()[..rows.len() * layout.row_bytes];
        reader.read_part(name, &shape, numbers, into)?;
    }
    Ok(piece.into())
}

fn new_piece(length: usize) -> Result<Region, TrainError> {
    Region::new(length).map_err(|source| TrainError::NoMemoryForWeights { what: "its share of them", source })
}
