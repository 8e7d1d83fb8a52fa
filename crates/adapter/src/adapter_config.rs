//! `adapter_config.json` of the official PEFT fork.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AdaptedSpace, AdapterError, ScopeBlock, Selection, Targets};

/// Field for field what the official fork writes for a GPart adapter, in its (alphabetical) order. Keys that a
/// file lacks take the official defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are those of the official file format")]
pub struct AdapterConfig {
    pub assignment_backend: String,
    pub auto_mapping: Option<Value>,
    pub base_model_name_or_path: Option<String>,
    pub bias: String,
    pub d: u64,
    pub fan_in_fan_out: bool,
    pub gpart_dropout: f64,
    pub grouping_strategy: String,
    pub inference_mode: bool,
    pub init_bound: f64,
    pub isometric: bool,
    pub layers_pattern: Option<Value>,
    pub layers_to_transform: Option<Value>,
    pub modules_to_save: Option<Vec<String>>,
    pub partition_scope: String,
    pub peft_type: String,
    pub peft_version: Option<String>,
    pub proj_seed: i128,
    pub projection_type: String,
    pub revision: Option<String>,
    /// A list of names, a regular expression, or `all-linear`.
    pub target_modules: Option<Value>,
    pub task_type: Option<String>,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            assignment_backend: "stateless".to_owned(),
            auto_mapping: None,
            base_model_name_or_path: None,
            bias: "none".to_owned(),
            d: 1024,
            fan_in_fan_out: false,
            gpart_dropout: 0.0,
            grouping_strategy: "random".to_owned(),
            inference_mode: true,
            init_bound: 0.0,
            isometric: true,
            layers_pattern: None,
            layers_to_transform: None,
            modules_to_save: None,
            partition_scope: "global".to_owned(),
            peft_type: "GPART".to_owned(),
            peft_version: Some("0.18.2.dev0@UNKNOWN".to_owned()),
            proj_seed: 42,
            projection_type: "partition".to_owned(),
            revision: None,
            target_modules: None,
            task_type: Some("CAUSAL_LM".to_owned()),
        }
    }
}

impl AdapterConfig {
    /// Parses the text of an `adapter_config.json` and refuses what cannot be computed.
    ///
    /// # Errors
    /// [`AdapterError::Invalid`] for another kind of adapter, [`AdapterError::Unsupported`] for a part of GPart
    /// that is not built.
    pub fn from_json(text: &str, path: &Path) -> Result<Self, AdapterError> {
        let invalid = |reason: String, hint: &str| AdapterError::Invalid {
            path: path.to_owned(),
            reason,
            hint: hint.to_owned(),
        };
        let value: Value = serde_json::from_str(text)
            .map_err(|e| invalid(e.to_string(), "the file is damaged; copy it again"))?;
        match value.get("peft_type").and_then(Value::as_str) {
            Some("GPART") => {}
            other => {
                let found = other.unwrap_or("(none)");
                return Err(invalid(format!("its peft_type is {found}"), "only GPart adapters are read"));
            }
        }
        // From the text again, not from the value: a JSON value keeps no integer beyond 64 bits, a seed may be one.
        let mut config: Self = serde_json::from_str(text)
            .map_err(|e| invalid(e.to_string(), "the file is damaged; copy it again"))?;
        config.assignment_backend = match config.assignment_backend.as_str() {
            "implicit_stateless_v1" => "stateless".to_owned(),
            "legacy_streaming" => "materialized".to_owned(),
            _ => config.assignment_backend,
        };
        config.check(path)?;
        Ok(config)
    }

    /// Keys of the text that mean nothing here, which PEFT, too, reads past.
    pub fn unknown_keys(text: &str) -> Vec<String> {
        let known = serde_json::to_value(Self::default()).unwrap_or_default();
        let Ok(Value::Object(found)) = serde_json::from_str(text) else { return Vec::new() };
        found.into_iter().map(|(key, _)| key).filter(|key| known.get(key).is_none()).collect()
    }

