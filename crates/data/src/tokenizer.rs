//! A Hugging Face tokenizer and its special tokens, checked against the model's vocabulary.

mod files;
mod pieces;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::contain::contain_panics;
use crate::{Error, Result};
pub use files::tokenizer_files;
pub use pieces::Piece;

/// What is not in the tokenizer's own files.
#[derive(Debug, Clone, Default)]
pub struct TokenizerOptions {
    /// In place of the tokenizer's own end-of-sequence token (`--eos-token`).
    pub eos_token: Option<String>,
    /// `vocab_size` of the model's config.json, the rows of its embedding; `None` skips the check.
    pub vocab_size: Option<u64>,
}

/// Text to ids and back. Special tokens are never added by [`encode`](Self::encode); the caller puts them.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos_id: Option<u32>,
    eos_id: Option<u32>,
    pad_id: u32,
    fingerprint: blake3::Hash,
    /// `bos_token` and the like, as templates know them.
    special_tokens: BTreeMap<String, String>,
    /// The texts of tokens that are found in a text before the model sees it.
    added_tokens: Vec<String>,
}

/// What transformers hands to a chat template.
const TEMPLATE_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Tokenizer {
    /// Reads `tokenizer.json` and `tokenizer_config.json` of a model's directory.
    ///
    /// The special tokens `bos_token`, `eos_token` and `pad_token` are a text, an object with `content`, or null,
    /// in `tokenizer_config.json`; what is absent or null there is taken from `special_tokens_map.json`, where that
    /// file exists. One of the two files must. Names that a tokenizer class of transformers would fill in by
    /// itself are not guessed. `add_bos_token` has no effect here, as in the official code, which asks only
    /// whether the tokenizer has such a token. Padding is the end-of-sequence token where no token is named, and
    /// id 0 where there is none of those either (padding is masked, so its id cannot change a result).
    ///
    /// # Errors
    /// A file that is missing or damaged, a special token outside the vocabulary, or an id that
    /// [`vocab_size`](TokenizerOptions::vocab_size) does not cover.
    pub fn load(model_dir: &Path, options: TokenizerOptions) -> Result<Self> {
        let path = model_dir.join("tokenizer.json");
        let bytes = read(&path)?.ok_or_else(|| Error::TokenizerMissing { path: path.clone() })?;
        let inner = parse(&path, &bytes)?;
        if let Some(vocab_size) = options.vocab_size {
            check_vocabulary(&path, &inner, vocab_size)?;
        }
        let names = SpecialNames::read(model_dir)?;
        let mut special_tokens = BTreeMap::new();
        for name in TEMPLATE_TOKENS {
            if let Some(named) = names.find(name)? {
                special_tokens.insert(name.to_owned(), named.token);
            }
        }
        if let Some(token) = &options.eos_token {
            special_tokens.insert("eos_token".into(), token.clone());
        }
        let id_of = |role, named: Option<Named>| {
            let Some(Named { token, origin }) = named else { return Ok(None) };
            let missing =
                || Error::TokenNotInVocabulary { role, token: token.clone(), origin, path: path.clone() };
            inner.token_to_id(&token).map(Some).ok_or_else(missing)
        };
        let eos = match options.eos_token {
            Some(token) => Some(Named { token, origin: "eos-token" }),
            None => names.find("eos_token")?,
        };
        let bos_id = id_of("bos", names.find("bos_token")?)?;
        let eos_id = id_of("eos", eos)?;
        let pad_id = id_of("pad", names.find("pad_token")?)?.or(eos_id).unwrap_or(0);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        hasher.update(format!("{bos_id:?} {eos_id:?} {pad_id}").as_bytes());
        let mut added_tokens: Vec<String> =
            inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
        added_tokens.retain(|token| !token.trim().is_empty());
        added_tokens.sort_unstable();
        let fingerprint = hasher.finalize();
        Ok(Self { bos_id, eos_id, pad_id, fingerprint, special_tokens, added_tokens, inner })
    }

    /// Token ids of a text, without special tokens before or after it and without truncation.
    ///
    /// # Errors
    /// The tokenizer has no token for a part of the text and no unknown token either.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = contained(|| self.inner.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`encode`](Self::encode), with the bytes of the text that each token came from. Tokens that share a
    /// character, as the bytes of a rare one may, all have its range; a normalizer may leave a token an empty one.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        let encoding = contained(|| self.inner.encode(text, false))?;
        let offsets = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
        Ok((encoding.get_ids().to_vec(), offsets))
    }

    /// The text of token ids; `skip_special` leaves special tokens out. Ids outside the vocabulary are left out.
    ///
    /// # Errors
    /// The tokenizer's decoder refuses the tokens.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        contained(|| self.inner.decode(ids, skip_special))
    }

    /// The id put before every example, where the tokenizer has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// The id put after every example and that ends a generation, where the tokenizer has one.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }

    /// The id that fills up shorter rows.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// The texts of `bos_token`, `eos_token` and the like, as far as the tokenizer's files name them.
    pub(crate) fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special_tokens
    }

    /// The texts of the added tokens, special ones among them.
    pub(crate) fn added_tokens(&self) -> &[String] {
        &self.added_tokens
    }

    /// blake3 over `tokenizer.json` and the special ids: equal means equal tokens.
    pub fn fingerprint(&self) -> blake3::Hash {
        self.fingerprint
    }
}

