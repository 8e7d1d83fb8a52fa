//! Forward and backward of one micro-batch, block by block.
//!
//! Every block's input and adapted weights are detached leaves, so each block has a small graph of its own. Backward
//! runs from the last block to the first; the gradients of a block's weights become sums over θ's groups and are
//! dropped before the next block's are made.

use data::MicroBatch;
use model::{Decoder, DecoderWeights, SequenceContext, cross_entropy};
use projection::{Dropout, Reducer};
use tch::{Kind, Tensor, no_grad};

use crate::TrainError;
use crate::overlay::{AdaptedBlock, Overlay, ScaledTheta};

/// A model ready to run on micro-batches.
pub struct Pass<'a> {
    /// The computation.
    pub model: &'a Decoder,
    /// The frozen weights.
    pub weights: &'a DecoderWeights,
    /// ΔW over them.
    pub overlay: Overlay<'a>,
    /// Keep only block inputs in forward and run each block again in backward.
    pub recompute: bool,
    /// Tokens whose logits are alive at once; 0 for all.
    pub cross_entropy_chunk: usize,
}

/// What backward needs of a block.
struct Taped {
    /// The block's input, a leaf.
    input: Tensor,
    /// The block's graph; absent when it is to be computed again.
    graph: Option<(AdaptedBlock, Tensor)>,
}

impl Pass<'_> {
    /// Loss sum (nats) and predicted tokens of a micro-batch, without gradients or dropout.
    pub fn loss(&mut self, batch: &MicroBatch, theta: ScaledTheta<'_>) -> Result<(f64, u64), TrainError> {
        let context = self.context(batch);
        let mut hidden = no_grad(|| self.embed(batch));
        for block in 0..self.weights.blocks.len() {
            let adapted = self.overlay.block(block, theta, None)?;
            hidden = no_grad(|| self.model.block(block, &adapted.weights, &hidden, &context));
        }
        let head = no_grad(|| self.head(&hidden, batch, None));
        Ok((head.loss_sum, head.tokens))
    }

    /// Forward and backward of `loss_sum / normaliser`; the gradient of θ is added to `reducer`. Returns the loss
    /// sum of the micro-batch, nats.
    pub fn forward_backward(
        &mut self,
        batch: &MicroBatch,
        theta: ScaledTheta<'_>,
        dropout: Option<Dropout>,
        normaliser: f64,
        reducer: &mut Reducer,
    ) -> Result<f64, TrainError> {
        let context = self.context(batch);
        let first = self.overlay.first_adapted_block();
        let mut hidden = no_grad(|| self.embed(batch));
        let mut tape = Vec::with_capacity(self.weights.blocks.len());
        for block in 0..self.weights.blocks.len() {
            let adapted = self.overlay.block(block, theta, dropout)?;
            let input = hidden.detach().set_requires_grad(block > first);
            if self.recompute || block < first {
                hidden = no_grad(|| self.model.block(block, &adapted.weights, &input, &context));
                tape.push(Taped { input, graph: None });
            } else {
                let output = self.model.block(block, &adapted.weights, &input, &context);
                hidden = output.detach();
                tape.push(Taped { input, graph: Some((adapted, output)) });
            }
        }
        let lift = self.lift(normaliser);
        let head = self.head(&hidden, batch, Some(normaliser / lift));
        let Some(mut upstream) = head.grad else { return Ok(head.loss_sum) };
        while let Some(taped) = tape.pop() {
            let block = tape.len();
            if block < first {
                break;
            }
            let (adapted, output) = match taped.graph {
                Some(graph) => graph,
                None => {
                    let adapted = self.overlay.block(block, theta, dropout)?;
                    let output = self.model.block(block, &adapted.weights, &taped.input, &context);
                    (adapted, output)
                }
            };
            let mut grads = backward(&output, &upstream, &taped.input, &adapted.leaves, block > first);
            if block > first {
                upstream = grads.remove(0);
            }
            self.overlay.reduce(block, &grads, lift, dropout, reducer)?;
        }
        Ok(head.loss_sum)
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

    fn context(&self, batch: &MicroBatch) -> SequenceContext {
        self.model.context(&batch.attention_mask, batch.rows, batch.len)
    }

    fn embed(&self, batch: &MicroBatch) -> Tensor {
        let ids = Tensor::from_slice(&batch.input_ids).reshape([batch.rows as i64, batch.len as i64]);
        self.model.embed(&self.weights.embedding, &ids.to_device(self.model.device()))
    }

    fn head(&self, hidden: &Tensor, batch: &MicroBatch, normaliser: Option<f64>) -> model::CrossEntropy {
        let norm = |x: &Tensor| self.model.final_norm(&self.weights.norm, x);
        cross_entropy(hidden, &norm, &self.weights.head, &batch.labels, self.cross_entropy_chunk, normaliser)
    }
}

/// Gradients of `output · upstream` by the block's input (if wanted, first) and its leaves.
fn backward(
    output: &Tensor,
    upstream: &Tensor,
    input: &Tensor,
    leaves: &[Tensor],
    input_wanted: bool,
) -> Vec<Tensor> {
    // The bindings start backward from a scalar; the sum's gradient is one, so what enters is `upstream` itself.
    let root = (output * upstream).sum(output.kind());
    let inputs: Vec<&Tensor> = input_wanted.then_some(input).into_iter().chain(leaves).collect();
    if inputs.is_empty() {
        return Vec::new();
    }
    Tensor::run_backward(&[root], &inputs, false, false)
}
