//! One launcher a run.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::LaunchError;

/// The file that is locked. It dies with the process that holds it, whatever becomes of the file.
const LOCK_FILE: &str = ".launch.lock";

/// The output folder, held.
#[derive(Debug)]
pub struct OutputLock {
    folder: PathBuf,
    _file: File,
    /// The topmost folder that was made for it, if one was.
    made: Option<PathBuf>,
}

impl OutputLock {
    /// Takes the folder, which is made if it is not there.
    pub fn take(folder: &Path) -> Result<Self, LaunchError> {
        let unwritable = |source| LaunchError::Output { folder: folder.to_owned(), source };
        let missing = folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
        let made = missing.last().map(Path::to_owned);
        DirBuilder::new().recursive(true).mode(0o777).create(folder).map_err(unwritable)?;
        let path = folder.join(LOCK_FILE);
        loop {
            let file = File::options().create(true).append(true).open(&path).map_err(unwritable)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(LaunchError::OutputLocked { folder: folder.to_owned() });
                }
                Err(error) => return Err(unwritable(error.into())),
            }
            // The one before may have removed it between opening and locking.
            if is_still(&file, &path) {
                return Ok(Self { folder: folder.to_owned(), _file: file, made });
            }
        }
    }

    /// Gives the folder back. Where nothing came of the run, folders made for it go too, unless something is in them.
    pub fn give_back(self, nothing_came_of_it: bool) {
        // Before the lock is gone, so that nobody's but ours is removed.
        let _ = std::fs::remove_file(self.folder.join(LOCK_FILE));
        let Some(made) = self.made.filter(|_| nothing_came_of_it) else { return };
        for folder in self.folder.ancestors().take_while(|folder| folder.starts_with(&made)) {
            if std::fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

fn is_still(file: &File, path: &Path) -> bool {
    let inode = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    match (rustix::fs::fstat(file), rustix::fs::stat(path)) {
        (Ok(held), Ok(named)) => inode(held) == inode(named),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("a/b");
        let first = OutputLock::take(&folder).unwrap();
        assert!(matches!(OutputLock::take(&folder), Err(LaunchError::OutputLocked { .. })));
        first.give_back(true);
        assert!(!scratch.path().join("a").exists());
        let again = OutputLock::take(&folder).unwrap();
        std::fs::write(folder.join("run.json"), "{}").unwrap();
        again.give_back(true);
        assert!(folder.join("run.json").exists() && !folder.join(LOCK_FILE).exists());
    }

    #[test]
    fn a_file_is_no_folder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = OutputLock::take(&file.path().join("below")).unwrap_err();
        assert!(error.to_string().contains("below"), "{error}");
    }
}
