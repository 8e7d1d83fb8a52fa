//! Layers → one checked configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::keys::{Role, keys};
use crate::layer::{self, Layer, Setting, Source};
use crate::value::{ALL_LINEAR, REGEX};
use crate::{ConfigError, Dtype, Task, TrainArgs, TrainConfig, presets, run_name};

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
}

/// Resolves the settings of a run of `task`. `environment` is the process's variables, of which only those that start with
/// `GPART_` are looked at; nothing else of the environment is read. `preset_folders` are searched in order.
///
/// Relative `model`, `data` and `eval-data` of a file become relative to the working folder; other relative
/// paths are relative to it wherever they are written.
///
/// # Errors
/// The first setting that cannot be used, with its value and origin: see [`ConfigError`].
pub fn resolve(
    task: Task,
    args: &TrainArgs,
    environment: impl Iterator<Item = (String, String)>,
    preset_folders: &[PathBuf],
) -> Result<Resolved, ConfigError> {
    let mut warnings = Vec::new();
    let environment = layer::from_environment(environment, &mut warnings)?;
    let flags = layer::from_flags(args)?;
    let named_by = |key| flags.get(key).or(environment.get(key)).cloned();

    let mut layers = vec![layer::defaults(), layer::of_task(task)];
    if let Some(preset) = named_by("preset") {
        for name in preset.typed.split(',') {
            let path = presets::find(name, &preset.origin, preset_folders)?;
            let origin = |line| Source::Preset { name: name.to_owned(), path: path.clone(), line };
            layers.push(layer::from_file(&path, origin)?);
        }
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
    check_required(task, &merged)?;
    settle_batch_size(&mut merged)?;
    settle_backend(&mut merged)?;
    check_pairs(&merged)?;
    refuse_what_is_not_built(&merged)?;
    warn(&merged, &mut warnings);

    let config = typed(task, &merged);
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
    Ok(())
}

fn is_given(merged: &Layer, key: &str) -> bool {
    let built_in = |origin: &Source| matches!(origin, Source::Default | Source::Command(_));
    merged.get(key).is_some_and(|setting| !setting.value.is_null() && !built_in(&setting.origin))
}

/// Settings that no default can stand in for.
fn check_required(task: Task, merged: &Layer) -> Result<(), ConfigError> {
    let missing = keys().find(|key| key.role == Role::Required && !merged.contains_key(key.name));
    missing.map_or(Ok(()), |key| {
        Err(ConfigError::Missing { task, key: key.name, expected: key.kind.expected() })
    })
}

/// Groups by sign and size exist in the materialized backend alone, so asking for the one asks for the other.
fn settle_backend(merged: &mut Layer) -> Result<(), ConfigError> {
    let by_size = merged.get("grouping-strategy").filter(|s| s.value == "signed_magnitude").cloned();
    let (Some(strategy), Some(backend)) = (by_size, merged.get_mut("assignment-backend")) else {
        return Ok(());
    };
    if backend.value == "materialized" {
        return Ok(());
    }
    if backend.origin != Source::Default {
        return Err(ConfigError::Conflict {
            message: format!(
                "grouping-strategy signed_magnitude ({}) and assignment-backend {} ({}) cannot be combined",
                strategy.origin, backend.typed, backend.origin
            ),
            hint: "groups by sign and size need --assignment-backend materialized".to_owned(),
        });
    }
    let typed = "materialized".to_owned();
    let origin = Source::Derived("grouping-strategy".to_owned());
    *backend = Setting { value: Value::from(typed.as_str()), typed, origin };
    Ok(())
}

/// Settings that need another one, or cannot stand beside it.
fn check_pairs(merged: &Layer) -> Result<(), ConfigError> {
    let conflict =
        |message: String, hint: &str| Err(ConfigError::Conflict { message, hint: hint.to_owned() });
    let held_out =
        ["eval-data", "validation-split"].map(|key| merged.get(key).filter(|_| is_given(merged, key)));
    if let [Some(data), Some(split)] = held_out {
        let message = format!(
            "eval-data {} ({}) and validation-split {} ({}) both say what is held out",
            data.typed, data.origin, split.typed, split.origin
        );
        return conflict(message, "give one of the two");
    }
    if let (Some(steps), [None, None]) = (merged.get("eval-steps"), held_out)
        && is_given(merged, "eval-steps")
    {
        let message = format!("eval-steps {} ({}) has no data to measure", steps.typed, steps.origin);
        return conflict(message, "name held-out rows with --eval-data FILE or --validation-split X");
    }
    let sorted = merged.get("grouping-strategy").filter(|setting| setting.value == "signed_magnitude");
    for key in ["dp-shard", "pp"] {
        if let (Some(strategy), Some(degree)) = (sorted, merged.get(key))
            && degree.value.as_i64().is_some_and(|degree| degree != 1)
        {
            let message = format!(
                "grouping-strategy signed_magnitude ({}) needs every weight on every rank, but {key} is {} ({})",
                strategy.origin, degree.typed, degree.origin
            );
            return conflict(message, "give --dp-shard 1 --pp 1, or use --grouping-strategy random");
        }
    }
    if let (Some(layers), Some(targets)) = (merged.get("layers-to-transform"), merged.get("target-modules")) {
        let text = targets.typed.as_str();
        if is_given(merged, "layers-to-transform") && (text.starts_with(REGEX) || text == ALL_LINEAR) {
            let message = format!(
                "layers-to-transform {} ({}) and target-modules {text} ({}) cannot be combined",
                layers.typed, layers.origin, targets.origin
            );
            return conflict(message, "name the modules, or put the blocks into the expression");
        }
    }
    Ok(())
}

/// What was asked for and has no effect, and deprecated names.
fn warn(merged: &Layer, warnings: &mut Vec<String>) {
    // A preset or file may well be written for more than one use; a flag or variable is meant for this run.
    let is_for_this_run = |setting: &&Setting| {
        let given = matches!(setting.origin, Source::Flag(_) | Source::Override(_) | Source::Environment(_));
        !setting.value.is_null() && given
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
    let held_out = is_given(merged, "eval-data") || is_given(merged, "validation-split");
    without_effect("eval-batch-size", !held_out, "there is no held-out data");
    let own_template = merged.get("template").is_some_and(|t| !t.value.is_null() && t.value != "official");
    without_effect("use-system-prompt", own_template, "it belongs to the official template");
    let is_path =
        merged.get("model").and_then(|m| m.value.as_str()).is_some_and(|m| layer::hub_id(m).is_none());
    without_effect("revision", is_path, "the model is a folder");
    let numbered = is_given(merged, "layers-to-transform") || is("partition-scope", "transformer_block");
    without_effect("layers-pattern", !numbered, "nothing asks for the blocks' numbers");
    without_effect(
        "proj-seed",
        is("grouping-strategy", "signed_magnitude"),
        "signs and sizes make the groups",
    );
    let start = is_given(merged, "init-adapter");
    without_effect("init-bound", start, "θ starts from init-adapter");
    without_effect("sample-tokens", !is_given(merged, "sample-prompt"), "there is no sample-prompt");
    without_effect("output-root-dir", is_given(merged, "output"), "output names the folder");
    if let Some(Setting { value, typed, origin }) = merged.get("assignment-backend")
        && ["implicit_stateless_v1", "legacy_streaming"].contains(&typed.as_str())
    {
        let name = value.as_str().unwrap_or_default();
        warnings.push(format!("assignment-backend {typed} ({origin}) is a deprecated name of {name}"));
    }
}

/// The typed struct. Every key's value was checked against the table, whose kinds are the fields' types.
fn typed(task: Task, merged: &Layer) -> TrainConfig {
    let value_of = |key: &'static str| merged.get(key).map_or(Value::Null, |setting| setting.value.clone());
    let mut values: Map<String, Value> =
        keys().map(|key| (key.name.to_owned(), value_of(key.name))).collect();
    let model_name = merged.get("model").map(|setting| setting.typed.clone());
    values.insert("model-name".to_owned(), Value::from(model_name));
    values.insert("task".to_owned(), Value::from(task.to_string()));
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
