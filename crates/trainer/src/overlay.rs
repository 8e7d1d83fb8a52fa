//! ΔW laid over the frozen weights, block by block.
//!
//! In f32 the sum W + ΔW replaces the weight: one matrix product. In half precision the sum would round ΔW away, so
//! ΔW is kept apart and multiplied on its own ([`model::Linear`]), unless it is to be merged all the same.

mod memory;

use std::ops::Range;

use adapter::AdaptedSpace;
use model::{BlockWeights, LinearKind};
use projection::cuda::{DeviceGrads, DeviceMap, DeviceWeights, Element};
use projection::{Dropout, Executor, GradSlice, Map, Reducer, WeightSlice};
use tch::{Device, Kind, Tensor, no_grad};

use crate::TrainError;
use memory::{address, element, f32_slice, f32_slice_mut, half_bytes_mut};

/// An adapted weight or bias of a block.
#[derive(Debug, Clone, Copy)]
struct AdaptedTensor {
    kind: LinearKind,
    part: Part,
    first_index: u64,
    numel: usize,
}

/// Which tensor of a linear map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Dropout applies to its update.
    Weight,
    /// Dropout does not.
    Bias,
}

impl AdaptedTensor {
    /// The frozen tensor.
    fn base<'a>(&self, block: &'a BlockWeights) -> &'a Tensor {
        let linear = block.linear(self.kind);
        match (self.part, &linear.bias) {
            (Part::Bias, Some(bias)) => bias,
            _ => &linear.weight,
        }
    }

    /// The mask on its update.
    fn dropout(&self, of_weights: Option<Dropout>) -> Option<Dropout> {
        if self.part == Part::Weight { of_weights } else { None }
    }

    /// Puts what the overlay made into its place: the sum where merged, the update beside the weight otherwise.
    fn place(&self, block: &mut BlockWeights, merged: bool, leaf: &Tensor) {
        let linear = block.linear_mut(self.kind);
        let leaf = leaf.shallow_clone();
        match (self.part, merged) {
            (Part::Weight, true) => linear.weight = leaf,
            (Part::Weight, false) => linear.delta = Some(leaf),
            (Part::Bias, true) => linear.bias = Some(leaf),
            (Part::Bias, false) => linear.delta_bias = Some(leaf),
        }
    }
}

/// Buffers of a block, and what is in them.
#[derive(Debug, Default)]
struct Slot {
    content: Option<Content>,
    buffers: Vec<Buffer>,
}

/// What the overlay writes for one adapted tensor, in the compute dtype.
#[derive(Debug)]
struct Buffer {
    /// W + ΔW where the two are merged, ΔW otherwise.
    values: Tensor,
}

/// What buffers hold: which θ, by its stamp, under which mask, and of which block.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Content {
    block: usize,
    stamp: u64,
    dropout: Option<Dropout>,
}

/// The adapted weights of a stage's blocks and where they are made.
pub struct Overlay<'a> {
    partition: &'a dyn partition::Assignment,
    executor: &'a dyn Executor,
    kind: Kind,
    /// W + ΔW replaces W: always in f32, in half precision where it was asked for.
    merged: bool,
    /// Where weights and buffers are.
    device: Device,
    /// What makes ΔW and sums gradients there; without it they are made here and sent.
    kernels: Option<Kernels>,
    /// The first block of the stage.
    first_block: usize,
    by_block: Vec<Vec<AdaptedTensor>>,
    /// One set of buffers a block, or a single one that all blocks take turns with.
    slots: Vec<Slot>,
    /// In half precision, and for another device: ΔW of one tensor in f32, before it is rounded or sent there.
    wide: Option<Tensor>,
}

/// The map on the device.
struct Kernels {
    map: DeviceMap,
    /// Which θ is there, by its stamp.
    stamp: Option<u64>,
}

/// θ as the map reads it: s·θ, with a stamp that changes whenever θ does.
#[derive(Debug, Clone, Copy)]
pub struct ScaledTheta<'a> {
    /// s·θ, length d.
    pub values: &'a [f32],
    /// Differs between different θ of a run.
    pub stamp: u64,
}

