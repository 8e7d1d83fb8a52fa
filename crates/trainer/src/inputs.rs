//! Everything a run reads: model files, tokenizer, rows as tokens. Checked before a folder is touched.

use std::path::{Path, PathBuf};

use adapter::{AdaptedSpace, AdapterConfig, Candidate};
use comm::Communicator;
use config::TrainConfig;
use data::{BuildOptions, Dataset, RowOptions, Rows, Schedule, ScheduleOptions, Schema, Template, Tokenizer};
use model::{CheckpointFiles, ModelConfig};
use partition::{Assignment, Backend, Spec};

use crate::agree::{agree, same_everywhere};
use crate::{Event, Observer, Sources, Surroundings, TrainError, artifacts, fingerprint, method};

/// What a run reads, ready to use.
pub(crate) struct Inputs {
    pub files: CheckpointFiles,
    pub model_config: ModelConfig,
    pub tokenizer: Tokenizer,
    /// Names and contents, as they were at the start.
    pub tokenizer_files: Vec<(String, Vec<u8>)>,
    pub dataset: Dataset,
    /// Longer rows were cut to this.
    pub max_seq_length: usize,
    pub held_out: Option<Dataset>,
    pub schedule: Schedule,
    pub space: AdaptedSpace,
    /// As it is written to the adapter's files.
    pub adapter: AdapterConfig,
    pub fingerprints: Fingerprints,
}

/// Where training starts from.
pub(crate) struct Origin {
    pub spec: Spec,
    /// θ before the first step, length d.
    pub theta: Vec<f32>,
}

/// Hashes of what was read.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Fingerprints {
    /// Of the model's configuration and weights.
    pub model: String,
    /// Of the training tokens and labels.
    pub data: String,
    /// Of θ before the first step, where it is not zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
}

impl Inputs {
    /// Collective. Reads and checks everything; ranks that read something else than rank 0 are named.
    pub(crate) fn load(
        config: &TrainConfig,
        surroundings: &Surroundings<'_>,
        observe: Observer<'_>,
    ) -> Result<(Self, Origin), TrainError> {
        let (comm, sources) = (surroundings.comm, surroundings.sources);
        let opened = agree(comm, open_model(config, sources))?;
        observe(Event::Stage("tokenizing"));
        let build = || {
            let cache_dir = surroundings.cache_dir.as_deref();
            Corpus { config, sources, tokenizer: &opened.tokenizer, cache_dir, observe }.build()
        };
        // The first rank fills the cache, the others map it.
        let first = agree(comm, if comm.rank() == 0 { build().map(Some) } else { Ok(None) })?;
        let (dataset, held_out) = agree(comm, first.map_or_else(build, Ok))?;
        let mut schedule = agree(comm, schedule(config, dataset.len()))?;
        agree(comm, check_steps(&dataset, &mut schedule))?;
        let OpenModel { files, model_config, tokenizer, space, adapter, spec, theta } = opened;
        let fingerprints = Fingerprints {
            model: fingerprint::model(&files, &sources.model.join("config.json")),
            data: dataset.fingerprint(),
            start: theta.iter().any(|x| *x != 0.0).then(|| crate::theta_hash(&theta)),
        };
        let adapter = method::written(&adapter, &space);
        let tokenizer_files = agree(comm, artifacts::read_all(&data::tokenizer_files(&sources.model)))?;
        let inputs = Self {
            files,
            model_config,
            tokenizer,
            tokenizer_files,
            dataset,
            max_seq_length: config.max_seq_length,
            held_out,
            schedule,
            space,
            adapter,
            fingerprints,
        };
        inputs.check_ranks(config, comm)?;
        Ok((inputs, Origin { spec, theta }))
    }

    /// Collective. The partition; of groups that come from the weights, every rank must have the same.
    pub(crate) fn partition(
        &self,
        spec: &Spec,
        comm: &dyn Communicator,
        observe: Observer<'_>,
    ) -> Result<Box<dyn Assignment>, TrainError> {
        if spec.backend != Backend::Stateless {
            observe(Event::Stage("making the partition"));
        }
        let partition = agree(comm, method::partition(spec, &self.space, &self.files))?;
        if spec.backend == Backend::SignedMagnitude {
            let hash = agree(comm, fingerprint::ids(partition.as_ref(), self.space.total()))?;
            same_everywhere(comm, &[("partition by sign and size", hash)])?;
        }
        Ok(partition)
    }

