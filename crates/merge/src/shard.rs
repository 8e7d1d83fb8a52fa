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
        let (prefix, length) = read_prefix(path).map_err(MergeError::read(path))?;
        let data_bytes = length.saturating_sub(prefix.len() as u64);
        let damaged = |reason: String| ModelError::DamagedFile { path: path.to_owned(), reason };
        let fields: Map<String, Value> =
            serde_json::from_slice(&prefix[8..]).map_err(|e| damaged(e.to_string()))?;
        let mut tensors = Vec::with_capacity(fields.len());
        for (name, value) in fields.iter().filter(|(name, _)| *name != METADATA) {
            let info: TensorInfo = serde_json::from_value(value.clone())
                .map_err(|e| damaged(format!("tensor '{name}': {e}")))?;
            let (start, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
            let numel = info.shape.iter().try_fold(1_u64, |n, dim| n.checked_mul(*dim as u64));
            let bits = numel.and_then(|numel| numel.checked_mul(info.dtype.bitsize() as u64));
            let (Some(numel), Some(bits)) = (numel, bits) else {
                return Err(damaged(format!("tensor '{name}' has an impossible shape")).into());
            };
            let bytes = bits.div_ceil(8);
            if start.checked_add(bytes) != Some(end) || end > data_bytes {
                return Err(damaged(format!("tensor '{name}' is not where its header says")).into());
            }
            let start = start + prefix.len() as u64;
            tensors.push(StoredTensor { name: name.clone(), dtype: info.dtype, numel, start, bytes });
        }
        // An empty tensor begins where the next one does.
        tensors.sort_by_key(|tensor| (tensor.start, tensor.bytes));
        Ok(Self { path: path.to_owned(), prefix, fields, tensors })
    }
}

/// Everything before the tensors, and the length of the file.
fn read_prefix(path: &Path) -> std::io::Result<(Vec<u8>, u64)> {
    let mut file = File::open(path)?;
    let file_length = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    // Read only as far as the file goes, whatever length it claims.
    let mut prefix = length.to_vec();
    let length = u64::from_le_bytes(length);
    file.take(length).read_to_end(&mut prefix)?;
    match prefix.len() as u64 - 8 == length {
        true => Ok((prefix, file_length)),
        false => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::Shard;

    /// A file that another process changes after it was checked.
    #[test]
    fn a_header_that_does_not_fit_is_an_error() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("model.safetensors");
        let check = |length: u64, header: &str, expect: Option<&str>| {
            std::fs::write(&path, [&length.to_le_bytes()[..], header.as_bytes(), &[0; 16]].concat()).unwrap();
            let error = Shard::read(&path).map(|shard| shard.tensors.len()).map_err(|e| e.to_string());
            match expect {
                None => assert_eq!(error, Ok(1)),
                Some(expect) => {
                    assert!(error.as_ref().is_err_and(|e| e.contains(expect)), "{header}: {error:?}")
                }
            }
        };
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let check_one = |header: String, expect| check(header.len() as u64, &header, expect);
        check_one(one("F32", "[4]", "[0,16]"), None);
        check_one(one("F4", "[4]", "[0,2]"), None);
        check_one(one("F32", "[4]", "[8,24]"), Some("is not where"));
        check_one(one("F32", "[4]", "[16,0]"), Some("is not where"));
        check_one(one("F32", "[3]", "[0,16]"), Some("is not where"));
        check_one(one("F32", "[4]", "[18446744073709551615,15]"), Some("is not where"));
        check_one(one("F32", "[4294967296,4294967296]", "[0,16]"), Some("impossible shape"));
        check_one(one("F32", "[4294967296,4294967295]", "[0,16]"), Some("impossible shape"));
        check_one(one("X", "[4]", "[0,16]"), Some("tensor 'a'"));
        check_one("[]".to_owned(), Some("not a sound safetensors file"));
        check(u64::MAX, "{}", Some("cannot read"));
        check(1 << 40, "{}", Some("cannot read"));
    }
}
