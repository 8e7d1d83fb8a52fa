//! What an evaluation has finished so far: a folder beside the file of results, with a file of lines for each rank.
//!
//! A line that a kill has torn is not a line: its problem is answered again. Lines are not flushed to the disk one by one,
//! since a process that is killed loses nothing that it has written, and a host that dies loses some seconds.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::{EvalError, Finish};

/// A finished problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// The problem's number in the dataset, from 0.
    pub index: usize,
    /// The text, without what ended it.
    pub completion: String,
    /// Tokens generated.
    pub new_tokens: usize,
    /// Why it ended.
    pub finish: Finish,
}

/// The folder, on the rank that holds it open.
pub(crate) struct Journal {
    folder: PathBuf,
    file: File,
    path: PathBuf,
}

/// The folder of an evaluation in progress.
pub(crate) fn folder_of(output: &Path) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    output.with_file_name(name)
}

fn refused<'p>(verb: &'static str, path: &'p Path) -> impl Fn(std::io::Error) -> EvalError + 'p {
    move |source| EvalError::File { verb, path: path.to_owned(), source }
}

/// Makes the folder, or checks that it is of the same evaluation. For one rank of a disk, before the others open it.
pub(crate) fn prepare(output: &Path, identity: &Identity) -> Result<(), EvalError> {
    let folder = folder_of(output);
    std::fs::create_dir_all(&folder).map_err(refused("make", &folder))?;
    let path = folder.join("identity.json");
    match std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Identity>(&bytes).ok()) {
        Some(earlier) => match earlier.changes(identity) {
            None => Ok(()),
            Some(changes) => Err(EvalError::OtherEvaluation { path: folder, changes }),
        },
        None => {
            // Lines without a sound identity may be anybody's.
            for file in files(&folder) {
                std::fs::remove_file(&file).map_err(refused("remove", &file))?;
            }
            let bytes = serde_json::to_vec_pretty(identity).unwrap_or_default();
            Ok(checkpoint::write_atomic(&path, &[&bytes])?)
        }
    }
}

/// Files of lines in the folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    files.sort();
    files
}

/// The finished problems that this host knows of, by number.
pub(crate) fn finished(output: &Path) -> Result<BTreeMap<usize, Line>, EvalError> {
    let mut all = BTreeMap::new();
    for path in files(&folder_of(output)) {
        let bytes = std::fs::read(&path).map_err(refused("read", &path))?;
        let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        all.extend(lines.map(|line: Line| (line.index, line)));
    }
    Ok(all)
}

impl Journal {
    /// Opens this rank's file.
    pub(crate) fn open(output: &Path, rank: usize) -> Result<Self, EvalError> {
        let folder = folder_of(output);
        let path = folder.join(format!("rank-{rank:03}.jsonl"));
        let file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(refused("open", &path))?;
        let mut journal = Self { folder, file, path };
        // Ends a line that a kill has torn.
        journal.write(b"\n")?;
        Ok(journal)
    }

    /// Adds a finished problem.
    pub(crate) fn add(&mut self, line: &Line) -> Result<(), EvalError> {
        let mut bytes = serde_json::to_vec(line).unwrap_or_default();
        bytes.push(b'\n');
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), EvalError> {
        self.file.write_all(bytes).map_err(refused("write", &self.path))
    }

    /// Removes the folder, once the results are on disk. What cannot be removed costs space, nothing else.
    pub(crate) fn remove(self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Keeps a second evaluation out of the same file, until it is dropped.
pub(crate) fn lock(output: &Path) -> Result<File, EvalError> {
    let path = folder_of(output).join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(refused("open", &path))?;
    match file.try_lock() {
        Err(std::fs::TryLockError::WouldBlock) => Err(EvalError::Locked { path: output.to_owned() }),
        // A file system without locks keeps nobody out, and must not keep this one out either.
        _ => Ok(file),
    }
}
