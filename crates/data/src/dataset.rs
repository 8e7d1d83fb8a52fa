//! Tokenized rows: built on several threads, kept in one flat array, cached on disk by content.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::cache::{self, Arrays, Owned, Store};
use crate::encoder::Encoder;
use crate::{Error, Result, Rows, Template, Tokenizer, TrainOn};

/// What the tokens depend on beside the rows, the tokenizer and the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildOptions {
    /// Most tokens of an example; of a longer one the last ones stay.
    pub max_seq_length: usize,
    /// What has labels.
    pub train_on: TrainOn,
}

/// The ids of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Example<'a> {
    /// Token ids, special tokens included.
    pub ids: &'a [u32],
    /// Half-open ranges of places in `ids` that are trained on: ascending, not empty, apart from one another.
    pub supervised: &'a [[u32; 2]],
}

impl Example<'_> {
    /// Ids that are trained on, the first one of the row included (see [`crate::MicroBatch::label_count`]).
    pub fn label_count(&self) -> u64 {
        self.supervised.iter().map(|[start, end]| u64::from(end - start)).sum()
    }
}

/// Tokenized rows, in memory or mapped from the cache.
#[derive(Debug)]
pub struct Dataset {
    store: Store,
    fingerprint: blake3::Hash,
}

/// The stack of a thread, of which no more is taken than is used. A template within its fuel can put lists into lists
/// some hundred thousand deep, and letting go of them takes as many nested calls.
const STACK_BYTES: usize = 64 << 20;

/// Rows that one task tokenizes: enough to hide its cost, few enough for a smooth progress.
const CHUNK_ROWS: usize = 128;

impl Dataset {
    /// Tokenizes the rows on `threads` threads (at least one), or maps the tokens that an earlier call left in
    /// `cache_dir` for the same rows, tokenizer, template and options.
    ///
    /// A cache file that is torn or altered is built again. A cache that cannot be read or written costs a
    /// warning in the log and nothing else. Several processes may build at once: each writes a file of its own
    /// and renames it. `progress` is called from the threads with the rows done and the rows in all.
    ///
    /// # Errors
    /// No rows, `max_seq_length` of zero, a template that is not for such rows, fails on one, makes an empty text or
    /// does not tell where answers are (see [`TrainOn::Responses`]), a text that the tokenizer refuses, or threads
    /// that cannot be started.
    pub fn build(
        rows: &Rows,
        tokenizer: &Tokenizer,
        template: &Template,
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
        let key = cache::key(rows, tokenizer, template, options);
        let total = rows.len() as u64;
        if let Some((store, fingerprint)) = cache_dir.and_then(|dir| cache::open(dir, key, total)) {
            progress(total, total);
            return Ok(Self { store, fingerprint });
        }
        let BuildOptions { max_seq_length, train_on } = *options;
        let encoder = Encoder::new(tokenizer, template, rows.schema(), train_on, max_seq_length)?;
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
        self.arrays().len()
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
        let (ids, supervised) = self.arrays().row(i);
        Example { ids, supervised }
    }

    /// Rows without a label: conversations without an answer, or whose answers were all cut off by
    /// `max_seq_length`. They stay, and teach nothing.
    pub fn unsupervised_rows(&self) -> usize {
        self.arrays().run_offsets.windows(2).filter(|pair| pair[0] == pair[1]).count()
    }

    /// The content of a cache file; `None` where it is torn, altered, or none of ours.
    pub fn from_cache_bytes(bytes: &[u8]) -> Option<Self> {
        let (owned, fingerprint) = cache::from_bytes(bytes)?;
        Some(Self { store: Store::Owned(owned), fingerprint })
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
    rows: &Rows,
    encoder: &Encoder,
    progress: &(dyn Fn(u64, u64) + Sync),
    threads: usize,
) -> Result<Owned> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .stack_size(STACK_BYTES)
        .thread_name(|i| format!("tokenize-{i}"))
        .build()
        .map_err(|source| Error::Threads { threads, source })?;
    let done = AtomicU64::new(0);
    let total = rows.len() as u64;
    progress(0, total);
    let chunks: Vec<Owned> = pool.install(|| {
        let starts = (0..rows.len()).into_par_iter().step_by(CHUNK_ROWS);
        let chunks = starts.map(|start| {
            let chunk = start..(start + CHUNK_ROWS).min(rows.len());
            let size = chunk.len() as u64;
            let tokens = tokenize_chunk(rows, chunk, encoder)?;
            progress(done.fetch_add(size, Ordering::Relaxed) + size, total);
            Ok(tokens)
        });
        chunks.collect::<Result<_>>()
    })?;
    let count = |of: fn(&Arrays) -> usize| chunks.iter().map(|chunk| of(&chunk.arrays())).sum();
    let (runs, tokens) = (count(|chunk| chunk.runs.len()), count(|chunk| chunk.ids.len()));
    let mut all = Owned::with_capacity(rows.len(), runs, tokens);
    for chunk in chunks {
        all.append(chunk.arrays());
    }
    Ok(all)
}

fn tokenize_chunk(rows: &Rows, chunk: Range<usize>, encoder: &Encoder) -> Result<Owned> {
    let mut tokens = Owned::with_capacity(chunk.len(), chunk.len(), 0);
    for i in chunk {
        tokens.push(&encoder.encode(&rows.as_slice()[i], &|| rows.place(i))?);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests;
