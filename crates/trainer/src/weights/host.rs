//! Pieces and gathered units in the host's memory. Where the rank computes on another device, a copy of what is in use is
//! there.
//!
//! Where graphs outlive the use of their weights (no recompute), every block has an address of its own, and the two sets of
//! pages move under the address of the block that is in use: before backward a block's address holds the same bytes again,
//! so that what a graph kept is valid.

use std::collections::VecDeque;

use comm::{Communicator, Pending, Piece, Region};
use mesh::Unit;
use tch::{Device, Kind, Tensor};

use super::pieces::Pieces;
use super::sharded::{ShardOptions, Units};
use crate::TrainError;

/// Units in the host's memory.
pub(super) struct HostUnits {
    kind: Kind,
    /// Where the computation runs.
    device: Device,
    pieces: Pieces<Piece>,
    memory: Memory,
    /// Being gathered.
    coming: VecDeque<(Unit, Pending<Region>)>,
    held: Option<(Unit, Region)>,
}

impl HostUnits {
    /// Memory for the units of these pieces.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn new(
        pieces: Pieces<Piece>,
        (kind, device): (Kind, Device),
        shards: usize,
        options: ShardOptions,
    ) -> Result<Self, TrainError> {
        let memory = Memory::new(&pieces, shards, options)?;
        Ok(Self { kind, device, pieces, memory, coming: VecDeque::new(), held: None })
    }
}

impl Units for HostUnits {
    fn start(&mut self, comm: &dyn Communicator, unit: Unit) -> bool {
        let piece = self.pieces.of(unit).clone();
        let length = piece.bytes().len() * comm.size();
        let Some(region) = self.memory.take(unit, |block| self.pieces.place(block), length) else {
            return false;
        };
        self.coming.push_back((unit, comm.start_all_gather(piece, region)));
        true
    }

    fn take(&mut self) {
        self.held = self.coming.pop_front().map(|(unit, pending)| (unit, pending.wait()));
    }

    fn give_back(&mut self) {
        if let Some((unit, region)) = self.held.take() {
            self.memory.give_back(unit, |block| self.pieces.place(block), region);
        }
    }

    fn view(&self, offset: usize, shape: &[i64]) -> Tensor {
        let Some((_, region)) = &self.held else { unreachable!("a unit is looked at while it is held") };
        let mut strides = vec![1; shape.len()];
        for dim in (0..shape.len().saturating_sub(1)).rev() {
            strides[dim] = strides[dim + 1] * shape[dim + 1];
        }
        let start = region.bytes()[offset..].as_ptr();
        // SAFETY: the address lies in a region that lives as long as `self`, with room for the tensor (its unit's
        // layout), aligned to 64 bytes. Whoever holds the view reads it only between `acquire` and `release` of its
        // unit, when nothing writes there (`FrozenWeights`).
        let view = unsafe { Tensor::from_blob(start, shape, &strides, self.kind, Device::Cpu) };
        // To another device this copies, and returns when the memory may be written again.
        view.to_device(self.device)
    }
}

/// Regions for gathered units.
struct Memory {
    /// A block's own addresses, by its place in the stage, with pages while it is in use; none where blocks need none.
    of_blocks: Vec<Option<Region>>,
    /// Pages for whatever is gathered.
    shared: Vec<Region>,
    /// Where pages came from that are under a block's own address, by the block.
    lent: Vec<(usize, Region)>,
}

impl Memory {
    fn new(pieces: &Pieces<Piece>, shards: usize, options: ShardOptions) -> Result<Self, TrainError> {
        let region = |length: usize| {
            Region::new(length)
                .map_err(|source| TrainError::NoMemoryForWeights { what: "gathered weights", source })
        };
        let whole = |piece: &Piece| piece.bytes().len() * shards;
        let mut of_blocks = Vec::new();
        if options.keeps_graphs {
            for piece in &pieces.blocks {
                of_blocks.push(Some(region(whole(piece))?));
            }
        }
        let largest = pieces.all().map(whole).max().unwrap_or(0);
        let most = if options.prefetch { 2 } else { 1 };
        let shared = (0..most).map(|_| region(largest)).collect::<Result<_, _>>()?;
        Ok(Self { of_blocks, shared, lent: Vec::new() })
    }

    /// Memory of `length` bytes for a unit, unless all of it or the unit's own is in use.
    fn take(&mut self, unit: Unit, place: impl Fn(usize) -> usize, length: usize) -> Option<Region> {
        if self.shared.is_empty() {
            return None;
        }
        let mut region = match unit {
            Unit::Block(block) if !self.of_blocks.is_empty() => {
                let mut own = self.of_blocks[place(block)].take()?;
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
        Some(region)
    }

    fn give_back(&mut self, unit: Unit, place: impl Fn(usize) -> usize, mut region: Region) {
        match unit {
            Unit::Block(block) if !self.of_blocks.is_empty() => {
                let lent = self.lent.iter().position(|(lent_to, _)| *lent_to == block);
                let mut pages = lent.map(|at| self.lent.swap_remove(at).1);
                let moved = pages.as_mut().is_some_and(|pages| region.move_pages(pages).is_ok());
                if !moved {
                    region.drop_pages();
                }
                self.shared.extend(pages);
                self.of_blocks[place(block)] = Some(region);
            }
            _ => self.shared.push(region),
        }
    }
}
