//! The folder as a whole.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::layout::{INDEX, Shard, index, shards};
use crate::output::{Staging, check_free, check_space};
use crate::{SyntheticError, Tensor, numbers};

/// Elements that are made before they are written. The one buffer of the whole process.
const PIECE: usize = 1 << 20;

/// Bytes between two flushes to the disk, so that a slow disk does not fill the memory with waiting pages.
const FLUSH: u64 = 256 << 20;

/// What is to be written.
#[derive(Debug)]
pub struct Folder<'a> {
    /// Where to; must not exist or be empty.
    pub output: &'a Path,
    /// Text of config.json.
    pub config: &'a str,
    /// Files to be copied under their names: the tokenizer's.
    pub copied: &'a [PathBuf],
    /// The weights, in the order of the files.
    pub tensors: &'a [Tensor],
    /// Which numbers.
    pub seed: u64,
    /// Longest file of weights, bytes of tensors. A tensor that is longer has a file of its own.
    pub shard_bytes: u64,
}

/// How far the writing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file that is being written.
    pub file: &'a str,
    /// Bytes of weights written so far, of all files.
    pub done_bytes: u64,
    /// Bytes of weights in all.
    pub total_bytes: u64,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Names of the files, the index last.
    pub files: Vec<String>,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Writes the folder. `progress` is called every few megabytes. On an error all that was written is removed again.
///
/// # Errors
/// An output that is not empty or that another process writes, a disk that is too small, a failed read or write.
pub fn write(folder: &Folder<'_>, progress: &dyn Fn(Progress<'_>)) -> Result<Written, SyntheticError> {
    let shards = shards(folder.tensors, folder.shard_bytes);
    let mut small = vec![("config.json".to_owned(), folder.config.as_bytes().to_vec())];
    for path in folder.copied {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        small.push((name, std::fs::read(path).map_err(SyntheticError::read(path))?));
    }
    // The index is what makes a folder a model: it comes last.
    let index = (INDEX.to_owned(), index(&shards).into_bytes());
    let small_bytes = |(_, bytes): &(String, Vec<u8>)| bytes.len() as u64;
    let weight_bytes: u64 = shards.iter().map(Shard::bytes).sum();
    let bytes = weight_bytes + small.iter().chain([&index]).map(small_bytes).sum::<u64>();
    let names: Vec<&str> = small
        .iter()
        .map(|(name, _)| name.as_str())
        .chain(shards.iter().map(|shard| shard.name.as_str()))
        .chain([INDEX])
        .collect();
    check_free(folder.output, &names)?;
    check_space(folder.output, bytes)?;
    let staging = Staging::begin(folder.output, &names)?;
    for (name, bytes) in small.iter().chain([&index]) {
        staging.write(name, bytes)?;
    }
    let mut writer =
        Writer { seed: folder.seed, buffer: vec![0; 2 * PIECE], done: 0, progress, weight_bytes };
    for shard in &shards {
        staging.create(&shard.name, |file| writer.write(shard, file))?;
    }
    staging.publish(&names)?;
    Ok(Written { files: names.into_iter().map(str::to_owned).collect(), bytes })
}

struct Writer<'a> {
    seed: u64,
    buffer: Vec<u8>,
    done: u64,
    progress: &'a dyn Fn(Progress<'_>),
    weight_bytes: u64,
}

impl Writer<'_> {
    fn write(&mut self, shard: &Shard<'_>, file: &mut File) -> io::Result<()> {
        file.write_all(&shard.prefix)?;
        self.advance(shard, shard.prefix.len() as u64, file)?;
        for tensor in &shard.tensors {
            let key = numbers::key(self.seed, &tensor.name);
            let mut first = 0;
            while first < tensor.numel() {
                let count = (tensor.numel() - first).min(PIECE as u64);
                let bytes = &mut self.buffer[..2 * count as usize];
                numbers::fill(tensor.fill, key, first, bytes);
                file.write_all(bytes)?;
                self.advance(shard, 2 * count, file)?;
                first += count;
            }
        }
        Ok(())
    }

    fn advance(&mut self, shard: &Shard<'_>, bytes: u64, file: &File) -> io::Result<()> {
        let before = self.done / FLUSH;
        self.done += bytes;
        if self.done / FLUSH != before {
            file.sync_data()?;
        }
        let (done_bytes, total_bytes) = (self.done, self.weight_bytes);
        (self.progress)(Progress { file: &shard.name, done_bytes, total_bytes });
        Ok(())
    }
}
