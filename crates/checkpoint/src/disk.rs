//! The file operations that durability is made of, as a seam: tests count, delay and fail them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Where bytes are written.
pub trait Disk: Send + Sync {
    /// Makes the file `path`, which must not be there, of `parts` one after the other.
    ///
    /// # Errors
    /// The system's.
    fn write(&self, path: &Path, parts: &[&[u8]]) -> std::io::Result<File>;

    /// Flushes a file to the disk.
    ///
    /// # Errors
    /// The system's.
    fn sync(&self, file: &File) -> std::io::Result<()>;

    /// Puts `from` in the place of `to`.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()>;

    /// Flushes a folder's list of names to the disk.
    ///
    /// # Errors
    /// The system's.
    fn sync_folder(&self, folder: &Path) -> std::io::Result<()>;
}

/// The system's own.
#[derive(Debug, Clone, Copy)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn write(&self, path: &Path, parts: &[&[u8]]) -> std::io::Result<File> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        Ok(file)
    }

    fn sync(&self, file: &File) -> std::io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> std::io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

/// Bytes that a user without privileges may still write where `folder` is or would be; none where the system does not
/// say.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|path| path.exists() && !path.as_os_str().is_empty());
    let facts = rustix::fs::statvfs(there.unwrap_or(Path::new("."))).ok()?;
    Some(facts.f_bavail.saturating_mul(facts.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_space_of_its_parent() {
        for folder in ["/no/such/folder", "no/such/folder"] {
            assert!(free_bytes(Path::new(folder)).is_some_and(|bytes| bytes > 0), "{folder}");
        }
    }
}
