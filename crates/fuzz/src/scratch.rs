//! Folders for parsers that read files.

use std::path::{Path, PathBuf};
use std::thread::LocalKey;

use tempfile::TempDir;

/// A folder of a thread's own, in which only one file changes from input to input.
pub(crate) struct Scratch {
    folder: TempDir,
    file: PathBuf,
}

impl Scratch {
    /// A new folder with the files that stay; `changing` is the name of the one that changes.
    pub(crate) fn new(changing: &str, others: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written to");
        for (name, bytes) in others {
            std::fs::write(folder.path().join(name), bytes).expect("the scratch folder can be written to");
        }
        let file = folder.path().join(changing);
        Self { folder, file }
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file that changes.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }
}

/// Calls `check` with the folder after `bytes` have become its changing file.
pub(crate) fn with_file<T>(
    scratch: &'static LocalKey<Scratch>,
    bytes: &[u8],
    check: impl FnOnce(&Scratch) -> T,
) -> T {
    scratch.with(|scratch| {
        std::fs::write(&scratch.file, bytes).expect("the scratch file can be written to");
        check(scratch)
    })
}
