//! The safetensors files of a model folder, memory-mapped, with every header checked before a byte is used.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::ModelError;

/// All tensors of a checkpoint, by name, still on disk.
#[derive(Debug)]
pub struct CheckpointFiles {
    folder: PathBuf,
    files: Vec<(PathBuf, Mmap)>,
    entries: BTreeMap<String, TensorEntry>,
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
pub struct TensorEntry {
    /// Stored element type.
    pub dtype: Dtype,
    /// Stored shape.
    pub shape: Vec<usize>,
    file: usize,
    range: std::ops::Range<usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl CheckpointFiles {
    /// Maps `model.safetensors`, or every shard that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// No such files, or a header that does not describe its file: longer than the file, overlapping or
    /// out-of-range offsets, sizes that do not match shape × dtype.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        let mut this = Self { folder: folder.to_owned(), files: Vec::new(), entries: BTreeMap::new() };
        if single.exists() {
            this.add_file(&single)?;
        } else if index.exists() {
            this.add_indexed(&index)?;
        } else {
            return Err(no_weights(folder));
        }
        Ok(this)
    }

    /// Names and places of all tensors, sorted by name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &TensorEntry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// Place of tensor `name`, if the checkpoint has it.
    pub fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.entries.get(name)
    }

    /// The stored bytes of an entry, little-endian, row-major.
    pub fn bytes(&self, entry: &TensorEntry) -> &[u8] {
        &self.files[entry.file].1[entry.range.clone()]
    }

    /// Lets the system take back the memory that holds what was read of a tensor; it is read again where it is needed.
    pub fn release(&self, name: &str) {
        let length = self.get(name).map_or(0, |entry| entry.range.len());
        self.release_part(name, 0..length);
    }

    /// The same for some of a tensor's stored bytes.
    pub fn release_part(&self, name: &str, part: std::ops::Range<usize>) {
        let Some(entry) = self.get(name) else { return };
        let map = &self.files[entry.file].1;
        // SAFETY: the mapping is shared with the file and never written: a dropped page is read from the file again.
        let _ = unsafe {
            map.unchecked_advise_range(UncheckedAdvice::DontNeed, entry.range.start + part.start, part.len())
        };
    }

    /// The file that holds an entry.
    pub fn path(&self, entry: &TensorEntry) -> &Path {
        &self.files[entry.file].0
    }

    /// Checks name, shape and dtype of every tensor that a model of this configuration needs, without reading them.
    ///
    /// # Errors
    /// The first tensor that is missing or not as `config` implies.
    pub fn check(&self, config: &crate::ModelConfig) -> Result<(), ModelError> {
        for (name, shape) in crate::tensor_specs(config) {
            crate::weights::check_tensor(self, &name, &shape)?;
        }
        Ok(())
    }

    /// The model folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> u64 {
        self.entries.values().map(|e| e.range.len() as u64).sum()
    }

    fn add_indexed(&mut self, index: &Path) -> Result<(), ModelError> {
        let invalid = |reason: String| ModelError::InvalidJson {
            what: "safetensors index",
            path: index.to_owned(),
            reason,
        };
        let text = std::fs::read_to_string(index).map_err(|source| ModelError::Unreadable {
            what: "the safetensors index",
            path: index.to_owned(),
            source,
        })?;
        let parsed: Index = serde_json::from_str(&text).map_err(|e| invalid(e.to_string()))?;
        let mut shards: Vec<&String> = parsed.weight_map.values().collect();
        shards.sort();
        shards.dedup();
        for shard in shards {
            // A shard is a plain file name; anything else would read outside the model folder.
            if Path::new(shard).file_name() != Some(std::ffi::OsStr::new(shard)) {
                return Err(invalid(format!("shard name '{shard}' is not a plain file name")));
            }
            self.add_file(&self.folder.join(shard))?;
        }
        if let Some(name) = parsed.weight_map.keys().find(|name| !self.entries.contains_key(*name)) {
            return Err(invalid(format!("tensor '{name}' is not in the shard that the index names")));
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path) -> Result<(), ModelError> {
        let unreadable =
            |source| ModelError::Unreadable { what: "model weights", path: path.to_owned(), source };
        let damaged = |reason: String| ModelError::DamagedFile { path: path.to_owned(), reason };
        let file = File::open(path).map_err(unreadable)?;
        // SAFETY: the mapping is read-only and private to this process; a model file that another process
        // truncates while we train is outside what a reader can defend against.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|e| damaged(describe(&e, map.len())))?;
        // The header is preceded by its length, 8 bytes; data offsets count from its end.
        let data_start = header + 8;
        let index = self.files.len();
        for (name, info) in metadata.tensors() {
            let range = data_start + info.data_offsets.0..data_start + info.data_offsets.1;
            if range.end > map.len() {
                return Err(damaged(format!("tensor '{name}' ends past the end of the file")));
            }
            let entry = TensorEntry { dtype: info.dtype, shape: info.shape.clone(), file: index, range };
            if self.entries.insert(name.clone(), entry).is_some() {
                return Err(damaged(format!("tensor '{name}' is also in another shard")));
            }
        }
        self.files.push((path.to_owned(), map));
        Ok(())
    }
}

fn describe(error: &safetensors::SafeTensorError, length: usize) -> String {
    format!("{error} (file of {length} bytes)")
}

fn no_weights(folder: &Path) -> ModelError {
    if !folder.is_dir() {
        return ModelError::Unreadable {
            what: "the model folder",
            path: folder.to_owned(),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        };
    }
    let pickled = folder.join("pytorch_model.bin").exists();
    let hint = if pickled {
        "only safetensors are read; convert pytorch_model.bin with transformers' save_pretrained"
    } else {
        "is this the right folder? a model folder holds config.json, tokenizer.json and *.safetensors"
    };
    ModelError::NoWeights { folder: folder.to_owned(), hint: hint.to_owned() }
}
