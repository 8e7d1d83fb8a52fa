//! The config.json of models that people fine-tune.

use crate::SyntheticError;

/// Names that [`config_of`] knows.
pub const NAMES: [&str; 6] =
    ["Llama-3.1-8B", "Qwen2.5-0.5B", "Qwen2.5-3B", "Qwen2.5-7B", "gemma-7b", "Mistral-7B-v0.1"];

/// In the order of [`NAMES`].
const CONFIGS: [&str; 6] = [
    include_str!("../../../configs/shapes/Llama-3.1-8B.json"),
    include_str!("../../../configs/shapes/Qwen2.5-0.5B.json"),
    include_str!("../../../configs/shapes/Qwen2.5-3B.json"),
    include_str!("../../../configs/shapes/Qwen2.5-7B.json"),
    include_str!("../../../configs/shapes/gemma-7b.json"),
    include_str!("../../../configs/shapes/Mistral-7B-v0.1.json"),
];

/// The text of a model's config.json, by its name in any case.
///
/// # Errors
/// [`SyntheticError::UnknownShape`].
pub fn config_of(name: &str) -> Result<&'static str, SyntheticError> {
    let known = NAMES.iter().zip(CONFIGS).find(|(known, _)| known.eq_ignore_ascii_case(name));
    known.map(|(_, text)| text).ok_or_else(|| SyntheticError::UnknownShape { name: name.to_owned() })
}
