//! Layers → one checked configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::keys::keys;
use crate::layer::{self, Layer, Setting, Source};
use crate::{ConfigError, Dtype, TrainArgs, TrainConfig, presets, run_name};

/// A configuration and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The settings.
    pub config: TrainConfig,
    /// For each key that has a value or was set to `none`, the layer that decided it.
    pub provenance: BTreeMap<&'static str, Source>,
    /// Things the user should read before the run starts: settings without effect, deprecated names.
    pub warnings: Vec<String>,
}

impl Resolved {
    /// Where the value of `key` comes from; absent optional settings count as defaults.
    pub fn source(&self, key: &str) -> &Source {
        self.provenance.get(key).unwrap_or(&Source::Default)
    }

    /// Takes `threads` and `dtype` over from the run that is being resumed, where they were not given now: bits
    /// depend on both, and a user should not have to repeat them. To be called before
    /// [`diff_identity`](crate::diff_identity).
    pub fn keep_from(&mut self, old: &TrainConfig) {
        if *self.source("threads") == Source::Default && self.config.threads != old.threads {
            self.config.threads = old.threads;
            self.provenance.insert("threads", Source::ResumedRun);
        }
        if *self.source("dtype") == Source::Default && self.config.dtype != old.dtype {
            self.config.dtype = old.dtype;
            self.provenance.insert("dtype", Source::ResumedRun);
        }
    }
}

/// Resolves the settings of a run. `environment` is the process's variables, of which only those that start with
/// `GPART_` are looked at; nothing else of the environment is read. `preset_folders` are searched in order.
///
/// Relative `model`, `data` and `eval-data` of a file become relative to the working folder; other relative
/// paths are relative to it wherever they are written.
///
/// # Errors
/// The first setting that cannot be used, with its value and origin: see [`ConfigError`].
pub fn resolve(
    args: &TrainArgs,
    environment: impl Iterator<Item = (String, String)>,
    preset_folders: &[PathBuf],
) -> Result<Resolved, ConfigError> {
    let mut warnings = Vec::new();
    let environment = layer::from_environment(environment, &mut warnings)?;
    let flags = layer::from_flags(args)?;
    let named_by = |key| flags.get(key).or(environment.get(key)).cloned();

    let mut layers = vec![layer::defaults()];
    if let Some(preset) = named_by("preset") {
        let path = presets::find(&preset.typed, &preset.origin, preset_folders)?;
        let origin = |line| Source::Preset { name: preset.typed.clone(), path: path.clone(), line };
        layers.push(layer::from_file(&path, origin)?);
    }
    if let Some(file) = named_by("config") {
        let path = PathBuf::from(&file.typed);
        layers.push(layer::from_file(&path, |line| Source::File { path: path.clone(), line })?);
    }
    layers.extend([environment, flags]);

    let mut merged = Layer::new();
    for mut layer in layers {
        expand_dtype_switches(&mut layer)?;
        merge(&mut merged, layer);
    }
    settle_batch_size(&mut merged)?;
    refuse_what_is_not_built(&merged)?;
    check_pairs(&merged)?;
    warn(&merged, &mut warnings);

    let config = typed(&merged);
    check_run_name(&config)?;
    let provenance = merged.into_iter().map(|(key, setting)| (key, setting.origin)).collect();
    Ok(Resolved { config, provenance, warnings })
}

/// Puts a higher layer over what lower layers say.
fn merge(merged: &mut Layer, higher: Layer) {
    // Two ways to say one thing: the higher layer's word stands, whichever it used.
    let batch_keys = ["global-batch-size", "accumulation-steps"];
    if batch_keys.iter().any(|key| higher.get(key).is_some_and(|setting| !setting.value.is_null())) {
        for key in batch_keys {
            merged.remove(key);
        }
    }
    merged.extend(higher);
}