/// Which buffers hold a block's adapted weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffers {
    /// Its own: for a graph that outlives the block's turn.
    Own,
    /// Those that all blocks use in turn.
    Shared,
}

/// A block with its adapted weights in place, as leaves of a graph to come.
pub struct AdaptedBlock {
    /// All weights of the block.
    pub weights: BlockWeights,
    /// The tensors whose gradients are wanted, in module order.
    pub leaves: Vec<Tensor>,
}

impl<'a> Overlay<'a> {
    /// Lays `space` (whose candidates are all linear maps of the model, seven a block) over the blocks `blocks`.
    pub fn new(
        space: &AdaptedSpace,
        blocks: Range<usize>,
        partition: &'a dyn partition::Assignment,
        executor: &'a dyn Executor,
        (kind, device): (Kind, Device),
    ) -> Self {
        let mut by_block: Vec<Vec<AdaptedTensor>> = blocks.clone().map(|_| Vec::new()).collect();
        for module in space.modules() {
            let (block, linear) = (
                module.candidate / LinearKind::ALL.len(),
                LinearKind::ALL[module.candidate % LinearKind::ALL.len()],
            );
            if !blocks.contains(&block) {
                continue;
            }
            let tensor = |part, first_index, numel: u64| AdaptedTensor {
                kind: linear,
                part,
                first_index,
                numel: numel as usize,
            };
            let tensors = &mut by_block[block - blocks.start];
            tensors.push(tensor(Part::Weight, module.offset, module.weight_numel()));
            if module.bias {
                let first_index = module.offset + module.weight_numel();
                tensors.push(tensor(Part::Bias, first_index, module.bias_numel()));
            }
        }
        // Blocks of one model have the same shapes, but not always the same adapted modules.
        let alike = by_block.iter().all(|tensors| places(tensors) == places(&by_block[0]));
        let slots = (0..by_block.len() + usize::from(alike)).map(|_| Slot::default()).collect();
        Self {
            partition,
            executor,
            kind,
            merged: kind == Kind::Float,
            device,
            kernels: None,
            first_block: blocks.start,
            by_block,
            slots,
            wide: None,
        }
    }

    /// The first block that has buffers of its own by now; the end of the blocks where none has.
    pub fn first_with_buffers(&self) -> usize {
        let own = self.slots.iter().take(self.by_block.len());
        self.first_block + own.take_while(|slot| slot.buffers.is_empty()).count()
    }

    /// In half precision, too, lets W + ΔW replace W: one product less, and updates below the resolution of a weight are
    /// rounded away. The sum is made in f32 and rounded once.
    pub fn merge(&mut self) {
        self.merged = true;
    }

    /// Makes ΔW and sums gradients by the kernels of `map` from now on, which is on the device of the weights.
    pub fn compute_with(&mut self, map: DeviceMap) {
        self.kernels = Some(Kernels { map, stamp: None });
    }

    /// Adds the sums of the step that kernels have made to `sums` (length d), and starts the next step from zero. Returns
    /// whether a term was out of range or not finite.
    pub fn take_sums(&mut self, sums: &mut [i64]) -> Result<bool, TrainError> {
        let Some(Kernels { map, .. }) = &mut self.kernels else { return Ok(false) };
        let mut own = vec![0; sums.len()];
        let overflow = map.finish_step(&mut own)?;
        sums.iter_mut().zip(&own).for_each(|(sum, own)| *sum = sum.wrapping_add(*own));
        Ok(overflow)
    }

    /// Lays ΔW of `theta` over a block's frozen weights, in buffers of the block's own or in those that all blocks share,
    /// where blocks are alike. They are overwritten by the next call for the same ones: a graph over them must have run
    /// backward by then, or be preceded by [`Self::restore`].
    pub fn block(
        &mut self,
        block: usize,
        buffers: Buffers,
        mut weights: BlockWeights,
        theta: ScaledTheta<'_>,
        dropout: Option<Dropout>,
    ) -> Result<AdaptedBlock, TrainError> {
        let slot = self.slot_of(block, buffers);
        self.fill_slot(block, slot, &weights, theta, dropout)?;
        let tensors = &self.by_block[block - self.first_block];
        let mut leaves = Vec::with_capacity(tensors.len());
        for (tensor, buffer) in tensors.iter().zip(&self.slots[slot].buffers) {
            let leaf = buffer.values.detach().set_requires_grad(true);
            tensor.place(&mut weights, self.merged, &leaf);
            leaves.push(leaf);
        }
        Ok(AdaptedBlock { weights, leaves })
    }

