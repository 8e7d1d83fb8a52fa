//! A stage's weights on several ranks (ZeRO-3, arXiv 1910.02054, over frozen weights): each holds a piece of every unit,
//! and a unit is gathered when it is needed, with the next one on its way.
//!
//! At most two gathered units are in memory, the one in use and the next (one, without prefetch). Where graphs outlive the use of their weights
//! (no recompute), every block has an address of its own, and the two sets of pages move under the address of the block
//! that is in use: before backward a block's address holds the same bytes again, so that what a graph kept is valid.

use std::collections::VecDeque;

use comm::{Communicator, PIECE_ALIGNMENT, Pending, Piece, Region};
use mesh::{Gather, Unit, piece_bytes};
use model::{BlockWeights, Head, ModelConfig, WeightReader, block_specs, tile_rows};
use tch::{Device, Kind, Tensor};

use super::rows::{FetchedRows, TableLayout};
use super::{FrozenWeights, Stage, there};
use crate::TrainError;

/// A stage's weights, shared out.
pub(crate) struct Sharded {
    comm: Box<dyn Communicator>,
    /// The same ranks; rows of the embedding.
    rows_comm: Box<dyn Communicator>,
    config: ModelConfig,
    kind: Kind,
    /// Where the computation runs; pieces and gathered units lie in the host's memory.
    device: Device,
    stage: Stage,
    /// This rank's piece of each block of the stage.
    blocks: Vec<Piece>,
    layout: TableLayout,
    /// This rank's pieces of the embedding's tiles, on the first stage.
    embedding: Vec<Piece>,
    /// And of the head's, on the last one.
    head: Vec<Piece>,
    norm: Option<Tensor>,
    rows: Option<FetchedRows>,
    memory: Memory,
    /// Not started yet.
    upcoming: VecDeque<Gather>,
    /// Started.
    coming: VecDeque<(Gather, Pending<Region>)>,
    /// In use.
    held: Option<(Gather, Region)>,
    /// One of several tiles is.
    tile_in_use: bool,
}

/// How gathered units are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShardOptions {
    /// Graphs outlive the use of their weights.
    pub keeps_graphs: bool,
    /// The next unit is gathered while one is in use.
    pub prefetch: bool,
}

/// Regions for gathered units.
struct Memory {
    /// A block's own addresses, by its place in the stage, with pages while it is in use; none where blocks need none.
    of_blocks: Vec<Option<Region>>,
    /// Pages for whatever is gathered.
    shared: Vec<Region>,
    /// Where pages came from that are under a block's own address, by the block.
    lent: Vec<(usize, Region)>,
    /// Units being gathered or in use.
    in_use: usize,
    /// And how many there may be.
    most: usize,
}

