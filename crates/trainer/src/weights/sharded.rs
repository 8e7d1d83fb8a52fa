//! A stage's weights on several ranks (ZeRO-3, arXiv 1910.02054, over frozen weights): each holds a piece of every unit,
//! and a unit is gathered when it is needed, with the next one on its way.
//!
//! At most two gathered units are in memory, the one in use and the next (one, without prefetch).

use std::collections::VecDeque;

use comm::{Communicator, Piece};
use mesh::{Gather, Unit};
use model::{BlockWeights, Head, ModelConfig, WeightReader, block_specs, tile_rows};
use tch::{Kind, Tensor};

use super::direct::{DirectUnits, upload};
use super::host::HostUnits;
use super::pieces::{padded_bytes, read_pieces};
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
    stage: Stage,
    layout: TableLayout,
    /// This rank's pieces of the embedding's tiles, on the first stage.
    embedding: Vec<Piece>,
    /// Tiles of the head, on the last one.
    tiles: usize,
    norm: Option<Tensor>,
    rows: Option<FetchedRows>,
    /// This rank's pieces, and what is gathered of them.
    units: Box<dyn Units>,
    /// Not started yet.
    upcoming: VecDeque<Gather>,
    /// Started.
    coming: VecDeque<Gather>,
    /// In use.
    held: Option<Gather>,
    /// One of several tiles is.
    tile_in_use: bool,
}

/// How gathered units are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShardOptions {
    /// Graphs outlive the use of their weights; not with `direct`.
    pub keeps_graphs: bool,
    /// The next unit is gathered while one is in use.
    pub prefetch: bool,
    /// Pieces and units are on the device that computes, and gathered from device to device. The same on all ranks.
    pub direct: bool,
}

impl ShardOptions {
    /// Units that are gathered or in use at a time.
    pub(super) fn most_units(self) -> usize {
        if self.prefetch { 2 } else { 1 }
    }
}

/// A rank's pieces of the units, and the memory into which units are gathered, somewhere. At most one is held at a time,
/// and units are held in the order in which they were started.
pub(super) trait Units {
    /// Starts gathering a unit, if there is memory for it now.
    fn start(&mut self, comm: &dyn Communicator, unit: Unit) -> bool;

    /// From here on the next unit is held.
    fn take(&mut self);

    /// The unit that is held is not read any more, by anything that is started from now on.
    fn give_back(&mut self);

    /// A tensor of the unit that is held, `offset` bytes from its beginning. It is read while the unit is held.
    fn view(&self, offset: usize, shape: &[i64]) -> Tensor;
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
        let layout = TableLayout::new(reader.config, reader.kind, shards);
        let place = (reader.kind, reader.device);
        let (units, embedding): (Box<dyn Units>, _) = match options.direct {
            false => {
                let keep = |piece| piece;
                let (pieces, embedding) = read_pieces(reader, stage, &layout, shard, keep, progress)?;
                (Box::new(HostUnits::new(pieces, place, shards, options)?), embedding)
            }
            true => {
                // One after the other: the host's memory holds one piece at a time.
                let keep = |piece| upload(&piece, reader.device);
                let (pieces, embedding) = read_pieces(reader, stage, &layout, shard, keep, progress)?;
                (Box::new(DirectUnits::new(pieces, place, shards, options)), embedding)
            }
        };
        let norm = stage.is_last().then(|| reader.norm()).transpose()?;
        Ok(Self {
            rows_comm: comm.split("embedding", 0),
            comm,
            config: reader.config.clone(),
            kind: reader.kind,
            stage: stage.clone(),
            layout,
            embedding,
            tiles: stage.units(reader.config).tiles,
            norm,
            rows: None,
            units,
            upcoming: VecDeque::new(),
            coming: VecDeque::new(),
            held: None,
            tile_in_use: false,
        })
    }

    /// Starts what there is memory for.
    fn start_gathers(&mut self) {
        while let Some(gather) = self.upcoming.front().copied()
            && self.units.start(self.comm.as_ref(), gather.unit)
        {
            self.upcoming.pop_front();
            self.coming.push_back(gather);
        }
    }

    /// Holds a unit, which is the next one in the order that was announced.
    fn hold(&mut self, unit: Unit) {
        if self.held.is_none() {
            self.start_gathers();
            let next = self.coming.pop_front().unwrap_or_else(|| unreachable!("{unit:?} was not announced"));
            self.units.take();
            self.held = Some(next);
            self.start_gathers();
        }
        let held = self.held.map(|gather| gather.unit);
        assert_eq!(held, Some(unit), "units are used in the order that was announced");
    }

    /// One use of the held unit is over.
    fn let_go(&mut self) {
        let Some(mut gather) = self.held.take() else { return };
        gather.uses -= 1;
        if gather.uses > 0 {
            self.held = Some(gather);
            return;
        }
        self.units.give_back();
        self.start_gathers();
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
        self.hold(Unit::Block(block));
        let mut offset = 0;
        let view = |(_, shape): (String, Vec<i64>)| {
            let tensor = self.units.view(offset, &shape);
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
        self.tiles
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
        self.hold(Unit::Tile(tile));
        Ok(self.units.view(0, &[rows.end - rows.start, self.config.hidden_size]))
    }
}
