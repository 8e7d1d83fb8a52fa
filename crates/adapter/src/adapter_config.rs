//! `adapter_config.json` of the official PEFT fork.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::AdapterError;

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
    /// The names in `target_modules`.
    ///
    /// # Errors
    /// [`AdapterError::Unsupported`] when it is not a list of names.
    pub fn targets(&self, path: &Path) -> Result<Vec<String>, AdapterError> {
        let names = self.target_modules.as_ref().and_then(Value::as_array).and_then(|list| {
            list.iter().map(|v| v.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
        });
        names.filter(|names| !names.is_empty()).ok_or_else(|| AdapterError::Unsupported {
            path: path.to_owned(),
            key: "target_modules",
            value: self.target_modules.clone().unwrap_or(Value::Null).to_string(),
        })
    }

    /// Parses the text of an `adapter_config.json` and refuses what this version cannot compute.
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
        if config.assignment_backend == "implicit_stateless_v1" {
            config.assignment_backend = "stateless".to_owned();
        }
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), AdapterError> {
        let json = |value: &Option<Value>| value.as_ref().map_or("null".to_owned(), Value::to_string);
        let to_save = self.modules_to_save.as_ref().map_or("null".to_owned(), |m| m.join(","));
        for (key, value, expected) in [
            ("projection_type", self.projection_type.clone(), "partition"),
            ("partition_scope", self.partition_scope.clone(), "global"),
            ("grouping_strategy", self.grouping_strategy.clone(), "random"),
            ("assignment_backend", self.assignment_backend.clone(), "stateless"),
            ("bias", self.bias.clone(), "none"),
            ("layers_to_transform", json(&self.layers_to_transform), "null"),
            ("modules_to_save", to_save, "null"),
            ("d", if self.d == 0 { "0".to_owned() } else { String::new() }, ""),
        ] {
            if value != expected {
                return Err(AdapterError::Unsupported { path: path.to_owned(), key, value });
            }
        }
        Ok(())
    }
}