    fn slot_of(&self, block: usize, buffers: Buffers) -> usize {
        match buffers {
            Buffers::Shared if self.slots.len() > self.by_block.len() => self.by_block.len(),
            _ => block - self.first_block,
        }
    }

    /// A block with ΔW of `theta` in place for good, outside of any graph: for generation.
    ///
    /// # Errors
    /// As for [`Self::block`].
    pub fn applied(
        &mut self,
        block: usize,
        weights: BlockWeights,
        theta: ScaledTheta<'_>,
    ) -> Result<BlockWeights, TrainError> {
        let mut weights = self.block(block, Buffers::Own, weights, theta, None)?.weights;
        for kind in LinearKind::ALL {
            let linear = weights.linear_mut(kind);
            let made = [linear.delta.as_mut(), linear.bias.as_mut(), linear.delta_bias.as_mut()];
            for tensor in made.into_iter().flatten().chain([&mut linear.weight]) {
                *tensor = tensor.detach();
            }
        }
        // The buffers are the block's now.
        let slot = self.slot_of(block, Buffers::Own);
        self.slots[slot] = Slot::default();
        Ok(weights)
    }

    /// Adds the gradients of the block's leaves (in their order), each `lift` (a power of two) times too large, to
    /// `reducer`.
    pub fn reduce(
        &mut self,
        block: usize,
        grads: Vec<Tensor>,
        lift: f64,
        dropout: Option<Dropout>,
        reducer: &mut Reducer,
    ) -> Result<(), TrainError> {
        let fixed = *reducer.fixed_point();
        if let Some(Kernels { map, .. }) = &mut self.kernels {
            for (tensor, grad) in self.by_block[block - self.first_block].iter().zip(grads) {
                let grad = grad.contiguous();
                let dropout = tensor.dropout(dropout);
                let run = DeviceGrads {
                    first_index: tensor.first_index,
                    numel: tensor.numel as u64,
                    grad: address(&grad, tensor.numel),
                    element: element(grad.kind()),
                    lift: lift as f32,
                };
                // SAFETY: the address is that of a contiguous tensor of `numel` numbers on the device (`address`). It is
                // let go of before the kernel is done, but whatever gets its memory writes there on the same stream,
                // after the kernel.
                unsafe { map.reduce(dropout, &[run], &fixed)? };
            }
            return Ok(());
        }
        // One tensor after the other, so that one alone is ever there in f32 besides.
        for (tensor, grad) in self.by_block[block - self.first_block].iter().zip(grads) {
            let wide = grad.to_kind(Kind::Float).contiguous();
            drop(grad);
            let wide = if lift == 1.0 { wide } else { wide / lift };
            let wide = wide.to_device(Device::Cpu);
            let dropout = tensor.dropout(dropout);
            let slice = GradSlice { first_index: tensor.first_index, grad: f32_slice(&wide, tensor.numel) };
            reducer.add(&Map::new(self.partition, dropout), self.executor, &[slice])?;
        }
        Ok(())
    }

    /// Makes the block's own buffers hold ΔW of `theta` under this mask (over `frozen`, where merged), unless they do.
    /// Before a graph runs backward whose buffers another micro-batch may have used since: it reads them where they are.
    pub fn restore(
        &mut self,
        block: usize,
        frozen: &BlockWeights,
        theta: ScaledTheta<'_>,
        dropout: Option<Dropout>,
    ) -> Result<(), TrainError> {
        self.fill_slot(block, self.slot_of(block, Buffers::Own), frozen, theta, dropout)
    }

