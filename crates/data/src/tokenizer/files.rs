//! The files that make up a tokenizer.

use std::path::{Path, PathBuf};

/// All names that transformers writes or reads for the tokenizers of the families here.
const NAMES: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "tekken.json",
];

/// The tokenizer's files in a model's directory, for copying beside what was trained with them.
pub fn tokenizer_files(model_dir: &Path) -> Vec<PathBuf> {
    NAMES.iter().map(|name| model_dir.join(name)).filter(|path| path.is_file()).collect()
}
