//! One process a host downloads, the others wait. The lock is the system's, so it dies with its holder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::cache::{cache_error, make_folder_of};
use crate::{Event, HubError};

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`, looking every `poll` whether it is free. Says once that it waits.
    ///
    /// # Errors
    /// [`HubError::Cache`] where the file cannot be made, [`HubError::Lock`] where its file system has no locks.
    pub(crate) fn take(
        path: &Path,
        poll: Duration,
        notify: &mut dyn FnMut(Event<'_>),
    ) -> Result<Self, HubError> {
        make_folder_of(path)?;
        let mut has_told = false;
        loop {
            let open = OpenOptions::new().create(true).truncate(false).write(true).open(path);
            let file = open.map_err(|e| cache_error("write", path, e))?;
            match file.try_lock() {
                Ok(()) if is_still_at(&file, path) => return Ok(Self { _file: file }),
                // Whoever held it removed the file, and the next one locks a new one: so must we.
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(TryLockError::Error(source)) => {
                    return Err(HubError::Lock { path: path.to_owned(), source });
                }
            }
            if !has_told {
                notify(Event::Waiting { lock: path });
                has_told = true;
            }
            std::thread::sleep(poll);
        }
    }
}

/// Whether a path still leads to the file that was opened there.
fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(theirs)) => (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_lock_whose_file_was_removed_is_taken_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks/x.lock");
        let poll = Duration::from_millis(1);
        let first = Lock::take(&path, poll, &mut |_| {}).unwrap();
        let mut waited = 0;
        let second = std::thread::scope(|scope| {
            let second = scope.spawn(|| Lock::take(&path, poll, &mut |_| waited += 1).unwrap());
            std::thread::sleep(Duration::from_millis(50));
            std::fs::remove_file(&path).unwrap();
            // Until the first is dropped the removed file is locked; the second finds the new one free.
            second.join().unwrap()
        });
        assert_eq!(waited, 1);
        drop((first, second));
    }
}
