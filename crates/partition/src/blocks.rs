//! A partition for every block of the model, side by side.

use crate::assignment::check_within;
use crate::{Assignment, Cursor, HashedRange, PartitionError};

/// Partitions of consecutive ranges of indices, each into groups of its own: the scope `transformer_block`.
///
/// Block k's indices and groups follow those of the blocks before it; within the block both count from 0.
pub struct Blocks {
    /// In ascending order, none empty.
    parts: Vec<Part>,
    d: u64,
    total: u64,
}

struct Part {
    assignment: Box<dyn Assignment>,
    first_index: u64,
    first_group: u64,
    end: u64,
}

impl Blocks {
    /// Puts partitions side by side, each with the number of weights it is for. Empty ones are left out.
    ///
    /// # Errors
    /// When there are more than 2^32 groups or 2^63 − 1 indices in all.
    pub fn new(blocks: impl IntoIterator<Item = (Box<dyn Assignment>, u64)>) -> Result<Self, PartitionError> {
        let (mut parts, mut d, mut total) = (Vec::new(), 0_u64, 0_u64);
        for (assignment, numel) in blocks {
            crate::assignment::check_range(total, numel)?;
            let part = Part { first_index: total, first_group: d, end: total + numel, assignment };
            (d, total) = (d.saturating_add(part.assignment.d()), part.end);
            if d > 1 << 32 {
                return Err(PartitionError::TooManyGroups { d });
            }
            if numel > 0 {
                parts.push(part);
            }
        }
        Ok(Self { parts, d, total })
    }

    /// The number of weights; indices from there on have no group.
    pub fn total(&self) -> u64 {
        self.total
    }
}

impl Assignment for Blocks {
    fn d(&self) -> u64 {
        self.d
    }

    fn cursor(&self) -> Box<dyn Cursor + '_> {
        Box::new(BlocksCursor { blocks: self, open: None })
    }

    fn hashed(&self) -> Option<Vec<HashedRange>> {
        let mut ranges = Vec::new();
        for part in &self.parts {
            for range in part.assignment.hashed()? {
                let first_index = part.first_index.saturating_add(range.first_index);
                if first_index < part.end {
                    let numel = range.numel.min(part.end - first_index);
                    let first_group = part.first_group + range.first_group;
                    ranges.push(HashedRange { first_index, numel, first_group, ..range });
                }
            }
        }
        Some(ranges)
    }
}

struct BlocksCursor<'a> {
    blocks: &'a Blocks,
    /// The block of the last read, with its number.
    open: Option<(usize, Box<dyn Cursor + 'a>)>,
}

impl<'a> BlocksCursor<'a> {
    /// The block that an index lies in, which there must be, and a cursor of it.
    fn at(&mut self, index: u64) -> (&'a Part, &mut dyn Cursor) {
        let parts = &self.blocks.parts;
        let number = match &self.open {
            Some((number, _)) if (parts[*number].first_index..parts[*number].end).contains(&index) => *number,
            _ => parts.partition_point(|part| part.end <= index),
        };
        let part = &parts[number];
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            self.open = None;
        }
        let (_, cursor) = self.open.get_or_insert_with(|| (number, part.assignment.cursor()));
        (part, &mut **cursor)
    }
}

impl Cursor for BlocksCursor<'_> {
    fn fill(&mut self, start: u64, mut out: &mut [u32]) -> Result<(), PartitionError> {
        check_within(start, out.len() as u64, self.blocks.total)?;
        let mut index = start;
        while !out.is_empty() {
            let (part, cursor) = self.at(index);
            let room = part.end - index;
            let len = if (out.len() as u64) < room { out.len() } else { room as usize };
            let (ids, rest) = out.split_at_mut(len);
            cursor.fill(index - part.first_index, ids)?;
            let first_group = part.first_group as u32;
            ids.iter_mut().for_each(|id| *id = id.wrapping_add(first_group));
            index += len as u64;
            out = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