    /// Which modules of a model the adapter touches. `path` is only named in errors.
    ///
    /// # Errors
    /// [`AdapterError::Unsupported`] for a value of another form than PEFT's.
    pub fn selection(&self, path: &Path) -> Result<Selection, AdapterError> {
        let malformed = |key, value: &Option<Value>| AdapterError::Unsupported {
            path: path.to_owned(),
            key,
            value: value.as_ref().map_or("null".to_owned(), Value::to_string),
            hint: "the value has a form that PEFT does not write; is the file damaged?",
        };
        let targets = match &self.target_modules {
            // What PEFT adapts in these families when nothing is named.
            None | Some(Value::Null) => Targets::Names(vec!["q_proj".to_owned(), "v_proj".to_owned()]),
            Some(Value::String(text)) if text == "all-linear" => Targets::AllLinear,
            Some(Value::String(text)) => Targets::Regex(text.clone()),
            names => Targets::Names(
                texts(names).filter(|n| !n.is_empty()).ok_or_else(|| malformed("target_modules", names))?,
            ),
        };
        let layers = &self.layers_to_transform;
        let patterns = &self.layers_pattern;
        Ok(Selection {
            targets,
            layers_to_transform: numbers(layers).ok_or_else(|| malformed("layers_to_transform", layers))?,
            layers_pattern: texts(patterns).ok_or_else(|| malformed("layers_pattern", patterns))?,
            bias: self.bias != "none",
            strict: false,
        })
    }

    /// The partition that the adapter's θ belongs to, over the weights of `space`.
    ///
    /// # Errors
    /// [`AdapterError::NoBlock`] when its scope is the block and a module is in none.
    pub fn partition(&self, space: &AdaptedSpace) -> Result<partition::Spec, AdapterError> {
        let backend = match (self.grouping_strategy.as_str(), self.assignment_backend.as_str()) {
            ("signed_magnitude", _) => partition::Backend::SignedMagnitude,
            (_, "materialized") => partition::Backend::Materialized,
            _ => partition::Backend::Stateless,
        };
        let scope = match self.partition_scope.as_str() {
            "transformer_block" => {
                let patterns = texts(&self.layers_pattern).unwrap_or_default();
                let blocks = space.blocks(&patterns)?;
                let range =
                    |block: ScopeBlock| partition::BlockRange { name: block.name, numel: block.numel };
                partition::Scope::Blocks(blocks.into_iter().map(range).collect())
            }
            _ => partition::Scope::Global,
        };
        Ok(partition::Spec { backend, d: self.d, seed: self.proj_seed.into(), scope })
    }

    fn check(&self, path: &Path) -> Result<(), AdapterError> {
        const HINT: &str = "supported: projection_type partition; partition_scope global or transformer_block; \
            assignment_backend stateless or materialized; grouping_strategy random, or signed_magnitude with the \
            materialized backend; bias none, all or gpart_only; no modules_to_save";
        let one_of = |value: &str, allowed: &[&str]| allowed.contains(&value);
        let signed = self.grouping_strategy == "signed_magnitude";
        let backends: &[&str] = if signed { &["materialized"] } else { &["stateless", "materialized"] };
        let to_save = self.modules_to_save.iter().flatten().cloned().collect::<Vec<_>>().join(",");
        for (key, value, fits) in [
            ("projection_type", &self.projection_type, one_of(&self.projection_type, &["partition"])),
            (
                "partition_scope",
                &self.partition_scope,
                one_of(&self.partition_scope, &["global", "transformer_block"]),
            ),
            (
                "grouping_strategy",
                &self.grouping_strategy,
                one_of(&self.grouping_strategy, &["random", "signed_magnitude"]),
            ),
            ("assignment_backend", &self.assignment_backend, one_of(&self.assignment_backend, backends)),
            ("bias", &self.bias, one_of(&self.bias, &["none", "all", "gpart_only"])),
            ("modules_to_save", &to_save, to_save.is_empty()),
            ("d", &self.d.to_string(), self.d > 0),
        ] {
            if !fits {
                let (path, value) = (path.to_owned(), value.clone());
                return Err(AdapterError::Unsupported { path, key, value, hint: HINT });
            }
        }
        Ok(())
    }
}

/// A text, a list of texts, or nothing; none for any other value.
fn texts(value: &Option<Value>) -> Option<Vec<String>> {
    match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::String(text)) => Some(vec![text.clone()]),
        Some(Value::Array(list)) => list.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        Some(_) => None,
    }
}

/// A number, a list of numbers, or nothing; none for any other value.
fn numbers(value: &Option<Value>) -> Option<Vec<u64>> {
    match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Number(number)) => Some(vec![number.as_u64()?]),
        Some(Value::Array(list)) => list.iter().map(Value::as_u64).collect(),
        Some(_) => None,
    }
}
