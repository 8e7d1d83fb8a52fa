//! Which settings make a run the run it is, and what differs between two of them.

use serde_json::Value;

use crate::keys::{Role, keys};
use crate::render::shown;
use crate::{Device, TrainConfig};

/// A setting of the run's identity that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key's name.
    pub key: &'static str,
    /// Its value in the run that is on disk, as shown to users.
    pub old: String,
    /// Its value now.
    pub new: String,
}

/// Names of the keys that θ depends on: model, data, adapter, schedule, batch sizes, seeds, dtype, threads, device. The
/// others (output, logging, checkpoints, held-out data, samples, ranks) may change on resume.
pub fn fingerprint_keys() -> impl Iterator<Item = &'static str> {
    keys().filter(|key| matches!(key.role, Role::Identity | Role::Required)).map(|key| key.name)
}

/// The settings of the run's identity in which `new` differs from `old`, in the table's order; empty if `new` may
/// resume `old`. `model` and `data` are compared as locations: a caller that has hashes of their content may
/// drop these two where the hashes agree.
pub fn diff_identity(old: &TrainConfig, new: &TrainConfig) -> Vec<Change> {
    let (old, new) = (comparable(old), comparable(new));
    let difference = |key: &'static str| {
        let (old, new) = (old.get(key), new.get(key));
        (old != new).then(|| Change { key, old: shown(old), new: shown(new) })
    };
    fingerprint_keys().filter_map(difference).collect()
}

fn comparable(config: &TrainConfig) -> Value {
    let mut config = config.clone();
    // The adapter's order of modules is the model's, whatever the order in which they were named.
    config.target_modules.sort();
    config.target_modules.dedup();
    // A run that never learned what it computes on was on the processor.
    if config.device == Device::Auto {
        config.device = Device::Cpu;
    }
    as_json(&config)
}

/// The settings by key name.
pub(crate) fn as_json(config: &TrainConfig) -> Value {
    serde_json::to_value(config).expect("plain structs with finite numbers are valid JSON")
}