/// `bf16` and `fp16` of a layer become its `dtype`.
fn expand_dtype_switches(layer: &mut Layer) -> Result<(), ConfigError> {
    for (switch, dtype) in [("bf16", Dtype::Bfloat16), ("fp16", Dtype::Float16)] {
        let Some(setting) = layer.remove(switch) else { continue };
        if setting.value == Value::Bool(false) {
            return Err(ConfigError::BadValue {
                key: switch,
                value: format!("{:?}", setting.typed),
                origin: setting.origin.into(),
                expected: "dtype = float32, bfloat16 or float16 instead, which says what to use".to_owned(),
            });
        }
        let value = Value::from(dtype.to_string());
        if let Some(other) = layer.get("dtype").filter(|other| other.value != value) {
            return Err(ConfigError::Conflict {
                message: format!(
                    "{switch} ({}) and dtype {} ({}) disagree",
                    setting.origin, other.typed, other.origin
                ),
                hint: "give one of bf16, fp16 and dtype".to_owned(),
            });
        }
        let typed = dtype.to_string();
        layer.insert("dtype", Setting { value, typed, ..setting });
    }
    Ok(())
}

/// Turns `global-batch-size` into accumulation steps. Where both are still there, one layer gave both, and they
/// must agree.
fn settle_batch_size(merged: &mut Layer) -> Result<(), ConfigError> {
    let Some(global) = merged.remove("global-batch-size") else { return Ok(()) };
    let number = |setting: &Setting| setting.value.as_i64().unwrap_or(1);
    let micro = merged.get("micro-batch-size").expect("it has a default");
    let (rows, micro_rows) = (number(&global), number(micro));
    if rows % micro_rows != 0 {
        return Err(ConfigError::Conflict {
            message: format!(
                "global-batch-size {rows} ({}) is no multiple of micro-batch-size {micro_rows} ({})",
                global.origin, micro.origin
            ),
            hint: format!(
                "give a multiple of {micro_rows}, such as {}",
                rows.max(1).div_euclid(micro_rows).max(1) * micro_rows
            ),
        });
    }
    let steps = rows / micro_rows;
    if let Some(other) = merged.get("accumulation-steps").filter(|other| number(other) != steps) {
        return Err(ConfigError::Conflict {
            message: format!(
                "global-batch-size {rows} ({}) is {steps} micro-batches of {micro_rows}, but accumulation-steps is \
                 {} ({})",
                global.origin, other.typed, other.origin
            ),
            hint: "give one of the two".to_owned(),
        });
    }
    merged.insert("accumulation-steps", Setting { value: Value::from(steps), ..global });
    Ok(())
}

/// Values with a meaning that this version cannot give them.
fn refuse_what_is_not_built(merged: &Layer) -> Result<(), ConfigError> {
    let replicated_only = "ranks are replicated in this version: each holds the whole model";
    let (lora, unilora) = (Value::from("lora"), Value::from("unilora"));
    let refuse = |key: &'static str, refused: &dyn Fn(&Value) -> bool, reason, hint| {
        let setting = merged.get(key).filter(|setting| refused(&setting.value));
        setting.map_or(Ok(()), |Setting { typed, origin, .. }| {
            Err(ConfigError::NotAvailable {
                key,
                value: typed.clone(),
                origin: origin.clone().into(),
                reason,
                hint,
            })
        })
    };
    refuse(
        "adapter-type",
        &|value| *value == lora || *value == unilora,
        "only GPart adapters are built",
        "use --adapter-type gpart, the default",
    )?;
    for key in ["rank", "alpha"] {
        refuse(
            key,
            &|_| true,
            "it belongs to LoRA, which is not built",
            "GPart's one size is --d; leave this out",
        )?;
    }
    refuse(
        "assignment-backend",
        &|value| *value == "materialized",
        "the materialized backend is not built",
        "use --assignment-backend stateless, the default; the partition differs from a materialized one's",
    )?;
    refuse(
        "init-bound",
        &|value| value.as_f64() != Some(0.0),
        "a random start of θ is not built",
        "leave it at 0: θ starts at zero, so that training starts from the model as it is",
    )?;
    refuse("device", &|value| *value == "cuda", "this version computes on the CPU", "use --device cpu")?;
    refuse("comm", &|value| *value == "nccl", "this version's ranks talk over MPI", "use --comm mpi")?;
    let above_one = |value: &Value| value.as_i64() != Some(1);
    refuse(
        "dp-shard",
        &above_one,
        replicated_only,
        "leave it at 1; --dp-replicate may be the number of ranks",
    )?;
    refuse("pp", &above_one, replicated_only, "leave it at 1; --dp-replicate may be the number of ranks")
}

