//! The output projection as a table in tiles.

use std::convert::Infallible;
use std::ops::Range;

use tch::{Tensor, no_grad};

/// Rows of a tile of the embedding and the head, but for the last one, which has what is left. A constant: it shapes the
/// products of the loss, so no mesh and no setting may change it.
pub const TILE_ROWS: i64 = 16_384;

/// Number of tiles of a table of `rows` rows.
pub fn tile_count(rows: i64) -> usize {
    (rows as u64).div_ceil(TILE_ROWS as u64) as usize
}

/// Rows of tile `tile` of a table of `rows` rows.
pub fn tile_rows(rows: i64, tile: usize) -> Range<i64> {
    let start = tile as i64 * TILE_ROWS;
    start..rows.min(start + TILE_ROWS)
}

/// The tile that holds a row, and the row's place in it.
pub fn tile_of(row: i64) -> (usize, i64) {
    ((row / TILE_ROWS) as usize, row % TILE_ROWS)
}

/// An output projection `[V, H]` that is handed out tile by tile.
pub trait Head {
    /// Why a tile cannot be had.
    type Error;

    /// Number of tiles.
    fn tiles(&self) -> usize;

    /// Whether any tile can be had at any time. Otherwise tiles come in sweeps, from the first to the last and, where a
    /// gradient is wanted, back.
    fn is_at_hand(&self) -> bool;

    /// The rows of a tile, valid until the next one is asked for unless the head is at hand.
    ///
    /// # Errors
    /// It cannot be had.
    fn tile(&mut self, tile: usize) -> Result<Tensor, Self::Error>;
}

/// A head that is there as a whole.
#[derive(Debug)]
pub struct WholeHead<'a>(pub &'a Tensor);

impl Head for WholeHead<'_> {
    type Error = Infallible;

    fn tiles(&self) -> usize {
        tile_count(self.0.size()[0])
    }

    fn is_at_hand(&self) -> bool {
        true
    }

    fn tile(&mut self, tile: usize) -> Result<Tensor, Infallible> {
        let rows = tile_rows(self.0.size()[0], tile);
        Ok(self.0.narrow(0, rows.start, rows.end - rows.start))
    }
}

/// The likeliest token after hidden states `[1, H]` that went through the final norm; the smaller id where several
/// are as likely.
///
/// # Errors
/// The head's tiles cannot be had.
pub fn likeliest<E>(normed: &Tensor, head: &mut dyn Head<Error = E>) -> Result<u32, E> {
    let mut best = (f64::NEG_INFINITY, 0);
    for tile in 0..head.tiles() {
        let weight = head.tile(tile)?;
        let logits = no_grad(|| normed.linear::<&Tensor>(&weight, None));
        let column = logits.argmax(-1, false).int64_value(&[0]);
        let value = logits.double_value(&[0, column]);
        if tile == 0 || value > best.0 {
            best = (value, tile as i64 * TILE_ROWS + column);
        }
    }
    Ok(best.1 as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_a_table() {
        for rows in [1, TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 1, 128_256] {
            let mut next = 0;
            for tile in 0..tile_count(rows) {
                let range = tile_rows(rows, tile);
                assert_eq!(range.start, next);
                assert_eq!(tile_of(range.start), (tile, 0));
                assert_eq!(tile_of(range.end - 1), (tile, range.end - 1 - range.start));
                next = range.end;
            }
            assert_eq!(next, rows);
        }
    }
}
