//! The output folder: which one is refused, and how it comes to be all at once.
//!
//! Everything is written to [`STAGING`] inside the output, so that the renames stay on one file system (an output that
//! is a mount point has no siblings there). While that folder is there the merge is not done; one that a killed
//! merge left is taken over by the next.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};

use crate::MergeError;

/// Where the files are until all of them are whole.
const STAGING: &str = ".gpart-merge.tmp";
const LOCK: &str = "lock";

/// `path` with every link and every `..` resolved, as far as it exists; the rest as it is written.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, MergeError> {
    let absolute = std::path::absolute(path).map_err(MergeError::read(path))?;
    let mut resolved = PathBuf::new();
    for component in absolute.components() {
        match component {
            // What was resolved so far has no links: its parent is the one that the system would find.
            Component::ParentDir => drop(resolved.pop()),
            Component::CurDir => {}
            other => resolved.push(other),
        }
        match resolved.canonicalize() {
            Ok(real) => resolved = real,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                let file = resolved.parent().unwrap_or(&resolved).to_owned();
                return Err(MergeError::OutputIsFile { output: path.to_owned(), file });
            }
            Err(error) => return Err(MergeError::read(resolved)(error)),
        }
    }
    Ok(resolved)
}

/// Refuses an output (resolved) that is an input's folder or lies in one.
pub(crate) fn check_apart(output: &Path, what: &'static str, input: &Path) -> Result<(), MergeError> {
    let input = resolve(input)?;
    if !output.starts_with(&input) {
        return Ok(());
    }
    let relation = if output == input { "the same folder as" } else { "inside" };
    Err(MergeError::OutputInInput { output: output.to_owned(), what, input, relation })
}

/// Refuses an output (resolved) that holds anything but what an unfinished merge of the files `names` left.
pub(crate) fn check_free(output: &Path, names: &[&str]) -> Result<(), MergeError> {
    let entries = match fs::read_dir(output) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(MergeError::OutputIsFile { output: output.to_owned(), file: output.to_owned() });
        }
        Err(error) => return Err(MergeError::read(output)(error)),
    };
    let unfinished = output.join(STAGING).is_dir();
    for entry in entries {
        let name = entry.map_err(MergeError::read(output))?.file_name();
        let ours = name == STAGING || names.iter().any(|ours| name == **ours);
        if !unfinished || !ours {
            let found = name.to_string_lossy().into_owned();
            return Err(MergeError::OutputNotEmpty { output: output.to_owned(), found });
        }
    }
    Ok(())
}

/// Bytes that can be written to `output` (resolved and checked): free ones, and those of an unfinished merge there.
pub(crate) fn free_bytes(output: &Path) -> Result<u64, MergeError> {
    let existing = output.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let system = rustix::fs::statvfs(existing).map_err(|e| MergeError::read(existing)(e.into()))?;
    let files = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let left = files(output).chain(files(&output.join(STAGING)));
    let held: u64 = left.filter_map(|entry| entry.metadata().ok()).map(|file| allocated(&file)).sum();
    Ok(system.f_bavail.saturating_mul(system.f_frsize).saturating_add(held))
}

fn allocated(file: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    /// The unit of `st_blocks`, whatever the file system's own blocks are.
    const STAT_BLOCK: u64 = 512;
    file.blocks() * STAT_BLOCK
}

/// Folders that were made; dropped without [`Made::keep`], those of them that are empty are removed.
#[derive(Debug)]
struct Made {
    /// Outermost first.
    folders: Vec<PathBuf>,
}

impl Made {
    fn make(folder: &Path) -> io::Result<Self> {
        let missing: Vec<&Path> = folder.ancestors().take_while(|path| !path.exists()).collect();
        let made = Self { folders: missing.into_iter().rev().map(Path::to_owned).collect() };
        fs::create_dir_all(folder).map(|()| made)
    }

