//! The method's settings, as the adapter's files have them: from settings to an adapter's configuration and back,
//! from there to the partition.

use std::path::{Path, PathBuf};

use adapter::{AdaptedSpace, Adapter, AdapterConfig};
use config::{TargetModules, TrainConfig};
use model::CheckpointFiles;
use partition::{Assignment, Backend, Spec};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::TrainError;

/// The configuration of the adapter that `config` trains over `base_model` (a hub id or a path).
pub fn adapter_config(config: &TrainConfig, base_model: &str) -> AdapterConfig {
    let targets = match config.targets() {
        TargetModules::Names(names) => json!(names),
        TargetModules::Regex(expression) => json!(expression),
        TargetModules::AllLinear => json!("all-linear"),
    };
    AdapterConfig {
        assignment_backend: config.assignment_backend.to_string(),
        base_model_name_or_path: Some(base_model.to_owned()),
        bias: config.bias.to_string(),
        d: config.d as u64,
        gpart_dropout: config.dropout,
        grouping_strategy: config.grouping_strategy.to_string(),
        init_bound: config.init_bound,
        isometric: config.isometric,
        layers_pattern: config.layers_pattern.as_ref().map(|patterns| json!(patterns)),
        layers_to_transform: config.layers_to_transform.as_ref().map(|layers| json!(layers)),
        partition_scope: config.partition_scope.to_string(),
        proj_seed: config.proj_seed,
        revision: config.revision.clone(),
        target_modules: Some(targets),
        ..AdapterConfig::default()
    }
}

/// What the settings adapt. Every name and block number of theirs must select something, unless they were taken over
/// from an adapter.
pub fn adapted_space(
    config: &TrainConfig,
    adapter: &AdapterConfig,
    candidates: &[adapter::Candidate],
) -> Result<AdaptedSpace, TrainError> {
    let selection = adapter.selection(Path::new("the settings"))?;
    let strict = config.init_adapter.is_none();
    Ok(AdaptedSpace::select(candidates, &adapter::Selection { strict, ..selection })?)
}

/// The same configuration for the adapter's files, where PEFT spells `all-linear` out.
pub(crate) fn written(config: &AdapterConfig, space: &AdaptedSpace) -> AdapterConfig {
    let mut config = config.clone();
    if config.target_modules == Some(json!("all-linear")) {
        let names: Vec<&str> = space.modules().iter().map(|module| module.name.as_str()).collect();
        config.target_modules = Some(json!(names));
    }
    config
}

/// What an adapter fixes for a training that starts from it, by the keys of the settings.
///
/// # Errors
/// The adapter's targets have a form that cannot be read; `path` is its configuration's.
pub fn settings_of(config: &AdapterConfig, path: &Path) -> Result<Vec<(&'static str, Value)>, TrainError> {
    let selection = config.selection(path)?;
    let targets = match selection.targets {
        adapter::Targets::Names(names) => json!(names),
        adapter::Targets::Regex(expression) => json!([format!("regex:{expression}")]),
        adapter::Targets::AllLinear => json!(["all-linear"]),
    };
    let some = |list: Value| if list.as_array().is_some_and(Vec::is_empty) { Value::Null } else { list };
    let seed = i64::try_from(config.proj_seed)
        .map_or_else(|_| Value::from(config.proj_seed.to_string()), Value::from);
    Ok(vec![
        ("d", config.d.into()),
        ("proj-seed", seed),
        ("isometric", config.isometric.into()),
        ("assignment-backend", config.assignment_backend.clone().into()),
        ("grouping-strategy", config.grouping_strategy.clone().into()),
        ("partition-scope", config.partition_scope.clone().into()),
        ("target-modules", targets),
        ("layers-to-transform", some(json!(selection.layers_to_transform))),
        ("layers-pattern", some(json!(selection.layers_pattern))),
        ("bias", config.bias.clone().into()),
    ])
}

/// The partition that `spec` describes over the weights of `space`. Only groups by sign and size look at the
/// weights: at the stored values, so that the groups do not depend on the compute dtype.
///
/// # Errors
/// d does not fit the weights or their blocks, or memory does not suffice.
pub fn partition(
    spec: &Spec,
    space: &AdaptedSpace,
    files: &CheckpointFiles,
) -> Result<Box<dyn Assignment>, TrainError> {
    let values = match spec.backend {
        Backend::SignedMagnitude => Some(stored_values(space, files)?),
        _ => None,
    };
    Ok(partition::build(spec, space.total(), values.as_deref())?)
}

/// All adapted weights and biases in f32, in the order of their global indices.
pub(crate) fn stored_values(space: &AdaptedSpace, files: &CheckpointFiles) -> Result<Vec<f32>, TrainError> {
    let mut values = Vec::new();
    let total = space.total() as usize;
    values.try_reserve_exact(total).map_err(|_| TrainError::NoMemoryForValues { weights: space.total() })?;
    for module in space.modules() {
        let bias = module.bias.then(|| format!("{}.bias", module.name));
        for name in std::iter::once(format!("{}.weight", module.name)).chain(bias) {
            let stored = files.tensor(&name)?.to_kind(Kind::Float).contiguous();
            let start = values.len();
            values.resize(start + stored.numel(), 0.0);
            stored.copy_data(&mut values[start..], stored.numel());
        }
    }
    Ok(values)
}

/// θ before the first step: an existing adapter's, or zeros, or uniform in ±`init_bound` from torch's generator
/// seeded with `--seed`.
///
/// # Errors
/// The adapter cannot be read, or belongs to another partition than the run's.
pub(crate) fn initial_theta(
    config: &TrainConfig,
    own: &AdapterConfig,
    space: &AdaptedSpace,
    candidates: &[adapter::Candidate],
) -> Result<Vec<f32>, TrainError> {
    if let Some(folder) = &config.init_adapter {
        let adapter = Adapter::read(folder)?;
        let path = folder.join("adapter_config.json");
        let theirs = AdaptedSpace::select(candidates, &adapter.config.selection(&path)?)?;
        let same = theirs == *space
            && adapter.config.partition(&theirs)? == own.partition(space)?
            && adapter.config.isometric == own.isometric;
        return match same {
            true => Ok(adapter.theta),
            false => Err(TrainError::OtherPartition { folder: folder.clone() }),
        };
    }
    let mut theta = vec![0.0; config.d];
    if config.init_bound > 0.0 {
        tch::manual_seed(config.seed as i64);
        let drawn = Tensor::zeros([config.d as i64], (Kind::Float, tch::Device::Cpu))
            .uniform_(-config.init_bound, config.init_bound);
        drawn.copy_data(&mut theta, config.d);
    }
    Ok(theta)
}

/// Where a run's inputs lie on this host, once names have become paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// The model's folder.
    pub model: PathBuf,
    /// The model as adapter files name it: a hub id, or a path.
    pub base_model: String,
    /// Files of the training rows, in order.
    pub data: Vec<PathBuf>,
    /// Files of the held-out rows.
    pub eval_data: Vec<PathBuf>,
}