impl Sharded {
    /// Collective within `comm`. Reads this rank's pieces of a stage.
    ///
    /// # Errors
    /// A tensor that is missing or not as the model's configuration implies; no memory.
    pub(crate) fn load(
        comm: Box<dyn Communicator>,
        reader: &WeightReader<'_>,
        stage: &Stage,
        options: ShardOptions,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self, TrainError> {
        let (shards, shard) = (comm.size(), comm.rank());
        let mut blocks = Vec::with_capacity(stage.blocks.len());
        for block in stage.blocks.clone() {
            blocks.push(block_piece(reader, block, shards, shard)?);
            progress(blocks.len(), stage.blocks.len());
        }
        let layout = TableLayout::new(reader.config, reader.kind, shards);
        let pieces = |name: &str| table_pieces(reader, name, &layout, shard);
        let embedding = if stage.is_first() { pieces(reader.embedding_name())? } else { Vec::new() };
        let head = match stage.is_last() {
            true if stage.is_first() && reader.config.tie_word_embeddings => embedding.clone(),
            true => pieces(reader.head_name())?,
            false => Vec::new(),
        };
        let norm = stage.is_last().then(|| reader.norm()).transpose()?;
        let memory = Memory::new(&blocks, &head, shards, options)?;
        Ok(Self {
            rows_comm: comm.split("embedding", 0),
            comm,
            config: reader.config.clone(),
            kind: reader.kind,
            device: reader.device,
            stage: stage.clone(),
            blocks,
            layout,
            embedding,
            head,
            norm,
            rows: None,
            memory,
            upcoming: VecDeque::new(),
            coming: VecDeque::new(),
            held: None,
            tile_in_use: false,
        })
    }

    /// Starts what there is memory for.
    fn start_gathers(&mut self) {
        while self.memory.in_use < self.memory.most
            && let Some(gather) = self.upcoming.front().copied()
        {
            let piece = match gather.unit {
                Unit::Block(block) => self.blocks[block - self.stage.blocks.start].clone(),
                Unit::Tile(tile) => self.head[tile].clone(),
            };
            let first = self.stage.blocks.start;
            let Some(region) = self.memory.take(gather.unit, first, piece.bytes().len() * self.comm.size())
            else {
                return;
            };
            self.upcoming.pop_front();
            self.coming.push_back((gather, self.comm.start_all_gather(piece, region)));
        }
    }

    /// The memory of a unit, which is the next one in the order that was announced.
    fn hold(&mut self, unit: Unit) -> *const u8 {
        if self.held.is_none() {
            self.start_gathers();
            let next = self.coming.pop_front().unwrap_or_else(|| unreachable!("{unit:?} was not announced"));
            self.held = Some((next.0, next.1.wait()));
            self.start_gathers();
        }
        let Some((gather, region)) = &self.held else { unreachable!("a unit was just put there") };
        assert_eq!(gather.unit, unit, "units are used in the order that was announced");
        region.bytes().as_ptr()
    }

    /// One use of the held unit is over.
    fn let_go(&mut self) {
        let Some((mut gather, region)) = self.held.take() else { return };
        gather.uses -= 1;
        if gather.uses > 0 {
            self.held = Some((gather, region));
            return;
        }
        self.memory.give_back(gather.unit, self.stage.blocks.start, region);
        self.start_gathers();
    }

    /// A view of gathered memory, or a copy of it on the device that computes.
    fn view(&self, start: *const u8, shape: &[i64]) -> Tensor {
        let mut strides = vec![1; shape.len()];
        for dim in (0..shape.len().saturating_sub(1)).rev() {
            strides[dim] = strides[dim + 1] * shape[dim + 1];
        }
        // SAFETY: the address lies in a region that lives as long as `self`, with room for the tensor (its unit's
        // layout), aligned to 64 bytes. Whoever holds the view reads it only between `acquire` and `release` of its
        // unit, when nothing writes there (`FrozenWeights`).
        let view = unsafe { Tensor::from_blob(start, shape, &strides, self.kind, Device::Cpu) };
        // To another device this copies, and returns when the memory may be written again.
        view.to_device(self.device)
    }
}

impl FrozenWeights for Sharded {
    fn begin(&mut self, gathers: Vec<Gather>, ids: &[i64]) -> Result<(), TrainError> {
        assert!(self.held.is_none() && self.coming.is_empty() && self.upcoming.is_empty(), "all was used");
        if self.stage.is_first() {
            let (comm, layout) = (self.rows_comm.as_ref(), &self.layout);
            self.rows = Some(FetchedRows::fetch(comm, layout, &self.embedding, ids, self.kind)?);
        }
        self.upcoming = gathers.into();
        self.start_gathers();
        Ok(())
    }

    fn acquire(&mut self, block: usize) -> BlockWeights {
        let start = self.hold(Unit::Block(block));
        let mut offset = 0;
        let view = |(_, shape): (String, Vec<i64>)| {
            // SAFETY: the offset is below the unit's length.
            let tensor = self.view(unsafe { start.add(offset) }, &shape);
            offset += padded_bytes(&shape, self.kind);
            tensor
        };
        let tensors = block_specs(&self.config, block).into_iter().map(view).collect();
        BlockWeights::from_tensors(&self.config, tensors)
    }

    fn release(&mut self, _block: usize) {
        self.let_go();
    }

    fn embedding(&self, ids: &[i64]) -> (Tensor, Vec<i64>) {
        self.rows.as_ref().unwrap_or_else(|| unreachable!("rows were announced")).look_up(ids)
    }

    fn norm(&self) -> &Tensor {
        there(&self.norm)
    }

    fn open_head(&mut self) {
        // A single tile is held from here on, for one use; of several each is asked for.
        if self.is_at_hand() {
            self.hold(Unit::Tile(0));
        }
    }