impl std::fmt::Debug for Tokenizer {
    // The vocabulary alone would print megabytes.
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { bos_id, eos_id, pad_id, fingerprint, .. } = self;
        write!(out, "Tokenizer {{ bos {bos_id:?}, eos {eos_id:?}, pad {pad_id}, {fingerprint} }}")
    }
}

/// What the tokenizers crate says, or what it panics with, as some normalizers make it do.
fn contained<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let failed = |problem| Error::TokenizerFailed { problem };
    contain_panics(run).map_err(failed)?.map_err(|error| failed(error.to_string()))
}

/// The file's bytes, or `None` where there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => {
            Err(Error::TokenizerInvalid { path: path.into(), problem: format!("cannot be read: {error}") })
        }
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<tokenizers::Tokenizer> {
    let invalid = |problem: String| Error::TokenizerInvalid { path: path.into(), problem };
    // The tokenizers crate panics on some files that are no JSON, half a file among them, and on some that are.
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|error| invalid(error.to_string()))?;
    let inner = contain_panics(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(invalid)?;
    let mut inner = inner.map_err(|error| invalid(error.to_string()))?;
    // transformers switches both off for a plain call, whatever the file says.
    inner.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
    inner.with_padding(None);
    // Without special tokens to add, all it would do is to cut white space off the tokens' offsets.
    inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
    Ok(inner)
}

fn check_vocabulary(path: &Path, inner: &tokenizers::Tokenizer, vocab_size: u64) -> Result<()> {
    match inner.get_vocab(true).into_iter().max_by_key(|&(_, id)| id) {
        Some((token, id)) if u64::from(id) >= vocab_size => {
            Err(Error::VocabularyTooLarge { path: path.into(), token, id, vocab_size })
        }
        Some(_) => Ok(()),
        None => Err(Error::TokenizerInvalid { path: path.into(), problem: "its vocabulary is empty".into() }),
    }
}

/// A token's text and the file or flag that named it.
struct Named {
    token: String,
    origin: &'static str,
}

const SPECIAL_FILES: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

/// The files that name special tokens, the first one first.
struct SpecialNames(Vec<(&'static str, PathBuf, Map<String, Value>)>);

impl SpecialNames {
    fn read(model_dir: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for name in SPECIAL_FILES {
            let path = model_dir.join(name);
            let Some(bytes) = read(&path)? else { continue };
            let object = serde_json::from_slice(&bytes).map_err(|error| Error::TokenizerInvalid {
                path: path.clone(),
                problem: error.to_string(),
            })?;
            files.push((name, path, object));
        }
        if files.is_empty() {
            return Err(Error::TokenizerMissing { path: model_dir.join(SPECIAL_FILES[0]) });
        }
        Ok(Self(files))
    }

    fn find(&self, key: &str) -> Result<Option<Named>> {
        for (origin, path, object) in &self.0 {
            let token = match object.get(key) {
                None | Some(Value::Null) => continue,
                Some(Value::String(token)) => Some(token),
                Some(Value::Object(token)) => match token.get("content") {
                    Some(Value::String(content)) => Some(content),
                    _ => None,
                },
                Some(_) => None,
            };
            let token = token.ok_or_else(|| Error::TokenizerInvalid {
                path: path.clone(),
                problem: format!(
                    "`{key}` is neither a text, nor null, nor an object with the text `content`"
                ),
            })?;
            return Ok(Some(Named { token: token.clone(), origin }));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
