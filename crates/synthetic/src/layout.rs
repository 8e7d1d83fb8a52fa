//! Which tensor goes into which file, and what stands before the tensors of a file.

use serde_json::{Map, Value, json};

use crate::Tensor;

/// Name of the index of the shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// A file of tensors.
#[derive(Debug)]
pub(crate) struct Shard<'a> {
    pub name: String,
    pub tensors: Vec<&'a Tensor>,
    /// Length and text of the header.
    pub prefix: Vec<u8>,
}

impl Shard<'_> {
    /// Length of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.prefix.len() as u64 + self.tensors.iter().map(|tensor| tensor.bytes()).sum::<u64>()
    }
}

/// Tensors in their order, in files of at most `limit` bytes of tensors; one that is longer has a file of its own.
pub(crate) fn shards(tensors: &[Tensor], limit: u64) -> Vec<Shard<'_>> {
    let mut groups: Vec<(u64, Vec<&Tensor>)> = Vec::new();
    for tensor in tensors {
        match groups.last_mut() {
            Some((bytes, group)) if *bytes + tensor.bytes() <= limit => {
                *bytes += tensor.bytes();
                group.push(tensor);
            }
            _ => groups.push((tensor.bytes(), vec![tensor])),
        }
    }
    let count = groups.len();
    let numbered = groups.into_iter().zip(1..);
    numbered
        .map(|((_, tensors), number)| Shard {
            name: format!("model-{number:05}-of-{count:05}.safetensors"),
            prefix: prefix(&tensors),
            tensors,
        })
        .collect()
}

fn prefix(tensors: &[&Tensor]) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut end = 0;
    for tensor in tensors {
        let offsets = [end, end + tensor.bytes()];
        end = offsets[1];
        let info = json!({ "dtype": "BF16", "shape": tensor.shape, "data_offsets": offsets });
        header.insert(tensor.name.clone(), info);
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    // The format's own padding: the tensors start at a multiple of 8.
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}

/// The text of the index.
pub(crate) fn index(shards: &[Shard<'_>]) -> String {
    let places = shards.iter().flat_map(|shard| shard.tensors.iter().map(move |tensor| (shard, tensor)));
    let map: Map<String, Value> =
        places.map(|(shard, tensor)| (tensor.name.clone(), json!(shard.name))).collect();
    let total: u64 = shards.iter().flat_map(|shard| &shard.tensors).map(|tensor| tensor.bytes()).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    format!("{index:#}\n")
}
