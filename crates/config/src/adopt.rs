//! Settings that another file decides: a run that is resumed, an adapter that training starts from.

use std::path::Path;

use serde_json::Value;

use crate::identity::as_json;
use crate::keys::find;
use crate::render::shown;
use crate::{ConfigError, Device, Dtype, Resolved, Source, TrainConfig};

impl Resolved {
    /// Takes `device`, `threads` and `dtype` over from the run that is being resumed, where they were not given now: bits
    /// depend on them, and a user should not have to repeat them. To be called before
    /// [`diff_identity`](crate::diff_identity).
    pub fn keep_from(&mut self, old: &TrainConfig) {
        if *self.source("threads") == Source::Default && self.config.threads != old.threads {
            self.config.threads = old.threads;
            self.provenance.insert("threads", Source::ResumedRun);
        }
        let is_known = old.device != Device::Auto && self.config.device != old.device;
        if *self.source("device") == Source::Default && is_known {
            self.config.device = old.device;
            self.provenance.insert("device", Source::ResumedRun);
        }
        if *self.source("dtype") == Source::Default && self.config.dtype != old.dtype {
            self.config.dtype = old.dtype;
            self.provenance.insert("dtype", Source::ResumedRun);
        }
    }

    /// Settles what the run computes on, now that it is known; on a GPU that makes bfloat16 the number format, unless one was
    /// given or is kept.
    pub fn computes_on(&mut self, device: Device) {
        if self.config.device == Device::Auto {
            self.config.device = device;
        }
        if device == Device::Cuda && *self.source("dtype") == Source::Default {
            self.config.dtype = Dtype::Bfloat16;
            self.provenance.insert("dtype", Source::Derived("device".to_owned()));
        }
    }

    /// Takes over what the adapter in `folder` fixes, since its θ means nothing in another partition. `settings`
    /// are keys and values as in [`TrainConfig`]'s JSON form.
    ///
    /// # Errors
    /// [`ConfigError::Conflict`] for a setting that was given (beyond defaults and presets) and differs.
    pub fn take_from_adapter(
        &mut self,
        folder: &Path,
        settings: Vec<(&str, Value)>,
    ) -> Result<(), ConfigError> {
        let mut values = as_json(&self.config);
        for (name, value) in settings {
            let key = find(name).expect("an adapter's settings are keys of the table").name;
            if comparable(&values[key]) == comparable(&value) {
                continue;
            }
            let origin = self.source(key);
            if !matches!(
                origin,
                Source::Default | Source::Command(_) | Source::Preset { .. } | Source::Derived(_)
            ) {
                return Err(ConfigError::Conflict {
                    message: format!(
                        "{key} is {} ({origin}), but {} in the adapter in {}",
                        shown(Some(&values[key])),
                        shown(Some(&value)),
                        folder.display()
                    ),
                    hint: format!("leave {key} out: --init-adapter takes it over"),
                });
            }
            values[key] = value;
            self.provenance.insert(key, Source::Adapter(folder.to_owned()));
        }
        self.config = serde_json::from_value(values).map_err(|error| ConfigError::Conflict {
            message: format!("the adapter in {} cannot be trained on: {error}", folder.display()),
            hint: "its settings are outside the limits of `gpart-dist config metamath`".to_owned(),
        })?;
        Ok(())
    }
}

/// Lists of names in any order are the same list.
fn comparable(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Array(items) = &mut value {
        items.sort_by_key(Value::to_string);
    }
    value
}