fn is_given(merged: &Layer, key: &str) -> bool {
    merged.get(key).is_some_and(|setting| !setting.value.is_null() && setting.origin != Source::Default)
}

/// Settings that need another one.
fn check_pairs(merged: &Layer) -> Result<(), ConfigError> {
    match merged.get("eval-steps") {
        Some(steps) if is_given(merged, "eval-steps") && !is_given(merged, "eval-data") => {
            Err(ConfigError::Conflict {
                message: format!("eval-steps {} ({}) has no data to measure", steps.typed, steps.origin),
                hint: "name held-out rows with --eval-data FILE".to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// What was asked for and has no effect, and deprecated names.
fn warn(merged: &Layer, warnings: &mut Vec<String>) {
    // A preset or file may well be written for more than one use; a flag or variable is meant for this run.
    let is_for_this_run = |setting: &&Setting| {
        !setting.value.is_null() && matches!(setting.origin, Source::Flag(_) | Source::Environment(_))
    };
    let mut without_effect = |key: &str, condition: bool, why: &str| {
        if let Some(setting) = merged.get(key).filter(is_for_this_run).filter(|_| condition) {
            warnings.push(format!("{key} {} ({}) has no effect: {why}", setting.typed, setting.origin));
        }
    };
    let is = |key: &str, value: &str| merged.get(key).is_some_and(|setting| setting.value == value);
    without_effect("dataloader-num-workers", true, "batches are made without worker processes");
    without_effect(
        "warmup-ratio",
        is("lr-scheduler-type", "constant"),
        "the constant schedule has no warm-up",
    );
    without_effect("epochs", is_given(merged, "max-steps"), "max-steps decides the number of steps");
    without_effect("eval-batch-size", !is_given(merged, "eval-data"), "there is no eval-data");
    without_effect("sample-tokens", !is_given(merged, "sample-prompt"), "there is no sample-prompt");
    without_effect("output-root-dir", is_given(merged, "output"), "output names the folder");
    if let Some(backend) =
        merged.get("assignment-backend").filter(|backend| backend.typed == "implicit_stateless_v1")
    {
        let origin = &backend.origin;
        warnings.push(format!(
            "assignment-backend implicit_stateless_v1 ({origin}) is a deprecated name of stateless"
        ));
    }
}

/// The typed struct. Every key's value was checked against the table, whose kinds are the fields' types.
fn typed(merged: &Layer) -> TrainConfig {
    let value_of = |key: &'static str| merged.get(key).map_or(Value::Null, |setting| setting.value.clone());
    let mut values: Map<String, Value> =
        keys().map(|key| (key.name.to_owned(), value_of(key.name))).collect();
    let model_name = merged.get("model").map(|setting| setting.typed.clone());
    values.insert("model-name".to_owned(), Value::from(model_name));
    serde_json::from_value(Value::Object(values)).expect("the table's kinds are the fields' types")
}

fn check_run_name(config: &TrainConfig) -> Result<(), ConfigError> {
    const MAX: usize = 255;
    let name = run_name(config);
    match config.output.as_deref() {
        None::<&Path> if name.len() > MAX => {
            Err(ConfigError::RunNameTooLong { len: name.len(), name, max: MAX })
        }
        _ => Ok(()),
    }
}