    /// Collective. Every rank has read the same.
    fn check_ranks(&self, config: &TrainConfig, comm: &dyn Communicator) -> Result<(), TrainError> {
        let settings = serde_json::to_string(config).unwrap_or_else(|e| e.to_string());
        let held_out = self.held_out.as_ref().map(Dataset::fingerprint).unwrap_or_default();
        same_everywhere(
            comm,
            &[
                ("version of gpart-dist", env!("CARGO_PKG_VERSION").to_owned()),
                ("model", self.fingerprints.model.clone()),
                ("training data", self.fingerprints.data.clone()),
                ("held-out data", held_out),
                ("adapter to start from", self.fingerprints.start.clone().unwrap_or_default()),
                ("command line, settings file or GPART_ environment", settings),
            ],
        )
    }
}

/// A model whose files and settings fit each other; no weight has been read.
struct OpenModel {
    files: CheckpointFiles,
    model_config: ModelConfig,
    tokenizer: Tokenizer,
    space: AdaptedSpace,
    adapter: AdapterConfig,
    spec: Spec,
    theta: Vec<f32>,
}

fn open_model(config: &TrainConfig, sources: &Sources) -> Result<OpenModel, TrainError> {
    let folder = &sources.model;
    let model_config = ModelConfig::from_folder(folder)?;
    let files = CheckpointFiles::open(folder)?;
    files.check(&model_config)?;
    let tokenizer = tokenizer(config, folder, &model_config)?;
    let candidates = linear_modules(&model_config);
    let adapter = method::adapter_config(config, &sources.base_model);
    let space = method::adapted_space(config, &adapter, &candidates)?;
    space.check_d(config.d as u64)?;
    let spec = adapter.partition(&space)?;
    let theta = method::initial_theta(config, &adapter, &space, &candidates)?;
    Ok(OpenModel { files, model_config, tokenizer, space, adapter, spec, theta })
}

/// Refuses what a model's configuration, its tokenizer and the settings alone show to be wrong: before weights and rows
/// are fetched.
///
/// # Errors
/// As for a training.
pub fn check_settings(config: &TrainConfig, folder: &Path, base_model: &str) -> Result<(), TrainError> {
    let model_config = ModelConfig::from_folder(folder)?;
    tokenizer(config, folder, &model_config)?;
    let adapter = method::adapter_config(config, base_model);
    let space = method::adapted_space(config, &adapter, &linear_modules(&model_config))?;
    space.check_d(config.d as u64)?;
    adapter.partition(&space)?;
    named_template(config, folder).map(|_| ())
}

/// The template that the settings name, if they do.
fn named_template(config: &TrainConfig, folder: &Path) -> Result<Option<Template>, TrainError> {
    Ok(match config.template.as_deref() {
        None => None,
        Some("official") => Some(Template::official(config.use_system_prompt)),
        Some("chat") => Some(Template::chat(folder)?),
        Some(file) => Some(Template::from_file(Path::new(file))?),
    })
}

/// The model's tokenizer, as the settings have it.
pub(crate) fn tokenizer(
    config: &TrainConfig,
    folder: &Path,
    model_config: &ModelConfig,
) -> Result<Tokenizer, TrainError> {
    let options = data::TokenizerOptions {
        eos_token: config.eos_token.clone(),
        vocab_size: Some(model_config.vocab_size as u64),
    };
    Ok(Tokenizer::load(folder, options)?)
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

/// Rows on their way to tokens.
pub(crate) struct Corpus<'a> {
    pub config: &'a TrainConfig,
    pub sources: &'a Sources,
    pub tokenizer: &'a Tokenizer,
    pub cache_dir: Option<&'a Path>,
    pub observe: Observer<'a>,
}

