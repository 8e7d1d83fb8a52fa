//! `inspect partition | adapter | checkpoint | model`.

mod partition;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use miette::Diagnostic;
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::{fail, format};

/// What to look into.
#[derive(Subcommand)]
pub enum Inspect {
    /// Group ids, sizes and scales of a run of weights, as JSON
    Partition(partition::PartitionArgs),
    /// Configuration and statistics of an adapter folder
    Adapter(PathArgs),
    /// Step, settings and soundness of a checkpoint file, or of those in a run's folder
    Checkpoint(PathArgs),
    /// Shape, tensors and adaptable modules of a model folder
    Model(PathArgs),
}

/// A path, and how to print.
#[derive(Args)]
pub struct PathArgs {
    /// Folder; of a checkpoint, its file or the run's folder
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs an `inspect` command.
pub fn inspect(what: Inspect) -> Exit {
    let result = match &what {
        Inspect::Partition(args) => partition::partition(args),
        Inspect::Adapter(args) => adapter(&args.path).map_err(boxed),
        Inspect::Checkpoint(args) => checkpoint(&args.path, args.json).map_err(boxed),
        Inspect::Model(args) => model(&args.path).map_err(boxed),
    };
    let as_json = match &what {
        Inspect::Partition(_) => true,
        Inspect::Adapter(args) | Inspect::Checkpoint(args) | Inspect::Model(args) => args.json,
    };
    match result {
        Ok(facts) => show(&facts, as_json),
        Err(error) => return fail(error.as_ref()),
    }
    Exit::Done
}

fn boxed<E: Diagnostic + 'static>(error: E) -> Box<dyn Diagnostic> {
    Box::new(error)
}

/// A seed as a JSON number where it fits, else as text.
fn shown_seed(seed: i128) -> Value {
    serde_json::Number::from_i128(seed).map_or_else(|| seed.to_string().into(), Value::from)
}

fn adapter(folder: &Path) -> Result<Value, adapter::AdapterError> {
    let adapter = adapter::Adapter::read(folder)?;
    let theta = &adapter.theta;
    // A JSON value holds no integer beyond 64 bits, and a seed may be one; it is then shown as text.
    let seed = adapter.config.proj_seed;
    let narrow = adapter::AdapterConfig { proj_seed: 0, ..adapter.config.clone() };
    let mut facts = serde_json::to_value(&narrow).expect("plain settings are JSON");
    facts["proj_seed"] = shown_seed(seed);
    facts["theta_norm"] = trainer::l2_norm(theta).into();
    facts["theta_min"] = theta.iter().copied().fold(f32::INFINITY, f32::min).into();
    facts["theta_max"] = theta.iter().copied().fold(f32::NEG_INFINITY, f32::max).into();
    facts["theta_zeros"] = theta.iter().filter(|x| **x == 0.0).count().into();
    facts["theta_blake3"] = trainer::theta_hash(theta).into();
    Ok(facts)
}

fn checkpoint(path: &Path, as_json: bool) -> Result<Value, checkpoint::CheckpointError> {
    if !path.is_dir() {
        let state = checkpoint::State::read(path)?;
        return Ok(json!({
            "step": state.step,
            "d": state.theta.len(),
            "sound": true,
            "theta_norm": trainer::l2_norm(&state.theta),
            "theta_blake3": trainer::theta_hash(&state.theta),
            "meta": state.meta,
        }));
    }
    let store = checkpoint::Store::of_run(path);
    let files = store.list()?;
    if files.is_empty() {
        let source = std::io::Error::new(std::io::ErrorKind::NotFound, "no checkpoint in this folder");
        return Err(checkpoint::CheckpointError::Read { path: store.folder().to_owned(), source });
    }
    let mut facts = serde_json::Map::new();
    let mut damaged = None;
    for (step, file) in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let verdict = match checkpoint::State::read(&file) {
            Ok(state) => json!({"sound": true, "step": state.step, "d": state.theta.len()}),
            Err(error) => {
                let verdict = json!({"sound": false, "step": step, "error": error.to_string()});
                damaged = Some(error);
                verdict
            }
        };
        facts.insert(name, verdict);
    }
    // Damage is an error, after everything was shown.
    let Some(error) = damaged else { return Ok(facts.into()) };
    show(&facts.into(), as_json);
    Err(error)
}

fn model(folder: &Path) -> Result<Value, model::ModelError> {
    let config = model::ModelConfig::from_folder(folder)?;
    let files = model::CheckpointFiles::open(folder)?;
    files.check(&config)?;
    let modules = trainer::linear_modules(&config);
    let attention = modules.iter().filter(|m| m.name.contains("self_attn"));
    let adapted: u64 = attention.map(|m| m.shape[0] * m.shape[1]).sum();
    let dtypes: std::collections::BTreeSet<String> =
        files.entries().map(|(_, entry)| format!("{:?}", entry.dtype)).collect();
    Ok(json!({
        "architecture": config.family.architecture(),
        "parameters": config.parameters().total(),
        "tensors": files.entries().count(),
        "bytes": files.total_bytes(),
        "dtypes": dtypes,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "layers": config.num_layers,
        "attention_heads": config.num_heads,
        "key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rope_theta": config.rope_theta,
        "rope_scaling": match config.rope_scaling {
            model::RopeScaling::None => Value::Null,
            other => format!("{other:?}").into(),
        },
        "sliding_window": config.sliding_window.as_ref().map(|window| window.tokens),
        "tied_embeddings": config.tie_word_embeddings,
        "linear_modules": modules.len(),
        "weights_of_q_k_v_o": adapted,
    }))
}

fn show(facts: &Value, as_json: bool) {
    match as_json {
        true => format::print(&serde_json::to_string_pretty(facts).unwrap_or_default()),
        false => table(facts),
    }
}

/// Prints facts as two columns.
fn table(facts: &Value) {
    let Some(map) = facts.as_object() else { return };
    let width = map.keys().map(|key| key.chars().count()).max().unwrap_or(0);
    for (key, value) in map {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.as_u64().map_or_else(|| number.to_string(), format::grouped),
            Value::Object(map) if map.values().all(|v| !v.is_object()) => {
                map.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ")
            }
            Value::Object(_) => serde_json::to_string_pretty(value).unwrap_or_default(),
            other => other.to_string(),
        };
        format::print(&format!("{key:width$}  {text}"));
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
