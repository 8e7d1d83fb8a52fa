//! The output folder: which one is refused, and how it comes to be all at once.
//!
//! Files are written to [`STAGING`] inside the output and renamed when all are whole. One that a killed process left
//! is taken over by the next.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::SyntheticError;

const STAGING: &str = ".gpart-random-model.tmp";
const LOCK: &str = "lock";

/// Refuses an output that holds anything but what an unfinished run that writes the files `names` left.
pub(crate) fn check_free(output: &Path, names: &[&str]) -> Result<(), SyntheticError> {
    let entries = match fs::read_dir(output) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(SyntheticError::OutputIsFile { output: output.to_owned() });
        }
        Err(error) => return Err(SyntheticError::read(output)(error)),
    };
    let unfinished = output.join(STAGING).is_dir();
    for entry in entries {
        let name = entry.map_err(SyntheticError::read(output))?.file_name();
        let ours = name == STAGING || names.iter().any(|ours| name == **ours);
        if !unfinished || !ours {
            let found = name.to_string_lossy().into_owned();
            return Err(SyntheticError::OutputNotEmpty { output: output.to_owned(), found });
        }
    }
    Ok(())
}

/// Refuses an output whose disk has not `needed` bytes: free ones, and those of an unfinished run there.
pub(crate) fn check_space(output: &Path, needed: u64) -> Result<(), SyntheticError> {
    use std::os::unix::fs::MetadataExt;
    /// The unit of `st_blocks`, whatever the file system's own blocks are.
    const STAT_BLOCK: u64 = 512;
    let absolute = std::path::absolute(output).map_err(SyntheticError::read(output))?;
    let existing = absolute.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let system = rustix::fs::statvfs(existing).map_err(|e| SyntheticError::read(existing)(e.into()))?;
    let files = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let left = files(output).chain(files(&output.join(STAGING))).filter_map(|entry| entry.metadata().ok());
    let held: u64 = left.map(|file| file.blocks() * STAT_BLOCK).sum();
    let free = system.f_bavail.saturating_mul(system.f_frsize).saturating_add(held);
    match needed <= free {
        true => Ok(()),
        false => Err(SyntheticError::NoSpace { output: output.to_owned(), needed, free }),
    }
}

/// An output in the making. Dropped before [`Staging::publish`], it takes away all that it made.
pub(crate) struct Staging {
    output: PathBuf,
    folder: PathBuf,
    published: Vec<PathBuf>,
    /// Folders that were not there, innermost first.
    made: Vec<PathBuf>,
    done: bool,
    /// Held until the end; goes with the process, however that ends.
    _lock: File,
}

impl Staging {
    /// Makes `output`, takes it for this process and clears what an unfinished run left of the files `names`.
    pub(crate) fn begin(output: &Path, names: &[&str]) -> Result<Self, SyntheticError> {
        let folder = output.join(STAGING);
        let made: Vec<PathBuf> =
            folder.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
        if let Err(error) = fs::create_dir_all(&folder) {
            remove_folders(&made);
            return Err(match error.kind() {
                ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                    SyntheticError::OutputIsFile { output: output.to_owned() }
                }
                _ => SyntheticError::write(&folder)(error),
            });
        }
        let lock = Self::lock(output, &folder).inspect_err(|_| remove_folders(&made))?;
        let staging =
            Self { output: output.to_owned(), folder, published: Vec::new(), made, done: false, _lock: lock };
        for name in names {
            for path in [staging.output.join(name), staging.folder.join(name)] {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(SyntheticError::write(path)(error));
                    }
                    _ => {}
                }
            }
        }
        Ok(staging)
    }

    fn lock(output: &Path, folder: &Path) -> Result<File, SyntheticError> {
        let path = folder.join(LOCK);
        let lock = File::create(&path).map_err(SyntheticError::write(&path))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => Err(SyntheticError::OutputBusy { output: output.to_owned() }),
            // A file system without locks does not keep anybody from writing.
            Err(TryLockError::Error(_)) | Ok(()) => Ok(lock),
        }
    }

    /// Writes a file piece by piece: `content` is handed the file. It is on the disk when this returns.
    pub(crate) fn create(
        &self,
        name: &str,
        content: impl FnOnce(&mut File) -> std::io::Result<()>,
    ) -> Result<(), SyntheticError> {
        let path = self.folder.join(name);
        let write = || {
            let mut file = File::create_new(&path)?;
            content(&mut file)?;
            file.sync_all()
        };
        write().map_err(SyntheticError::write(&path))
    }

    /// Writes a small file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), SyntheticError> {
        self.create(name, |file| file.write_all(bytes))
    }

    /// Gives the files their places, the last one only after the others.
    pub(crate) fn publish(mut self, names: &[&str]) -> Result<(), SyntheticError> {
        for (number, name) in names.iter().enumerate() {
            if number + 1 == names.len() {
                sync_folder(&self.output)?;
            }
            let path = self.output.join(name);
            fs::rename(self.folder.join(name), &path).map_err(SyntheticError::write(&path))?;
            self.published.push(path);
        }
        self.done = true;
        let _ = fs::remove_dir_all(&self.folder);
        sync_folder(&self.output)
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
        remove_folders(&self.made);
    }
}

fn remove_folders(folders: &[PathBuf]) {
    for folder in folders {
        let _ = fs::remove_dir(folder);
    }
}

/// Makes renames and new files in `folder` durable.
fn sync_folder(folder: &Path) -> Result<(), SyntheticError> {
    let sync = || File::open(folder)?.sync_all();
    sync().map_err(SyntheticError::write(folder))
}
