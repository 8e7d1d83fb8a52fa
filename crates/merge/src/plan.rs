//! A merge in which everything has been checked and nothing written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use adapter::{AdaptedSpace, Adapter};
use model::{CheckpointFiles, ModelConfig};

use crate::layout::{OutputShard, Work, adapted_tensors};
use crate::shard::Shard;
use crate::{Dtype, MergeError, names, output, text};

const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";

/// The model that an adapter is added to.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// Its tensors.
    pub files: &'a CheckpointFiles,
    /// Its configuration.
    pub config: &'a ModelConfig,
}

/// Where a merge goes, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder to make: not there yet, or empty, or with what an interrupted merge left.
    pub output: PathBuf,
    /// The adapter's folder, so that the output is not put into it.
    pub adapter_folder: PathBuf,
    /// Type of every weight of the output; none: as stored, tensor by tensor.
    pub dtype: Option<Dtype>,
    /// Threads that compute, read and write.
    pub threads: usize,
}

/// A merge that can begin.
#[derive(Debug)]
pub struct Plan<'a> {
    pub(crate) adapter: &'a Adapter,
    pub(crate) output: PathBuf,
    pub(crate) dtype: Option<Dtype>,
    pub(crate) threads: usize,
    pub(crate) shards: Vec<OutputShard>,
    /// Files other than those of tensors, `config.json` last.
    pub(crate) files: Vec<OutputFile>,
    pub(crate) kinds: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// A file of the output that holds no tensors.
#[derive(Debug)]
pub(crate) struct OutputFile {
    pub name: String,
    pub content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    Text(String),
    CopyOf { path: PathBuf, bytes: u64 },
}

/// Checks a merge. Reads headers and small files; writes nothing.
///
/// # Errors
/// A base that lacks a tensor of its architecture or of the adapter, has one of another shape or of a quantised
/// type; a θ that is not as long as d; an output that is or lies in an input, that holds something, or whose disk
/// is too small.
pub fn prepare<'a>(
    base: Base<'_>,
    adapter: &'a Adapter,
    space: &AdaptedSpace,
    options: &Options,
) -> Result<Plan<'a>, MergeError> {
    let output = output::resolve(&options.output)?;
    output::check_apart(&output, "base", base.files.folder())?;
    output::check_apart(&output, "adapter", &options.adapter_folder)?;
    base.files.check(base.config)?;
    check_adapter(base.files, adapter, space)?;
    let (adapted, kinds) = adapted_tensors(space);
    let mut shards = Vec::new();
    for path in shard_paths(base.files) {
        shards.push(OutputShard::new(Shard::read(&path)?, options.dtype, &adapted)?);
    }
    let files = other_files(base.files.folder(), &shards, options.dtype)?;
    let named = adapter.config.base_model_name_or_path.as_deref();
    let warnings = names::mismatch(named, base.files.folder()).into_iter().collect();
    let (dtype, threads) = (options.dtype, options.threads.clamp(1, MOST_THREADS));
    let plan = Plan { adapter, output, dtype, threads, shards, files, kinds, warnings };
    plan.check_output()?;
    Ok(plan)
}

/// Threads beyond these would only wait for the disk, and each has buffers of its own.
const MOST_THREADS: usize = 32;

impl Plan<'_> {
    /// The folder that will be made, with every link resolved.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// Bytes that will be written.
    pub fn bytes(&self) -> u64 {
        let other = self.files.iter().map(OutputFile::bytes);
        self.shards.iter().map(|shard| shard.bytes).chain(other).sum()
    }

    /// What the user should know before the merge begins.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Names of all files, in the order in which they are written; the one that makes a folder loadable is last.
    pub(crate) fn names(&self) -> Vec<&str> {
        let other = self.files.iter().map(|file| file.name.as_str());
        self.shards.iter().map(|shard| shard.name.as_str()).chain(other).collect()
    }

    /// How many tensors are merged, converted and copied.
    pub(crate) fn tensor_counts(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        for part in self.shards.iter().flat_map(|shard| &shard.parts) {
            counts[match part.work {
                Work::Merge { .. } => 0,
                Work::Convert { .. } => 1,
                Work::Copy => 2,
            }] += 1;
        }
        counts
    }

    fn check_output(&self) -> Result<(), MergeError> {
        /// Files fill whole blocks, and folders take some.
        const BLOCK: u64 = 4096;
        output::check_free(&self.output, &self.names())?;
        let count = (self.shards.len() + self.files.len()) as u64;
        let needed = self.bytes() + (count + 4) * BLOCK;
        let free = output::free_bytes(&self.output)?;
        match needed > free {
            true => Err(MergeError::NoSpace { output: self.output.clone(), needed, free }),
            false => Ok(()),
        }
    }
}