    fn fill_slot(
        &mut self,
        block: usize,
        slot: usize,
        frozen: &BlockWeights,
        theta: ScaledTheta<'_>,
        dropout: Option<Dropout>,
    ) -> Result<(), TrainError> {
        let tensors = &self.by_block[block - self.first_block];
        let Slot { content, buffers } = &mut self.slots[slot];
        let wanted = Content { block, stamp: theta.stamp, dropout };
        if *content == Some(wanted) {
            return Ok(());
        }
        if buffers.is_empty() {
            buffers.extend(tensors.iter().map(|tensor| {
                let shape = tensor.base(frozen).size();
                Buffer { values: Tensor::zeros(shape, (self.kind, self.device)) }
            }));
        }
        *content = None;
        if self.kernels.is_some() {
            self.fill_by_kernels(block, slot, frozen, theta, dropout)?;
        } else if self.device != Device::Cpu {
            self.fill_elsewhere(block, slot, frozen, theta, dropout)?;
        } else if self.kind == Kind::Float {
            self.fill(block, slot, frozen, theta, dropout)?;
        } else {
            self.fill_rounded(block, slot, frozen, theta, dropout)?;
        }
        self.slots[slot].content = Some(wanted);
        Ok(())
    }

    /// W + ΔW in f32, all tensors of the block at once.
    fn fill(
        &mut self,
        block: usize,
        slot: usize,
        frozen: &BlockWeights,
        theta: ScaledTheta<'_>,
        dropout: Option<Dropout>,
    ) -> Result<(), TrainError> {
        let tensors = &self.by_block[block - self.first_block];
        for (part, dropout) in [(Part::Weight, dropout), (Part::Bias, None)] {
            let mut slices: Vec<WeightSlice<'_>> = tensors
                .iter()
                .zip(self.slots[slot].buffers.iter_mut())
                .filter(|(tensor, _)| tensor.part == part)
                .map(|(tensor, buffer)| WeightSlice {
                    first_index: tensor.first_index,
                    base: Some(f32_slice(tensor.base(frozen), tensor.numel)),
                    out: f32_slice_mut(&mut buffer.values, tensor.numel),
                })
                .collect();
            if !slices.is_empty() {
                let map = Map::new(self.partition, dropout);
                map.apply_parallel(self.executor, theta.values, &mut slices)?;
            }
        }
        Ok(())
    }

    /// W + ΔW, or ΔW rounded to half precision, by kernels where the weights are.
    fn fill_by_kernels(
        &mut self,
        block: usize,
        slot: usize,
        frozen: &BlockWeights,
        theta: ScaledTheta<'_>,
        dropout: Option<Dropout>,
    ) -> Result<(), TrainError> {
        let Some(Kernels { map, stamp }) = &mut self.kernels else { return Ok(()) };
        if *stamp != Some(theta.stamp) {
            *stamp = None;
            map.upload_theta(theta.values)?;
            *stamp = Some(theta.stamp);
        }
        let tensors = &self.by_block[block - self.first_block];
        let buffers = &self.slots[slot].buffers;
        if self.merged && self.kind != Kind::Float {
            // Kernels add in f32 alone: they make ΔW in f32, tensor by tensor, and libtorch adds and rounds.
            for (tensor, buffer) in tensors.iter().zip(buffers) {
                let made = Tensor::empty(buffer.values.size(), (Kind::Float, self.device));
                let run = DeviceWeights {
                    first_index: tensor.first_index,
                    numel: tensor.numel as u64,
                    base: None,
                    out: address(&made, tensor.numel),
                    element: Element::F32,
                };
                // SAFETY: as below.
                unsafe { map.apply(tensor.dropout(dropout), &[run])? };
                no_grad(|| buffer.values.data().copy_(&plus(made, tensor.base(frozen))));
            }
            return Ok(());
        }
        for (part, dropout) in [(Part::Weight, dropout), (Part::Bias, None)] {
            let own = tensors.iter().zip(buffers).filter(|(tensor, _)| tensor.part == part);
            let runs: Vec<DeviceWeights> = own
                .map(|(tensor, buffer)| DeviceWeights {
                    first_index: tensor.first_index,
                    numel: tensor.numel as u64,
                    base: (self.kind == Kind::Float).then(|| address(tensor.base(frozen), tensor.numel)),
                    out: address(&buffer.values, tensor.numel),
                    element: element(self.kind),
                })
                .collect();
            // SAFETY: the addresses are those of contiguous tensors of `numel` numbers on the device (`address`), which
            // live until the next call for this slot; kernels and libtorch's own go through one stream, in order.
            unsafe { map.apply(dropout, &runs)? };
        }
        Ok(())
    }

