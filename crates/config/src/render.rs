//! Resolved settings as text, for `gpart-dist config`.

use serde_json::Value;

use crate::identity::as_json;
use crate::keys::keys;
use crate::{Resolved, Source};

/// One line of the listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The key's name.
    pub key: &'static str,
    /// Its value as one would type it, or `none`.
    pub value: String,
    /// Where the value comes from.
    pub origin: Source,
}

/// Every setting with its value and origin, in the table's order. Two are worked out: the rows a step, and the
/// output folder where `--output` did not name one.
pub fn render(resolved: &Resolved) -> Vec<Row> {
    let config = &resolved.config;
    let values = as_json(config);
    let mut rows = Vec::new();
    for key in keys() {
        let derived = match key.name {
            "global-batch-size" => {
                Some((config.global_batch_size().to_string(), "micro-batch-size × accumulation-steps"))
            }
            "output" if config.output.is_none() => {
                Some((config.output_dir().display().to_string(), "output-root-dir and the run's name"))
            }
            _ => None,
        };
        if let Some((value, from)) = derived {
            rows.push(Row { key: key.name, value, origin: Source::Derived(from.to_owned()) });
        } else if let Some(value) = values.get(key.name) {
            let origin = resolved.provenance.get(key.name).cloned().unwrap_or(Source::Default);
            rows.push(Row { key: key.name, value: shown(Some(value)), origin });
        }
    }
    rows
}

/// A value as one would type it.
pub(crate) fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "none".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items.iter().map(|item| shown(Some(item))).collect::<Vec<_>>().join(","),
        Some(other) => other.to_string(),
    }
}
