//! The frozen weights, by block, and how they come from files.

use safetensors::Dtype;
use tch::{Device, Kind, Tensor};

use crate::{CheckpointFiles, ModelConfig, ModelError};

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

    fn has_bias(self, config: &ModelConfig) -> bool {
        match self {
            Self::Query | Self::Key | Self::Value | Self::Output => config.attention_bias,
            Self::Gate | Self::Up | Self::Down => config.mlp_bias,
        }
    }
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
}

impl Linear {
    /// `x · Wᵀ (+ x · ΔWᵀ) (+ b)`; `x` is `[…, in]`, the result `[…, out]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let y = x.linear(&self.weight, self.bias.as_ref());
        match &self.delta {
            Some(delta) => y + x.linear::<&Tensor>(delta, None),
            None => y,
        }
    }

    /// The same map over shared storage.
    pub fn share(&self) -> Self {
        Self {
            weight: self.weight.shallow_clone(),
            delta: self.delta.as_ref().map(Tensor::shallow_clone),
            bias: self.bias.as_ref().map(Tensor::shallow_clone),
        }
    }
}

/// Weights of one transformer block.
#[derive(Debug)]
pub struct BlockWeights {
    /// RMSNorm before attention, `[H]`.
    pub input_norm: Tensor,
    /// RMSNorm before the MLP, `[H]`.
    pub post_norm: Tensor,
    /// The seven linear maps, indexed by [`LinearKind`].
    linears: [Linear; 7],
}

impl BlockWeights {
    /// A block of given norms, without biases; `weight` makes the weight of each linear map.
    pub fn from_parts(input_norm: Tensor, post_norm: Tensor, weight: impl Fn(LinearKind) -> Tensor) -> Self {
        let linears = LinearKind::ALL.map(|kind| Linear { weight: weight(kind), delta: None, bias: None });
        Self { input_norm, post_norm, linears }
    }

    /// The linear map of `kind`.
    pub fn linear(&self, kind: LinearKind) -> &Linear {
        &self.linears[kind as usize]
    }

    /// The linear map of `kind`, to be replaced.
    pub fn linear_mut(&mut self, kind: LinearKind) -> &mut Linear {
        &mut self.linears[kind as usize]
    }

    /// The same weights over shared storage.
    pub fn share(&self) -> Self {
        Self {
            input_norm: self.input_norm.shallow_clone(),
            post_norm: self.post_norm.shallow_clone(),
            linears: self.linears.each_ref().map(Linear::share),
        }
    }

    fn load(loader: &Loader<'_>, config: &ModelConfig, block: usize) -> Result<Self, ModelError> {
        let linear = |kind: LinearKind| -> Result<Linear, ModelError> {
            let name = kind.module_name(block);
            let shape = kind.shape(config);
            let weight = loader.load(&format!("{name}.weight"), &shape)?;
            let bias = match kind.has_bias(config) {
                true => Some(loader.load(&format!("{name}.bias"), &shape[..1])?),
                false => None,
            };
            Ok(Linear { weight, delta: None, bias })
        };
        let mut linears = Vec::with_capacity(LinearKind::ALL.len());
        for kind in LinearKind::ALL {
            linears.push(linear(kind)?);
        }
        let linears = linears.try_into().unwrap_or_else(|_| unreachable!("one linear a kind was pushed"));
        let norm =
            |name: &str| loader.load(&format!("model.layers.{block}.{name}.weight"), &[config.hidden_size]);
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            post_norm: norm("post_attention_layernorm")?,
            linears,
        })
    }
}

/// All weights of a model, in the compute dtype, on one device.
#[derive(Debug)]
pub struct DecoderWeights {
    /// Token embedding, `[V, H]`.
    pub embedding: Tensor,
    /// Transformer blocks, first to last.
    pub blocks: Vec<BlockWeights>,
    /// Final RMSNorm, `[H]`.
    pub norm: Tensor,
    /// Output projection, `[V, H]`; shares the embedding's storage where the two are tied.
    pub head: Tensor,
}