    fn keep(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.folders)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for folder in self.folders.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// An output in the making. Dropped before [`Staging::publish`], it takes away all that it made.
#[derive(Debug)]
pub(crate) struct Staging {
    output: PathBuf,
    folder: PathBuf,
    published: Vec<PathBuf>,
    done: bool,
    /// Held until the end; goes with the process, however that ends.
    _lock: File,
    /// Dropped last, when the folders are empty again.
    made: Made,
}

impl Staging {
    /// Makes `output` (resolved), takes it for this process and clears what an unfinished merge left of the files
    /// `names`.
    pub(crate) fn begin(output: &Path, names: &[&str]) -> Result<Self, MergeError> {
        // Once more, as counting the partition took its time since the first look.
        check_free(output, names)?;
        let folder = output.join(STAGING);
        let made = Made::make(&folder).map_err(MergeError::write(&folder))?;
        let path = folder.join(LOCK);
        let lock = File::create(&path).map_err(MergeError::write(&path))?;
        if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(MergeError::OutputBusy { output: output.to_owned() });
        }
        // Where the file system has no locks, two merges into one folder are the user's to avoid.
        if !made.folders.is_empty() {
            // The staging folder is new, so whatever else is there came from a merge that has just ended.
            check_free(output, &[])?;
        }
        let (output, published) = (output.to_owned(), Vec::new());
        let staging = Self { output, folder, published, done: false, _lock: lock, made };
        staging.clear(names)?;
        Ok(staging)
    }

    /// Removes what an unfinished merge left; the file that makes a folder loadable, the last of `names`, first.
    fn clear(&self, names: &[&str]) -> Result<(), MergeError> {
        let placed = names.iter().rev().map(|name| self.output.join(name));
        let staged = fs::read_dir(&self.folder).map_err(MergeError::read(&self.folder))?;
        let staged = staged.flatten().filter(|entry| entry.file_name() != LOCK).map(|entry| entry.path());
        for path in placed.chain(staged) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(MergeError::write(path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A new file of `len` bytes, for writing at any position. Its space is taken at once where the file system can,
    /// so that a full disk is met before the work.
    pub(crate) fn create(&self, name: &str, len: u64) -> Result<File, MergeError> {
        let path = self.folder.join(name);
        let file = File::create_new(&path).map_err(MergeError::write(&path))?;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len.max(1)) {
            // Only this tells of a full disk; that a file system cannot do it is no obstacle.
            Err(error @ (rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT | rustix::io::Errno::FBIG)) => {
                return Err(MergeError::write(path)(error.into()));
            }
            _ => file.set_len(len).map_err(MergeError::write(path))?,
        }
        Ok(file)
    }

    /// Writes a small file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), MergeError> {
        let path = self.folder.join(name);
        let write = || -> io::Result<()> {
            let mut file = File::create_new(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(MergeError::write(path.clone()))
    }

    /// The path of a file that is being written, for errors.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Gives the files their places: whole and on the disk beforehand, the last one only after the others.
    pub(crate) fn publish(mut self, names: &[&str]) -> Result<(), MergeError> {
        sync_folder(&self.folder)?;
        for (number, name) in names.iter().enumerate() {
            if number + 1 == names.len() {
                sync_folder(&self.output)?;
            }
            let path = self.output.join(name);
            fs::rename(self.folder.join(name), &path).map_err(MergeError::write(&path))?;
            self.published.push(path);
        }
        sync_folder(&self.output)?;
        // The output is complete; a staging folder that stays would only have it made once more.
        self.done = true;
        let _ = fs::remove_dir_all(&self.folder);
        for parent in self.made.keep().iter().filter_map(|made| made.parent()) {
            let _ = sync_folder(parent);
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // Each of these may fail on a broken disk; the error that led here is the one to report.
        for path in self.published.iter().rev() {
            let _ = fs::remove_file(path);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Makes renames and new files in `folder` durable.
fn sync_folder(folder: &Path) -> Result<(), MergeError> {
    let sync = || File::open(folder)?.sync_all();
    sync().map_err(MergeError::write(folder))
}