    fn close_head(&mut self) {
        if std::mem::take(&mut self.tile_in_use) || self.is_at_hand() {
            self.let_go();
        }
    }
}

impl Head for Sharded {
    type Error = TrainError;

    fn tiles(&self) -> usize {
        self.head.len()
    }

    fn is_at_hand(&self) -> bool {
        self.tiles() == 1
    }

    fn tile(&mut self, tile: usize) -> Result<Tensor, TrainError> {
        // Of several tiles each is one use, and the one before is not read any more.
        let is_a_use = !self.is_at_hand();
        if std::mem::replace(&mut self.tile_in_use, is_a_use) {
            self.let_go();
        }
        let rows = tile_rows(self.config.vocab_size, tile);
        let start = self.hold(Unit::Tile(tile));
        Ok(self.view(start, &[rows.end - rows.start, self.config.hidden_size]))
    }
}

impl Memory {
    fn new(
        blocks: &[Piece],
        head: &[Piece],
        shards: usize,
        options: ShardOptions,
    ) -> Result<Self, TrainError> {
        let region = |length: usize| {
            Region::new(length)
                .map_err(|source| TrainError::NoMemoryForWeights { what: "gathered weights", source })
        };
        let whole = |piece: &Piece| piece.bytes().len() * shards;
        let mut of_blocks = Vec::new();
        if options.keeps_graphs {
            for piece in blocks {
                of_blocks.push(Some(region(whole(piece))?));
            }
        }
        let largest = blocks.iter().chain(head).map(whole).max().unwrap_or(0);
        let most = if options.prefetch { 2 } else { 1 };
        let shared = (0..most).map(|_| region(largest)).collect::<Result<_, _>>()?;
        Ok(Self { of_blocks, shared, lent: Vec::new(), in_use: 0, most })
    }

    /// Memory of `length` bytes for a unit, unless its own is in use.
    fn take(&mut self, unit: Unit, first_block: usize, length: usize) -> Option<Region> {
        let mut region = match unit {
            Unit::Block(block) if !self.of_blocks.is_empty() => {
                let mut own = self.of_blocks[block - first_block].take()?;
                if let Some(pages) = self.shared.last_mut() {
                    // Where pages cannot move, the address gets new ones.
                    let _ = pages.move_pages(&mut own);
                }
                self.lent.push((block, self.shared.pop()?));
                own
            }
            _ => self.shared.pop()?,
        };
        region.set_len(length);
        self.in_use += 1;
        Some(region)
    }

    fn give_back(&mut self, unit: Unit, first_block: usize, mut region: Region) {
        self.in_use -= 1;
        match unit {
            Unit::Block(block) if !self.of_blocks.is_empty() => {
                let lent = self.lent.iter().position(|(lent_to, _)| *lent_to == block);
                let mut pages = lent.map(|at| self.lent.swap_remove(at).1);
                let moved = pages.as_mut().is_some_and(|pages| region.move_pages(pages).is_ok());
                if !moved {
                    region.drop_pages();
                }
                self.shared.extend(pages);
                self.of_blocks[block - first_block] = Some(region);
            }
            _ => self.shared.push(region),
        }
    }
}

/// Bytes that a tensor takes in a block's unit.
fn padded_bytes(shape: &[i64], kind: Kind) -> usize {
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

/// A rank's pieces of all tiles of a table.
fn table_pieces(
    reader: &WeightReader<'_>,
    name: &str,
    layout: &TableLayout,
    shard: usize,
) -> Result<Vec<Piece>, TrainError> {
    let (shape, width) = (reader.table_shape(), reader.config.hidden_size as usize);
    let piece = |tile: usize| {
        let mut piece = new_piece(layout.piece_rows(tile) * layout.row_bytes)?;
        let rows = layout.own_rows(tile, shard);
        if !rows.is_empty() {
            let first = tile_rows(layout.rows, tile).start as usize;
            let numbers = (first + rows.start) * width..(first + rows.end) * width;
            let into = &mut piece.bytes_mut()[..rows.len() * layout.row_bytes];
            reader.read_part(name, &shape, numbers, into)?;
        }
        Ok(piece.into())
    };
    (0..model::tile_count(layout.rows)).map(piece).collect()
}

fn new_piece(length: usize) -> Result<Region, TrainError> {
    Region::new(length).map_err(|source| TrainError::NoMemoryForWeights { what: "its share of them", source })
}