impl OutputFile {
    pub(crate) fn bytes(&self) -> u64 {
        match &self.content {
            Content::Text(text) => text.len() as u64,
            Content::CopyOf { bytes, .. } => *bytes,
        }
    }
}

fn check_adapter(files: &CheckpointFiles, adapter: &Adapter, space: &AdaptedSpace) -> Result<(), MergeError> {
    let (theta, d) = (adapter.theta.len(), adapter.config.d);
    if theta as u64 != d {
        return Err(MergeError::WrongD { theta, d, scales: theta });
    }
    for module in space.modules() {
        let weight = (format!("{}.weight", module.name), &module.shape[..]);
        let bias = module.bias.then(|| (format!("{}.bias", module.name), &module.shape[..1]));
        for (name, shape) in std::iter::once(weight).chain(bias) {
            check_tensor(files, name, shape)?;
        }
    }
    Ok(())
}

/// An adapted tensor must be in the base, as large as the adapter's partition has it, and of a type one can add to.
fn check_tensor(files: &CheckpointFiles, tensor: String, shape: &[u64]) -> Result<(), MergeError> {
    let problem = match files.get(&tensor) {
        None => "is missing".to_owned(),
        Some(entry) if !entry.shape.iter().map(|dim| *dim as u64).eq(shape.iter().copied()) => {
            format!("has shape {:?} where the adapter has {shape:?}", entry.shape)
        }
        Some(entry) if Dtype::of_stored(entry.dtype).is_none() => {
            format!("is stored as {:?}, to which nothing can be added", entry.dtype)
        }
        Some(_) => return Ok(()),
    };
    Err(MergeError::Unfit { folder: files.folder().to_owned(), tensor, problem })
}

/// The files that hold tensors, by name.
fn shard_paths(files: &CheckpointFiles) -> BTreeSet<PathBuf> {
    files.entries().map(|(_, entry)| files.path(entry).to_owned()).collect()
}

/// Everything but the tensors: the index of a sharded base, what belongs to the tokenizer and to generation, licences
/// (whose terms go with the weights), and the configuration. A model card describes another model: it stays.
fn other_files(
    folder: &Path,
    shards: &[OutputShard],
    dtype: Option<Dtype>,
) -> Result<Vec<OutputFile>, MergeError> {
    let mut files = Vec::new();
    if !folder.join("model.safetensors").exists() {
        let mut index = read_text(&folder.join(INDEX))?;
        if dtype.is_some() {
            let total: u64 = shards.iter().map(OutputShard::tensor_bytes).sum();
            set(&mut index, &folder.join(INDEX), &["metadata", "total_size"], &total.to_string())?;
        }
        files.push(OutputFile { name: INDEX.to_owned(), content: Content::Text(index) });
    }
    let mut carried = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(MergeError::read(folder))? {
        let entry = entry.map_err(MergeError::read(folder))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Through links: the Hugging Face cache has nothing else.
        let found = std::fs::metadata(entry.path()).map_err(MergeError::read(entry.path()));
        if is_carried(&name) {
            let found = found?;
            if found.is_file() {
                let content = Content::CopyOf { path: entry.path(), bytes: found.len() };
                carried.push(OutputFile { name, content });
            }
        }
    }
    carried.sort_by(|a, b| a.name.cmp(&b.name));
    files.extend(carried);
    let mut config = read_text(&folder.join(CONFIG))?;
    if let Some(dtype) = dtype {
        for key in ["dtype", "torch_dtype"] {
            set(&mut config, &folder.join(CONFIG), &[key], &format!("\"{dtype}\""))?;
        }
    }
    files.push(OutputFile { name: CONFIG.to_owned(), content: Content::Text(config) });
    Ok(files)
}

fn is_carried(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "added_tokens.json",
        "generation_config.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "spiece.model",
        "tekken.json",
        "vocab.json",
        "vocab.txt",
    ];
    const BEGINNINGS: [&str; 5] = ["tokenizer", "chat_template.", "LICENSE", "NOTICE", "USE_POLICY"];
    NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

fn read_text(path: &Path) -> Result<String, MergeError> {
    std::fs::read_to_string(path).map_err(MergeError::read(path))
}

fn set(text: &mut String, path: &Path, key: &[&str], value: &str) -> Result<(), MergeError> {
    text::replace(text, key, value)
        .map_err(|e| MergeError::InvalidJson { path: path.to_owned(), reason: e.to_string() })
}
