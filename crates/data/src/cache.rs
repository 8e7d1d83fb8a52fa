//! The token cache: one file for each combination of rows, tokenizer and options, verified and memory-mapped.
//!
//! Layout, in the machine's byte order (a file from a machine of the other order fails the magic's comparison):
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic and format version |
//! | 32 | key: blake3 of everything that the tokens depend on |
//! | 32 | blake3 of the content (the dataset's fingerprint) |
//! | 8, 8 | rows n, tokens t |
//! | 8·(n+1) | offsets: the ids of row i are `offsets[i]..offsets[i + 1]` |
//! | 4·n | first label of each row |
//! | 4·t | ids |

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::{BuildOptions, Result, Row, Tokenizer};

/// Changes with the layout and with any change of what the same input is turned into.
const MAGIC: u64 = u64::from_be_bytes(*b"gpTOKv01");
const HEADER: usize = 8 + 32 + 32 + 8 + 8;

/// The tokens of all rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrays<'a> {
    /// n + 1 ascending places in `ids`.
    pub offsets: &'a [u64],
    /// n places, relative to the row's own start.
    pub first_labels: &'a [u32],
    /// All rows' ids, one after the other.
    pub ids: &'a [u32],
}

impl Arrays<'_> {
    /// blake3 of the content; the lengths go first, so that no two contents share a byte string.
    pub fn fingerprint(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for length in [self.first_labels.len(), self.ids.len()] {
            hasher.update(&(length as u64).to_le_bytes());
        }
        for bytes in self.bytes() {
            hasher.update(bytes);
        }
        hasher.finalize()
    }

    fn bytes(&self) -> [&[u8]; 3] {
        let Self { offsets, first_labels, ids } = self;
        [bytemuck::cast_slice(offsets), bytemuck::cast_slice(first_labels), bytemuck::cast_slice(ids)]
    }

    /// What slicing relies on. The hash already says that we wrote the file; this says that we wrote it right.
    fn are_consistent(&self) -> bool {
        let Self { offsets, first_labels, ids } = self;
        let rows = offsets.windows(2).zip(*first_labels);
        offsets.len() == first_labels.len() + 1
            && offsets.first() == Some(&0)
            && offsets.last() == Some(&(ids.len() as u64))
            && rows.into_iter().all(|(w, &first)| w[0] <= w[1] && u64::from(first) <= w[1] - w[0])
    }
}

/// Tokens in memory.
#[derive(Debug)]
pub(crate) struct Owned {
    offsets: Vec<u64>,
    first_labels: Vec<u32>,
    ids: Vec<u32>,
}

impl Owned {
    pub fn with_capacity(rows: usize, tokens: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { offsets, first_labels: Vec::with_capacity(rows), ids: Vec::with_capacity(tokens) }
    }

    pub fn arrays(&self) -> Arrays<'_> {
        Arrays { offsets: &self.offsets, first_labels: &self.first_labels, ids: &self.ids }
    }

    /// Adds a row: `write` appends its ids and returns the place of its first label among them.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u32>) -> Result<usize>) -> Result<()> {
        let first_label = write(&mut self.ids)?;
        self.first_labels.push(first_label as u32);
        self.offsets.push(self.ids.len() as u64);
        Ok(())
    }

    pub fn append(&mut self, more: Arrays) {
        let start = self.ids.len() as u64;
        self.offsets.extend(more.offsets[1..].iter().map(|offset| start + offset));
        self.first_labels.extend_from_slice(more.first_labels);
        self.ids.extend_from_slice(more.ids);
    }
}

/// Tokens in memory or in a mapped cache file.
#[derive(Debug)]
pub(crate) enum Store {
    Owned(Owned),
    Mapped { map: Mmap, places: Places },
}

impl Store {
    pub fn arrays(&self) -> Arrays<'_> {
        match self {
            Self::Owned(owned) => owned.arrays(),
            Self::Mapped { map, places } => places.of(map),
        }
    }
}

/// Where the three arrays lie in a file.
#[derive(Debug)]
pub(crate) struct Places([Range<usize>; 3]);

