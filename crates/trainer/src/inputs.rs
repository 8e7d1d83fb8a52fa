//! Everything a run reads: model files, tokenizer, rows as tokens. Checked before a folder is touched.

use std::path::{Path, PathBuf};

use adapter::{AdaptedSpace, Candidate};
use comm::Communicator;
use config::TrainConfig;
use data::{BuildOptions, Dataset, Schedule, ScheduleOptions, Tokenizer, TokenizerOptions};
use model::{CheckpointFiles, LinearKind, ModelConfig};

use crate::agree::{agree, same_everywhere};
use crate::{Event, Observer, TrainError, fingerprint};

/// What a run reads, ready to use.
pub(crate) struct Inputs {
    pub files: CheckpointFiles,
    pub model_config: ModelConfig,
    pub tokenizer: Tokenizer,
    pub dataset: Dataset,
    pub held_out: Option<Dataset>,
    pub schedule: Schedule,
    pub space: AdaptedSpace,
    pub fingerprints: Fingerprints,
}

/// Hashes of what was read.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Fingerprints {
    /// Of the model's configuration and weights.
    pub model: String,
    /// Of the training tokens and labels.
    pub data: String,
}

impl Inputs {
    /// Collective. Reads and checks everything; ranks that read something else than rank 0 are named.
    pub(crate) fn load(
        config: &TrainConfig,
        comm: &dyn Communicator,
        cache_dir: Option<&Path>,
        observe: Observer<'_>,
    ) -> Result<Self, TrainError> {
        let folder = PathBuf::from(&config.model);
        let (files, model_config, tokenizer, space) = agree(comm, open_model(config, &folder))?;
        observe(Event::Stage("tokenizing"));
        let build = || -> Result<(Dataset, Option<Dataset>), TrainError> {
            let build = |rows: Rows<'_>| build_dataset(config, rows, &tokenizer, cache_dir, observe);
            let path = Path::new(&config.data);
            let dataset = build(Rows { flag: "--data", path, limit: config.max_samples })?;
            let held_out = config.eval_data.as_deref();
            let held_out = held_out.map(|path| build(Rows { flag: "--eval-data", path, limit: None }));
            let held_out = held_out.transpose()?;
            Ok((dataset, held_out))
        };
        // The first rank fills the cache, the others map it.
        let first = agree(comm, if comm.rank() == 0 { build().map(Some) } else { Ok(None) })?;
        let (dataset, held_out) = agree(comm, first.map_or_else(build, Ok))?;
        let schedule = agree(comm, schedule(config, dataset.len()))?;
        let fingerprints = Fingerprints {
            model: fingerprint::model(&files, &folder.join("config.json")),
            data: dataset.fingerprint(),
        };
        let settings = serde_json::to_string(config).unwrap_or_else(|e| e.to_string());
        same_everywhere(
            comm,
            &[
                ("version of gpart-dist", env!("CARGO_PKG_VERSION").to_owned()),
                ("model", fingerprints.model.clone()),
                ("training data", fingerprints.data.clone()),
                ("held-out data", held_out.as_ref().map(Dataset::fingerprint).unwrap_or_default()),
                ("command line, settings file or GPART_ environment", settings),
            ],
        )?;
        Ok(Self { files, model_config, tokenizer, dataset, held_out, schedule, space, fingerprints })
    }
}

fn open_model(
    config: &TrainConfig,
    folder: &Path,
) -> Result<(CheckpointFiles, ModelConfig, Tokenizer, AdaptedSpace), TrainError> {
    if is_hub_id(folder) || (config::is_short_name(&config.model) && !folder.exists()) {
        return Err(TrainError::HubId { what: "model", flag: "--model", id: config.model.clone() });
    }
    let model_config = ModelConfig::from_folder(folder)?;
    let files = CheckpointFiles::open(folder)?;
    files.check(&model_config)?;
    let options = TokenizerOptions {
        eos_token: config.eos_token.clone(),
        vocab_size: Some(model_config.vocab_size as u64),
    };
    let tokenizer = Tokenizer::load(folder, options)?;
    let space = AdaptedSpace::select(&linear_modules(&model_config), &config.target_modules)?;
    space.check_d(config.d as u64)?;
    Ok((files, model_config, tokenizer, space))
}

/// Whether a path that is not there, nor the folder it would be in, is spelt like a name on a hub.
fn is_hub_id(path: &Path) -> bool {
    let missing = !path.exists() && !path.parent().is_some_and(Path::exists);
    missing && path.to_str().is_some_and(config::is_owner_and_name)
}

/// All linear modules of the blocks, in the model's module order: seven a block.
pub fn linear_modules(config: &ModelConfig) -> Vec<Candidate> {
    let candidate = |module: model::LinearModule| Candidate {
        name: module.name,
        shape: module.shape.map(|dim| dim as u64),
        bias: module.bias.is_some(),
    };
    model::linear_modules(config).map(candidate).collect()
}

/// Rows in a file, and the flag that named it.
struct Rows<'a> {
    flag: &'static str,
    path: &'a Path,
    limit: Option<usize>,
}

fn build_dataset(
    config: &TrainConfig,
    Rows { flag, path, limit }: Rows<'_>,
    tokenizer: &Tokenizer,
    cache_dir: Option<&Path>,
    observe: Observer<'_>,
) -> Result<Dataset, TrainError> {
    if is_hub_id(path) {
        return Err(TrainError::HubId { what: "data", flag, id: path.display().to_string() });
    }
    let rows = data::read_rows(path, limit)?;
    let options =
        BuildOptions { max_seq_length: config.max_seq_length, use_system_prompt: config.use_system_prompt };
    let progress = |done, total| observe(Event::Progress { done, total });
    Ok(Dataset::build(&rows, tokenizer, &options, cache_dir, &progress, config.dataset_num_proc)?)
}

fn schedule(config: &TrainConfig, rows: usize) -> Result<Schedule, TrainError> {
    Ok(Schedule::new(ScheduleOptions {
        rows: rows as u64,
        micro_batch_size: config.micro_batch_size as u64,
        accumulation: config.accumulation_steps as u64,
        epochs: config.epochs,
        max_steps: config.max_steps.map(|steps| steps as u64),
        seed: config.seed,
        shuffle: !config.no_shuffle,
    })?)
}
