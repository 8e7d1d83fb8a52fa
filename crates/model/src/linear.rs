//! The linear modules of a model: names, shapes, biases, and the maps themselves.

use tch::Tensor;

use crate::ModelConfig;

/// The linear modules of a block, in the order in which transformers registers them. That order defines the
/// positions of adapted weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinearKind {
    /// Query projection, `[A·D, H]`.
    Query,
    /// Key projection, `[K·D, H]`.
    Key,
    /// Value projection, `[K·D, H]`.
    Value,
    /// Attention output projection, `[H, A·D]`.
    Output,
    /// Gate of the SwiGLU, `[I, H]`.
    Gate,
    /// Up projection, `[I, H]`.
    Up,
    /// Down projection, `[H, I]`.
    Down,
}

impl LinearKind {
    /// All kinds in registration order.
    pub const ALL: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// Path of the module inside its block.
    pub fn path(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Full module name in block `block`, relative to the model.
    pub fn module_name(self, block: usize) -> String {
        format!("model.layers.{block}.{}", self.path())
    }

    /// `[out, in]` of the weight.
    pub fn shape(self, config: &ModelConfig) -> [i64; 2] {
        let (h, i) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        match self {
            Self::Query => [q, h],
            Self::Key | Self::Value => [kv, h],
            Self::Output => [h, q],
            Self::Gate | Self::Up => [i, h],
            Self::Down => [h, i],
        }
    }

    /// Whether the module adds a bias, `[out]`.
    pub fn has_bias(self, config: &ModelConfig) -> bool {
        match self {
            Self::Query | Self::Key | Self::Value => config.qkv_bias,
            Self::Output => config.output_bias,
            Self::Gate | Self::Up | Self::Down => config.mlp_bias,
        }
    }
}

/// One linear module of a model, from the configuration alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearModule {
    /// Full module name, relative to the model.
    pub name: String,
    /// The block it is in.
    pub block: usize,
    /// Which of the seven it is.
    pub kind: LinearKind,
    /// `[out, in]` of the weight.
    pub shape: [i64; 2],
    /// Length of the bias, `out`, if there is one.
    pub bias: Option<i64>,
}

/// All linear modules of the blocks in the model's module order, seven a block, one by one: a config.json may claim
/// any number of blocks.
pub fn linear_modules(config: &ModelConfig) -> impl Iterator<Item = LinearModule> {
    let of_block = |block: usize| {
        LinearKind::ALL.map(|kind| {
            let shape = kind.shape(config);
            let bias = kind.has_bias(config).then_some(shape[0]);
            LinearModule { name: kind.module_name(block), block, kind, shape, bias }
        })
    };
    (0..config.num_layers as usize).flat_map(of_block)
}

/// A linear map. With `delta`, a second product runs beside the first, so that an update far below the
/// resolution of a half-precision weight still counts.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Tensor,
    /// An update of the weight kept apart from it, `[out, in]`.
    pub delta: Option<Tensor>,
    /// `[out]`.
    pub bias: Option<Tensor>,
    /// An update of the bias kept apart from it, `[out]`.
    pub delta_bias: Option<Tensor>,
}

impl Linear {
    /// A frozen map.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, delta: None, bias, delta_bias: None }
    }

    /// `(x · Wᵀ + b) + (x · ΔWᵀ + Δb)`, of which b, ΔW and Δb may be absent; `x` is `[…, in]`, the result
    /// `[…, out]`. The update's output is rounded once, before it is added.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.forward_by(x, &|x, weight, bias| x.linear(weight, bias))
    }

    /// The same, with `x · Wᵀ + b` made by `product`.
    pub(crate) fn forward_by(
        &self,
        x: &Tensor,
        product: &dyn Fn(&Tensor, &Tensor, Option<&Tensor>) -> Tensor,
    ) -> Tensor {
        let y = product(x, &self.weight, self.bias.as_ref());
        match (&self.delta, &self.delta_bias) {
            (Some(delta), delta_bias) => y + product(x, delta, delta_bias.as_ref()),
            (None, Some(delta_bias)) => y + delta_bias,
            (None, None) => y,
        }
    }

    /// The same map over shared storage.
    pub fn share(&self) -> Self {
        let share = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::shallow_clone);
        Self {
            weight: self.weight.shallow_clone(),
            delta: share(&self.delta),
            bias: share(&self.bias),
            delta_bias: share(&self.delta_bias),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tch::{Device, Kind};

    use super::*;

    /// Kept apart or added to what they update, ΔW and Δb give the same map.
    #[test]
    fn updates_kept_apart_count_as_if_they_were_added() {
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Double, Device::Cpu));
        let (x, weight, bias) = (random(&[3, 4, 5]), random(&[6, 5]), random(&[6]));
        let (delta, delta_bias) = (random(&[6, 5]), random(&[6]));
        for (with_delta, with_delta_bias, with_bias) in
            [(true, true, true), (true, false, true), (false, true, true), (true, true, false)]
        {
            let mut apart = Linear::new(weight.copy(), with_bias.then(|| bias.copy()));
            let mut sum = apart.share();
            if with_delta {
                apart.delta = Some(delta.copy());
                sum.weight = &sum.weight + &delta;
            }
            if with_delta_bias {
                apart.delta_bias = Some(delta_bias.copy());
                sum.bias = Some(sum.bias.map_or(delta_bias.copy(), |bias| bias + &delta_bias));
            }
            let found = apart.share().forward(&x);
            let difference = (&found - sum.forward(&x)).abs().max().double_value(&[]);
            assert!(difference < 1e-12, "{with_delta} {with_delta_bias} {with_bias}: {difference}");
            assert!(
                (found - Linear::new(weight.copy(), None).forward(&x)).abs().max().double_value(&[]) > 0.1
            );
        }
    }
}
