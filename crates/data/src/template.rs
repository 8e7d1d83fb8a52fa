//! What a row's text is, and which part of it is trained on.

mod environment;
mod python;
mod render;
mod tags;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, Result, Tokenizer};
pub(crate) use render::{Renderer, Text, refuse_fields};

/// The part of a row that has labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TrainOn {
    /// The answers, with the token that closes them. A template that has `{% generation %}` blocks says itself what
    /// that is; rows of plain fields without the one for the answer need them. In a conversation it is otherwise what
    /// follows the generation prompt in every assistant turn, in other texts everything from the (stripped) answer to the end, white space after a closing token left out. A token
    /// that lies partly in an answer belongs to it.
    Responses,
    /// The whole text but BOS and the official system prompt (the official choice); of a conversation everything.
    #[default]
    All,
}

/// The text that a row is turned into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub(crate) Form);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    Official { use_system_prompt: bool },
    Jinja(Jinja),
}

/// A Jinja template as Hugging Face writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Jinja {
    /// The file it came from.
    pub path: PathBuf,
    /// Its text as written.
    pub source: String,
    /// It is the tokenizer's own: a question and its answer become a conversation of two turns.
    pub is_chat: bool,
    /// What `strftime_now` tells: seconds since 1970, UTC.
    pub clock: i64,
}

/// 26 July 2024, the day that Llama's templates fall back to where they cannot ask for the time.
const FIXED_CLOCK: i64 = 1_721_952_000;

impl Template {
    /// The official text, `Question: …` and `Answer: …`, for questions with answers.
    pub fn official(use_system_prompt: bool) -> Self {
        Self(Form::Official { use_system_prompt })
    }

    /// The chat template in a model's directory: `chat_template.jinja`, else the field `chat_template` of
    /// `tokenizer_config.json` (a text, or a list with one named `default`), else that of `chat_template.json`.
    /// It is for conversations; a question and its answer become a user's and an assistant's turn.
    ///
    /// # Errors
    /// None of the files has one, or it cannot be read or does not parse.
    pub fn chat(model_dir: &Path) -> Result<Self> {
        let [jinja, config, legacy] = CHAT_FILES.map(|name| model_dir.join(name));
        if let Some(bytes) = read(&jinja)? {
            return Self::from_bytes(&jinja, bytes, true);
        }
        for path in [config, legacy] {
            if let Some(bytes) = read(&path)?
                && let Some(template) = Self::chat_from_json(&path, &bytes)?
            {
                return Ok(template);
            }
        }
        Err(Error::ChatTemplateMissing { path: model_dir.into() })
    }

    /// The field `chat_template` of a JSON file's content, where it has one.
    ///
    /// # Errors
    /// As [`chat`](Self::chat).
    pub fn chat_from_json(path: &Path, json: &[u8]) -> Result<Option<Self>> {
        let invalid = |problem: String| Error::TokenizerInvalid { path: path.into(), problem };
        let object: Value = serde_json::from_slice(json).map_err(|error| invalid(error.to_string()))?;
        let source = match object.get("chat_template") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(source)) => source,
            Some(Value::Array(list)) => {
                let named = |name: &str| list.iter().find(|entry| entry["name"] == name);
                match named("default").map(|entry| &entry["template"]) {
                    Some(Value::String(source)) => source,
                    _ => return Err(invalid("the list `chat_template` has no text named `default`".into())),
                }
            }
            Some(_) => return Err(invalid("`chat_template` is neither a text nor a list".into())),
        };
        Self::checked(path, source.clone(), true).map(Some)
    }

    /// A template of the user's own, over a row's fields: of a question and its answer the fields under their own
    /// names as well as `query` and `response`; of a conversation `messages`, as in a chat template; of a row of plain
    /// fields ([`RowOptions::any_fields`](crate::RowOptions::any_fields)) those.
    ///
    /// # Errors
    /// The file cannot be read, is not UTF-8, or does not parse.
    pub fn from_file(path: &Path) -> Result<Self> {
        match read(path)? {
            Some(bytes) => Self::from_bytes(path, bytes, false),
            None => {
                let source = std::io::ErrorKind::NotFound.into();
                Err(Error::TemplateUnreadable { path: path.into(), source })
            }
        }
    }

    /// A template of the user's own, as [`from_file`](Self::from_file); `path` is what errors call it.
    ///
    /// # Errors
    /// The text does not parse.
    pub fn from_text(path: &Path, text: &str) -> Result<Self> {
        Self::checked(path, text.to_owned(), false)
    }

    fn from_bytes(path: &Path, bytes: Vec<u8>, is_chat: bool) -> Result<Self> {
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + good.iter().filter(|&&byte| byte == b'\n').count() as u64;
            Error::TemplateInvalid { path: path.into(), line, problem: "the text is not UTF-8".into() }
        })?;
        Self::checked(path, text, is_chat)
    }

    fn checked(path: &Path, source: String, is_chat: bool) -> Result<Self> {
        let jinja = Jinja { path: path.into(), source, is_chat, clock: FIXED_CLOCK };
        environment::compile(&jinja)?;
        Ok(Self(Form::Jinja(jinja)))
    }

    /// Sets what `strftime_now` tells a template, in seconds since 1970, UTC. It is a fixed day in July 2024
    /// otherwise: a clock would make other tokens on every day, and a run could not be taken up again.
    pub fn with_clock(mut self, seconds: i64) -> Self {
        if let Form::Jinja(jinja) = &mut self.0 {
            jinja.clock = seconds;
        }
        self
    }

    /// Whether it may use fields beside those of [`RowOptions`](crate::RowOptions), which are then to be kept.
    pub fn uses_fields(&self) -> bool {
        matches!(self.0, Form::Jinja(_))
    }

    /// The file it came from; `None` for the official one.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Form::Official { .. } => None,
            Form::Jinja(jinja) => Some(&jinja.path),
        }
    }

    /// Adds all that its text depends on beside the row.
    pub(crate) fn hash(&self, tokenizer: &Tokenizer, hasher: &mut blake3::Hasher) {
        match &self.0 {
            Form::Official { use_system_prompt } => {
                hasher.update(&[0, u8::from(*use_system_prompt)]);
            }
            Form::Jinja(jinja) => {
                let names: Vec<_> = tokenizer.special_tokens().iter().collect();
                let clock = jinja.source.contains("strftime_now").then_some(jinja.clock);
                let all = format!("{:?} {names:?} {clock:?} {}", jinja.is_chat, jinja.source);
                hasher.update(&[1]).update(&(all.len() as u64).to_le_bytes()).update(all.as_bytes());
            }
        }
    }
}

/// Where a model's directory may hold a chat template, the strongest first, as in transformers.
const CHAT_FILES: [&str; 3] = ["chat_template.jinja", "tokenizer_config.json", "chat_template.json"];

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::TemplateUnreadable { path: path.into(), source }),
    }
}

#[cfg(test)]
mod tests;
