//! Greedy generation over slots: rows of different lengths, each with a cache of its own.

use model::RowCache;
use tch::no_grad;

use crate::LoadedModel;

/// When a continuation ends.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Tokens that end a continuation; they are part of it.
    pub stop_ids: Vec<u32>,
    /// Most rows at a time.
    pub batch_size: usize,
}

/// Why a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// A token that ends it.
    EndToken,
    /// A text that ends it.
    StopString,
    /// As many tokens as were allowed.
    Length,
}

/// A continuation that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The row's name, as it was given.
    pub id: usize,
    /// The new token ids.
    pub new_ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// Rows in progress: the likeliest token at each place, ties to the smaller id, as transformers' greedy search.
pub struct Generator<'a> {
    loaded: &'a LoadedModel,
    options: GenerateOptions,
    /// Whether these new ids of a row end it, by their text.
    ends: &'a dyn Fn(&[u32]) -> bool,
    rows: Vec<Row>,
    finished: Vec<Finished>,
}

/// A row in progress; its newest token has not been through the model.
struct Row {
    id: usize,
    new_ids: Vec<u32>,
    max_new_tokens: usize,
    cache: RowCache,
}

impl<'a> Generator<'a> {
    /// A generator without rows. `ends` is asked after every token whether a row's new ids end it.
    pub fn new(loaded: &'a LoadedModel, options: GenerateOptions, ends: &'a dyn Fn(&[u32]) -> bool) -> Self {
        Self { loaded, options, ends, rows: Vec::new(), finished: Vec::new() }
    }

    /// Whether another row may be admitted.
    pub fn has_room(&self) -> bool {
        self.rows.len() < self.options.batch_size
    }

    /// Whether no row is in progress.
    pub fn is_idle(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes a row on: runs its prompt (token ids, not empty) through the model and chooses its first token.
    pub fn admit(&mut self, id: usize, prompt: &[u32], max_new_tokens: usize) {
        let prompt: Vec<i64> = prompt.iter().map(|id| i64::from(*id)).collect();
        let (cache, first) = no_grad(|| {
            let LoadedModel { model, weights, products } = self.loaded;
            let (cache, last) = model.prefill(weights, &prompt);
            (cache, model.likeliest(weights, &last, 1, products.as_ref())[0])
        });
        self.rows.push(Row { id, new_ids: vec![first], max_new_tokens, cache });
        self.retire();
    }

    /// Adds a token to every row in progress. Returns how many rows that were.
    pub fn step(&mut self) -> usize {
        if self.rows.is_empty() {
            return 0;
        }
        let newest = |row: &Row| i64::from(row.new_ids.last().copied().unwrap_or(0));
        let tokens: Vec<i64> = self.rows.iter().map(newest).collect();
        let chosen = no_grad(|| {
            let mut caches: Vec<&mut RowCache> = self.rows.iter_mut().map(|row| &mut row.cache).collect();
            let LoadedModel { model, weights, products } = self.loaded;
            let normed = model.decode(weights, &tokens, &mut caches, products.as_ref());
            model.likeliest(weights, &normed, tokens.len(), products.as_ref())
        });
        for (row, id) in self.rows.iter_mut().zip(&chosen) {
            row.new_ids.push(*id);
        }
        self.retire();
        chosen.len()
    }

    /// The rows that have ended since this was asked last.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// Sets the rows aside that have come to their end.
    fn retire(&mut self) {
        let finish_of = |row: &Row| -> Option<Finish> {
            let last = row.new_ids.last()?;
            if self.options.stop_ids.contains(last) {
                Some(Finish::EndToken)
            } else if (self.ends)(&row.new_ids) {
                Some(Finish::StopString)
            } else {
                (row.new_ids.len() >= row.max_new_tokens).then_some(Finish::Length)
            }
        };
        let (mut going, mut finished) = (Vec::with_capacity(self.rows.len()), Vec::new());
        for row in std::mem::take(&mut self.rows) {
            match finish_of(&row) {
                Some(finish) => finished.push(Finished { id: row.id, new_ids: row.new_ids, finish }),
                None => going.push(row),
            }
        }
        self.rows = going;
        self.finished.extend(finished);
    }
}

#[cfg(test)]
mod tests;