impl DecoderWeights {
    /// Copies the weights out of the mapped files, converting to `kind`. `progress` is called with the number of
    /// blocks done and in all.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape than `config` implies, or of a dtype that is not read.
    pub fn load(
        files: &CheckpointFiles,
        config: &ModelConfig,
        kind: Kind,
        device: Device,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self, ModelError> {
        // A bad tensor is found before gigabytes are read.
        files.check(config)?;
        let loader = Loader { files, kind, device };
        let (v, h) = (config.vocab_size, config.hidden_size);
        let embedding = loader.load("model.embed_tokens.weight", &[v, h])?;
        let total = config.num_layers as usize;
        let mut blocks = Vec::with_capacity(total);
        for block in 0..total {
            blocks.push(BlockWeights::load(&loader, config, block)?);
            progress(block + 1, total);
        }
        let head = match config.tie_word_embeddings {
            true => embedding.shallow_clone(),
            false => loader.load("lm_head.weight", &[v, h])?,
        };
        Ok(Self { embedding, blocks, norm: loader.load("model.norm.weight", &[h])?, head })
    }
}

/// Name and shape of every tensor that a model of this configuration needs, one by one: a config.json may claim any
/// number of blocks.
pub fn tensor_specs(config: &ModelConfig) -> impl Iterator<Item = (String, Vec<i64>)> {
    let (v, h) = (config.vocab_size, config.hidden_size);
    let blocks = (0..config.num_layers as usize).flat_map(move |block| block_specs(config, block));
    let head = (!config.tie_word_embeddings).then(|| ("lm_head.weight".to_owned(), vec![v, h]));
    std::iter::once(("model.embed_tokens.weight".to_owned(), vec![v, h]))
        .chain(blocks)
        .chain(std::iter::once(("model.norm.weight".to_owned(), vec![h])))
        .chain(head)
}

fn block_specs(config: &ModelConfig, block: usize) -> Vec<(String, Vec<i64>)> {
    let norms = ["input_layernorm", "post_attention_layernorm"]
        .map(|norm| (format!("model.layers.{block}.{norm}.weight"), vec![config.hidden_size]));
    let mut specs = Vec::from(norms);
    for kind in LinearKind::ALL {
        let shape = kind.shape(config);
        let name = kind.module_name(block);
        specs.push((format!("{name}.weight"), shape.to_vec()));
        if kind.has_bias(config) {
            specs.push((format!("{name}.bias"), vec![shape[0]]));
        }
    }
    specs
}

struct Loader<'a> {
    files: &'a CheckpointFiles,
    kind: Kind,
    device: Device,
}

impl Loader<'_> {
    fn load(&self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let (bytes, kind) = check_tensor(self.files, name, shape)?;
        let torch = |error: tch::TchError| ModelError::Torch {
            name: name.to_owned(),
            reason: error.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        let tensor = Tensor::f_from_data_size(bytes, shape, kind).map_err(torch)?;
        tensor.f_to_device(self.device).and_then(|t| t.f_to_kind(self.kind)).map_err(torch)
    }
}

