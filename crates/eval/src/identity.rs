//! What an evaluation's answers depend on: two of the same identity have the same answers.

use serde_json::{Map, Value, json};

use crate::loaded::Inputs;
use crate::{Problem, Settings};

/// Names and values of everything that an answer depends on. Ranks, batch and paths are not among it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Identity(Map<String, Value>);

impl Identity {
    pub(crate) fn new(
        settings: &Settings,
        inputs: &Inputs,
        problems: &[Problem],
        prompts: &[Vec<u32>],
    ) -> Self {
        let adapter = match &inputs.adapter {
            None => Value::Null,
            Some((adapter, _)) => json!(hash(&[
                trainer::theta_hash(&adapter.theta).as_bytes(),
                partition_of(&adapter.config).to_string().as_bytes(),
            ])),
        };
        let mut asked = blake3::Hasher::new();
        for (problem, prompt) in problems.iter().zip(prompts) {
            let truth = json!(problem.ground_truth);
            asked.update(format!("{} {truth} {prompt:?}\n", problem.index).as_bytes());
        }
        let value = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "dataset": settings.dataset.name(),
            "model": trainer::model_hash(&inputs.files),
            "adapter": adapter,
            "tokenizer": short(inputs.tokenizer.fingerprint()),
            "problems": short(asked.finalize()),
            "stop_token_ids": inputs.stop_ids,
            "max_new_tokens": settings.max_new_tokens(),
            "max_model_len": settings.row_limit(&inputs.config),
            "dtype": settings.dtype,
            "device": settings.device,
            "threads": settings.threads,
        });
        Self(value.as_object().cloned().unwrap_or_default())
    }

    /// A line for each key whose value is another in `now`, `key: old → new`; none where they are the same.
    pub(crate) fn changes(&self, now: &Self) -> Option<String> {
        let show = |value: Option<&Value>| value.map_or("none".to_owned(), Value::to_string);
        let mut keys: Vec<&String> = now.0.keys().chain(self.0.keys()).collect();
        keys.sort();
        keys.dedup();
        let lines: Vec<String> = keys
            .into_iter()
            .filter(|key| self.0.get(*key) != now.0.get(*key))
            .map(|key| format!("\n  {key}: {} → {}", show(self.0.get(key)), show(now.0.get(key))))
            .collect();
        (!lines.is_empty()).then(|| lines.concat())
    }
}

/// What of an adapter's configuration makes ΔW out of θ.
fn partition_of(config: &adapter::AdapterConfig) -> Value {
    let mut value = serde_json::to_value(config).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        for idle in ["base_model_name_or_path", "gpart_dropout", "init_bound", "revision", "peft_version"] {
            map.remove(idle);
        }
    }
    value
}

fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    short(hasher.finalize())
}

fn short(hash: blake3::Hash) -> String {
    hash.to_hex()[..32].to_owned()
}
