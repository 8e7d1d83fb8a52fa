//! The header of one safetensors file of the base.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use model::ModelError;
use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};

use crate::MergeError;

/// A tensor as it lies in a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredTensor {
    pub name: String,
    pub dtype: safetensors::Dtype,
    pub numel: u64,
    /// Position of its first byte in the file.
    pub start: u64,
    pub bytes: u64,
}

/// What stands before the tensors of a file, and where they are.
#[derive(Debug)]
pub(crate) struct Shard {
    pub path: PathBuf,
    /// The file's first bytes, up to the first tensor: length of the header, and the header.
    pub prefix: Vec<u8>,
    /// The header as JSON, in the file's order.
    pub fields: Map<String, Value>,
    /// By position.
    pub tensors: Vec<StoredTensor>,
}

/// The key of a header that is no tensor.
pub(crate) const METADATA: &str = "__metadata__";

impl Shard {
    /// Reads the header of a file that `model::CheckpointFiles` has opened, and so checked.
    pub(crate) fn read(path: &Path) -> Result<Self, MergeError> {
        let prefix = read_prefix(path).map_err(MergeError::read(path))?;
        let damaged =
            |reason: String| ModelError::DamagedFile { path: path.to_owned(), reason };
        let fields: Map<String, Value> =
            serde_json::from_slice(&prefix[8..]).map_err(|e| damaged(e.to_string()))?;
        let mut tensors = Vec::with_capacity(fields.len());
        for (name, value) in fields.iter().filter(|(name, _)| *name != METADATA) {
            let info: TensorInfo =
                serde_json::from_value(value.clone()).map_err(|e| damaged(format!("tensor '{name}': {e}")))?;
            let (start, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
            let numel = info.shape.iter().try_fold(1_u64, |n, dim| n.checked_mul(*dim as u64));
            let (Some(bytes), Some(numel)) = (end.checked_sub(start), numel) else {
                return Err(damaged(format!("tensor '{name}' has impossible bounds")).into());
            };
            let start = start.saturating_add(prefix.len() as u64);
            tensors.push(StoredTensor { name: name.clone(), dtype: info.dtype, numel, start, bytes });
        }
        tensors.sort_by_key(|tensor| tensor.start);
        Ok(Self { path: path.to_owned(), prefix, fields, tensors })
    }
}

fn read_prefix(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    // Read only as far as the file goes, whatever length it claims.
    let mut prefix = length.to_vec();
    let length = u64::from_le_bytes(length);
    file.take(length).read_to_end(&mut prefix)?;
    match prefix.len() as u64 - 8 == length {
        true => Ok(prefix),
        false => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}
