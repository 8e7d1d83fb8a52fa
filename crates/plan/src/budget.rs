//! Which blocks keep their graphs for backward, within a budget of memory.

use std::ops::Range;

use crate::activations::Shape;
use crate::count::product;
use crate::facts::{BlockRun, Dtype, Model};

/// Memory for graphs and for buffers of adapted weights that graphs refer to (`--activation-memory`).
///
/// A block that keeps its graph takes [its activations](crate::memory()) for every micro-batch in flight, and buffers of its own
/// for its adapted weights. The last blocks of a stage keep theirs, as many as there is room for: backward begins with
/// them, so that a micro-batch's kept graphs are gone when its first block is computed again.
#[derive(Debug, Clone, PartialEq)]
pub struct ActivationBudget {
    /// The model.
    pub model: Model,
    /// Number format of the computation.
    pub dtype: Dtype,
    /// Micro-batches between their forward and their backward at most.
    pub in_flight: u64,
    /// The memory, bytes.
    pub bytes: u64,
}

impl ActivationBudget {
    /// The first of a stage's blocks that keeps its graph of a micro-batch of `rows` × `length` tokens; the end of the
    /// range where none does. Buffers that were made stay: blocks from `buffers_from` on have theirs, whatever this
    /// micro-batch keeps.
    pub fn first_kept(&self, blocks: Range<usize>, rows: u64, length: u64, buffers_from: usize) -> usize {
        let shape = Shape { model: &self.model, dtype: self.dtype, rows, length };
        let mut first = blocks.end;
        let buffers = |run: &BlockRun| product([run.adapted(), self.dtype.bytes()]);
        let mut left = self.bytes.saturating_sub(self.made(&blocks, buffers_from));
        // From the last run of blocks to the first.
        let mut ends: Vec<u64> = Vec::with_capacity(self.model.blocks.len());
        for run in &self.model.blocks {
            ends.push(ends.last().copied().unwrap_or(0).saturating_add(run.repeat));
        }
        for (run, end) in self.model.blocks.iter().zip(ends).rev() {
            let graphs = product([shape.kept(run).total, self.in_flight.max(1)]);
            let start = end.saturating_sub(run.repeat);
            while (first as u64) > start && (first as u64) <= end && first > blocks.start {
                let buffers = if first > buffers_from { 0 } else { buffers(run) };
                let Some(rest) = left.checked_sub(graphs.saturating_add(buffers)) else { return first };
                left = rest;
                first -= 1;
            }
        }
        first
    }

    /// Bytes of the buffers that blocks from `from` on have.
    fn made(&self, blocks: &Range<usize>, from: usize) -> u64 {
        let (mut start, mut bytes) = (0_u64, 0_u64);
        let (from, to) = (from.max(blocks.start) as u64, blocks.end as u64);
        for run in &self.model.blocks {
            let end = start.saturating_add(run.repeat);
            let count = end.min(to).saturating_sub(start.max(from));
            bytes = bytes.saturating_add(product([count, run.adapted(), self.dtype.bytes()]));
            start = end;
        }
        bytes
    }
}
