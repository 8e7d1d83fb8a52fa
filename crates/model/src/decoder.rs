//! A decoder as plain math: embedding, block, final norm. Shapes are in the legend of the crate.

use tch::{Device, Kind, Tensor};

use crate::packed::PackedSequences;
use crate::transfer::to_device;
use crate::{
    Activation, BlockWeights, DecoderWeights, Linear, LinearKind, ModelConfig, NormWeight, RotaryTables,
};

/// The computation of a decoder-only language model, without weights.
#[derive(Debug)]
pub struct Decoder {
    config: ModelConfig,
    kind: Kind,
    device: Device,
    /// The configured scale, rounded to the compute dtype.
    embedding_scale: Option<f64>,
}

/// What all blocks share for one micro-batch: positions and who may attend to whom.
///
/// The masks are true where attention is allowed, `[T, T]` or `[B, 1, T, T]`, and absent when causality alone says it.
#[derive(Debug)]
pub struct SequenceContext {
    rotary: RotaryTables,
    full: Option<Tensor>,
    windowed: Option<Tensor>,
    /// Sequences end to end in the only row; then there is no mask.
    packed: Option<PackedSequences>,
}

impl SequenceContext {
    /// Cosines and sines of the positions.
    pub(crate) fn rotary(&self) -> &RotaryTables {
        &self.rotary
    }

    /// The mask of a block that attends through a sliding window, or of one that sees the whole row.
    pub fn mask(&self, windowed: bool) -> Option<&Tensor> {
        match windowed {
            true => self.windowed.as_ref(),
            false => self.full.as_ref(),
        }
    }
}

