//! A model with its adapter in place, ready to generate.

use std::path::{Path, PathBuf};

use adapter::{AdaptedSpace, Adapter};
use data::{Tokenizer, TokenizerOptions};
use model::{CheckpointFiles, Decoder, DecoderWeights, ModelConfig, RowProducts, WeightReader};
use serde_json::Value;
use tch::{Device, Kind};
use trainer::{Overlay, ScaledTheta};

use crate::{EvalError, products};

/// Where an evaluation's inputs lie on this host.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The model's folder.
    pub model: PathBuf,
    /// The model as results name it: a hub id, or a path.
    pub model_name: String,
    /// The adapter's folder.
    pub adapter: Option<PathBuf>,
    /// Files of the dataset, in order.
    pub data: Vec<PathBuf>,
}

/// Inputs that fit each other; no weight has been read.
pub(crate) struct Inputs {
    pub files: CheckpointFiles,
    pub config: ModelConfig,
    pub tokenizer: Tokenizer,
    /// Tokens that end a continuation: the tokenizer's, and those of generation_config.json.
    pub stop_ids: Vec<u32>,
    pub adapter: Option<(Adapter, AdaptedSpace)>,
}

impl Inputs {
    /// Opens and checks everything.
    pub(crate) fn open(sources: &Sources, eos_token: Option<&str>) -> Result<Self, EvalError> {
        let config = ModelConfig::from_folder(&sources.model)?;
        let files = CheckpointFiles::open(&sources.model)?;
        model::check_stored(&files, &config)?;
        let options = TokenizerOptions {
            eos_token: eos_token.map(str::to_owned),
            vocab_size: Some(config.vocab_size as u64),
        };
        let tokenizer = Tokenizer::load(&sources.model, options)?;
        let mut stop_ids: Vec<u32> = tokenizer.eos_id().into_iter().collect();
        stop_ids.extend(generation_stop_ids(&sources.model));
        stop_ids.sort_unstable();
        stop_ids.dedup();
        let adapter = sources.adapter.as_ref().map(|folder| {
            let adapter = Adapter::read(folder)?;
            let selection = adapter.config.selection(&folder.join("adapter_config.json"))?;
            let space = AdaptedSpace::select(&trainer::linear_modules(&config), &selection)?;
            check_trained_on(folder, &files)?;
            Ok::<_, EvalError>((adapter, space))
        });
        Ok(Self { files, config, tokenizer, stop_ids, adapter: adapter.transpose()? })
    }
}

/// Refuses the adapter of a run of ours that was trained on another model. Other adapters do not say on which they were.
fn check_trained_on(adapter: &Path, files: &CheckpointFiles) -> Result<(), EvalError> {
    let path = adapter.join("run.json");
    let run: Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap_or_default()).unwrap_or_default();
    match run["fingerprints"]["model"].as_str() {
        Some(trained_on) if trained_on != trainer::model_hash(files) => Err(EvalError::OtherModel {
            adapter: adapter.to_owned(),
            model: files.folder().to_owned(),
            trained_on: run["config"]["model"].as_str().unwrap_or("another one").to_owned(),
        }),
        _ => Ok(()),
    }
}

/// `eos_token_id` of generation_config.json, a number or a list. A file that says nothing of use says nothing.
fn generation_stop_ids(folder: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(folder.join("generation_config.json")).unwrap_or_default();
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    let ids = match &config["eos_token_id"] {
        Value::Array(ids) => ids.as_slice(),
        one => std::slice::from_ref(one),
    };
    ids.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

/// A model whose weights hold W + ΔW; in half precision ΔW stays apart, as in training.
pub struct LoadedModel {
    /// The computation.
    pub model: Decoder,
    /// Its weights.
    pub weights: DecoderWeights,
    /// How the newest tokens of several rows go through them.
    pub products: Box<dyn RowProducts>,
}

impl LoadedModel {
    /// Reads the weights, and lays ΔW over them block by block, on a GPU by its kernels. `progress` is called with the number of blocks done and in
    /// all.
    pub(crate) fn load(
        inputs: &Inputs,
        (kind, device): (Kind, Device),
        threads: usize,
        kernel_cache: Option<&Path>,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self, EvalError> {
        let Inputs { files, config, .. } = inputs;
        let reader = WeightReader { files, config, kind, device };
        let adapted =
            inputs.adapter.as_ref().map(|(adapter, space)| Map::new(adapter, space, inputs, threads));
        let adapted = adapted.transpose()?;
        let executor = trainer::executor(threads);
        let total = config.num_layers as usize;
        let mut overlay = adapted.as_ref().map(|map| {
            let blocks = 0..total;
            Overlay::new(map.space, blocks, map.partition.as_ref(), executor.as_ref(), (kind, device))
        });
        if let (Some(overlay), Some(map)) = (&mut overlay, &adapted) {
            let kernels =
                trainer::device_map(device, map.partition.as_ref(), 0..map.space.total(), kernel_cache)?;
            if let Some(kernels) = kernels {
                overlay.compute_with(kernels);
            }
        }
        let mut blocks = Vec::with_capacity(total);
        for block in 0..total {
            let weights = reader.block(block)?;
            blocks.push(match (&mut overlay, &adapted) {
                (Some(overlay), Some(map)) => {
                    overlay.applied(block, weights, ScaledTheta { values: &map.scaled, stamp: 0 })?
                }
                _ => weights,
            });
            progress(block + 1, total);
        }
        let embedding = reader.embedding()?;
        let head = if config.tie_word_embeddings { embedding.shallow_clone() } else { reader.head()? };
        let weights = DecoderWeights { embedding, blocks, norm: reader.norm()?, head };
        Ok(Self {
            model: Decoder::new(config.clone(), kind, device),
            weights,
            products: products::of((kind, device), threads),
        })
    }
}

/// θ → ΔW of an adapter.
struct Map<'a> {
    space: &'a AdaptedSpace,
    partition: Box<dyn partition::Assignment>,
    /// s·θ, length d.
    scaled: Vec<f32>,
}

impl<'a> Map<'a> {
    fn new(
        adapter: &Adapter,
        space: &'a AdaptedSpace,
        inputs: &Inputs,
        threads: usize,
    ) -> Result<Self, EvalError> {
        let spec = adapter.config.partition(space)?;
        let partition = trainer::partition(&spec, space, &inputs.files)?;
        let counts = partition::count_parallel(partition.as_ref(), 0..space.total(), threads)?;
        let scales = partition::scales(&counts, adapter.config.isometric, &spec.scope);
        let mut scaled = vec![0.0; adapter.theta.len()];
        projection::scale_theta(&adapter.theta, &scales, &mut scaled)?;
        Ok(Self { space, partition, scaled })
    }
}
