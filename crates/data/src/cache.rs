//! The token cache: one file for each combination of rows, tokenizer and options, verified and memory-mapped.
//!
//! Layout, in the machine's byte order (a file from a machine of the other order fails the magic's comparison):
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic and format version |
//! | 32 | key: blake3 of everything that the tokens depend on |
//! | 32 | blake3 of the content (the dataset's fingerprint) |
//! | 8, 8, 8 | rows n, labelled runs r, tokens t |
//! | 8·(n+1) | offsets: the ids of row i are `offsets[i]..offsets[i + 1]` |
//! | 8·(n+1) | the same for the runs of row i |
//! | 8·r | runs: first place with a label and the place after the last, from the row's start |
//! | 4·t | ids |

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::dataset::BuildOptions;
use crate::encoder::Encoded;
use crate::{Content, Rows, Schema, Template, Tokenizer, TrainOn};

/// Changes with the layout and with any change of what the same input is turned into.
const MAGIC: u64 = u64::from_be_bytes(*b"gpTOKv02");
const HEADER: usize = 8 + 32 + 32 + 8 + 8 + 8;

/// The tokens of all rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrays<'a> {
    /// n + 1 ascending places in `ids`.
    pub offsets: &'a [u64],
    /// n + 1 ascending places in `runs`.
    pub run_offsets: &'a [u64],
    /// Half-open ranges of places with labels, relative to the row's own start.
    pub runs: &'a [[u32; 2]],
    /// All rows' ids, one after the other.
    pub ids: &'a [u32],
}

impl<'a> Arrays<'a> {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The ids of row `i`, and its runs.
    pub fn row(&self, i: usize) -> (&'a [u32], &'a [[u32; 2]]) {
        let range = |offsets: &[u64]| offsets[i] as usize..offsets[i + 1] as usize;
        (&self.ids[range(self.offsets)], &self.runs[range(self.run_offsets)])
    }

    /// blake3 of the content; the lengths go first, so that no two contents share a byte string.
    pub fn fingerprint(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for length in self.lengths() {
            hasher.update(&length.to_le_bytes());
        }
        for bytes in self.bytes() {
            hasher.update(bytes);
        }
        hasher.finalize()
    }

    /// Rows, runs, tokens.
    fn lengths(&self) -> [u64; 3] {
        [self.len(), self.runs.len(), self.ids.len()].map(|length| length as u64)
    }

    fn bytes(&self) -> [&'a [u8]; 4] {
        let Self { offsets, run_offsets, runs, ids } = *self;
        [
            bytemuck::cast_slice(offsets),
            bytemuck::cast_slice(run_offsets),
            bytemuck::cast_slice(runs),
            bytemuck::cast_slice(ids),
        ]
    }

    /// What slicing relies on. The hash already says that we wrote the file; this says that we wrote it right.
    fn are_consistent(&self) -> bool {
        let ascends = |offsets: &[u64], end: usize| {
            offsets.first() == Some(&0)
                && offsets.last() == Some(&(end as u64))
                && offsets.windows(2).all(|pair| pair[0] <= pair[1])
        };
        ascends(self.offsets, self.ids.len())
            && ascends(self.run_offsets, self.runs.len())
            && (0..self.len()).all(|i| {
                let (ids, runs) = self.row(i);
                runs.iter().all(|[start, end]| start < end)
                    && runs.windows(2).all(|pair| pair[0][1] < pair[1][0])
                    && runs.last().is_none_or(|last| last[1] as usize <= ids.len())
            })
    }
}

/// Tokens in memory.
#[derive(Debug)]
pub(crate) struct Owned {
    offsets: Vec<u64>,
    run_offsets: Vec<u64>,
    runs: Vec<[u32; 2]>,
    ids: Vec<u32>,
}

impl Owned {
    pub fn with_capacity(rows: usize, runs: usize, tokens: usize) -> Self {
        let places = || {
            let mut places = Vec::with_capacity(rows + 1);
            places.push(0);
            places
        };
        Self {
            offsets: places(),
            run_offsets: places(),
            runs: Vec::with_capacity(runs),
            ids: Vec::with_capacity(tokens),
        }
    }

