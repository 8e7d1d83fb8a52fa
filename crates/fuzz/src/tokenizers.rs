//! A tokenizer's files.

use data::{Template, Tokenizer, TokenizerOptions};

use crate::scratch::{Scratch, with_file};
use crate::show::refused;

const TINY: &[u8] = include_bytes!("../corpus/tokenizer/bpe.json");
const NAMES: &[u8] = include_bytes!("../corpus/tokenizer_config/llama.json");

thread_local! {
    static CONFIG: Scratch = Scratch::new("tokenizer_config.json", &[("tokenizer.json", TINY)]);
    static VOCABULARY: Scratch = Scratch::new("tokenizer.json", &[("tokenizer_config.json", NAMES)]);
}

/// `tokenizer_config.json` beside a vocabulary that stays.
pub(crate) fn special_tokens(bytes: &[u8]) -> bool {
    with_file(&CONFIG, bytes, |scratch| {
        if let Err(error) = Template::chat(scratch.folder()) {
            refused(&error);
        }
        load(scratch)
    })
}

/// `tokenizer.json`, of which most is read by the crate `tokenizers`.
pub(crate) fn vocabulary(bytes: &[u8]) -> bool {
    with_file(&VOCABULARY, bytes, load)
}

fn load(scratch: &Scratch) -> bool {
    let options = TokenizerOptions { eos_token: None, vocab_size: Some(1 << 20) };
    let tokenizer = match Tokenizer::load(scratch.folder(), options) {
        Err(error) => return refused(&error),
        Ok(tokenizer) => tokenizer,
    };
    let text = " Hello, wörld!\n<s>";
    match tokenizer.encode_with_offsets(text) {
        Err(error) => drop(refused(&error)),
        Ok((ids, offsets)) => {
            assert_eq!(ids.len(), offsets.len(), "every token has a place");
            for skip_special in [false, true] {
                if let Err(error) = tokenizer.decode(&ids, skip_special) {
                    refused(&error);
                }
            }
        }
    }
    true
}
