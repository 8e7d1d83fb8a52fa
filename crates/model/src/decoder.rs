//! Llama as plain math: embedding, block, final norm. Shapes are in the legend of the crate.

use tch::{Device, Kind, Tensor};

use crate::{BlockWeights, LinearKind, ModelConfig, RotaryTables};

/// The computation of a Llama, without weights.
#[derive(Debug)]
pub struct Decoder {
    config: ModelConfig,
    kind: Kind,
    device: Device,
}

/// What all blocks share for one micro-batch: positions and who may attend to whom.
#[derive(Debug)]
pub struct SequenceContext {
    rotary: RotaryTables,
    /// `[B, 1, T, T]`, true where attention is allowed; absent when causality alone says it.
    mask: Option<Tensor>,
}

impl Decoder {
    /// A model of shape `config` that computes in `kind` on `device`.
    pub fn new(config: ModelConfig, kind: Kind, device: Device) -> Self {
        Self { config, kind, device }
    }

    /// The shape and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The compute dtype.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the computation runs.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Positions and mask of a micro-batch of `rows` × `length` tokens.
    ///
    /// `attention_mask` is row-major `[B, T]`, 1 for tokens and 0 for padding. With padding on the right alone,
    /// causality already keeps every token from padding, so no mask is made and the fast causal kernel runs.
    pub fn context(&self, attention_mask: &[i64], rows: usize, length: usize) -> SequenceContext {
        debug_assert_eq!(attention_mask.len(), rows * length);
        let rotary = RotaryTables::new(&self.config, length as i64, self.kind, self.device);
        let right_padded =
            attention_mask.chunks_exact(length.max(1)).all(|row| row.is_sorted_by(|a, b| a >= b));
        let mask = (!right_padded).then(|| {
            let (b, t) = (rows as i64, length as i64);
            let real = Tensor::from_slice(attention_mask).reshape([b, 1, 1, t]).to_kind(Kind::Bool);
            let causal = Tensor::ones([t, t], (Kind::Bool, Device::Cpu)).tril(0);
            // A padding row may see itself: a softmax over nothing would be NaN and poison the gradients.
            let diagonal = Tensor::eye(t, (Kind::Bool, Device::Cpu));
            causal.logical_and(&real).logical_or(&diagonal).to_device(self.device)
        });
        SequenceContext { rotary, mask }
    }

    /// Token embedding: `ids` `[B, T]` (int64) → `[B, T, H]`.
    pub fn embed(&self, embedding: &Tensor, ids: &Tensor) -> Tensor {
        Tensor::embedding(embedding, ids, -1, false, false)
    }

    /// One transformer block: `x` `[B, T, H]` → `[B, T, H]`.
    pub fn block(&self, weights: &BlockWeights, x: &Tensor, context: &SequenceContext) -> Tensor {
        let attended = x + self.attention(weights, &self.rms_norm(x, &weights.input_norm), context);
        let normed = self.rms_norm(&attended, &weights.post_norm);
        let gate = weights.linear(LinearKind::Gate).forward(&normed).silu();
        let up = weights.linear(LinearKind::Up).forward(&normed);
        attended + weights.linear(LinearKind::Down).forward(&(gate * up))
    }

    /// Final norm: `x` `[…, H]` → `[…, H]`.
    pub fn final_norm(&self, norm: &Tensor, x: &Tensor) -> Tensor {
        self.rms_norm(x, norm)
    }

    fn attention(&self, weights: &BlockWeights, x: &Tensor, context: &SequenceContext) -> Tensor {
        let (b, t, _) = x.size3().unwrap_or_else(|_| unreachable!("activations are [B, T, H]"));
        let heads = |kind: LinearKind, count: i64| {
            weights.linear(kind).forward(x).view([b, t, count, self.config.head_dim]).transpose(1, 2)
        };
        let query = context.rotary.apply(&heads(LinearKind::Query, self.config.num_heads));
        let key = context.rotary.apply(&heads(LinearKind::Key, self.config.num_kv_heads));
        let value = heads(LinearKind::Value, self.config.num_kv_heads);
        let grouped = self.config.num_heads != self.config.num_kv_heads;
        let causal = context.mask.is_none();
        let attended = Tensor::scaled_dot_product_attention(
            &query,
            &key,
            &value,
            context.mask.as_ref(),
            0.0,
            causal,
            None,
            grouped,
        );
        let merged = attended.transpose(1, 2).reshape([b, t, self.config.num_heads * self.config.head_dim]);
        weights.linear(LinearKind::Output).forward(&merged)
    }

    /// RMSNorm (arXiv 1910.07467), the mean square in f32 whatever the compute dtype.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        let wide = x.to_kind(Kind::Float);
        let mean_square = wide.square().mean_dim(-1, true, Kind::Float);
        let normed = wide * (mean_square + self.config.rms_norm_eps).rsqrt();
        weight * normed.to_kind(self.kind)
    }
}
