//! The frozen weights, by block, and how they come from files.

use std::ops::Range;

use safetensors::Dtype;
use tch::{Device, Kind, Tensor};

use crate::transfer::upload;
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

    /// A block of its tensors, in the order of [`block_specs`].
    ///
    /// # Panics
    /// There are more or fewer than that.
    pub fn from_tensors(config: &ModelConfig, tensors: Vec<Tensor>) -> Self {
        let mut tensors = tensors.into_iter();
        let mut next = || tensors.next().expect("a tensor for each of the block's");
        let (input_norm, post_norm) = (next(), next());
        let linears = LinearKind::ALL.map(|kind| {
            let weight = next();
            Linear::new(weight, kind.has_bias(config).then(&mut next))
        });
        assert!(tensors.next().is_none(), "no more tensors than the block has");
        Self { input_norm, post_norm, linears }
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
        check_stored(files, config)?;
        let reader = WeightReader { files, config, kind, device };
        let total = config.num_layers as usize;
        let mut blocks = Vec::with_capacity(total);
        for block in 0..total {
            blocks.push(reader.block(block)?);
            progress(block + 1, total);
        }
        let embedding = reader.embedding()?;
        let head = match config.tie_word_embeddings {
            true => embedding.shallow_clone(),
            false => reader.head()?,
        };
        Ok(Self { embedding, blocks, norm: reader.norm()?, head })
    }
}

