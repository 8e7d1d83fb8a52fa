//! Pieces and gathered units in the memory of the device that computes, gathered from device to device.
//!
//! The device reads a unit after its gather is over, since the default stream waits for that ([`Units::take`]). A gather that
//! reuses the unit's memory is started when the unit is not read any more, so it begins behind all that was put on the default
//! stream until then, the last reading among it. The other unit is gathered meanwhile, on the gathers' own stream.

use std::collections::VecDeque;

use comm::{Communicator, DevicePending, Piece};
use mesh::Unit;
use tch::{Device, Kind, Tensor};

use super::pieces::Pieces;
use super::sharded::{ShardOptions, Units};
use crate::messages::device_memory;

/// Where libtorch chooses among kernels for a product it asks how addresses are aligned, up to so many bytes, and other kernels
/// may give other bits than a rank alone gets. libtorch's allocator aligns tensors of their own to more than that. Tensors of
/// a unit are padded to less; those of models in use are multiples of this all the same, so they are seldom copied.
const ALIGNMENT: usize = 256;

/// Units in the device's memory.
pub(super) struct DirectUnits {
    kind: Kind,
    /// Bytes.
    pieces: Pieces<Tensor>,
    /// Memory for a unit each, bytes.
    free: Vec<Tensor>,
    /// Being gathered.
    coming: VecDeque<(Tensor, DevicePending)>,
    held: Option<Tensor>,
}

/// A copy of a piece on the device, bytes.
pub(super) fn upload(piece: &Piece, device: Device) -> Tensor {
    let bytes = piece.bytes();
    let length = [bytes.len() as i64];
    // SAFETY: the bytes are there until the end of this function, and are read before that: a copy out of pageable memory
    // has read all of it when it returns.
    let view = unsafe { Tensor::from_blob(bytes.as_ptr(), &length, &[1], Kind::Uint8, Device::Cpu) };
    let mut copy = Tensor::empty(length, (Kind::Uint8, device));
    copy.copy_(&view);
    copy
}

impl DirectUnits {
    /// Memory for the units of these pieces.
    pub(super) fn new(
        pieces: Pieces<Tensor>,
        (kind, device): (Kind, Device),
        shards: usize,
        options: ShardOptions,
    ) -> Self {
        let largest = pieces.all().map(Tensor::numel).max().unwrap_or(0) * shards;
        let unit = || Tensor::empty([largest as i64], (Kind::Uint8, device));
        let free = (0..options.most_units()).map(|_| unit()).collect();
        Self { kind, pieces, free, coming: VecDeque::new(), held: None }
    }
}

impl Units for DirectUnits {
    fn start(&mut self, comm: &dyn Communicator, unit: Unit) -> bool {
        let Some(device) = comm.on_device() else { unreachable!("ranks have agreed that there is one") };
        let Some(memory) = self.free.pop() else { return false };
        let piece = self.pieces.of(unit);
        let whole = memory.narrow(0, 0, (piece.numel() * comm.size()) as i64);
        let pending = device.start_all_gather(device_memory(piece), device_memory(&whole));
        self.coming.push_back((memory, pending));
        true
    }

    fn take(&mut self) {
        self.held = self.coming.pop_front().map(|(memory, pending)| {
            // When it is over on the device concerns the device alone.
            drop(pending.wait());
            memory
        });
    }

    fn give_back(&mut self) {
        self.free.extend(self.held.take());
    }

    fn view(&self, offset: usize, shape: &[i64]) -> Tensor {
        let Some(memory) = &self.held else { unreachable!("a unit is looked at while it is held") };
        let bytes = shape.iter().product::<i64>() * self.kind.elt_size_in_bytes() as i64;
        let view = memory.narrow(0, offset as i64, bytes).view_dtype(self.kind).view(shape);
        if offset.is_multiple_of(ALIGNMENT) { view } else { view.copy() }
    }
}
