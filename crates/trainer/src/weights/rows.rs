//! The embedding on several ranks: each holds some rows of every tile and sends those that the others' tokens need.

use comm::{Communicator, PIECE_ALIGNMENT, Region, exchange};
use mesh::piece_rows;
use model::{ModelConfig, tile_of, tile_rows};
use tch::{Kind, Tensor};

use crate::TrainError;

/// Who holds which rows of a table `[V, H]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableLayout {
    pub rows: i64,
    pub width: i64,
    /// Bytes of a row.
    pub row_bytes: usize,
    pub shards: usize,
}

impl TableLayout {
    pub(super) fn new(config: &ModelConfig, kind: Kind, shards: usize) -> Self {
        let (rows, width) = (config.vocab_size, config.hidden_size);
        Self { rows, width, row_bytes: width as usize * kind.elt_size_in_bytes(), shards }
    }

    /// Rows of each rank's piece of a tile, padding included.
    pub(super) fn piece_rows(&self, tile: usize) -> usize {
        let rows = tile_rows(self.rows, tile);
        piece_rows((rows.end - rows.start) as usize, self.shards, self.row_bytes, PIECE_ALIGNMENT)
    }

    /// The rows of a rank's piece of a tile that there are, counted in the tile.
    pub(super) fn own_rows(&self, tile: usize, shard: usize) -> std::ops::Range<usize> {
        let rows = tile_rows(self.rows, tile);
        let (count, piece) = ((rows.end - rows.start) as usize, self.piece_rows(tile));
        (shard * piece).min(count)..((shard + 1) * piece).min(count)
    }

    /// The rank that holds a row, the tile, and the row's place in that rank's piece.
    fn owner(&self, row: i64) -> (usize, usize, usize) {
        let (tile, within) = tile_of(row);
        let piece = self.piece_rows(tile);
        (within as usize / piece, tile, within as usize % piece)
    }
}

/// Rows of the table that a rank asked for, by increasing number.
#[derive(Debug)]
pub(super) struct FetchedRows {
    ids: Vec<i64>,
    table: Tensor,
}

impl FetchedRows {
    /// Collective. The rows of `ids`; `pieces` are this rank's of every tile.
    ///
    /// # Errors
    /// There is no memory for them.
    pub(super) fn fetch(
        comm: &dyn Communicator,
        layout: &TableLayout,
        pieces: &[comm::Piece],
        ids: &[i64],
        kind: Kind,
    ) -> Result<Self, TrainError> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let asked: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
        let all = comm.all_gather(bytemuck::cast_slice(&asked));
        let outgoing = all.iter().map(|asked| own_rows(layout, pieces, comm.rank(), asked));
        let outgoing = outgoing.collect::<std::io::Result<Vec<Region>>>().map_err(no_memory)?;
        let mut lengths = vec![0; comm.size()];
        for id in &ids {
            lengths[layout.owner(*id).0] += layout.row_bytes;
        }
        let arrived = exchange(comm, outgoing, &lengths).map_err(no_memory)?;
        let mut bytes = Vec::with_capacity(ids.len() * layout.row_bytes);
        let mut next = vec![0; comm.size()];
        for id in &ids {
            // Each owner's rows are in the order of their numbers, as they were asked for.
            let owner = layout.owner(*id).0;
            bytes.extend_from_slice(&arrived[owner].bytes()[next[owner]..][..layout.row_bytes]);
            next[owner] += layout.row_bytes;
        }
        let table = Tensor::from_data_size(&bytes, &[ids.len() as i64, layout.width], kind);
        Ok(Self { ids, table })
    }

    /// The fetched rows, and where in them each of `ids` is.
    pub(super) fn look_up(&self, ids: &[i64]) -> (Tensor, Vec<i64>) {
        let place = |id: &i64| {
            let found = self.ids.binary_search(id);
            found.unwrap_or_else(|_| unreachable!("token {id} was not asked for")) as i64
        };
        (self.table.shallow_clone(), ids.iter().map(place).collect())
    }
}

/// Those of the asked rows (little-endian u32 numbers) that this rank holds, end to end.
fn own_rows(
    layout: &TableLayout,
    pieces: &[comm::Piece],
    own: usize,
    asked: &[u8],
) -> std::io::Result<Region> {
    let ids = asked.chunks_exact(4).map(|id| i64::from(u32::from_le_bytes([id[0], id[1], id[2], id[3]])));
    let mine: Vec<(usize, usize, usize)> =
        ids.map(|id| layout.owner(id)).filter(|(owner, ..)| *owner == own).collect();
    let mut message = Region::new(mine.len() * layout.row_bytes)?;
    for ((_, tile, row), into) in
        mine.iter().zip(message.bytes_mut().chunks_exact_mut(layout.row_bytes.max(1)))
    {
        into.copy_from_slice(&pieces[*tile].bytes()[row * layout.row_bytes..][..layout.row_bytes]);
    }
    Ok(message)
}

fn no_memory(source: std::io::Error) -> TrainError {
    TrainError::NoMemoryForWeights { what: "rows of the embedding", source }
}
