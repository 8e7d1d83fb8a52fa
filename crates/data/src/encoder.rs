//! From a row to ids and labels.

use std::ops::Range;

use crate::error::Place;
use crate::prompt::{SYSTEM_PROMPT, strip, text_of};
use crate::template::{Form, Renderer, Text, refuse_fields};
use crate::{Content, Error, Result, Row, Schema, Template, Tokenizer, TrainOn};

/// The ids of one row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub ids: Vec<u32>,
    /// Half-open ranges of places with labels: ascending, not empty, apart from one another.
    pub supervised: Vec<[u32; 2]>,
}

impl Encoded {
    fn new(ids: Vec<u32>, flags: impl IntoIterator<Item = bool>) -> Self {
        let mut supervised: Vec<[u32; 2]> = Vec::new();
        for (i, _) in flags.into_iter().enumerate().filter(|&(_, is_supervised)| is_supervised) {
            let i = i as u32;
            match supervised.last_mut() {
                Some(last) if last[1] == i => last[1] += 1,
                _ => supervised.push([i, i + 1]),
            }
        }
        Self { ids, supervised }
    }

    /// Of a longer row the last `max_len` ids stay, so that the answer is kept and the start of the question goes.
    fn cut(mut self, max_len: usize) -> Self {
        let cut = self.ids.len().saturating_sub(max_len);
        if cut > 0 {
            self.ids.drain(..cut);
            let moved = self.supervised.iter().map(|run| run.map(|place| place.saturating_sub(cut as u32)));
            self.supervised = moved.filter(|[start, end]| start < end).collect();
        }
        self
    }
}

/// Turns rows of one schema into ids and labels.
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    schema: &'a Schema,
    form: EncoderForm<'a>,
    train_on: TrainOn,
    max_len: usize,
}

#[derive(Debug)]
enum EncoderForm<'a> {
    /// BOS, where there is one, and the system prompt, where it is wanted: not trained on. The prompt is tokenized
    /// once, separately from the text, as officially.
    Official {
        prefix: Vec<u32>,
    },
    Jinja(Box<Renderer<'a>>),
}

impl<'a> Encoder<'a> {
    /// `max_len` is at least 1.
    pub fn new(
        tokenizer: &'a Tokenizer,
        template: &'a Template,
        schema: &'a Schema,
        train_on: TrainOn,
        max_len: usize,
    ) -> Result<Self> {
        let form = match &template.0 {
            Form::Official { .. } if *schema == Schema::Chat => return Err(Error::TemplateRows),
            Form::Official { use_system_prompt } => {
                let mut prefix = Vec::from_iter(tokenizer.bos_id());
                if *use_system_prompt {
                    prefix.extend(tokenizer.encode(SYSTEM_PROMPT)?);
                }
                EncoderForm::Official { prefix }
            }
            Form::Jinja(jinja) => {
                EncoderForm::Jinja(Box::new(Renderer::new(jinja, schema, train_on, tokenizer)?))
            }
        };
        Ok(Self { tokenizer, schema, form, train_on, max_len })
    }

    /// The row's ids, at most `max_len` of them. `place` names the row in errors.
    pub fn encode(&self, row: &Row, place: &dyn Fn() -> Place) -> Result<Encoded> {
        let encoded = match (&self.form, &row.content) {
            (EncoderForm::Official { prefix }, Content::Pair { query, response }) => {
                self.official(prefix, query, response)
            }
            (EncoderForm::Official { .. }, Content::Chat(_)) => return Err(Error::TemplateRows),
            (EncoderForm::Official { .. }, Content::Fields) => {
                return Err(refuse_fields("official", self.schema, row, place()));
            }
            (EncoderForm::Jinja(renderer), _) => self.rendered(renderer, &renderer.render(row, place)?),
        };
        let named = |error| match error {
            Error::TokenizerFailed { problem } => {
                Error::TokenizerFailed { problem: format!("{}: {problem}", place()) }
            }
            other => other,
        };
        Ok(encoded.map_err(named)?.cut(self.max_len))
    }

    /// Prefix, text, EOS where there is one.
    fn official(&self, prefix: &[u32], query: &str, response: &str) -> Result<Encoded> {
        let text = text_of(query, response);
        let eos = self.tokenizer.eos_id();
        let mut ids = prefix.to_vec();
        if self.train_on == TrainOn::All {
            ids.extend(self.tokenizer.encode(&text)?);
            ids.extend(eos);
            let supervised = vec![[prefix.len() as u32, ids.len() as u32]];
            let supervised = supervised.into_iter().filter(|[start, end]| start < end).collect();
            return Ok(Encoded { ids, supervised });
        }
        let answer = text.len() - strip(response).len()..text.len();
        let (text_ids, offsets) = self.tokenizer.encode_with_offsets(&text)?;
        ids.extend(text_ids);
        ids.extend(eos);
        let in_text = offsets.iter().map(|token| overlaps(token, &answer));
        let flags = prefix.iter().map(|_| false).chain(in_text).chain(eos.map(|_| true));
        Ok(Encoded::new(ids, flags))
    }

    /// A conversation writes its special tokens itself. Other texts get BOS and EOS, where the tokenizer has them
    /// and the text does not start with the one and end, white space aside, with the other.
    fn rendered(&self, renderer: &Renderer, Text { text, spans }: &Text) -> Result<Encoded> {
        let (text_ids, offsets) = match spans {
            Some(_) => self.tokenizer.encode_with_offsets(text)?,
            None => (self.tokenizer.encode(text)?, Vec::new()),
        };
        let (mut bos, mut eos) = (self.tokenizer.bos_id(), self.tokenizer.eos_id());
        if renderer.is_conversation() {
            (bos, eos) = (None, None);
        } else {
            let writes = |name, at: fn(&str, &str) -> bool| {
                self.tokenizer.special_tokens().get(name).is_some_and(|token: &String| at(text, token))
            };
            bos = bos.filter(|_| !writes("bos_token", |text, token| text.starts_with(token)));
            eos = eos.filter(|_| !writes("eos_token", |text, token| text.trim_end().ends_with(token)));
        }
        let ids: Vec<u32> = bos.into_iter().chain(text_ids).chain(eos).collect();
        let last = ids.len() - eos.iter().len();
        let first = bos.iter().len();
        let flags = (0..ids.len()).map(|i| match spans {
            // BOS is not trained on even if the template writes it; nothing comes before it that could predict it.
            None => renderer.is_conversation() || i > 0 || Some(ids[0]) != self.tokenizer.bos_id(),
            Some(_) if i < first => false,
            Some(spans) => i >= last || is_in(&offsets[i - first], spans),
        });
        let flags: Vec<bool> = flags.collect();
        Ok(Encoded::new(ids, flags))
    }
}

/// Whether a token is trained on: any byte of its text lies in one of the ascending spans. So a token that
/// straddles the border is, with which no first word of an answer is lost where it makes one token with the space
/// before it.
fn is_in(token: &Range<usize>, spans: &[Range<usize>]) -> bool {
    let next = spans.partition_point(|span| span.end <= token.start);
    spans[next..]
        .iter()
        .take_while(|span| span.start < token.end.max(token.start + 1))
        .any(|span| overlaps(token, span))
}

fn overlaps(token: &Range<usize>, span: &Range<usize>) -> bool {
    // A token without text of its own belongs where it stands.
    let end = token.end.max(token.start + 1);
    !span.is_empty() && token.start < span.end && span.start < end
}

#[cfg(test)]
mod tests;
