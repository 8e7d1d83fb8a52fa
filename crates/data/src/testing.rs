//! What tests of several modules share.

use std::path::Path;

use serde_json::{Value, json};

use crate::{Tokenizer, TokenizerOptions};

pub(crate) const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/demo/model");

/// The tokens that the templates in `testdata` write.
pub(crate) const CHAT_TOKENS: [&str; 8] = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[/INST]",
];

/// The demo tokenizer with more special tokens, its `tokenizer.json` changed by `change`.
pub(crate) fn tokenizer_with(tokens: &[&str], change: impl FnOnce(&mut Value)) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    let path = Path::new(DEMO);
    std::fs::copy(path.join("tokenizer_config.json"), dir.path().join("tokenizer_config.json")).unwrap();
    let mut json: Value =
        serde_json::from_slice(&std::fs::read(path.join("tokenizer.json")).unwrap()).unwrap();
    let first = json["model"]["vocab"].as_object().unwrap().len();
    for (i, token) in tokens.iter().enumerate() {
        json["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": first + i, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}));
    }
    change(&mut json);
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    Tokenizer::load(dir.path(), TokenizerOptions::default()).unwrap()
}

/// The demo tokenizer with the tokens of chat templates.
pub(crate) fn chat_tokenizer() -> Tokenizer {
    tokenizer_with(&CHAT_TOKENS, |_| {})
}
