//! Single parsers of a merge, without the checks of whole folders that come before them: for fuzzing.

use std::path::Path;

use adapter::AdaptedSpace;

use crate::layout::{OutputShard, adapted_tensors};
use crate::shard::Shard;
use crate::{Dtype, MergeError, text};

/// All that would stand before the tensors in the output of the base's file at `path`, and the bytes of its tensors.
///
/// # Errors
/// A header that does not describe the file.
pub fn output_header(
    path: &Path,
    dtype: Option<Dtype>,
    space: &AdaptedSpace,
) -> Result<(Vec<u8>, u64), MergeError> {
    let (adapted, _) = adapted_tensors(space);
    let shard = OutputShard::new(Shard::read(path)?, dtype, &adapted)?;
    let tensor_bytes = shard.tensor_bytes();
    Ok((shard.prefix, tensor_bytes))
}

/// `text` with the value of the nested key `path`, if it is there, replaced by `value`, itself JSON.
///
/// # Errors
/// A text that is no JSON object.
pub fn replace_value(text: &mut String, path: &[&str], value: &str) -> Result<(), serde_json::Error> {
    text::replace(text, path, value)
}
