//! The official text, ids and labels of one row.

use crate::{Result, Row, Tokenizer};

/// The official optional system prompt, 153 characters. It is part of the data format: identical tokens need it
/// to the letter.
pub const SYSTEM_PROMPT: &str = "Below is an instruction that describes a task. Write a response that \
                                 appropriately completes the request and conclude with: This is the answer: \
                                 ANSWER.\n\n";

/// The text of a row: `Question: …`, a line break, `Answer: …`, both stripped of white space at the ends.
pub fn text_of(row: &Row) -> String {
    format!("Question: {}\nAnswer: {}", strip(&row.query), strip(&row.response))
}

/// Python's `str.strip()`: Unicode's white space, and the four separators U+001C to U+001F, which Rust's `trim`
/// leaves.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

/// Turns rows into ids; the system prompt is tokenized once, separately from the text, as officially.
pub(crate) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// BOS, where there is one, and the system prompt, where it is wanted: not trained on.
    prefix: Vec<u32>,
    max_len: usize,
}

impl<'a> Encoder<'a> {
    /// `max_len` is at least 1.
    pub fn new(tokenizer: &'a Tokenizer, use_system_prompt: bool, max_len: usize) -> Result<Self> {
        let mut prefix = Vec::from_iter(tokenizer.bos_id());
        if use_system_prompt {
            prefix.extend(tokenizer.encode(SYSTEM_PROMPT)?);
        }
        Ok(Self { tokenizer, prefix, max_len })
    }

    /// Appends the row's ids to `out` and returns the place of the first trained id among them.
    ///
    /// The ids are prefix, text, EOS where there is one. Of a longer row the last `max_len` ids stay, so that
    /// the answer is kept and the start of the question goes.
    pub fn encode(&self, row: &Row, out: &mut Vec<u32>) -> Result<usize> {
        let text = self.tokenizer.encode(&text_of(row))?;
        let eos = self.tokenizer.eos_id();
        let cut = (self.prefix.len() + text.len() + eos.iter().len()).saturating_sub(self.max_len);
        out.extend(self.prefix.iter().chain(&text).copied().chain(eos).skip(cut));
        Ok(self.prefix.len().saturating_sub(cut))
    }
}

#[cfg(test)]
mod tests;
