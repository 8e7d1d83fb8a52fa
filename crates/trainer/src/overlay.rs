//! ΔW laid over the frozen weights, block by block.
//!
//! In f32 the sum W + ΔW replaces the weight: one matrix product. In half precision the sum would round ΔW away, so
//! ΔW is kept apart and multiplied on its own ([`model::Linear`]).

use adapter::AdaptedSpace;
use model::{BlockWeights, DecoderWeights, LinearKind};
use projection::{Dropout, Executor, GradSlice, Map, Reducer, WeightSlice};
use tch::{Kind, Tensor};

use crate::TrainError;

/// An adapted linear map of a block.
#[derive(Debug, Clone, Copy)]
struct AdaptedLinear {
    kind: LinearKind,
    first_index: u64,
    numel: usize,
}

/// What the overlay writes for one adapted linear map.
#[derive(Debug)]
struct Buffer {
    /// f32: W + ΔW where the model computes in f32, ΔW otherwise.
    values: Tensor,
}

/// Which θ a buffer holds: a stamp of θ, and whether a dropout mask went in.
type Content = Option<u64>;

/// The adapted weights of a model and where they are made.
pub struct Overlay<'a> {
    weights: &'a DecoderWeights,
    partition: &'a dyn partition::Assignment,
    executor: &'a dyn Executor,
    kind: Kind,
    by_block: Vec<Vec<AdaptedLinear>>,
    /// One set of buffers a block, or a single one that all blocks take turns with.
    slots: Vec<(Content, Vec<Buffer>)>,
}

/// θ as the map reads it: s·θ, with a stamp that changes whenever θ does.
#[derive(Debug, Clone, Copy)]
pub struct ScaledTheta<'a> {
    /// s·θ, length d.
    pub values: &'a [f32],
    /// Differs between different θ of a run.
    pub stamp: u64,
}

/// A block with its adapted weights in place, as leaves of a graph to come.
pub struct AdaptedBlock {
    /// All weights of the block.
    pub weights: BlockWeights,
    /// The tensors whose gradients are wanted, in module order.
    pub leaves: Vec<Tensor>,
}

impl<'a> Overlay<'a> {
    /// Lays `space` (whose candidates are all linear maps of the model, seven a block) over `weights`. With
    /// `shared`, all blocks use one set of buffers: right when no graph outlives its block, as in recompute.
    pub fn new(
        weights: &'a DecoderWeights,
        space: &AdaptedSpace,
        partition: &'a dyn partition::Assignment,
        executor: &'a dyn Executor,
        kind: Kind,
        shared: bool,
    ) -> Self {
        let mut by_block: Vec<Vec<AdaptedLinear>> = weights.blocks.iter().map(|_| Vec::new()).collect();
        for module in space.modules() {
            let (block, linear) = (
                module.candidate / LinearKind::ALL.len(),
                LinearKind::ALL[module.candidate % LinearKind::ALL.len()],
            );
            by_block[block].push(AdaptedLinear {
                kind: linear,
                first_index: module.offset,
                numel: module.numel() as usize,
            });
        }
        // Blocks of one model have the same shapes, but not always the same adapted modules.
        let shared = shared && by_block.iter().all(|linears| kinds(linears) == kinds(&by_block[0]));
        let slots = (0..if shared { 1 } else { by_block.len() }).map(|_| (None, Vec::new())).collect();
        Self { weights, partition, executor, kind, by_block, slots }
    }

    /// The first block that has adapted weights: below it no gradient is needed.
    pub fn first_adapted_block(&self) -> usize {
        self.by_block.iter().position(|linears| !linears.is_empty()).unwrap_or(self.by_block.len())
    }

    /// The block's weights with ΔW of `theta` in place. The buffers behind the leaves are overwritten by the next
    /// call for the same slot: a graph over them must have run backward by then.
    pub fn block(
        &mut self,
        block: usize,
        theta: ScaledTheta<'_>,
        dropout: Option<Dropout>,
    ) -> Result<AdaptedBlock, TrainError> {
        let slot = if self.slots.len() == 1 { 0 } else { block };
        self.fill(block, slot, theta, dropout)?;
        let mut weights = self.weights.blocks[block].share();
        let mut leaves = Vec::with_capacity(self.by_block[block].len());
        for (linear, buffer) in self.by_block[block].iter().zip(&self.slots[slot].1) {
            let target = weights.linear_mut(linear.kind);
            let leaf = match self.kind {
                Kind::Float => buffer.values.detach(),
                kind => buffer.values.to_kind(kind),
            };
            let leaf = leaf.set_requires_grad(true);
            match self.kind {
                Kind::Float => target.weight = leaf.shallow_clone(),
                _ => target.delta = Some(leaf.shallow_clone()),
            }
            leaves.push(leaf);
        }
        Ok(AdaptedBlock { weights, leaves })
    }

