//! Forward and backward of one micro-batch through the blocks of a stage, block by block.
//!
//! Every block's input and adapted weights are detached leaves, so each block has a small graph of its own. Backward
//! runs from the last block to the first; the gradients of a block's weights become sums over θ's groups and are
//! dropped before the next block's are made.

use std::rc::Rc;

use data::MicroBatch;
use model::{CrossEntropy, Decoder, SequenceContext, cross_entropy, likeliest, next_labels, to_device};
use projection::{Dropout, Reducer};
use tch::{Kind, Tensor, no_grad};

use crate::TrainError;
use crate::overlay::{AdaptedBlock, Buffers, Overlay, ScaledTheta};
use crate::probe::{Part, Probe};
use crate::recompute::Recompute;
use crate::weights::{FrozenWeights, Stage};

/// A stage of a model ready to run on micro-batches.
pub struct Pass<'a> {
    /// The computation.
    pub model: &'a Decoder,
    /// Which part of the model.
    pub stage: Stage,
    /// ΔW over its frozen weights.
    pub overlay: Overlay<'a>,
    /// Which blocks keep only their input in forward and run again in backward.
    pub recompute: Recompute,
    /// Tokens whose logits are alive at once; 0 for all.
    pub cross_entropy_chunk: usize,
    /// Is told what is done next.
    pub probe: Option<Rc<dyn Probe>>,
}

/// ΔW of a micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// s·θ.
    pub theta: ScaledTheta<'a>,
    /// The micro-batch's mask on ΔW.
    pub dropout: Option<Dropout>,
}

/// What backward needs of a micro-batch.
pub struct Tape {
    context: SequenceContext,
    blocks: Vec<Taped>,
}

/// What backward needs of a block.
struct Taped {
    /// The block's input, a leaf.
    input: Tensor,
    /// The block's graph; absent when it is to be computed again.
    graph: Option<(AdaptedBlock, Tensor)>,
}

