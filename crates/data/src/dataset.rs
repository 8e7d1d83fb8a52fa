//! Tokenized rows: built on several threads, kept in one flat array, cached on disk by content.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::cache::{self, Arrays, Owned, Store};
use crate::prompt::Encoder;
use crate::{Error, Result, Row, Tokenizer};

/// What the tokens depend on beside the rows and the tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildOptions {
    /// Most tokens of an example; of a longer one the last ones stay.
    pub max_seq_length: usize,
    /// Put the official system prompt before every example.
    pub use_system_prompt: bool,
}

/// The ids of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Example<'a> {
    /// Token ids, special tokens included.
    pub ids: &'a [u32],
    /// The first id that is trained on; from there on the labels are the ids.
    pub first_label: usize,
}

impl Example<'_> {
    /// Ids that are trained on, the first one of the row included (see [`crate::MicroBatch::label_count`]).
    pub fn label_count(&self) -> u64 {
        (self.ids.len() - self.first_label) as u64
    }
}

/// Tokenized rows, in memory or mapped from the cache.
#[derive(Debug)]
pub struct Dataset {
    store: Store,
    fingerprint: blake3::Hash,
}

/// Rows that one task tokenizes: enough to hide its cost, few enough for a smooth progress.
const CHUNK_ROWS: usize = 128;

impl Dataset {
    /// Tokenizes the rows on `threads` threads (at least one), or maps the tokens that an earlier call left in
    /// `cache_dir` for the same rows, tokenizer and options.
    ///
    /// A cache file that is torn or altered is built again. A cache that cannot be read or written costs a
    /// warning in the log and nothing else. Several processes may build at once: each writes a file of its own
    /// and renames it. `progress` is called from the threads with the rows done and the rows in all.
    ///
    /// # Errors
    /// No rows, `max_seq_length` of zero, a text that the tokenizer refuses, or threads that cannot be started.
    pub fn build(
        rows: &[Row],
        tokenizer: &Tokenizer,
        options: &BuildOptions,
        cache_dir: Option<&Path>,
        progress: &(dyn Fn(u64, u64) + Sync),
        threads: usize,
    ) -> Result<Self> {
        if rows.is_empty() {
            return Err(Error::DataEmpty { origin: "to be tokenized".into() });
        }
        if options.max_seq_length == 0 {
            return Err(Error::Setting { name: "max-seq-length", value: "0".into(), need: "at least 1" });
        }
        let key = cache::key(rows, tokenizer, options);
        let total = rows.len() as u64;
        if let Some((store, fingerprint)) = cache_dir.and_then(|dir| cache::open(dir, key, total)) {
            progress(total, total);
            return Ok(Self { store, fingerprint });
        }
        let encoder = Encoder::new(tokenizer, options.use_system_prompt, options.max_seq_length)?;
        let tokens = tokenize(rows, &encoder, progress, threads.max(1))?;
        let fingerprint = tokens.arrays().fingerprint();
        if let Some(dir) = cache_dir
            && let Err(error) = cache::save(dir, key, fingerprint, tokens.arrays())
        {
            tracing::warn!(%error, dir = %dir.display(), "cannot write the token cache; going on without it");
        }
        Ok(Self { store: Store::Owned(tokens), fingerprint })
    }

    /// Number of examples, one for each row.
    pub fn len(&self) -> usize {
        self.arrays().first_labels.len()
    }

    /// Always false: a dataset without rows is not built.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of row `i`.
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len).
    pub fn example(&self, i: usize) -> Example<'_> {
        let Arrays { offsets, first_labels, ids } = self.arrays();
        let ids = &ids[offsets[i] as usize..offsets[i + 1] as usize];
        Example { ids, first_label: first_labels[i] as usize }
    }

    /// Tokens of all rows together.
    pub fn total_tokens(&self) -> u64 {
        self.arrays().ids.len() as u64
    }

    /// blake3, in hex, of every row's ids and labels: equal means the same training data in the same order.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.to_hex().to_string()
    }

    fn arrays(&self) -> Arrays<'_> {
        self.store.arrays()
    }
}

fn tokenize(
    rows: &[Row],
    encoder: &Encoder,
    progress: &(dyn Fn(u64, u64) + Sync),
    threads: usize,
) -> Result<Owned> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("tokenize-{i}"))
        .build()
        .map_err(|source| Error::Threads { threads, source })?;
    let done = AtomicU64::new(0);
    let total = rows.len() as u64;
    progress(0, total);
    let chunks: Vec<Owned> = pool.install(|| {
        let numbered = rows.par_chunks(CHUNK_ROWS).enumerate();
        let chunks = numbered.map(|(chunk, rows)| {
            let tokens = tokenize_chunk(rows, chunk * CHUNK_ROWS, encoder)?;
            let before = done.fetch_add(rows.len() as u64, Ordering::Relaxed);
            progress(before + rows.len() as u64, total);
            Ok(tokens)
        });
        chunks.collect::<Result<_>>()
    })?;
    let mut all = Owned::with_capacity(rows.len(), chunks.iter().map(|chunk| chunk.arrays().ids.len()).sum());
    for chunk in chunks {
        all.append(chunk.arrays());
    }
    Ok(all)
}

fn tokenize_chunk(rows: &[Row], first_row: usize, encoder: &Encoder) -> Result<Owned> {
    let mut tokens = Owned::with_capacity(rows.len(), 0);
    for (i, row) in rows.iter().enumerate() {
        let named = |error| match error {
            Error::TokenizerFailed { problem } => {
                Error::TokenizerFailed { problem: format!("row {}: {problem}", first_row + i + 1) }
            }
            other => other,
        };
        tokens.push(|ids| encoder.encode(row, ids)).map_err(named)?;
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests;