    /// The whole model with ΔW of `theta` in place, for generation.
    pub fn model(&mut self, theta: ScaledTheta<'_>) -> Result<DecoderWeights, TrainError> {
        let shared = self.slots.len() == 1 && self.by_block.len() > 1;
        let mut blocks = Vec::with_capacity(self.by_block.len());
        for block in 0..self.by_block.len() {
            let mut weights = self.block(block, theta, None)?.weights;
            for kind in LinearKind::ALL {
                let linear = weights.linear_mut(kind);
                linear.weight = linear.weight.detach();
                linear.delta = linear.delta.as_ref().map(Tensor::detach);
                if shared && self.kind == Kind::Float && self.adapts(block, kind) {
                    linear.weight = linear.weight.copy();
                }
            }
            blocks.push(weights);
        }
        Ok(DecoderWeights {
            embedding: self.weights.embedding.shallow_clone(),
            blocks,
            norm: self.weights.norm.shallow_clone(),
            head: self.weights.head.shallow_clone(),
        })
    }

    /// Adds the gradients of the block's leaves (in their order), each `lift` (a power of two) times too large, to
    /// `reducer`.
    pub fn reduce(
        &self,
        block: usize,
        grads: &[Tensor],
        lift: f64,
        dropout: Option<Dropout>,
        reducer: &mut Reducer,
    ) -> Result<(), TrainError> {
        let widen = |grad: &Tensor| {
            let wide = grad.to_kind(Kind::Float).contiguous();
            if lift == 1.0 { wide } else { wide / lift }
        };
        let wide: Vec<Tensor> = grads.iter().map(widen).collect();
        let slices: Vec<GradSlice<'_>> = self.by_block[block]
            .iter()
            .zip(&wide)
            .map(|(linear, grad)| GradSlice {
                first_index: linear.first_index,
                grad: f32_slice(grad, linear.numel),
            })
            .collect();
        let map = Map::new(self.partition, dropout);
        reducer.add(&map, self.executor, &slices)?;
        Ok(())
    }

    fn adapts(&self, block: usize, kind: LinearKind) -> bool {
        self.by_block[block].iter().any(|linear| linear.kind == kind)
    }

    fn fill(
        &mut self,
        block: usize,
        slot: usize,
        theta: ScaledTheta<'_>,
        dropout: Option<Dropout>,
    ) -> Result<(), TrainError> {
        let shared = self.slots.len() == 1 && self.by_block.len() > 1;
        let (content, buffers) = &mut self.slots[slot];
        let wanted = (dropout.is_none() && !shared).then_some(theta.stamp);
        if wanted.is_some() && *content == wanted {
            return Ok(());
        }
        if buffers.is_empty() {
            buffers.extend(self.by_block[block].iter().map(|linear| {
                let shape = self.weights.blocks[block].linear(linear.kind).weight.size();
                Buffer { values: Tensor::zeros(shape, (Kind::Float, tch::Device::Cpu)) }
            }));
        }
        *content = None;
        let merged = self.kind == Kind::Float;
        let mut slices: Vec<WeightSlice<'_>> = Vec::with_capacity(buffers.len());
        for (linear, buffer) in self.by_block[block].iter().zip(buffers.iter_mut()) {
            let base = &self.weights.blocks[block].linear(linear.kind).weight;
            slices.push(WeightSlice {
                first_index: linear.first_index,
                base: merged.then(|| f32_slice(base, linear.numel)),
                out: f32_slice_mut(&mut buffer.values, linear.numel),
            });
        }
        let map = Map::new(self.partition, dropout);
        map.apply_parallel(self.executor, theta.values, &mut slices)?;
        self.slots[slot].0 = wanted;
        Ok(())
    }
}

fn kinds(linears: &[AdaptedLinear]) -> Vec<LinearKind> {
    linears.iter().map(|linear| linear.kind).collect()
}

/// The elements of a contiguous f32 CPU tensor.
fn f32_slice(tensor: &Tensor, numel: usize) -> &[f32] {
    check_layout(tensor, numel);
    // SAFETY: the tensor is a contiguous f32 CPU tensor of `numel` elements (checked above), and lives as long as
    // the borrow; nothing writes to it meanwhile, since writing goes through `f32_slice_mut`.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), numel) }
}

/// The elements of a contiguous f32 CPU tensor that only the caller holds, to be written behind libtorch's back.
fn f32_slice_mut(tensor: &mut Tensor, numel: usize) -> &mut [f32] {
    check_layout(tensor, numel);
    // SAFETY: as in `f32_slice`; leaves that share the storage are not read until the next graph is built.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), numel) }
}

fn check_layout(tensor: &Tensor, numel: usize) {
    assert!(
        tensor.kind() == Kind::Float
            && tensor.device() == tch::Device::Cpu
            && tensor.is_contiguous()
            && tensor.numel() == numel,
        "an adapted weight is a contiguous f32 CPU tensor of {numel} elements"
    );
}
