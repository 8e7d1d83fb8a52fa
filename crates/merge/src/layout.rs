//! Where every tensor of an output file goes, and what happens to it on the way.

use std::collections::HashMap;
use std::path::PathBuf;

use adapter::AdaptedSpace;
use serde_json::{Value, json};

use crate::shard::{METADATA, Shard, StoredTensor};
use crate::{Dtype, MergeError};

/// What happens to a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Work {
    /// Its bytes are copied.
    Copy,
    /// Its numbers are rounded or widened.
    Convert { from: Dtype, to: Dtype },
    /// ΔW is added.
    Merge { from: Dtype, to: Dtype, adapted: Adapted },
}

/// The adapted part of the model that a tensor is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Adapted {
    /// Global index of its first number.
    pub first_index: u64,
    /// Its row in the report.
    pub kind: usize,
}

/// A tensor on its way from a file to a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    pub tensor: String,
    pub work: Work,
    /// Numbers; bytes where they are only copied.
    pub units: u64,
    /// Position of its first byte in the base's file.
    pub source: u64,
    /// Position of its first byte in the output.
    pub target: u64,
}

impl Part {
    /// Bytes of a unit, as stored and as written.
    pub(crate) fn unit_sizes(&self) -> (u64, u64) {
        match self.work {
            Work::Copy => (1, 1),
            Work::Convert { from, to } | Work::Merge { from, to, .. } => (from.size(), to.size()),
        }
    }
}

/// A file of tensors to be written.
#[derive(Debug)]
pub(crate) struct OutputShard {
    pub name: String,
    pub source: PathBuf,
    /// All that stands before the first tensor.
    pub prefix: Vec<u8>,
    pub parts: Vec<Part>,
    /// Length of the file.
    pub bytes: u64,
}

/// The adapted tensors by name.
pub(crate) type AdaptedTensors = HashMap<String, Adapted>;

/// The adapted tensors of a space, and the kinds of modules, in order of appearance.
pub(crate) fn adapted_tensors(space: &AdaptedSpace) -> (AdaptedTensors, Vec<String>) {
    let (mut tensors, mut kinds) = (HashMap::new(), Vec::<String>::new());
    for module in space.modules() {
        let name = module.name.rsplit('.').next().unwrap_or(&module.name);
        let kind = kinds.iter().position(|kind| kind == name).unwrap_or_else(|| {
            kinds.push(name.to_owned());
            kinds.len() - 1
        });
        let adapted = Adapted { first_index: module.offset, kind };
        tensors.insert(format!("{}.weight", module.name), adapted);
        if module.bias {
            let first_index = module.offset + module.weight_numel();
            tensors.insert(format!("{}.bias", module.name), Adapted { first_index, kind });
        }
    }
    (tensors, kinds)
}

impl OutputShard {
    /// The output of a file of the base: the same tensors in the same order, in `dtype` if one is given.
    pub(crate) fn new(
        mut shard: Shard,
        dtype: Option<Dtype>,
        adapted: &AdaptedTensors,
    ) -> Result<Self, MergeError> {
        let mut parts = Vec::with_capacity(shard.tensors.len());
        let mut end = 0;
        for tensor in &shard.tensors {
            let work = work(tensor, dtype, adapted);
            let units = if work == Work::Copy { tensor.bytes } else { tensor.numel };
            let part = Part { tensor: tensor.name.clone(), work, units, source: tensor.start, target: end };
            end += units * part.unit_sizes().1;
            parts.push(part);
        }
        // A header of which nothing changes is kept byte for byte.
        if parts.iter().any(|part| part.unit_sizes().0 != part.unit_sizes().1 || converts(part)) {
            shard.prefix = prefix(&mut shard, &parts);
        }
        let start = shard.prefix.len() as u64;
        parts.iter_mut().for_each(|part| part.target += start);
        let name = shard.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, source: shard.path, prefix: shard.prefix, parts, bytes: start + end })
    }

    /// Bytes of the tensors alone.
    pub(crate) fn tensor_bytes(&self) -> u64 {
        self.bytes - self.prefix.len() as u64
    }
}

fn work(tensor: &StoredTensor, dtype: Option<Dtype>, adapted: &AdaptedTensors) -> Work {
    // Integers, masks and the like are no weights: they keep their type.
    let Some(from) = Dtype::of_stored(tensor.dtype) else { return Work::Copy };
    let to = dtype.unwrap_or(from);
    match adapted.get(&tensor.name) {
        Some(adapted) => Work::Merge { from, to, adapted: *adapted },
        None if from == to => Work::Copy,
        None => Work::Convert { from, to },
    }
}

fn converts(part: &Part) -> bool {
    match part.work {
        Work::Copy => false,
        Work::Convert { from, to } | Work::Merge { from, to, .. } => from != to,
    }
}

/// The start of a file whose tensors have other types or places than in the base: keys in the same order.
fn prefix(shard: &mut Shard, parts: &[Part]) -> Vec<u8> {
    for part in parts {
        let (_, size) = part.unit_sizes();
        let Some(Value::Object(info)) =
            shard.fields.get_mut(&part.tensor).filter(|_| part.tensor != METADATA)
        else {
            continue;
        };
        if let Work::Convert { to, .. } | Work::Merge { to, .. } = part.work {
            info.insert("dtype".to_owned(), json!(to.header_name()));
        }
        info.insert("data_offsets".to_owned(), json!([part.target, part.target + part.units * size]));
    }
    let mut header = Value::Object(std::mem::take(&mut shard.fields)).to_string().into_bytes();
    // The format's own padding: the tensors start at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header].concat()
}
