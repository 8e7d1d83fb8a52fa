//! The frozen weights, by block, and how they come from files.

use safetensors::Dtype;
use tch::{Device, Kind, Tensor};

use crate::{CheckpointFiles, Linear, LinearKind, ModelConfig, ModelError};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

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
        let linears = LinearKind::ALL.map(|kind| Linear::new(weight(kind), None));
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
            Ok(Linear::new(weight, bias))
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
    /// A tensor that is missing, of another shape than `config` implies, or of a dtype that is not read; a head of
    /// its own where `config` says that it is the embedding.
    pub fn load(
        files: &CheckpointFiles,
        config: &ModelConfig,
        kind: Kind,
        device: Device,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self, ModelError> {
        // A bad tensor is found before gigabytes are read.
        files.check(config)?;
        check_tied_head(files, config)?;
        let loader = Loader { files, kind, device };
        let (v, h) = (config.vocab_size, config.hidden_size);
        let embedding = loader.load(EMBEDDING, &[v, h])?;
        let total = config.num_layers as usize;
        let mut blocks = Vec::with_capacity(total);
        for block in 0..total {
            blocks.push(BlockWeights::load(&loader, config, block)?);
            progress(block + 1, total);
        }
        let head = match config.tie_word_embeddings {
            true => embedding.shallow_clone(),
            false => loader.load(HEAD, &[v, h])?,
        };
        Ok(Self { embedding, blocks, norm: loader.load("model.norm.weight", &[h])?, head })
    }
}

/// Name and shape of every tensor that a model of this configuration needs, one by one: a config.json may claim any
/// number of blocks.
pub fn tensor_specs(config: &ModelConfig) -> impl Iterator<Item = (String, Vec<i64>)> {
    let (v, h) = (config.vocab_size, config.hidden_size);
    let blocks = (0..config.num_layers as usize).flat_map(move |block| block_specs(config, block));
    let head = (!config.tie_word_embeddings).then(|| (HEAD.to_owned(), vec![v, h]));
    std::iter::once((EMBEDDING.to_owned(), vec![v, h]))
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

/// Some checkpoints store the head although it is the embedding. One that differs would be left out silently here,
/// while transformers 5 would use it.
fn check_tied_head(files: &CheckpointFiles, config: &ModelConfig) -> Result<(), ModelError> {
    let stored = files.get(HEAD).filter(|_| config.tie_word_embeddings);
    let (Some(head), Some(embedding)) = (stored, files.get(EMBEDDING)) else { return Ok(()) };
    if head.dtype == embedding.dtype && files.bytes(head) == files.bytes(embedding) {
        return Ok(());
    }
    Err(ModelError::HeadNotTied { path: files.path(head).to_owned() })
}

/// Bytes and stored dtype of a tensor, after its name, shape and dtype were checked.
pub(crate) fn check_tensor<'a>(
    files: &'a CheckpointFiles,
    name: &str,
    shape: &[i64],
) -> Result<(&'a [u8], Kind), ModelError> {
    let entry = files.get(name).ok_or_else(|| missing(files, name))?;
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

fn missing(files: &CheckpointFiles, name: &str) -> ModelError {
    let bare = name.strip_prefix("model.").filter(|bare| files.get(bare).is_some());
    let hint = match bare {
        Some(bare) => format!(
            "the checkpoint calls it '{bare}': it was saved without the language model around the decoder; load and \
             save it with transformers' AutoModelForCausalLM"
        ),
        None if name == HEAD => "config.json says tie_word_embeddings = false; is that right?".to_owned(),
        None => "a shard may be missing, or config.json describes another model than the weights".to_owned(),
    };
    ModelError::MissingTensor { name: name.to_owned(), folder: files.folder().to_owned(), hint }
}

#[cfg(test)]
mod tests;