impl Corpus<'_> {
    /// The training rows, and the held-out ones if there are any.
    pub(crate) fn build(&self) -> Result<(Dataset, Option<Dataset>), TrainError> {
        let config = self.config;
        let rows = self.read(&self.sources.data, config.max_samples)?;
        self.warn_of_idle_settings(rows.schema());
        let (rows, held_out) = match config.validation_split {
            Some(split) => {
                let (rows, held_out) = rows.split(split, config.seed)?;
                (rows, Some(held_out))
            }
            None if self.sources.eval_data.is_empty() => (rows, None),
            None => (rows, Some(self.read(&self.sources.eval_data, None)?)),
        };
        let dataset = self.tokenize(&rows)?;
        let unsupervised = dataset.unsupervised_rows();
        if unsupervised > 0 {
            (self.observe)(Event::Warning(format!(
                "{unsupervised} of {} rows have no token to learn: no response, or none in the last {} tokens",
                dataset.len(),
                config.max_seq_length
            )));
        }
        check_labels(&dataset, "the data")?;
        let held_out = held_out.map(|rows| self.tokenize(&rows)).transpose()?;
        held_out.iter().try_for_each(|rows| check_labels(rows, "the held-out data"))?;
        Ok((dataset, held_out))
    }

    /// The first `rows` training rows, or fewer.
    pub(crate) fn first(&self, rows: usize) -> Result<Dataset, TrainError> {
        let limit = self.config.max_samples.map_or(rows, |limit| limit.min(rows));
        self.tokenize(&self.read(&self.sources.data, Some(limit))?)
    }

    fn read(&self, paths: &[PathBuf], max_samples: Option<usize>) -> Result<Rows, TrainError> {
        let config = self.config;
        let options = |keep_fields| RowOptions {
            query_field: config.query_field.clone(),
            response_field: config.response_field.clone(),
            max_samples,
            keep_fields,
            any_fields: config.has_template_file(),
        };
        let has_template = config.template.as_deref().is_some_and(|template| template != "official");
        let rows = data::read_rows(paths, &options(has_template))?;
        // MetaMathQA's rows have fields that nobody looks at; a chat's may mean something to its template.
        match (rows.schema(), has_template) {
            (Schema::Chat, false) => Ok(data::read_rows(paths, &options(true))?),
            _ => Ok(rows),
        }
    }

    /// Says which settings chats have no use for.
    fn warn_of_idle_settings(&self, schema: &Schema) {
        let config = self.config;
        if *schema != Schema::Chat {
            return;
        }
        for (name, is_set) in [
            ("query-field", config.query_field != "query"),
            ("response-field", config.response_field != "response"),
            ("use-system-prompt", config.use_system_prompt),
        ] {
            if is_set {
                (self.observe)(Event::Warning(format!("{name} has no effect: the rows are chats")));
            }
        }
    }

    fn tokenize(&self, rows: &Rows) -> Result<Dataset, TrainError> {
        let config = self.config;
        let template = self.template(rows.schema())?;
        let train_on = match config.train_on {
            config::TrainOn::Responses => data::TrainOn::Responses,
            config::TrainOn::All => data::TrainOn::All,
        };
        let options = BuildOptions { max_seq_length: config.max_seq_length, train_on };
        let progress = |done, total| (self.observe)(Event::Progress { done, total });
        let threads = config.dataset_num_proc;
        Ok(Dataset::build(rows, self.tokenizer, &template, &options, self.cache_dir, &progress, threads)?)
    }

    fn template(&self, schema: &Schema) -> Result<Template, TrainError> {
        Ok(match (named_template(self.config, &self.sources.model)?, schema) {
            (Some(template), _) => template,
            (None, Schema::Chat) => Template::chat(&self.sources.model)?,
            (None, _) => Template::official(self.config.use_system_prompt),
        })
    }
}

/// Whether a row has a token to predict; its first one never is.
fn predicts(dataset: &Dataset, row: usize) -> bool {
    dataset.example(row).supervised.iter().any(|[_, end]| *end > 1)
}

/// Refuses a step all of whose rows teach nothing: its loss would be 0/0, hours after the start.
fn check_steps(dataset: &Dataset, schedule: &mut Schedule) -> Result<(), TrainError> {
    if (0..dataset.len()).all(|row| predicts(dataset, row)) {
        return Ok(());
    }
    let total = schedule.total_steps();
    let idle = (0..total).find(|step| {
        let rows = schedule.step(*step);
        !rows.micro_batches.iter().flatten().any(|row| predicts(dataset, *row as usize))
    });
    idle.map_or(Ok(()), |step| Err(TrainError::NoLabels { place: format!("step {}", step + 1) }))
}

/// Refuses rows that teach nothing at all.
fn check_labels(dataset: &Dataset, what: &str) -> Result<(), TrainError> {
    match (0..dataset.len()).any(|row| predicts(dataset, row)) {
        true => Ok(()),
        false => Err(TrainError::NoLabels { place: what.to_owned() }),
    }
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