/// Checks, before gigabytes are read, that everything a model needs is stored, and a head that is the embedding is it.
///
/// # Errors
/// A tensor that is missing, of another shape than `config` implies, or of a dtype that is not read; a head of
/// its own where `config` says that it is the embedding.
pub fn check_stored(files: &CheckpointFiles, config: &ModelConfig) -> Result<(), ModelError> {
    files.check(config)?;
    check_tied_head(files, config)
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

/// Name and shape of each tensor of a block.
pub fn block_specs(config: &ModelConfig, block: usize) -> Vec<(String, Vec<i64>)> {
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

/// Reads weights out of a checkpoint, as a whole or in parts, converted to the compute dtype. What was read of the
/// files does not stay in memory.
#[derive(Clone, Copy)]
pub struct WeightReader<'a> {
    /// The stored weights.
    pub files: &'a CheckpointFiles,
    /// The model's shape.
    pub config: &'a ModelConfig,
    /// The compute dtype.
    pub kind: Kind,
    /// Where tensors go.
    pub device: Device,
}

impl WeightReader<'_> {
    /// All weights of a block.
    ///
    /// # Errors
    /// A tensor that is missing or not as the configuration implies.
    pub fn block(&self, block: usize) -> Result<BlockWeights, ModelError> {
        let specs = block_specs(self.config, block);
        let tensors = specs.iter().map(|(name, shape)| self.tensor(name, shape));
        Ok(BlockWeights::from_tensors(self.config, tensors.collect::<Result<_, _>>()?))
    }

    /// The token embedding, `[V, H]`.
    ///
    /// # Errors
    /// As for [`Self::block`].
    pub fn embedding(&self) -> Result<Tensor, ModelError> {
        self.tensor(EMBEDDING, &self.table_shape())
    }

    /// The output projection, `[V, H]`: the embedding where the two are tied.
    ///
    /// # Errors
    /// As for [`Self::block`].
    pub fn head(&self) -> Result<Tensor, ModelError> {
        self.tensor(self.head_name(), &self.table_shape())
    }

    /// The final norm, `[H]`.
    ///
    /// # Errors
    /// As for [`Self::block`].
    pub fn norm(&self) -> Result<Tensor, ModelError> {
        self.tensor("model.norm.weight", &[self.config.hidden_size])
    }

    /// The stored name of the output projection.
    pub fn head_name(&self) -> &'static str {
        if self.config.tie_word_embeddings { EMBEDDING } else { HEAD }
    }

    /// The stored name of the token embedding.
    pub fn embedding_name(&self) -> &'static str {
        EMBEDDING
    }

    /// `[V, H]`.
    pub fn table_shape(&self) -> [i64; 2] {
        [self.config.vocab_size, self.config.hidden_size]
    }

    /// Bytes of a number in the compute dtype.
    pub fn number_bytes(&self) -> usize {
        self.kind.elt_size_in_bytes()
    }

    /// The numbers `range` of a tensor, counted row by row, as bytes in the compute dtype.
    ///
    /// # Errors
    /// As for [`Self::block`].
    ///
    /// # Panics
    /// The range is not in the tensor, or `into` has another length.
    pub fn read_part(
        &self,
        name: &str,
        shape: &[i64],
        range: Range<usize>,
        into: &mut [u8],
    ) -> Result<(), ModelError> {
        check_tensor(self.files, name, shape)?;
        let width = self.number_bytes();
        assert_eq!(into.len(), range.len() * width, "room for these numbers");
        for (chunk, into) in chunks_of(range).zip(into.chunks_mut(CHUNK_NUMBERS * width)) {
            let count = chunk.len();
            let part = self.chunk(name, shape, chunk)?;
            part.f_copy_data_u8(into, count).map_err(torch_error(name))?;
        }
        Ok(())
    }

    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        check_tensor(self.files, name, shape)?;
        let error = torch_error(name);
        let tensor = Tensor::f_empty(shape, (self.kind, self.device)).map_err(&error)?;
        let flat = tensor.f_view([-1]).map_err(&error)?;
        let (bytes, stored) = check_tensor(self.files, name, shape)?;
        let width = stored.elt_size_in_bytes();
        for chunk in chunks_of(0..flat.numel()) {
            let (start, count) = (chunk.start as i64, chunk.len() as i64);
            if self.device != Device::Cpu {
                let own = chunk.start * width..chunk.end * width;
                let to = flat.f_narrow(0, start, count).map_err(&error)?;
                if upload(&bytes[own.clone()], stored, &to).is_ok() {
                    self.files.release_part(name, own);
                    continue;
                }
                // Without page-locked memory it is as on the CPU.
            }
            let part = self.chunk(name, shape, chunk)?;
            flat.f_narrow(0, start, count).and_then(|mut to| to.f_copy_(&part)).map_err(&error)?;
        }
        Ok(tensor)
    }

    /// Some numbers of a tensor, in the compute dtype. The file's pages are let go of at once.
    fn chunk(&self, name: &str, shape: &[i64], range: Range<usize>) -> Result<Tensor, ModelError> {
        let (bytes, kind) = check_tensor(self.files, name, shape)?;
        let width = kind.elt_size_in_bytes();
        let stored = range.start * width..range.end * width;
        let part = Tensor::f_from_data_size(&bytes[stored.clone()], &[range.len() as i64], kind)
            .and_then(|part| part.f_to_kind(self.kind))
            .map_err(torch_error(name))?;
        self.files.release_part(name, stored);
        Ok(part)
    }
}

/// Numbers that are read at a time: a tensor of a gigabyte is not in memory twice.
const CHUNK_NUMBERS: usize = 1 << 24;

fn chunks_of(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(CHUNK_NUMBERS).map(move |start| start..end.min(start + CHUNK_NUMBERS))
}

fn torch_error(name: &str) -> impl Fn(tch::TchError) -> ModelError {
    move |error| ModelError::Torch {
        name: name.to_owned(),
        reason: error.to_string().lines().next().unwrap_or_default().to_owned(),
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

impl CheckpointFiles {
    /// A copy of the tensor of that name, as it is stored.
    ///
    /// # Errors
    /// There is none, or its dtype is not read.
    pub fn tensor(&self, name: &str) -> Result<Tensor, ModelError> {
        let shape =
            |entry: &crate::TensorEntry| entry.shape.iter().map(|dim| *dim as i64).collect::<Vec<_>>();
        let shape = self.get(name).map(shape).unwrap_or_default();
        let (bytes, kind) = check_tensor(self, name, &shape)?;
        Tensor::f_from_data_size(bytes, &shape, kind).map_err(torch_error(name))
    }
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