impl Pass<'_> {
    /// Forward and backward of `loss_sum / normaliser` through a whole model; the gradient of θ is added to `reducer`.
    /// Returns the loss sum of the micro-batch, nats, as [`CrossEntropy::loss_sum`].
    pub fn forward_backward(
        &mut self,
        weights: &mut dyn FrozenWeights,
        batch: &MicroBatch,
        update: Update<'_>,
        normaliser: f64,
        reducer: &mut Reducer,
    ) -> Result<Tensor, TrainError> {
        let input = self.embed(weights, batch);
        let (output, tape) = self.forward(weights, batch, input, update)?;
        let head = self.head(weights, &output, batch, Some(normaliser))?;
        if let Some(upstream) = head.grad {
            self.backward(weights, tape, upstream, update, normaliser, reducer)?;
        }
        Ok(head.loss_sum)
    }

    /// On the first stage: token embeddings, `[B, T, H]`.
    pub fn embed(&self, weights: &dyn FrozenWeights, batch: &MicroBatch) -> Tensor {
        self.enter(Part::Embedding);
        let (table, ids) = weights.embedding(&batch.input_ids);
        let ids = Tensor::from_slice(&ids).reshape([batch.rows as i64, batch.len as i64]);
        let device = self.model.device();
        no_grad(|| self.model.embed(&table.to_device(device), &to_device(&ids, device)))
    }

    /// Forward through the stage's blocks: `[B, T, H]` → `[B, T, H]`, with what backward needs.
    pub fn forward(
        &mut self,
        weights: &mut dyn FrozenWeights,
        batch: &MicroBatch,
        input: Tensor,
        update: Update<'_>,
    ) -> Result<(Tensor, Tape), TrainError> {
        let context = self.context(batch);
        let first = self.stage.first_adapted;
        let first_kept = self.recompute.first_kept(&self.stage, batch, self.overlay.first_with_buffers());
        let mut hidden = input;
        let mut blocks = Vec::with_capacity(self.stage.blocks.len());
        for block in self.stage.blocks.clone() {
            let frozen = weights.acquire(block);
            let keeps = block >= first_kept;
            let buffers = if keeps { Buffers::Own } else { Buffers::Shared };
            self.enter(Part::Apply);
            let adapted = self.overlay.block(block, buffers, frozen, update.theta, update.dropout)?;
            self.enter(Part::Forward);
            let input = hidden.detach().set_requires_grad(block > first);
            if !keeps || block < first {
                hidden = no_grad(|| self.model.block(block, &adapted.weights, &input, &context));
                blocks.push(Taped { input, graph: None });
            } else {
                let output = self.model.block(block, &adapted.weights, &input, &context);
                hidden = output.detach();
                blocks.push(Taped { input, graph: Some((adapted, output)) });
            }
            weights.release(block);
        }
        Ok((hidden, Tape { context, blocks }))
    }

    /// Forward through the stage's blocks without dropout, keeping nothing.
    pub fn infer(
        &mut self,
        weights: &mut dyn FrozenWeights,
        batch: &MicroBatch,
        input: Tensor,
        theta: ScaledTheta<'_>,
    ) -> Result<Tensor, TrainError> {
        let context = self.context(batch);
        let buffers = if self.recompute == Recompute::Never { Buffers::Own } else { Buffers::Shared };
        let mut hidden = input;
        for block in self.stage.blocks.clone() {
            let frozen = weights.acquire(block);
            let adapted = self.overlay.block(block, buffers, frozen, theta, None)?;
            hidden = no_grad(|| self.model.block(block, &adapted.weights, &hidden, &context));
            weights.release(block);
        }
        Ok(hidden)
    }

    /// On the last stage: loss, and with `normaliser` its gradient by `hidden`, larger by [`Self::lift`].
    pub fn head(
        &self,
        weights: &mut dyn FrozenWeights,
        hidden: &Tensor,
        batch: &MicroBatch,
        normaliser: Option<f64>,
    ) -> Result<CrossEntropy, TrainError> {
        self.enter(Part::Head);
        let norm_weight = weights.norm().shallow_clone();
        let norm = |x: &Tensor| self.model.final_norm(&norm_weight, x);
        let normaliser = normaliser.map(|normaliser| normaliser / self.lift(normaliser));
        let targets = next_labels(&batch.labels, batch.sequence_lengths());
        weights.open_head();
        let loss = cross_entropy(hidden, &norm, weights, &targets, self.cross_entropy_chunk, normaliser);
        weights.close_head();
        loss
    }

    /// On the last stage: the likeliest token after the last one of the only row.
    pub fn next_token(&self, weights: &mut dyn FrozenWeights, hidden: &Tensor) -> Result<u32, TrainError> {
        let last = hidden.select(1, hidden.size()[1] - 1);
        let normed = no_grad(|| self.model.final_norm(weights.norm(), &last));
        weights.open_head();
        let id = likeliest(&normed, weights);
        weights.close_head();
        id
    }

    /// Backward through the stage's blocks; the gradient of θ is added to `reducer`. Returns the gradient by the
    /// stage's input where the stage before has something to learn.
    pub fn backward(
        &mut self,
        weights: &mut dyn FrozenWeights,
        tape: Tape,
        mut upstream: Tensor,
        update: Update<'_>,
        normaliser: f64,
        reducer: &mut Reducer,
    ) -> Result<Option<Tensor>, TrainError> {
        let (first, lift) = (self.stage.first_adapted, self.lift(normaliser));
        let Tape { context, mut blocks } = tape;
        for block in self.stage.units(self.model.config()).with_backward().rev() {
            let Some(Taped { input, graph }) = blocks.pop() else { unreachable!("every block was taped") };
            let frozen = weights.acquire(block);
            self.enter(Part::Apply);
            let (adapted, output) = match graph {
                Some(graph) => {
                    self.overlay.restore(block, &frozen, update.theta, update.dropout)?;
                    graph
                }
                None => {
                    let (theta, dropout) = (update.theta, update.dropout);
                    let adapted = self.overlay.block(block, Buffers::Shared, frozen, theta, dropout)?;
                    self.enter(Part::Forward);
                    let output = self.model.block(block, &adapted.weights, &input, &context);
                    (adapted, output)
                }
            };
            self.enter(Part::Backward);
            let mut grads = gradients(&output, &upstream, &input, &adapted.leaves, block > first);
            drop((output, adapted));
            weights.release(block);
            if block > first {
                upstream = grads.remove(0);
            }
            self.enter(Part::Reduce);
            self.overlay.reduce(block, grads, lift, update.dropout, reducer)?;
        }
        Ok(self.stage.passes_gradients_back().then_some(upstream))
    }

    /// The power of two by which gradients are larger than they should be while they are in the graph. A float16
    /// gradient below 6e-8 is zero, and a step's label count divides every gradient: there the division is put
    /// off, up to a factor of two, until gradients are f32. Exact, and the same on every rank.
    fn lift(&self, normaliser: f64) -> f64 {
        match self.model.kind() {
            Kind::Half => normaliser.log2().floor().exp2(),
            _ => 1.0,
        }
    }

    fn enter(&self, part: Part) {
        if let Some(probe) = &self.probe {
            probe.enter(part);
        }
    }

    fn context(&self, batch: &MicroBatch) -> SequenceContext {
        match batch.packed.is_empty() {
            true => self.model.context(&batch.attention_mask, batch.rows, batch.len),
            false => self.model.packed_context(&batch.packed),
        }
    }
}

/// Gradients of `output · upstream` by the block's input (if wanted, first) and its leaves.
fn gradients(
    output: &Tensor,
    upstream: &Tensor,
    input: &Tensor,
    leaves: &[Tensor],
    input_wanted: bool,
) -> Vec<Tensor> {
    let inputs: Vec<&Tensor> = input_wanted.then_some(input).into_iter().chain(leaves).collect();
    if inputs.is_empty() {
        return Vec::new();
    }
    // As the bindings do; whoever has no memory is told so where the panic is caught.
    torch_shim::gradients(output, upstream, &inputs).unwrap_or_else(|error| panic!("{error}"))
}