    pub fn arrays(&self) -> Arrays<'_> {
        let Self { offsets, run_offsets, runs, ids } = self;
        Arrays { offsets, run_offsets, runs, ids }
    }

    /// Adds a row.
    pub fn push(&mut self, row: &Encoded) {
        self.ids.extend_from_slice(&row.ids);
        self.runs.extend_from_slice(&row.supervised);
        self.offsets.push(self.ids.len() as u64);
        self.run_offsets.push(self.runs.len() as u64);
    }

    pub fn append(&mut self, more: Arrays) {
        let (ids, runs) = (self.ids.len() as u64, self.runs.len() as u64);
        self.offsets.extend(more.offsets[1..].iter().map(|offset| ids + offset));
        self.run_offsets.extend(more.run_offsets[1..].iter().map(|offset| runs + offset));
        self.runs.extend_from_slice(more.runs);
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

/// Where the arrays lie in a file.
#[derive(Debug)]
pub(crate) struct Places([Range<usize>; 4]);

impl Places {
    /// `None` where the numbers do not describe a file of exactly `len` bytes.
    fn new([rows, runs, tokens]: [u64; 3], len: usize) -> Option<Self> {
        let offsets = rows.checked_add(1)?;
        let mut end = HEADER;
        let mut next = |count: u64, size: usize| {
            let start = end;
            end = start.checked_add(usize::try_from(count).ok()?.checked_mul(size)?)?;
            Some(start..end)
        };
        let places = [next(offsets, 8)?, next(offsets, 8)?, next(runs, 8)?, next(tokens, 4)?];
        (end == len).then_some(Self(places))
    }

    fn of<'a>(&self, bytes: &'a [u8]) -> Arrays<'a> {
        let [offsets, run_offsets, runs, ids] = &self.0;
        // `bytes` starts at a page or at a word, the header is a multiple of 8 long: every array is aligned.
        Arrays {
            offsets: bytemuck::cast_slice(&bytes[offsets.clone()]),
            run_offsets: bytemuck::cast_slice(&bytes[run_offsets.clone()]),
            runs: bytemuck::cast_slice(&bytes[runs.clone()]),
            ids: bytemuck::cast_slice(&bytes[ids.clone()]),
        }
    }
}

/// blake3 of all that the tokens depend on.
pub(crate) fn key(
    rows: &Rows,
    tokenizer: &Tokenizer,
    template: &Template,
    options: &BuildOptions,
) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&MAGIC.to_le_bytes());
    hasher.update(tokenizer.fingerprint().as_bytes());
    template.hash(tokenizer, &mut hasher);
    let BuildOptions { max_seq_length, train_on } = *options;
    hasher.update(&(max_seq_length as u64).to_le_bytes());
    hasher.update(&[u8::from(train_on == TrainOn::Responses)]);
    let text = |hasher: &mut blake3::Hasher, text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    match rows.schema() {
        Schema::Chat => drop(hasher.update(&[1])),
        // The names matter to templates alone.
        Schema::Pairs { .. } if !template.uses_fields() => drop(hasher.update(&[0])),
        Schema::Pairs { query_field, response_field } => {
            hasher.update(&[0]);
            text(&mut hasher, query_field);
            text(&mut hasher, response_field);
        }
        Schema::Fields { query_field, response_field } => {
            hasher.update(&[2]);
            text(&mut hasher, query_field);
            text(&mut hasher, response_field);
        }
    }
    for row in rows.as_slice() {
        match &row.content {
            Content::Pair { query, response } => {
                text(&mut hasher, query);
                text(&mut hasher, response);
            }
            Content::Chat(messages) => {
                hasher.update(&(messages.len() as u64).to_le_bytes());
                for message in messages {
                    text(&mut hasher, message.role.name());
                    text(&mut hasher, &message.content);
                    // Its `Display` is JSON.
                    text(&mut hasher, &serde_json::Value::from(message.other.clone()).to_string());
                }
            }
            // They follow.
            Content::Fields => {}
        }
        if template.uses_fields() || row.content == Content::Fields {
            for (name, value) in row.fields() {
                text(&mut hasher, name);
                text(&mut hasher, &value.to_string());
            }
            hasher.update(&u64::MAX.to_le_bytes());
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
    if number(0)? != MAGIC || header[8..40] != *key.as_bytes() || number(72)? != rows {
        return None;
    }
    let places = Places::new([rows, number(80)?, number(88)?], bytes.len())?;
    let arrays = places.of(bytes);
    let fingerprint = arrays.fingerprint();
    (header[40..72] == *fingerprint.as_bytes() && arrays.are_consistent()).then_some((places, fingerprint))
}

/// The tokens in a cache file's bytes, whatever key they were made for; `None` where they are not to be trusted.
pub(crate) fn from_bytes(bytes: &[u8]) -> Option<(Owned, blake3::Hash)> {
    // Into words, since the arrays want to be aligned.
    let mut words = vec![0u64; bytes.len().div_ceil(8)];
    let aligned: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    aligned[..bytes.len()].copy_from_slice(bytes);
    let bytes = &bytemuck::cast_slice::<u64, u8>(&words)[..bytes.len()];
    let key: [u8; 32] = bytes.get(8..40)?.try_into().ok()?;
    let rows = u64::from_ne_bytes(bytes.get(72..80)?.try_into().ok()?);
    let (places, fingerprint) = verify(bytes, key.into(), rows)?;
    let arrays = places.of(bytes);
    let mut owned = Owned::with_capacity(arrays.len(), arrays.runs.len(), arrays.ids.len());
    owned.append(arrays);
    Some((owned, fingerprint))
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
    for length in arrays.lengths() {
        out.write_all(&length.to_ne_bytes())?;
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
