//! Replacing a file so that a reader, or a power cut, sees the old bytes or the new ones and nothing between.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::CheckpointError;
use crate::disk::{Disk, SystemDisk};

const LEFTOVER_PREFIX: &str = ".gpart-";
const LEFTOVER_SUFFIX: &str = ".tmp";

/// Writes `parts`, one after the other, to a temporary file beside `path`, flushes it to the disk, renames it to
/// `path` and flushes the folder. On an error the temporary file is removed and `path` is as it was.
///
/// # Errors
/// [`CheckpointError::Write`] with the system's reason.
pub fn write_atomic(path: &Path, parts: &[&[u8]]) -> Result<(), CheckpointError> {
    write_atomic_on(&SystemDisk, path, parts)
}

/// [`write_atomic`] on a disk of the caller's.
///
/// # Errors
/// As there.
pub fn write_atomic_on(disk: &dyn Disk, path: &Path, parts: &[&[u8]]) -> Result<(), CheckpointError> {
    replace(disk, path, parts).map_err(|source| CheckpointError::Write { path: path.to_owned(), source })
}

fn replace(disk: &dyn Disk, path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let (file, temporary) = write_temporary(disk, folder, parts)?;
    // Without this the rename could reach the disk before the bytes do, and a power cut would leave a torn file.
    let placed = disk.sync(&file).and_then(|()| disk.rename(&temporary, path));
    if placed.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    placed?;
    disk.sync_folder(folder)
}

/// A file of a name that nobody else has taken. One that could not be filled is removed.
fn write_temporary(disk: &dyn Disk, folder: &Path, parts: &[&[u8]]) -> std::io::Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let process = std::process::id();
    loop {
        // Two processes of one number on two hosts may share the folder: then the name is taken, and the next one tried.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{LEFTOVER_PREFIX}{process}-{number}{LEFTOVER_SUFFIX}"));
        match disk.write(&path, parts) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                return Err(error);
            }
        }
    }
}

/// Removes the temporary files that killed writers left in `folder`. Call it only where no one else writes.
pub fn remove_leftovers(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(LEFTOVER_PREFIX) && name.ends_with(LEFTOVER_SUFFIX) {
            // One that cannot be removed costs space, nothing else.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