impl Places {
    /// `None` where the numbers do not describe a file of exactly `len` bytes.
    fn new(rows: u64, tokens: u64, len: usize) -> Option<Self> {
        let (rows, tokens) = (usize::try_from(rows).ok()?, usize::try_from(tokens).ok()?);
        let first_labels = HEADER.checked_add(rows.checked_add(1)?.checked_mul(8)?)?;
        let ids = first_labels.checked_add(rows.checked_mul(4)?)?;
        let end = ids.checked_add(tokens.checked_mul(4)?)?;
        (end == len).then_some(Self([HEADER..first_labels, first_labels..ids, ids..end]))
    }

    fn of<'a>(&self, bytes: &'a [u8]) -> Arrays<'a> {
        let [offsets, first_labels, ids] = &self.0;
        // A map starts at a page, the header is a multiple of 8 long: every array is aligned.
        Arrays {
            offsets: bytemuck::cast_slice(&bytes[offsets.clone()]),
            first_labels: bytemuck::cast_slice(&bytes[first_labels.clone()]),
            ids: bytemuck::cast_slice(&bytes[ids.clone()]),
        }
    }
}

/// blake3 of all that the tokens depend on.
pub(crate) fn key(rows: &[Row], tokenizer: &Tokenizer, options: &BuildOptions) -> blake3::Hash {
    let BuildOptions { max_seq_length, use_system_prompt } = *options;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&MAGIC.to_le_bytes());
    hasher.update(tokenizer.fingerprint().as_bytes());
    hasher.update(&(max_seq_length as u64).to_le_bytes());
    hasher.update(&[u8::from(use_system_prompt)]);
    for row in rows {
        for text in [&row.query, &row.response] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
    }
    hasher.finalize()
}

/// The verified content of the key's file; `None`, with a line in the log, where there is none to be trusted.
pub(crate) fn open(dir: &Path, key: blake3::Hash, rows: u64) -> Option<(Store, blake3::Hash)> {
    let path = file_of(dir, key);
    let map = match map(&path) {
        Ok(map) => map,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "cannot read the token cache; building it again");
            return None;
        }
    };
    let Some((places, fingerprint)) = verify(&map, key, rows) else {
        tracing::warn!(path = %path.display(), "the token cache is damaged; building it again");
        return None;
    };
    tracing::debug!(path = %path.display(), "tokens taken from the cache");
    Some((Store::Mapped { map, places }, fingerprint))
}

fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: cache files are only ever put in place whole, by rename, and never written to afterwards, so the
    // mapped bytes do not change; whoever truncates one by hand while a run uses it ends that run.
    unsafe { Mmap::map(&file) }
}

fn verify(bytes: &[u8], key: blake3::Hash, rows: u64) -> Option<(Places, blake3::Hash)> {
    let (header, _) = bytes.split_at_checked(HEADER)?;
    let number = |at: usize| header[at..at + 8].try_into().map(u64::from_ne_bytes).ok();
    let (magic, tokens) = (number(0)?, number(80)?);
    if magic != MAGIC || header[8..40] != *key.as_bytes() || number(72)? != rows {
        return None;
    }
    let places = Places::new(rows, tokens, bytes.len())?;
    let arrays = places.of(bytes);
    let fingerprint = arrays.fingerprint();
    (header[40..72] == *fingerprint.as_bytes() && arrays.are_consistent()).then_some((places, fingerprint))
}

/// Writes a file of its own beside the final one and renames it, so that a reader sees all of it or nothing.
pub(crate) fn save(
    dir: &Path,
    key: blake3::Hash,
    fingerprint: blake3::Hash,
    arrays: Arrays,
) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::Builder::new().prefix(".tokens-").suffix(".partial").tempfile_in(dir)?;
    let mut out = BufWriter::new(file.as_file_mut());
    out.write_all(&MAGIC.to_ne_bytes())?;
    out.write_all(key.as_bytes())?;
    out.write_all(fingerprint.as_bytes())?;
    for length in [arrays.first_labels.len(), arrays.ids.len()] {
        out.write_all(&(length as u64).to_ne_bytes())?;
    }
    for bytes in arrays.bytes() {
        out.write_all(bytes)?;
    }
    out.flush()?;
    drop(out);
    // No fsync: a file that a power cut tears fails its hash and is built again.
    file.persist(file_of(dir, key)).map_err(|error| error.error)?;
    Ok(())
}

fn file_of(dir: &Path, key: blake3::Hash) -> PathBuf {
    dir.join(format!("tokens-{}.bin", &key.to_hex()[..32]))
}
