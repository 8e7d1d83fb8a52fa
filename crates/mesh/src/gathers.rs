//! Which units of a stage are gathered in a step, and in which order. All ranks that share the stage's weights follow
//! the same list, so that their collectives meet.

use std::ops::Range;

use crate::Action;

/// What is gathered at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// All weights of a block, by its number in the model.
    Block(usize),
    /// Some rows of the head, by the number of the tile.
    Tile(usize),
}

/// A unit and how often it is used before the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gather {
    /// What is gathered.
    pub unit: Unit,
    /// For so many uses in a row.
    pub uses: usize,
}

/// What a stage goes through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageUnits {
    /// Its blocks.
    pub blocks: Range<usize>,
    /// The model's first block with adapted weights: below it nothing goes backward.
    pub first_adapted: usize,
    /// Tiles of the head on the last stage, 0 on the others.
    pub tiles: usize,
}

impl StageUnits {
    /// The stage's blocks that backward goes through.
    pub fn with_backward(&self) -> Range<usize> {
        self.first_adapted.clamp(self.blocks.start, self.blocks.end)..self.blocks.end
    }

    /// The tiles that training goes through in a micro-batch: there for the loss and back for its gradient; a single one
    /// stays.
    pub fn training_tiles(&self) -> Vec<usize> {
        let back = (0..self.tiles).rev().filter(|_| self.tiles > 1);
        (0..self.tiles).chain(back).collect()
    }

    /// The tiles that a forward alone goes through.
    pub fn forward_tiles(&self) -> Vec<usize> {
        (0..self.tiles).collect()
    }

    /// The gathers of these actions. A unit that is needed again at once is not gathered again.
    pub fn training(&self, actions: &[Action]) -> Vec<Gather> {
        let mut gathers = Vec::new();
        for action in actions {
            match action {
                Action::Forward(_) => self.push_forward(&mut gathers, &self.training_tiles()),
                Action::Backward(_) => {
                    self.with_backward().rev().for_each(|block| push(&mut gathers, Unit::Block(block)));
                }
            }
        }
        gathers
    }

    /// The gathers of so many forwards alone.
    pub fn forwards(&self, micro_batches: usize) -> Vec<Gather> {
        let mut gathers = Vec::new();
        (0..micro_batches).for_each(|_| self.push_forward(&mut gathers, &self.forward_tiles()));
        gathers
    }

    fn push_forward(&self, gathers: &mut Vec<Gather>, tiles: &[usize]) {
        self.blocks.clone().for_each(|block| push(gathers, Unit::Block(block)));
        tiles.iter().for_each(|tile| push(gathers, Unit::Tile(*tile)));
    }
}

fn push(gathers: &mut Vec<Gather>, unit: Unit) {
    match gathers.last_mut() {
        Some(last) if last.unit == unit => last.uses += 1,
        _ => gathers.push(Gather { unit, uses: 1 }),
    }
}

/// Bytes of each of `shards` equal pieces of `bytes`, a multiple of `alignment`; the last ones may hold padding alone.
pub fn piece_bytes(bytes: usize, shards: usize, alignment: usize) -> usize {
    bytes.div_ceil(shards.max(1)).next_multiple_of(alignment)
}

/// Rows of each of `shards` equal pieces of `rows` rows of `row_bytes`, such that a piece is a multiple of `alignment`
/// bytes; the last ones may hold padding alone.
pub fn piece_rows(rows: usize, shards: usize, row_bytes: usize, alignment: usize) -> usize {
    let mut common = (row_bytes, alignment);
    while common.1 > 0 {
        common = (common.1, common.0 % common.1);
    }
    rows.div_ceil(shards.max(1)).next_multiple_of(alignment / common.0.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::one_forward_one_backward;
    use Unit::{Block, Tile};

    fn units(gathers: &[Gather]) -> Vec<(Unit, usize)> {
        gathers.iter().map(|gather| (gather.unit, gather.uses)).collect()
    }

    #[test]
    fn a_unit_needed_again_at_once_is_gathered_once() {
        let first = StageUnits { blocks: 0..2, first_adapted: 0, tiles: 0 };
        let found = units(&first.training(&one_forward_one_backward(1, 2)));
        // F0 F1 B0 B1
        let expected = [
            (Block(0), 1),
            (Block(1), 1),
            (Block(0), 1),
            (Block(1), 2),
            (Block(0), 1),
            (Block(1), 1),
            (Block(0), 1),
        ];
        assert_eq!(found, expected);
        let last = StageUnits { blocks: 2..4, first_adapted: 3, tiles: 2 };
        let found = units(&last.training(&one_forward_one_backward(0, 1)));
        let head = [(Tile(0), 1), (Tile(1), 2), (Tile(0), 1)];
        assert_eq!(found, [&[(Block(2), 1), (Block(3), 1)], &head[..], &[(Block(3), 1)]].concat());
        assert_eq!(units(&last.forwards(1)), [(Block(2), 1), (Block(3), 1), (Tile(0), 1), (Tile(1), 1)]);
        let one_tile = StageUnits { blocks: 0..1, first_adapted: 0, tiles: 1 };
        let found = units(&one_tile.training(&one_forward_one_backward(0, 2)));
        assert_eq!(found, [(Block(0), 1), (Tile(0), 1), (Block(0), 2), (Tile(0), 1), (Block(0), 1)]);
    }

    #[test]
    fn blocks_below_the_adapted_ones_do_not_go_backward() {
        let stage = |first_adapted| StageUnits { blocks: 2..4, first_adapted, tiles: 0 }.with_backward();
        assert_eq!(stage(0), 2..4);
        assert_eq!(stage(3), 3..4);
        assert!(stage(9).is_empty());
    }

    #[test]
    fn pieces_are_aligned_and_hold_everything() {
        for (bytes, shards) in [(0, 3), (1, 3), (64, 1), (1000, 3), (1 << 40, 7)] {
            let piece = piece_bytes(bytes, shards, 64);
            assert!(
                piece.is_multiple_of(64) && piece * shards >= bytes && piece < bytes.div_ceil(shards) + 64
            );
        }
        for (rows, shards, row_bytes) in [(100, 3, 8192), (100, 3, 24), (7, 8, 2), (16_384, 5, 62)] {
            let piece = piece_rows(rows, shards, row_bytes, 64);
            assert!(
                (piece * row_bytes).is_multiple_of(64) && piece * shards >= rows,
                "{rows} {shards} {row_bytes}: {piece}"
            );
        }
        assert_eq!(piece_rows(100, 3, 8192, 64), 34);
    }
}