impl Decoder {
    /// A model of shape `config` that computes in `kind` on `device`.
    pub fn new(config: ModelConfig, kind: Kind, device: Device) -> Self {
        // Rounded as transformers does: sqrt(3072) becomes 55.5 in bfloat16.
        let round = |scale: f64| Tensor::from(scale as f32).to_kind(kind).double_value(&[]);
        Self { embedding_scale: config.embedding_scale.map(round), config, kind, device }
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

    /// Positions and masks of a micro-batch of `rows` × `length` tokens.
    ///
    /// `attention_mask` is row-major `[B, T]`, 1 for tokens and 0 for padding. With padding on the right alone,
    /// causality already keeps every token from padding, and a window as long as the row keeps it from nothing: then
    /// no mask is made and the fast causal kernel runs.
    pub fn context(&self, attention_mask: &[i64], rows: usize, length: usize) -> SequenceContext {
        debug_assert_eq!(attention_mask.len(), rows * length);
        let (b, t) = (rows as i64, length as i64);
        let right_padded =
            attention_mask.chunks_exact(length.max(1)).all(|row| row.is_sorted_by(|a, b| a >= b));
        let real = (!right_padded)
            .then(|| Tensor::from_slice(attention_mask).reshape([b, 1, 1, t]).to_kind(Kind::Bool));
        let window = self.config.sliding_window.as_ref().map(|window| window.tokens).filter(|w| *w < t);
        let mask = |window| to_device(&allowed(t, window, real.as_ref()), self.device);
        let full = real.as_ref().map(|_| mask(None));
        let windowed = match window {
            Some(_) => Some(mask(window)),
            None => full.as_ref().map(Tensor::shallow_clone),
        };
        let rotary = RotaryTables::new(&self.config, t, self.kind, self.device);
        SequenceContext { rotary, full, windowed, packed: None }
    }

    /// Positions of sequences of these lengths that lie end to end in one row, `[1, T]`: each counts from 0 and attends to
    /// itself alone.
    pub fn packed_context(&self, lengths: &[usize]) -> SequenceContext {
        let positions: Vec<i64> = lengths.iter().flat_map(|length| 0..*length as i64).collect();
        let rotary = RotaryTables::of_row(&self.config, &positions, self.kind, self.device);
        let packed = PackedSequences::new(lengths, self.kind, self.config.head_dim, self.device);
        SequenceContext { rotary, full: None, windowed: None, packed: Some(packed) }
    }

    /// Token embedding: `ids` `[B, T]` (int64) → `[B, T, H]`.
    pub fn embed(&self, embedding: &Tensor, ids: &Tensor) -> Tensor {
        let rows = Tensor::embedding(embedding, ids, -1, false, false);
        match self.embedding_scale {
            Some(scale) => rows * scale,
            None => rows,
        }
    }

    /// Transformer block number `block`: `x` `[B, T, H]` → `[B, T, H]`.
    pub fn block(
        &self,
        block: usize,
        weights: &BlockWeights,
        x: &Tensor,
        context: &SequenceContext,
    ) -> Tensor {
        let window = self.config.window(block);
        self.block_with(weights, x, &context.rotary, &Linear::forward, |query, key, value| {
            match &context.packed {
                Some(packed) => packed.attend(self, [query, key, value], window),
                None => self.attend(query, key, value, context.mask(window.is_some())),
            }
        })
    }

    /// A block whose linear maps are made by `linear`, and whose attention by `attend`: it is handed turned queries, turned
    /// keys and values (`[B, A, T, D]`, the latter two with `K` heads) and gives `[B, A, T, D]`.
    pub(crate) fn block_with(
        &self,
        weights: &BlockWeights,
        x: &Tensor,
        rotary: &RotaryTables,
        linear: &dyn Fn(&Linear, &Tensor) -> Tensor,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Tensor,
    ) -> Tensor {
        let map = |kind: LinearKind, x: &Tensor| linear(weights.linear(kind), x);
        let normed = self.rms_norm(x, &weights.input_norm);
        let attended = x + self.attention(&normed, rotary, &map, attend);
        let normed = self.rms_norm(&attended, &weights.post_norm);
        let gate = self.activate(&map(LinearKind::Gate, &normed));
        let up = map(LinearKind::Up, &normed);
        attended + map(LinearKind::Down, &(gate * up))
    }

    /// Embedding and all blocks of a model whose weights are all at hand: `ids` `[B, T]` (int64) → `[B, T, H]`,
    /// before the final norm.
    pub fn hidden_states(&self, weights: &DecoderWeights, ids: &Tensor, context: &SequenceContext) -> Tensor {
        let blocks = weights.blocks.iter().enumerate();
        blocks.fold(self.embed(&weights.embedding, ids), |x, (block, weights)| {
            self.block(block, weights, &x, context)
        })
    }

    /// Final norm: `x` `[…, H]` → `[…, H]`.
    pub fn final_norm(&self, norm: &Tensor, x: &Tensor) -> Tensor {
        self.rms_norm(x, norm)
    }

    fn attention(
        &self,
        x: &Tensor,
        rotary: &RotaryTables,
        map: &dyn Fn(LinearKind, &Tensor) -> Tensor,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Tensor,
    ) -> Tensor {
        let (b, t, _) = x.size3().unwrap_or_else(|_| unreachable!("activations are [B, T, H]"));
        let heads = |kind: LinearKind, count: i64| {
            map(kind, x).view([b, t, count, self.config.head_dim]).transpose(1, 2)
        };
        let query = rotary.apply(&heads(LinearKind::Query, self.config.num_heads));
        let key = rotary.apply(&heads(LinearKind::Key, self.config.num_kv_heads));
        let value = heads(LinearKind::Value, self.config.num_kv_heads);
        let attended = attend(&query, &key, &value);
        let merged = attended.transpose(1, 2).reshape([b, t, self.config.num_heads * self.config.head_dim]);
        map(LinearKind::Output, &merged)
    }

    /// Attention of tokens to those before them in their row, or to those that the mask allows.
    pub(crate) fn attend(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        mask: Option<&Tensor>,
    ) -> Tensor {
        self.dot_product_attention(query, key, value, mask, mask.is_none())
    }

    /// Attention of one token, the newest, to all keys that are handed over.
    pub(crate) fn attend_to_all(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
        self.dot_product_attention(query, key, value, None, false)
    }

    fn dot_product_attention(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        mask: Option<&Tensor>,
        causal: bool,
    ) -> Tensor {
        let grouped = self.config.num_heads != self.config.num_kv_heads;
        Tensor::scaled_dot_product_attention(query, key, value, mask, 0.0, causal, None, grouped)
    }

    fn activate(&self, x: &Tensor) -> Tensor {
        match self.config.activation {
            Activation::Silu => x.silu(),
            Activation::GeluTanh => x.gelu("tanh"),
        }
    }

    /// RMSNorm (arXiv 1910.07467), the mean square in f32 whatever the compute dtype.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        if self.device != Device::Cpu && self.config.norm == NormWeight::Direct {
            // One kernel, which keeps `x` alone for backward. It multiplies by the weight before it rounds.
            return x.rms_norm([self.config.hidden_size], Some(weight), self.config.rms_norm_eps);
        }
        let wide = x.to_kind(Kind::Float);
        let mean_square = wide.square().mean_dim(-1, true, Kind::Float);
        let normed = wide * (mean_square + self.config.rms_norm_eps).rsqrt();
        match self.config.norm {
            NormWeight::Direct => weight * normed.to_kind(self.kind),
            NormWeight::OnePlus => (normed * (weight.to_kind(Kind::Float) + 1.0)).to_kind(self.kind),
        }
    }
}

/// Who may attend to whom in rows of `t` tokens: position i to j where `i - window < j ≤ i` and j is `real`
/// (`[B, 1, 1, t]`). `[t, t]`, or `[B, 1, t, t]` with `real`.
pub(crate) fn allowed(t: i64, window: Option<i64>, real: Option<&Tensor>) -> Tensor {
    let on_cpu = (Kind::Bool, Device::Cpu);
    let causal = Tensor::ones([t, t], on_cpu).tril(0);
    let near = match window {
        Some(window) => causal.triu(1 - window),
        None => causal,
    };
    match real {
        // A padding row may see itself: a softmax over nothing would be NaN and poison the gradients.
        Some(real) => near.logical_and(real).logical_or(&Tensor::eye(t, on_cpu)),
        None => near,
    }
}

#[cfg(test)]
mod tests;