    /// W + ΔW, or ΔW rounded to half precision, on another device: made here, one tensor after the other, and sent
    /// there. The same operations in the same order as here, hence the same bits.
    fn fill_elsewhere(
        &mut self,
        block: usize,
        slot: usize,
        frozen: &BlockWeights,
        theta: ScaledTheta<'_>,
        dropout: Option<Dropout>,
    ) -> Result<(), TrainError> {
        for at in 0..self.slots[slot].buffers.len() {
            let tensor = self.by_block[block - self.first_block][at];
            let made = self.made_here(tensor, theta, dropout)?;
            let buffer = &self.slots[slot].buffers[at];
            let made = made.view(buffer.values.size().as_slice()).to_device(self.device);
            let made = if self.merged { plus(made, tensor.base(frozen)) } else { made };
            // Through an alias with a version of its own, as in `fill_rounded`.
            no_grad(|| buffer.values.data().copy_(&made));
        }
        Ok(())
    }

    /// ΔW, or W + ΔW, rounded to half precision, one tensor after the other: one alone is ever there in f32.
    fn fill_rounded(
        &mut self,
        block: usize,
        slot: usize,
        frozen: &BlockWeights,
        theta: ScaledTheta<'_>,
        dropout: Option<Dropout>,
    ) -> Result<(), TrainError> {
        for at in 0..self.slots[slot].buffers.len() {
            let tensor = self.by_block[block - self.first_block][at];
            let made = self.made_here(tensor, theta, dropout)?;
            let made = if self.merged { plus(made, &tensor.base(frozen).view(-1)) } else { made };
            let rounded = made.to_kind(self.kind);
            // Not by libtorch's own copy: graphs of other micro-batches refer to this memory, and what they need will be
            // there again before they run (`restore`), but libtorch would count the write as a change under them.
            let into = half_bytes_mut(&mut self.slots[slot].buffers[at].values, tensor.numel);
            rounded.copy_data_u8(into, tensor.numel);
        }
        Ok(())
    }

    /// ΔW of one tensor in f32, flat, made on the CPU; the next call writes over it.
    fn made_here(
        &mut self,
        tensor: AdaptedTensor,
        theta: ScaledTheta<'_>,
        dropout: Option<Dropout>,
    ) -> Result<Tensor, TrainError> {
        let dropout = tensor.dropout(dropout);
        let wide = self.wide.get_or_insert_with(|| wide_buffer(&self.by_block));
        let mut own = wide.narrow(0, 0, tensor.numel as i64);
        let out = f32_slice_mut(&mut own, tensor.numel);
        let mut slices = [WeightSlice { first_index: tensor.first_index, base: None, out }];
        Map::new(self.partition, dropout).apply_parallel(self.executor, theta.values, &mut slices)?;
        Ok(own)
    }
}

/// ΔW in f32 plus its weight of any dtype, in place.
fn plus(mut delta: Tensor, weight: &Tensor) -> Tensor {
    no_grad(|| delta.g_add_(weight))
}

/// Room for the longest of these in f32.
fn wide_buffer(by_block: &[Vec<AdaptedTensor>]) -> Tensor {
    let widest = by_block.iter().flatten().map(|tensor| tensor.numel).max().unwrap_or(0);
    Tensor::zeros([widest as i64], (Kind::Float, Device::Cpu))
}

/// Which tensors of a block these are.
fn places(tensors: &[AdaptedTensor]) -> Vec<(LinearKind, Part)> {
    tensors.iter().map(|tensor| (tensor.kind, tensor.part)).collect()
}

#[cfg(test)]
mod tests;