/// Bytes and stored dtype of a tensor, after its name, shape and dtype were checked.
pub(crate) fn check_tensor<'a>(
    files: &'a CheckpointFiles,
    name: &str,
    shape: &[i64],
) -> Result<(&'a [u8], Kind), ModelError> {
    let entry = files.get(name).ok_or_else(|| ModelError::MissingTensor {
        name: name.to_owned(),
        folder: files.folder().to_owned(),
    })?;
    if entry.shape.iter().map(|dim| *dim as i64).ne(shape.iter().copied()) {
        return Err(ModelError::WrongShape {
            name: name.to_owned(),
            found: entry.shape.clone(),
            expected: shape.to_vec(),
            path: files.path(entry).to_owned(),
        });
    }
    let kind = match entry.dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        other => {
            return Err(ModelError::WrongDtype {
                name: name.to_owned(),
                found: format!("{other:?}"),
                path: files.path(entry).to_owned(),
            });
        }
    };
    Ok((files.bytes(entry), kind))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use safetensors::tensor::TensorView;

    use super::*;

    fn config(tied: bool) -> ModelConfig {
        let json = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 6, "hidden_size": 4, "intermediate_size": 3,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": tied, "attention_bias": true
        });
        ModelConfig::from_json(&json.to_string(), Path::new("config.json")).unwrap()
    }

    /// Element `i` of tensor `t`: distinct, and exact in every dtype that is read.
    fn value(tensor: usize, element: usize) -> f32 {
        (tensor as f32) - 8.0 + (element % 8) as f32 / 8.0
    }

    fn bytes(value: f32, dtype: Dtype) -> Vec<u8> {
        match dtype {
            Dtype::F32 => value.to_le_bytes().to_vec(),
            Dtype::BF16 => value.to_le_bytes()[2..].to_vec(),
            _ => {
                let mut half = [0u8; 2];
                let tensor = Tensor::from_slice(&[value]).to_kind(Kind::Half);
                tensor.copy_data_u8(&mut half, 1);
                half.to_vec()
            }
        }
    }

    /// Writes the model into one file, or into shards behind an index.
    fn write(folder: &Path, config: &ModelConfig, dtype: Dtype, shards: usize) {
        let specs: Vec<(String, Vec<i64>)> = tensor_specs(config).collect();
        let mut weight_map = serde_json::Map::new();
        let per_shard = specs.len().div_ceil(shards);
        for (shard, part) in specs.chunks(per_shard).enumerate() {
            let file = if shards == 1 {
                "model.safetensors".to_owned()
            } else {
                format!("model-{:05}-of-{shards:05}.safetensors", shard + 1)
            };
            let data: Vec<Vec<u8>> = part
                .iter()
                .enumerate()
                .map(|(at, (_, shape))| {
                    let numel = shape.iter().product::<i64>() as usize;
                    (0..numel).flat_map(|i| bytes(value(shard * per_shard + at, i), dtype)).collect()
                })
                .collect();
            let views = part.iter().zip(&data).map(|((name, shape), data)| {
                let shape = shape.iter().map(|dim| *dim as usize).collect();
                (name.clone(), TensorView::new(dtype, shape, data).unwrap())
            });
            std::fs::write(folder.join(&file), safetensors::serialize(views, None).unwrap()).unwrap();
            weight_map.extend(part.iter().map(|(name, _)| (name.clone(), file.clone().into())));
        }
        if shards > 1 {
            let index = serde_json::json!({"metadata": {}, "weight_map": weight_map});
            std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        }
    }

    #[test]
    fn every_stored_dtype_and_layout_loads_the_same_weights() {
        for (dtype, shards, tied) in [
            (Dtype::F32, 1, false),
            (Dtype::F16, 1, true),
            (Dtype::BF16, 3, false),
            (Dtype::F16, 2, false),
            (Dtype::F32, 2, true),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let config = config(tied);
            write(folder.path(), &config, dtype, shards);
            let files = CheckpointFiles::open(folder.path()).unwrap();
            let weights =
                DecoderWeights::load(&files, &config, Kind::Float, Device::Cpu, &|_, _| ()).unwrap();
            for (at, (name, shape)) in tensor_specs(&config).enumerate() {
                let block = |at: usize| &weights.blocks[at];
                let found = match name.as_str() {
                    "model.embed_tokens.weight" => &weights.embedding,
                    "model.norm.weight" => &weights.norm,
                    "lm_head.weight" => &weights.head,
                    "model.layers.1.post_attention_layernorm.weight" => &block(1).post_norm,
                    "model.layers.0.self_attn.k_proj.bias" => {
                        block(0).linear(LinearKind::Key).bias.as_ref().unwrap()
                    }
                    "model.layers.1.mlp.down_proj.weight" => &block(1).linear(LinearKind::Down).weight,
                    _ => continue,
                };
                assert_eq!((found.size(), found.kind()), (shape, Kind::Float), "{name}");
                let numbers = Vec::<f32>::try_from(found.reshape(-1)).unwrap();
                let expected: Vec<f32> = (0..numbers.len()).map(|i| value(at, i)).collect();
                assert_eq!(numbers, expected, "{name} of {dtype:?} in {shards}");
            }
            assert_eq!(weights.head.data_ptr() == weights.embedding.data_ptr(), tied);
        }
    }
}
