//! `inspect partition | adapter | checkpoint | model`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use miette::Diagnostic;
use partition::{Seed, Stateless};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::exit::Exit;
use crate::{fail, format};

/// What to look into.
#[derive(Subcommand)]
pub enum Inspect {
    /// Group ids, sizes and scales of a run of weights, as JSON
    Partition(PartitionArgs),
    /// Configuration and statistics of an adapter folder
    Adapter(PathArgs),
    /// Step, settings and soundness of a checkpoint file, or of those in a run's folder
    Checkpoint(PathArgs),
    /// Shape, tensors and adaptable modules of a model folder
    Model(PathArgs),
}

/// A partition and a run of weights.
#[derive(Args)]
pub struct PartitionArgs {
    /// How ids are drawn
    #[arg(long, value_enum, default_value = "stateless")]
    backend: Backend,
    /// Seed; taken modulo 2^64
    #[arg(long, allow_negative_numbers = true, default_value = "42")]
    seed: i128,
    /// Number of groups
    #[arg(long)]
    d: u64,
    /// Global index of the first weight
    #[arg(long, default_value = "0")]
    start_offset: u64,
    /// Number of weights
    #[arg(long)]
    numel: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    Stateless,
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
        Inspect::Partition(args) => partition(args).map_err(boxed),
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

/// Ids at both ends, and SHA-256 over all ids (int64), group sizes (int64) and scales (f32), little-endian.
fn partition(args: &PartitionArgs) -> Result<Value, partition::PartitionError> {
    /// Ids shown at each end.
    const ENDS: u64 = 16;
    const CHUNK: usize = 1 << 16;
    /// Sizes of more groups than can be trained would only fill the memory.
    const LARGEST_COUNTED: u64 = i32::MAX as u64;
    let Backend::Stateless = args.backend;
    let partition = Stateless::new(Seed::from(args.seed), args.d)?;
    let end = args.start_offset.checked_add(args.numel).filter(|end| *end <= partition::MAX_INDEX);
    let end = end.ok_or(partition::PartitionError::Range { start: args.start_offset, len: args.numel })?;
    let mut buffer = vec![0u64; CHUNK];
    let mut ids = Sha256::new();
    let mut done = 0;
    while done < args.numel {
        let chunk = &mut buffer[..CHUNK.min((args.numel - done) as usize)];
        partition.ids_u64(args.start_offset.saturating_add(done), chunk)?;
        chunk.iter().for_each(|id| ids.update(id.to_le_bytes()));
        done += chunk.len() as u64;
    }
    let ends = ENDS.min(args.numel);
    let (mut first, mut last) = (vec![0; ends as usize], vec![0; ends as usize]);
    partition.ids_u64(args.start_offset, &mut first)?;
    partition.ids_u64(args.start_offset + (args.numel - ends), &mut last)?;
    let mut facts = json!({
        "seed": shown_seed(args.seed),
        "d": args.d,
        "start_offset": args.start_offset,
        "numel": args.numel,
        "first": first,
        "last": last,
        "ids_sha256": hex(&ids.finalize()),
    });
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if args.d > LARGEST_COUNTED {
        return Ok(facts);
    }
    let counts = partition::count_parallel(&partition, args.start_offset..end, threads)?;
    let scales = partition::scales(&counts, true);
    let mut hasher = Sha256::new();
    counts.iter().for_each(|count| hasher.update(count.to_le_bytes()));
    facts["counts_sha256"] = hex(&hasher.finalize()).into();
    let mut hasher = Sha256::new();
    scales.iter().for_each(|scale| hasher.update(scale.to_le_bytes()));
    facts["scales_sha256"] = hex(&hasher.finalize()).into();
    Ok(facts)
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
    let specs = model::tensor_specs(&config);
    let parameters: i64 = specs.map(|(_, shape)| shape.iter().product::<i64>()).sum();
    let modules = trainer::linear_modules(&config);
    let attention = modules.iter().filter(|m| m.name.contains("self_attn"));
    let adapted: u64 = attention.map(|m| m.shape[0] * m.shape[1]).sum();
    let dtypes: std::collections::BTreeSet<String> =
        files.entries().map(|(_, entry)| format!("{:?}", entry.dtype)).collect();
    Ok(json!({
        "architecture": "LlamaForCausalLM",
        "parameters": parameters,
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
